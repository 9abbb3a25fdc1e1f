//! `up` and `down`: the whole host as the configuration wants it, and back.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Error;
use super::bridge::{self, Done};
use super::gateway::Networks;
use crate::config::Config;
use crate::link::Netlink;
use crate::nat;
use crate::ovsdb::Client;
use crate::state::{self, State};

/// What one step of `up` or `down` came to, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// "bridge ovsbr1", "NAT".
    pub what: String,
    /// Whether anything had to be changed.
    pub changed: bool,
}

/// What `up` did, bridge by bridge, for `down`. Dies with the boot, as addresses do.
type Ledgered = BTreeMap<String, Done>;

/// Brings up bridges, uplinks, addresses, routes, forwarding and NAT. What stands is left alone:
/// a second `up` changes nothing.
pub fn up(config: &Config) -> Result<Vec<Step>, Error> {
    let state = State::new(config.state_dir.clone());
    state.prepare()?;
    let _lock = state.lock("networks")?;
    let mut ovsdb = Client::connect(&config.ovsdb, bridge::OVSDB_DEADLINE)?;
    let mut netlink = Netlink::open()?;
    let path = done_path(&state);
    let mut done: Ledgered = state::read(&path)?.unwrap_or_default();
    let mut steps = Vec::new();
    for bridge in &config.bridges {
        let entry = done.entry(bridge.name.to_string()).or_default();
        let result = bridge::ensure(bridge, &mut ovsdb, &mut netlink, entry);
        // Whatever was done so far must be undone by `down`, also after an error.
        state::write(&path, &done)?;
        steps.push(Step { what: format!("bridge {}", bridge.name), changed: result? });
    }
    let networks = Networks::new(config);
    for network in networks.made()? {
        networks.make_gateway(&network, &mut netlink)?;
    }
    let mut changed = nat::apply(&state, &networks.segments()?)?;
    changed |= nat::tagged::ensure().map_err(nat::Error::from)?;
    steps.push(Step { what: "forwarding, NAT and guard".to_owned(), changed });
    Ok(steps)
}

/// Removes what is ours and nothing else: a bridge that stood before `up` stays, without what `up`
/// added to it.
pub fn down(config: &Config) -> Result<Vec<Step>, Error> {
    let state = State::new(config.state_dir.clone());
    state.prepare()?;
    let _lock = state.lock("networks")?;
    let mut steps = Vec::new();
    let mut changed = nat::tagged::remove().map_err(nat::Error::from)?;
    changed |= nat::remove(&state)?;
    steps.push(Step { what: "forwarding, NAT and guard".to_owned(), changed });
    let mut ovsdb = Client::connect(&config.ovsdb, bridge::OVSDB_DEADLINE)?;
    let mut netlink = Netlink::open()?;
    let gateways: Vec<_> = ovsdb
        .ports_with(&super::gateway::role(super::gateway::ROLE_GATEWAY))?
        .into_iter()
        .map(|port| port.uuid)
        .collect();
    if !gateways.is_empty() {
        ovsdb.delete_ports(&gateways)?;
        steps.push(Step { what: format!("{} gateway ports", gateways.len()), changed: true });
    }
    for path in state::files(&state.networks())? {
        state::remove(&path)?;
    }
    let path = done_path(&state);
    let done: Ledgered = state::read(&path)?.unwrap_or_default();
    for bridge in &config.bridges {
        let nothing = Done::default();
        let done = done.get(bridge.name.as_str()).unwrap_or(&nothing);
        let changed = bridge::remove(bridge, &mut ovsdb, &mut netlink, done)?;
        steps.push(Step { what: format!("bridge {}", bridge.name), changed });
    }
    state::remove(&path)?;
    Ok(steps)
}

fn done_path(state: &State) -> PathBuf {
    state.dir().join("up.json")
}
