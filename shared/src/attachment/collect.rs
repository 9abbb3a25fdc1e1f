//! GC: removes what the runtime that made it no longer knows, and only reports the rest.

use std::collections::BTreeSet;

use super::attach::OVSDB_DEADLINE;
use super::record::{Key, Record, Runtime};
use super::{Engine, Error, owner};
use crate::error::sentence;
use crate::name::IfName;
use crate::ovsdb::Client;

/// Whose list of living attachments this is.
#[derive(Debug, Clone)]
pub struct GcRequest {
    /// The front end.
    pub runtime: Runtime,
    /// The program behind it; attachments made through another one are only reported.
    pub caller: String,
    /// The network.
    pub network: String,
    /// Container ids and interface names that live.
    pub valid: BTreeSet<(String, IfName)>,
}

/// What GC did.
#[derive(Debug, Clone, Default)]
pub struct Collected {
    /// Attachments removed, with their records as far as there were any.
    pub removed: Vec<(Key, Option<Record>)>,
    /// Attachments of other runtimes, each with the reason it was kept.
    pub kept: Vec<(Key, String)>,
    /// What could not be removed, one sentence each.
    pub failed: Vec<String>,
}

impl Engine {
    /// Removes the attachments of this runtime on this network that it does not list, whether
    /// their namespaces live or not; continues past errors.
    ///
    /// # Errors
    /// Only if records or ports cannot be listed at all: an unreadable source removes nothing.
    pub fn collect(&self, request: &GcRequest) -> Result<Collected, Error> {
        let mut collected = Collected::default();
        // Both sources before the first act.
        let (records, unreadable) = self.records()?;
        let mut ovsdb = Client::connect(&self.config().ovsdb, OVSDB_DEADLINE)?;
        let ports = ovsdb.ports_with(&owner::ours())?;
        drop(ovsdb);
        collected.failed.extend(unreadable.iter().map(|error| sentence(error)));
        let mut seen = BTreeSet::new();
        for record in records {
            seen.insert(record.key.clone());
            self.consider(request, &record.key, record.runtime, &record.caller, &mut collected);
        }
        // Ports whose records are gone (a wiped /run) still say whose they are.
        for port in ports {
            if let Some(key) = owner::key_of(&port)
                && seen.insert(key.clone())
                && let Some((runtime, caller)) = owner::runtime_of(&port)
            {
                self.consider(request, &key, runtime, &caller, &mut collected);
            }
        }
        self.show_if_behind();
        Ok(collected)
    }

    fn consider(
        &self,
        request: &GcRequest,
        key: &Key,
        runtime: Runtime,
        caller: &str,
        collected: &mut Collected,
    ) {
        if key.network != request.network
            || request.valid.contains(&(key.container.clone(), key.ifname.clone()))
        {
            return;
        }
        if runtime != request.runtime || caller != request.caller {
            let whose = format!("made by {caller} through {runtime}, not by {}", request.caller);
            collected.kept.push((key.clone(), whose));
            return;
        }
        match self.detach(key) {
            Ok(record) => collected.removed.push((key.clone(), record)),
            Err(error) => collected.failed.push(sentence(&error)),
        }
    }
}
