//! ADD: plug in. Asked again, it answers the same.

use serde_json::{Map, Value};
use shared::attachment::Record;
use shared::network::Network;
use shared::network::gateway::Networks;
use shared::publish::Holder;

use crate::call::{Call, guard_netns};
use crate::delegate::{Delegate, Subject};
use crate::environment::{Environment, Verb};
use crate::error::Error;
use crate::fields::lookup;
use crate::memo::{Delegated, Memo};
use crate::netconf::Envelope;
use crate::result::{self, Handed};
use crate::{del, network, request};

/// The runtime that binds published ports itself, as its process is named.
const PODMAN: &str = "podman";

/// Plugs in; returns the result document.
pub(crate) fn run(environment: &Environment, envelope: Envelope) -> Result<Value, Error> {
    let call = Call::read(environment, envelope)?;
    guard_netns(environment)?;
    let record = match call.delegate()? {
        None => attach(&call, &memo(&call, None, Map::new()))?,
        Some(delegate) => delegated(&call, &delegate)?,
    };
    publish(&call, &record)?;
    let dns = Memo::of(Some(&record)).dns;
    let previous = lookup(&call.envelope.raw, "prevResult").and_then(Value::as_object);
    Ok(result::render(call.conf.version, &record, call.sandbox(), &dns, previous))
}

/// Publishes the ports; an attachment whose ports cannot be is none.
fn publish(call: &Call<'_>, record: &Record) -> Result<(), Error> {
    let holder = if record.caller == PODMAN { Holder::Runtime } else { Holder::Agent };
    let published = call.engine.publish_held(&record.key, &call.conf.ports, holder);
    let Err(cause) = published else { return Ok(()) };
    match del::detach(&call.engine, &record.key, call.environment, None) {
        Ok(()) => Err(cause.into()),
        Err(left) => {
            Err(Error::NotReleased { cause: Box::new(cause.into()), left: Box::new(left) })
        }
    }
}

fn attach(call: &Call<'_>, memo: &Memo) -> Result<Record, Error> {
    Ok(call.engine.attach(&request::build(call, memo.to_value())?)?)
}

/// The configuration's `dns` outranks that of the IPAM plugin.
fn memo(call: &Call<'_>, delegate: Option<Delegated>, dns: Map<String, Value>) -> Memo {
    let own = &call.conf.dns;
    let dns = if own.is_empty() { dns } else { own.clone() };
    Memo { delegate, dns }
}

/// ADD with an IPAM plugin. It is asked once the interface is there, since dhcp asks through it,
/// and is noted in the record before: whatever happens, DEL and GC know whom to give back to.
fn delegated(call: &Call<'_>, delegate: &Delegate<'_>) -> Result<Record, Error> {
    let networks =
        Networks::new(call.engine.config()).all().map_err(|error| Error::Engine(error.into()))?;
    if let Some(ipam) = lookup(&call.envelope.raw, "ipam").and_then(Value::as_object) {
        network::refuse_overlap(&network::ipam_spans(ipam), &networks)?;
    }
    let key = call.key()?;
    let _lock = del::lock(&call.engine, &key)?;
    let subject = Subject::of(call.environment);
    let mut config = call.envelope.raw.clone();
    config.retain(|name, _| !name.eq_ignore_ascii_case("prevResult"));
    let kind = call.envelope.ipam_type().unwrap_or_default().to_owned();
    let noted =
        |config: &Map<String, Value>| Some(Delegated { kind: kind.clone(), stdin: config.clone() });

    let before = Memo::of(call.engine.record(&key)?.as_ref());
    let record = attach(call, &memo(call, noted(&config), Map::new()))?;
    if record.complete {
        return Ok(record);
    }
    let abandon = |cause: Error| match call.engine.abandon(&key) {
        Ok(()) => cause,
        Err(left) => Error::NotReleased { cause: Box::new(cause), left: Box::new(left.into()) },
    };
    // A crash, or a restart without DEL, left addresses of the attachment that was here before.
    if let Some(old) = before.delegate
        && let Err(error) = del::release(&old, call.environment, subject)
    {
        return Err(abandon(error));
    }
    let answer = match delegate.add(&mut config, subject) {
        Ok(answer) => answer,
        Err(error) => return Err(abandon(error.into())),
    };
    let finished = usable(call, &answer, &networks).and_then(|handed| {
        let gateways: Vec<_> =
            handed.addresses.iter().filter_map(|address| address.gateway).collect();
        let routes = request::routes(&call.conf.routes, &handed.routes, &gateways);
        let memo = memo(call, noted(&config), handed.dns);
        Ok(call.engine.finish(record, handed.addresses, routes, memo.to_value())?)
    });
    finished.map_err(|cause| match abandon(cause) {
        // What is still plugged in keeps its address: a leak beats a duplicate. DEL does the rest.
        error @ Error::NotReleased { .. } => error,
        cause => match delegate.ask(Verb::Del, &config, subject) {
            Ok(()) => cause,
            Err(left) => Error::NotReleased { cause: Box::new(cause), left: Box::new(left.into()) },
        },
    })
}

/// What an IPAM plugin gave, unless it is nothing or belongs to a pool of ours.
fn usable(
    call: &Call<'_>,
    answer: &Map<String, Value>,
    networks: &[Network],
) -> Result<Handed, Error> {
    let handed = result::read_ipam(answer)?;
    if handed.addresses.is_empty() {
        let kind = call.envelope.ipam_type().unwrap_or_default().to_owned();
        return Err(Error::NoAddress { kind });
    }
    let ips = handed.addresses.iter().map(|address| address.address.addr());
    let spans: Vec<_> = ips.map(|ip| (ip, ip)).collect();
    network::refuse_overlap(&spans, networks)?;
    Ok(handed)
}
