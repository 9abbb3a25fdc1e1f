//! Where an ovsdb-server listens, as ovsdb(7) "Active Database Connection Methods" writes it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Fault, Kind};

/// The socket of a packaged Open vSwitch (ovsdb-server(1), `--remote=punix:`).
pub const DEFAULT_SOCKET: &str = "/var/run/openvswitch/db.sock";

/// Where a packaged Open vSwitch keeps sockets and pid files (ovs-appctl(8), "Files").
const DEFAULT_RUNDIR: &str = "/var/run/openvswitch";

/// The port registered for OVSDB (RFC 7047 section 6).
const DEFAULT_PORT: u16 = 6640;

/// Where an ovsdb-server listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Endpoint {
    /// `unix:/path` or a bare path.
    Unix(PathBuf),
    /// `tcp:address:port`. An address, no name: a name server's silence knows no deadline.
    Tcp(SocketAddr),
}

impl Endpoint {
    /// Whether both are one server, as far as paths tell.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unix(one), Self::Unix(two)) => {
                let real = |path: &PathBuf| path.canonicalize().ok();
                one == two || real(one).is_some_and(|one| Some(one) == real(two))
            }
            _ => self == other,
        }
    }
}

/// A text that names no ovsdb-server we can talk to.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EndpointError {
    /// It is none of the forms.
    #[error(
        "\"{value}\" is not an OVSDB endpoint: unix:/path, an absolute path, tcp:address:port or tcp:[v6 address]:port"
    )]
    Malformed {
        /// What was given.
        value: String,
    },
    /// TLS is not offered.
    #[error("OVSDB endpoint \"{value}\" asks for TLS, only unix: and tcp: are offered")]
    Tls {
        /// What was given.
        value: String,
    },
}

impl Fault for EndpointError {
    fn kind(&self) -> Kind {
        match self {
            Self::Malformed { .. } => Kind::Invalid,
            Self::Tls { .. } => Kind::Unsupported,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(format!("use unix:{DEFAULT_SOCKET}, the socket of the host's own Open vSwitch"))
    }
}

impl Endpoint {
    /// The directory with the pid file and control socket of ovs-vswitchd: beside the database's
    /// socket, or the packaged place if that is reached over TCP.
    pub fn rundir(&self) -> &Path {
        match self {
            Self::Unix(path) => path.parent().unwrap_or(path),
            Self::Tcp(_) => Path::new(DEFAULT_RUNDIR),
        }
    }
}

impl Default for Endpoint {
    fn default() -> Self {
        Self::Unix(PathBuf::from(DEFAULT_SOCKET))
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let malformed = || EndpointError::Malformed { value: text.to_owned() };
        if text.starts_with("ssl:") {
            return Err(EndpointError::Tls { value: text.to_owned() });
        }
        if let Some(rest) = text.strip_prefix("tcp:") {
            let bracketed = rest.strip_prefix('[').and_then(|r| r.strip_suffix(']'));
            return rest
                .parse()
                .or_else(|_| rest.parse().map(|ip: IpAddr| (ip, DEFAULT_PORT).into()))
                .ok()
                .or_else(|| Some((bracketed?.parse::<Ipv6Addr>().ok()?, DEFAULT_PORT).into()))
                .map(Self::Tcp)
                .ok_or_else(malformed);
        }
        let path = text.strip_prefix("unix:").unwrap_or(text);
        // sockaddr_un takes 107 bytes and a final NUL (unix(7)).
        if path.starts_with('/') && path.len() <= 107 && !path.contains('\0') {
            Ok(Self::Unix(PathBuf::from(path)))
        } else {
            Err(malformed())
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: String) -> Result<Self, EndpointError> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_written() {
        for (given, written) in [
            ("unix:/run/ovs/db.sock", "unix:/run/ovs/db.sock"),
            ("/run/ovs/db.sock", "unix:/run/ovs/db.sock"),
            ("tcp:127.0.0.1:6641", "tcp:127.0.0.1:6641"),
            ("tcp:127.0.0.1", "tcp:127.0.0.1:6640"),
            ("tcp:[::1]:6641", "tcp:[::1]:6641"),
            ("tcp:[::1]", "tcp:[::1]:6640"),
        ] {
            let endpoint: Endpoint = given.parse().unwrap();
            assert_eq!(endpoint.to_string(), written);
            assert_eq!(written.parse::<Endpoint>().unwrap(), endpoint);
        }
        assert_eq!(Endpoint::Unix("/a/b.sock".into()).rundir(), Path::new("/a"));
        assert_eq!(Endpoint::default().rundir(), Path::new(DEFAULT_RUNDIR));
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        let long = format!("unix:/{}", "x".repeat(107));
        for bad in ["", "unix:", "db.sock", "unix:db.sock", "tcp:", "tcp:host:6640", "udp:1", &long]
        {
            assert!(
                matches!(bad.parse::<Endpoint>(), Err(EndpointError::Malformed { .. })),
                "{bad}"
            );
        }
        let tls = "ssl:127.0.0.1:6640".parse::<Endpoint>().unwrap_err();
        assert_eq!(tls.kind(), Kind::Unsupported);
    }
}
