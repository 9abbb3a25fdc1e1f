//! Interface names and the template that makes them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A network interface, bridge or port name: 1 to 15 bytes (IFNAMSIZ less the final NUL), a letter
/// or digit first, then letters, digits, `_`, `.` or `-`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

/// A text that is no interface name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "\"{value}\" is not an interface name: 1 to 15 letters, digits, \"_\", \".\" or \"-\", a letter or digit first"
)]
pub struct NameError {
    /// What was given.
    pub value: String,
}

impl IfName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IfName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let fits = (1..=15).contains(&text.len())
            && text.as_bytes()[0].is_ascii_alphanumeric()
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        if fits { Ok(Self(text.to_owned())) } else { Err(NameError { value: text.to_owned() }) }
    }
}

impl TryFrom<String> for IfName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<IfName> for String {
    fn from(name: IfName) -> Self {
        name.0
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A naming template such as `veth-{container}-eth{index}`, checked when it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: String,
}

impl Template {
    /// The name of interface number `index` of `container`. `salt` 0 is the first choice; each
    /// further salt gives another name for the same interface.
    pub fn render(&self, container: &str, index: u32, salt: u32) -> IfName {
        todo!()
    }
}
