//! The file on disk: read and replaced whole, under a lock.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use xattr::FileExt as _;

use super::Error;

/// How often two files are exchanged back before giving up.
const ROUNDS: u32 = 100;

/// asm-generic/fcntl.h; the libc crate lacks it.
const F_SETSIG: libc::c_int = 10;

/// The file, links followed, with its directory locked.
///
/// The directory is what every writer of ours can lock without leaving a file behind; the file
/// itself is another one after each replacement.
#[derive(Debug)]
pub(super) struct Target {
    path: PathBuf,
    /// The new file while it is written; the old one while they are exchanged.
    temporary: PathBuf,
    directory: Flock<File>,
}

/// The file as it was read.
#[derive(Debug)]
pub(super) struct Current {
    file: Leased,
    metadata: Metadata,
    /// Its bytes.
    pub(super) text: Vec<u8>,
}

impl Current {
    /// Whether `path` is this very file, not written since. (A rename changes its ctime.)
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        let key = |of: &Metadata| (of.dev(), of.ino(), of.size(), of.mtime(), of.mtime_nsec());
        match fs::symlink_metadata(path) {
            Ok(now) => Ok(key(&now) == key(&self.metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Target {
    /// Follows links from `path`, so that a link stays one and its target is what changes, locks,
    /// and removes what a killed writer left. `None` if there is no file.
    pub(super) fn lock(path: &Path, tag: &str, deadline: Instant) -> Result<Option<Self>, Error> {
        let failed = |action, source| Error::Io { action, path: path.to_owned(), source };
        let path = match fs::canonicalize(path) {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(failed("find", source)),
        };
        if !fs::symlink_metadata(&path).map_err(|source| failed("examine", source))?.is_file() {
            return Err(Error::Irregular { path });
        }
        let parent = path.parent().unwrap_or(Path::new("/"));
        let mut directory = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(parent)
            .map_err(|source| failed("open the directory of", source))?;
        // Always the same name, so that left-overs cannot pile up.
        let mut temporary = OsString::from(".");
        temporary.push(path.file_name().unwrap_or(OsStr::new("interfaces")));
        temporary.push(format!(".{tag}.new"));
        let temporary = path.with_file_name(temporary);
        let start = Instant::now();
        loop {
            match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
                Ok(directory) => {
                    let this = Self { path, temporary, directory };
                    this.discard()?;
                    return Ok(Some(this));
                }
                Err((_, errno)) if errno != Errno::EWOULDBLOCK => {
                    return Err(failed("lock the directory of", errno.into()));
                }
                Err((back, _)) => directory = back,
            }
            if Instant::now() >= deadline {
                return Err(Error::Busy { path, waited: start.elapsed() });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether there still is a file.
    pub(super) fn exists(&self) -> Result<bool, Error> {
        self.path.try_exists().map_err(|source| self.failed("examine", source))
    }

    /// Reads the file; `None` if it is gone, or open for writing somewhere: then its bytes mean
    /// nothing yet.
    pub(super) fn read(&self) -> Result<Option<Current>, Error> {
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&self.path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.failed("read", source)),
        };
        let leased = Leased::take(file).map_err(|source| self.failed("lease", source))?;
        let Some(file) = leased else { return Ok(None) };
        // Taken before the bytes: whatever is written while they are read makes a difference.
        let metadata = file.file.metadata().map_err(|source| self.failed("read", source))?;
        let mut text = Vec::new();
        (&file.file).read_to_end(&mut text).map_err(|source| self.failed("read", source))?;
        Ok(Some(Current { file, metadata, text }))
    }

    /// Puts `text` in the place of `current`, with its mode, owner and extended attributes, in one
    /// step. `false` if somebody changed the file since it was read.
    pub(super) fn replace(&self, current: &Current, text: &[u8]) -> Result<bool, Error> {
        let outcome = self.write(current, text).and_then(|new| self.swap(current, new));
        let discarded = self.discard();
        // The first error is the one to report.
        let replaced = outcome?;
        discarded?;
        if replaced {
            self.directory
                .sync_all()
                .map_err(|source| self.failed("sync the directory of", source))?;
        }
        Ok(replaced)
    }

    /// Exchanges the two files, so that what the path led to until that very moment can be looked
    /// at: an editor may have put its file there, or may wait to write, since `current` was read.
    fn swap(&self, current: &Current, new: u64) -> Result<bool, Error> {
        let failed = |source: io::Error| self.failed("replace", source);
        let exchange = || {
            renameat_with(CWD, &self.temporary, CWD, &self.path, RenameFlags::EXCHANGE)
                .map_err(io::Error::from)
        };
        if !current.is_at(&self.path).map_err(failed)? || current.file.is_wanted() {
            return Ok(false);
        }
        match exchange() {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            // A file system that cannot exchange leaves a moment between the look and the rename.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                fs::rename(&self.temporary, &self.path).map_err(failed)?;
                return Ok(true);
            }
            Err(error) => return Err(failed(error)),
        }
        if current.is_at(&self.temporary).map_err(failed)? && !current.file.is_wanted() {
            return Ok(true);
        }
        // Back, until what is left in our hands is what we brought. Each further round takes
        // another program that renames a file to this path in the same microsecond.
        for _ in 0..ROUNDS {
            exchange().map_err(failed)?;
            if fs::symlink_metadata(&self.temporary).map_err(failed)?.ino() == new {
                return Ok(false);
            }
        }
        Err(failed(Errno::EBUSY.into()))
    }

    fn discard(&self) -> Result<(), Error> {
        match fs::remove_file(&self.temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.failed("remove the temporary copy of", error))
            }
            _ => Ok(()),
        }
    }

    /// Writes the new file; returns its inode.
    fn write(&self, current: &Current, text: &[u8]) -> Result<u64, Error> {
        let failed = |source| self.failed("write a new copy of", source);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&self.temporary)
            .map_err(failed)?;
        file.write_all(text).map_err(failed)?;
        let (old, new) = (&current.metadata, file.metadata().map_err(failed)?);
        if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
            fchown(&file, Some(old.uid()), Some(old.gid())).map_err(failed)?;
        }
        file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777)).map_err(failed)?;
        copy_attributes(&current.file.file, &file).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        Ok(new.ino())
    }

    fn failed(&self, action: &'static str, source: io::Error) -> Error {
        Error::Io { action, path: self.path.clone(), source }
    }
}

/// A file that nobody has open for writing, by a lease of the kernel (fcntl(2), `F_SETLEASE`): an
/// editor that opens it for writing waits until this is dropped, and is seen waiting.
#[derive(Debug)]
struct Leased {
    file: File,
    /// Some file systems know no leases. There the change of its times must do.
    held: bool,
}

impl Leased {
    /// `None` if somebody has the file open for writing.
    fn take(file: File) -> io::Result<Option<Self>> {
        // The kernel announces a waiting writer by SIGIO, which would end the process; SIGURG is
        // ignored where nobody asked for it.
        let lease = fcntl(&file, F_SETSIG, libc::SIGURG)
            .and_then(|_| fcntl(&file, libc::F_SETLEASE, libc::F_RDLCK));
        match lease {
            Ok(_) => Ok(Some(Self { file, held: true })),
            Err(Errno::EAGAIN) => Ok(None),
            Err(Errno::EINVAL | Errno::EACCES | Errno::ENOLCK | Errno::EOPNOTSUPP) => {
                Ok(Some(Self { file, held: false }))
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether somebody waits to write.
    fn is_wanted(&self) -> bool {
        self.held && fcntl(&self.file, libc::F_GETLEASE, 0) != Ok(libc::F_RDLCK)
    }
}

fn fcntl(file: &File, command: libc::c_int, value: libc::c_int) -> nix::Result<libc::c_int> {
    // SAFETY: the descriptor is open, and the three commands used take an integer and no pointer.
    Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), command, value) })
}

/// Copies extended attributes, ACLs and security labels included. Hashes of the content
/// (`security.ima`, `security.evm`) would be wrong for the copy.
fn copy_attributes(from: &File, to: &File) -> io::Result<()> {
    let names = match from.list_xattr() {
        Ok(names) => names,
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(()),
        Err(error) => return Err(error),
    };
    for name in names {
        if name == "security.ima" || name == "security.evm" {
            continue;
        }
        let Some(value) = from.get_xattr(&name)? else { continue };
        if to.get_xattr(&name)?.as_ref() != Some(&value) {
            to.set_xattr(&name, &value)?;
        }
    }
    Ok(())
}
