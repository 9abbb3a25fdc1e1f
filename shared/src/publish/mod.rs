//! Published ports: ports of the host through which a container is reached.
//!
//! The agent holds them: it binds each one, which is how a conflict is noticed, serves what
//! arrives there itself (127.0.0.1, ::1) and has nftables forward the rest. Here is what it is
//! asked ([`PortMapping`]), what is remembered ([`Publication`]) and what it may answer.

mod mapping;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use mapping::{PortMapping, Protocol, check};

use crate::control;
use crate::error::{Fault, Kind};
use crate::key::Key;
use crate::state::State;

/// Most ports one attachment may publish: each is two sockets of the agent.
pub const MOST: usize = 16384;

/// What the agent is asked with the verb "publish".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The attachment; its record says the addresses.
    pub key: Key,
    /// In place of all that were published for it before.
    pub ports: Vec<PortMapping>,
    /// Who binds them.
    #[serde(default)]
    pub holder: Holder,
}

/// Who binds published ports, so that nobody else can have them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holder {
    /// The agent.
    #[default]
    Agent,
    /// The runtime itself. Podman binds each port, on IPv4 where no address is given, and keeps it
    /// for as long as the container runs, without ever answering there.
    Runtime,
}

/// A port of the loopback that the runtime holds, and where the agent listens in its stead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relay {
    /// The port.
    pub mapping: PortMapping,
    /// The agent's socket, on 127.0.0.1 or ::1.
    pub to: SocketAddr,
}

/// What is published for one attachment, as it stands in `/run/ovs-port-agent/ports`: an agent
/// that starts anew finds it there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    /// The attachment.
    pub key: Key,
    /// Its ports; the host port of each is settled.
    pub ports: Vec<PortMapping>,
    /// Where they lead, at most one address of each family.
    pub targets: Vec<Target>,
    /// Who binds them.
    #[serde(default)]
    pub holder: Holder,
    /// Where they are served on the loopback, if the runtime holds them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relays: Vec<Relay>,
}

/// An address of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The address.
    pub ip: IpAddr,
    /// Whether the host is its gateway, so that packets can be sent on to it and the answers come
    /// back this way. Otherwise every connection is taken here and made anew.
    pub routed: bool,
}

/// How one published port fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The attachment.
    pub key: Key,
    /// The port.
    pub mapping: PortMapping,
    /// Why it is not held; `None` if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl Publication {
    /// Where the file of an attachment is.
    pub fn path(state: &State, key: &Key) -> PathBuf {
        state.ports().join(key.file_name())
    }

    /// The address of the container in a family.
    pub fn target(&self, v4: bool) -> Option<Target> {
        self.targets.iter().copied().find(|target| target.ip.is_ipv4() == v4)
    }
}

/// Why ports are not published.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A mapping nobody can serve.
    #[error("published port {mapping}: {problem}")]
    Invalid {
        /// As it was asked for.
        mapping: PortMapping,
        /// What is wrong, and what was expected.
        problem: &'static str,
    },
    /// Too many.
    #[error("{count} ports are to be published for one container, expected at most {MOST}")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// Two mappings of one request want the same port.
    #[error("port {mapping} is to be published twice")]
    Twice {
        /// The second.
        mapping: PortMapping,
    },
    /// Nobody could hold them.
    #[error("published ports need a running ovs-port-agent")]
    NoAgent,
    /// The container has no address.
    #[error("{key} has no address that ports could lead to")]
    NoAddress {
        /// The attachment.
        key: Key,
    },
    /// The container is on a network the host is not on.
    #[error("ports of {ip} cannot be published: the host has no address on its network")]
    Apart {
        /// The container's address.
        ip: IpAddr,
    },
    /// The container is beside the host and not behind it, and its runtime holds the port.
    #[error(
        "ports of {ip} cannot be published: Podman holds them, and the host is not its gateway"
    )]
    Beside {
        /// The container's address.
        ip: IpAddr,
    },
    /// Another container of ours has it.
    #[error("port {mapping} cannot be published: {holder} has {held}")]
    Taken {
        /// As it was asked for.
        mapping: PortMapping,
        /// The other attachment, by the name people know it.
        holder: String,
        /// What that has.
        held: PortMapping,
    },
    /// Another program has it.
    #[error("port {mapping} cannot be published: {address} is in use by another program")]
    InUse {
        /// As it was asked for.
        mapping: PortMapping,
        /// The address and port that could not be bound.
        address: SocketAddr,
    },
    /// None of a range is free.
    #[error("port {mapping} cannot be published: none of {first} to {last} is free")]
    NoneFree {
        /// As it was asked for.
        mapping: PortMapping,
        /// First of the range.
        first: u16,
        /// Last of the range.
        last: u16,
    },
    /// Not an address of this host.
    #[error("port {mapping} cannot be published: {ip} is no address of this host")]
    NotHere {
        /// As it was asked for.
        mapping: PortMapping,
        /// The address.
        ip: IpAddr,
    },
    /// The system refused.
    #[error("port {mapping} cannot be published")]
    Socket {
        /// As it was asked for.
        mapping: PortMapping,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The agent, or the way to it.
    #[error(transparent)]
    Control(control::Error),
}

impl From<control::Error> for Error {
    fn from(error: control::Error) -> Self {
        match error {
            control::Error::Absent => Self::NoAgent,
            error => Self::Control(error),
        }
    }
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Invalid { .. } | Self::TooMany { .. } | Self::Twice { .. } => Kind::Invalid,
            Self::NoAgent => Kind::Unavailable,
            Self::NoAddress { .. } | Self::Apart { .. } | Self::Beside { .. } => Kind::Unsupported,
            Self::Taken { .. } | Self::InUse { .. } => Kind::Conflict,
            Self::NoneFree { .. } => Kind::Exhausted,
            Self::NotHere { .. } => Kind::Missing,
            Self::Socket { .. } => Kind::System,
            Self::Control(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoAgent => Some(
                "start it (systemctl start ovs-port-agent), or start the container without \
                 published ports"
                    .to_owned(),
            ),
            Self::NoAddress { .. } => {
                Some("publish ports on a network that gives addresses".to_owned())
            }
            Self::Apart { .. } | Self::Beside { .. } => Some(
                "reach the container by its own address, or use a network with a gateway \
                      of the host"
                    .to_owned(),
            ),
            Self::Taken { holder, .. } => {
                Some(format!("choose another host port or address, or stop {holder}"))
            }
            Self::InUse { mapping, .. } => {
                let letter = if mapping.protocol == Protocol::Tcp { 't' } else { 'u' };
                Some(format!(
                    "choose another host port, or see who has it: ss -l{letter}np 'sport = :{}'",
                    mapping.host_port
                ))
            }
            Self::NoneFree { .. } => Some("choose another range".to_owned()),
            Self::NotHere { .. } => {
                Some("see \"ip address\" for those there are, or leave the address out".to_owned())
            }
            Self::Control(error) => error.hint(),
            Self::Invalid { .. } | Self::TooMany { .. } | Self::Twice { .. } => None,
            Self::Socket { .. } => None,
        }
    }
}
