//! What must outlive us: one file for each network, endpoint and pool.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::marker::PhantomData;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use nix::libc;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::error::sentence;
use shared::state;

use crate::error::Error;

/// How long an entry must last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lasts {
    /// For ever: it is on the disk when a call has been answered.
    ForEver,
    /// As long as the boot: what the power takes away meant nothing afterwards, and a container does
    /// not wait for the disk.
    ThisBoot,
}

/// The entries of one kind, each in `<dir>/<id>.json`.
#[derive(Debug)]
pub(crate) struct Store<T> {
    dir: PathBuf,
    lasts: Lasts,
    kind: PhantomData<T>,
}

impl<T: Serialize + DeserializeOwned> Store<T> {
    /// The entries below `dir`, which is made if missing.
    pub(crate) fn open(dir: PathBuf, lasts: Lasts) -> Result<Self, Error> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|source| Error::Write { path: dir.clone(), source })?;
        Ok(Self { dir, lasts, kind: PhantomData })
    }

    /// One entry; `None` if there is none.
    pub(crate) fn get(&self, id: &str) -> Result<Option<T>, Error> {
        Ok(state::read(&self.path(id)?)?)
    }

    /// Writes an entry, all of it or nothing.
    pub(crate) fn put(&self, id: &str, entry: &T) -> Result<(), Error> {
        let path = self.path(id)?;
        let mut temporary = path.clone().into_os_string();
        temporary.push(".new");
        let text = serde_json::to_vec(entry).map_err(|source| Error::Malformed { source })?;
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&temporary)?;
            file.write_all(&text)?;
            if self.lasts == Lasts::ForEver {
                file.sync_all()?;
            }
            fs::rename(&temporary, &path)?;
            self.sync()
        };
        write().map_err(|source| Error::Write { path: path.clone(), source })
    }

    /// Removes an entry, readable or not; false if there was none.
    pub(crate) fn remove(&self, id: &str) -> Result<bool, Error> {
        let removed = state::remove(&self.path(id)?)?;
        if removed {
            self.sync().map_err(|source| Error::Write { path: self.dir.clone(), source })?;
        }
        Ok(removed)
    }

    /// Every entry that can be read. One that cannot be is said and left where it is: it costs
    /// itself, no other.
    pub(crate) fn all(&self) -> Result<Vec<T>, Error> {
        let mut entries = Vec::new();
        for path in state::files(&self.dir)? {
            match state::read(&path) {
                Ok(entry) => entries.extend(entry),
                Err(error) => tracing::error!(error = %sentence(&error), "a state file is lost"),
            }
        }
        Ok(entries)
    }

    fn sync(&self) -> io::Result<()> {
        match self.lasts {
            Lasts::ForEver => File::open(&self.dir)?.sync_all(),
            Lasts::ThisBoot => Ok(()),
        }
    }

    fn path(&self, id: &str) -> Result<PathBuf, Error> {
        // An id becomes a file name.
        let fits = (1..=128).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !fits {
            let problem = "is no id: expected letters, digits and dashes";
            return Err(Error::field("id", id, problem, "use the id that docker shows"));
        }
        Ok(self.dir.join(format!("{id}.json")))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn store(dir: &Path) -> Store<Vec<u8>> {
        Store::open(dir.join("networks"), Lasts::ForEver).unwrap()
    }

    #[test]
    fn a_torn_or_empty_file_costs_itself_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        for id in ["a", "b", "c"] {
            store.put(id, &vec![1, 2]).unwrap();
        }
        fs::write(dir.path().join("networks/b.json"), "[1,").unwrap();
        fs::write(dir.path().join("networks/c.json"), "").unwrap();
        assert_eq!(store.all().unwrap(), [vec![1, 2]]);
        assert!(matches!(store.get("b"), Err(Error::State(_))));
        assert!(store.remove("b").unwrap());
        assert_eq!(store.get("b").unwrap(), None);
        assert!(!store.remove("b").unwrap());
    }

    #[test]
    fn a_half_written_file_is_no_entry() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        fs::write(dir.path().join("networks/a.json.new"), "[1").unwrap();
        assert!(store.all().unwrap().is_empty());
        store.put("a", &vec![3]).unwrap();
        assert_eq!(store.all().unwrap(), [vec![3]]);
    }

    #[test]
    fn an_id_leads_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        for id in ["", "../x", "a/b", ".", "a\0"] {
            assert!(matches!(store.get(id), Err(Error::Field { .. })), "{id:?}");
        }
    }
}
