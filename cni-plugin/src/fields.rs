//! JSON objects as Go reads them: keys in any case, `null` the same as absent, wrong types refused
//! with the path of the key.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::IpNet;
use serde_json::{Map, Value};
use shared::error::{Fault, Kind};

/// What is wrong with a value of the network configuration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Error {
    /// A value that cannot be used.
    #[error("{field} is {value}, expected {expected}")]
    Value {
        /// Path of the key.
        field: String,
        /// The value, shortened.
        value: String,
        /// What would have been right.
        expected: String,
    },
    /// A key that is needed is not there.
    #[error("{field} is missing, expected {expected}")]
    Missing {
        /// Path of the key.
        field: String,
        /// What would have been right.
        expected: &'static str,
    },
    /// A key nobody knows.
    #[error("unknown key {field} (value {value})")]
    Unknown {
        /// Path of the key.
        field: String,
        /// The value, shortened.
        value: String,
        /// The known key it resembles.
        similar: Option<&'static str>,
    },
    /// Understood, but not offered.
    #[error("{field} ({value}) is not supported yet")]
    Unsupported {
        /// Path of the key.
        field: String,
        /// The value, shortened.
        value: String,
        /// The way out.
        hint: &'static str,
    },
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Value { .. } | Self::Missing { .. } => Kind::Invalid,
            Self::Unknown { .. } | Self::Unsupported { .. } => Kind::Unsupported,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { similar: Some(similar), .. } => {
                Some(format!("did you mean \"{similar}\"?"))
            }
            Self::Unknown { similar: None, .. } => {
                Some("remove it; docs/cni.md lists the keys".to_owned())
            }
            Self::Unsupported { hint, .. } => Some((*hint).to_owned()),
            Self::Value { .. } | Self::Missing { .. } => None,
        }
    }
}

/// A value as it appears in an error: at most 60 characters.
pub(crate) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The value of `key` in any case; an exact match first. `null` counts as absent.
pub(crate) fn lookup<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    map.get(key)
        .or_else(|| map.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, v)| v))
        .filter(|value| !value.is_null())
}

/// One JSON object being read; it remembers the keys it was asked for.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    path: String,
    map: &'a Map<String, Value>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// Reads the object `map` found at `path` (empty for the top level).
    pub(crate) fn new(path: impl Into<String>, map: &'a Map<String, Value>) -> Self {
        Self { path: path.into(), map, known: Vec::new() }
    }

    /// Reads `value` found at `path` as an object.
    pub(crate) fn of(path: impl Into<String>, value: &'a Value) -> Result<Self, Error> {
        let path = path.into();
        match value {
            Value::Object(map) => Ok(Self { path, map, known: Vec::new() }),
            other => Err(Error::Value {
                field: path,
                value: shown(other),
                expected: "an object".to_owned(),
            }),
        }
    }

    /// The path of one of its keys, for errors.
    pub(crate) fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// An error about one of its keys.
    pub(crate) fn wrong(&self, key: &str, value: &Value, expected: impl Display) -> Error {
        Error::Value { field: self.path(key), value: shown(value), expected: expected.to_string() }
    }

    /// The value of a key.
    pub(crate) fn get(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.push(key);
        lookup(self.map, key)
    }

    /// A text; an empty one counts as absent, as in Go.
    pub(crate) fn text(&mut self, key: &'static str) -> Result<Option<&'a str>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Some(other) => Err(self.wrong(key, other, "a string")),
        }
    }

    /// A text that a type of ours understands; `expected` describes it.
    pub(crate) fn parsed<T: FromStr>(
        &mut self,
        key: &'static str,
        expected: &str,
    ) -> Result<Option<T>, Error> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| self.wrong(key, &Value::from(text), expected))
    }

    /// A whole number in a range.
    pub(crate) fn number(
        &mut self,
        key: &'static str,
        range: &RangeInclusive<u64>,
    ) -> Result<Option<u64>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64() {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(self.wrong(
                key,
                value,
                format_args!("a whole number from {} to {}", range.start(), range.end()),
            )),
        }
    }

    /// True or false.
    pub(crate) fn flag(&mut self, key: &'static str) -> Result<Option<bool>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.wrong(key, other, "true or false")),
        }
    }

    /// A list; absent is empty.
    pub(crate) fn list(&mut self, key: &'static str) -> Result<&'a [Value], Error> {
        match self.get(key) {
            None => Ok(&[]),
            Some(Value::Array(list)) => Ok(list),
            Some(other) => Err(self.wrong(key, other, "a list")),
        }
    }

    /// A list of texts; absent is empty.
    pub(crate) fn texts(&mut self, key: &'static str) -> Result<Vec<&'a str>, Error> {
        let list = self.list(key)?;
        list.iter()
            .map(|value| value.as_str().ok_or_else(|| self.wrong(key, value, "a list of strings")))
            .collect()
    }

    /// An object of its own; absent is an empty one.
    pub(crate) fn object(&mut self, key: &'static str) -> Result<Option<Self>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => Fields::of(self.path(key), value).map(Some),
        }
    }

    /// The keys and values, for objects whose keys are the user's own.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.map.iter()
    }

    /// Refuses the first key that nobody asked for.
    pub(crate) fn finish(self) -> Result<(), Error> {
        let unknown = self
            .map
            .iter()
            .find(|(name, _)| !self.known.iter().any(|known| known.eq_ignore_ascii_case(name)));
        match unknown {
            None => Ok(()),
            Some((name, value)) => Err(Error::Unknown {
                field: self.path(name),
                value: shown(value),
                similar: similar(name, &self.known),
            }),
        }
    }
}

/// Refuses a next hop of another family than what it leads to.
pub(crate) fn same_family(
    fields: &Fields<'_>,
    key: &str,
    hop: Option<IpAddr>,
    net: &IpNet,
) -> Result<(), Error> {
    match hop {
        Some(hop) if hop.is_ipv4() != net.addr().is_ipv4() => {
            let value = Value::from(hop.to_string());
            Err(fields.wrong(key, &value, format_args!("an address of the family of {net}")))
        }
        _ => Ok(()),
    }
}

/// What [`shared::mac::Mac`] reads.
pub(crate) const A_MAC: &str = "a unicast MAC address such as 02:00:5e:10:00:01";

/// What [`shared::name::IfName`] reads.
pub(crate) const A_NAME: &str =
    "an interface name of 1 to 15 letters, digits, \"_\", \".\" or \"-\", a letter or digit first";

/// What [`std::net::IpAddr`] reads.
pub(crate) const AN_ADDRESS: &str = "an IP address";

/// What [`ipnet::IpNet`] reads.
pub(crate) const A_SUBNET: &str = "a subnet such as 10.10.0.0/24";

/// The known key that differs least from `name`, if it could be a slip of the pen: at most a third
/// of its letters.
fn similar(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    known
        .iter()
        .map(|key| (distance(&name, &key.to_ascii_lowercase()), *key))
        .filter(|(distance, key)| *distance <= key.len().max(name.len()).div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, key)| key)
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_match_in_any_case_and_the_exact_one_wins() {
        let value = json!({"RuntimeConfig": 1, "MTU": 2, "mtu": 3, "Bridge": null});
        let map = value.as_object().unwrap();
        assert_eq!(lookup(map, "runtimeConfig"), Some(&json!(1)));
        assert_eq!(lookup(map, "mtu"), Some(&json!(3)));
        assert_eq!(lookup(map, "bridge"), None);
    }

    #[test]
    fn wrong_types_name_path_value_and_expectation() {
        let value = json!({"args": {"mtu": "1500"}, "bridge": 7, "isolated": "yes"});
        let mut top = Fields::of("", &value).unwrap();
        assert_eq!(top.text("bridge").unwrap_err().to_string(), "bridge is 7, expected a string");
        assert_eq!(
            top.flag("isolated").unwrap_err().to_string(),
            "isolated is \"yes\", expected true or false"
        );
        let mut inner = top.object("args").unwrap().unwrap();
        assert_eq!(
            inner.number("mtu", &(68..=65535)).unwrap_err().to_string(),
            "args.mtu is \"1500\", expected a whole number from 68 to 65535"
        );
    }

    #[test]
    fn an_unknown_key_suggests_the_one_that_was_meant() {
        for (typed, meant) in [
            ("brigde", Some("bridge")),
            ("vlans", Some("vlan")),
            ("tag", None),
            ("external-ids", Some("external_ids")),
            ("zzzzzz", None),
        ] {
            let value = json!({typed: 1});
            let mut fields = Fields::of("", &value).unwrap();
            for key in ["bridge", "vlan", "external_ids", "mtu"] {
                assert!(fields.get(key).is_none());
            }
            let Error::Unknown { field, similar, .. } = fields.finish().unwrap_err() else {
                panic!("{typed} was taken");
            };
            assert_eq!((field.as_str(), similar), (typed, meant));
        }
    }

    #[test]
    fn a_long_value_is_shortened_in_errors() {
        assert_eq!(shown(&json!("x".repeat(100))).chars().count(), 61);
    }
}
