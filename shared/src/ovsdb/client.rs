//! The way to ovsdb-server: each call is one transaction (RFC 7047 section 4.1.3), or two where the
//! second needs what the first found.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::operation::{DATABASE, Transaction, comment, insert, select, wait, wait_now};
use super::rows::{BadColumn, Row};
use super::wire::{Connection, Failure, shown};
use super::{Endpoint, Error, Generation, Uuid};
use crate::name::IfName;

/// What ovsdb-server may take to say that a `wait` came to nothing.
pub(super) const REPLY_GRACE: Duration = Duration::from_millis(200);

/// A connection to ovsdb-server. It answers the server's echo requests only while a call waits:
/// connect anew (0.1 ms) for each piece of work instead of keeping one.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    endpoint: String,
    pub(super) deadline: Duration,
    /// The port added last and its row of Interface: [`Self::wait_open`] by row needs no scan of
    /// the table at each change somebody makes to the database.
    pub(super) added: Option<(IfName, Uuid)>,
}

/// A transaction that was sent and whose answer is still to be read: what can be done meanwhile
/// costs no time of its own.
#[derive(Debug)]
#[must_use = "the answer says whether it was done"]
pub struct Sent {
    id: u64,
    /// How many operations it has.
    pub(super) ops: usize,
    until: Instant,
    deadline: Duration,
}

/// An operation that failed; nothing of its transaction was done.
pub(super) struct Refusal {
    /// Which operation; the number of operations if it was the commit itself.
    pub(super) at: usize,
    pub(super) error: String,
    details: String,
}

impl Refusal {
    pub(super) fn into_error(self, action: &str) -> Error {
        Error::Refused { action: action.to_owned(), error: self.error, details: self.details }
    }

    /// A `wait` whose condition did not hold (RFC 7047 section 5.2.6).
    pub(super) fn is_wait(&self, at: usize) -> bool {
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
    /// section 4.1.5); returns them as they are (`<table-updates>`), and [`Self::updates`] what
    /// follows.
    pub(super) fn watch(&mut self) -> Result<Value, Error> {
        let tables = json!({
            "Bridge": { "columns": ["name", "ports"] },
            "Port": { "columns": ["name", "vlan_mode", "tag", "trunks", "external_ids"] },
        });
        match self.call("monitor", &json!([DATABASE, null, tables]), self.deadline)? {
            Ok(rows) => {
                self.connection.listen();
                Ok(rows)
            }
            Err(error) => Err(Error::Refused {
                action: "watch bridges and ports".to_owned(),
                error: shown(&error.to_string()),
                details: String::new(),
            }),
        }
    }

    /// Takes what has come, without waiting: what has changed of that which is watched.
    pub(super) fn updates(&mut self) -> Result<Vec<Value>, Error> {
        let until = Instant::now() + self.deadline;
        self.connection.updates(until).map_err(|failure| self.failed(failure, self.deadline))
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

    /// Runs a transaction that is not expected to be refused.
    pub(super) fn ask(&mut self, action: &str, ops: &[Value]) -> Result<Vec<Value>, Error> {
        self.transact(ops, self.deadline)?.map_err(|refusal| refusal.into_error(action))
    }

    /// Runs a transaction and looks at every element of the answer (RFC 7047 section 4.1.3): one
    /// for each operation, null behind one that failed, and one more if the commit failed.
    pub(super) fn transact(
        &mut self,
        ops: &[Value],
        deadline: Duration,
    ) -> Result<Result<Vec<Value>, Refusal>, Error> {
        let sent = self.send(ops, deadline)?;
        self.answer(&sent)
    }

    pub(super) fn send(&mut self, ops: &[Value], deadline: Duration) -> Result<Sent, Error> {
        let until = Instant::now() + deadline;
        let id = self
            .connection
            .send("transact", &Transaction(ops), until)
            .map_err(|failure| self.failed(failure, deadline))?;
        Ok(Sent { id, ops: ops.len(), until, deadline })
    }

    pub(super) fn answer(&mut self, sent: &Sent) -> Result<Result<Vec<Value>, Refusal>, Error> {
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
    pub(super) fn root<'a>(&self, result: &'a Value) -> Result<Row<'a>, Error> {
        rows(result).first().map(Row).ok_or_else(|| {
            self.broken("table Open_vSwitch is empty (ovs-vsctl init makes its row)")
        })
    }

    pub(super) fn read<T>(&self, value: Result<T, BadColumn>) -> Result<T, Error> {
        value.map_err(|bad| self.broken(&bad.to_string()))
    }

    pub(super) fn broken(&self, why: &str) -> Error {
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

/// The rows of a `select`.
pub(super) fn rows(result: &Value) -> &[Value] {
    result["rows"].as_array().map_or(&[], Vec::as_slice)
}
