//! Docker's FORWARD chain drops what it does not know, and the one rule of ours in it goes when
//! Docker or a firewall writes it anew. The agent puts it back; where none runs, the driver does.

use std::thread;
use std::time::{Duration, Instant};

use shared::control;
use shared::error::sentence;
use shared::nat::{self, Shape, Watch};

use crate::driver::Driver;

/// Who writes rules writes many.
const STORM: Duration = Duration::from_millis(30);

/// Between two looks when nothing is heard.
const PATROL: Duration = Duration::from_secs(30);

/// Between two looks at the tables of legacy iptables, where there are any: of them nothing is heard.
const LEGACY: Duration = Duration::from_secs(5);

/// After a failure.
const RETRY: Duration = Duration::from_secs(5);

/// Keeps the rule for as long as the process lives.
pub(crate) fn keep(driver: &Driver) {
    loop {
        if let Err(error) = follow(driver) {
            tracing::warn!(error = %sentence(&error), "the firewall cannot be followed");
        }
        thread::sleep(RETRY);
    }
}

fn follow(driver: &Driver) -> Result<(), nat::Error> {
    let mut watch = Watch::open()?;
    // Whatever was done while nobody listened.
    let mut due = Instant::now();
    let mut legacy = Shape::now();
    loop {
        let left = due.saturating_duration_since(Instant::now());
        let heard = watch.wait(if legacy.is_empty() { left } else { left.min(LEGACY) })?;
        if heard.forward {
            thread::sleep(STORM);
            watch.drain()?;
        } else if Instant::now() < due && (legacy.is_empty() || legacy == Shape::now()) {
            continue;
        }
        if driver.forwards() && !control::is_served(&driver.state()) {
            driver.pass_forward();
        }
        legacy = Shape::now();
        due = Instant::now() + PATROL;
    }
}
