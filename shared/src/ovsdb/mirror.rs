//! Bridges and ports as a monitor tells of them: nothing is read twice.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::Uuid;
use super::rows::{BadColumn, Row};
use crate::name::IfName;
use crate::vlan::PortVlan;

/// A port, as far as it is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedPort {
    /// Its name.
    pub name: IfName,
    /// Name of the bridge that lists it.
    pub bridge: Option<IfName>,
    /// VLAN columns; `None` if the row has none at all (trunks everything).
    pub vlan: Option<PortVlan>,
    /// `Port.external_ids`.
    pub external_ids: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Bridge {
    name: IfName,
    ports: Vec<Uuid>,
}

/// The rows of Bridge and Port, those with names of system interfaces.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    bridges: HashMap<Uuid, Bridge>,
    /// Without their bridges, which list them.
    ports: HashMap<Uuid, WatchedPort>,
}

impl Mirror {
    /// Takes in what a monitor said (`<table-updates>`, RFC 7047 section 4.1.6): "new" is the whole
    /// row after an insertion or change, and missing after a deletion.
    pub(super) fn take(&mut self, updates: &Value) -> Result<(), BadColumn> {
        for (uuid, row) in rows(updates, "Bridge") {
            let bridge = match row {
                Some(row) => bridge(row)?,
                None => None,
            };
            keep(&mut self.bridges, uuid, bridge);
        }
        for (uuid, row) in rows(updates, "Port") {
            let port = match row {
                Some(row) => port(row)?,
                None => None,
            };
            keep(&mut self.ports, uuid, port);
        }
        Ok(())
    }

    /// Every bridge.
    pub(super) fn bridges(&self) -> impl Iterator<Item = &IfName> {
        self.bridges.values().map(|bridge| &bridge.name)
    }

    /// Every port.
    pub(super) fn ports(&self) -> impl Iterator<Item = WatchedPort> {
        let mut bridges = HashMap::new();
        for bridge in self.bridges.values() {
            bridges.extend(bridge.ports.iter().map(|port| (port, &bridge.name)));
        }
        self.ports.iter().map(move |(uuid, port)| WatchedPort {
            bridge: bridges.get(uuid).copied().cloned(),
            ..port.clone()
        })
    }
}

/// The rows of a table that are told of, `None` for one that is gone.
fn rows<'a>(updates: &'a Value, table: &str) -> impl Iterator<Item = (Uuid, Option<Row<'a>>)> {
    let rows = updates[table].as_object().into_iter().flatten();
    rows.map(|(uuid, update)| (Uuid(uuid.clone()), update.get("new").map(Row)))
}

fn keep<T>(all: &mut HashMap<Uuid, T>, uuid: Uuid, row: Option<T>) {
    match row {
        Some(row) => drop(all.insert(uuid, row)),
        None => drop(all.remove(&uuid)),
    }
}

fn bridge(row: Row<'_>) -> Result<Option<Bridge>, BadColumn> {
    let Ok(name) = row.text("name")?.parse() else { return Ok(None) };
    Ok(Some(Bridge { name, ports: row.uuids("ports")? }))
}

fn port(row: Row<'_>) -> Result<Option<WatchedPort>, BadColumn> {
    let Ok(name) = row.text("name")?.parse() else { return Ok(None) };
    let (vlan, external_ids) = (row.vlan()?, row.map("external_ids")?);
    Ok(Some(WatchedPort { name, bridge: None, vlan, external_ids }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn port_row(name: &str, tag: u16) -> Value {
        json!({ "name": name, "vlan_mode": "access", "tag": tag, "trunks": ["set", []],
                "external_ids": ["map", [["owner", "x"]]] })
    }

    fn uuid(number: u8) -> String {
        format!("4d5c6e0e-0000-4000-8000-00000000000{number}")
    }

    fn shown(mirror: &Mirror) -> Vec<(String, Option<String>, Option<u16>)> {
        let mut ports: Vec<_> = mirror
            .ports()
            .map(|port| {
                let tag = port.vlan.and_then(|vlan| vlan.tag).map(|tag| tag.get());
                (port.name.to_string(), port.bridge.map(|name| name.to_string()), tag)
            })
            .collect();
        ports.sort();
        ports
    }

    #[test]
    fn rows_come_change_and_go() {
        let mut mirror = Mirror::default();
        let (a, b, bridge) = (uuid(1), uuid(2), uuid(3));
        let first = json!({
            "Bridge": { &bridge: { "new": { "name": "ovsbr1", "ports": ["uuid", &a] } } },
            "Port": { &a: { "new": port_row("veth-a", 7) },
                      &b: { "new": port_row("patch-br-int-to-br-ex", 0) } },
        });
        mirror.take(&first).unwrap();
        let on = |bridge: &str| Some(bridge.to_owned());
        assert_eq!(shown(&mirror), [("veth-a".to_owned(), on("ovsbr1"), Some(7))]);
        let more = json!({
            "Bridge": { &bridge: { "old": { "ports": ["uuid", &a] },
                                   "new": { "name": "ovsbr1",
                                            "ports": ["set", [["uuid", &a], ["uuid", &b]]] } } },
            "Port": { &a: { "old": { "tag": 7 }, "new": port_row("veth-a", 8) },
                      &b: { "old": { "name": "x" }, "new": port_row("veth-b", 9) } },
        });
        mirror.take(&more).unwrap();
        assert_eq!(
            shown(&mirror),
            [
                ("veth-a".to_owned(), on("ovsbr1"), Some(8)),
                ("veth-b".to_owned(), on("ovsbr1"), Some(9))
            ]
        );
        let gone = json!({
            "Bridge": { &bridge: { "old": { "name": "ovsbr1" } } },
            "Port": { &a: { "old": { "name": "veth-a" } } },
        });
        mirror.take(&gone).unwrap();
        assert_eq!(shown(&mirror), [("veth-b".to_owned(), None, Some(9))]);
        assert_eq!(mirror.bridges().count(), 0);
    }

    #[test]
    fn a_row_of_another_schema_is_named() {
        let mut mirror = Mirror::default();
        let update = json!({ "Port": { uuid(1): { "new": { "name": 7 } } } });
        assert!(mirror.take(&update).unwrap_err().to_string().contains("\"name\" is 7"));
        for nothing in [json!(null), json!([]), json!({ "Port": 7, "Bridge": [] })] {
            mirror.take(&nothing).unwrap();
        }
    }
}
