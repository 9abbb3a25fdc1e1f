//! GC: remove what the runtime no longer knows.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use shared::attachment::{GcRequest, Runtime};
use shared::error::{chain, sentence};
use shared::name::IfName;

use crate::call;
use crate::del::release;
use crate::delegate::{Delegate, Subject};
use crate::environment::{Environment, Verb, caller};
use crate::error::Error;
use crate::fields::{self, Fields};
use crate::memo::Memo;
use crate::netconf::Envelope;

/// The keys under which libcni sends the list; it sends it twice.
const LISTS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// Collects; goes on past errors and reports them all.
pub(crate) fn run(environment: &Environment, mut envelope: Envelope) -> Result<(), Error> {
    call::gate(Verb::Gc, &envelope)?;
    let network = envelope.name()?.to_owned();
    // Judged before anything else: a list that cannot be read must never count as a short one.
    let Some(valid) = valid(&envelope.raw)? else {
        tracing::warn!("GC without {}: nothing is collected", LISTS[0]);
        return Ok(());
    };
    envelope.merge_flat_file()?;
    let named = fields::lookup(&envelope.raw, "socket_file");
    let engine = call::engine(named.and_then(|text| text.as_str()?.parse().ok()))?;
    // Whose list it is: a guess would remove what it has no right to, or keep what it gave up.
    let caller = caller().map_err(Error::Caller)?.ok_or(Error::Nameless)?;
    let request = GcRequest { runtime: Runtime::Cni, caller, network, valid };
    let collected = engine.collect(&request)?;
    let mut failed = collected.failed;
    for (key, why) in collected.kept {
        tracing::warn!("{key} is kept: {why}");
    }
    for (key, record) in &collected.removed {
        let memo = Memo::of(record.as_ref());
        let (Some(delegated), Some(record)) = (&memo.delegate, record) else { continue };
        let netns = record.netns.display().to_string();
        let subject = Subject {
            container: &key.container,
            ifname: key.ifname.as_str(),
            netns: &netns,
            args: "",
        };
        if let Err(error) = release(delegated, environment, subject) {
            failed.push(format!("{key}: {}", chain(&error)));
        }
    }
    if let Some(kind) = envelope.ipam_type() {
        let own = call::own_type(&envelope.raw);
        let subject = Subject { container: "", ifname: "", netns: "", args: "" };
        let asked = Delegate::find(kind, own, environment)
            .and_then(|delegate| delegate.ask(Verb::Gc, &envelope.raw, subject));
        if let Err(error) = asked {
            failed.push(sentence(&error));
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Error::Collect { failed }) }
}

/// The attachments that live: `None` if the runtime says nothing of them (`cnitool gc`), none if it
/// says `null` (CRI-O for a network without pods). Where both lists come, either saves.
pub(crate) fn valid(
    config: &Map<String, Value>,
) -> Result<Option<BTreeSet<(String, IfName)>>, fields::Error> {
    let present = |key: &&str| config.keys().any(|name| name.eq_ignore_ascii_case(key));
    if !LISTS.iter().any(present) {
        return Ok(None);
    }
    let mut valid = BTreeSet::new();
    let mut fields = Fields::new("", config);
    for key in LISTS {
        for (index, item) in fields.list(key)?.iter().enumerate() {
            let mut entry = Fields::of(format!("{key}[{index}]"), item)?;
            let missing = |entry: &Fields<'_>, key| fields::Error::Missing {
                field: entry.path(key),
                expected: "an attachment with containerID and ifname",
            };
            let id = entry.text("containerID")?;
            let id = id.ok_or_else(|| missing(&entry, "containerID"))?.to_owned();
            let ifname = entry.text("ifname")?;
            let ifname = ifname.ok_or_else(|| missing(&entry, "ifname"))?;
            // A name that we refuse at ADD belongs to no attachment of ours.
            if let Ok(ifname) = ifname.parse() {
                valid.insert((id, ifname));
            }
        }
    }
    Ok(Some(valid))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: &Value) -> Result<Option<BTreeSet<(String, IfName)>>, fields::Error> {
        valid(value.as_object().unwrap())
    }

    #[test]
    fn absent_null_and_empty_lists_are_told_apart() {
        assert_eq!(read(&json!({"name": "n"})), Ok(None));
        assert_eq!(read(&json!({"cni.dev/valid-attachments": null})), Ok(Some(BTreeSet::new())));
        assert_eq!(read(&json!({"cni.dev/attachments": []})), Ok(Some(BTreeSet::new())));
    }

    #[test]
    fn either_list_saves_and_keys_match_in_any_case() {
        let both = json!({
            "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}],
            "cni.dev/attachments": [{"ContainerID": "b", "IfName": "eth0"}],
        });
        let valid = read(&both).unwrap().unwrap();
        let ids: Vec<_> = valid.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(ids, ["a", "b"]);
    }

    #[test]
    fn a_list_that_cannot_be_read_is_an_error_and_no_short_list() {
        for bad in [
            json!({"cni.dev/valid-attachments": "all"}),
            json!({"cni.dev/valid-attachments": ["a"]}),
            json!({"cni.dev/valid-attachments": [{"containerID": "a"}]}),
            json!({"cni.dev/valid-attachments": [{"ifname": "eth0"}]}),
        ] {
            assert!(read(&bad).is_err(), "{bad}");
        }
    }
}
