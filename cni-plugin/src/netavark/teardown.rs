//! teardown: unplugs. Needs neither the namespace nor a valid network; done twice, it succeeds
//! twice.

use serde_json::{Map, Value};
use shared::attachment::Engine;

use super::error::Error;
use super::setup;

/// Unplugs; of the input only the key is looked at.
pub(super) fn run(input: &Map<String, Value>) -> Result<(), Error> {
    let key = setup::key(input)?;
    Engine::new(super::config()?).detach(&key)?;
    Ok(())
}
