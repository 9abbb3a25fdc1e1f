//! Network namespaces: open, identify, work inside one and come back.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Fault, Kind};

/// Which namespace it is, whatever its path says: device and inode of its nsfs file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NetnsId {
    /// Device of nsfs.
    pub dev: u64,
    /// Inode of the namespace.
    pub ino: u64,
}

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    id: NetnsId,
}

/// Why a namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing is at the path.
    #[error("network namespace {} does not exist", path.display())]
    Missing {
        /// The path asked for.
        path: PathBuf,
    },
    /// What is at the path is no network namespace.
    #[error("{} is not a network namespace", path.display())]
    NotANamespace {
        /// The path asked for.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {action} network namespace {}", path.display())]
    System {
        /// What was tried.
        action: &'static str,
        /// The namespace.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Missing { .. } => Kind::Missing,
            Self::NotANamespace { .. } => Kind::Invalid,
            Self::System { .. } => Kind::System,
        }
    }
}

impl Netns {
    /// Opens the namespace at `path`.
    pub fn open(path: &Path) -> Result<Self, Error> {
        todo!()
    }

    /// The calling thread's namespace.
    pub fn current() -> Result<Self, Error> {
        todo!()
    }

    /// Which namespace this is.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Runs `work` inside the namespace on this thread, then returns the thread to where it was,
    /// even when `work` panics. Aborts the process if the way back is barred: a thread left in a
    /// container's namespace would configure the wrong host.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> Result<T, Error> {
        todo!()
    }
}
