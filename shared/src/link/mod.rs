//! Links, addresses, routes and rules through rtnetlink, and the offloads of a device.
//!
//! One socket, bound to the namespace it was opened in; requests that belong together travel in
//! one send. Looks up by name or index, never dumps what can grow.

mod address;
mod announce;
mod device;
pub mod filter;
mod inside;
mod ioctl;
mod neighbour;
mod object;
mod offload;
pub mod probe;
mod route;
mod rule;
pub mod saved;
mod socket;
pub mod sysctl;
mod unlink;
mod veth;
mod watch;

use std::io;

pub use device::Link;
pub use inside::{Inside, Ipv6};
pub use ioctl::{exists, mtu};
pub use route::{InstalledRoute, Route};
pub use rule::Rule;
pub use socket::Netlink;
pub use unlink::Unlink;
pub use veth::Veth;
pub use watch::Watch;

use crate::error::{Fault, Kind};
use crate::netns;

/// The interface group (`IFLA_GROUP`) of the host ends we make; the host guard matches it.
pub const HOST_END_GROUP: u32 = 0x6f76;

/// The interface group of an uplink that is a port of a userspace bridge: the host guard matches it.
pub const UPLINK_GROUP: u32 = 0x6f77;

/// `rtm_protocol` and `FRA_PROTOCOL` of every route and rule of ours, so that only ours are removed.
pub const PROTOCOL: u8 = 0x6f;

/// Why the kernel did not do it. Variants let callers decide idempotence without reading text.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A link, address, route or rule of that name exists.
    #[error("{what} exists already")]
    Exists {
        /// What was to be made.
        what: String,
    },
    /// It is not there.
    #[error("{what} does not exist")]
    Missing {
        /// What was looked for.
        what: String,
    },
    /// The kernel did not answer in time.
    #[error("no answer from the kernel to: {action}")]
    Timeout {
        /// What was asked.
        action: String,
    },
    /// The namespace to work in cannot be used.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// Anything else the kernel or the socket said.
    #[error("cannot {action}")]
    System {
        /// What was asked, as an infinitive: "create veth-web-eth0".
        action: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Exists { .. } => Kind::Conflict,
            Self::Missing { .. } => Kind::Missing,
            Self::Timeout { .. } => Kind::Unavailable,
            Self::Namespace(error) => error.kind(),
            Self::System { .. } => Kind::System,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Namespace(error) => error.hint(),
            Self::System { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run as root (CAP_NET_ADMIN is needed)".to_owned())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
