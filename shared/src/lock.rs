//! Locks between processes, a byte per key in one file, with a deadline.
//!
//! Open-file-description locks (fcntl(2), F_OFD_SETLK) on byte `hash(key)` of one file: nothing to
//! create or clean up per key, released by the kernel when the holder dies.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use sha2::{Digest as _, Sha256};

use crate::error::{Fault, Kind};
use crate::file;

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else held it until the deadline.
    #[error("{what} is locked by another process for more than {} s", waited.as_secs_f32())]
    Busy {
        /// What the key stands for.
        what: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The lock file cannot be used.
    #[error("cannot lock {}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Busy { .. } => Kind::Busy,
            Self::Io { .. } => Kind::System,
        }
    }
}

/// A held lock; dropping it releases it.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the exclusive lock on `key` in the lock file `path`, which is made if missing.
    pub fn acquire(path: &Path, key: &str, deadline: Duration) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let file = file::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|error| io(file::plain(error)))?;
        let start = Instant::now();
        let mut pause = Duration::from_micros(200);
        while !try_lock(&file, key).map_err(io)? {
            let waited = start.elapsed();
            if waited >= deadline {
                return Err(Error::Busy { what: key.to_owned(), waited });
            }
            std::thread::sleep(pause.min(deadline - waited));
            pause = (pause * 2).min(Duration::from_millis(5));
        }
        Ok(Self { _file: file })
    }
}

/// Whether somebody else holds the lock on `key`; nothing is taken or made by asking.
pub fn is_held(path: &Path, key: &str) -> Result<bool, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let file = match file::options().read(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io(file::plain(error))),
    };
    let mut range = range(key).map_err(io)?;
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut range)).map_err(|errno| io(errno.into()))?;
    Ok(i32::from(range.l_type) != libc::F_UNLCK)
}

fn try_lock(file: &File, key: &str) -> io::Result<bool> {
    let range = range(key)?;
    match fcntl(file, FcntlArg::F_OFD_SETLK(&range)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// The byte of `key`, locked for writing.
fn range(key: &str) -> io::Result<libc::flock> {
    let hash = Sha256::digest(key.as_bytes());
    let mut byte = [0; 8];
    byte.copy_from_slice(&hash[..8]);
    // SAFETY: flock is plain data; all-zero is a valid value.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = libc::c_short::try_from(libc::F_WRLCK).map_err(io::Error::other)?;
    range.l_whence = libc::c_short::try_from(libc::SEEK_SET).map_err(io::Error::other)?;
    range.l_start = (u64::from_le_bytes(byte) >> 2).cast_signed();
    range.l_len = 1;
    Ok(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_excludes_itself_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = Lock::acquire(&path, "a", Duration::ZERO).unwrap();
        assert!(matches!(Lock::acquire(&path, "a", Duration::ZERO), Err(Error::Busy { .. })));
        Lock::acquire(&path, "b", Duration::ZERO).unwrap();
        assert!(is_held(&path, "a").unwrap() && !is_held(&path, "b").unwrap());
        assert!(!is_held(&dir.path().join("none"), "a").unwrap());
        drop(held);
        assert!(!is_held(&path, "a").unwrap());
        Lock::acquire(&path, "a", Duration::ZERO).unwrap();
    }
}
