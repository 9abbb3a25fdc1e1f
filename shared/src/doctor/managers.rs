//! Programs that manage interfaces and firewalls of the host: NetworkManager, firewalld.

use std::collections::BTreeMap;

use super::facts::{Facts, Seen};
use super::{Check, interfaces_of, tool};
use crate::link::HOST_END_GROUP;
use crate::name::IfName;

/// What NetworkManager says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkManager {
    /// Device and state: "unmanaged", "connected".
    pub devices: Vec<(String, String)>,
    /// Its connections.
    pub connections: Vec<Connection>,
}

/// A profile of NetworkManager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// "802-3-ethernet", "ovs-bridge", "ovs-port", "ovs-interface".
    pub kind: String,
}

/// Asks NetworkManager; `None` if it does not run.
pub(super) fn look() -> Option<Seen<NetworkManager>> {
    let running = tool::read("nmcli", &["-t", "-f", "RUNNING", "general"])?.ok()?;
    if running.trim() != "running" {
        return None;
    }
    let devices = tool::read("nmcli", &["-t", "-f", "DEVICE,STATE", "device"])?;
    let connections = tool::read("nmcli", &["-t", "-f", "NAME,UUID,TYPE", "connection"])?;
    Some(devices.and_then(|devices| {
        let connections = connections?;
        Ok(NetworkManager::read(&devices, &connections))
    }))
}

impl NetworkManager {
    fn read(devices: &str, connections: &str) -> Self {
        let device = |line: &str| {
            let [device, state] = fields(line).try_into().ok()?;
            Some((device, state))
        };
        let connection = |line: &str| {
            let [name, uuid, kind] = fields(line).try_into().ok()?;
            Some(Connection { name, uuid, kind })
        };
        Self {
            devices: devices.lines().filter_map(device).collect(),
            connections: connections.lines().filter_map(connection).collect(),
        }
    }
}

/// The fields of a line of `nmcli -t`: colons between them, a backslash before one that is text.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, fields.last_mut()) {
            (':', _) => fields.push(String::new()),
            ('\\', Some(field)) => field.extend(chars.next()),
            (c, Some(field)) => field.push(c),
            (_, None) => {}
        }
    }
    fields
}

/// Asks firewalld for the zones of our interfaces; `None` if it does not run.
pub(super) fn zones(interfaces: &[IfName]) -> Option<BTreeMap<String, String>> {
    if !tool::run("firewall-cmd", &["--state"])?.ok()?.success {
        return None;
    }
    let mut zones = BTreeMap::new();
    for name in interfaces {
        // Without a zone of its own it is in the default one, which this question does not say.
        let words = [format!("--get-zone-of-interface={name}")];
        let zone = tool::read("firewall-cmd", &[&words[0]])?.unwrap_or_default();
        zones.insert(name.to_string(), zone.trim().to_owned());
    }
    Some(zones)
}

pub(super) fn network_manager(facts: &Facts) -> Vec<Check> {
    const WHAT: &str = "NetworkManager";
    let manager = match &facts.manager {
        None => return vec![Check::ok(WHAT, "does not run")],
        Some(Err(why)) => return vec![Check::unseen(WHAT, why)],
        Some(Ok(manager)) => manager,
    };
    let mut ours: Vec<String> =
        interfaces_of(&facts.config, facts).into_iter().map(ToString::to_string).collect();
    let ends = facts.interfaces.iter().flatten().filter(|i| i.link.group == HOST_END_GROUP);
    ours.extend(ends.map(|interface| interface.link.name.to_string()));
    // "connected (externally)" only looks.
    let held = |(device, state): &&(String, String)| {
        ours.contains(device) && state != "unmanaged" && !state.contains("externally")
    };
    let held: Vec<_> = manager.devices.iter().filter(held).map(|(device, _)| device).collect();
    let mut checks = Vec::new();
    for device in held {
        let says = format!("manages {device}, which is ours, and may take its addresses away");
        checks.push(Check::warning(WHAT, says, format!("nmcli device set {device} managed no")));
    }
    if checks.is_empty() {
        checks.push(Check::ok(WHAT, "runs, and keeps its hands off what is ours"));
    }
    checks
}

pub(super) fn firewalld(facts: &Facts) -> Vec<Check> {
    const WHAT: &str = "firewalld";
    let Some(zones) = &facts.zones else { return vec![Check::ok(WHAT, "does not run")] };
    let mut checks = Vec::new();
    for there in &facts.segments {
        let name = there.segment.interface.to_string();
        if zones.get(&name).is_none_or(|zone| zone == "trusted") {
            continue;
        }
        let says = format!("rejects what containers behind {name} send: it is in no trusted zone");
        let add = format!("firewall-cmd --permanent --zone=trusted --change-interface={name}");
        checks.push(Check::problem(WHAT, says, format!("{add} && firewall-cmd --reload")));
    }
    if checks.is_empty() {
        checks.push(Check::ok(WHAT, "runs, and trusts our networks"));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nmcli_escapes_is_read() {
        let manager = NetworkManager::read(
            "ovsbr1:unmanaged\nenp2s0:connected\n",
            "a\\:b \\\\ c:0f3d:ovs-bridge\nodd\n",
        );
        assert_eq!(manager.devices[1], ("enp2s0".to_owned(), "connected".to_owned()));
        let [connection] = manager.connections.as_slice() else { panic!("{manager:?}") };
        assert_eq!(connection.name, "a:b \\ c");
        assert_eq!(connection.kind, "ovs-bridge");
    }
}
