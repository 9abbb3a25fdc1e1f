//! Which port names were freed so lately that ovs-vswitchd may not know it yet.
//!
//! A port added again under the name of one that ovs-vswitchd has not yet removed looks healthy
//! and passes nothing. So DEL notes the generation (`Open_vSwitch.next_cfg`) at which the name is
//! gone from the switch, and a name is taken again only once `cur_cfg` has reached it.
//!
//! One file of [`SLOTS`] numbers; a name's slot is its hash. Nothing to lock, prune or parse: a
//! slot shared by two names only costs one of them its first choice for some milliseconds.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use crate::file;
use crate::name::IfName;
use crate::ovsdb::Generation;

/// Numbers in the file (32 KiB, sparse).
const SLOTS: u64 = 4096;

/// The file of freed names.
#[derive(Debug)]
pub(super) struct Freed {
    path: PathBuf,
}

impl Freed {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Notes that `name` is gone from the switch at `generation`.
    pub(super) fn note(&self, name: &IfName, generation: Generation) -> io::Result<()> {
        file::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.path)
            .map_err(file::plain)?
            .write_all_at(&generation.0.to_le_bytes(), offset(name))
    }

    /// When a port of that name may have been freed last, if it ever was.
    pub(super) fn noted(&self, name: &IfName) -> Option<Generation> {
        let mut slot = [0; 8];
        file::options()
            .read(true)
            .open(&self.path)
            .and_then(|file| file.read_exact_at(&mut slot, offset(name)))
            .ok()?;
        Some(Generation(u64::from_le_bytes(slot))).filter(|freed| freed.0 > 0)
    }
}

/// Whether the switch may still hold a port whose name was `freed` then. `next` and `current` are
/// the database's counts now: a noted generation beyond `next` is of a database that is gone.
pub(super) fn is_held(freed: Generation, next: Generation, current: Generation) -> bool {
    freed > current && freed <= next
}

fn offset(name: &IfName) -> u64 {
    let hash = Sha256::digest(name.as_str().as_bytes());
    u64::from(u16::from_le_bytes([hash[0], hash[1]])) % SLOTS * 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_held_until_the_switch_caught_up() {
        let dir = tempfile::tempdir().unwrap();
        let freed = Freed::new(dir.path().join("freed"));
        let name: IfName = "veth-a-eth0".parse().unwrap();
        assert!(freed.noted(&name).is_none());
        freed.note(&name, Generation(7)).unwrap();
        let noted = freed.noted(&name).unwrap();
        assert!(is_held(noted, Generation(9), Generation(6)));
        assert!(!is_held(noted, Generation(9), Generation(7)));
    }

    #[test]
    fn a_database_made_anew_frees_every_name() {
        let dir = tempfile::tempdir().unwrap();
        let freed = Freed::new(dir.path().join("freed"));
        let name: IfName = "veth-a-eth0".parse().unwrap();
        freed.note(&name, Generation(70)).unwrap();
        let noted = freed.noted(&name).unwrap();
        assert!(!is_held(noted, Generation(3), Generation(2)));
    }
}
