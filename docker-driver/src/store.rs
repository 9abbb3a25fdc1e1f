//! What must outlive us: one file for each network, endpoint and pool.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::error::sentence;
use shared::{file, state};

use crate::error::Error;

/// End of the name of an entry's copy.
const COPY: &str = "copy";

/// End of the name of an entry that could not be read.
const LOST: &str = "lost";

/// The end of the name of a file that is being written.
const TEMPORARY: &str = "new";

/// How long an entry must last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lasts {
    /// For ever: it is on the disk when a call has been answered.
    ForEver,
    /// The same, and with a copy: it is told once and nobody else knows it.
    ForEverTwice,
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
        file::directory(&dir).map_err(|source| Error::Write { path: dir.clone(), source })?;
        // Of writers that were killed: nobody else writes here.
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|end| end == TEMPORARY) {
                fs::remove_file(entry.path())
                    .map_err(|source| Error::Write { path: entry.path(), source })?;
            }
        }
        Ok(Self { dir, lasts, kind: PhantomData })
    }

    /// One entry; `None` if there is none.
    pub(crate) fn get(&self, id: &str) -> Result<Option<T>, Error> {
        self.read(&self.path(id)?)
    }

    /// Writes an entry, all of it or nothing.
    pub(crate) fn put(&self, id: &str, entry: &T) -> Result<(), Error> {
        let path = self.path(id)?;
        let text = serde_json::to_vec(entry).map_err(|source| Error::Malformed { source })?;
        self.write(&path, &text)?;
        match self.lasts {
            Lasts::ForEverTwice => self.write(&path.with_extension(COPY), &text),
            Lasts::ForEver | Lasts::ThisBoot => Ok(()),
        }
    }

    fn write(&self, path: &Path, text: &[u8]) -> Result<(), Error> {
        let mut temporary = path.to_owned().into_os_string();
        temporary.push(".");
        temporary.push(TEMPORARY);
        let write = || -> io::Result<()> {
            let mut file = file::fresh(Path::new(&temporary))?;
            file.write_all(text)?;
            if self.lasts != Lasts::ThisBoot {
                file.sync_all()?;
            }
            fs::rename(&temporary, path)?;
            self.sync()
        };
        write().map_err(|source| {
            // Of no use to anybody; the first error is the one to report.
            drop(fs::remove_file(&temporary));
            Error::Write { path: path.to_owned(), source }
        })
    }

    /// Removes an entry; false if there was none.
    pub(crate) fn remove(&self, id: &str) -> Result<bool, Error> {
        let path = self.path(id)?;
        state::remove(&path.with_extension(COPY))?;
        let removed = state::remove(&path)?;
        if removed {
            self.sync().map_err(|source| Error::Write { path: self.dir.clone(), source })?;
        }
        Ok(removed)
    }

    /// Every entry.
    pub(crate) fn all(&self) -> Result<Vec<T>, Error> {
        let mut entries = Vec::new();
        for path in state::files(&self.dir)? {
            entries.extend(self.read(&path)?);
        }
        Ok(entries)
    }

    /// Reads an entry. One that does not hold what it should, or is a link, costs itself, no other:
    /// it is said once, its copy takes its place, and without one it is put aside.
    fn read(&self, path: &Path) -> Result<Option<T>, Error> {
        let error = match state::read(path) {
            Err(error @ state::Error::Garbage { .. }) => error,
            Err(error) if path.is_symlink() => error,
            other => return Ok(other?),
        };
        let text = fs::read(path.with_extension(COPY)).unwrap_or_default();
        if let Ok(entry) = serde_json::from_slice(&text) {
            tracing::error!(error = %sentence(&error), "a state file is lost; its copy takes its place");
            self.write(path, &text)?;
            return Ok(Some(entry));
        }
        tracing::error!(error = %sentence(&error), "a state file is lost; it is put aside as .{LOST}");
        match fs::rename(path, path.with_extension(LOST)) {
            // Somebody else came across it too.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Write { path: path.to_owned(), source }),
            Ok(()) => Ok(None),
        }
    }

    fn sync(&self) -> io::Result<()> {
        match self.lasts {
            Lasts::ForEver | Lasts::ForEverTwice => File::open(&self.dir)?.sync_all(),
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
    use super::*;

    fn store(dir: &Path) -> Store<Vec<u8>> {
        Store::open(dir.join("networks"), Lasts::ForEver).unwrap()
    }

    #[test]
    fn a_torn_or_empty_file_costs_itself_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let file = |name: &str| dir.path().join("networks").join(name);
        for id in ["a", "b", "c"] {
            store.put(id, &vec![1, 2]).unwrap();
        }
        fs::write(file("b.json"), "[1,").unwrap();
        fs::write(file("c.json"), "").unwrap();
        assert_eq!(store.all().unwrap(), [vec![1, 2]]);
        // Put aside, for whoever can make sense of it; everything else is as if it had never been.
        assert_eq!(fs::read_to_string(file("b.lost")).unwrap(), "[1,");
        assert_eq!(store.get("b").unwrap(), None);
        assert!(!store.remove("b").unwrap());
        store.put("b", &vec![3]).unwrap();
        fs::write(file("b.json"), "[").unwrap();
        assert_eq!(store.get("b").unwrap(), None);
        assert_eq!(store.all().unwrap(), [vec![1, 2]]);
    }

    #[test]
    fn a_link_costs_itself_alone_and_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let file = |name: &str| dir.path().join("networks").join(name);
        store.put("a", &vec![1]).unwrap();
        fs::write(dir.path().join("theirs"), "[7]").unwrap();
        std::os::unix::fs::symlink(dir.path().join("theirs"), file("b.json")).unwrap();
        assert_eq!(store.all().unwrap(), [vec![1]]);
        assert!(file("b.lost").is_symlink());
        assert_eq!(fs::read_to_string(dir.path().join("theirs")).unwrap(), "[7]");
    }

    #[test]
    fn a_copy_takes_the_place_of_a_torn_file() {
        let dir = tempfile::tempdir().unwrap();
        let store: Store<Vec<u8>> =
            Store::open(dir.path().join("networks"), Lasts::ForEverTwice).unwrap();
        let file = |name: &str| dir.path().join("networks").join(name);
        store.put("a", &vec![1]).unwrap();
        for torn in ["", "[", "{}"] {
            fs::write(file("a.json"), torn).unwrap();
            assert_eq!(store.all().unwrap(), [vec![1]]);
            assert_eq!(fs::read_to_string(file("a.json")).unwrap(), "[1]");
        }
        fs::write(file("a.json"), "").unwrap();
        fs::write(file("a.copy"), "").unwrap();
        assert_eq!(store.get("a").unwrap(), None);
        store.put("a", &vec![2]).unwrap();
        assert!(store.remove("a").unwrap());
        let left: Vec<_> = fs::read_dir(dir.path().join("networks")).unwrap().collect();
        assert_eq!(left.len(), 1, "only what was put aside: {left:?}");
    }

    #[test]
    fn a_half_written_file_is_no_entry() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let half = dir.path().join("networks/a.json.new");
        fs::write(&half, "[1").unwrap();
        assert!(store.all().unwrap().is_empty());
        let store = Store::<Vec<u8>>::open(dir.path().join("networks"), Lasts::ForEver).unwrap();
        assert!(!half.exists(), "a killed writer's file stays for ever");
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
