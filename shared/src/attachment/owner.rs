//! Whose a port is: the keys we write into `external_ids`, and how ours are found by them.

use std::collections::BTreeMap;

use super::record::{Adopted, Key, Labels, Runtime};
use crate::mac::Mac;
use crate::name::IfName;
use crate::network::OWNER;
use crate::ovsdb::Port;

const NETWORK: &str = "ovs-agent-network";
const CONTAINER: &str = "ovs-agent-container";
const IFNAME: &str = "ovs-agent-ifname";
const RUNTIME: &str = "ovs-agent-runtime";
const CALLER: &str = "ovs-agent-caller";
const ADOPTED: &str = "ovs-agent-adopted";
const BOOT: &str = "ovs-agent-boot";

/// The prefix of keys a user cannot set.
pub const RESERVED_PREFIX: &str = "ovs-agent";

/// What is written on a new port. `container_id` and `container_iface` are the keys of ovs-docker,
/// `attached-mac` that of the Open vSwitch integration guide: tools read them.
pub(super) fn external_ids(
    key: &Key,
    runtime: Runtime,
    caller: &str,
    boot_id: &str,
    labels: &Labels,
    mac: Mac,
) -> BTreeMap<String, String> {
    let mut ids = identity(key);
    ids.insert(RUNTIME.to_owned(), runtime.as_str().to_owned());
    ids.insert(CALLER.to_owned(), caller.to_owned());
    ids.insert(BOOT.to_owned(), boot_id.to_owned());
    ids.insert("container_id".to_owned(), key.container.clone());
    ids.insert("container_iface".to_owned(), key.ifname.to_string());
    ids.insert("attached-mac".to_owned(), mac.to_string());
    if let Some(name) = &labels.name {
        ids.insert("container_name".to_owned(), name.clone());
    }
    ids
}

/// What else is written on an interface that somebody else made: the name it had.
pub(super) fn adopted(adopted: &Adopted) -> (String, String) {
    (ADOPTED.to_owned(), adopted.name.to_string())
}

/// The part of [`external_ids`] that says which attachment a port belongs to.
pub(super) fn identity(key: &Key) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("owner".to_owned(), OWNER.to_owned()),
        (NETWORK.to_owned(), key.network.clone()),
        (CONTAINER.to_owned(), key.container.clone()),
        (IFNAME.to_owned(), key.ifname.to_string()),
    ])
}

/// What every port of ours carries.
pub fn ours() -> BTreeMap<String, String> {
    BTreeMap::from([("owner".to_owned(), OWNER.to_owned())])
}

/// Which attachment a port of ours belongs to; `None` for a foreign one or a gateway.
pub fn key_of(port: &Port) -> Option<Key> {
    key_in(&port.external_ids)
}

/// The same of a port's `external_ids`.
pub(super) fn key_in(ids: &BTreeMap<String, String>) -> Option<Key> {
    if ids.get("owner")? != OWNER {
        return None;
    }
    Some(Key {
        network: ids.get(NETWORK)?.clone(),
        container: ids.get(CONTAINER)?.clone(),
        ifname: ids.get(IFNAME)?.parse().ok()?,
    })
}

/// Whether somebody else made the interface of a port of ours, by its `external_ids`.
pub(super) fn is_adopted(ids: &BTreeMap<String, String>) -> bool {
    ids.contains_key(ADOPTED)
}

/// The front end and the program behind it that made a port of ours.
pub(super) fn runtime_of(port: &Port) -> Option<(Runtime, String)> {
    let runtime = Runtime::from_name(port.external_ids.get(RUNTIME)?)?;
    Some((runtime, port.external_ids.get(CALLER)?.clone()))
}

/// The boot a port of ours was made in.
pub fn boot_of(port: &Port) -> Option<&str> {
    port.external_ids.get(BOOT).map(String::as_str)
}

/// The MAC of the host end `port` of an attachment: with the interface group it is the proof that
/// a veth of that name is the one we made for it. Numerically high, because a bridge without a MAC
/// of its own takes the lowest among its ports.
pub(super) fn host_mac(key: &Key, port: &IfName) -> Mac {
    Mac::from_hash(format!("host end {port} of {key}").as_bytes()).raised()
}
