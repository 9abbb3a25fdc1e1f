//! ADD: plug in. Asked again, it answers the same.

use serde_json::{Map, Value};
use shared::attachment::{Addressing, Key, Record};
use shared::netns::Netns;
use shared::network::gateway::Networks;

use crate::call::{Call, guard_netns};
use crate::delegate::{Delegate, Subject};
use crate::environment::{Environment, Verb};
use crate::error::Error;
use crate::fields::lookup;
use crate::memo::{Delegated, Memo};
use crate::netconf::Envelope;
use crate::result::{self, Handed};
use crate::{del, network, request};

/// Plugs in; returns the result document.
pub(crate) fn run(environment: &Environment, envelope: Envelope) -> Result<Value, Error> {
    let call = Call::read(environment, envelope)?;
    let netns = guard_netns(environment)?;
    let (record, memo) = match call.delegate()? {
        None => {
            let addressing = request::addressing(&call.conf, &call.args, &call.place, None)?;
            let memo = memo(&call, None, Map::new());
            (attach(&call, call.key()?, addressing, &[], &memo)?, memo)
        }
        Some(delegate) => delegated(&call, &delegate, &netns)?,
    };
    let previous = lookup(&call.envelope.raw, "prevResult").and_then(Value::as_object);
    Ok(result::render(call.conf.version, &record, call.sandbox(), &memo.dns, previous))
}

fn attach(
    call: &Call<'_>,
    key: Key,
    addressing: Addressing,
    routes: &[shared::link::Route],
    memo: &Memo,
) -> Result<Record, Error> {
    let note = serde_json::to_value(memo).unwrap_or_default();
    let request = request::build(
        &call.conf,
        &call.args,
        call.environment,
        key,
        &call.place,
        addressing,
        routes,
        note,
    );
    Ok(call.engine.attach(&request)?)
}

/// The configuration's `dns` outranks that of the IPAM plugin.
fn memo(call: &Call<'_>, delegate: Option<Delegated>, dns: Map<String, Value>) -> Memo {
    let own = &call.conf.dns;
    let dns = if own.is_empty() { dns } else { own.clone() };
    Memo { delegate, dns, ovsdb: call.conf.compat.ovsdb.clone() }
}

/// ADD with an IPAM plugin: it gives the addresses first, and gets them back if the rest fails.
fn delegated(
    call: &Call<'_>,
    delegate: &Delegate<'_>,
    netns: &Netns,
) -> Result<(Record, Memo), Error> {
    let key = call.key()?;
    let networks =
        Networks::new(call.engine.config()).all().map_err(|error| Error::Engine(error.into()))?;
    let ipam = lookup(&call.envelope.raw, "ipam").and_then(Value::as_object);
    if let Some(ipam) = ipam {
        network::refuse_overlap(&network::ipam_spans(ipam), &networks)?;
    }
    let _lock = del::lock(&call.engine, &key)?;
    let subject = Subject::of(call.environment);
    if let Some(record) = call.engine.record(&key)? {
        let memo = Memo::of(Some(&record));
        if record.complete && record.netns_id == netns.id() && memo.delegate.is_some() {
            let addressing = Addressing::Given { addresses: record.addresses.clone() };
            let record = attach(call, key, addressing, &record.routes, &memo)?;
            return Ok((record, memo));
        }
        // A crash, or a restart without DEL: start from nothing.
        del::detach(&call.engine, &key, call.environment, None)?;
    }
    let mut config = call.envelope.raw.clone();
    let answer = delegate.add(&mut config, subject)?;
    let give_back = |cause: Error| match delegate.ask(Verb::Del, &config, subject) {
        Ok(()) => cause,
        Err(left) => Error::NotReleased { cause: Box::new(cause), left: Box::new(left.into()) },
    };
    let handed = match usable(call, &answer, &networks) {
        Ok(handed) => handed,
        Err(error) => return Err(give_back(error)),
    };
    let mut kept = config.clone();
    kept.retain(|name, _| !name.eq_ignore_ascii_case("prevResult"));
    let kind = call.envelope.ipam_type().unwrap_or_default().to_owned();
    let memo = memo(call, Some(Delegated { kind, stdin: kept }), handed.dns.clone());
    let addressing = Addressing::Given { addresses: handed.addresses };
    match attach(call, key.clone(), addressing, &handed.routes, &memo) {
        Ok(record) => Ok((record, memo)),
        // What is still plugged in keeps its address: a leak beats a duplicate. DEL does the rest.
        Err(error) if !matches!(call.engine.record(&key), Ok(None)) => Err(error),
        Err(error) => Err(give_back(error)),
    }
}

/// What an IPAM plugin gave, unless it is nothing or belongs to a pool of ours.
fn usable(
    call: &Call<'_>,
    answer: &Map<String, Value>,
    networks: &[shared::network::Network],
) -> Result<Handed, Error> {
    let handed = result::read_ipam(answer)?;
    if handed.addresses.is_empty() {
        let kind = call.envelope.ipam_type().unwrap_or_default().to_owned();
        return Err(Error::NoAddress { kind });
    }
    let spans: Vec<_> = handed
        .addresses
        .iter()
        .map(|address| (address.address.addr(), address.address.addr()))
        .collect();
    network::refuse_overlap(&spans, networks)?;
    Ok(handed)
}
