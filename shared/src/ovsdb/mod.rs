//! A small OVSDB client (RFC 7047), synchronous, with a deadline on every wait.

mod bridges;
mod client;
pub mod decoder;
mod endpoint;
#[cfg(any(test, feature = "laws"))]
pub(crate) mod laws;
mod mirror;
mod operation;
mod ports;
mod rows;
pub mod vswitchd;
mod watch;
pub mod wire;

use std::io;
use std::time::Duration;

pub use client::{Client, Sent};
pub use endpoint::{DEFAULT_SOCKET, Endpoint, EndpointError};
pub use mirror::WatchedPort;
pub use rows::{Bridge, BridgeView, Generation, Port, PortSpec, Uuid};
pub use watch::Watch;

use crate::error::{Fault, Kind};

/// What went wrong between us and OVSDB.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens.
    #[error("cannot reach ovsdb-server at {endpoint}")]
    Connect {
        /// Where.
        endpoint: String,
        /// The system's answer.
        source: io::Error,
    },
    /// No answer in time. What was asked may have been done: read back.
    #[error("ovsdb-server at {endpoint} did not answer within {} s", deadline.as_secs_f32())]
    Timeout {
        /// Where.
        endpoint: String,
        /// How long was waited.
        deadline: Duration,
    },
    /// The connection broke, or what came was no JSON-RPC.
    #[error("the connection to ovsdb-server at {endpoint} broke: {why}")]
    Broken {
        /// Where.
        endpoint: String,
        /// What was seen.
        why: String,
    },
    /// An operation of a transaction failed (RFC 7047 section 3.1 and 5.2).
    #[error("ovsdb refused to {action}: {error}: {details}")]
    Refused {
        /// What was asked.
        action: String,
        /// The `error` member.
        error: String,
        /// The `details` member.
        details: String,
    },
    /// The named bridge has no row.
    #[error("bridge \"{bridge}\" does not exist in Open vSwitch")]
    NoBridge {
        /// The bridge asked for.
        bridge: String,
    },
    /// The port asked about has no row.
    #[error("port \"{port}\" does not exist in Open vSwitch")]
    NoPort {
        /// The port.
        port: String,
    },
    /// A port or interface of that name exists.
    #[error("port \"{port}\" exists already in Open vSwitch")]
    PortExists {
        /// The port.
        port: String,
    },
    /// ovs-vswitchd could not open the port (`Interface.error`).
    #[error("ovs-vswitchd cannot open port \"{port}\": {why}")]
    PortError {
        /// The port.
        port: String,
        /// `Interface.error`.
        why: String,
    },
    /// ovs-vswitchd may still hold an earlier port of that name.
    #[error("ovs-vswitchd has not yet let go of the port that was called {port} before")]
    PortHeld {
        /// Its name.
        port: String,
    },
    /// ovs-vswitchd did not open the port in time.
    #[error("ovs-vswitchd did not open port \"{port}\" within {} s", deadline.as_secs_f32())]
    NotOpened {
        /// The port.
        port: String,
        /// How long was waited.
        deadline: Duration,
    },
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Broken { .. }
            | Self::NotOpened { .. } => Kind::Unavailable,
            Self::Refused { .. } | Self::PortError { .. } => Kind::System,
            Self::NoBridge { .. } | Self::NoPort { .. } => Kind::Missing,
            Self::PortExists { .. } => Kind::Conflict,
            Self::PortHeld { .. } => Kind::Busy,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run as root, or as a user who may open that socket".to_owned())
            }
            Self::Connect { .. } | Self::Broken { .. } => {
                Some("start Open vSwitch (systemctl start openvswitch-switch)".to_owned())
            }
            Self::Timeout { .. } => Some(
                "look at the log of ovsdb-server, then restart it (systemctl restart ovsdb-server)"
                    .to_owned(),
            ),
            Self::NotOpened { .. } => {
                Some("see whether ovs-vswitchd runs (systemctl status ovs-vswitchd)".to_owned())
            }
            Self::NoBridge { bridge } => Some(format!(
                "run \"ovs-port-agent up\", or make it with \"ovs-vsctl add-br {bridge}\""
            )),
            Self::Refused { .. }
            | Self::NoPort { .. }
            | Self::PortExists { .. }
            | Self::PortHeld { .. }
            | Self::PortError { .. } => None,
        }
    }
}
