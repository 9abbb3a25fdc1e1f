//! The uplink of a direct bridge: looked at, plugged in, unplugged.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::bridge::{OVSDB_DEADLINE, remember};
use super::done::Book;
use super::gateway::role;
use super::{Error, OPEN_DEADLINE};
use crate::config;
use crate::link::{Link, Netlink, UPLINK_GROUP};
use crate::name::IfName;
use crate::ovsdb::{Client, Port, PortSpec};
use crate::vlan::PortVlan;

/// `external_ids:ovs-agent-role` of an uplink that we plugged in.
pub(crate) const ROLE_UPLINK: &str = "uplink";

/// The uplink of a direct bridge.
pub(super) struct Wire {
    pub(super) link: Link,
    /// Its row, if it is plugged into the bridge already.
    pub(super) port: Option<Port>,
}

/// The uplink, which must exist and be free or this bridge's own already.
pub(super) fn look(
    bridge: &config::Bridge,
    name: &IfName,
    moving: &BTreeSet<IfName>,
    ovsdb: &mut Client,
    netlink: &mut Netlink,
) -> Result<Wire, Error> {
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
            _ => Ok(Wire { link, port: Some(port) }),
        };
    }
    // Everything on the kernel's datapath has the master "ovs-system".
    if let Some(master) = link.master {
        let owner = netlink.link_by_index(master)?;
        return Err(taken(
            owner.map_or_else(|| "another device".to_owned(), |o| o.name.to_string()),
        ));
    }
    let addresses = addresses_of(netlink, &link)?;
    if !addresses.is_empty() && !moving.contains(name) {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        return Err(Error::UplinkHasAddress {
            uplink: name.clone(),
            bridge: bridge.name.clone(),
            addresses: addresses.join(", "),
        });
    }
    Ok(Wire { link, port: None })
}

/// The addresses somebody gave it: `fe80::/10` comes with every raised interface by itself.
pub(super) fn addresses_of(netlink: &mut Netlink, link: &Link) -> Result<Vec<IpNet>, Error> {
    let mut addresses = netlink.addresses(link.index)?;
    addresses
        .retain(|address| !matches!(address.addr(), IpAddr::V6(v6) if v6.is_unicast_link_local()));
    Ok(addresses)
}

pub(super) fn plug(
    bridge: &config::Bridge,
    (wire, userspace): (&Wire, bool),
    ovsdb: &mut Client,
    netlink: &mut Netlink,
    book: &mut Book,
    acts: &mut Vec<String>,
) -> Result<(), Error> {
    let name = &wire.link.name;
    if wire.port.is_none() {
        let port = PortSpec {
            name: name.clone(),
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
        ovsdb.add_port(&bridge.name, &port)?;
        ovsdb.wait_open(name, OPEN_DEADLINE)?;
        acts.push(format!("{name} plugged in"));
    }
    // The host's own stack would take each of its frames a second time.
    if userspace && wire.link.group == 0 {
        netlink.set_group(wire.link.index, UPLINK_GROUP)?;
    }
    // Also one that was plugged in before a reboot: a boot leaves it down.
    if !wire.link.up {
        book.note(&bridge.name, |done| remember(&mut done.raised_uplinks, name.clone()))?;
        netlink.set_up(wire.link.index, true)?;
        acts.push(format!("{name} set up"));
    }
    Ok(())
}

/// The uplinks we plugged in, on whatever bridge.
pub(super) fn uplinks(ovsdb: &mut Client) -> Result<Vec<Port>, Error> {
    Ok(ovsdb.ports_with(&role(ROLE_UPLINK))?)
}

/// Unplugs an uplink and lowers it if it was down before.
pub(super) fn unplug(
    bridge: &IfName,
    port: &Port,
    ovsdb: &mut Client,
    netlink: &mut Netlink,
    book: &mut Book,
) -> Result<(), Error> {
    let generation = ovsdb.delete_ports(std::slice::from_ref(&port.uuid))?;
    // A switch that does not run holds nothing; one that hangs must not keep the rest waiting.
    ovsdb.wait_applied(generation, OVSDB_DEADLINE)?;
    unguard(&port.name, netlink)?;
    lower(bridge, &port.name, netlink, book)
}

/// The host's stack takes the frames of an uplink that is no port any more.
pub(super) fn unguard(uplink: &IfName, netlink: &mut Netlink) -> Result<(), Error> {
    match netlink.link(uplink)? {
        Some(link) if link.group == UPLINK_GROUP => Ok(netlink.set_group(link.index, 0)?),
        _ => Ok(()),
    }
}

/// [`unguard`] for all but the `plugged`: also those whose unplugging was killed half way, and
/// those that somebody else had plugged in.
pub(super) fn unguard_all_but(
    plugged: &BTreeSet<&IfName>,
    netlink: &mut Netlink,
) -> Result<(), Error> {
    for link in netlink.links()? {
        if link.group == UPLINK_GROUP && !plugged.contains(&link.name) {
            netlink.set_group(link.index, 0)?;
        }
    }
    Ok(())
}

/// Lowers an uplink that we raised, unless somebody uses it by now.
pub(super) fn lower(
    bridge: &IfName,
    uplink: &IfName,
    netlink: &mut Netlink,
    book: &mut Book,
) -> Result<(), Error> {
    if !book.of(bridge).raised_uplinks.contains(uplink) {
        return Ok(());
    }
    if let Some(link) = netlink.link(uplink)?
        && link.master.is_none()
        && addresses_of(netlink, &link)?.is_empty()
    {
        netlink.set_up(link.index, false)?;
    }
    book.note(bridge, |done| done.raised_uplinks.retain(|other| other != uplink))
}
