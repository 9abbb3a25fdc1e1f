//! A unix socket that is served: root's alone from its first moment on, whatever the umask.

use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, socket,
};
use nix::sys::stat::{Mode, fchmod};

/// Listens at `path`, without blocking. A socket that nobody serves any more is replaced; anything
/// else that has the name, a link too, is left alone and refused.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    let address = UnixAddr::new(path)?;
    match fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() => {
            if is_served(&address)? {
                let taken = "somebody serves it already; stop that first";
                return Err(io::Error::new(io::ErrorKind::AddrInUse, taken));
            }
            fs::remove_file(path)?;
        }
        Ok(there) => {
            let what = if there.is_symlink() { "a symbolic link" } else { "no socket" };
            let text = format!("what is there is {what}; remove it, and see who made it");
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let fd = stream()?;
    // The file of a socket gets the mode of the descriptor that is bound, less the umask: a chmod
    // afterwards would leave a moment in which anybody could connect.
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(fd.as_raw_fd(), &address)?;
    nix::sys::socket::listen(&fd, Backlog::MAXALLOWABLE)?;
    Ok(UnixListener::from(fd))
}

fn is_served(address: &UnixAddr) -> io::Result<bool> {
    match connect(stream()?.as_raw_fd(), address) {
        // A full queue is somebody's too.
        Ok(()) | Err(Errno::EAGAIN) => Ok(true),
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn stream() -> nix::Result<std::os::fd::OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_dead_socket_is_replaced_and_a_served_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let first = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        let _second = listen(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn what_is_no_socket_stays_and_a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "theirs").unwrap();
        let dead = dir.path().join("dead.sock");
        drop(listen(&dead).unwrap());
        for target in [&file, &dead, &dir.path().join("missing")] {
            let link = dir.path().join("link");
            symlink(target, &link).unwrap();
            let error = listen(&link).unwrap_err().to_string();
            assert!(error.contains("a symbolic link"), "{error}");
            fs::remove_file(&link).unwrap();
        }
        assert!(listen(&file).unwrap_err().to_string().contains("no socket"));
        assert_eq!(fs::read_to_string(&file).unwrap(), "theirs");
        assert!(dead.exists() && !dir.path().join("missing").exists());
    }
}
