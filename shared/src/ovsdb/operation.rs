//! The operations a transaction consists of (RFC 7047 section 5.2).

use std::time::Duration;

use serde::ser::{Serialize, SerializeSeq as _, Serializer};
use serde_json::{Value, json};

use super::Uuid;
use crate::name::IfName;

/// The database (ovs-vswitchd.conf.db(5)).
pub(super) const DATABASE: &str = "Open_vSwitch";

/// The parameters of `transact`: the database, then the operations (RFC 7047 section 4.1.3).
pub(super) struct Transaction<'a>(pub(super) &'a [Value]);

impl Serialize for Transaction<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut params = to.serialize_seq(Some(self.0.len() + 1))?;
        params.serialize_element(DATABASE)?;
        for operation in self.0 {
            params.serialize_element(operation)?;
        }
        params.end()
    }
}

pub(super) fn by_name(name: &IfName) -> Value {
    json!([["name", "==", name.as_str()]])
}

pub(super) fn by_uuid(uuid: &Uuid) -> Value {
    json!([["_uuid", "==", uuid.to_json()]])
}

pub(super) fn select(table: &str, condition: &Value, columns: &[&str]) -> Value {
    json!({ "op": "select", "table": table, "where": condition, "columns": columns })
}

/// `uuid_name` names the new row inside its transaction. It must be an identifier (RFC 7047
/// section 3.1, `<id>`): never a port's name, which may hold a dash or a dot.
pub(super) fn insert(table: &str, uuid_name: &str, row: &Value) -> Value {
    json!({ "op": "insert", "table": table, "uuid-name": uuid_name, "row": row })
}

pub(super) fn mutate(table: &str, condition: &Value, mutations: &Value) -> Value {
    json!({ "op": "mutate", "table": table, "where": condition, "mutations": mutations })
}

/// Holds the transaction back until the rows compare as said, at most `timeout`.
pub(super) fn wait(
    table: &str,
    condition: &Value,
    columns: &[&str],
    until: &str,
    rows: &Value,
    timeout: Duration,
) -> Value {
    // Rounded up: 0 would be no wait at all.
    let millis = u64::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
    json!({
        "op": "wait", "timeout": millis, "table": table, "where": condition, "columns": columns,
        "until": until, "rows": rows,
    })
}

/// A guard: the transaction fails at once unless the rows are these.
pub(super) fn wait_now(table: &str, condition: &Value, columns: &[&str], rows: &Value) -> Value {
    wait(table, condition, columns, "==", rows, Duration::ZERO)
}

/// Asks ovs-vswitchd to say when it has applied this transaction (ovs-vswitchd.conf.db(5),
/// `next_cfg`).
pub(super) fn catch_up() -> Value {
    mutate(DATABASE, &json!([]), &json!([["next_cfg", "+=", 1]]))
}

/// What the database's log says of the transaction.
pub(super) fn comment(text: &str) -> Value {
    json!({ "op": "comment", "comment": format!("ovs-agent: {text}") })
}
