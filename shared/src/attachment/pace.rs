//! Whether the switch has so many ports that it should be told of a new one before its pair is
//! made, remembered from one attach to the next.
//!
//! ovs-vswitchd looks at every port it has once for a device that appears and once more for a port
//! that is added, and only then opens it. Told of the port first, it meets both in one round, and at
//! 300 ports opens it in half the time (docs/decisions/015-who-is-told-first.md). With few ports it
//! would look for the device before that is there, and complain in its log. How long it took over
//! the last port says which of the two it is; the note is a file, and losing it costs some
//! milliseconds.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use nix::libc;

use crate::state::{self, State};

/// Opening a port takes 3 ms, and 0.15 ms more for each port there is: 60 ports or so.
const SLOW: Duration = Duration::from_millis(12);

/// The same where the switch is told first: it takes 0.06 ms for each port.
const QUICK: Duration = Duration::from_millis(5);

/// The note.
#[derive(Debug)]
pub(super) struct Pace {
    path: PathBuf,
    /// Whether the note is there.
    slow: bool,
}

impl Pace {
    /// Reads the note.
    pub(super) fn read(state: &State) -> Self {
        let path = state.slow_switch();
        let slow = path.exists();
        Self { path, slow }
    }

    /// Whether the switch is to be told of a port before its pair is made.
    pub(super) fn switch_first(&self) -> bool {
        self.slow
    }

    /// Notes how long the switch took to open a port.
    pub(super) fn note(&self, took: Duration) {
        let done = if self.slow && took < QUICK {
            state::remove(&self.path).map(drop).map_err(|error| error.to_string())
        } else if !self.slow && took > SLOW {
            self.leave().map_err(|error| error.to_string())
        } else {
            Ok(())
        };
        if let Err(error) = done {
            tracing::debug!("cannot note the pace of the switch: {error}");
        }
    }

    fn leave(&self) -> io::Result<()> {
        let open = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&self.path);
        match open {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_follows_what_was_seen_last() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(dir.path().to_owned());
        let told_first = |took: u64| {
            Pace::read(&state).note(Duration::from_millis(took));
            Pace::read(&state).switch_first()
        };
        assert!(!Pace::read(&state).switch_first());
        let seen = [3, 12, 13, 12, 5, 4, 12, 80].map(told_first);
        assert_eq!(seen, [false, false, true, true, true, false, false, true]);
    }
}
