//! The managed block, rendered from the switch.

use super::attach::OVSDB_DEADLINE;
use super::record::Key;
use super::{Engine, Error, owner};
use crate::error::sentence;
use crate::interfaces::{self, BridgeStanza, PortStanza};
use crate::lock::{self, Lock};
use crate::name::IfName;
use crate::network;
use crate::ovsdb::Client;
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
}

impl Engine {
    /// The ports of ours in the switch, whoever plugged them in.
    pub fn plugged(&self) -> Result<Vec<PluggedPort>, Error> {
        plugged(&mut Client::connect(&self.config().ovsdb, OVSDB_DEADLINE)?)
    }

    /// Makes the managed block show the switch as it is now. True if the file changed.
    pub fn show(&self) -> Result<bool, Error> {
        let _lock = self.state().lock(WRITER)?;
        self.render()
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
        Ok(lock::is_held(&self.state().dir().join("lock"), AGENT)?)
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
                    if let Err(error) = self.render() {
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

    fn render(&self) -> Result<bool, Error> {
        let config = self.config();
        let mut ovsdb = Client::connect(&config.ovsdb, OVSDB_DEADLINE)?;
        let ports: Vec<_> = plugged(&mut ovsdb)?
            .into_iter()
            .map(|port| PortStanza { name: port.port, bridge: port.bridge, vlan: port.vlan })
            .collect();
        // After "down" a bridge that stands is its maker's business again.
        let up = network::host::bridges_up(config)?;
        let shown = |name: &IfName| {
            config.bridge(name).is_some()
                && (up.contains(name) || ports.iter().any(|port| port.bridge == *name))
        };
        let rows = ovsdb.bridges()?.into_iter().filter(|row| shown(&row.name));
        let bridges: Vec<_> = rows.map(|row| BridgeStanza { name: row.name }).collect();
        interfaces::update(&config.interfaces_path, &config.managed_block_tag, &bridges, &ports)
            .map_err(|error| network::Error::from(error).into())
    }
}

fn plugged(ovsdb: &mut Client) -> Result<Vec<PluggedPort>, Error> {
    let found = ovsdb.ports_with(&owner::ours())?;
    Ok(found
        .into_iter()
        .filter_map(|port| {
            let key = owner::key_of(&port)?;
            Some(PluggedPort { port: port.name, bridge: port.bridge?, vlan: port.vlan?, key })
        })
        .collect())
}
