//! Files and directories of ours: root's alone, and never reached through a link that somebody put
//! in their place.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::geteuid;

/// Longest file read whole, in bytes: a pool of Docker's with a /16 in use has some 6 MiB.
const LONGEST: u64 = 64 << 20;

/// Options that make a file for root alone, follow no link at its name, and do not wait for the other
/// end of a pipe. Errors of `open` are for [`plain`].
pub fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    options
}

/// Says in words what the system means where it met a link.
pub fn plain(error: io::Error) -> io::Error {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ELOOP) => io::Error::other(
            "it is a symbolic link, which is not followed; remove it, and see who made it",
        ),
        _ => error,
    }
}

/// Opens a regular file to read it.
pub fn open(path: &Path) -> io::Result<File> {
    let file = options().read(true).open(path).map_err(plain)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file; remove it"));
    }
    Ok(file)
}

/// The bytes of a regular file.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = open(path)?;
    if file.take(LONGEST + 1).read_to_end(&mut bytes)? as u64 > LONGEST {
        return Err(io::Error::other(format!("it is longer than {LONGEST} bytes")));
    }
    Ok(bytes)
}

/// Makes a file that was not there, to write it. What has the name is removed, be it a link: only
/// what we make anew is surely ours alone.
pub fn fresh(path: &Path) -> io::Result<File> {
    let make = || options().write(true).create_new(true).open(path);
    match make() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            make()
        }
        made => made,
    }
}

/// Makes the directory and those above it, unless it is there. A link in its place, and one that
/// others could put links in, are refused.
pub fn directory(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(there) => judge(&there),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(path)
        }
        Err(error) => Err(error),
    }
}

fn judge(there: &Metadata) -> io::Result<()> {
    let (owner, mode) = (there.uid(), there.mode() & 0o7777);
    let problem = if there.is_symlink() {
        "it is a symbolic link, which is not followed; remove it, and see who made it".to_owned()
    } else if !there.is_dir() {
        "it is no directory; remove it".to_owned()
    } else if owner != 0 && owner != geteuid().as_raw() {
        format!("it belongs to user {owner}; chown it to root, or name another directory")
    } else if mode & 0o022 != 0 {
        format!("others may write to it (mode {mode:04o}); chmod it to 0700")
    } else {
        return Ok(());
    };
    Err(io::Error::other(problem))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    /// A directory with a file of somebody else in it.
    fn foreign() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("foreign");
        fs::write(&file, "theirs").unwrap();
        (dir, file)
    }

    #[test]
    fn a_link_is_not_followed_and_said() {
        let (dir, file) = foreign();
        let link = dir.path().join("link");
        symlink(&file, &link).unwrap();
        for error in [
            open(&link).unwrap_err(),
            plain(options().write(true).create(true).open(&link).unwrap_err()),
        ] {
            assert!(error.to_string().starts_with("it is a symbolic link"), "{error}");
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "theirs");
    }

    #[test]
    fn a_fresh_file_is_no_link_and_no_other_name_of_a_file() {
        let (dir, file) = foreign();
        for plant in [
            (|file, path| symlink(file, path)) as fn(&Path, &Path) -> io::Result<()>,
            |_, path| symlink("/nonexistent/dangling", path),
            |file, path| fs::hard_link(file, path),
        ] {
            let path = dir.path().join("new");
            plant(&file, &path).unwrap();
            drop(fresh(&path).unwrap());
            let made = fs::symlink_metadata(&path).unwrap();
            assert!(made.is_file() && made.len() == 0 && made.mode() & 0o777 == 0o600);
            fs::remove_file(&path).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), "theirs");
        }
    }

    #[test]
    fn a_pipe_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read(&pipe).unwrap_err().to_string().contains("no regular file"));
    }

    #[test]
    fn a_directory_is_ours_or_refused() {
        let (dir, file) = foreign();
        let new = dir.path().join("a/b");
        directory(&new).unwrap();
        assert_eq!(fs::metadata(&new).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(new.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        directory(&new).unwrap();
        let link = dir.path().join("link");
        symlink(&new, &link).unwrap();
        let refused = |path| directory(path).unwrap_err().to_string();
        assert!(refused(&link).contains("symbolic link"));
        assert!(refused(&file).contains("no directory"));
        fs::set_permissions(&new, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(refused(&new).contains("mode 0770"));
    }
}
