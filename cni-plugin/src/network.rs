//! Which bridge, and who gives the addresses there: the network configuration set against the
//! configuration of the host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use shared::address::Subnet;
use shared::config::{Bridge, Config, Mode};
use shared::error::{Fault, Kind};
use shared::name::{IfName, NameError};
use shared::network::Network;
use shared::vlan::{PortVlan, VlanId, VlanMode};

use crate::compat::OVN_BRIDGE;
use crate::netconf::{Ipam, NetConf};
use crate::subnet::{Gateway, OwnSubnet, overlaps};

/// Why a configuration does not fit this host.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Error {
    /// No bridge named, and no NAT bridge to fall back on.
    #[error("the network names no bridge, and the host configuration has no NAT bridge")]
    NoBridge,
    /// The built-in bridge name of OVN is none: cannot happen, but is said rather than assumed.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A real LAN needs a range of its own.
    #[error("subnet {subnet} is the LAN of direct bridge {bridge}, expected an explicit range")]
    LanWithoutRange {
        /// The subnet.
        subnet: IpNet,
        /// The bridge.
        bridge: IfName,
    },
    /// A real LAN has its own router.
    #[error("subnet {subnet} is the LAN of direct bridge {bridge}, expected nat false")]
    LanWithNat {
        /// The subnet.
        subnet: IpNet,
        /// The bridge.
        bridge: IfName,
    },
    /// NAT without a gateway.
    #[error("subnet {subnet} has nat true and gateway \"none\", expected a gateway for nat")]
    NatWithoutGateway {
        /// The subnet.
        subnet: IpNet,
    },
    /// Subnets of one network that are treated differently.
    #[error("subnets {first} and {second} differ in {what}, expected the same for all")]
    Mixed {
        /// The first.
        first: IpNet,
        /// The one that differs.
        second: IpNet,
        /// "nat", "whether the host is the gateway".
        what: &'static str,
    },
    /// A subnet of one address.
    #[error("subnet {subnet} has no room for a gateway beside a container")]
    NoRoom {
        /// The subnet.
        subnet: IpNet,
    },
    /// A trunk without an untagged VLAN has no place for addresses.
    #[error("subnets are given, but the port carries tagged frames only ({vlan})")]
    TaggedOnly {
        /// The VLANs of the port.
        vlan: PortVlan,
    },
    /// An IPAM plugin would hand out addresses of a pool of ours.
    #[error("ipam hands out {theirs}, which overlaps the pool {pool} of {place}")]
    Overlap {
        /// Address or range of the IPAM plugin.
        theirs: String,
        /// Our pool.
        pool: IpNet,
        /// Where it is.
        place: String,
    },
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::NoBridge => "add \"bridge\" to the network configuration",
            Self::LanWithoutRange { .. } => {
                "add a range that no DHCP server and no other host uses, such as \"range\": \"172.16.0.200-172.16.0.220\""
            }
            Self::LanWithNat { .. } => "leave nat out, or use the NAT bridge",
            Self::NatWithoutGateway { .. } => "leave gateway out, or set nat to false",
            Self::Mixed { .. } => "make two networks of them",
            Self::NoRoom { .. } => "name a larger subnet",
            Self::TaggedOnly { .. } => {
                "add \"vlan\" and \"vlan_mode\": \"native-untagged\", or leave subnets out"
            }
            Self::Overlap { .. } => {
                "leave ipam out to get addresses of that pool, or choose another range"
            }
            Self::Name(_) => return None,
        };
        Some(text.to_owned())
    }
}

/// Who gives the addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// Nobody: plain L2.
    Nobody,
    /// Our pools.
    Pool(Network),
    /// An IPAM plugin.
    Plugin(String),
}

/// Where a container is plugged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The bridge.
    pub(crate) bridge: IfName,
    /// Who gives the addresses.
    pub(crate) source: Source,
}

impl Place {
    /// Our pools, if the addresses come from there.
    pub(crate) fn subnets(&self) -> &[Subnet] {
        match &self.source {
            Source::Pool(network) => &network.subnets,
            Source::Nobody | Source::Plugin(_) => &[],
        }
    }
}

/// Decides both. Without `ipam` and `subnets`, the untagged side of a NAT bridge gives the
/// addresses of its own pools, every other place none.
pub(crate) fn settle(conf: &NetConf, ovn: bool, config: &Config) -> Result<Place, Error> {
    let bridge = match &conf.bridge {
        Some(bridge) => bridge.clone(),
        None if ovn => OVN_BRIDGE.parse()?,
        None => config.nat_bridge().ok_or(Error::NoBridge)?.name.clone(),
    };
    let configured = config.bridge(&bridge);
    let source = match &conf.ipam {
        Ipam::Plugin(kind) => Source::Plugin(kind.clone()),
        Ipam::Nobody => Source::Nobody,
        Ipam::Absent => pool(&conf.subnets, &conf.vlan, &bridge, configured)?,
    };
    Ok(Place { bridge, source })
}

/// The pool of `subnets`; without any, that of the untagged side of a NAT bridge, else none.
pub(crate) fn pool(
    subnets: &[OwnSubnet],
    vlan: &PortVlan,
    bridge: &IfName,
    configured: Option<&Bridge>,
) -> Result<Source, Error> {
    if !subnets.is_empty() {
        return own_network(subnets, vlan, bridge, configured).map(Source::Pool);
    }
    Ok(configured
        .filter(|_| is_untagged(vlan))
        .and_then(Network::of_nat_bridge)
        .map_or(Source::Nobody, Source::Pool))
}

fn is_untagged(vlan: &PortVlan) -> bool {
    *vlan == PortVlan::untagged() || *vlan == PortVlan::access(VlanId::UNTAGGED)
}

/// The network of `subnets`. On a NAT bridge the host is the gateway and masquerades unless told
/// otherwise. Anywhere else there may be a wire with a router on it, so the host takes an address
/// only when `nat` asks for it.
fn own_network(
    subnets: &[OwnSubnet],
    port: &PortVlan,
    bridge: &IfName,
    configured: Option<&Bridge>,
) -> Result<Network, Error> {
    let vlan = port.domain();
    let no_untagged = port.mode == VlanMode::Trunk
        && !port.trunks.is_empty()
        && !port.trunks.contains(&VlanId::UNTAGGED);
    if no_untagged || port.mode == VlanMode::NativeTagged {
        return Err(Error::TaggedOnly { vlan: port.clone() });
    }
    let mut settled: Vec<(Subnet, bool, bool)> = Vec::new();
    for own in subnets {
        let (subnet, host, nat) = own_subnet(own, bridge, vlan, configured)?;
        if let Some((first, first_host, first_nat)) = settled.first() {
            let what = match (host == *first_host, nat == *first_nat) {
                (true, true) => None,
                (_, false) => Some("nat"),
                (false, true) => Some("whether the host is the gateway"),
            };
            if let Some(what) = what {
                return Err(Error::Mixed { first: first.net, second: subnet.net, what });
            }
        }
        settled.push((subnet, host, nat));
    }
    let gateway = settled.iter().any(|(_, host, _)| *host);
    let nat = settled.iter().any(|(_, _, nat)| *nat);
    let subnets = settled.into_iter().map(|(subnet, ..)| subnet).collect();
    Ok(Network { bridge: bridge.clone(), vlan, subnets, gateway, nat })
}

/// One subnet, whether the host is its gateway, and whether it is masqueraded.
fn own_subnet(
    own: &OwnSubnet,
    bridge: &IfName,
    vlan: VlanId,
    configured: Option<&Bridge>,
) -> Result<(Subnet, bool, bool), Error> {
    let net = own.net;
    let mut router = None;
    let mut internal = false;
    match configured.map(|bridge| &bridge.mode) {
        Some(Mode::Nat { .. }) => internal = true,
        Some(Mode::Direct { addresses, gateway, .. }) if vlan == VlanId::UNTAGGED => {
            if addresses.iter().any(|address| overlaps(&address.trunc(), &net)) {
                if own.range.is_none() {
                    return Err(Error::LanWithoutRange { subnet: net, bridge: bridge.clone() });
                }
                if own.nat == Some(true) {
                    return Err(Error::LanWithNat { subnet: net, bridge: bridge.clone() });
                }
            }
            router = gateway.filter(|gateway| net.contains(gateway));
        }
        Some(Mode::Direct { .. }) | None => {}
    }
    if own.gateway == Gateway::Absent && own.nat == Some(true) {
        return Err(Error::NatWithoutGateway { subnet: net });
    }
    let nat = own.nat.unwrap_or(internal && own.gateway != Gateway::Absent);
    let host = own.gateway != Gateway::Absent && (nat || internal);
    let gateway = match own.gateway {
        Gateway::Absent => None,
        Gateway::At(ip) => Some(ip),
        Gateway::Unsaid if host => {
            let first = Some(first_address(&net)).filter(|first| net.contains(first));
            Some(first.ok_or(Error::NoRoom { subnet: net })?)
        }
        Gateway::Unsaid => router,
    };
    Ok((Subnet { net, range: own.range, gateway }, host, nat))
}

/// The address after the network's own.
fn first_address(net: &IpNet) -> IpAddr {
    match net.network() {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip).saturating_add(1)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip).saturating_add(1)).into(),
    }
}

/// A range of addresses, first and last.
pub(crate) type Span = (IpAddr, IpAddr);

/// Refuses an IPAM plugin's address or range that lies in a pool of ours.
pub(crate) fn refuse_overlap(theirs: &[Span], networks: &[Network]) -> Result<(), Error> {
    for &(first, last) in theirs {
        for network in networks {
            for subnet in &network.subnets {
                let (from, to) = pool_span(subnet);
                let same = from.is_ipv4() == first.is_ipv4();
                let in_range = same && first <= to && from <= last;
                let in_gateway = network.gateway
                    && subnet.gateway.is_some_and(|gateway| first <= gateway && gateway <= last);
                if in_range || in_gateway {
                    return Err(Error::Overlap {
                        theirs: if first == last {
                            first.to_string()
                        } else {
                            format!("{first}-{last}")
                        },
                        pool: subnet.net,
                        place: network.place(),
                    });
                }
            }
        }
    }
    Ok(())
}

pub(crate) fn pool_span(subnet: &Subnet) -> Span {
    subnet.range.unwrap_or((subnet.net.network(), subnet.net.broadcast()))
}

/// The ranges an `ipam` section names: `subnet`, `rangeStart`, `rangeEnd` at its top or in
/// `ranges` (host-local), `addresses` (static). What cannot be read is the plugin's to refuse.
pub(crate) fn ipam_spans(ipam: &serde_json::Map<String, serde_json::Value>) -> Vec<Span> {
    use crate::fields::lookup;
    use serde_json::Value;

    let mut spans: Vec<Span> = span(ipam).into_iter().collect();
    let list = |key: &str| lookup(ipam, key).and_then(Value::as_array).into_iter().flatten();
    for set in list("ranges") {
        for range in set.as_array().into_iter().flatten() {
            spans.extend(range.as_object().and_then(span));
        }
    }
    for entry in list("addresses") {
        let text = entry.as_object().and_then(|entry| lookup(entry, "address")?.as_str());
        if let Some(net) = text.and_then(|text| text.parse::<IpNet>().ok()) {
            spans.push((net.addr(), net.addr()));
        }
    }
    spans
}

fn span(range: &serde_json::Map<String, serde_json::Value>) -> Option<Span> {
    let text = |key: &str| crate::fields::lookup(range, key)?.as_str();
    let net: IpNet = text("subnet")?.parse().ok()?;
    let end = |key: &str| text(key)?.parse::<IpAddr>().ok().filter(|ip| net.contains(ip));
    Some((
        end("rangeStart").unwrap_or_else(|| net.network()),
        end("rangeEnd").unwrap_or_else(|| net.broadcast()),
    ))
}

#[cfg(test)]
mod tests;
