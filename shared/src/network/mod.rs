//! A network: bridge + VLAN + subnets + optional gateway + NAT. The bridges of the configuration
//! are made by [`host`]; a network with subnets of its own is made on first use ([`gateway`]).

pub mod bridge;
pub mod datapath;
mod done;
pub mod gateway;
pub mod host;
pub mod uplink;
pub(crate) mod wire;

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::address::Subnet;
use crate::config::{self, Mode};
use crate::error::{Fault, Kind};
use crate::name::IfName;
use crate::vlan::VlanId;
use crate::{interfaces, link, lock, nat, ovsdb, state};

/// `external_ids:owner` of every bridge and port of ours.
pub const OWNER: &str = "ovs-agent";

/// How long ovs-vswitchd may take to open a port of ours or to show a bridge's interface.
pub(crate) const OPEN_DEADLINE: Duration = Duration::from_secs(10);

/// An L2 domain of a bridge, with what lives on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The bridge.
    pub bridge: IfName,
    /// The VLAN; 0 is the bridge's untagged domain.
    pub vlan: VlanId,
    /// Its subnets.
    pub subnets: Vec<Subnet>,
    /// Whether the host is the gateway: an internal port carries the gateway addresses.
    pub gateway: bool,
    /// Whether its traffic is masqueraded.
    pub nat: bool,
}

impl Network {
    /// The network of a NAT bridge of the configuration: its untagged domain.
    pub fn of_nat_bridge(bridge: &config::Bridge) -> Option<Self> {
        let Mode::Nat { addresses, .. } = &bridge.mode else { return None };
        let subnets = addresses
            .iter()
            .map(|address| Subnet {
                net: address.trunc(),
                range: None,
                gateway: Some(address.addr()),
            })
            .collect();
        let vlan = VlanId::UNTAGGED;
        Some(Self { bridge: bridge.name.clone(), vlan, subnets, gateway: true, nat: true })
    }

    /// Whether this is the network of a NAT bridge of the configuration, which `up` makes.
    pub fn is_configured(&self, bridges: &[config::Bridge]) -> bool {
        bridges.iter().filter_map(Self::of_nat_bridge).any(|other| {
            other.bridge == self.bridge
                && other.vlan == self.vlan
                && self.subnets.iter().all(|s| other.subnets.iter().any(|o| o.net == s.net))
        })
    }

    /// Bridge and VLAN in words.
    pub fn place(&self) -> String {
        place(&self.bridge, self.vlan)
    }

    /// The gateway's addresses.
    fn gateway_addresses(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.subnets
            .iter()
            .filter_map(|subnet| IpNet::new(subnet.gateway?, subnet.net.prefix_len()).ok())
    }
}

/// Bridge and VLAN in words.
fn place(bridge: &IfName, vlan: VlanId) -> String {
    if vlan == VlanId::UNTAGGED {
        format!("{bridge}, untagged")
    } else {
        format!("{bridge}, VLAN {vlan}")
    }
}

/// How many names an error lists.
const NAMES_SHOWN: usize = 5;

/// Some names, for an error.
pub(crate) fn listed<T: ToString>(names: &[T]) -> String {
    let mut shown: Vec<_> = names.iter().take(NAMES_SHOWN).map(ToString::to_string).collect();
    if names.len() > NAMES_SHOWN {
        shown.push(format!("and {} more", names.len() - NAMES_SHOWN));
    }
    shown.join(", ")
}

/// Why a bridge or network is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A subnet overlaps another network's.
    #[error("subnet {subnet} of {place} overlaps {other} of {other_place}")]
    Overlap {
        /// The new subnet.
        subnet: IpNet,
        /// Where it was to live.
        place: String,
        /// The subnet there is.
        other: IpNet,
        /// Where that lives.
        other_place: String,
    },
    /// A network with subnets of its own, where a NAT bridge's own network is.
    #[error("subnet {subnets} cannot be on {place}: that is the configuration's network {own}")]
    Configured {
        /// The subnets asked for.
        subnets: String,
        /// Where they were to live.
        place: String,
        /// The bridge.
        bridge: IfName,
        /// The subnets of the configuration.
        own: String,
    },
    /// Two networks on one VLAN want different gateways in one subnet.
    #[error("subnet {subnet} of {place} has the gateway {found}, not {wanted}")]
    OtherGateway {
        /// The subnet.
        subnet: IpNet,
        /// Where it lives.
        place: String,
        /// The gateway there is.
        found: String,
        /// The gateway asked for.
        wanted: String,
    },
    /// The uplink carries the host's own address.
    #[error("uplink {uplink} of bridge {bridge} carries {addresses}")]
    UplinkHasAddress {
        /// The wired port.
        uplink: IfName,
        /// The bridge.
        bridge: IfName,
        /// Its addresses.
        addresses: String,
    },
    /// A DHCP client would go on renewing the address where it no longer is.
    #[error("uplink {uplink} of bridge {bridge} has {address} from a DHCP server: {holder}")]
    UplinkLeased {
        /// The wired port.
        uplink: IfName,
        /// The bridge.
        bridge: IfName,
        /// The address.
        address: IpNet,
        /// Who holds it.
        holder: String,
    },
    /// A gateway does not answer where the host's addresses are to go, or went.
    #[error("gateway {gateway} does not answer on {interface} within {} s", waited.as_secs())]
    GatewaySilent {
        /// The next hop of a default route.
        gateway: IpAddr,
        /// Where it was asked.
        interface: IfName,
        /// How long.
        waited: Duration,
    },
    /// A move failed, and everything is as it was.
    #[error("the move was taken back, everything is as it was")]
    TakenBack {
        /// Why it failed.
        source: Box<Self>,
    },
    /// A move failed, and so did the way back.
    #[error("{cause}; and then the way back failed")]
    NotTakenBack {
        /// Why it failed.
        cause: Box<Self>,
        /// What could not be undone.
        source: Box<Self>,
    },
    /// A move waits for its confirmation: nothing else is done meanwhile.
    #[error("the move of {route} waits to be confirmed, for {left} s more")]
    Unconfirmed {
        /// "enp2s0 to ovsbr0".
        route: String,
        /// Seconds.
        left: u64,
    },
    /// Nothing waits to be confirmed.
    #[error("there is nothing to confirm: {why}")]
    NothingToConfirm {
        /// Why not.
        why: String,
    },
    /// Nobody could be left standing by.
    #[error("cannot start the process that takes the move back if this one dies")]
    NoGuard {
        /// The system's answer.
        source: io::Error,
    },
    /// The MAC did not become what it should be.
    #[error("the MAC of {interface} did not become {mac} within {} s", waited.as_secs())]
    Mac {
        /// The interface.
        interface: IfName,
        /// The MAC asked for.
        mac: crate::mac::Mac,
        /// How long was waited.
        waited: Duration,
    },
    /// The uplink belongs to another bridge or bond.
    #[error("uplink {uplink} of bridge {bridge} belongs to {owner}")]
    UplinkTaken {
        /// The wired port.
        uplink: IfName,
        /// The bridge.
        bridge: IfName,
        /// Its owner.
        owner: String,
    },
    /// No such interface.
    #[error("uplink {uplink} of bridge {bridge} does not exist")]
    NoUplink {
        /// The wired port.
        uplink: IfName,
        /// The bridge.
        bridge: IfName,
    },
    /// Something else has the bridge's name.
    #[error("the name of bridge {bridge} is taken by {owner}")]
    NameTaken {
        /// The bridge.
        bridge: IfName,
        /// What has it.
        owner: String,
    },
    /// Another default route has the metric of ours: the kernel would replace it.
    #[error(
        "bridge {bridge} cannot have a default route via {gateway}: there is one with metric \
         {metric} already, out of {owner}"
    )]
    RouteTaken {
        /// The bridge.
        bridge: IfName,
        /// The gateway of the configuration.
        gateway: IpAddr,
        /// The metric of both.
        metric: u32,
        /// The interface the other one leads to.
        owner: String,
    },
    /// Somebody else plugged ports into a bridge of ours.
    #[error("ports that are not ours hang on bridge {bridge}: {names}")]
    ForeignPorts {
        /// The bridge.
        bridge: IfName,
        /// Some of them.
        names: String,
    },
    /// An internal port of ours has a name that another port has.
    #[error("gateway port {port} of {place} cannot be made: {owner} has a port of that name")]
    PortTaken {
        /// Its name.
        port: IfName,
        /// The network.
        place: String,
        /// Who has it.
        owner: String,
    },
    /// The interface of an internal port did not appear.
    #[error("interface {interface} did not appear within {} s of making its port", waited.as_secs())]
    NoInterface {
        /// The interface.
        interface: IfName,
        /// How long was waited.
        waited: Duration,
    },
    /// The interface of an internal port did not go away.
    #[error(
        "interface {interface} is still there {} s after its port was removed",
        waited.as_secs()
    )]
    InterfaceStays {
        /// The interface.
        interface: IfName,
        /// How long was waited.
        waited: Duration,
    },
    /// The MTU did not become what it should be.
    #[error("the MTU of {interface} did not become {mtu} within {} s", waited.as_secs())]
    Mtu {
        /// The interface.
        interface: IfName,
        /// The MTU asked for.
        mtu: u32,
        /// How long was waited.
        waited: Duration,
    },
    /// The agent would bring up what is taken down.
    #[error("ovs-port-agent runs, and would bring everything up again")]
    AgentRuns,
    /// Containers are plugged in.
    #[error("{} plugged in: {names}", if *count == 1 { "1 container is".to_owned() } else { format!("{count} containers are") })]
    InUse {
        /// How many.
        count: usize,
        /// Some of them.
        names: String,
    },
    /// The kernel cannot be asked for its datapath.
    #[error("cannot ask the kernel whether it has the openvswitch datapath")]
    Datapath {
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel.
    #[error(transparent)]
    Link(#[from] link::Error),
    /// Open vSwitch.
    #[error(transparent)]
    Ovsdb(#[from] ovsdb::Error),
    /// ovs-vswitchd.
    #[error(transparent)]
    Vswitchd(#[from] ovsdb::vswitchd::Error),
    /// nftables, forwarding, policy routes.
    #[error(transparent)]
    Nat(#[from] nat::Error),
    /// The managed block.
    #[error(transparent)]
    Interfaces(#[from] interfaces::Error),
    /// A lock.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// The state directory.
    #[error(transparent)]
    State(#[from] state::Error),
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Overlap { .. } | Self::OtherGateway { .. } | Self::Configured { .. } => {
                Kind::Conflict
            }
            Self::UplinkHasAddress { .. } | Self::UplinkTaken { .. } | Self::InUse { .. } => {
                Kind::Conflict
            }
            Self::NameTaken { .. }
            | Self::RouteTaken { .. }
            | Self::ForeignPorts { .. }
            | Self::PortTaken { .. } => Kind::Conflict,
            Self::NoUplink { .. } => Kind::Missing,
            Self::UplinkLeased { .. } => Kind::Unsupported,
            Self::GatewaySilent { .. } => Kind::Unavailable,
            Self::TakenBack { source } => source.kind(),
            Self::NotTakenBack { cause, .. } => cause.kind(),
            Self::Unconfirmed { .. } | Self::AgentRuns => Kind::Busy,
            Self::NothingToConfirm { .. } => Kind::Missing,
            Self::NoInterface { .. }
            | Self::InterfaceStays { .. }
            | Self::Mtu { .. }
            | Self::Mac { .. } => Kind::Unavailable,
            Self::Datapath { .. } | Self::NoGuard { .. } => Kind::System,
            Self::Link(error) => error.kind(),
            Self::Ovsdb(error) => error.kind(),
            Self::Vswitchd(error) => error.kind(),
            Self::Nat(error) => error.kind(),
            Self::Interfaces(error) => error.kind(),
            Self::Lock(error) => error.kind(),
            Self::State(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Overlap { .. } => Some("choose another subnet".to_owned()),
            Self::Configured { bridge, .. } => Some(format!(
                "name a VLAN of its own, leave the subnet out to join the network there is, or \
                 give {bridge} another address in the configuration"
            )),
            Self::OtherGateway { found, .. } => {
                Some(format!("ask for gateway {found}, or for another VLAN"))
            }
            Self::UplinkHasAddress { bridge, .. } => Some(format!(
                "run \"ovs-port-agent up --move-uplink\", which moves it to {bridge} and back \
                 again unless you confirm that the host can still be reached; or leave uplink out"
            )),
            Self::UplinkLeased { bridge, .. } => Some(format!(
                "give {bridge} a static address in the configuration (addresses, gateway), or \
                 configure the uplink statically first"
            )),
            Self::GatewaySilent { gateway, interface, .. } => Some(format!(
                "see whether it is there at all (ping {gateway}), and whether the switch behind \
                 {interface} lets a bridge in (port security)"
            )),
            Self::TakenBack { source } => source.hint(),
            Self::NotTakenBack { .. } => Some(
                "the running agent goes on trying; with it stopped, \"ovs-port-agent down\" does"
                    .to_owned(),
            ),
            Self::Unconfirmed { .. } => Some(
                "run \"ovs-port-agent up --confirm\" to keep it, or wait until it is taken back"
                    .to_owned(),
            ),
            Self::NothingToConfirm { .. } | Self::NoGuard { .. } => None,
            Self::Mac { .. } => Some("see the log of ovs-vswitchd".to_owned()),
            Self::UplinkTaken { uplink, .. } => {
                Some(format!("take {uplink} out of it first, or name another uplink"))
            }
            Self::NoUplink { .. } => {
                Some("see \"ip link\" for the names, and correct uplink".to_owned())
            }
            Self::NameTaken { bridge, .. } => {
                Some(format!("rename or remove that, or call bridge {bridge} otherwise"))
            }
            Self::RouteTaken { .. } => {
                Some("give that route another metric, or leave gateway out".to_owned())
            }
            Self::ForeignPorts { .. } => Some(
                "unplug them first (ovs-vsctl del-port), or say --force to remove them with the \
                 bridge"
                    .to_owned(),
            ),
            Self::PortTaken { port, .. } => {
                Some(format!("remove it first (ovs-vsctl del-port {port})"))
            }
            Self::NoInterface { .. } | Self::InterfaceStays { .. } => {
                Some("see whether ovs-vswitchd runs (systemctl status ovs-vswitchd)".to_owned())
            }
            Self::Mtu { .. } => {
                Some("see the log of ovs-vswitchd, or choose a smaller mtu".to_owned())
            }
            Self::AgentRuns => {
                Some("stop it first: systemctl stop ovs-port-agent ovs-agent-docker".to_owned())
            }
            Self::InUse { .. } => Some("stop them, or say --force to unplug them".to_owned()),
            Self::Datapath { .. } => None,
            Self::Link(error) => error.hint(),
            Self::Ovsdb(error) => error.hint(),
            Self::Vswitchd(error) => error.hint(),
            Self::Nat(error) => error.hint(),
            Self::Interfaces(error) => error.hint(),
            Self::Lock(error) => error.hint(),
            Self::State(error) => error.hint(),
        }
    }
}
