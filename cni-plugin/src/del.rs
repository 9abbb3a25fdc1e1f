//! DEL: unplug. Needs no namespace and no valid configuration; done twice, it succeeds twice.

use shared::attachment::{Engine, Key, Record};
use shared::error::chain;
use shared::lock::Lock;
use shared::ovsdb::Endpoint;

use crate::call;
use crate::delegate::{Delegate, Subject};
use crate::environment::{Environment, Verb};
use crate::error::Error;
use crate::fields::lookup;
use crate::memo::{Delegated, Memo};
use crate::netconf::Envelope;

/// Unplugs. Of the configuration only the name is needed: the record knows the rest, and where
/// there is none, what can be read of `ipam` and `socket_file` is used.
pub(crate) fn run(environment: &Environment, mut envelope: Envelope) -> Result<(), Error> {
    let key = call::key(environment, envelope.name()?)?;
    if let Err(error) = envelope.merge_flat_file() {
        tracing::warn!("the flat file is left out: {}", chain(&error));
    }
    let named = lookup(&envelope.raw, "socket_file")
        .and_then(|text| text.as_str()?.parse::<Endpoint>().ok());
    let fallback = envelope
        .ipam_type()
        .map(|kind| Delegated { kind: kind.to_owned(), stdin: envelope.raw.clone() });
    let mut engine = call::engine(None)?;
    let before = record(&engine, &key);
    let memo = Memo::of(before.as_ref());
    if let Some(ovsdb) = before.and_then(|record| record.ovsdb).or(named) {
        engine = call::engine(Some(ovsdb))?;
    }
    let lock = match memo.delegate.is_some() || fallback.is_some() {
        true => Some(lock(&engine, &key)?),
        false => None,
    };
    let done = detach(&engine, &key, environment, fallback.as_ref());
    drop(lock);
    done
}

/// Keeps ADD and DEL of one attachment apart while an IPAM plugin is at work for it.
pub(crate) fn lock(engine: &Engine, key: &Key) -> Result<Lock, Error> {
    let state = engine.state();
    state.prepare().map_err(|error| Error::Engine(error.into()))?;
    state.lock(&format!("cni {key}")).map_err(|error| Error::Engine(error.into()))
}

/// Unplugs, then gives the addresses back to the IPAM plugin of the record, else to `fallback`.
pub(crate) fn detach(
    engine: &Engine,
    key: &Key,
    environment: &Environment,
    fallback: Option<&Delegated>,
) -> Result<(), Error> {
    let before = record(engine, key);
    let record = engine.detach(key)?.or(before);
    let memo = Memo::of(record.as_ref());
    match memo.delegate.as_ref().or(fallback) {
        Some(delegated) => release(delegated, environment, Subject::of(environment)),
        None => Ok(()),
    }
}

/// Gives the addresses of `subject` back, with the configuration they were asked with.
pub(crate) fn release(
    delegated: &Delegated,
    environment: &Environment,
    subject: Subject<'_>,
) -> Result<(), Error> {
    let own = call::own_type(&delegated.stdin);
    let delegate = Delegate::find(&delegated.kind, own, environment)?;
    Ok(delegate.ask(Verb::Del, &delegated.stdin, subject)?)
}

/// The record; one that cannot be read says nothing.
fn record(engine: &Engine, key: &Key) -> Option<Record> {
    engine.record(key).unwrap_or_else(|error| {
        tracing::warn!("the record of {key} is left out: {}", chain(&error));
        None
    })
}
