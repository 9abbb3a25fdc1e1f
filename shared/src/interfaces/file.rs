//! The file on disk: read and replaced whole, under a lock.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use xattr::FileExt as _;

use super::Error;

/// The file, links followed, with its directory locked.
///
/// The directory is what every writer of ours can lock without leaving a file behind; the file
/// itself is another one after each replacement.
#[derive(Debug)]
pub(super) struct Target {
    path: PathBuf,
    directory: Flock<File>,
}

/// The file as it was read.
#[derive(Debug)]
pub(super) struct Current {
    file: File,
    metadata: Metadata,
    /// Its bytes.
    pub(super) text: Vec<u8>,
}

impl Target {
    /// Follows links from `path`, so that a link stays one and its target is what changes, and
    /// locks. `None` if there is no file.
    pub(super) fn lock(path: &Path, deadline: Instant) -> Result<Option<Self>, Error> {
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
        let start = Instant::now();
        loop {
            match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
                Ok(directory) => return Ok(Some(Self { path, directory })),
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

    /// Reads the file; `None` if it is gone.
    pub(super) fn read(&self) -> Result<Option<Current>, Error> {
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&self.path);
        let mut file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.failed("read", source)),
        };
        // Taken before the bytes: whatever is written while they are read makes a difference.
        let metadata = file.metadata().map_err(|source| self.failed("read", source))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(|source| self.failed("read", source))?;
        Ok(Some(Current { file, metadata, text }))
    }

    /// Puts `text` in the place of `current`, with its mode, owner and extended attributes, in one
    /// step. `false` if somebody changed the file since it was read.
    pub(super) fn replace(&self, current: &Current, tag: &str, text: &[u8]) -> Result<bool, Error> {
        let name = self.path.file_name().unwrap_or(OsStr::new("interfaces"));
        // A fixed name: what a killed writer left is overwritten by the next, and never piles up.
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{tag}.new"));
        let temporary = self.path.with_file_name(temporary);
        let outcome = self.write(current, &temporary, text).and_then(|()| {
            if !self.is(current)? {
                return Ok(false);
            }
            fs::rename(&temporary, &self.path).map_err(|source| self.failed("replace", source))?;
            Ok(true)
        });
        if !matches!(outcome, Ok(true)) {
            // The first error is the one to report.
            fs::remove_file(&temporary).ok();
            return outcome;
        }
        self.directory.sync_all().map_err(|source| self.failed("sync the directory of", source))?;
        Ok(true)
    }

    fn write(&self, current: &Current, temporary: &Path, text: &[u8]) -> Result<(), Error> {
        let failed = |source| self.failed("write a new copy of", source);
        match fs::remove_file(temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(temporary)
            .map_err(failed)?;
        file.write_all(text).map_err(failed)?;
        let (old, new) = (&current.metadata, file.metadata().map_err(failed)?);
        if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
            fchown(&file, Some(old.uid()), Some(old.gid())).map_err(failed)?;
        }
        file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777)).map_err(failed)?;
        copy_attributes(&current.file, &file).map_err(failed)?;
        file.sync_all().map_err(failed)
    }

    /// Whether the path still leads to `current`, unchanged.
    fn is(&self, current: &Current) -> Result<bool, Error> {
        let key = |of: &Metadata| {
            (
                of.dev(),
                of.ino(),
                of.size(),
                of.mtime(),
                of.mtime_nsec(),
                of.ctime(),
                of.ctime_nsec(),
            )
        };
        match fs::symlink_metadata(&self.path) {
            Ok(now) => Ok(key(&now) == key(&current.metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(self.failed("examine", source)),
        }
    }

    fn failed(&self, action: &'static str, source: io::Error) -> Error {
        Error::Io { action, path: self.path.clone(), source }
    }
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
