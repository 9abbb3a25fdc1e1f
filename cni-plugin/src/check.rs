//! CHECK: is it as ADD made it, and does it pass frames?

use serde_json::Value;
use shared::attachment::CheckRequest;

use crate::call::{Call, guard_netns};
use crate::delegate::Subject;
use crate::environment::{Environment, Verb};
use crate::error::Error;
use crate::fields::lookup;
use crate::netconf::Envelope;
use crate::result::{Previous, read_previous};

/// Checks; silent when all is well.
pub(crate) fn run(environment: &Environment, envelope: Envelope) -> Result<(), Error> {
    let call = Call::read(environment, envelope)?;
    guard_netns(environment)?;
    let previous = lookup(&call.envelope.raw, "prevResult").and_then(Value::as_object);
    let previous = previous.ok_or(Error::NoPrevious)?;
    let key = call.key()?;
    let Previous { mac, addresses, routes } =
        read_previous(previous, key.ifname.as_str(), call.sandbox())?;
    let netns = environment.netns_path().unwrap_or_default();
    call.engine.check(&CheckRequest { key, netns, mac, addresses, routes })?;
    if let Some(delegate) = call.delegate()? {
        delegate.ask(Verb::Check, &call.envelope.raw, Subject::of(environment))?;
    }
    Ok(())
}
