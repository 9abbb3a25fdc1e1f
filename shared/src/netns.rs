//! Network namespaces: open, identify, work inside one and come back.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use serde::{Deserialize, Serialize};

use crate::error::{Fault, Kind};

/// The calling thread's own namespace; `/proc/self` would be the main thread's.
const CURRENT: &str = "/proc/thread-self/ns/net";

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
    path: PathBuf,
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

    fn hint(&self) -> Option<String> {
        match self {
            Self::System { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run as root (CAP_SYS_ADMIN is needed to enter a namespace)".to_owned())
            }
            _ => None,
        }
    }
}

impl Netns {
    /// Opens the namespace at `path`.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let system = |action, source| Error::System { action, path: path.to_owned(), source };
        // O_NONBLOCK: a FIFO at the path must not hold us.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = match file {
            Ok(file) => file,
            Err(error) => {
                return Err(match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                        Error::Missing { path: path.to_owned() }
                    }
                    _ => system("open", error),
                });
            }
        };
        // A bind mount that is gone leaves its plain file behind, and every kind of namespace
        // lives on nsfs: both must be told from a network namespace.
        let fs = fstatfs(&file).map_err(|e| system("examine", e.into()))?;
        if fs.filesystem_type() != NSFS_MAGIC || !is_network(&file) {
            return Err(Error::NotANamespace { path: path.to_owned() });
        }
        let meta = file.metadata().map_err(|e| system("examine", e))?;
        let id = NetnsId { dev: meta.dev(), ino: meta.ino() };
        Ok(Self { fd: file.into(), id, path: path.to_owned() })
    }

    /// The calling thread's namespace.
    pub fn current() -> Result<Self, Error> {
        Self::open(Path::new(CURRENT))
    }

    /// Which namespace this is.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Runs `work` inside the namespace on this thread, then returns the thread to where it was,
    /// even when `work` panics. Aborts the process if the way back is barred: a thread left in a
    /// container's namespace would configure the wrong host.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> Result<T, Error> {
        let home = Self::current()?;
        if home.id == self.id {
            return Ok(work());
        }
        setns(&self.fd, CloneFlags::CLONE_NEWNET).map_err(|errno| Error::System {
            action: "enter",
            path: self.path.clone(),
            source: errno.into(),
        })?;
        let back = WayBack(home);
        let result = work();
        drop(back);
        Ok(result)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Returns the thread to its namespace when dropped, by a panic too.
struct WayBack(Netns);

impl Drop for WayBack {
    fn drop(&mut self) {
        if let Err(errno) = setns(&self.0.fd, CloneFlags::CLONE_NEWNET) {
            tracing::error!(%errno, "cannot return from a container's network namespace, aborting");
            std::process::abort();
        }
    }
}

/// Whether an nsfs file is a network namespace (`NS_GET_NSTYPE`, ioctl_ns(2)).
fn is_network(file: &File) -> bool {
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: the request takes no argument and only returns a number; the descriptor is open.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
    kind == libc::CLONE_NEWNET
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;

    use nix::sched::unshare;

    use super::*;

    /// A namespace that lives as long as it is held, made on a thread of its own.
    fn fresh() -> Netns {
        thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("the test needs root");
            Netns::current().unwrap()
        })
        .join()
        .unwrap()
    }

    #[test]
    fn work_is_done_inside_and_the_thread_comes_back() {
        let (home, inside) = (Netns::current().unwrap().id(), fresh());
        assert_ne!(home, inside.id());
        let seen = inside.enter(|| Netns::current().unwrap().id()).unwrap();
        assert_eq!(seen, inside.id());
        assert_eq!(Netns::current().unwrap().id(), home);
    }

    #[test]
    fn a_panic_inside_still_comes_back() {
        let (home, inside) = (Netns::current().unwrap().id(), fresh());
        let result = catch_unwind(AssertUnwindSafe(|| inside.enter(|| panic!("inside"))));
        assert!(result.is_err());
        assert_eq!(Netns::current().unwrap().id(), home);
    }

    #[test]
    fn the_current_namespace_can_be_entered_and_visits_nest() {
        let home = Netns::current().unwrap();
        let inside = fresh();
        let id = inside.id();
        inside
            .enter(|| {
                home.enter(|| assert_eq!(Netns::current().unwrap().id(), home.id())).unwrap();
                inside.enter(|| assert_eq!(Netns::current().unwrap().id(), id)).unwrap();
                assert_eq!(Netns::current().unwrap().id(), id);
            })
            .unwrap();
        home.enter(|| ()).unwrap();
    }

    #[test]
    fn what_is_no_network_namespace_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let nowhere = file.path().join("below");
        assert!(matches!(Netns::open(file.path()), Err(Error::NotANamespace { .. })));
        assert!(matches!(Netns::open(&nowhere), Err(Error::Missing { .. })));
        assert!(matches!(Netns::open(Path::new("/run/no/such")), Err(Error::Missing { .. })));
        let other = Path::new("/proc/self/ns/mnt");
        assert!(matches!(Netns::open(other), Err(Error::NotANamespace { .. })));
        let dir = Path::new("/run");
        assert!(matches!(Netns::open(dir), Err(Error::NotANamespace { .. })));
    }

    #[test]
    fn a_fifo_does_not_hold_the_caller() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(Netns::open(&path), Err(Error::NotANamespace { .. })));
    }
}
