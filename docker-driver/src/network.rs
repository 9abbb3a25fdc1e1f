//! What a Docker network becomes: bridge, VLAN, subnets, gateway and NAT, decided once when it is
//! created.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use shared::address::{Subnet, overlaps};
use shared::config::{Config, Mode};
use shared::name::IfName;
use shared::network::Network;
use shared::vlan::VlanId;

use crate::error::Error;
use crate::ipam::{Pool, SPACE};
use crate::message::{AddressData, CreateNetwork, INTERNAL};
use crate::options::NetworkOptions;

/// Least MTU of IPv6 (RFC 8200 section 5).
const MTU_V6: u32 = 1280;

/// A Docker network. dockerd sends `CreateNetwork` once in its life: this is all we have of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DockerNetwork {
    /// Docker's id of it.
    pub(crate) id: String,
    /// Where it lives.
    pub(crate) place: Network,
    /// `--internal`: no way out.
    pub(crate) internal: bool,
    /// MTU of its containers in bytes; the bridge's own if `None`.
    pub(crate) mtu: Option<u32>,
    /// Docker has removed it, but not everything of it could be taken away yet.
    #[serde(default)]
    pub(crate) removed: bool,
    /// It is being made: dockerd has not been told that it is there.
    #[serde(default)]
    pub(crate) unfinished: bool,
    /// dockerd has listed it: one that lists it no more has removed it.
    #[serde(default)]
    pub(crate) seen: bool,
}

impl DockerNetwork {
    /// The name in records, in `external_ids` and in the ledger: Docker's short id.
    pub(crate) fn short(&self) -> String {
        self.id.chars().take(12).collect()
    }

    /// The gateway for a container with this address.
    pub(crate) fn gateway_of(&self, address: IpAddr) -> Option<IpAddr> {
        if self.internal {
            return None;
        }
        self.place.subnets.iter().find(|subnet| subnet.net.contains(&address))?.gateway
    }
}

/// What is there already.
pub(crate) struct Surroundings<'a> {
    pub(crate) config: &'a Config,
    /// Networks made on first use, by whichever front end.
    pub(crate) made: &'a [Network],
    /// The other networks of Docker.
    pub(crate) others: &'a [DockerNetwork],
    /// The pools of our own IPAM.
    pub(crate) pools: &'a [Pool],
}

/// One subnet as Docker gave it.
struct Given {
    net: IpNet,
    gateway: Option<IpAddr>,
    /// Its addresses come from our own IPAM.
    ours: bool,
    /// No subnet was named: it is that of the NAT bridge.
    unnamed: bool,
}

impl Given {
    fn read(data: &AddressData) -> Result<Option<Self>, Error> {
        let wrong = |value: &str, problem| Error::field("subnet", value, problem, "name another");
        let net: IpNet =
            data.pool.parse().map_err(|_| wrong(&data.pool, "is no subnet: expected a.b.c.d/n"))?;
        let ours = data.address_space == SPACE;
        if net.prefix_len() == 0 {
            // `--ipam-driver null`, or our own without a subnet: then the gateway tells it.
            let joined = data.gateway.parse().ok().filter(|_| ours);
            return Ok(joined.map(|gateway: IpNet| Self {
                net: gateway.trunc(),
                gateway: Some(gateway.addr()),
                ours,
                unnamed: true,
            }));
        }
        let gateway = match data.gateway.as_str() {
            "" => None,
            text => {
                let address = text.split('/').next().unwrap_or_default();
                let gateway = address.parse().ok().filter(|gateway: &IpAddr| net.contains(gateway));
                Some(gateway.ok_or_else(|| wrong(text, "is no address of the subnet"))?)
            }
        };
        Ok(Some(Self { net: net.trunc(), gateway, ours, unnamed: false }))
    }
}

/// Decides what `request` becomes.
pub(crate) fn plan(
    request: &CreateNetwork,
    around: &Surroundings<'_>,
) -> Result<DockerNetwork, Error> {
    let options = NetworkOptions::read(&request.options)?;
    let internal = request.options.get(INTERNAL).and_then(serde_json::Value::as_bool);
    let internal = internal.unwrap_or(false);
    let mut given = Vec::new();
    for data in request.ipv4.iter().chain(&request.ipv6) {
        given.extend(Given::read(data)?);
    }
    if let Some(mtu) = options.mtu.filter(|mtu| *mtu < MTU_V6)
        && given.iter().any(|subnet| !subnet.net.addr().is_ipv4())
    {
        let problem = "is too small for IPv6, which needs 1280 bytes";
        return Err(Error::field("-o mtu", &mtu.to_string(), problem, "write -o mtu=1280"));
    }
    let bridge = match &options.bridge {
        Some(bridge) => bridge.clone(),
        None => around.config.nat_bridge().map(|bridge| bridge.name.clone()).ok_or_else(|| {
            Error::refused(
                "no NAT bridge is configured",
                "name a bridge with -o bridge=…, or add one with mode = \"nat\" to config.toml",
            )
        })?,
    };
    let nat = around
        .config
        .bridge(&bridge)
        .filter(|bridge| matches!(bridge.mode, Mode::Nat { .. }))
        .and_then(Network::of_nat_bridge);
    if given.iter().any(|subnet| subnet.unnamed)
        && !nat.as_ref().is_some_and(|own| joins(own, &given))
    {
        let what =
            "no subnet is named, and without one --ipam-driver ovs-agent joins the NAT bridge";
        let hint = "add --subnet, and on a bridge to a real network --ip-range and --gateway too";
        return Err(Error::field(
            "-o bridge",
            bridge.as_str(),
            &format!("cannot be: {what}"),
            hint,
        ));
    }
    let place = match nat {
        Some(own) if joins(&own, &given) => join(own, &given, &options, internal)?,
        Some(own) => own_vlan(&own.bridge, &given, &options, internal, around)?,
        None => real_network(bridge, &given, &options, internal, around)?,
    };
    let network = DockerNetwork {
        id: request.network.clone(),
        place,
        internal,
        mtu: options.mtu,
        removed: false,
        unfinished: true,
        seen: false,
    };
    refuse_overlap(&network.place, around)?;
    Ok(network)
}

/// Whether a subnet of the NAT bridge itself is named.
fn joins(own: &Network, given: &[Given]) -> bool {
    given.iter().any(|subnet| own.subnets.iter().any(|other| other.net == subnet.net))
}

/// The NAT bridge's own network, shared with CNI and Podman.
fn join(
    own: Network,
    given: &[Given],
    options: &NetworkOptions,
    internal: bool,
) -> Result<Network, Error> {
    let mut subnets = Vec::new();
    for subnet in given {
        let Some(same) = own.subnets.iter().find(|other| other.net == subnet.net) else {
            return Err(Error::field(
                "subnet",
                &subnet.net.to_string(),
                &format!("is not one of {}, the other subnet named is", own.bridge),
                "name only subnets of the bridge, or none of them",
            ));
        };
        if !subnet.ours {
            return Err(Error::field(
                "subnet",
                &subnet.net.to_string(),
                &format!("is that of {}, whose addresses CNI and Podman give out too", own.bridge),
                "add --ipam-driver ovs-agent, so that no address is given twice",
            ));
        }
        if subnet.gateway != same.gateway {
            let text = subnet.gateway.map_or_else(String::new, |ip| ip.to_string());
            let wanted = same.gateway.map_or_else(String::new, |ip| ip.to_string());
            let problem = format!("is not the gateway of {}", subnet.net);
            let hint = format!("leave --gateway out, or write --gateway {wanted}");
            return Err(Error::field("gateway", &text, &problem, &hint));
        }
        subnets.push(same.clone());
    }
    let place = format!("the subnet of {} itself", own.bridge);
    if let Some(vlan) = options.vlan.filter(|vlan| *vlan != VlanId::UNTAGGED) {
        let problem = format!("cannot be: {place} is untagged");
        let hint = "leave vlan out, or name another subnet";
        return Err(Error::field("-o vlan", &vlan.to_string(), &problem, hint));
    }
    if options.nat == Some(false) {
        let problem = format!("cannot be: {place} is masqueraded");
        return Err(Error::field("-o nat", "false", &problem, "name another subnet"));
    }
    if internal {
        return Err(Error::refused(
            format!("{place} cannot be internal: others share it"),
            "name another subnet with --subnet, so that the network gets a VLAN of its own",
        ));
    }
    Ok(Network { subnets, ..own })
}

/// A VLAN of its own on the NAT bridge.
fn own_vlan(
    bridge: &IfName,
    given: &[Given],
    options: &NetworkOptions,
    internal: bool,
    around: &Surroundings<'_>,
) -> Result<Network, Error> {
    let holder = |vlan: VlanId| {
        let here = |network: &Network| network.bridge == *bridge && network.vlan == vlan;
        let docker = around.others.iter().find(|other| here(&other.place));
        docker.map(|other| format!("Docker network {}", other.short())).or_else(|| {
            around.made.iter().any(here).then(|| "a network of another runtime".to_owned())
        })
    };
    let vlan = match options.vlan {
        Some(VlanId::UNTAGGED) => {
            let own = around.config.bridge(bridge).map(|b| b.addresses().to_vec());
            let own: Vec<_> =
                own.unwrap_or_default().iter().map(|net| net.trunc().to_string()).collect();
            return Err(Error::field(
                "-o vlan",
                "0",
                &format!("is the own network of {bridge}, {}", own.join(" and ")),
                "add --ipam-driver ovs-agent to join it, or leave vlan out",
            ));
        }
        Some(vlan) => {
            if let Some(holder) = holder(vlan) {
                let problem = format!("is in use on {bridge} by {holder}");
                let hint = "name another, or none";
                return Err(Error::field("-o vlan", &vlan.to_string(), &problem, hint));
            }
            vlan
        }
        None => {
            let (first, last) = around.config.docker_vlans;
            (first.get()..=last.get())
                .filter_map(|id| VlanId::try_from(u64::from(id)).ok())
                .find(|vlan| holder(*vlan).is_none())
                .ok_or_else(|| {
                    Error::refused(
                        format!("every VLAN from {first} to {last} of {bridge} is in use"),
                        "remove a network, or widen docker_vlans in config.toml",
                    )
                })?
        }
    };
    let gateway = !internal && given.iter().any(|subnet| subnet.gateway.is_some());
    if options.nat == Some(true) && !gateway {
        let what = if internal { "an internal network" } else { "a network without a gateway" };
        let problem = format!("cannot be: {what} has no way out");
        return Err(Error::field("-o nat", "true", &problem, "leave it out"));
    }
    let subnets = given
        .iter()
        .map(|subnet| Subnet {
            net: subnet.net,
            range: None,
            gateway: subnet.gateway.filter(|_| gateway),
        })
        .collect();
    let nat = gateway && options.nat.unwrap_or(true);
    Ok(Network { bridge: bridge.clone(), vlan, subnets, gateway, nat })
}

/// The real network behind a bridge with an uplink.
fn real_network(
    bridge: IfName,
    given: &[Given],
    options: &NetworkOptions,
    internal: bool,
    around: &Surroundings<'_>,
) -> Result<Network, Error> {
    if options.nat == Some(true) {
        let problem = format!("cannot be: {bridge} leads to the real network");
        return Err(Error::field("-o nat", "true", &problem, "leave it out"));
    }
    if internal {
        return Err(Error::refused(
            format!("a network on {bridge} cannot be internal: it is the real network"),
            "leave --internal out, or leave -o bridge out",
        ));
    }
    let mut subnets = Vec::new();
    for subnet in given {
        let range = "add --ipam-driver ovs-agent --subnet … --ip-range … --gateway …, or \
                     --ipam-driver null for no addresses";
        let pools = || around.pools.iter().filter(|pool| subnet.ours && pool.net == subnet.net);
        if !pools().any(|pool| pool.range.is_some()) {
            return Err(Error::field(
                "subnet",
                &subnet.net.to_string(),
                &format!("has no range: {bridge} leads to the real network, where others live"),
                range,
            ));
        }
        if !pools().any(|pool| pool.gateway_named) {
            return Err(Error::field(
                "subnet",
                &subnet.net.to_string(),
                "has no --gateway, and the router of a real network cannot be guessed",
                "add --gateway with the address of the router",
            ));
        }
        subnets.push(Subnet { net: subnet.net, range: None, gateway: subnet.gateway });
    }
    let vlan = options.vlan.unwrap_or(VlanId::UNTAGGED);
    Ok(Network { bridge, vlan, subnets, gateway: false, nat: false })
}

fn refuse_overlap(network: &Network, around: &Surroundings<'_>) -> Result<(), Error> {
    let docker = around.others.iter().map(|other| &other.place);
    let host = around.config.subnets().map(|(bridge, net)| (bridge.name.clone(), net));
    let others = docker
        .chain(around.made)
        .flat_map(|other| {
            other.subnets.iter().map(|subnet| (other.bridge.clone(), other.vlan, subnet.net))
        })
        .chain(host.map(|(bridge, net)| (bridge, VlanId::UNTAGGED, net)));
    for (bridge, vlan, old) in others {
        for new in &network.subnets {
            // One network under two names: its addresses come from one pool.
            let same = bridge == network.bridge && vlan == network.vlan && old == new.net;
            if overlaps(new.net, old) && !same {
                let place = Network { bridge, vlan, subnets: vec![], gateway: false, nat: false };
                return Err(Error::field(
                    "subnet",
                    &new.net.to_string(),
                    &format!("overlaps {old} of {}", place.place()),
                    "choose another subnet",
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
