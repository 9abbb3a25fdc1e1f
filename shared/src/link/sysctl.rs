//! The kernel's settings of one interface: `/proc/sys/net/{ipv4,ipv6}/conf/<interface>/<key>`.
//!
//! They are those of the calling thread's namespace.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::Error;
use crate::name::IfName;

/// Which half of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `/proc/sys/net/ipv4`.
    Ipv4,
    /// `/proc/sys/net/ipv6`.
    Ipv6,
}

/// One setting of one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    path: PathBuf,
}

impl Sysctl {
    /// The setting `key` of `interface` (which may be `all` or `default`).
    pub fn new(family: Family, interface: &IfName, key: &str) -> Self {
        let half = match family {
            Family::Ipv4 => "ipv4",
            Family::Ipv6 => "ipv6",
        };
        // Components, not sysctl(8)'s dots: an interface name may contain one.
        let conf: PathBuf = ["/proc/sys/net", half, "conf"].iter().collect();
        Self { path: conf.join(interface.as_str()).join(key) }
    }

    /// The value, without the line end. [`Error::Missing`] if the interface or the key is not
    /// there (a kernel without IPv6 has no such half).
    pub fn read(&self) -> Result<String, Error> {
        match fs::read_to_string(&self.path) {
            Ok(text) => Ok(text.trim_end().to_owned()),
            Err(source) => Err(self.error("read", source)),
        }
    }

    /// Sets the value. [`Error::Missing`] as in [`Self::read`].
    pub fn write(&self, value: &str) -> Result<(), Error> {
        fs::write(&self.path, value).map_err(|e| self.error(&format!("write {value} to"), e))
    }

    /// Sets the value unless it is that already; true if it was changed. A read-only `/proc/sys`
    /// is no obstacle to what is right.
    pub fn ensure(&self, value: &str) -> Result<bool, Error> {
        if self.read()? == value {
            return Ok(false);
        }
        self.write(value).map(|()| true)
    }

    fn error(&self, action: &str, source: io::Error) -> Error {
        if source.kind() == io::ErrorKind::NotFound {
            return Error::Missing { what: self.path.display().to_string() };
        }
        Error::System { action: format!("{action} {}", self.path.display()), source }
    }
}
