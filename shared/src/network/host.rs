//! `up` and `down`: the whole host as the configuration wants it, and back.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use super::bridge::{self, ROLE_BRIDGE, is_ours, role_of};
use super::done::Book;
use super::gateway::{Networks, ROLE_GATEWAY, gateway_port, role};
use super::uplink::{self, Journal, Moves, Outcome, Phase};
use super::{Error, listed, wire};
use crate::config::{Config, Mode, Uplink};
use crate::error::sentence;
use crate::link::Netlink;
use crate::lock::Lock;
use crate::name::IfName;
use crate::nat;
use crate::ovsdb::{Client, vswitchd};
use crate::state::{self, State};

/// What one step of `up` or `down` came to, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// "bridge ovsbr1", "NAT".
    pub what: String,
    /// What was done, in words: "made", "10.200.0.1/24 added"; empty if everything stood already.
    pub acts: Vec<String>,
}

impl Step {
    fn new(what: impl Into<String>, acts: Vec<String>) -> Self {
        Self { what: what.into(), acts }
    }

    fn of(what: impl Into<String>, changed: bool, act: &str) -> Self {
        Self::new(what, if changed { vec![act.to_owned()] } else { Vec::new() })
    }
}

/// Brings up bridges, uplinks, addresses, routes, forwarding and NAT. What stands is left alone:
/// a second `up` changes nothing. What cannot be done is refused before anything is changed.
///
/// # Errors
/// [`Error::Unconfirmed`] while a move of uplinks waits to be confirmed.
pub fn up(config: &Config) -> Result<Vec<Step>, Error> {
    let mut work = Work::begin(config)?;
    let journal = work.settle()?;
    let mut steps = Vec::new();
    // What was taken back stays where it is, and the rest of the host is brought up without it.
    let config = &without_returned(config, journal.as_ref(), &mut work.netlink, &mut steps)?;
    let mut moves = Moves::confirmed(journal);
    let returned = moves.retire(config, &mut work.ovsdb, &mut work.netlink)?;
    if !returned.is_empty() {
        steps.push(Step::new("uplinks", returned));
    }
    check(config, &moves, &mut work.ovsdb, &mut work.netlink)?;
    steps.extend(work.bring_up(config, &mut moves, &BTreeSet::new(), &mut Err)?);
    Ok(steps)
}

/// What [`keep`] did.
#[derive(Debug, Clone)]
pub struct Kept {
    /// As [`up`] says it.
    pub steps: Vec<Step>,
    /// Why bridges are left as they are, each a sentence: what would change that is news.
    pub refused: Vec<String>,
    /// What failed on the way, each a sentence: to be tried again.
    pub failed: Vec<String>,
}

/// [`up`] for the agent, which goes on: an uplink that is not there, or another fault of one bridge,
/// takes nothing from the others. That bridge is left as it is.
///
/// # Errors
/// What concerns them all, as in [`up`].
pub fn keep(config: &Config) -> Result<Kept, Error> {
    let mut work = Work::begin(config)?;
    let journal = work.settle()?;
    let mut steps = Vec::new();
    let config = &without_returned(config, journal.as_ref(), &mut work.netlink, &mut steps)?;
    let mut moves = Moves::confirmed(journal);
    let (mut refused, mut failed) = (Vec::new(), Vec::new());
    match moves.retire(config, &mut work.ovsdb, &mut work.netlink) {
        Ok(returned) if returned.is_empty() => {}
        Ok(returned) => steps.push(Step::new("uplinks", returned)),
        Err(error) => failed.push(sentence(&error)),
    }
    let mut left = BTreeSet::new();
    for bridge in &config.bridges {
        let checked = bridge::check(bridge, &moves.uplinks(), &mut work.ovsdb, &mut work.netlink);
        if let Err(error) = checked {
            left.insert(&bridge.name);
            refused.push(sentence(&error));
        }
    }
    if let Err(error) = Networks::new(config).check() {
        refused.push(sentence(&error));
    }
    steps.extend(work.bring_up(config, &mut moves, &left, &mut |error| {
        failed.push(sentence(&error));
        Ok(())
    })?);
    Ok(Kept { steps, refused, failed })
}

/// What [`move_uplinks`] did.
#[derive(Debug, Clone)]
pub struct Moved {
    /// As [`up`] says it.
    pub steps: Vec<Step>,
    /// "enp2s0 to ovsbr0", if anything was moved that now waits to be confirmed.
    pub route: Option<String>,
}

/// [`up`], and uplinks that carry the host's own addresses are moved with them to their bridges.
/// Unless [`uplink::confirm`] is called within `within`, everything returns to what it was; so it
/// does if a gateway no longer answers, or this process dies. `stand_by` starts whoever looks after
/// that ([`uplink::look_after`]), before the first step.
pub fn move_uplinks(
    config: &Config,
    within: Duration,
    stand_by: impl FnOnce() -> io::Result<()>,
) -> Result<Moved, Error> {
    let mut work = Work::begin(config)?;
    let mut confirmed = Moves::confirmed(work.settle()?);
    let book = Book::open(&work.state)?;
    let both = (&mut work.ovsdb, &mut work.netlink);
    let journal = uplink::plan(config, &confirmed, within, both, &book)?;
    if journal.moves.is_empty() {
        check(config, &confirmed, &mut work.ovsdb, &mut work.netlink)?;
        let steps = work.bring_up(config, &mut confirmed, &BTreeSet::new(), &mut Err)?;
        return Ok(Moved { steps, route: None });
    }
    let mut moves = Moves::begun(journal);
    check(config, &moves, &mut work.ovsdb, &mut work.netlink)?;
    let silent = |found: Option<_>| match found {
        Some((gateway, interface)) => {
            Err(Error::GatewaySilent { gateway, interface, waited: uplink::GATEWAY_DEADLINE })
        }
        None => Ok(()),
    };
    silent(moves.silent_gateway(config, false, &mut work.netlink)?)?;
    moves.write(config)?;
    stand_by().map_err(|source| Error::NoGuard { source })?;
    let moved = work.bring_up(config, &mut moves, &BTreeSet::new(), &mut Err).and_then(|steps| {
        silent(moves.silent_gateway(config, true, &mut work.netlink)?)?;
        Ok(steps)
    });
    match moved {
        Ok(steps) => {
            let route = moves.wait(config)?;
            Ok(Moved { steps, route: Some(route) })
        }
        Err(cause) => Err(work.take_back(config, moves, cause)),
    }
}

/// What every bring-up needs, lock included.
struct Work {
    config: Config,
    state: State,
    ovsdb: Client,
    netlink: Netlink,
    _lock: Lock,
}

impl Work {
    fn begin(config: &Config) -> Result<Self, Error> {
        let state = State::new(config.state_dir.clone());
        // A switch that does not open ports would leave a bridge half made.
        let mut ovsdb = Client::connect(&config.ovsdb, bridge::OVSDB_DEADLINE)?;
        vswitchd::alive(&config.ovsdb, vswitchd::DEADLINE)?;
        ovsdb.ensure_root()?;
        let netlink = Netlink::open()?;
        state.prepare()?;
        let lock = state.lock("networks")?;
        Ok(Self { config: config.clone(), state, ovsdb, netlink, _lock: lock })
    }

    /// The journal, once no move is open any more.
    fn settle(&self) -> Result<Option<Journal>, Error> {
        let outcome = uplink::settle(&self.config, &self.state)?;
        let journal = Journal::read(&self.config)?;
        match (outcome, journal) {
            (Outcome::Waiting { left }, Some(journal)) => {
                Err(Error::Unconfirmed { route: journal.route(), left })
            }
            (_, journal) => Ok(journal),
        }
    }

    /// The walk itself, with the bridges `left` as they are. `failed` decides of each fault whether
    /// the rest is brought up without it.
    fn bring_up(
        &mut self,
        config: &Config,
        moves: &mut Moves,
        left: &BTreeSet<&IfName>,
        failed: &mut dyn FnMut(Error) -> Result<(), Error>,
    ) -> Result<Vec<Step>, Error> {
        let Self { state, ovsdb, netlink, .. } = self;
        let mut book = Book::open(state)?;
        let mut steps = Vec::new();
        for bridge in config.bridges.iter().filter(|bridge| !left.contains(&bridge.name)) {
            match bridge::take_over(config, bridge, netlink, &mut book) {
                Ok(taken) => steps.extend(
                    taken.into_iter().map(|(name, acts)| Step::new(format!("bridge {name}"), acts)),
                ),
                Err(error) => failed(error)?,
            }
            match bridge::ensure(config, bridge, moves, (ovsdb, netlink), &mut book) {
                Ok(acts) => steps.push(Step::new(format!("bridge {}", bridge.name), acts)),
                Err(error) => failed(error)?,
            }
        }
        let plugged = config.bridges.iter().filter_map(|bridge| match &bridge.mode {
            Mode::Direct { uplink, .. } => uplink.as_ref(),
            Mode::Nat { .. } => None,
        });
        wire::unguard_all_but(&plugged.collect(), netlink)?;
        let networks = Networks::new(config);
        for network in networks.made()?.into_iter().filter(|network| network.gateway) {
            // Whoever removed its bridge has removed the network: it is back when the bridge is.
            if bridge::row(&network.bridge, ovsdb)?.is_none() {
                continue;
            }
            match networks.make_gateway(&network, netlink) {
                Ok(acts) => {
                    steps.push(Step::new(format!("gateway {}", gateway_port(&network)), acts));
                }
                Err(error) => failed(error)?,
            }
        }
        let mut changed = nat::apply(state, &networks.segments()?)?;
        match nat::tagged::ensure(state) {
            Ok(added) => changed |= added,
            Err(error) => failed(nat::Error::from(error).into())?,
        }
        steps.push(Step::of("forwarding, NAT and guard", changed, "set"));
        Ok(steps)
    }

    /// The error to report, once everything is as it was.
    fn take_back(&self, config: &Config, moves: Moves, cause: Error) -> Error {
        let Some(journal) = moves.journal() else { return cause };
        let source = Box::new(cause);
        match uplink::take_back(config, &self.state, journal, &sentence(&*source)) {
            Ok(()) => Error::TakenBack { source },
            Err(left) => Error::NotTakenBack { cause: source, source: Box::new(left) },
        }
    }
}

/// The configuration without the uplinks whose move was taken back, as long as they carry the
/// host's addresses.
fn without_returned(
    config: &Config,
    journal: Option<&Journal>,
    netlink: &mut Netlink,
    steps: &mut Vec<Step>,
) -> Result<Config, Error> {
    let mut config = config.clone();
    let Some(Journal { phase: Phase::Returned { why }, moves, .. }) = journal else {
        return Ok(config);
    };
    for m in moves.iter().filter(|m| m.is_wanted(&config)).collect::<Vec<_>>() {
        let Some(link) = netlink.link(&m.uplink)? else { continue };
        if netlink.save_addresses(link.index)?.is_empty() {
            continue;
        }
        if let Some(bridge) = config.bridges.iter_mut().find(|bridge| bridge.name == m.bridge) {
            bridge.mode = Mode::Direct { uplink: None, addresses: Vec::new(), gateway: None };
        }
        let what = format!("uplink {}", m.uplink);
        steps.push(Step::new(what, vec![format!("left as it is: {why}")]));
    }
    Ok(config)
}

/// Has `write` put back our nftables table; `None` where the host is not up, false if nothing was
/// missing. For the agent: quicker than [`up`], which looks at everything.
pub fn hold(
    config: &Config,
    write: &mut dyn FnMut(&nat::Plan) -> Result<bool, nat::Error>,
) -> Result<Option<bool>, Error> {
    let state = State::new(config.state_dir.clone());
    state.prepare()?;
    let _lock = state.lock("networks")?;
    if Book::open(&state)?.bridges().next().is_none() {
        return Ok(None);
    }
    let plan = nat::plan(&state, &Networks::new(config).segments()?)?;
    Ok(Some(write(&plan)?))
}

/// The bridges that are up, adopted ones among them.
pub fn bridges_up(config: &Config) -> Result<BTreeSet<IfName>, Error> {
    let book = Book::open(&State::new(config.state_dir.clone()))?;
    Ok(book.bridges().cloned().collect())
}

/// Looks at everything `up` could stumble over; changes nothing.
fn check(
    config: &Config,
    moves: &Moves,
    ovsdb: &mut Client,
    netlink: &mut Netlink,
) -> Result<(), Error> {
    let moving = moves.uplinks();
    for bridge in &config.bridges {
        bridge::check(bridge, &moving, ovsdb, netlink)?;
        if let Mode::Nat { uplink: Uplink::Named(uplink), .. } = &bridge.mode
            && config.bridge(uplink).is_none()
            && netlink.link(uplink)?.is_none()
        {
            return Err(Error::NoUplink { uplink: uplink.clone(), bridge: bridge.name.clone() });
        }
    }
    Networks::new(config).check()
}

/// Removes what is ours and nothing else: a bridge that stood before `up` stays, without what `up`
/// added to it. Ports of others on a bridge of ours are an error, unless `force` says so.
pub fn down(config: &Config, force: bool) -> Result<Vec<Step>, Error> {
    let state = State::new(config.state_dir.clone());
    let mut ovsdb = Client::connect(&config.ovsdb, bridge::OVSDB_DEADLINE)?;
    let mut netlink = Netlink::open()?;
    state.prepare()?;
    let _lock = state.lock("networks")?;
    let mut book = Book::open(&state)?;
    if !force {
        let (ours, _) = bridges(config, &book, &mut ovsdb)?;
        refuse_foreign_ports(&ours, &mut ovsdb)?;
    }
    let mut steps = Vec::new();
    let returned = uplink::give_back_all(config, &state, &mut ovsdb, &mut netlink)?;
    if !returned.is_empty() {
        steps.push(Step::new("uplinks", returned));
        book = Book::open(&state)?;
    }
    steps.extend(take_down(config, &state, (&mut ovsdb, &mut netlink), &mut book)?);
    Ok(steps)
}

/// [`down`] for who holds the lock.
pub(super) fn take_down(
    config: &Config,
    state: &State,
    (ovsdb, netlink): (&mut Client, &mut Netlink),
    book: &mut Book,
) -> Result<Vec<Step>, Error> {
    let (_, all) = bridges(config, book, ovsdb)?;
    let mut steps = Vec::new();
    let mut changed = nat::tagged::remove(state).map_err(nat::Error::from)?;
    changed |= nat::remove(state)?;
    steps.push(Step::of("forwarding, NAT and guard", changed, "removed"));
    let gateways = ovsdb.ports_with(&role(ROLE_GATEWAY))?;
    if !gateways.is_empty() {
        let uuids: Vec<_> = gateways.iter().map(|port| port.uuid.clone()).collect();
        ovsdb.delete_ports(&uuids)?;
        for port in gateways {
            bridge::wait_until_gone(netlink, &port.name)?;
            steps.push(Step::of(format!("gateway {}", port.name), true, "removed"));
        }
    }
    for path in state::files(&state.networks())? {
        state::remove(&path)?;
    }
    for name in all {
        let acts = bridge::remove(&name, ovsdb, netlink, book)?;
        steps.push(Step::new(format!("bridge {name}"), acts));
    }
    wire::unguard_all_but(&BTreeSet::new(), netlink)?;
    book.close()?;
    Ok(steps)
}

/// The bridges we made, and all we may have touched: also those that an earlier configuration had.
fn bridges(
    config: &Config,
    book: &Book,
    ovsdb: &mut Client,
) -> Result<(BTreeSet<IfName>, BTreeSet<IfName>), Error> {
    let rows = ovsdb.bridges()?;
    let ours: BTreeSet<_> = rows
        .into_iter()
        .filter(|row| role_of(&row.external_ids) == Some(ROLE_BRIDGE))
        .map(|row| row.name)
        .collect();
    let mut all = ours.clone();
    all.extend(config.bridges.iter().map(|bridge| bridge.name.clone()));
    all.extend(book.bridges().cloned());
    all.extend(wire::uplinks(ovsdb)?.into_iter().filter_map(|port| port.bridge));
    Ok((ours, all))
}

fn refuse_foreign_ports(ours: &BTreeSet<IfName>, ovsdb: &mut Client) -> Result<(), Error> {
    let ports = ovsdb.ports()?;
    for bridge in ours {
        let foreign: Vec<_> = ports
            .iter()
            .filter(|port| port.bridge.as_ref() == Some(bridge) && port.name != *bridge)
            .filter(|port| !is_ours(&port.external_ids))
            .map(|port| &port.name)
            .collect();
        if !foreign.is_empty() {
            return Err(Error::ForeignPorts { bridge: bridge.clone(), names: listed(&foreign) });
        }
    }
    Ok(())
}
