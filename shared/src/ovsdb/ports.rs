//! What is asked of ovsdb-server about ports, and done to them.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::bridges::{name_taken, no_bridge};
use super::client::{Client, REPLY_GRACE, Sent, rows};
use super::operation::{
    DATABASE, by_name, by_uuid, catch_up, comment, insert, mutate, select, wait, wait_now,
};
use super::rows::{self, BRIDGE_COLUMNS, INTERFACE_COLUMNS, PORT_COLUMNS, Row};
use super::wire::shown;
use super::{Bridge, Error, Generation, Port, PortSpec, Uuid};
use crate::name::IfName;

/// How long `Interface.error` is taken for a passing state.
const ERROR_GRACE: Duration = Duration::from_millis(500);

/// How `Interface.error` ends where the device is not there yet (strerror(3), ENODEV).
const NO_DEVICE: &str = "(No such device)";

/// The same for that error: ovs-vswitchd opens the port in the round of work after the one in which
/// the device came, and with some thousand ports a round takes half a second.
const DEVICE_GRACE: Duration = Duration::from_secs(3);

impl Client {
    /// Adds a port in ONE transaction: guard that the bridge is there, insert Interface and Port,
    /// mutate the bridge; returns the bridge. That no port or interface of that name exists is
    /// guarded by the schema's unique index on `name`, which costs no scan of the table as a `wait`
    /// would.
    pub fn add_port(&mut self, bridge: &IfName, port: &PortSpec) -> Result<Bridge, Error> {
        let sent = self.send_port(bridge, port, None)?;
        self.read_port(bridge, &port.name, &sent)
    }

    /// As [`Self::add_port`], several in one transaction: all of them or none.
    pub fn add_ports(&mut self, bridge: &IfName, ports: &[&PortSpec]) -> Result<(), Error> {
        let Some(first) = ports.first() else { return Ok(()) };
        let sent = self.send_ports(bridge, ports, None)?;
        self.read_port(bridge, &first.name, &sent).map(drop)
    }

    /// The first half of [`Self::add_port`]. Where an earlier port of that name was `freed` in a
    /// generation that ovs-vswitchd has still to reach, the answer is [`Error::PortHeld`].
    pub fn send_port(
        &mut self,
        bridge: &IfName,
        port: &PortSpec,
        freed: Option<Generation>,
    ) -> Result<Sent, Error> {
        self.send_ports(bridge, &[port], freed)
    }

    fn send_ports(
        &mut self,
        bridge: &IfName,
        ports: &[&PortSpec],
        freed: Option<Generation>,
    ) -> Result<Sent, Error> {
        let here = by_name(bridge);
        // A generation beyond `next_cfg` is of a database that is gone.
        let held = match freed {
            Some(Generation(freed)) => json!([["cur_cfg", "<", freed], ["next_cfg", ">=", freed]]),
            None => json!([["next_cfg", "<", 0]]),
        };
        let mut ops = vec![
            wait_now("Bridge", &here, &["name"], &json!([{ "name": bridge.as_str() }])),
            wait_now(DATABASE, &held, &["cur_cfg"], &json!([])),
            select("Bridge", &here, &BRIDGE_COLUMNS),
        ];
        let (mut names, mut new) = (Vec::new(), Vec::new());
        for (number, port) in ports.iter().enumerate() {
            let (new_interface, new_port) =
                (format!("new_interface{number}"), format!("new_port{number}"));
            let mut row = port.port_row();
            row["name"] = json!(port.name.as_str());
            row["interfaces"] = json!(["named-uuid", new_interface]);
            row["external_ids"] = rows::map(&port.external_ids);
            ops.push(insert("Interface", &new_interface, &port.interface_row()));
            ops.push(insert("Port", &new_port, &row));
            names.push(port.name.as_str());
            new.push(json!(["named-uuid", new_port]));
        }
        ops.push(mutate("Bridge", &here, &json!([["ports", "insert", ["set", new]]])));
        ops.push(comment(&format!("add port {} to bridge {bridge}", names.join(" "))));
        self.send(&ops, self.deadline)
    }

    /// The second half of [`Self::add_port`].
    pub fn read_port(
        &mut self,
        bridge: &IfName,
        port: &IfName,
        sent: &Sent,
    ) -> Result<Bridge, Error> {
        match self.answer(sent)? {
            Ok(results) => {
                let uuid = rows::read_uuid(&results[3]["uuid"]);
                self.added = uuid.map(|uuid| (port.clone(), uuid));
                self.selected(bridge, &results[2])
            }
            Err(refusal) if refusal.is_wait(0) => Err(no_bridge(bridge)),
            Err(refusal) if refusal.is_wait(1) => Err(Error::PortHeld { port: port.to_string() }),
            Err(refusal) => Err(name_taken(refusal, sent.ops, port, "add a port")),
        }
    }

    /// Waits until ovs-vswitchd has opened the port; returns its OpenFlow number.
    /// [`Error::NoPort`] if nobody has such a port (any more).
    pub fn wait_open(&mut self, port: &IfName, deadline: Duration) -> Result<u16, Error> {
        let until = Instant::now() + deadline;
        let columns = ["ofport", "error"];
        let condition = match &self.added {
            Some((name, uuid)) if name == port => by_uuid(uuid),
            _ => by_name(port),
        };
        let mut seen = json!({ "ofport": ["set", []], "error": ["set", []] });
        // Until when, and why it is closed.
        let mut failed: Option<(Instant, String)> = None;
        loop {
            let end = failed.as_ref().map_or(until, |(end, _)| until.min(*end));
            let left = end.saturating_duration_since(Instant::now());
            // The server itself holds the answer back until the columns differ from what was seen.
            let results = self.transact(
                &[
                    wait("Interface", &condition, &columns, "!=", &json!([seen]), left),
                    select("Interface", &condition, &columns),
                ],
                left + REPLY_GRACE,
            );
            let results = match (results?, failed) {
                (Ok(results), _) => results,
                (Err(refusal), Some((_, why))) if refusal.is_wait(0) => {
                    return Err(Error::PortError { port: port.to_string(), why });
                }
                (Err(refusal), None) if refusal.is_wait(0) => {
                    return Err(Error::NotOpened { port: port.to_string(), deadline });
                }
                (Err(refusal), _) => return Err(refusal.into_error("wait for a port")),
            };
            let Some(found) = rows(&results[1]).first() else {
                return Err(Error::NoPort { port: port.to_string() });
            };
            let ofport = self.read(Row(found).ofport())?;
            if let Some(number) = ofport.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0) {
                return Ok(number);
            }
            let why = self.read(Row(found).error())?;
            let why = why.unwrap_or_else(|| "ofport is -1".to_owned());
            let grace = if why.ends_with(NO_DEVICE) { DEVICE_GRACE } else { ERROR_GRACE };
            failed = Some((Instant::now() + grace, shown(&why)));
            seen = found.clone();
        }
    }

    /// Sets `mtu_request` of an interface that ovs-vswitchd made, in bytes, or clears it.
    pub fn set_mtu(&mut self, interface: &IfName, mtu: Option<u32>) -> Result<(), Error> {
        let row = json!({ "mtu_request": rows::set(mtu) });
        let op = json!({
            "op": "update", "table": "Interface", "where": by_name(interface), "row": row,
        });
        self.ask("set an MTU", &[op]).map(drop)
    }

    /// The port of that name.
    pub fn port(&mut self, name: &IfName) -> Result<Option<Port>, Error> {
        Ok(self.ports_where(&by_name(name))?.pop())
    }

    /// The ports whose `external_ids` include all of `ids`: how ours are found.
    pub fn ports_with(&mut self, ids: &BTreeMap<String, String>) -> Result<Vec<Port>, Error> {
        self.ports_where(&json!([["external_ids", "includes", rows::map(ids)]]))
    }

    /// Every port of the switch whose name is a system interface name. For `status` and GC, never
    /// on the attach path.
    pub fn ports(&mut self) -> Result<Vec<Port>, Error> {
        let all = json!([]);
        let results = self.ask(
            "list ports",
            &[
                select("Port", &all, &PORT_COLUMNS),
                select("Interface", &all, &INTERFACE_COLUMNS),
                select("Bridge", &all, &["name", "ports"]),
            ],
        )?;
        let mut interfaces = HashMap::new();
        for row in rows(&results[1]) {
            interfaces.insert(self.read(Row(row).uuid())?, row);
        }
        let mut bridges = HashMap::new();
        for row in rows(&results[2]) {
            let name: Option<IfName> = self.read(Row(row).text("name"))?.parse().ok();
            for port in self.read(Row(row).uuids("ports"))? {
                bridges.insert(port, name.clone());
            }
        }
        let mut ports = Vec::new();
        for row in rows(&results[0]) {
            let own = self.read(Row(row).uuids("interfaces"))?;
            let Some(interface) = own.first().and_then(|uuid| interfaces.get(uuid)) else {
                continue;
            };
            let bridge = bridges.remove(&self.read(Row(row).uuid())?).flatten();
            ports.extend(self.read(Row(row).port(Row(interface), bridge))?);
        }
        Ok(ports)
    }

    /// Removes ports by row, wherever they hang, in one transaction that also asks ovs-vswitchd to
    /// catch up; returns the generation at which they are gone from the switch. A port that is
    /// gone already is no error.
    pub fn delete_ports(&mut self, ports: &[Uuid]) -> Result<Generation, Error> {
        let gone = rows::set(ports.iter().map(Uuid::to_json));
        // On every bridge: what a bridge does not list it does not lose, and a row that a foreign
        // bridge still listed would fail the transaction. Port and Interface rows that nothing
        // refers to are removed by the server (RFC 7047 section 3.2, "isRoot").
        let results = self.ask(
            "delete ports",
            &[
                mutate("Bridge", &json!([]), &json!([["ports", "delete", gone]])),
                catch_up(),
                select(DATABASE, &json!([]), &["next_cfg"]),
                comment("delete ports"),
            ],
        )?;
        let root = self.root(&results[2])?;
        Ok(Generation(self.read(root.number("next_cfg"))?))
    }

    /// The ports that fulfil a condition, joined in a second transaction.
    fn ports_where(&mut self, condition: &Value) -> Result<Vec<Port>, Error> {
        let found = self.ask("find ports", &[select("Port", condition, &PORT_COLUMNS)])?;
        let found = rows(&found[0]);
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let mut ops = Vec::new();
        for row in found {
            let port = self.read(Row(row).uuid())?;
            let interface = self.read(Row(row).uuids("interfaces"))?.into_iter().next();
            let interface = interface.ok_or_else(|| self.broken("a port has no interface"))?;
            ops.push(select("Interface", &by_uuid(&interface), &INTERFACE_COLUMNS));
            ops.push(select("Bridge", &json!([["ports", "includes", port.to_json()]]), &["name"]));
        }
        let joined = self.ask("read interfaces", &ops)?;
        let mut ports = Vec::new();
        for (row, pair) in found.iter().zip(joined.chunks(2)) {
            // Gone between the two transactions.
            let Some(interface) = rows(&pair[0]).first() else { continue };
            let bridge = match rows(&pair[1]).first() {
                Some(bridge) => self.read(Row(bridge).text("name"))?.parse().ok(),
                None => None,
            };
            ports.extend(self.read(Row(row).port(Row(interface), bridge))?);
        }
        Ok(ports)
    }
}
