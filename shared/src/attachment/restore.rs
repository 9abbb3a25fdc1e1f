//! Ports that the switch has lost (an erased database, a bridge made anew) are plugged in again
//! from their records.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::attach::{OVSDB_DEADLINE, lock_key};
use super::record::{Key, Record};
use super::show::Picture;
use super::{Engine, Error};
use crate::error::sentence;
use crate::link::{Link, Netlink};
use crate::lock;
use crate::name::IfName;
use crate::network::OPEN_DEADLINE;
use crate::ovsdb::{self, Bridge, Client};
use crate::state;

/// What [`Engine::restore`] did.
#[derive(Debug, Clone, Default)]
pub struct Restored {
    /// Attachments whose ports were plugged in again.
    pub plugged: Vec<Key>,
    /// Ports that could not be, one sentence each.
    pub failed: Vec<String>,
}

impl Engine {
    /// Plugs in again what the switch has lost: attachments of this boot whose interface is there
    /// and whose port is not, with the VLANs, isolation and `external_ids` they had. Cheap where
    /// nothing is lost. An attachment that somebody is at work on is passed over.
    ///
    /// # Errors
    /// Only if the switch cannot be asked.
    pub fn restore(&self) -> Result<Restored, Error> {
        self.restore_from(self.records()?.0)
    }

    /// [`Engine::restore`] of a few that are known to have lost their ports.
    pub fn restore_lost(&self, keys: &[Key]) -> Result<Restored, Error> {
        // One that cannot be read is the next full look's to name.
        self.restore_from(keys.iter().filter_map(|key| self.record(key).ok().flatten()).collect())
    }

    /// [`Engine::restore`] of those that `picture` does not show: plugged in and out again between
    /// two looks. Reads no other record.
    pub fn restore_unseen(&self, picture: &Picture) -> Result<Restored, Error> {
        let shown: BTreeSet<_> = picture.ports.values().map(|port| port.key.file_name()).collect();
        let is_shown = |path: &PathBuf| {
            path.file_name().is_some_and(|name| shown.contains(name.to_string_lossy().as_ref()))
        };
        let mut unseen = state::files(&self.state().attachments())?;
        unseen.retain(|path| !is_shown(path));
        // One that cannot be read is the next full look's to name.
        self.restore_from(
            unseen.iter().filter_map(|path| state::read(path).ok().flatten()).collect(),
        )
    }

    fn restore_from(&self, mut records: Vec<Record>) -> Result<Restored, Error> {
        let mut restored = Restored::default();
        let boot = state::boot_id()?;
        let ovsdb = &self.config().ovsdb;
        records.retain(|record| record.complete && record.boot_id == boot && record.is_of(ovsdb));
        if records.is_empty() {
            return Ok(restored);
        }
        let mut ovsdb = Client::connect(&self.config().ovsdb, OVSDB_DEADLINE)?;
        let there: BTreeSet<IfName> = ovsdb.ports()?.into_iter().map(|port| port.name).collect();
        let mut bridges = BTreeMap::new();
        for record in records.iter().filter(|record| !there.contains(&record.port)) {
            match self.plug_again(record, &mut ovsdb, &mut bridges) {
                Ok(true) => restored.plugged.push(record.key.clone()),
                Ok(false) => {}
                Err(error) => restored.failed.push(format!("{}: {}", record.key, sentence(&error))),
            }
        }
        // All at once: ovs-vswitchd opens them in one round of its work.
        for record in records.iter().filter(|record| restored.plugged.contains(&record.key)) {
            if let Err(error) = ovsdb.wait_open(&record.port, OPEN_DEADLINE) {
                restored.failed.push(format!("{}: {}", record.key, sentence(&error)));
            }
        }
        Ok(restored)
    }

    /// False if it is not to be plugged in, or somebody else is at it.
    fn plug_again(
        &self,
        record: &Record,
        ovsdb: &mut Client,
        bridges: &mut BTreeMap<IfName, Bridge>,
    ) -> Result<bool, Error> {
        let _lock = match self.state().try_lock(&lock_key(&record.key)) {
            Ok(lock) => lock,
            // A DEL removes the port first and the record last.
            Err(lock::Error::Busy { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        if self.record(&record.key)?.as_ref() != Some(record) {
            return Ok(false);
        }
        let host_end = Netlink::open()?.link(&record.port)?;
        let is_it = |link: &Link| match &record.adopted {
            Some(adopted) => link.index == adopted.index,
            None => link.mac == Some(record.host_mac),
        };
        if !host_end.as_ref().is_some_and(is_it) {
            return Ok(false);
        }
        let bridge = match bridges.get(&record.bridge) {
            Some(bridge) => bridge,
            None => {
                let bridge = match ovsdb.view(&record.bridge) {
                    Ok(view) => view.bridge,
                    // Whoever removed it has removed the port; with the bridge it comes back.
                    Err(ovsdb::Error::NoBridge { .. }) => return Ok(false),
                    Err(error) => return Err(error.into()),
                };
                bridges.entry(record.bridge.clone()).or_insert(bridge)
            }
        };
        ovsdb.add_port(&bridge.name, &record.port_spec())?;
        Ok(true)
    }
}
