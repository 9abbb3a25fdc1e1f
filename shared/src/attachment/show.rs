//! The managed block, rendered from the switch.

use std::collections::{BTreeMap, BTreeSet};

use super::attach::OVSDB_DEADLINE;
use super::record::Key;
use super::{Engine, Error, owner};
use crate::error::sentence;
use crate::interfaces::{self, BridgeStanza, PortStanza};
use crate::lock::{self, Lock};
use crate::name::IfName;
use crate::network;
use crate::ovsdb::{Client, Port, Watch};
use crate::state::State;
use crate::vlan::PortVlan;

/// The lock that `ovs-port-agent run` holds for as long as it lives.
const AGENT: &str = "agent";

/// The lock of whoever writes the interfaces file.
const WRITER: &str = "interfaces";

/// A port of ours, as the switch has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluggedPort {
    /// Its name.
    pub port: IfName,
    /// Its bridge.
    pub bridge: IfName,
    /// What it carries.
    pub vlan: PortVlan,
    /// Which attachment it belongs to.
    pub key: Key,
    /// Whether somebody else made its interface.
    pub adopted: bool,
}

/// What the switch has, as far as the host's networks are concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picture {
    /// Every bridge.
    pub bridges: BTreeSet<IfName>,
    /// The ports of ours, by name.
    pub ports: BTreeMap<IfName, PluggedPort>,
}

impl Picture {
    /// The switch as `watch` was told of it.
    pub fn of(watch: &Watch) -> Self {
        let ports = watch
            .ports()
            .filter_map(|port| plugged(port.name, port.bridge?, port.vlan?, &port.external_ids));
        Self {
            bridges: watch.bridges().cloned().collect(),
            ports: ports.map(|port| (port.port.clone(), port)).collect(),
        }
    }
}

impl Engine {
    /// The ports of ours in the switch, whoever plugged them in.
    pub fn plugged(&self) -> Result<Vec<PluggedPort>, Error> {
        Ok(self.picture()?.ports.into_values().collect())
    }

    /// The switch as it is now.
    pub fn picture(&self) -> Result<Picture, Error> {
        let mut ovsdb = Client::connect(&self.config().ovsdb, OVSDB_DEADLINE)?;
        let bridges = ovsdb.bridges()?.into_iter().map(|row| row.name).collect();
        let ports = ovsdb.ports()?.into_iter().filter_map(plugged_port);
        Ok(Picture { bridges, ports: ports.map(|port| (port.port.clone(), port)).collect() })
    }

    /// Makes the managed block show the switch as it is now. True if the file changed.
    pub fn show(&self) -> Result<bool, Error> {
        let _lock = self.state().lock(WRITER)?;
        self.render(&self.picture()?)
    }

    /// The same of a picture that was just taken.
    pub fn show_picture(&self, picture: &Picture) -> Result<bool, Error> {
        let _lock = self.state().lock(WRITER)?;
        self.render(picture)
    }

    /// Says that an agent lives, for as long as the lock is held; `None` if one does already.
    pub fn claim_agent(&self) -> Result<Option<Lock>, Error> {
        let state = self.state();
        state.prepare()?;
        match state.try_lock(AGENT) {
            Ok(lock) => Ok(Some(lock)),
            Err(lock::Error::Busy { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether an agent lives; asking disturbs none that is about to start.
    pub fn agent_lives(&self) -> Result<bool, Error> {
        Ok(self.state().is_locked(AGENT)?)
    }

    /// After an act of a front end: the agent follows the switch by itself; without one the block
    /// is written here and now. A file that cannot be written never stops a container.
    pub(super) fn show_unless_agent(&self) {
        // Who cannot tell whether an agent lives does its work.
        if matches!(self.agent_lives(), Ok(true)) {
            return;
        }
        if let Err(error) = self.show_once(&self.state()) {
            tracing::error!(error = %sentence(&error), "the managed block is out of date");
        }
    }

    /// Makes up for an act that could not write the block.
    pub fn show_if_behind(&self) {
        if self.state().is_unshown() {
            self.show_unless_agent();
        }
    }

    /// Of many at once one writes for all: who finds the writer at work leaves a mark, and the
    /// writer looks again.
    fn show_once(&self, state: &State) -> Result<(), Error> {
        // Without the mark this one writes all the same.
        let mut marked = state.mark_unshown();
        loop {
            match state.try_lock(WRITER) {
                Ok(_lock) => {
                    state.mark_shown()?;
                    if let Err(error) = self.picture().and_then(|now| self.render(&now)) {
                        // The next act makes up for it.
                        state.mark_unshown()?;
                        return Err(error);
                    }
                    marked = Ok(());
                }
                Err(lock::Error::Busy { .. }) => return Ok(marked?),
                Err(error) => return Err(error.into()),
            }
            if !state.is_unshown() {
                return Ok(());
            }
        }
    }

    fn render(&self, picture: &Picture) -> Result<bool, Error> {
        let config = self.config();
        let stanza = |port: &PluggedPort| PortStanza {
            name: port.port.clone(),
            bridge: port.bridge.clone(),
            vlan: port.vlan.clone(),
        };
        let ports: Vec<_> = picture.ports.values().map(stanza).collect();
        // After "down" a bridge that stands is its maker's business again.
        let up = network::host::bridges_up(config)?;
        let shown = |name: &&IfName| {
            config.bridge(name).is_some()
                && (up.contains(*name) || ports.iter().any(|port| port.bridge == **name))
        };
        let bridges = picture.bridges.iter().filter(shown);
        let bridges: Vec<_> = bridges.map(|name| BridgeStanza { name: name.clone() }).collect();
        interfaces::update(&config.interfaces_path, &config.managed_block_tag, &bridges, &ports)
            .map_err(|error| network::Error::from(error).into())
    }
}

fn plugged_port(port: Port) -> Option<PluggedPort> {
    plugged(port.name, port.bridge?, port.vlan?, &port.external_ids)
}

fn plugged(
    port: IfName,
    bridge: IfName,
    vlan: PortVlan,
    ids: &BTreeMap<String, String>,
) -> Option<PluggedPort> {
    let (key, adopted) = (owner::key_in(ids)?, owner::is_adopted(ids));
    Some(PluggedPort { port, bridge, vlan, key, adopted })
}
