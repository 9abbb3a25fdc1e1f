//! One bridge of the configuration: made or adopted, with its uplink, addresses and route.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::gateway::role;
use super::{Error, OPEN_DEADLINE, datapath};
use crate::config::{self, Mode};
use crate::link::sysctl::{Family, Sysctl};
use crate::link::{self, Link, Netlink, Route};
use crate::mac::Mac;
use crate::name::IfName;
use crate::ovsdb::{self, Client, PortSpec};
use crate::vlan::PortVlan;

/// How long ovsdb-server may take for one answer.
pub(super) const OVSDB_DEADLINE: Duration = Duration::from_secs(5);

/// `external_ids:ovs-agent-role` of an uplink that we plugged in.
pub const ROLE_UPLINK: &str = "uplink";

/// Metric of the default route through a direct bridge: behind NetworkManager's wired 100, before
/// its wireless 600.
const ROUTE_METRIC: u32 = 220;

/// What `up` did to a bridge that `down` has to undo.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Addresses added to its interface.
    pub addresses: Vec<IpNet>,
    /// Default gateways routed through it.
    pub gateways: Vec<IpAddr>,
    /// Its interface was down before.
    pub raised: bool,
    /// Its uplink was down before.
    pub uplink_raised: bool,
}

/// Makes or adopts the bridge; everything that stands already is left as it is. True if anything
/// changed.
pub(super) fn ensure(
    bridge: &config::Bridge,
    ovsdb: &mut Client,
    netlink: &mut Netlink,
    done: &mut Done,
) -> Result<bool, Error> {
    let uplink = match &bridge.mode {
        Mode::Direct { uplink: Some(uplink), .. } => {
            Some(free_uplink(bridge, uplink, ovsdb, netlink)?)
        }
        _ => None,
    };
    let made = make(bridge, uplink.as_ref().map(|(link, _)| link), ovsdb)?;
    let mut changed = made;
    if let Some((link, false)) = &uplink {
        plug_uplink(bridge, link, ovsdb, netlink)?;
        done.uplink_raised |= !link.up;
        changed = true;
    }
    let link = wait_for_link(netlink, &bridge.name, OPEN_DEADLINE)?;
    if let Some(mtu) = bridge.mtu.filter(|mtu| *mtu != link.mtu) {
        ovsdb.set_mtu(&bridge.name, mtu)?;
        changed = true;
    }
    let (addresses, gateway) = match &bridge.mode {
        Mode::Direct { addresses, gateway, .. } => (addresses, *gateway),
        Mode::Nat { addresses, .. } => (addresses, None),
    };
    for address in addresses {
        if netlink.add_address(link.index, *address)? {
            done.addresses.push(*address);
            changed = true;
        }
    }
    if !link.up {
        if made && matches!(bridge.mode, Mode::Nat { .. }) {
            skip_address_detection(&bridge.name)?;
        }
        netlink.set_up(link.index, true)?;
        done.raised = true;
        changed = true;
    }
    if let Some(gateway) = gateway {
        changed |= add_default_route(netlink, link.index, gateway, done)?;
    }
    Ok(changed)
}

fn make(bridge: &config::Bridge, uplink: Option<&Link>, ovsdb: &mut Client) -> Result<bool, Error> {
    match ovsdb.view(&bridge.name) {
        Ok(_) => return Ok(false),
        Err(ovsdb::Error::NoBridge { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let datapath = match &bridge.datapath_type {
        Some(datapath) => datapath,
        None => datapath::choose()?,
    };
    // Left alone, a bridge takes the lowest MAC among its ports, and changes it as containers
    // come and go: every neighbour cache would point to a MAC that nobody has.
    let mac = uplink
        .and_then(|link| link.mac)
        .unwrap_or_else(|| Mac::from_hash(format!("bridge {}", bridge.name).as_bytes()));
    Ok(ovsdb.add_bridge(&bridge.name, datapath, Some(mac), &role("bridge"))?)
}

/// For a gateway interface of ours that is still down. Until duplicate address detection has
/// finished with its link-local address, up to two seconds, the kernel solicits no neighbour for
/// packets it forwards: the first IPv6 connections out of a new network would get no answer.
pub(super) fn skip_address_detection(gateway: &IfName) -> Result<(), Error> {
    match Sysctl::new(Family::Ipv6, gateway, "accept_dad").ensure("0") {
        Ok(_) | Err(link::Error::Missing { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The uplink, and whether it is plugged into this bridge already.
fn free_uplink(
    bridge: &config::Bridge,
    name: &IfName,
    ovsdb: &mut Client,
    netlink: &mut Netlink,
) -> Result<(Link, bool), Error> {
    let link = netlink
        .link(name)?
        .ok_or_else(|| Error::NoUplink { uplink: name.clone(), bridge: bridge.name.clone() })?;
    let taken = |owner: String| Error::UplinkTaken {
        uplink: name.clone(),
        bridge: bridge.name.clone(),
        owner,
    };
    if let Some(port) = ovsdb.port(name)? {
        return match port.bridge {
            Some(owner) if owner != bridge.name => Err(taken(format!("bridge {owner}"))),
            _ => Ok((link, true)),
        };
    }
    if let Some(master) = link.master {
        let owner = netlink.link_by_index(master)?;
        return Err(taken(
            owner.map_or_else(|| "another device".to_owned(), |o| o.name.to_string()),
        ));
    }
    // fe80::/10 comes with every raised interface and is nobody's configuration.
    let addresses: Vec<_> = netlink
        .addresses(link.index)?
        .into_iter()
        .filter(|address| !matches!(address.addr(), IpAddr::V6(v6) if v6.is_unicast_link_local()))
        .map(|address| address.to_string())
        .collect();
    if !addresses.is_empty() {
        return Err(Error::UplinkHasAddress {
            uplink: name.clone(),
            bridge: bridge.name.clone(),
            addresses: addresses.join(", "),
        });
    }
    Ok((link, false))
}

fn plug_uplink(
    bridge: &config::Bridge,
    uplink: &Link,
    ovsdb: &mut Client,
    netlink: &mut Netlink,
) -> Result<(), Error> {
    let view = ovsdb.view(&bridge.name)?;
    let port = PortSpec {
        name: uplink.name.clone(),
        interface_type: String::new(),
        // The real network's VLANs are the user's: an uplink carries them all.
        vlan: PortVlan::all(),
        ofport_request: None,
        mac: None,
        mtu_request: None,
        protected: false,
        external_ids: role(ROLE_UPLINK),
        interface_external_ids: BTreeMap::new(),
    };
    ovsdb.add_port(&view.bridge, &port)?;
    ovsdb.wait_open(&uplink.name, OPEN_DEADLINE)?;
    netlink.set_up(uplink.index, true)?;
    Ok(())
}

fn add_default_route(
    netlink: &mut Netlink,
    index: u32,
    gateway: IpAddr,
    done: &mut Done,
) -> Result<bool, Error> {
    let route = default_route(gateway);
    let there = netlink.routes(None)?.iter().any(|found| {
        found.oif == Some(index) && found.route.dst == route.dst && found.route.gw == route.gw
    });
    if there {
        return Ok(false);
    }
    netlink.replace_route(&route, Some(index))?;
    done.gateways.push(gateway);
    Ok(true)
}

fn default_route(gateway: IpAddr) -> Route {
    let dst = match gateway {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    };
    Route { priority: Some(ROUTE_METRIC), ..Route::new(dst, Some(gateway)) }
}

/// Undoes [`ensure`] as far as it was ours: our bridge goes, an adopted one loses what we added.
pub(super) fn remove(
    bridge: &config::Bridge,
    ovsdb: &mut Client,
    netlink: &mut Netlink,
    done: &Done,
) -> Result<bool, Error> {
    let row = match ovsdb.view(&bridge.name) {
        Ok(view) => view.bridge,
        Err(ovsdb::Error::NoBridge { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let mut changed = false;
    if let Mode::Direct { uplink: Some(uplink), .. } = &bridge.mode
        && let Some(port) = ovsdb.port(uplink)?
        && port.external_ids.get("ovs-agent-role").is_some_and(|role| role == ROLE_UPLINK)
    {
        ovsdb.delete_ports(&[port.uuid])?;
        if let Some(link) = netlink.link(uplink)?.filter(|_| done.uplink_raised) {
            netlink.set_up(link.index, false)?;
        }
        changed = true;
    }
    if row.external_ids.get("ovs-agent-role").is_some_and(|role| role == "bridge") {
        let removed = ovsdb.delete_bridge(&bridge.name)?;
        wait_until_gone(netlink, &bridge.name, OPEN_DEADLINE)?;
        return Ok(removed);
    }
    if let Some(link) = netlink.link(&bridge.name)? {
        for gateway in &done.gateways {
            changed |= netlink.delete_route(&default_route(*gateway), Some(link.index))?;
        }
        for address in &done.addresses {
            changed |= netlink.delete_address(link.index, *address)?;
        }
        if done.raised {
            netlink.set_up(link.index, false)?;
            changed = true;
        }
    }
    Ok(changed)
}

/// Waits for ovs-vswitchd to take an interface away.
fn wait_until_gone(netlink: &mut Netlink, name: &IfName, deadline: Duration) -> Result<(), Error> {
    let start = Instant::now();
    while netlink.link(name)?.is_some() {
        if start.elapsed() >= deadline {
            return Err(Error::InterfaceStays { bridge: name.clone(), waited: deadline });
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Waits for an interface that ovs-vswitchd is about to make.
pub(super) fn wait_for_link(
    netlink: &mut Netlink,
    name: &IfName,
    deadline: Duration,
) -> Result<Link, Error> {
    let start = Instant::now();
    loop {
        if let Some(link) = netlink.link(name)? {
            return Ok(link);
        }
        if start.elapsed() >= deadline {
            return Err(Error::NoInterface { bridge: name.clone(), waited: deadline });
        }
        thread::sleep(Duration::from_millis(2));
    }
}
