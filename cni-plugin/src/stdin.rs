//! stdin: the network configuration, under a deadline and a limit.

use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long a runtime may take to write it and close the pipe.
const DEADLINE: Duration = Duration::from_secs(30);

/// More than any network configuration with its previous result.
const LIMIT: usize = 4 << 20;

/// Reads all of it.
pub(crate) fn read() -> io::Result<Vec<u8>> {
    let mut stdin = io::stdin().lock();
    let start = Instant::now();
    let mut text = Vec::with_capacity(4096);
    let mut chunk = [0; 4096];
    loop {
        let left = DEADLINE.saturating_sub(start.elapsed());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let ready = {
            let mut watched = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
            poll(&mut watched, timeout)?
        };
        if ready == 0 {
            let why = "the runtime did not close it within 30 s";
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        let count = stdin.read(&mut chunk)?;
        if count == 0 {
            return Ok(text);
        }
        text.extend_from_slice(&chunk[..count]);
        if text.len() > LIMIT {
            let why = format!("it is longer than {LIMIT} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
    }
}
