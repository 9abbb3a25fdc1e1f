//! Links, addresses, routes and rules through rtnetlink, and the offloads of a device.
//!
//! One socket, bound to the namespace it was opened in; requests that belong together travel in
//! one send. Looks up by name or index, never dumps what can grow.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::error::{Fault, Kind};
use crate::mac::Mac;
use crate::name::IfName;
use crate::netns::{Netns, NetnsId};

/// The interface group (`IFLA_GROUP`) of the host ends we make; the host guard matches it.
pub const HOST_END_GROUP: u32 = 0x6f76;

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
            Self::System { .. } => Kind::System,
        }
    }
}

/// What the kernel says of one link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Its name.
    pub name: IfName,
    /// Its MAC, if it has an Ethernet one.
    pub mac: Option<Mac>,
    /// MTU in bytes.
    pub mtu: u32,
    /// IFF_UP.
    pub up: bool,
    /// IFLA_GROUP.
    pub group: u32,
    /// `IFLA_INFO_KIND`: "veth", "tun", "openvswitch"; empty for a physical device.
    pub kind: String,
    /// `IFLA_LINK`: index of a veth's peer in the peer's namespace.
    pub peer_index: Option<u32>,
    /// `IFLA_MASTER`.
    pub master: Option<u32>,
}

/// A veth pair to be made in one request: the host end here and up, its peer inside a namespace.
#[derive(Debug)]
pub struct Veth<'a> {
    /// Name of the host end.
    pub host: &'a IfName,
    /// Name of the container end.
    pub peer: &'a IfName,
    /// Namespace of the container end; `None` leaves it here (Docker moves it).
    pub netns: Option<&'a Netns>,
    /// MAC of the container end.
    pub peer_mac: Mac,
    /// MTU of both ends in bytes.
    pub mtu: u32,
}

/// A route of a container or of the host.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Route {
    /// Destination; `0.0.0.0/0` and `::/0` are the defaults.
    pub dst: IpNet,
    /// Next hop; `None` is on-link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// Route MTU (RTAX_MTU).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// RTAX_ADVMSS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// RTA_PRIORITY.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Routing table; main if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// rtm_scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

impl Route {
    /// A plain route without metrics.
    pub fn new(dst: IpNet, gw: Option<IpAddr>) -> Self {
        Self { dst, gw, mtu: None, advmss: None, priority: None, table: None, scope: None }
    }
}

/// What a route of [`Netlink::routes`] says besides [`Route`]: which device, whose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledRoute {
    /// Destination, next hop and metrics.
    pub route: Route,
    /// Output device; `None` for an unreachable route.
    pub oif: Option<u32>,
    /// `rtm_protocol`.
    pub protocol: u8,
    /// RTN_UNREACHABLE.
    pub unreachable: bool,
}

/// One policy routing rule (`ip rule`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Source prefix (FRA_SRC).
    pub from: IpNet,
    /// FRA_PRIORITY.
    pub priority: u32,
    /// FRA_TABLE.
    pub table: u32,
    /// FRA_SUPPRESS_PREFIXLEN.
    pub suppress_prefixlen: Option<u32>,
}

/// One rtnetlink socket.
#[derive(Debug)]
pub struct Netlink {
    _socket: (),
}

impl Netlink {
    /// A socket in the calling thread's namespace.
    pub fn open() -> Result<Self, Error> {
        todo!()
    }

    /// Makes a veth pair with ONE `RTM_NEWLINK`: host end up and in [`HOST_END_GROUP`], peer made
    /// down inside its namespace. Returns the host end's index.
    pub fn create_veth(&mut self, veth: &Veth<'_>) -> Result<u32, Error> {
        todo!()
    }

    /// The link of that name, if there is one.
    pub fn link(&mut self, name: &IfName) -> Result<Option<Link>, Error> {
        todo!()
    }

    /// The link of that index, if there is one.
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>, Error> {
        todo!()
    }

    /// Every link of this namespace. For `status` and GC, never on the attach path.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        todo!()
    }

    /// Removes the link; false if it was not there.
    pub fn delete_link(&mut self, index: u32) -> Result<bool, Error> {
        todo!()
    }

    /// In one send: lo up, addresses (IPv6 without DAD), MTU untouched, the link up, routes.
    pub fn configure(
        &mut self,
        index: u32,
        addresses: &[IpNet],
        routes: &[Route],
    ) -> Result<(), Error> {
        todo!()
    }

    /// Raises or lowers a link.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<(), Error> {
        todo!()
    }

    /// Sets the MTU in bytes.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), Error> {
        todo!()
    }

    /// Sets the MAC.
    pub fn set_mac(&mut self, index: u32, mac: Mac) -> Result<(), Error> {
        todo!()
    }

    /// The addresses of one link, link-local ones included.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<IpNet>, Error> {
        todo!()
    }

    /// Adds an address (IPv6 without DAD); false if it was there.
    pub fn add_address(&mut self, index: u32, address: IpNet) -> Result<bool, Error> {
        todo!()
    }

    /// Removes an address; false if it was not there.
    pub fn delete_address(&mut self, index: u32, address: IpNet) -> Result<bool, Error> {
        todo!()
    }

    /// The unicast and unreachable routes of both families; of `table` only, if given.
    pub fn routes(&mut self, table: Option<u32>) -> Result<Vec<InstalledRoute>, Error> {
        todo!()
    }

    /// Adds or replaces a route of ours ([`PROTOCOL`]) out of `oif`, or an unreachable one without.
    pub fn replace_route(&mut self, route: &Route, oif: Option<u32>) -> Result<(), Error> {
        todo!()
    }

    /// Removes a route of ours; false if it was not there.
    pub fn delete_route(&mut self, route: &Route, oif: Option<u32>) -> Result<bool, Error> {
        todo!()
    }

    /// The policy rules of ours ([`PROTOCOL`]), both families.
    pub fn rules(&mut self) -> Result<Vec<Rule>, Error> {
        todo!()
    }

    /// Adds a rule of ours; false if it was there.
    pub fn add_rule(&mut self, rule: &Rule) -> Result<bool, Error> {
        todo!()
    }

    /// Removes a rule of ours; false if it was not there.
    pub fn delete_rule(&mut self, rule: &Rule) -> Result<bool, Error> {
        todo!()
    }

    /// The MAC the kernel resolved for a neighbour on a link, if any.
    pub fn neighbour(&mut self, index: u32, ip: IpAddr) -> Result<Option<Mac>, Error> {
        todo!()
    }
}

/// Work inside a container's namespace, with one visit: sockets stay bound to it afterwards.
#[derive(Debug)]
pub struct Inside {
    /// The rtnetlink socket of the namespace.
    pub netlink: Netlink,
    /// Which namespace.
    pub id: NetnsId,
}
