//! One bridge of the configuration: made or adopted, with its uplink, addresses and route.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::done::{Book, Done};
use super::gateway::role;
use super::uplink::Moves;
use super::wire::{self, Wire};
use super::{Error, OPEN_DEADLINE, OWNER, datapath};
use crate::address::overlaps;
use crate::config::{self, Config, Mode};
use crate::link::sysctl::{Family, Sysctl};
use crate::link::{self, InstalledRoute, Link, Netlink, PROTOCOL, Route};
use crate::mac::Mac;
use crate::name::IfName;
use crate::ovsdb::{self, Bridge, Client};

/// How long ovsdb-server may take for one answer.
pub(super) const OVSDB_DEADLINE: Duration = Duration::from_secs(5);

/// `external_ids:ovs-agent-role` of a bridge that we made.
pub const ROLE_BRIDGE: &str = "bridge";

/// Metric of the default route through a direct bridge: behind NetworkManager's wired 100, before
/// its wireless 600.
const ROUTE_METRIC: u32 = 220;

/// RT_TABLE_MAIN.
const MAIN: u32 = 254;

/// MTU of a bridge of ours without an uplink. Without a wish of ours ovs-vswitchd would lower it
/// to that of the smallest port, for every container that comes later.
const MTU: u32 = 1500;

/// Whether a row is ours.
pub(crate) fn is_ours(external_ids: &BTreeMap<String, String>) -> bool {
    external_ids.get("owner").is_some_and(|owner| owner == OWNER)
}

/// `external_ids:ovs-agent-role` of a row, if it is ours.
pub(crate) fn role_of(external_ids: &BTreeMap<String, String>) -> Option<&str> {
    external_ids.get("ovs-agent-role").filter(|_| is_ours(external_ids)).map(String::as_str)
}

/// What one look at the host says of a bridge of the configuration.
struct Found {
    row: Option<Bridge>,
    uplink: Option<Wire>,
}

/// Refuses what could not be done, and changes nothing.
/// `moving` are uplinks whose addresses go along.
pub(super) fn check(
    bridge: &config::Bridge,
    moving: &BTreeSet<IfName>,
    ovsdb: &mut Client,
    netlink: &mut Netlink,
) -> Result<(), Error> {
    look(bridge, moving, ovsdb, netlink)?;
    if let Mode::Direct { gateway: Some(gateway), .. } = &bridge.mode {
        let link = netlink.link(&bridge.name)?.map(|link| link.index);
        default_route_is_there(bridge, netlink, link, *gateway)?;
    }
    Ok(())
}

/// Makes or adopts the bridge; everything that stands already is left as it is. Returns what was
/// done. `book` learns of each change before it happens; `moves` says which uplink's addresses go
/// along.
pub(super) fn ensure(
    config: &Config,
    bridge: &config::Bridge,
    moves: &mut Moves,
    (ovsdb, netlink): (&mut Client, &mut Netlink),
    book: &mut Book,
) -> Result<Vec<String>, Error> {
    let mut acts = Vec::new();
    book.note(&bridge.name, |_| ())?;
    let Found { row, uplink } = look(bridge, &moves.uplinks(), ovsdb, netlink)?;
    let made = row.is_none();
    let ours = match &row {
        Some(row) => role_of(&row.external_ids) == Some(ROLE_BRIDGE),
        None => {
            acts.push(make(bridge, uplink.as_ref().map(|wire| &wire.link), ovsdb)?);
            true
        }
    };
    // Not sooner: ovs-vswitchd lowers the device to set its MAC, and the kernel then forgets the
    // IPv6 addresses.
    ovsdb.wait_open(&bridge.name, OPEN_DEADLINE)?;
    let mut link = wait_for_link(netlink, &bridge.name, OPEN_DEADLINE)?;
    retire(bridge, ovsdb, netlink, &link, book, &mut acts)?;
    if ours
        && let Some(mac) = uplink.as_ref().and_then(|wire| wire.link.mac)
        && link.mac != Some(mac)
    {
        // Its frames leave by the wire: a switch that knows the port by its MAC takes no other.
        ovsdb.set_hwaddr(&bridge.name, mac)?;
        link = wait_for_mac(netlink, &bridge.name, mac)?;
        acts.push(format!("MAC {mac} set"));
    }
    let mtu = bridge.mtu.or_else(|| ours.then(|| uplink.as_ref().map_or(MTU, |w| w.link.mtu)));
    if let Some(mtu) = mtu {
        let changed = set_mtu(bridge, mtu, ours, ovsdb, book)?;
        // Of a bridge just made, everybody expects the usual one.
        if changed && !(made && bridge.mtu.is_none()) {
            acts.push(format!("MTU {mtu} set"));
        }
        link = wait_for_mtu(netlink, &bridge.name, mtu)?;
    }
    if let Some(wire) = &uplink {
        let userspace = match &row {
            Some(row) => row.is_userspace(),
            None => ovsdb.view(&bridge.name)?.bridge.is_userspace(),
        };
        wire::plug(bridge, (wire, userspace), ovsdb, netlink, book, &mut acts)?;
    }
    let (addresses, gateway) = match &bridge.mode {
        Mode::Direct { addresses, gateway, .. } => (addresses, *gateway),
        Mode::Nat { addresses, .. } => (addresses, None),
    };
    let there = netlink.addresses(link.index)?;
    for address in addresses.iter().filter(|address| !there.contains(address)) {
        book.note(&bridge.name, |done| remember(&mut done.addresses, *address))?;
        if netlink.add_address(link.index, *address)? {
            acts.push(format!("{address} added"));
        }
    }
    if !link.up {
        book.note(&bridge.name, |done| done.raised = true)?;
        if ours && matches!(bridge.mode, Mode::Nat { .. }) {
            skip_address_detection(&bridge.name)?;
        }
        netlink.set_up(link.index, true)?;
        if !made {
            acts.push("set up".to_owned());
        }
    }
    if let Some(wire) = &uplink {
        acts.extend(moves.hold(config, bridge, (&wire.link, &link), netlink)?);
    }
    if let Some(gateway) = gateway
        && !default_route_is_there(bridge, netlink, Some(link.index), gateway)?
    {
        book.note(&bridge.name, |done| remember(&mut done.gateways, gateway))?;
        netlink.replace_route(&default_route(gateway), Some(link.index))?;
        acts.push(format!("default route via {gateway} added"));
    }
    Ok(acts)
}

pub(super) fn remember<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

/// Bridge and uplink as they are; an error if they cannot become what they should be.
fn look(
    bridge: &config::Bridge,
    moving: &BTreeSet<IfName>,
    ovsdb: &mut Client,
    netlink: &mut Netlink,
) -> Result<Found, Error> {
    let row = row(&bridge.name, ovsdb)?;
    let uplink = match &bridge.mode {
        Mode::Direct { uplink: Some(uplink), .. } => {
            Some(wire::look(bridge, uplink, moving, ovsdb, netlink)?)
        }
        _ => None,
    };
    if row.is_none() {
        let mac = mac_of(bridge, uplink.as_ref().map(|wire| &wire.link));
        let taken = |owner| Error::NameTaken { bridge: bridge.name.clone(), owner };
        if let Some(port) = ovsdb.port(&bridge.name)? {
            let other =
                port.bridge.map_or_else(|| "a port".to_owned(), |b| format!("a port of {b}"));
            return Err(taken(other));
        }
        match netlink.link(&bridge.name)? {
            // Left behind by an ovs-vswitchd that was killed: nobody holds it open, and the next
            // one takes it over with the bridge.
            Some(link) if is_internal(&link) && !link.running && link.mac == Some(mac) => {}
            // One that ovs-vswitchd is about to remove.
            Some(link) if is_internal(&link) => {
                wait_until_gone(netlink, &bridge.name)
                    .map_err(|_| taken("a device that is no bridge".to_owned()))?;
            }
            Some(_) => return Err(taken("an interface that is no Open vSwitch bridge".to_owned())),
            None => {}
        }
    }
    Ok(Found { row, uplink })
}

/// Whether ovs-vswitchd may have made it: an internal port of either datapath.
fn is_internal(link: &Link) -> bool {
    ["tun", "openvswitch"].contains(&link.kind.as_str())
}

/// The bridge's row, if there is one.
pub(super) fn row(name: &IfName, ovsdb: &mut Client) -> Result<Option<Bridge>, Error> {
    match ovsdb.view(name) {
        Ok(view) => Ok(Some(view.bridge)),
        Err(ovsdb::Error::NoBridge { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes the bridge; says how.
fn make(
    bridge: &config::Bridge,
    uplink: Option<&Link>,
    ovsdb: &mut Client,
) -> Result<String, Error> {
    let datapath = match &bridge.datapath_type {
        Some(datapath) => datapath,
        None => datapath::choose()?,
    };
    ovsdb.add_bridge(&bridge.name, datapath, Some(mac_of(bridge, uplink)), &role(ROLE_BRIDGE))?;
    Ok(format!("made ({datapath} datapath)"))
}

/// The MAC of a bridge of ours. Left alone, it would take the lowest among its ports, and change
/// it as containers come and go: every neighbour cache would point to a MAC that nobody has.
fn mac_of(bridge: &config::Bridge, uplink: Option<&Link>) -> Mac {
    uplink
        .and_then(|link| link.mac)
        .unwrap_or_else(|| Mac::from_hash(format!("bridge {}", bridge.name).as_bytes()))
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

/// Asks ovs-vswitchd for the MTU; false if it was asked already. An adopted bridge gets its own
/// wish back from `down`.
fn set_mtu(
    bridge: &config::Bridge,
    mtu: u32,
    ours: bool,
    ovsdb: &mut Client,
    book: &mut Book,
) -> Result<bool, Error> {
    let before = ovsdb.port(&bridge.name)?.and_then(|port| port.mtu_request);
    if before == Some(mtu) {
        return Ok(false);
    }
    if !ours {
        book.note(&bridge.name, |done| {
            done.mtu_before.get_or_insert(before);
        })?;
    }
    ovsdb.set_mtu(&bridge.name, Some(mtu))?;
    Ok(true)
}

/// Takes away what an earlier configuration wanted and this one does not.
fn retire(
    bridge: &config::Bridge,
    ovsdb: &mut Client,
    netlink: &mut Netlink,
    link: &Link,
    book: &mut Book,
    acts: &mut Vec<String>,
) -> Result<(), Error> {
    let (wanted, gateway) = match &bridge.mode {
        Mode::Direct { gateway, uplink, .. } => (uplink.as_ref(), *gateway),
        Mode::Nat { .. } => (None, None),
    };
    for port in wire::uplinks(ovsdb)? {
        if port.bridge.as_ref() == Some(&bridge.name) && Some(&port.name) != wanted {
            wire::unplug(&bridge.name, &port, ovsdb, netlink, book)?;
            acts.push(format!("{} unplugged", port.name));
        }
    }
    let done = book.of(&bridge.name);
    for old in done.gateways.iter().filter(|old| Some(**old) != gateway) {
        if netlink.delete_route(&default_route(*old), Some(link.index))? {
            acts.push(format!("default route via {old} removed"));
        }
        book.note(&bridge.name, |done| done.gateways.retain(|other| other != old))?;
    }
    for old in done.addresses.iter().filter(|old| !bridge.addresses().contains(old)) {
        if netlink.delete_address(link.index, *old)? {
            acts.push(format!("{old} removed"));
        }
        book.note(&bridge.name, |done| done.addresses.retain(|other| other != old))?;
    }
    Ok(())
}

/// Takes from bridges that the configuration no longer has the addresses of subnets that `bridge`
/// has by now: the host would go on looking for these containers where they no longer are. Returns
/// what was done to which.
pub(super) fn take_over(
    config: &Config,
    bridge: &config::Bridge,
    netlink: &mut Netlink,
    book: &mut Book,
) -> Result<Vec<(IfName, Vec<String>)>, Error> {
    let is_ours = |old: &IpNet| bridge.addresses().iter().any(|own| overlaps(*own, *old));
    let dropped: Vec<_> =
        book.bridges().filter(|name| config.bridge(name).is_none()).cloned().collect();
    let mut taken = Vec::new();
    for name in dropped {
        let mut acts = Vec::new();
        for old in book.of(&name).addresses.iter().filter(|old| is_ours(old)) {
            if let Some(link) = netlink.link(&name)?
                && netlink.delete_address(link.index, *old)?
            {
                acts.push(format!("{old} removed, {} has that subnet now", bridge.name));
            }
            book.note(&name, |done| done.addresses.retain(|other| other != old))?;
        }
        if !acts.is_empty() {
            taken.push((name, acts));
        }
    }
    Ok(taken)
}

/// Whether the default route via `gateway` exists out of the bridge's interface `index`; an error
/// if another one stands in its place, which the kernel would replace.
fn default_route_is_there(
    bridge: &config::Bridge,
    netlink: &mut Netlink,
    index: Option<u32>,
    gateway: IpAddr,
) -> Result<bool, Error> {
    let route = default_route(gateway);
    let same_place = |there: &&InstalledRoute| there.route.dst == route.dst;
    let routes = netlink.routes(Some(MAIN))?;
    let mut found = false;
    for there in routes.iter().filter(same_place) {
        if there.route.gw == route.gw && index.is_some() && there.oif == index {
            found = true;
        } else if there.route.priority == route.priority && there.protocol != PROTOCOL {
            let owner = match there.oif {
                Some(oif) => netlink.link_by_index(oif)?.map(|link| link.name.to_string()),
                None => None,
            };
            return Err(Error::RouteTaken {
                bridge: bridge.name.clone(),
                gateway,
                metric: ROUTE_METRIC,
                owner: owner.unwrap_or_else(|| "another device".to_owned()),
            });
        }
    }
    Ok(found)
}

fn default_route(gateway: IpAddr) -> Route {
    let dst = match gateway {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    };
    Route { priority: Some(ROUTE_METRIC), ..Route::new(dst, Some(gateway)) }
}

/// Undoes [`ensure`] as far as it was ours: our bridge goes, an adopted one loses what we added.
/// Returns what was done.
pub(super) fn remove(
    name: &IfName,
    ovsdb: &mut Client,
    netlink: &mut Netlink,
    book: &mut Book,
) -> Result<Vec<String>, Error> {
    let mut acts = Vec::new();
    for port in wire::uplinks(ovsdb)? {
        if port.bridge.as_ref() == Some(name) {
            wire::unplug(name, &port, ovsdb, netlink, book)?;
            acts.push(format!("{} unplugged", port.name));
        }
    }
    let done = book.of(name);
    // Unplugged by an earlier call that did not get to the end.
    for uplink in &done.raised_uplinks {
        wire::lower(name, uplink, netlink, book)?;
    }
    let Some(row) = row(name, ovsdb)? else {
        // A call that was killed may have removed it just now. Whatever stays is somebody else's.
        if book.bridges().any(|up| up == name)
            && netlink.link(name)?.is_some_and(|link| is_internal(&link))
        {
            poll(|| Ok(netlink.link(name)?.is_none().then_some(())))?;
        }
        return Ok(acts);
    };
    if role_of(&row.external_ids) == Some(ROLE_BRIDGE) {
        ovsdb.delete_bridge(name)?;
        wait_until_gone(netlink, name)?;
        acts.push("removed".to_owned());
        return Ok(acts);
    }
    if let Some(before) = done.mtu_before {
        ovsdb.set_mtu(name, before)?;
        acts.push("MTU given back".to_owned());
    }
    if let Some(link) = netlink.link(name)? {
        for gateway in &done.gateways {
            if netlink.delete_route(&default_route(*gateway), Some(link.index))? {
                acts.push(format!("default route via {gateway} removed"));
            }
        }
        for address in &done.addresses {
            if netlink.delete_address(link.index, *address)? {
                acts.push(format!("{address} removed"));
            }
        }
        if done.raised && link.up {
            netlink.set_up(link.index, false)?;
            acts.push("set down".to_owned());
        }
    }
    Ok(acts)
}

/// Takes back what `up` did to a bridge that stays: what it has `done` and had not done `before`.
pub(super) fn revert(
    name: &IfName,
    done: &Done,
    before: &Done,
    ovsdb: &mut Client,
    netlink: &mut Netlink,
) -> Result<(), Error> {
    if let (Some(mtu), None) = (done.mtu_before, before.mtu_before) {
        ovsdb.set_mtu(name, mtu)?;
    }
    let Some(link) = netlink.link(name)? else { return Ok(()) };
    for gateway in done.gateways.iter().filter(|gateway| !before.gateways.contains(gateway)) {
        netlink.delete_route(&default_route(*gateway), Some(link.index))?;
    }
    for address in done.addresses.iter().filter(|address| !before.addresses.contains(address)) {
        netlink.delete_address(link.index, *address)?;
    }
    if done.raised && !before.raised && link.up {
        netlink.set_up(link.index, false)?;
    }
    Ok(())
}

/// Waits for ovs-vswitchd to take an interface away.
pub(super) fn wait_until_gone(netlink: &mut Netlink, name: &IfName) -> Result<(), Error> {
    let gone = poll(|| Ok(netlink.link(name)?.is_none().then_some(())))?;
    gone.ok_or_else(|| Error::InterfaceStays { interface: name.clone(), waited: OPEN_DEADLINE })
}

/// Waits for an interface that ovs-vswitchd is about to make.
pub(super) fn wait_for_link(
    netlink: &mut Netlink,
    name: &IfName,
    deadline: Duration,
) -> Result<Link, Error> {
    let found = poll_for(deadline, || Ok(netlink.link(name)?))?;
    found.ok_or_else(|| Error::NoInterface { interface: name.clone(), waited: deadline })
}

/// Waits for ovs-vswitchd to set the MTU.
fn wait_for_mtu(netlink: &mut Netlink, name: &IfName, mtu: u32) -> Result<Link, Error> {
    let found = poll(|| Ok(netlink.link(name)?.filter(|link| link.mtu == mtu)))?;
    found.ok_or_else(|| Error::Mtu { interface: name.clone(), mtu, waited: OPEN_DEADLINE })
}

/// Waits for ovs-vswitchd to set the MAC.
fn wait_for_mac(netlink: &mut Netlink, name: &IfName, mac: Mac) -> Result<Link, Error> {
    let found = poll(|| Ok(netlink.link(name)?.filter(|link| link.mac == Some(mac))))?;
    found.ok_or_else(|| Error::Mac { interface: name.clone(), mac, waited: OPEN_DEADLINE })
}

fn poll<T>(probe: impl FnMut() -> Result<Option<T>, Error>) -> Result<Option<T>, Error> {
    poll_for(OPEN_DEADLINE, probe)
}

/// Asks until there is an answer, the more seldom the longer it takes; `None` after `deadline`.
fn poll_for<T>(
    deadline: Duration,
    mut probe: impl FnMut() -> Result<Option<T>, Error>,
) -> Result<Option<T>, Error> {
    let start = Instant::now();
    loop {
        let found = probe()?;
        let waited = start.elapsed();
        if found.is_some() || waited >= deadline {
            return Ok(found);
        }
        thread::sleep((waited / 8).max(Duration::from_millis(1)));
    }
}
