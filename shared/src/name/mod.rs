//! Interface names and the template that makes them.

#[cfg(any(test, feature = "laws"))]
pub(crate) mod laws;
mod template;

pub use template::{Template, TemplateError};

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest interface name in bytes: IFNAMSIZ (16, `linux/if.h`) less the final NUL.
pub const MAX_LEN: usize = 15;

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
    /// A name that stands in this program.
    pub fn known(name: &'static str) -> Self {
        debug_assert!(name.parse::<Self>().is_ok(), "{name}");
        Self(name.to_owned())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IfName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let fits = (1..=MAX_LEN).contains(&text.len())
            && text.as_bytes()[0].is_ascii_alphanumeric()
            && text.bytes().all(is_legal);
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

/// Whether an interface name may contain this byte.
fn is_legal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_the_kernel_and_ovs_both_take() {
        for good in ["a", "0", "eth0", "br-lan.100", "abcdefghijklmno", "veth_1"] {
            assert_eq!(good.parse::<IfName>().unwrap().as_str(), good);
        }
        for bad in ["", "abcdefghijklmnop", "-a", ".", "..", "a b", "a/b", "a:b", "é", "a\n", "a%d"]
        {
            assert_eq!(bad.parse::<IfName>(), Err(NameError { value: bad.to_owned() }));
        }
    }
}
