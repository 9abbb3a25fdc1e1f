//! NAT, the guard of the host and the isolation of networks: one nftables table of ours, the
//! policy routes of named uplinks, per-interface forwarding, and the one tagged rule elsewhere.

pub mod forwarding;
mod legacy;
pub mod nft;
pub mod ports;
pub mod routing;
pub mod table;
pub mod tagged;
mod watch;
mod writer;

use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::Uplink;
use crate::control;
use crate::error::{Fault, Kind};
use crate::link::{self, InstalledRoute, Netlink, Rule};
use crate::name::IfName;
use crate::state::{self, State};

pub use legacy::Shape;
pub use table::{Missing, Plan};
pub use watch::{News, Watch};
pub use writer::Writer;

/// Prefix lengths up to this are default routes: OpenVPN's `redirect-gateway def1` writes
/// `0.0.0.0/1` and `128.0.0.0/1`.
const DEFAULT_PREFIX_V4: u8 = 1;

/// The same for IPv6: the global unicast `2000::/3`, and OpenVPN's halves of it.
const DEFAULT_PREFIX_V6: u8 = 4;

/// A network the host routes for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Its gateway interface: the local port of the bridge, or a VLAN's internal port.
    pub interface: IfName,
    /// Its subnets, IPv4 and IPv6.
    pub subnets: Vec<IpNet>,
    /// Whether its traffic leaves under the address of the uplink.
    pub masquerade: bool,
    /// Where its traffic leaves.
    pub uplink: Uplink,
}

/// Why NAT is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plan contradicts itself.
    #[error("segment {interface}: {field} {value} {problem}")]
    Invalid {
        /// The segment's gateway interface.
        interface: IfName,
        /// "subnet", "uplink", "interface".
        field: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it, and what was expected.
        problem: &'static str,
    },
    /// A gateway interface is not there.
    #[error("interface {interface} does not exist")]
    Missing {
        /// Its name.
        interface: IfName,
    },
    /// The nftables table.
    #[error("cannot {action} the nftables table {}", table::NAME)]
    Table {
        /// "write", "read", "remove".
        action: &'static str,
        /// What nf_tables said.
        source: nft::Error,
    },
    /// A link, route, policy rule or setting of an interface.
    #[error("cannot {action}")]
    Kernel {
        /// As an infinitive.
        action: &'static str,
        /// What the kernel said.
        source: link::Error,
    },
    /// The settings of all interfaces cannot be listed.
    #[error("cannot list {}", path.display())]
    List {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file that remembers what was switched on.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The tagged rule.
    #[error(transparent)]
    Tagged(#[from] tagged::Error),
    /// The agent, which writes the table while it runs.
    #[error(transparent)]
    Agent(#[from] control::Error),
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Invalid { .. } => Kind::Invalid,
            Self::Missing { .. } => Kind::Missing,
            Self::Table { source: nft::Error::Owned { .. }, .. } => Kind::Busy,
            Self::Table { source: nft::Error::Unsupported { .. }, .. } => Kind::Unsupported,
            Self::Table { source: nft::Error::Timeout { .. }, .. } => Kind::Unavailable,
            Self::Table { .. } | Self::List { .. } => Kind::System,
            Self::Kernel { source, .. } => source.kind(),
            Self::State(state) => state.kind(),
            Self::Tagged(tagged) => tagged.kind(),
            Self::Agent(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { interface } => {
                Some(format!("check the name with \"ip link show {interface}\""))
            }
            Self::Table { source: nft::Error::Unsupported { .. }, .. } => {
                Some("use a kernel with nf_tables, nft_masq and nft_ct (CONFIG_NFT_MASQ)".into())
            }
            Self::Kernel { source, .. } => source.hint(),
            Self::State(state) => state.hint(),
            Self::Tagged(tagged) => tagged.hint(),
            Self::Agent(error) => error.hint(),
            _ => None,
        }
    }
}

/// Makes table, routes and forwarding serve exactly these segments. Idempotent; returns whether
/// anything was changed. What is switched on is remembered in the state directory first. A gateway
/// that is gone is in nobody's way: its rules are written, and nothing is switched on it.
///
/// The tagged rule is [`tagged::ensure`]'s: it runs a process, this does not.
pub fn apply(state: &State, segments: &[Segment]) -> Result<bool, Error> {
    apply_as(state, segments, forwarding::Ipv6::of_this_kernel())
}

/// [`apply`], with IPv6 forwarding switched as told.
pub fn apply_as(
    state: &State,
    segments: &[Segment],
    ipv6: forwarding::Ipv6,
) -> Result<bool, Error> {
    let mut netlink = Netlink::open().map_err(|s| kernel_error("open rtnetlink", s))?;
    let mut forwarding = forwarding::Forwarding::recall(state)?;
    let (plan, wanted) = intend(&mut netlink, &forwarding, segments, ipv6)?;
    // The rules first: nothing is forwarded that they have not been asked about.
    let mut changed = table::write(state, &plan)?;
    changed |= routing::sync(&mut netlink, segments)?;
    changed |= forwarding.switch(&wanted)?;
    Ok(changed)
}

/// What [`apply`] makes the table from: for the agent, which puts it back by itself.
pub fn plan(state: &State, segments: &[Segment]) -> Result<Plan, Error> {
    let mut netlink = Netlink::open().map_err(|s| kernel_error("open rtnetlink", s))?;
    let forwarding = forwarding::Forwarding::recall(state)?;
    Ok(intend(&mut netlink, &forwarding, segments, forwarding::Ipv6::of_this_kernel())?.0)
}

fn intend(
    netlink: &mut Netlink,
    forwarding: &forwarding::Forwarding,
    segments: &[Segment],
    ipv6: forwarding::Ipv6,
) -> Result<(Plan, forwarding::Wanted), Error> {
    check(segments)?;
    let uplinks = routing::Uplinks::find(netlink, segments)?;
    let mut present = Vec::new();
    for segment in segments {
        let found = netlink.link(&segment.interface);
        if found.map_err(|s| kernel_error("look for a gateway", s))?.is_some() {
            present.push(segment.clone());
        }
    }
    let wanted = forwarding.plan(&present, &uplinks, ipv6)?;
    let switched = wanted.switched.clone();
    Ok((Plan { segments: segments.to_vec(), uplinks, switched }, wanted))
}

/// Takes away what [`apply`] made and sets every setting back; returns whether there was anything.
pub fn remove(state: &State) -> Result<bool, Error> {
    let mut netlink = Netlink::open().map_err(|s| kernel_error("open rtnetlink", s))?;
    // Reverse: forwarding ends first, so that nothing leaves without NAT meanwhile.
    let mut changed = forwarding::Forwarding::recall(state)?.restore()?;
    changed |= routing::sync(&mut netlink, &[])?;
    changed |= table::remove(state)?;
    Ok(changed)
}

/// What a segment lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lack {
    /// A rule of our table: its comment.
    Rule(String),
    /// The interface its traffic leaves by.
    Uplink(IfName),
    /// A policy rule of its uplink.
    Policy(Rule),
    /// Forwarding on its gateway interface.
    Forwarding(IfName),
}

impl std::fmt::Display for Lack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rule(comment) => write!(f, "nftables rule \"{comment}\""),
            Self::Uplink(name) => write!(f, "uplink {name}"),
            Self::Policy(rule) => {
                write!(f, "policy rule from {} to table {}", rule.from, rule.table)
            }
            Self::Forwarding(interface) => write!(f, "forwarding on {interface}"),
        }
    }
}

/// The first thing one segment lacks; `None` if nothing. For CHECK and status: reads our table and
/// our policy rules, nothing that grows with the host.
pub fn missing(segment: &Segment) -> Result<Option<Lack>, Error> {
    if let Some(lacking) = table::missing(std::slice::from_ref(segment))?.into_iter().next() {
        return Ok(Some(Lack::Rule(lacking.rule)));
    }
    let mut netlink = Netlink::open().map_err(|s| kernel_error("open rtnetlink", s))?;
    if let Uplink::Named(uplink) = &segment.uplink
        && netlink.link(uplink).map_err(|s| kernel_error("look up an uplink", s))?.is_none()
    {
        return Ok(Some(Lack::Uplink(uplink.clone())));
    }
    if let Some(rule) = routing::missing(&mut netlink, segment)? {
        return Ok(Some(Lack::Policy(rule)));
    }
    if !forwarding::is_on(segment)? {
        return Ok(Some(Lack::Forwarding(segment.interface.clone())));
    }
    Ok(None)
}

/// The default routes of the main table, unreachable ones left out.
pub fn defaults(netlink: &mut Netlink) -> Result<Vec<InstalledRoute>, Error> {
    routing::defaults(netlink)
}

/// Whether a route leads to everywhere, or to a large part of it.
fn is_default(destination: IpNet) -> bool {
    match destination {
        IpNet::V4(net) => net.prefix_len() <= DEFAULT_PREFIX_V4,
        IpNet::V6(net) => net.prefix_len() <= DEFAULT_PREFIX_V6,
    }
}

fn check(segments: &[Segment]) -> Result<(), Error> {
    let invalid = |segment: &Segment, field, value: String, problem| Error::Invalid {
        interface: segment.interface.clone(),
        field,
        value,
        problem,
    };
    for (index, segment) in segments.iter().enumerate() {
        let earlier = &segments[..index];
        if earlier.iter().any(|other| other.interface == segment.interface) {
            let value = segment.interface.to_string();
            let problem = "is the gateway of another segment too, expected one segment for each";
            return Err(invalid(segment, "interface", value, problem));
        }
        if let Uplink::Named(uplink) = &segment.uplink
            && segments.iter().any(|other| &other.interface == uplink)
        {
            let problem = "is the gateway of a segment, expected an interface to the outside";
            return Err(invalid(segment, "uplink", uplink.to_string(), problem));
        }
        for subnet in &segment.subnets {
            if is_default(*subnet) {
                let problem = "covers the internet, expected a subnet such as 10.200.0.0/24";
                return Err(invalid(segment, "subnet", subnet.to_string(), problem));
            }
            let overlaps = |other: &IpNet| {
                other.contains(&subnet.trunc().network()) || subnet.contains(&other.network())
            };
            if earlier.iter().flat_map(|other| &other.subnets).any(overlaps) {
                let problem = "overlaps a subnet of another segment, expected one apart";
                return Err(invalid(segment, "subnet", subnet.to_string(), problem));
            }
        }
    }
    Ok(())
}

fn kernel_error(action: &'static str, source: link::Error) -> Error {
    Error::Kernel { action, source }
}
