//! What is moved, and the moving.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;

use super::{GATEWAY_DEADLINE, Item, Journal, MOVE_DEADLINE, Move, Phase, lease, uptime};
use crate::config::{self, Config, Mode};
use crate::link::saved::{Place, Relocation, SavedAddress, SavedRoute};
use crate::link::sysctl::{Family, Sysctl};
use crate::link::{Link, Netlink};
use crate::name::IfName;
use crate::network::Error;
use crate::network::done::Book;
use crate::ovsdb::Client;
use crate::state;

/// The moves in force: those confirmed, and the one this very process is at.
#[derive(Debug, Default)]
pub(in crate::network) struct Moves {
    journal: Option<Journal>,
    begun: bool,
}

impl Moves {
    /// Those that were confirmed.
    pub(in crate::network) fn confirmed(journal: Option<Journal>) -> Self {
        Self { journal, begun: false }
    }

    /// And the one that begins.
    pub(in crate::network) fn begun(journal: Journal) -> Self {
        Self { journal: Some(journal), begun: true }
    }

    /// What is written down of them.
    pub(in crate::network) fn journal(self) -> Option<Journal> {
        self.journal
    }

    fn in_force(&self) -> impl Iterator<Item = &Move> {
        let open = |journal: &'_ Journal| if self.begun { journal.moves.len() } else { 0 };
        self.journal.iter().flat_map(move |journal| {
            journal.kept.iter().chain(journal.moves.iter().take(open(journal)))
        })
    }

    /// The uplinks that may be plugged in although they carry addresses.
    pub(in crate::network) fn uplinks(&self) -> BTreeSet<IfName> {
        self.in_force().map(|m| m.uplink.clone()).collect()
    }

    /// What the configuration does not want any more goes back to its uplink. Returns what was
    /// done, in words.
    pub(in crate::network) fn retire(
        &mut self,
        config: &Config,
        ovsdb: &mut Client,
        netlink: &mut Netlink,
    ) -> Result<Vec<String>, Error> {
        let mut acts = Vec::new();
        let Some(journal) = &mut self.journal else { return Ok(acts) };
        while let Some(at) = journal.kept.iter().position(|m| !m.is_wanted(config)) {
            acts.extend(journal.kept[at].return_confirmed(ovsdb, netlink)?);
            journal.kept.remove(at);
            journal.write(config)?;
        }
        Ok(acts)
    }

    /// Writes down what is about to be done.
    pub(in crate::network) fn write(&self, config: &Config) -> Result<(), Error> {
        match &self.journal {
            Some(journal) => journal.write(config),
            None => Ok(()),
        }
    }

    /// The move is done, and waits to be confirmed. Returns which, in words.
    pub(in crate::network) fn wait(&mut self, config: &Config) -> Result<String, Error> {
        let Some(journal) = &mut self.journal else { return Ok(String::new()) };
        journal.phase = Phase::Waiting;
        journal.deadline = uptime() + journal.within;
        journal.write(config)?;
        Ok(journal.route())
    }

    /// The first gateway that does not answer, with the interface it was asked on: on the uplinks
    /// before the move (`moved` is false), on the bridges after it.
    pub(in crate::network) fn silent_gateway(
        &self,
        config: &Config,
        moved: bool,
        netlink: &mut Netlink,
    ) -> Result<Option<(IpAddr, IfName)>, Error> {
        match &self.journal {
            Some(journal) => silent_gateway(config, &journal.moves, moved, netlink),
            None => Ok(None),
        }
    }

    /// Brings what the uplink `wire` carries, or carried, to the bridge's interface `to`; what was
    /// done, in words, if anything. New addresses of the uplink are written down first.
    pub(in crate::network) fn hold(
        &mut self,
        config: &Config,
        bridge: &config::Bridge,
        (wire, to): (&Link, &Link),
        netlink: &mut Netlink,
    ) -> Result<Option<String>, Error> {
        let Some(journal) = &mut self.journal else { return Ok(None) };
        let boot = state::boot_id()?;
        let begun = self.begun;
        let is_it = |m: &Move| m.bridge == bridge.name && m.uplink == wire.name;
        let open = journal.moves.iter().position(is_it).filter(|_| begun);
        let kept = journal.kept.iter().position(is_it);
        let old = match (kept, open) {
            (Some(at), _) => &mut journal.kept[at],
            (None, Some(at)) => &mut journal.moves[at],
            (None, None) => return Ok(None),
        };
        let same_boot = old.boot_id == boot;
        let (addresses, routes) = carried_by(bridge, wire, netlink)?;
        let uplink = Place { index: wire.index, name: &wire.name };
        let bridge = Place { index: to.index, name: &to.name };
        let accept_ra = Sysctl::new(Family::Ipv6, &wire.name, "accept_ra");
        let hears = accept_ra.read().ok().filter(|value| value != "0");

        let mut now = old.clone();
        now.learn(&addresses, &routes, same_boot);
        if hears.is_some() {
            now.accept_ra.clone_from(&hears);
        }
        now.boot_id = boot;
        if now != *old {
            old.clone_from(&now);
            journal.write(config)?;
        }
        if hears.is_some() {
            // What the router says is for the bridge now.
            accept_ra.write("0")?;
        }
        let there = netlink.addresses(to.index)?;
        let routes_there = netlink.save_routes(to.index)?;
        let what = Relocation {
            take: addresses.iter().map(|item| &item.saved).collect(),
            take_routes: routes.iter().map(|item| &item.saved).collect(),
            put: now
                .addresses
                .iter()
                .filter(|item| item.carried && !there.contains(&item.saved.address))
                .map(|item| &item.saved)
                .collect(),
            put_routes: now
                .routes
                .iter()
                .filter(|item| {
                    item.carried && !routes_there.iter().any(|r| r.leads_as(&item.saved))
                })
                .map(|item| &item.saved)
                .collect(),
            at_once: true,
        };
        if what.is_empty() {
            return Ok(None);
        }
        let act = said(&what, &wire.name);
        let mut failed = netlink.relocate(Some(uplink), Some(bridge), &what)?;
        // A route of an earlier boot may lead to where no address of this one reaches.
        if !same_boot {
            for error in failed.drain(..) {
                tracing::warn!(%error, "not taken over from before the boot");
            }
        }
        match failed.into_iter().next() {
            Some(error) => Err(error.into()),
            None => Ok(Some(act)),
        }
    }
}

/// "198.18.1.2/24 and default route via 198.18.1.1 taken over from enp2s0".
fn said(what: &Relocation<'_>, uplink: &IfName) -> String {
    let mut words: Vec<String> = what.put.iter().map(|a| a.address.to_string()).collect();
    words.extend(what.put_routes.iter().map(|route| route.to_string()));
    if words.is_empty() {
        return format!("addresses removed from {uplink}");
    }
    format!("{} taken over from {uplink}", words.join(" and "))
}

impl Move {
    /// Adds what the uplink carries now. After a boot, what it carries now is what counts; but a
    /// boot that gave it addresses and no default route has not come to the routes yet.
    fn learn(
        &mut self,
        addresses: &[Item<SavedAddress>],
        routes: &[Item<SavedRoute>],
        same_boot: bool,
    ) {
        if !same_boot && !addresses.is_empty() {
            self.addresses.clear();
            if routes.iter().any(|item| item.saved.is_default()) {
                self.routes.clear();
            }
        }
        for item in addresses {
            if !self.addresses.iter().any(|old| old.saved.address == item.saved.address) {
                self.addresses.push(item.clone());
            }
        }
        for item in routes {
            if !self.routes.iter().any(|old| old.saved.leads_as(&item.saved)) {
                self.routes.push(item.clone());
            }
        }
    }
}

/// What would be moved now: the uplinks of the configuration that carry addresses or routes and
/// are not moved already. Changes nothing; an error if one of them cannot be.
pub(in crate::network) fn plan(
    config: &Config,
    confirmed: &Moves,
    within: Duration,
    (ovsdb, netlink): (&mut Client, &mut Netlink),
    book: &Book,
) -> Result<Journal, Error> {
    let mut moves = Vec::new();
    let already = confirmed.uplinks();
    for bridge in &config.bridges {
        let Mode::Direct { uplink: Some(uplink), .. } = &bridge.mode else { continue };
        let Some(wire) = netlink.link(uplink)? else { continue };
        if already.contains(uplink) {
            continue;
        }
        let (addresses, routes) = carried_by(bridge, &wire, netlink)?;
        if addresses.is_empty() && routes.is_empty() {
            continue;
        }
        let stood = netlink.link(&bridge.name)?;
        moves.push(Move {
            boot_id: state::boot_id()?,
            bridge: bridge.name.clone(),
            uplink: uplink.clone(),
            addresses,
            routes,
            plugged: ovsdb.port(uplink)?.is_some(),
            stood: stood.is_some(),
            mac: stood.and_then(|link| link.mac),
            accept_ra: None,
        });
    }
    Ok(Journal {
        boot_id: state::boot_id()?,
        phase: Phase::Moving,
        since: state::now(),
        within: within.as_secs(),
        deadline: uptime() + (within + MOVE_DEADLINE).as_secs(),
        moves,
        kept: confirmed.journal.iter().flat_map(|journal| journal.kept.clone()).collect(),
        before: book.all().clone(),
    })
}

type Carried = (Vec<Item<SavedAddress>>, Vec<Item<SavedRoute>>);

/// What an uplink carries, each with whether the bridge gets it.
fn carried_by(
    bridge: &config::Bridge,
    wire: &Link,
    netlink: &mut Netlink,
) -> Result<Carried, Error> {
    let (given, gateway) = match &bridge.mode {
        Mode::Direct { addresses, gateway, .. } => (addresses.as_slice(), *gateway),
        Mode::Nat { .. } => (&[][..], None),
    };
    let mut addresses = Vec::new();
    // Families whose addresses the configuration replaces.
    let mut replaced = BTreeSet::new();
    for saved in netlink.save_addresses(wire.index)? {
        let mut carried = !saved.is_advertised();
        if carried && let Some(holder) = lease::holder(Path::new("/"), wire, &saved) {
            let v6 = saved.address.addr().is_ipv6();
            if !given.iter().any(|own| own.addr().is_ipv6() == v6) {
                return Err(Error::UplinkLeased {
                    uplink: wire.name.clone(),
                    bridge: bridge.name.clone(),
                    address: saved.address,
                    holder,
                });
            }
            carried = given.contains(&saved.address);
            replaced.insert(v6);
        }
        addresses.push(Item { saved, carried });
    }
    let mut routes = Vec::new();
    for saved in netlink.save_routes(wire.index)? {
        // The kernel makes the route of a subnet with its address, unless it was told not to.
        let own = |item: &Item<SavedAddress>| {
            item.saved.has_no_prefix_route() && item.saved.address.trunc() == saved.destination
        };
        if saved.is_of_address() && !addresses.iter().any(own) {
            continue;
        }
        let v6 = saved.destination.addr().is_ipv6();
        let other = saved.is_default()
            && replaced.contains(&v6)
            && gateway.is_some_and(|gateway| gateway.is_ipv6() == v6);
        let carried = !saved.is_advertised() && !other;
        routes.push(Item { saved, carried });
    }
    Ok((addresses, routes))
}

/// The next hops that must answer on the bridge: those of the default routes it takes over, and
/// the configuration's.
fn gateways(config: &Config, m: &Move) -> BTreeSet<IpAddr> {
    let mut found: BTreeSet<_> = m
        .routes
        .iter()
        .filter(|item| item.carried && item.saved.is_default())
        .filter_map(|item| item.saved.gateway)
        .collect();
    if let Some(Mode::Direct { gateway: Some(gateway), .. }) =
        config.bridge(&m.bridge).map(|bridge| &bridge.mode)
    {
        found.insert(*gateway);
    }
    found
}

fn silent_gateway(
    config: &Config,
    moves: &[Move],
    moved: bool,
    netlink: &mut Netlink,
) -> Result<Option<(IpAddr, IfName)>, Error> {
    for m in moves {
        let name = if moved { &m.bridge } else { &m.uplink };
        let Some(link) = netlink.link(name)? else { continue };
        let own: Vec<IpNet> = netlink.addresses(link.index)?;
        for gateway in gateways(config, m) {
            // Before the move only those can be asked that the uplink has a way to.
            let near = own.iter().any(|net| net.contains(&gateway))
                || m.routes.iter().any(|item| item.saved.gateway == Some(gateway));
            if !moved && !near {
                continue;
            }
            if moved {
                // What was heard while the frames still took the old path proves nothing.
                netlink.forget_neighbour(link.index, gateway)?;
            }
            if !netlink.answers(link.index, gateway, GATEWAY_DEADLINE)? {
                return Ok(Some((gateway, name.clone())));
            }
        }
    }
    Ok(None)
}
