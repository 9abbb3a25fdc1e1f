//! The removal of what was left behind.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::Duration;

use super::{Piece, Target};
use crate::attachment::attach::OVSDB_DEADLINE;
use crate::attachment::{Engine, Error};
use crate::lock::{self, Lock};
use crate::ovsdb::Client;
use crate::publish::Publication;
use crate::state;

/// So many pieces are removed after one second look; what they are of has to wait meanwhile.
const AT_ONCE: usize = 32;

/// A file that nobody has written to for so long has no writer any more.
const HALF_WRITTEN: Duration = Duration::from_secs(60);

impl Engine {
    /// Removes those pieces of a survey that a second look, with everybody else kept out, finds
    /// again; with each whether it went, which is false if somebody is at work on it.
    pub fn clear(&self, pieces: Vec<Piece>) -> Vec<(Piece, Result<bool, Error>)> {
        let outcomes: Vec<_> =
            pieces.chunks(AT_ONCE).flat_map(|some| self.clear_some(some)).collect();
        pieces.into_iter().zip(outcomes).collect()
    }

    fn clear_some(&self, pieces: &[Piece]) -> Vec<Result<bool, Error>> {
        // Two pieces may be of one attachment.
        let mut locks: BTreeMap<String, Lock> = BTreeMap::new();
        let mut keep_out = |target: &Target| {
            let name = target.lock();
            if locks.contains_key(&name) {
                return Ok(true);
            }
            let lock = self.lock(target)?;
            Ok(lock.is_some_and(|lock| locks.insert(name, lock).is_none()))
        };
        let alone: Vec<Result<bool, Error>> =
            pieces.iter().map(|piece| keep_out(&piece.target)).collect();
        let again = self.survey();
        let clear = |(piece, alone): (&Piece, Result<bool, Error>)| {
            if !alone? {
                return Ok(false);
            }
            if let Some(why) = again.unreadable.first() {
                return Err(Error::Unseen { why: why.clone() });
            }
            Ok(again.pieces.contains(piece) && self.remove(&piece.target)?)
        };
        pieces.iter().zip(alone).map(clear).collect()
    }

    /// What keeps everybody else from a target; `None` if somebody is at work on it.
    fn lock(&self, target: &Target) -> Result<Option<Lock>, Error> {
        let state = self.state();
        state.prepare()?;
        let lock = match target {
            Target::Attachment(_) | Target::Lease(..) => state.try_lock(&target.lock()),
            Target::Gateway(_) => state.lock(&target.lock()),
        };
        match lock {
            Ok(lock) => Ok(Some(lock)),
            Err(lock::Error::Busy { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes it, the caller holding its lock; false if something of it is left.
    fn remove(&self, target: &Target) -> Result<bool, Error> {
        match target {
            Target::Attachment(key) => {
                self.detach_locked(key)?;
                // An agent that does not answer takes its ports back when it does again.
                return Ok(!Publication::path(&self.state(), key).exists());
            }
            Target::Lease(subnet, ip, owner) => {
                self.pools().release(*subnet, *ip, owner)?;
            }
            Target::Gateway(name) => {
                let mut ovsdb = Client::connect(&self.config().ovsdb, OVSDB_DEADLINE)?;
                if let Some(port) = ovsdb.port(name)? {
                    self.free_names(std::slice::from_ref(name), ovsdb.delete_ports(&[port.uuid])?);
                }
            }
        }
        Ok(true)
    }

    /// Removes records whose writer was killed before they had their names: a writer takes
    /// milliseconds. Returns what could not be removed, one sentence each.
    pub fn sweep_half_written(&self) -> Vec<String> {
        let mut failed = Vec::new();
        for entry in fs::read_dir(self.state().attachments()).into_iter().flatten().flatten() {
            let path = entry.path();
            let written = entry.metadata().and_then(|file| file.modified()).ok();
            let age = written.and_then(|time| time.elapsed().ok());
            if path.extension().is_some_and(|end| end == state::TEMPORARY)
                && age.is_some_and(|age| age > HALF_WRITTEN)
                && let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                failed.push(format!("cannot remove {}: {error}", path.display()));
            }
        }
        failed
    }
}
