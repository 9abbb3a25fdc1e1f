//! How long a fault lasted, time after time.

use std::time::Duration;

use crate::command::poll;

/// Within what all must be well again after a fault (invariant I6 of docs/faults.md).
pub const CONVERGED: Duration = Duration::from_secs(10);

/// How much more the long version does ("./run faults --long").
pub fn is_long() -> bool {
    std::env::var_os("OVS_AGENT_LONG").is_some()
}

/// How often a fault is made: in the gate, and in the long version.
pub fn rounds(gate: usize, long: usize) -> usize {
    if is_long() { long } else { gate }
}

/// Times of one kind of recovery; prints median and worst when it is dropped, in the form that
/// docs/figures.md quotes.
#[derive(Debug)]
pub struct Recovery {
    what: String,
    times: Vec<Duration>,
}

impl Recovery {
    /// None yet; `what` begins with the row of docs/faults.md.
    pub fn of(what: impl Into<String>) -> Self {
        Self { what: what.into(), times: Vec::new() }
    }

    /// One more.
    pub fn took(&mut self, time: Duration) {
        self.times.push(time);
    }

    /// Waits until `probe` answers, at most [`CONVERGED`], and notes how long that took.
    pub fn until<T>(&mut self, what: &str, probe: impl FnMut() -> Option<T>) -> T {
        let begin = std::time::Instant::now();
        let value = poll(what, CONVERGED, probe);
        self.times.push(begin.elapsed());
        value
    }

    /// The longest.
    pub fn worst(&self) -> Duration {
        self.times.iter().copied().max().unwrap_or_default()
    }
}

impl Drop for Recovery {
    fn drop(&mut self) {
        self.times.sort_unstable();
        if let Some(median) = self.times.get(self.times.len() / 2) {
            let (count, worst) = (self.times.len(), self.worst());
            println!(
                "figure | {} | {count} | {} | {}",
                self.what,
                median.as_millis(),
                worst.as_millis()
            );
        }
    }
}
