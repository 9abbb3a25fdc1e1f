//! Networks made on first use: a VLAN of a bridge with subnets of its own, whose gateway is an
//! internal port of the bridge.
//!
//! Kept until `down`, one file each in `/run/ovs-port-agent/networks`, as a bridge is kept.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::{Error, Network, OPEN_DEADLINE, OWNER, bridge, place};
use crate::address::{self, Subnet};
use crate::config::{Config, Mode, Uplink};
use crate::hex;
use crate::link::Netlink;
use crate::mac::Mac;
use crate::name::IfName;
use crate::nat;
use crate::ovsdb::{self, Client, PortSpec};
use crate::state::{self, State};
use crate::vlan::{PortVlan, VlanId};

/// `external_ids:ovs-agent-role` of an internal port that is a gateway.
pub const ROLE_GATEWAY: &str = "gateway";

/// The networks of a host.
#[derive(Debug)]
pub struct Networks<'a> {
    config: &'a Config,
    state: State,
}

impl<'a> Networks<'a> {
    /// The networks of this configuration and of this boot.
    pub fn new(config: &'a Config) -> Self {
        Self { config, state: State::new(config.state_dir.clone()) }
    }

    /// Every network with subnets: those of the configuration, then those made on first use.
    pub fn all(&self) -> Result<Vec<Network>, Error> {
        let mut networks: Vec<_> =
            self.config.bridges.iter().filter_map(Network::of_nat_bridge).collect();
        networks.extend(self.made()?);
        Ok(networks)
    }

    /// The networks made on first use. Where the configuration has one by now, that counts.
    pub fn made(&self) -> Result<Vec<Network>, Error> {
        let mut networks = self.on_record()?;
        networks.retain(|network| {
            self.configured(network).is_none() && self.overlapped(network).is_none()
        });
        Ok(networks)
    }

    fn on_record(&self) -> Result<Vec<Network>, Error> {
        let mut networks = Vec::new();
        for path in state::files(&self.state.networks())? {
            networks.extend(state::read(&path)?);
        }
        Ok(networks)
    }

    /// Refuses a configuration with a subnet that a network made on first use has elsewhere.
    pub(super) fn check(&self) -> Result<(), Error> {
        for network in self.on_record()? {
            if let Some(overlap) = self.overlapped(&network) {
                return Err(overlap);
            }
        }
        Ok(())
    }

    /// The overlap of a network with a subnet that the configuration has in another place.
    fn overlapped(&self, network: &Network) -> Option<Error> {
        let elsewhere =
            |bridge: &IfName| (bridge, VlanId::UNTAGGED) != (&network.bridge, network.vlan);
        let mut configured = self.config.subnets().filter(|(bridge, _)| elsewhere(&bridge.name));
        configured.find_map(|(bridge, subnet)| {
            let made = network.subnets.iter().find(|s| address::overlaps(s.net, subnet))?;
            Some(Error::Overlap {
                subnet,
                place: place(&bridge.name, VlanId::UNTAGGED),
                other: made.net,
                other_place: network.place(),
            })
        })
    }

    /// The network of the configuration in the same place.
    fn configured(&self, network: &Network) -> Option<Network> {
        let mut all = self.config.bridges.iter().filter_map(Network::of_nat_bridge);
        all.find(|other| (&other.bridge, other.vlan) == (&network.bridge, network.vlan))
    }

    /// A NAT bridge's own network has the subnets of the configuration and no others.
    fn refuse_configured(&self, network: &Network) -> Result<(), Error> {
        let Some(own) = self.configured(network) else { return Ok(()) };
        let nets = |network: &Network| {
            let nets: Vec<_> = network.subnets.iter().map(|s| s.net.to_string()).collect();
            nets.join(" and ")
        };
        Err(Error::Configured {
            subnets: nets(network),
            place: network.place(),
            bridge: network.bridge.clone(),
            own: nets(&own),
        })
    }

    /// What nftables and routing must do for all networks.
    pub fn segments(&self) -> Result<Vec<nat::Segment>, Error> {
        Ok(self.segments_of(&self.all()?))
    }

    fn segments_of(&self, networks: &[Network]) -> Vec<nat::Segment> {
        networks.iter().filter(|network| network.gateway).map(|n| self.segment(n)).collect()
    }

    /// What nftables and routing must do for one network.
    pub fn segment(&self, network: &Network) -> nat::Segment {
        let uplink = self.config.bridges.iter().find(|b| b.name == network.bridge).and_then(|b| {
            match &b.mode {
                Mode::Nat { uplink, .. } => Some(uplink.clone()),
                Mode::Direct { .. } => None,
            }
        });
        nat::Segment {
            interface: gateway_port(network),
            subnets: network.subnets.iter().map(|subnet| subnet.net).collect(),
            masquerade: network.nat,
            uplink: uplink.unwrap_or(Uplink::Default),
        }
    }

    /// Makes what is missing of `network`: its gateway port, addresses, forwarding and NAT. What
    /// `up` makes is left to `up`. Returns quickly when everything is there. An earlier network of
    /// the same place gives way if `vacant` says that nobody is plugged into it; else they are one.
    pub fn ensure(
        &self,
        network: &Network,
        netlink: &mut Netlink,
        vacant: impl FnOnce() -> bool,
    ) -> Result<(), Error> {
        if network.is_configured(&self.config.bridges) {
            return Ok(());
        }
        self.refuse_configured(network)?;
        let path = self.path(network);
        if self.is_made(&path, network)?
            && (!network.gateway || netlink.link(&gateway_port(network))?.is_some())
        {
            return Ok(());
        }
        let _lock = self.state.lock("networks")?;
        let mut network = network.clone();
        self.refuse_overlap(&network)?;
        let before = state::read::<Network>(&path)?;
        let replaced = match before {
            Some(before) if vacant() => Some(before),
            Some(before) => {
                merge(&mut network, before)?;
                None
            }
            None => None,
        };
        if network.gateway {
            self.make_gateway(&network, netlink)?;
        }
        let mut networks = self.all()?;
        networks.retain(|other| (&other.bridge, other.vlan) != (&network.bridge, network.vlan));
        networks.push(network.clone());
        nat::apply(&self.state, &self.segments_of(&networks))?;
        if let Some(before) = replaced {
            self.give_way(&before, &network, netlink)?;
        }
        // Last: a network that is written down is whole.
        Ok(state::write(&path, &network)?)
    }

    /// Whether [`Self::ensure`] would find room for `network` beside the others; makes nothing.
    pub fn admit(&self, network: &Network) -> Result<(), Error> {
        if network.is_configured(&self.config.bridges) {
            return Ok(());
        }
        self.refuse_configured(network)?;
        self.refuse_overlap(network)?;
        match state::read::<Network>(&self.path(network))? {
            Some(before) => merge(&mut network.clone(), before),
            None => Ok(()),
        }
    }

    /// Takes the subnets of `network` away again, and with the last of them its gateway port.
    pub fn forget(&self, network: &Network) -> Result<(), Error> {
        if network.is_configured(&self.config.bridges) {
            return Ok(());
        }
        let _lock = self.state.lock("networks")?;
        let path = self.path(network);
        // One that is not written down may be there in part: whoever made or forgot it was killed.
        let made = state::read::<Network>(&path)?.map(|mut made| {
            made.subnets.retain(|subnet| !network.subnets.iter().any(|s| s.net == subnet.net));
            made
        });
        let rest = made.filter(|made| !made.subnets.is_empty());
        match &rest {
            Some(rest) => state::write(&path, rest)?,
            None => drop(state::remove(&path)?),
        }
        // NAT first: it speaks of the port. A bridge that another network has lost is not in its
        // way.
        nat::apply(&self.state, &self.segments()?)?;
        if !network.gateway || network.vlan == VlanId::UNTAGGED {
            return Ok(());
        }
        let name = gateway_port(network);
        if rest.is_none() {
            return self.delete_gateway(&name);
        }
        let mut netlink = Netlink::open()?;
        if let Some(link) = netlink.link(&name)? {
            for address in network.gateway_addresses() {
                netlink.delete_address(link.index, address)?;
            }
        }
        Ok(())
    }

    /// Takes away what the gateway of an earlier network has and that of this one has not.
    fn give_way(
        &self,
        before: &Network,
        network: &Network,
        netlink: &mut Netlink,
    ) -> Result<(), Error> {
        let name = gateway_port(before);
        if before.gateway && !network.gateway && before.vlan != VlanId::UNTAGGED {
            return self.delete_gateway(&name);
        }
        let Some(link) = netlink.link(&name)? else { return Ok(()) };
        let kept: Vec<_> =
            if network.gateway { network.gateway_addresses().collect() } else { Vec::new() };
        let old = before.gateway_addresses().filter(|_| before.gateway);
        for address in old.filter(|address| !kept.contains(address)) {
            netlink.delete_address(link.index, address)?;
        }
        if network.gateway {
            // The first address of a subnet takes the others along.
            self.make_gateway(network, netlink)?;
        }
        Ok(())
    }

    /// Removes a gateway port, and waits until the switch has seen that: the next network of this
    /// VLAN takes the same name.
    fn delete_gateway(&self, name: &IfName) -> Result<(), Error> {
        let mut ovsdb = Client::connect(&self.config.ovsdb, bridge::OVSDB_DEADLINE)?;
        let Some(port) = ovsdb.port(name)? else { return Ok(()) };
        let ours = role(ROLE_GATEWAY).iter().all(|(k, v)| port.external_ids.get(k) == Some(v));
        if ours {
            let generation = ovsdb.delete_ports(&[port.uuid])?;
            ovsdb.wait_applied(generation, OPEN_DEADLINE)?;
        }
        Ok(())
    }

    /// Gives the gateway port of a VLAN an MTU of its own.
    pub fn set_mtu(&self, network: &Network, mtu: u32) -> Result<(), Error> {
        if network.gateway && network.vlan != VlanId::UNTAGGED {
            let mut ovsdb = Client::connect(&self.config.ovsdb, bridge::OVSDB_DEADLINE)?;
            ovsdb.set_mtu(&gateway_port(network), Some(mtu))?;
        }
        Ok(())
    }

    fn is_made(&self, path: &Path, network: &Network) -> Result<bool, Error> {
        Ok(state::read::<Network>(path)?.is_some_and(|made| {
            made.gateway == network.gateway
                && made.nat == network.nat
                && network.subnets.iter().all(|subnet| {
                    made.subnets.iter().any(|m| m.net == subnet.net && m.gateway == subnet.gateway)
                })
        }))
    }

    /// A subnet lives in one place: a network of ours, or a bridge on which the host has an
    /// address in it.
    fn refuse_overlap(&self, network: &Network) -> Result<(), Error> {
        let networks = self.all()?;
        let ours = networks.iter().flat_map(|other| {
            other.subnets.iter().map(|subnet| (&other.bridge, other.vlan, subnet.net))
        });
        let hosts = self.config.subnets();
        let hosts = hosts.map(|(bridge, net)| (&bridge.name, VlanId::UNTAGGED, net));
        for (bridge, vlan, other) in ours.chain(hosts) {
            let same_place = *bridge == network.bridge && vlan == network.vlan;
            for Subnet { net, .. } in &network.subnets {
                if address::overlaps(*net, other) && !(same_place && *net == other) {
                    return Err(Error::Overlap {
                        subnet: *net,
                        place: network.place(),
                        other,
                        other_place: place(bridge, vlan),
                    });
                }
            }
        }
        Ok(())
    }

    /// Makes or repairs the gateway port of a network; returns what was done.
    pub(super) fn make_gateway(
        &self,
        network: &Network,
        netlink: &mut Netlink,
    ) -> Result<Vec<String>, Error> {
        let mut acts = Vec::new();
        let name = gateway_port(network);
        if network.vlan != VlanId::UNTAGGED && self.add_gateway_port(network, &name, netlink)? {
            acts.push("made".to_owned());
        }
        let link = bridge::wait_for_link(netlink, &name, OPEN_DEADLINE)?;
        for address in network.gateway_addresses() {
            if netlink.add_address(link.index, address)? {
                acts.push(format!("{address} added"));
            }
        }
        if !link.up {
            if network.vlan != VlanId::UNTAGGED {
                bridge::skip_address_detection(&name)?;
            }
            netlink.set_up(link.index, true)?;
            acts.push("set up".to_owned());
        }
        Ok(acts)
    }

    /// False if it was there.
    fn add_gateway_port(
        &self,
        network: &Network,
        name: &IfName,
        netlink: &mut Netlink,
    ) -> Result<bool, Error> {
        let mut ovsdb = Client::connect(&self.config.ovsdb, bridge::OVSDB_DEADLINE)?;
        let mtu = netlink.link(&network.bridge)?.map(|link| link.mtu);
        let port = PortSpec {
            name: name.clone(),
            interface_type: "internal".to_owned(),
            vlan: PortVlan::access(network.vlan),
            ofport_request: None,
            mac: Some(Mac::from_hash(format!("gateway {name}").as_bytes())),
            mtu_request: mtu,
            protected: false,
            external_ids: role(ROLE_GATEWAY),
            interface_external_ids: BTreeMap::new(),
        };
        let added = match ovsdb.add_port(&network.bridge, &port) {
            Ok(_) => true,
            Err(ovsdb::Error::PortExists { .. }) => {
                let there = ovsdb.port(name)?;
                let ours = there.as_ref().is_some_and(|there| {
                    bridge::role_of(&there.external_ids) == Some(ROLE_GATEWAY)
                        && there.bridge.as_ref() == Some(&network.bridge)
                });
                if !ours {
                    let owner = there.and_then(|there| there.bridge);
                    return Err(Error::PortTaken {
                        port: name.clone(),
                        place: network.place(),
                        owner: owner
                            .map_or_else(|| "somebody else".to_owned(), |b| format!("bridge {b}")),
                    });
                }
                false
            }
            Err(error) => return Err(error.into()),
        };
        ovsdb.wait_open(name, OPEN_DEADLINE)?;
        Ok(added)
    }

    fn path(&self, network: &Network) -> PathBuf {
        self.state.networks().join(format!("{}-{}.json", network.bridge, network.vlan))
    }
}

/// `external_ids` of a port that is ours but no attachment.
pub(crate) fn role(role: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("owner".to_owned(), OWNER.to_owned()),
        ("ovs-agent-role".to_owned(), role.to_owned()),
    ])
}

/// The interface that carries a network's gateway addresses: the bridge's own for the untagged
/// domain, else an internal port "ovsbr1.30" (or a hash where that is longer than a name may be).
pub fn gateway_port(network: &Network) -> IfName {
    if network.vlan == VlanId::UNTAGGED {
        return network.bridge.clone();
    }
    let readable = format!("{}.{}", network.bridge, network.vlan);
    readable.parse().unwrap_or_else(|_| {
        let hash = Sha256::digest(readable.as_bytes());
        // Eleven letters, digits and a dash always make a name.
        format!("gw-{}", hex::encode(&hash[..4])).parse().unwrap_or_else(|_| network.bridge.clone())
    })
}

/// Adds what an earlier use of the same VLAN made.
fn merge(network: &mut Network, before: Network) -> Result<(), Error> {
    for old in before.subnets {
        match network.subnets.iter_mut().find(|new| new.net == old.net) {
            None => network.subnets.push(old),
            Some(new) if new.gateway.is_none() => new.gateway = old.gateway,
            Some(new) if old.gateway.is_some() && old.gateway != new.gateway => {
                let word =
                    |ip: Option<std::net::IpAddr>| ip.map_or_else(String::new, |ip| ip.to_string());
                return Err(Error::OtherGateway {
                    subnet: new.net,
                    place: place(&network.bridge, network.vlan),
                    found: word(old.gateway),
                    wanted: word(new.gateway),
                });
            }
            Some(_) => {}
        }
    }
    network.gateway |= before.gateway;
    network.nat |= before.nat;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(vlan: u64, gateway: &str) -> Network {
        Network {
            bridge: "ovsbr1".parse().unwrap(),
            vlan: vlan.try_into().unwrap(),
            subnets: vec![Subnet {
                net: "10.30.0.0/24".parse().unwrap(),
                range: None,
                gateway: Some(gateway.parse().unwrap()),
            }],
            gateway: true,
            nat: false,
        }
    }

    #[test]
    fn a_gateway_port_is_named_after_bridge_and_vlan() {
        assert_eq!(gateway_port(&network(30, "10.30.0.1")).as_str(), "ovsbr1.30");
        assert_eq!(gateway_port(&network(0, "10.30.0.1")).as_str(), "ovsbr1");
        let mut long = network(4094, "10.30.0.1");
        long.bridge = "a-bridge-of-15b".parse().unwrap();
        assert!(gateway_port(&long).as_str().starts_with("gw-"));
    }

    #[test]
    fn a_second_gateway_in_one_subnet_is_refused() {
        let mut new = network(30, "10.30.0.254");
        let error = merge(&mut new, network(30, "10.30.0.1")).unwrap_err();
        assert!(matches!(error, Error::OtherGateway { .. }), "{error}");
    }
}
