//! How long nobody gets through: connections tried every few milliseconds, from one end to another.

use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, getsockopt, socket, sockopt,
};

use crate::container::Container;

/// Between two tries.
const EVERY: Duration = Duration::from_millis(4);

/// A try without an answer by then has failed: the kernel would send its SYN again after a second.
const PATIENCE: Duration = Duration::from_millis(800);

/// Tries to connect for as long as it lives.
#[derive(Debug)]
pub struct Probe {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(Instant, bool)>>,
}

/// A try under way.
struct Try {
    started: Instant,
    socket: OwnedFd,
}

impl Probe {
    /// Begins, from inside `from`.
    pub fn start(from: &Container, to: SocketAddr) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        // A thread stays in the namespace it was started in.
        let thread = from.inside(|| std::thread::spawn(move || tries(to, &end)));
        Self { ended, thread }
    }

    /// Ends it: the longest time in which every try failed, and how many tries there were.
    pub fn end(self) -> (Duration, usize) {
        self.ended.store(true, Ordering::Relaxed);
        let mut tries = self.thread.join().expect("the probe does not panic");
        tries.sort();
        let mut longest = Duration::ZERO;
        let mut since = None;
        for (started, reached) in &tries {
            if *reached {
                since = None;
            } else {
                let since = *since.get_or_insert(*started);
                longest = longest.max(*started - since + EVERY);
            }
        }
        (longest, tries.len())
    }
}

fn tries(to: SocketAddr, ended: &AtomicBool) -> Vec<(Instant, bool)> {
    let mut done = Vec::new();
    let mut under_way: Vec<Try> = Vec::new();
    while !ended.load(Ordering::Relaxed) || !under_way.is_empty() {
        let round = Instant::now();
        if !ended.load(Ordering::Relaxed) {
            match begin(to) {
                Ok(socket) => under_way.push(Try { started: round, socket }),
                Err(_) => done.push((round, false)),
            }
        }
        under_way.retain(|attempt| match outcome(attempt) {
            Some(reached) => {
                done.push((attempt.started, reached));
                false
            }
            None => true,
        });
        std::thread::sleep(EVERY.saturating_sub(round.elapsed()));
    }
    done
}

fn begin(to: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(family, SockType::Stream, flags, None)?;
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(fd),
        Err(errno) => Err(errno),
    }
}

/// `None` while it cannot be told.
fn outcome(attempt: &Try) -> Option<bool> {
    let mut watched = [PollFd::new(attempt.socket.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut watched, PollTimeout::ZERO) == Ok(0) {
        return (attempt.started.elapsed() > PATIENCE).then_some(false);
    }
    Some(getsockopt(&attempt.socket, sockopt::SocketError) == Ok(0))
}
