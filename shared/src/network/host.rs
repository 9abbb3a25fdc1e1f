//! `up` and `down`: the whole host as the configuration wants it, and back.

use std::collections::BTreeSet;

use super::bridge::{self, ROLE_BRIDGE, is_ours, role_of};
use super::done::Book;
use super::gateway::{Networks, ROLE_GATEWAY, gateway_port, role};
use super::{Error, listed};
use crate::config::{Config, Mode, Uplink};
use crate::link::Netlink;
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
pub fn up(config: &Config) -> Result<Vec<Step>, Error> {
    let state = State::new(config.state_dir.clone());
    // A switch that does not open ports would leave a bridge half made.
    let mut ovsdb = Client::connect(&config.ovsdb, bridge::OVSDB_DEADLINE)?;
    vswitchd::alive(&config.ovsdb, vswitchd::DEADLINE)?;
    let mut netlink = Netlink::open()?;
    state.prepare()?;
    let _lock = state.lock("networks")?;
    check(config, &mut ovsdb, &mut netlink)?;
    let mut book = Book::open(&state)?;
    let mut steps = Vec::new();
    for bridge in &config.bridges {
        let acts = bridge::ensure(bridge, &mut ovsdb, &mut netlink, &mut book)?;
        steps.push(Step::new(format!("bridge {}", bridge.name), acts));
    }
    let networks = Networks::new(config);
    for network in networks.made()? {
        if network.gateway {
            let acts = networks.make_gateway(&network, &mut netlink)?;
            steps.push(Step::new(format!("gateway {}", gateway_port(&network)), acts));
        }
    }
    let mut changed = nat::apply(&state, &networks.segments()?)?;
    changed |= nat::tagged::ensure().map_err(nat::Error::from)?;
    steps.push(Step::of("forwarding, NAT and guard", changed, "set"));
    Ok(steps)
}

/// Has `write` put back our nftables table, where the host is up; false if nothing was missing. For
/// the agent: quicker than [`up`], which looks at everything.
pub fn hold(
    config: &Config,
    write: &mut dyn FnMut(&nat::Plan) -> Result<bool, nat::Error>,
) -> Result<bool, Error> {
    let state = State::new(config.state_dir.clone());
    state.prepare()?;
    let _lock = state.lock("networks")?;
    if Book::open(&state)?.bridges().next().is_none() {
        return Ok(false);
    }
    match nat::plan(&state, &Networks::new(config).segments()?) {
        Ok(plan) => Ok(write(&plan)?),
        // Not all of it is up (any more).
        Err(nat::Error::Missing { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The bridges that are up, adopted ones among them.
pub fn bridges_up(config: &Config) -> Result<BTreeSet<IfName>, Error> {
    let book = Book::open(&State::new(config.state_dir.clone()))?;
    Ok(book.bridges().cloned().collect())
}

/// Looks at everything `up` could stumble over; changes nothing.
fn check(config: &Config, ovsdb: &mut Client, netlink: &mut Netlink) -> Result<(), Error> {
    for bridge in &config.bridges {
        bridge::check(bridge, ovsdb, netlink)?;
        if let Mode::Nat { uplink: Uplink::Named(uplink), .. } = &bridge.mode
            && config.bridge(uplink).is_none()
            && netlink.link(uplink)?.is_none()
        {
            return Err(Error::NoUplink { uplink: uplink.clone(), bridge: bridge.name.clone() });
        }
    }
    Ok(())
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
    let (ours, all) = bridges(config, &book, &mut ovsdb)?;
    if !force {
        refuse_foreign_ports(&ours, &mut ovsdb)?;
    }
    let mut steps = Vec::new();
    let mut changed = nat::tagged::remove().map_err(nat::Error::from)?;
    changed |= nat::remove(&state)?;
    steps.push(Step::of("forwarding, NAT and guard", changed, "removed"));
    let gateways = ovsdb.ports_with(&role(ROLE_GATEWAY))?;
    if !gateways.is_empty() {
        let uuids: Vec<_> = gateways.iter().map(|port| port.uuid.clone()).collect();
        ovsdb.delete_ports(&uuids)?;
        for port in gateways {
            bridge::wait_until_gone(&mut netlink, &port.name)?;
            steps.push(Step::of(format!("gateway {}", port.name), true, "removed"));
        }
    }
    for path in state::files(&state.networks())? {
        state::remove(&path)?;
    }
    for name in all {
        let acts = bridge::remove(&name, &mut ovsdb, &mut netlink, &mut book)?;
        steps.push(Step::new(format!("bridge {name}"), acts));
    }
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
    all.extend(bridge::uplinks(ovsdb)?.into_iter().filter_map(|port| port.bridge));
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
