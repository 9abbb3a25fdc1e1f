//! The keeper: brings the host up and keeps it so, follows the switch and keeps the managed block
//! and the ledger. Synchronous, on a thread of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use shared::attachment::Engine;
use shared::error::sentence;
use shared::link::Watch;
use shared::network::host::Step;
use shared::ovsdb;

use super::{Agent, memory};
use crate::{Failure, host, uplink};

/// Its name in the log and in the service's status.
pub(crate) const PART: &str = "keeper";

/// Longest wait for a change before the ledger is looked after: what was written is on disk within
/// a second.
const TICK: Duration = Duration::from_millis(500);

/// Between two tries to reach ovsdb-server, or to repair what could not be repaired.
const RETRY: Duration = Duration::from_secs(1);

/// Between two looks at the host when nothing was heard of it: rules of a firewall come and go
/// unheard.
const PATROL: Duration = Duration::from_secs(30);

/// Serves until the agent stops.
pub(crate) async fn serve(agent: Arc<Agent>) -> Result<(), Failure> {
    agent.work(keep).await?
}

fn keep(agent: &Agent) -> Result<(), Failure> {
    let engine = &agent.engine;
    let mut news = Watch::open().map_err(Failure::new)?;
    say(&host::bring_up(engine)?);
    if let Err(error) = engine.show() {
        tracing::error!(error = %sentence(&error), "the managed block is out of date");
    }
    tracing::info!("the host is up");
    agent.health.well(PART);
    agent.health.ready();
    let mut watch = None;
    let mut looked = Instant::now();
    let mut trouble = None;
    while !agent.stopping() {
        let fresh = watch.is_none();
        let changed = follow(engine, &mut watch).unwrap_or_else(|error| {
            trouble = Some(format!("Open vSwitch cannot be followed: {}", sentence(&error)));
            watch = None;
            thread::sleep(RETRY);
            false
        });
        if changed {
            agent.changes.send_modify(|count| *count += 1);
        }
        let heard = news.drain().unwrap_or_else(|error| {
            tracing::warn!(error = %sentence(&error), "the kernel cannot be followed");
            true
        });
        let due = looked.elapsed() >= if trouble.is_some() { RETRY } else { PATROL };
        // Without ovsdb-server nothing can be repaired; the next connection looks again.
        if watch.is_some() && (fresh || heard || due) {
            if uplink::is_outdated(engine, agent.config.as_deref()) {
                tracing::info!(
                    "an uplink was moved: beginning anew with the configuration as it is"
                );
                let error = uplink::begin_anew();
                return Err(Failure::Work(format!("cannot begin anew: {error}")));
            }
            trouble = match host::repair(engine) {
                Ok(steps) => {
                    say(&steps);
                    let acts: usize = steps.iter().map(|step| step.acts.len()).sum();
                    agent.repairs.fetch_add(acts as u64, Ordering::Relaxed);
                    None
                }
                Err(why) => Some(format!("the host is not as it should be: {why}")),
            };
            looked = Instant::now();
            memory::give_back();
        } else if watch.is_some() && changed {
            // Somebody may have removed a port; the kernel would not say.
            match host::restore(engine) {
                Ok(steps) => say(&steps),
                Err(why) => trouble = Some(format!("a port is lost: {why}")),
            }
            memory::give_back();
        }
        match &trouble {
            Some(why) => agent.health.trouble(PART, why.clone()),
            None => agent.health.well(PART),
        }
        if let Err(error) = engine.ledger().flush() {
            tracing::error!(error = %sentence(&error), "the ledger cannot be forced to disk");
        }
    }
    Ok(())
}

/// What had to be done.
fn say(steps: &[Step]) {
    for step in steps.iter().filter(|step| !step.acts.is_empty()) {
        tracing::info!("{}: {}", step.what, step.acts.join(", "));
    }
}

/// Waits for one change at most, and shows it once the storm is over. True if there was one.
fn follow(engine: &Engine, watch: &mut Option<ovsdb::Watch>) -> Result<bool, ovsdb::Error> {
    let config = engine.config();
    let fresh = watch.is_none();
    let news = match watch {
        Some(news) => news,
        None => watch.insert(ovsdb::Watch::open(&config.ovsdb)?),
    };
    // Whatever changed while nobody followed is shown as well.
    if !fresh && !news.changed(TICK)? {
        return Ok(false);
    }
    // The first change of a storm is shown within `debounce_ms`, the last one soon after it.
    let debounce = Duration::from_millis(config.debounce_ms);
    let start = Instant::now();
    while let Some(left) = debounce.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
        if !news.changed(left.min(debounce / 4))? {
            break;
        }
    }
    if let Err(error) = engine.show() {
        tracing::error!(error = %sentence(&error), "the managed block is out of date");
    }
    Ok(true)
}
