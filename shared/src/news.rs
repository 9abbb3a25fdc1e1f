//! News of a directory: whoever keeps one of its files sleeps until somebody writes there.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::state::Error;

/// What is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Every write.
    Writes,
    /// A file that was finished, replaced or removed: nothing that somebody is still writing.
    Files,
}

/// Readable from the first thing on that happened after [`News::listen`].
#[derive(Debug)]
pub struct News {
    inotify: Inotify,
    directory: PathBuf,
    mask: AddWatchFlags,
}

impl News {
    /// Of the directory that has this file. Hears nothing yet.
    pub fn beside(file: &Path, heard: Heard) -> Result<Self, Error> {
        use AddWatchFlags as On;
        let directory = file.parent().unwrap_or(Path::new("/")).to_owned();
        let mask = match heard {
            Heard::Writes => On::IN_MODIFY | On::IN_CREATE,
            Heard::Files => On::IN_CLOSE_WRITE | On::IN_DELETE | On::IN_MOVED_FROM,
        };
        // The first of it only: a storm is one thing.
        let mask = mask
            | On::IN_MOVED_TO
            | On::IN_DELETE_SELF
            | On::IN_MOVE_SELF
            | On::IN_ONLYDIR
            | On::IN_ONESHOT;
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(|errno| failed(&directory, errno))?;
        Ok(Self { inotify, directory, mask })
    }

    /// Forgets what was heard and listens for the next thing. To be called before one looks: what
    /// happens meanwhile is heard then.
    ///
    /// # Errors
    /// Nothing is heard then, for instance because there is no such directory.
    pub fn listen(&self) -> Result<(), Error> {
        loop {
            match self.inotify.read_events() {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(errno) => return Err(failed(&self.directory, errno)),
            }
        }
        let added = self.inotify.add_watch(&self.directory, self.mask);
        added.map(drop).map_err(|errno| failed(&self.directory, errno))
    }
}

impl AsFd for News {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

fn failed(directory: &Path, errno: Errno) -> Error {
    let source = io::Error::from(errno);
    Error::Io { action: "follow", path: directory.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write as _;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn is_heard(news: &News) -> bool {
        let mut fds = [PollFd::new(news.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn a_write_is_heard_once_until_one_listens_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.jsonl");
        let news = News::beside(&path, Heard::Writes).unwrap();
        news.listen().unwrap();
        assert!(!is_heard(&news));
        let mut file = File::options().create(true).append(true).open(&path).unwrap();
        file.write_all(b"one\n").unwrap();
        assert!(is_heard(&news));
        news.listen().unwrap();
        assert!(!is_heard(&news), "heard is heard");
        file.write_all(b"two\n").unwrap();
        assert!(is_heard(&news));
        fs::remove_dir_all(dir.path()).unwrap();
        assert!(news.listen().is_err(), "a directory that is gone cannot be listened to");
    }

    #[test]
    fn a_file_is_heard_when_it_is_finished_or_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("interfaces");
        let news = News::beside(&path, Heard::Files).unwrap();
        news.listen().unwrap();
        let mut file = File::create(&path).unwrap();
        file.write_all(b"half of").unwrap();
        assert!(!is_heard(&news), "somebody is still writing");
        drop(file);
        assert!(is_heard(&news));
        let new = path.with_extension("new");
        let acts: [&dyn Fn() -> io::Result<()>; 3] =
            [&|| fs::write(&new, ""), &|| fs::rename(&new, &path), &|| fs::remove_file(&path)];
        for act in acts {
            news.listen().unwrap();
            assert!(!is_heard(&news));
            act().unwrap();
            assert!(is_heard(&news));
        }
    }
}
