//! The calls to ovsdb-server: each one is one transaction (RFC 7047 section 4.1.3), or two where
//! the second needs what the first found.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::operation::{
    DATABASE, Transaction, by_name, by_uuid, catch_up, comment, insert, mutate, select, wait,
    wait_now,
};
use super::rows::{self, BRIDGE_COLUMNS, BadColumn, INTERFACE_COLUMNS, PORT_COLUMNS, Row};
use super::wire::{Connection, Failure, shown};
use super::{Bridge, BridgeView, Endpoint, Error, Generation, Port, PortSpec, Uuid};
use crate::mac::Mac;
use crate::name::IfName;

/// How long `Interface.error` is taken for a passing state.
const ERROR_GRACE: Duration = Duration::from_millis(500);

/// How `Interface.error` ends where the device is not there yet (strerror(3), ENODEV).
const NO_DEVICE: &str = "(No such device)";

/// The same for that error: ovs-vswitchd opens the port in the round of work after the one in which
/// the device came, and with some thousand ports a round takes half a second.
const DEVICE_GRACE: Duration = Duration::from_secs(3);

/// What ovsdb-server may take to say that a `wait` came to nothing.
const REPLY_GRACE: Duration = Duration::from_millis(200);

/// A connection to ovsdb-server. It answers the server's echo requests only while a call waits:
/// connect anew (0.1 ms) for each piece of work instead of keeping one.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    endpoint: String,
    deadline: Duration,
    /// The port added last and its row of Interface: [`Self::wait_open`] by row needs no scan of
    /// the table at each change somebody makes to the database.
    added: Option<(IfName, Uuid)>,
}

/// A transaction that was sent and whose answer is still to be read: what can be done meanwhile
/// costs no time of its own.
#[derive(Debug)]
#[must_use = "the answer says whether it was done"]
pub struct Sent {
    id: u64,
    /// How many operations it has.
    ops: usize,
    until: Instant,
    deadline: Duration,
}

/// An operation that failed; nothing of its transaction was done.
struct Refusal {
    /// Which operation; the number of operations if it was the commit itself.
    at: usize,
    error: String,
    details: String,
}

impl Refusal {
    fn into_error(self, action: &str) -> Error {
        Error::Refused { action: action.to_owned(), error: self.error, details: self.details }
    }

    /// A `wait` whose condition did not hold (RFC 7047 section 5.2.6).
    fn is_wait(&self, at: usize) -> bool {
        self.at == at && self.error == "timed out"
    }
}

impl Client {
    /// Connects. Every later call waits at most `deadline` for its answer.
    pub fn connect(endpoint: &Endpoint, deadline: Duration) -> Result<Self, Error> {
        let until = Instant::now() + deadline;
        let connection = match endpoint {
            Endpoint::Unix(path) => Connection::unix(path, until),
            Endpoint::Tcp(address) => Connection::tcp(*address, until),
        };
        let endpoint = endpoint.to_string();
        match connection {
            Ok(connection) => Ok(Self { connection, endpoint, deadline, added: None }),
            Err(Failure::Io(source)) => Err(Error::Connect { endpoint, source }),
            Err(Failure::Timeout) => Err(Error::Timeout { endpoint, deadline }),
            Err(Failure::Broken(why)) => Err(Error::Broken { endpoint, why }),
        }
    }

    /// A client of whoever is at the other end.
    #[cfg(any(test, feature = "laws"))]
    pub(super) fn over(connection: Connection, deadline: Duration) -> Self {
        Self { connection, endpoint: "unix:/law".to_owned(), deadline, added: None }
    }

    /// Asks to be told of every change to bridges and to the VLANs and owners of ports (RFC 7047
    /// section 4.1.5); [`Self::changed`] says whether there was one.
    pub(super) fn watch(&mut self) -> Result<(), Error> {
        let tables = json!({
            "Bridge": { "columns": ["name", "ports"] },
            "Port": { "columns": ["name", "vlan_mode", "tag", "trunks", "external_ids"] },
        });
        match self.call("monitor", &json!([DATABASE, null, tables]), self.deadline)? {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::Refused {
                action: "watch bridges and ports".to_owned(),
                error: shown(&error.to_string()),
                details: String::new(),
            }),
        }
    }

    /// Takes what has come, without waiting; true if something watched has changed.
    pub(super) fn changed(&mut self) -> Result<bool, Error> {
        let until = Instant::now() + self.deadline;
        self.connection.changes(until).map_err(|failure| self.failed(failure, self.deadline))
    }

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
    fn selected(&self, name: &IfName, result: &Value) -> Result<Bridge, Error> {
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

    /// Makes the one row of the root table if there is none: a database made anew is empty, and
    /// whatever asks it first makes the row (ovs-vsctl(8), "init"). True if it was made.
    pub fn ensure_root(&mut self) -> Result<bool, Error> {
        let found = self.ask("read the root table", &[select(DATABASE, &json!([]), &["_uuid"])])?;
        if !rows(&found[0]).is_empty() {
            return Ok(false);
        }
        let ops = [
            wait_now(DATABASE, &json!([]), &["_uuid"], &json!([])),
            insert(DATABASE, "root", &json!({})),
            comment("init"),
        ];
        match self.transact(&ops, self.deadline)? {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.is_wait(0) => Ok(false),
            Err(refusal) => Err(refusal.into_error("make the row of the root table")),
        }
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

    /// Waits until ovs-vswitchd has reached `generation`; false if it did not in time.
    pub fn wait_applied(
        &mut self,
        generation: Generation,
        deadline: Duration,
    ) -> Result<bool, Error> {
        // "Until the rows that have got that far are not none": `wait` itself knows only == and !=.
        let reached = json!([["cur_cfg", ">=", generation.0]]);
        let op = wait(DATABASE, &reached, &["cur_cfg"], "!=", &json!([]), deadline);
        match self.transact(&[op], deadline + REPLY_GRACE)? {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.is_wait(0) => Ok(false),
            Err(refusal) => Err(refusal.into_error("wait for ovs-vswitchd")),
        }
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

    /// Runs a transaction that is not expected to be refused.
    fn ask(&mut self, action: &str, ops: &[Value]) -> Result<Vec<Value>, Error> {
        self.transact(ops, self.deadline)?.map_err(|refusal| refusal.into_error(action))
    }

    /// Runs a transaction and looks at every element of the answer (RFC 7047 section 4.1.3): one
    /// for each operation, null behind one that failed, and one more if the commit failed.
    fn transact(
        &mut self,
        ops: &[Value],
        deadline: Duration,
    ) -> Result<Result<Vec<Value>, Refusal>, Error> {
        let sent = self.send(ops, deadline)?;
        self.answer(&sent)
    }

    fn send(&mut self, ops: &[Value], deadline: Duration) -> Result<Sent, Error> {
        let until = Instant::now() + deadline;
        let id = self
            .connection
            .send("transact", &Transaction(ops), until)
            .map_err(|failure| self.failed(failure, deadline))?;
        Ok(Sent { id, ops: ops.len(), until, deadline })
    }

    fn answer(&mut self, sent: &Sent) -> Result<Result<Vec<Value>, Refusal>, Error> {
        let answer = self
            .connection
            .answer(sent.id, sent.until)
            .map_err(|failure| self.failed(failure, sent.deadline))?;
        let elements = match answer {
            Ok(Value::Array(elements)) => elements,
            Ok(other) => {
                let why = format!("a transaction was answered by {}", shown(&other.to_string()));
                return Err(self.broken(&why));
            }
            Err(error) => return Ok(Err(refusal(0, &error))),
        };
        if let Some(at) = elements.iter().position(|e| e.get("error").is_some()) {
            return Ok(Err(refusal(at, &elements[at])));
        }
        if elements.len() != sent.ops || !elements.iter().all(Value::is_object) {
            return Err(self.broken("a transaction was answered in part"));
        }
        Ok(Ok(elements))
    }

    fn call(
        &mut self,
        method: &str,
        params: &Value,
        deadline: Duration,
    ) -> Result<Result<Value, Value>, Error> {
        let until = Instant::now() + deadline;
        self.connection
            .send(method, params, until)
            .and_then(|id| self.connection.answer(id, until))
            .map_err(|failure| self.failed(failure, deadline))
    }

    fn failed(&self, failure: Failure, deadline: Duration) -> Error {
        match failure {
            Failure::Timeout => Error::Timeout { endpoint: self.endpoint.clone(), deadline },
            Failure::Io(e) => self.broken(&e.to_string()),
            Failure::Broken(why) => self.broken(&why),
        }
    }

    /// The one row of the root table.
    fn root<'a>(&self, result: &'a Value) -> Result<Row<'a>, Error> {
        rows(result).first().map(Row).ok_or_else(|| {
            self.broken("table Open_vSwitch is empty (ovs-vsctl init makes its row)")
        })
    }

    fn read<T>(&self, value: Result<T, BadColumn>) -> Result<T, Error> {
        value.map_err(|bad| self.broken(&bad.to_string()))
    }

    fn broken(&self, why: &str) -> Error {
        Error::Broken { endpoint: self.endpoint.clone(), why: why.to_owned() }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

fn refusal(at: usize, element: &Value) -> Refusal {
    let member = |name: &str| match &element[name] {
        Value::String(text) => shown(text),
        Value::Null => String::new(),
        other => shown(&other.to_string()),
    };
    Refusal { at, error: member("error"), details: member("details") }
}

/// A commit that broke the unique index on `name` (RFC 7047 section 4.1.3, "constraint violation").
fn name_taken(refusal: Refusal, commit: usize, name: &IfName, action: &str) -> Error {
    if refusal.at == commit && refusal.error == "constraint violation" {
        Error::PortExists { port: name.to_string() }
    } else {
        refusal.into_error(action)
    }
}

fn no_bridge(name: &IfName) -> Error {
    Error::NoBridge { bridge: name.to_string() }
}

/// The rows of a `select`.
fn rows(result: &Value) -> &[Value] {
    result["rows"].as_array().map_or(&[], Vec::as_slice)
}
