//! STATUS: would an ADD succeed now?

use shared::attachment::Readiness;

use crate::call::Call;
use crate::delegate::Subject;
use crate::environment::{Environment, Verb};
use crate::error::Error;
use crate::netconf::Envelope;

/// Asks the engine, then the IPAM plugin; silent when ready.
pub(crate) fn run(environment: &Environment, envelope: Envelope) -> Result<(), Error> {
    let call = Call::read(environment, envelope)?;
    ready(&call).map_err(|error| Error::NotReady(Box::new(error)))
}

fn ready(call: &Call<'_>) -> Result<(), Error> {
    let bridge = call.place.bridge.clone();
    let subnets = call.place.subnets().to_vec();
    call.engine.ready(&Readiness { bridge, subnets })?;
    if let Some(delegate) = call.delegate()? {
        let subject = Subject { container: "", ifname: "", netns: "", args: "" };
        delegate.ask(Verb::Status, &call.envelope.raw, subject)?;
    }
    Ok(())
}
