//! What the plugin notes in an attachment's record: DEL and GC must know who gave the addresses,
//! even when the configuration has changed since or is gone.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shared::attachment::Record;

/// The note.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memo {
    /// The IPAM plugin that gave the addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) delegate: Option<Delegated>,
    /// `dns` of the result.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub(crate) dns: Map<String, Value>,
}

/// An IPAM plugin and the configuration it was called with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Delegated {
    /// Its `type`.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// What it got on stdin.
    pub(crate) stdin: Map<String, Value>,
}

impl Memo {
    /// The note of a record; an unreadable one counts as empty.
    pub(crate) fn of(record: Option<&Record>) -> Self {
        record
            .and_then(|record| serde_json::from_value(record.front_end.clone()).ok())
            .unwrap_or_default()
    }

    /// As the record keeps it.
    pub(crate) fn to_value(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_ipam_plugin_got_is_kept_to_the_last_digit() {
        let stdin: Map<String, Value> =
            serde_json::from_str(r#"{"weight": 111111100000340230158, "half": 0.1}"#).unwrap();
        let delegate = Some(Delegated { kind: "x".to_owned(), stdin });
        let memo = Memo { delegate, ..Memo::default() };
        let text = serde_json::to_string(&memo).unwrap();
        assert_eq!(serde_json::from_str::<Memo>(&text).unwrap(), memo);
    }
}
