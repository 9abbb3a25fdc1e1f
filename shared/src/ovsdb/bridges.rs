//! What is asked of ovsdb-server about bridges, and done to them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::client::{Client, Refusal, rows};
use super::operation::{DATABASE, by_name, catch_up, comment, insert, mutate, select, wait_now};
use super::rows::{self, BRIDGE_COLUMNS, Row};
use super::{Bridge, BridgeView, Error, Generation};
use crate::mac::Mac;
use crate::name::IfName;

impl Client {
    /// The bridge and the generations, in one round trip; [`Error::NoBridge`] without it.
    pub fn view(&mut self, bridge: &IfName) -> Result<BridgeView, Error> {
        let results = self.ask(
            "read the bridge",
            &[
                select("Bridge", &by_name(bridge), &BRIDGE_COLUMNS),
                select(DATABASE, &json!([]), &["next_cfg", "cur_cfg"]),
            ],
        )?;
        let root = self.root(&results[1])?;
        Ok(BridgeView {
            bridge: self.selected(bridge, &results[0])?,
            next: Generation(self.read(root.number("next_cfg"))?),
            current: Generation(self.read(root.number("cur_cfg"))?),
        })
    }

    /// The bridge in the answer to a `select` by its name.
    pub(super) fn selected(&self, name: &IfName, result: &Value) -> Result<Bridge, Error> {
        let found = match rows(result).first() {
            Some(row) => self.read(Row(row).bridge())?,
            None => None,
        };
        found.ok_or_else(|| no_bridge(name))
    }

    /// Every bridge whose name is a system interface name.
    pub fn bridges(&mut self) -> Result<Vec<Bridge>, Error> {
        let results = self.ask("list bridges", &[select("Bridge", &json!([]), &BRIDGE_COLUMNS)])?;
        rows(&results[0])
            .iter()
            .filter_map(|row| self.read(Row(row).bridge()).transpose())
            .collect()
    }

    /// Makes a bridge with its local port; false if a bridge of that name exists (left as it is).
    /// [`Self::wait_open`] with the bridge's name waits for the local port. `fail_mode` stays
    /// unset: the bridge switches like any other without a controller.
    pub fn add_bridge(
        &mut self,
        name: &IfName,
        datapath_type: &str,
        mac: Option<Mac>,
        external_ids: &BTreeMap<String, String>,
    ) -> Result<bool, Error> {
        let other_config: BTreeMap<_, _> =
            mac.map(|mac| ("hwaddr".to_owned(), mac.to_string())).into_iter().collect();
        let ops = [
            wait_now("Bridge", &by_name(name), &["name"], &json!([])),
            insert(
                "Interface",
                "new_interface",
                &json!({ "name": name.as_str(), "type": "internal" }),
            ),
            insert(
                "Port",
                "new_port",
                &json!({ "name": name.as_str(), "interfaces": ["named-uuid", "new_interface"] }),
            ),
            insert(
                "Bridge",
                "new_bridge",
                &json!({
                    "name": name.as_str(),
                    "datapath_type": datapath_type,
                    "ports": ["named-uuid", "new_port"],
                    "other_config": rows::map(&other_config),
                    "external_ids": rows::map(external_ids),
                }),
            ),
            mutate(
                DATABASE,
                &json!([]),
                &json!([["bridges", "insert", ["named-uuid", "new_bridge"]]]),
            ),
            catch_up(),
            comment(&format!("add bridge {name}")),
        ];
        match self.transact(&ops, self.deadline)? {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.is_wait(0) => Ok(false),
            Err(refusal) => Err(name_taken(refusal, ops.len(), name, "add a bridge")),
        }
    }

    /// Sets the MAC of a bridge's interface (`other_config:hwaddr`), whatever its ports have.
    pub fn set_hwaddr(&mut self, bridge: &IfName, mac: Mac) -> Result<(), Error> {
        let key = json!(["set", ["hwaddr"]]);
        let pair = json!(["map", [["hwaddr", mac.to_string()]]]);
        let mutations = json!([["other_config", "delete", key], ["other_config", "insert", pair]]);
        self.ask("set the MAC of a bridge", &[mutate("Bridge", &by_name(bridge), &mutations)])
            .map(drop)
    }

    /// Removes a bridge and its ports; false if there is none.
    pub fn delete_bridge(&mut self, name: &IfName) -> Result<bool, Error> {
        let found = self.ask("read the bridge", &[select("Bridge", &by_name(name), &["_uuid"])])?;
        let Some(row) = rows(&found[0]).first() else { return Ok(false) };
        let uuid = self.read(Row(row).uuid())?;
        // Rows of Bridge, Port and Interface live as long as something refers to them: they are
        // not root tables (RFC 7047 section 3.2, "isRoot").
        self.ask(
            "delete a bridge",
            &[
                mutate(DATABASE, &json!([]), &json!([["bridges", "delete", uuid.to_json()]])),
                catch_up(),
                comment(&format!("delete bridge {name}")),
            ],
        )?;
        Ok(true)
    }
}

/// A commit that broke the unique index on `name` (RFC 7047 section 4.1.3, "constraint violation").
pub(super) fn name_taken(refusal: Refusal, commit: usize, name: &IfName, action: &str) -> Error {
    if refusal.at == commit && refusal.error == "constraint violation" {
        Error::PortExists { port: name.to_string() }
    } else {
        refusal.into_error(action)
    }
}

pub(super) fn no_bridge(name: &IfName) -> Error {
    Error::NoBridge { bridge: name.to_string() }
}
