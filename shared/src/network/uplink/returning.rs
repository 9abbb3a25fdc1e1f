//! The way back: everything as it was before the move.

use std::collections::BTreeMap;

use super::{Journal, Move, Phase};
use crate::config::Config;
use crate::link::saved::{Place, Relocation};
use crate::link::sysctl::{Family, Sysctl};
use crate::link::{self, Netlink};
use crate::name::IfName;
use crate::nat;
use crate::network::bridge::{self, OVSDB_DEADLINE, is_ours};
use crate::network::done::{Book, Done};
use crate::network::gateway::Networks;
use crate::network::wire;
use crate::network::{Error, host};
use crate::ovsdb::Client;
use crate::state::{self, State};

/// How a look at the journal ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// No move is open.
    Nothing,
    /// One waits to be confirmed, for so many seconds more.
    Waiting {
        /// Seconds.
        left: u64,
    },
    /// One was taken back just now.
    Returned {
        /// Why.
        why: String,
    },
}

/// Confirms the move that waits for it: from now on it outlives every boot. Returns what stays, in
/// words.
pub fn confirm(config: &Config) -> Result<String, Error> {
    let state = State::new(config.state_dir.clone());
    state.prepare()?;
    let _lock = state.lock("networks")?;
    match settle(config, &state)? {
        Outcome::Nothing => {
            let why = match Journal::read(config)?.map(|journal| journal.phase) {
                Some(Phase::Confirmed) => "it is confirmed already".to_owned(),
                Some(Phase::Returned { why }) => format!("the last move was taken back: {why}"),
                _ => "no uplink was moved".to_owned(),
            };
            Err(Error::NothingToConfirm { why })
        }
        Outcome::Returned { why } => {
            Err(Error::NothingToConfirm { why: format!("the move was taken back: {why}") })
        }
        Outcome::Waiting { .. } => {
            let Some(mut journal) = Journal::read(config)? else {
                return Err(Error::NothingToConfirm { why: "no uplink was moved".to_owned() });
            };
            let route = journal.route();
            journal.phase = Phase::Confirmed;
            journal.kept.append(&mut journal.moves);
            journal.write(config)?;
            Ok(route)
        }
    }
}

/// Takes back a move that nobody confirmed in time, or whose process died at it. Cheap if there is
/// none; waits while one is under way. For whoever stands by.
pub fn look_after(config: &Config) -> Result<Outcome, Error> {
    match Journal::read(config)? {
        None => return Ok(Outcome::Nothing),
        Some(journal) => match journal.phase {
            Phase::Returned { .. } | Phase::Confirmed => return Ok(Outcome::Nothing),
            Phase::Waiting if journal.left() > 0 && journal.is_of_this_boot()? => {
                return Ok(Outcome::Waiting { left: journal.left() });
            }
            Phase::Moving | Phase::Waiting | Phase::Returning { .. } => {}
        },
    }
    let state = State::new(config.state_dir.clone());
    state.prepare()?;
    let _lock = state.lock("networks")?;
    settle(config, &state)
}

/// [`look_after`] for who holds the lock on networks: then a move that is under way is nobody's.
pub(in crate::network) fn settle(config: &Config, state: &State) -> Result<Outcome, Error> {
    let Some(journal) = Journal::read(config)? else { return Ok(Outcome::Nothing) };
    let here = journal.is_of_this_boot()?;
    let why = match &journal.phase {
        Phase::Returned { .. } | Phase::Confirmed => return Ok(Outcome::Nothing),
        Phase::Returning { why } => why.clone(),
        _ if !here => "the host was rebooted before anybody confirmed it".to_owned(),
        Phase::Moving => "the command that was at it ended half way".to_owned(),
        Phase::Waiting if journal.left() > 0 => {
            return Ok(Outcome::Waiting { left: journal.left() });
        }
        Phase::Waiting => format!("nobody confirmed it within {} s", journal.within),
    };
    take_back(config, state, journal, &why)?;
    Ok(Outcome::Returned { why })
}

impl Journal {
    fn is_of_this_boot(&self) -> Result<bool, Error> {
        Ok(self.boot_id == state::boot_id()?)
    }
}

/// Returns everything to what it was; the caller holds the lock. What cannot be done now is done
/// by the next look: the journal says so first, and last that it is over.
pub(in crate::network) fn take_back(
    config: &Config,
    state: &State,
    mut journal: Journal,
    why: &str,
) -> Result<(), Error> {
    journal.phase = Phase::Returning { why: why.to_owned() };
    journal.write(config)?;
    let here = journal.is_of_this_boot()?;
    let mut netlink = Netlink::open()?;
    // The addresses first: the host is reachable again whatever the switch does.
    if here {
        for m in &journal.moves {
            m.give_back(&mut netlink)?;
        }
    }
    let mut ovsdb = Client::connect(&config.ovsdb, OVSDB_DEADLINE)?;
    let mut book = Book::open(state)?;
    for m in &journal.moves {
        m.unplug(&mut ovsdb)?;
    }
    if here {
        undo_bridges(config, state, &journal, &mut ovsdb, &mut netlink, &mut book)?;
    } else {
        for m in journal.moves.iter().filter(|m| !m.stood) {
            if !in_use(&m.bridge, &mut ovsdb)? {
                bridge::remove(&m.bridge, &mut ovsdb, &mut netlink, &mut book)?;
            }
        }
    }
    journal.phase = Phase::Returned { why: why.to_owned() };
    journal.write(config)
}

/// For `down`: what was confirmed goes back as well as what was not. Returns what was done, in
/// words.
pub(in crate::network) fn give_back_all(
    config: &Config,
    state: &State,
    ovsdb: &mut Client,
    netlink: &mut Netlink,
) -> Result<Vec<String>, Error> {
    let Some(journal) = Journal::read(config)? else { return Ok(Vec::new()) };
    let mut acts = Vec::new();
    for m in &journal.kept {
        acts.extend(m.return_confirmed(ovsdb, netlink)?);
    }
    if !matches!(journal.phase, Phase::Returned { .. } | Phase::Confirmed) {
        acts.push(format!("move of {} taken back", journal.route()));
        take_back(config, state, journal, "the host was taken down")?;
    }
    Journal::remove(config)?;
    Ok(acts)
}

impl Move {
    /// Addresses and routes off the bridge and back on the uplink, as they were.
    fn give_back(&self, netlink: &mut Netlink) -> Result<(), Error> {
        // A wired port that was pulled out took its addresses along.
        let Some(uplink) = netlink.link(&self.uplink)? else { return Ok(()) };
        let bridge = netlink.link(&self.bridge)?;
        if let Some(value) = &self.accept_ra {
            match Sysctl::new(Family::Ipv6, &self.uplink, "accept_ra").ensure(value) {
                Ok(_) | Err(link::Error::Missing { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        wire::unguard(&self.uplink, netlink)?;
        if !uplink.up {
            netlink.set_up(uplink.index, true)?;
        }
        let there = netlink.save_addresses(uplink.index)?;
        let is_there = |item: &&super::Item<_>| {
            let saved: &crate::link::saved::SavedAddress = &item.saved;
            !there.iter().any(|other| other.address == saved.address)
        };
        let what = Relocation {
            take: self.addresses.iter().filter(|i| i.carried).map(|i| &i.saved).collect(),
            take_routes: self.routes.iter().filter(|i| i.carried).map(|i| &i.saved).collect(),
            put: self.addresses.iter().filter(is_there).map(|item| &item.saved).collect(),
            put_routes: self.routes.iter().map(|item| &item.saved).collect(),
            at_once: false,
        };
        let from = bridge.as_ref().map(|link| Place { index: link.index, name: &link.name });
        let to = Place { index: uplink.index, name: &uplink.name };
        match netlink.relocate(from, Some(to), &what)?.into_iter().next() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// What was confirmed goes back: [`Self::give_back`] unless a boot has done it, and unplugged.
    pub(super) fn return_confirmed(
        &self,
        ovsdb: &mut Client,
        netlink: &mut Netlink,
    ) -> Result<Vec<String>, Error> {
        let mut acts = Vec::new();
        if self.boot_id == state::boot_id()? {
            self.give_back(netlink)?;
            let addresses = self.addresses.iter();
            acts.extend(
                addresses.map(|i| format!("{} given back to {}", i.saved.address, self.uplink)),
            );
        }
        self.unplug(ovsdb)?;
        Ok(acts)
    }

    /// Takes the uplink out of the bridge again, and gives the bridge its own MAC.
    fn unplug(&self, ovsdb: &mut Client) -> Result<(), Error> {
        if !self.plugged
            && let Some(port) = ovsdb.port(&self.uplink)?
            && port.bridge.as_ref() == Some(&self.bridge)
            && is_ours(&port.external_ids)
        {
            let generation = ovsdb.delete_ports(&[port.uuid])?;
            // A switch that does not run holds nothing.
            ovsdb.wait_applied(generation, OVSDB_DEADLINE)?;
        }
        if let Some(mac) = self.mac.filter(|_| self.stood) {
            ovsdb.set_hwaddr(&self.bridge, mac)?;
        }
        Ok(())
    }
}

/// Whether anything hangs on a bridge but itself and our own gateways and uplinks.
fn in_use(bridge: &IfName, ovsdb: &mut Client) -> Result<bool, Error> {
    Ok(ovsdb.ports()?.iter().any(|port| {
        port.bridge.as_ref() == Some(bridge)
            && port.name != *bridge
            && bridge::role_of(&port.external_ids).is_none()
    }))
}

/// What `up` did besides moving, as far as nothing has come to depend on it meanwhile.
fn undo_bridges(
    config: &Config,
    state: &State,
    journal: &Journal,
    ovsdb: &mut Client,
    netlink: &mut Netlink,
    book: &mut Book,
) -> Result<(), Error> {
    let now: BTreeMap<IfName, Done> = book.all().clone();
    let mut used = false;
    for name in now.keys() {
        used |= in_use(name, ovsdb)?;
    }
    if journal.before.is_empty() && !used {
        host::take_down(config, state, (ovsdb, netlink), book)?;
        return Ok(());
    }
    let mut left = journal.before.clone();
    for (name, done) in &now {
        match journal.before.get(name) {
            None if !in_use(name, ovsdb)? => {
                bridge::remove(name, ovsdb, netlink, book)?;
            }
            before => {
                let kept = before.cloned().unwrap_or_default();
                bridge::revert(name, done, &kept, ovsdb, netlink)?;
                left.insert(name.clone(), kept);
            }
        }
    }
    book.replace(left)?;
    nat::apply(state, &Networks::new(config).segments()?)?;
    Ok(())
}
