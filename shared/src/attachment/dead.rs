//! Attachments whose containers have gone without a word: netavark before 2.1 does not call a
//! plugin for a namespace that it cannot open, and neither does Podman 4.
//!
//! Dead is what two sides say so of: nothing leads to the namespace any more, and the kernel has
//! taken the pair, as it does with a namespace that nobody holds. One alone proves nothing: a mount
//! namespace may not see the path, and somebody may have deleted the interface.

use std::time::Duration;
use std::{fs, io};

use super::attach::lock_key;
use super::record::{Key, Record, Runtime};
use super::{Engine, Error};
use crate::error::sentence;
use crate::link::{HOST_END_GROUP, Link, Netlink};
use crate::lock;
use crate::netns::{self, Netns};
use crate::state;

/// A file that nobody has written to for so long has no writer any more.
const HALF_WRITTEN: Duration = Duration::from_secs(60);

/// An attachment that is dead, and how that is known.
#[derive(Debug, Clone)]
pub struct Dead {
    /// What was known of it.
    pub record: Record,
    /// The proof, as half a sentence.
    pub proof: String,
}

/// What a look at all attachments came to.
#[derive(Debug, Clone, Default)]
pub struct Buried {
    /// Removed, or to be removed.
    pub dead: Vec<Dead>,
    /// Dead as well, but not ours to remove: the reason.
    pub kept: Vec<(Key, String)>,
    /// What could not be judged or removed, one sentence each.
    pub failed: Vec<String>,
}

impl Engine {
    /// Finds the attachments that are dead and, unless this is a rehearsal, removes them; continues
    /// past errors. One that somebody is at work on is passed over.
    ///
    /// # Errors
    /// Only if records or interfaces cannot be listed at all: then nothing is removed.
    pub fn bury(&self, rehearsal: bool) -> Result<Buried, Error> {
        let (records, unreadable) = self.records()?;
        let links = Netlink::open()?.links()?;
        let mut buried = Buried::default();
        buried.failed.extend(unreadable.iter().map(|error| sentence(error)));
        for record in records {
            match proof(&record, &links) {
                Ok(None) => {}
                Ok(Some(proof)) => match foreign(&record) {
                    Some(why) => buried.kept.push((record.key, format!("{proof}; {why}"))),
                    None if rehearsal => buried.dead.push(Dead { record, proof }),
                    None => match self.bury_one(&record) {
                        Ok(true) => buried.dead.push(Dead { record, proof }),
                        Ok(false) => {}
                        Err(error) => {
                            buried.failed.push(format!("{}: {}", record.key, sentence(&error)));
                        }
                    },
                },
                Err(error) => buried.failed.push(format!("{}: {}", record.key, sentence(&error))),
            }
        }
        if !rehearsal {
            self.sweep_half_written(&mut buried.failed);
        }
        Ok(buried)
    }

    /// Records whose writer was killed before they had their names. A writer takes milliseconds.
    fn sweep_half_written(&self, failed: &mut Vec<String>) {
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
    }

    /// False if somebody is at work on it, or it has changed.
    fn bury_one(&self, record: &Record) -> Result<bool, Error> {
        let _lock = match self.state().try_lock(&lock_key(&record.key)) {
            Ok(lock) => lock,
            Err(lock::Error::Busy { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let same = self.record(&record.key)?.as_ref() == Some(record);
        if !same || proof(record, &Netlink::open()?.links()?)?.is_none() {
            return Ok(false);
        }
        self.detach_locked(&record.key)?;
        Ok(true)
    }
}

/// Why an attachment is dead; `None` if it lives, or if that cannot be told.
fn proof(record: &Record, links: &[Link]) -> Result<Option<String>, Error> {
    // Without an identity the namespace was made after us, and its runtime has a list of its own.
    let Some(id) = record.netns_id.filter(|_| record.adopted.is_none()) else { return Ok(None) };
    if record.boot_id != state::boot_id()? {
        return Ok(None);
    }
    // Whatever name it has now.
    let pair = links.iter().any(|link| {
        link.kind == "veth" && link.group == HOST_END_GROUP && link.mac == Some(record.host_mac)
    });
    if pair {
        return Ok(None);
    }
    let path = record.netns.display();
    let gone = match Netns::open(&record.netns) {
        Ok(netns) if netns.id() == id => return Ok(None),
        Ok(_) => format!("{path} is another namespace now"),
        Err(netns::Error::Missing { .. }) => format!("{path} has gone"),
        Err(netns::Error::NotANamespace { .. }) => format!("{path} is no namespace any more"),
        Err(error) => return Err(error.into()),
    };
    Ok(Some(format!("{gone}, and so has {}", record.port)))
}

/// Why a dead attachment is left to its runtime all the same.
fn foreign(record: &Record) -> Option<String> {
    match record.runtime {
        Runtime::Podman => None,
        Runtime::Cni => {
            let ours = record.leases.len() == record.addresses.len();
            (!record.complete || !ours).then(|| {
                format!("{} has to delete it, with what its IPAM plugin gave", record.caller)
            })
        }
        Runtime::Docker | Runtime::Host => Some("it is not a container's own".to_owned()),
    }
}
