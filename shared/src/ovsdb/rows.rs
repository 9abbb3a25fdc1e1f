//! Rows of the Open_vSwitch schema (ovs-vswitchd.conf.db(5)) and how they are written as JSON
//! (RFC 7047 section 5.1).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value, json};

use crate::mac::Mac;
use crate::name::IfName;
use crate::vlan::{PortVlan, VlanId, VlanMode};

/// A row's `_uuid`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uuid(pub String);

/// A count ovs-vswitchd catches up with: `Open_vSwitch.next_cfg` when something was changed. What
/// was changed has reached the switch once `cur_cfg` is at least this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// What one attach needs to know beforehand, in one round trip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeView {
    /// The bridge's row.
    pub bridge: Bridge,
    /// `Open_vSwitch.next_cfg`.
    pub next: Generation,
    /// `Open_vSwitch.cur_cfg`.
    pub current: Generation,
}

/// A row of table Bridge, less its ports: with a thousand of them they would cost each attach
/// more than all the rest. [`super::Client::ports`] names each port's bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Its `_uuid`.
    pub uuid: Uuid,
    /// Its name.
    pub name: IfName,
    /// `datapath_type`: "", "system" or "netdev".
    pub datapath_type: String,
    /// `external_ids`.
    pub external_ids: BTreeMap<String, String>,
    /// `fail_mode`.
    pub fail_mode: Option<String>,
}

impl Bridge {
    /// Whether frames pass through ovs-vswitchd itself (checksum offload must be off).
    pub fn is_userspace(&self) -> bool {
        self.datapath_type == "netdev"
    }
}

/// A port as it is to be: one row of Port and one of Interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// Name of the port and of its interface.
    pub name: IfName,
    /// `Interface.type`: "" for a system device, "internal".
    pub interface_type: String,
    /// `vlan_mode`, `tag`, `trunks`.
    pub vlan: PortVlan,
    /// `ofport_request`, 1 to 65279.
    pub ofport_request: Option<u16>,
    /// `Interface.mac` (internal ports only).
    pub mac: Option<Mac>,
    /// `Interface.mtu_request` (internal ports only).
    pub mtu_request: Option<u32>,
    /// `Port.protected`.
    pub protected: bool,
    /// `Port.external_ids`.
    pub external_ids: BTreeMap<String, String>,
    /// `Interface.external_ids`.
    pub interface_external_ids: BTreeMap<String, String>,
}

/// A row of Port joined with its Interface (one of them, if it is a bond) and its bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// `Port._uuid`.
    pub uuid: Uuid,
    /// Its name.
    pub name: IfName,
    /// Name of the bridge that lists it.
    pub bridge: Option<IfName>,
    /// VLAN columns; `None` if the row has none at all (trunks everything), or names VLAN 4095.
    pub vlan: Option<PortVlan>,
    /// `Port.protected`.
    pub protected: bool,
    /// `Port.external_ids`.
    pub external_ids: BTreeMap<String, String>,
    /// `Interface.type`.
    pub interface_type: String,
    /// `Interface.ofport`; -1 if it could not be opened.
    pub ofport: Option<i64>,
    /// `Interface.ifindex`.
    pub ifindex: Option<u32>,
    /// `Interface.error` of a port that is not open. Where a device appears just after
    /// ovs-vswitchd looked for it, the row of the open port keeps the error until something else
    /// changes: the second write takes the column for empty, as the first has not come back yet.
    pub error: Option<String>,
    /// `Interface.ofport_request`.
    pub ofport_request: Option<u16>,
    /// `Interface.mtu_request`.
    pub mtu_request: Option<u32>,
}

pub(super) const BRIDGE_COLUMNS: [&str; 5] =
    ["_uuid", "name", "datapath_type", "external_ids", "fail_mode"];

pub(super) const PORT_COLUMNS: [&str; 8] =
    ["_uuid", "name", "interfaces", "vlan_mode", "tag", "trunks", "protected", "external_ids"];

pub(super) const INTERFACE_COLUMNS: [&str; 7] =
    ["_uuid", "type", "ofport", "ifindex", "error", "ofport_request", "mtu_request"];

/// What the schema allows as `tag` and in `trunks`; 802.1Q reserves it, and Neutron parks its ports
/// there.
const MAX_TAG: u64 = 4095;

/// A column that is not what the schema says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadColumn {
    column: String,
    expected: &'static str,
    value: String,
}

impl fmt::Display for BadColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column \"{}\" is {}, expected {}", self.column, self.value, self.expected)
    }
}

/// One row as a `select` answers it (RFC 7047 section 5.2.2).
#[derive(Clone, Copy)]
pub(super) struct Row<'a>(pub(super) &'a Value);

impl<'a> Row<'a> {
    fn bad(self, column: &str, expected: &'static str) -> BadColumn {
        let value = self.0[column].to_string().chars().take(60).collect();
        BadColumn { column: column.to_owned(), expected, value }
    }

    /// The elements of a set: `["set", [..]]`, or the bare element where there is exactly one.
    fn elements(self, column: &str) -> Result<&'a [Value], BadColumn> {
        let value = &self.0[column];
        match value.as_array().map(Vec::as_slice) {
            Some([Value::String(tag), Value::Array(elements)]) if tag == "set" => Ok(elements),
            _ if value.is_null() => Err(self.bad(column, "a set")),
            _ => Ok(std::slice::from_ref(value)),
        }
    }

    fn set<T>(
        self,
        column: &str,
        expected: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Vec<T>, BadColumn> {
        self.elements(column)?
            .iter()
            .map(|v| read(v).ok_or_else(|| self.bad(column, expected)))
            .collect()
    }

    fn optional<T>(
        self,
        column: &str,
        expected: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, BadColumn> {
        Ok(self.set(column, expected, read)?.into_iter().next())
    }

    pub(super) fn text(self, column: &str) -> Result<&'a str, BadColumn> {
        self.0[column].as_str().ok_or_else(|| self.bad(column, "a string"))
    }

    pub(super) fn number(self, column: &str) -> Result<u64, BadColumn> {
        self.0[column].as_u64().ok_or_else(|| self.bad(column, "a number"))
    }

    pub(super) fn uuid(self) -> Result<Uuid, BadColumn> {
        read_uuid(&self.0["_uuid"]).ok_or_else(|| self.bad("_uuid", "a uuid"))
    }

    pub(super) fn uuids(self, column: &str) -> Result<Vec<Uuid>, BadColumn> {
        self.set(column, "uuids", read_uuid)
    }

    pub(super) fn map(self, column: &str) -> Result<BTreeMap<String, String>, BadColumn> {
        let bad = || self.bad(column, "a map of strings");
        let Some([Value::String(tag), Value::Array(pairs)]) =
            self.0[column].as_array().map(Vec::as_slice)
        else {
            return Err(bad());
        };
        if tag != "map" {
            return Err(bad());
        }
        pairs
            .iter()
            .map(|pair| Some((pair[0].as_str()?.to_owned(), pair[1].as_str()?.to_owned())))
            .collect::<Option<_>>()
            .ok_or_else(bad)
    }

    pub(super) fn ofport(self) -> Result<Option<i64>, BadColumn> {
        self.optional("ofport", "a number", Value::as_i64)
    }

    pub(super) fn error(self) -> Result<Option<String>, BadColumn> {
        self.optional("error", "a string", |v| v.as_str().map(str::to_owned))
    }

    /// The bridge; `None` if its name is none a bridge of ours can have.
    pub(super) fn bridge(self) -> Result<Option<Bridge>, BadColumn> {
        let Ok(name) = self.text("name")?.parse() else { return Ok(None) };
        Ok(Some(Bridge {
            uuid: self.uuid()?,
            name,
            datapath_type: self.text("datapath_type")?.to_owned(),
            external_ids: self.map("external_ids")?,
            fail_mode: self.optional("fail_mode", "a string", |v| v.as_str().map(str::to_owned))?,
        }))
    }

    /// The port, joined with its interface; `None` if its name is none a port of ours can have.
    pub(super) fn port(
        self,
        interface: Self,
        bridge: Option<IfName>,
    ) -> Result<Option<Port>, BadColumn> {
        let Ok(name) = self.text("name")?.parse() else { return Ok(None) };
        let ofport = interface.ofport()?;
        let open = ofport.is_some_and(|number| number > 0);
        Ok(Some(Port {
            uuid: self.uuid()?,
            name,
            bridge,
            vlan: self.vlan()?,
            protected: self.0["protected"] == true,
            external_ids: self.map("external_ids")?,
            interface_type: interface.text("type")?.to_owned(),
            ofport,
            ifindex: interface
                .optional("ifindex", "an interface index", |v| u32::try_from(v.as_u64()?).ok())?,
            error: interface.error()?.filter(|_| !open),
            ofport_request: interface
                .optional("ofport_request", "a port number", |v| u16::try_from(v.as_u64()?).ok())?,
            mtu_request: interface
                .optional("mtu_request", "an MTU", |v| u32::try_from(v.as_u64()?).ok())?,
        }))
    }

    pub(super) fn vlan(self) -> Result<Option<PortVlan>, BadColumn> {
        let id = |v: &Value| v.as_u64().filter(|id| *id <= MAX_TAG);
        let tag = self.optional("tag", "a VLAN id", id)?;
        let trunks = self.set("trunks", "VLAN ids", id)?;
        let mode = self.optional("vlan_mode", "a VLAN mode", |v| {
            serde_json::from_value::<VlanMode>(v.clone()).ok()
        })?;
        let tag = tag.map(VlanId::try_from).transpose();
        let trunks = trunks.into_iter().map(VlanId::try_from).collect::<Result<BTreeSet<_>, _>>();
        // One that is no VLAN of ours must not keep us from all others.
        let (Ok(tag), Ok(trunks)) = (tag, trunks) else { return Ok(None) };
        if mode.is_none() && tag.is_none() && trunks.is_empty() {
            return Ok(None);
        }
        // What an empty vlan_mode means depends on tag (ovs-vswitchd.conf.db(5), Port).
        let implied = if tag.is_some() { VlanMode::Access } else { VlanMode::Trunk };
        Ok(Some(PortVlan { mode: mode.unwrap_or(implied), tag, trunks }))
    }
}

pub(super) fn read_uuid(value: &Value) -> Option<Uuid> {
    match value.as_array().map(Vec::as_slice) {
        Some([Value::String(tag), Value::String(uuid)]) if tag == "uuid" => {
            Some(Uuid(uuid.clone()))
        }
        _ => None,
    }
}

impl Uuid {
    pub(super) fn to_json(&self) -> Value {
        json!(["uuid", self.0])
    }
}

impl PortSpec {
    /// The row of Interface to insert.
    pub(super) fn interface_row(&self) -> Value {
        let mut row = Map::new();
        row.insert("name".to_owned(), json!(self.name.as_str()));
        row.insert("type".to_owned(), json!(self.interface_type));
        row.insert("external_ids".to_owned(), map(&self.interface_external_ids));
        if let Some(number) = self.ofport_request {
            row.insert("ofport_request".to_owned(), json!(number));
        }
        if let Some(mac) = self.mac {
            row.insert("mac".to_owned(), json!(mac.to_string()));
        }
        if let Some(mtu) = self.mtu_request {
            row.insert("mtu_request".to_owned(), json!(mtu));
        }
        Value::Object(row)
    }

    /// The columns of Port that say what the port carries.
    pub(super) fn port_row(&self) -> Value {
        json!({
            "vlan_mode": self.vlan.mode.as_str(),
            "tag": set(self.vlan.tag.map(VlanId::get)),
            "trunks": set(self.vlan.trunks.iter().map(|id| id.get())),
            "protected": self.protected,
        })
    }
}

pub(super) fn set<T: Into<Value>>(elements: impl IntoIterator<Item = T>) -> Value {
    json!(["set", elements.into_iter().map(Into::into).collect::<Vec<Value>>()])
}

pub(super) fn map(pairs: &BTreeMap<String, String>) -> Value {
    json!(["map", pairs.iter().map(|(key, value)| json!([key, value])).collect::<Vec<_>>()])
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO: [&str; 2] = ["set", ""];

    fn port_row(vlan_mode: &Value, tag: &Value, trunks: &Value) -> Value {
        json!({
            "_uuid": ["uuid", "4d5c6e0e-0000-4000-8000-000000000001"],
            "name": "veth1",
            "interfaces": ["uuid", "4d5c6e0e-0000-4000-8000-000000000002"],
            "vlan_mode": vlan_mode, "tag": tag, "trunks": trunks,
            "protected": false,
            "external_ids": ["map", [["owner", "x"]]],
        })
    }

    fn interface_row() -> Value {
        json!({
            "type": "", "ofport": 3, "ifindex": ["set", []], "error": ["set", []],
            "ofport_request": ["set", []], "mtu_request": ["set", []],
        })
    }

    #[test]
    fn a_set_of_one_comes_bare() {
        let empty = json!(["set", []]);
        for (mode, tag, trunks, expected) in [
            (&empty, &empty, &empty, None),
            (&json!("trunk"), &empty, &json!(0), Some(PortVlan::untagged())),
            (
                &json!("access"),
                &json!(7),
                &empty,
                Some(PortVlan::access(VlanId::try_from(7).unwrap())),
            ),
            (&empty, &json!(7), &empty, Some(PortVlan::access(VlanId::try_from(7).unwrap()))),
            (&empty, &json!(4095), &empty, None),
            (&empty, &empty, &json!(["set", [3, 4095]]), None),
            (
                &empty,
                &empty,
                &json!(["set", [3, 5]]),
                Some(PortVlan {
                    mode: VlanMode::Trunk,
                    tag: None,
                    trunks: [3, 5].map(|id| VlanId::try_from(id).unwrap()).into(),
                }),
            ),
        ] {
            let row = port_row(mode, tag, trunks);
            let interface = interface_row();
            let port = Row(&row).port(Row(&interface), None).unwrap().unwrap();
            assert_eq!(port.vlan, expected);
            assert_eq!((port.ofport, port.ifindex, port.error), (Some(3), None, None));
            assert_eq!(port.external_ids["owner"], "x");
            assert_eq!(
                Row(&row).uuids("interfaces").unwrap(),
                [Uuid("4d5c6e0e-0000-4000-8000-000000000002".to_owned())]
            );
        }
    }

    #[test]
    fn an_open_port_has_no_error() {
        let row = port_row(&json!(["set", []]), &json!(["set", []]), &json!(["set", []]));
        let error_at = |ofport: serde_json::Value| {
            let mut interface = interface_row();
            interface["ofport"] = ofport;
            interface["error"] = json!("No such device");
            Row(&row).port(Row(&interface), None).unwrap().unwrap().error
        };
        let why = Some("No such device".to_owned());
        assert_eq!(error_at(json!(3)), None);
        assert_eq!([error_at(json!(-1)), error_at(json!(["set", []]))], [why.clone(), why]);
    }

    #[test]
    fn what_was_written_is_read_again() {
        let spec = PortSpec {
            name: "veth1".parse().unwrap(),
            interface_type: String::new(),
            vlan: PortVlan {
                mode: VlanMode::NativeUntagged,
                tag: Some(VlanId::try_from(5).unwrap()),
                trunks: [7, 9].map(|id| VlanId::try_from(id).unwrap()).into(),
            },
            ofport_request: Some(9),
            mac: None,
            mtu_request: None,
            protected: true,
            external_ids: BTreeMap::new(),
            interface_external_ids: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        };
        let written = spec.port_row();
        let mut row = port_row(&written["vlan_mode"], &written["tag"], &written["trunks"]);
        row["protected"] = written["protected"].clone();
        let interface = interface_row();
        let port = Row(&row).port(Row(&interface), None).unwrap().unwrap();
        assert_eq!((port.vlan, port.protected), (Some(spec.vlan.clone()), true));
        let interface = spec.interface_row();
        assert_eq!(Row(&interface).map("external_ids").unwrap(), spec.interface_external_ids);
        assert_eq!(interface["ofport_request"], 9);
        assert!(interface.get("mac").is_none());
    }

    #[test]
    fn a_foreign_name_is_passed_over_and_a_foreign_type_is_an_error() {
        let empty = json!(["set", []]);
        let mut row = port_row(&empty, &empty, &empty);
        row["name"] = json!("patch-br-int-to-br-ex");
        let interface = interface_row();
        assert_eq!(Row(&row).port(Row(&interface), None), Ok(None));

        for (column, value) in [
            ("tag", json!("7")),
            ("tag", json!(4096)),
            ("trunks", json!(["map", []])),
            ("trunks", Value::Null),
            ("external_ids", json!(["set", []])),
            ("external_ids", json!(["map", [["a"]]])),
            ("vlan_mode", json!("sideways")),
            ("_uuid", json!(NO)),
        ] {
            let mut row = port_row(&empty, &empty, &empty);
            row[column] = value;
            let error = Row(&row).port(Row(&interface), None).unwrap_err();
            assert_eq!(error.column, column);
        }
    }
}
