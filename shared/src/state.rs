//! The state directory (`/run/ovs-port-agent`, a tmpfs): where what dies with a boot is kept.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Fault, Kind};
use crate::file;
use crate::lock::{self, Lock};

/// How long any process of ours waits for another one's lock.
const LOCK_DEADLINE: Duration = Duration::from_secs(20);

/// A file of the state directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// "read", "write", "remove" …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file is there, but says nothing we understand.
    #[error("{} does not hold what it should", path.display())]
    Garbage {
        /// The file.
        path: PathBuf,
        /// Where it stops making sense.
        source: serde_json::Error,
    },
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        Kind::System
    }
}

/// The rooms of the state directory.
#[derive(Debug, Clone)]
pub struct State {
    dir: PathBuf,
}

impl State {
    /// The state kept in `dir`. Nothing is touched yet.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Makes the directories, readable by root alone, and learns the boot that what is about to be
    /// done will be told with: afterwards it would be too late not to know it.
    pub fn prepare(&self) -> Result<(), Error> {
        boot_id()?;
        for dir in [self.dir.clone(), self.attachments(), self.networks(), self.ports()] {
            file::directory(&dir).map_err(|source| Error::Io {
                action: "use directory",
                path: dir,
                source,
            })?;
        }
        Ok(())
    }

    /// One file for each attachment.
    pub fn attachments(&self) -> PathBuf {
        self.dir.join("attachments")
    }

    /// One file for each network made on first use.
    pub fn networks(&self) -> PathBuf {
        self.dir.join("networks")
    }

    /// One file for each attachment with published ports.
    pub fn ports(&self) -> PathBuf {
        self.dir.join("ports")
    }

    /// The socket of the agent.
    pub fn control(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// The address pools.
    pub fn leases(&self) -> PathBuf {
        self.dir.join("leases")
    }

    /// Ledger lines that could not be written yet.
    pub fn spool(&self) -> PathBuf {
        self.dir.join("ledger.spool")
    }

    /// When port names were freed.
    pub fn freed(&self) -> PathBuf {
        self.dir.join("freed")
    }

    /// The note that the switch takes long over a port.
    pub(crate) fn slow_switch(&self) -> PathBuf {
        self.dir.join("slow-switch")
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Leaves a mark that the managed block is behind.
    pub(crate) fn mark_unshown(&self) -> Result<(), Error> {
        let path = self.unshown();
        match file::options().write(true).create(true).truncate(false).open(&path) {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::Io { action: "make", path, source: file::plain(error) }),
        }
    }

    /// Takes the mark away.
    pub(crate) fn mark_shown(&self) -> Result<(), Error> {
        remove(&self.unshown()).map(drop)
    }

    /// Whether the mark is there.
    pub(crate) fn is_unshown(&self) -> bool {
        self.unshown().exists()
    }

    fn unshown(&self) -> PathBuf {
        self.dir.join("unshown")
    }

    /// Takes the lock on `key` if it is free.
    pub fn try_lock(&self, key: &str) -> Result<Lock, lock::Error> {
        Lock::acquire(&self.dir.join("lock"), key, Duration::ZERO)
    }

    /// Whether somebody holds the lock on `key`.
    pub fn is_locked(&self, key: &str) -> Result<bool, lock::Error> {
        lock::is_held(&self.dir.join("lock"), key)
    }

    /// Waits for the lock on `key`; held until dropped.
    pub fn lock(&self, key: &str) -> Result<Lock, lock::Error> {
        Lock::acquire(&self.dir.join("lock"), key, LOCK_DEADLINE)
    }
}

/// Writes `value` as JSON so that a reader sees the old file or the new one, never a part. Two
/// writers of one file need a lock: the temporary one is found again by its name.
pub fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    put(path, value, false)
}

/// [`write`], and on the disk when this returns; makes the directory if it is missing.
pub fn write_durably<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    };
    let dir = path.parent().unwrap_or(Path::new("/"));
    // One that is there may be anybody's: the configuration names it.
    if !dir.is_dir() {
        file::directory(dir).map_err(io("make directory", dir))?;
    }
    put(path, value, true)?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io("force to disk", dir))
}

fn put<T: Serialize>(path: &Path, value: &T, durably: bool) -> Result<(), Error> {
    let io = |source| Error::Io { action: "write", path: path.to_owned(), source };
    let text = serde_json::to_vec(value)
        .map_err(|source| Error::Garbage { path: path.to_owned(), source })?;
    let temporary = temporary(path);
    let mut file = file::fresh(&temporary).map_err(io)?;
    let force = |file: &File| if durably { file.sync_data() } else { Ok(()) };
    file.write_all(&text)
        .and_then(|()| force(&file))
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|source| {
            // The half-written file is of no use to anybody; the first error is the one to report.
            drop(fs::remove_file(&temporary));
            io(source)
        })
}

/// Reads a file that [`write`] wrote; `None` if it is not there.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let text = match file::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Io { action: "read", path: path.to_owned(), source }),
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|source| Error::Garbage { path: path.to_owned(), source })
}

/// Removes a file, and what a [`write`] killed half way left of it; false if it was not there.
pub fn remove(path: &Path) -> Result<bool, Error> {
    let unlink = |path: &Path| match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error::Io { action: "remove", path: path.to_owned(), source }),
    };
    unlink(&temporary(path))?;
    unlink(path)
}

/// The end of the name of a file that is being written.
pub(crate) const TEMPORARY: &str = "new";

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(TEMPORARY);
    PathBuf::from(name)
}

/// The files of one of the rooms; temporary ones of [`write`] left out. No directory, no files.
pub fn files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let io = |source| Error::Io { action: "list", path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(io(source)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Where the kernel says its boot's id (random(4)).
pub(crate) const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// This boot's id, read once.
pub fn boot_id() -> Result<String, Error> {
    let read = boot().map(str::to_owned);
    read.map_err(|source| Error::Io { action: "read", path: BOOT_ID.into(), source })
}

/// The same, as it is kept.
pub(crate) fn boot() -> io::Result<&'static str> {
    static BOOT: OnceLock<String> = OnceLock::new();
    if let Some(boot) = BOOT.get() {
        return Ok(boot);
    }
    let text = fs::read_to_string(BOOT_ID)?;
    Ok(BOOT.get_or_init(|| text.trim().to_owned()))
}

/// Seconds since the epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Seconds since boot, sleep included: what ages are counted by. The clock may jump by a day, and
/// does where a machine learns the date while its containers start.
pub fn uptime() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME);
    time.map_or(0, |time| u64::try_from(time.tv_sec()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_listed_without_leftovers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write(&path, &vec![1, 2]).unwrap();
        fs::write(dir.path().join("b.json.new"), "half").unwrap();
        assert_eq!(read::<Vec<i32>>(&path).unwrap(), Some(vec![1, 2]));
        assert_eq!(files(dir.path()).unwrap(), std::slice::from_ref(&path));
        fs::write(temporary(&path), "half").unwrap();
        write(&path, &vec![1, 2]).unwrap();
        fs::write(temporary(&path), "half").unwrap();
        assert!(remove(&path).unwrap());
        assert!(!temporary(&path).exists());
        assert!(!remove(&path).unwrap());
        assert_eq!(read::<Vec<i32>>(&path).unwrap(), None);
    }

    #[test]
    fn a_torn_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        fs::write(&path, "[1,").unwrap();
        assert!(matches!(read::<Vec<i32>>(&path), Err(Error::Garbage { .. })));
    }
}
