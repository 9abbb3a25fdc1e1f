//! Our rules in nftables, held: the agent is their one writer while it runs, hears who touches
//! them, and puts them back at once.

use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared::error::sentence;
use shared::nat::{self, Shape, Watch, Writer};
use shared::network::{self, host};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Agent, readable};
use crate::Failure;

/// Its name in the log and in the service's status.
const PART: &str = "rules";

/// A firewall that is loaded anew says many things at once.
const STORM: Duration = Duration::from_millis(30);

/// Between two looks when nothing was heard, or when something could not be put back.
const PATROL: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_secs(1);

/// Between two looks at the tables of legacy iptables, where there are any: of them nothing is heard.
const LEGACY: Duration = Duration::from_secs(5);

/// The writer of our table.
#[derive(Debug)]
pub(crate) struct Rules {
    writer: Mutex<Writer>,
}

impl Rules {
    /// Nothing is written yet.
    pub(crate) fn new(protect: bool) -> Result<Self, nat::Error> {
        Ok(Self { writer: Mutex::new(Writer::open(protect)?) })
    }

    /// The writer, for one act.
    pub(crate) fn writer(&self) -> MutexGuard<'_, Writer> {
        // Each act is one transaction: one that broke off has left nothing half done.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves until the agent stops.
pub(crate) async fn serve(agent: Arc<Agent>) -> Result<(), Failure> {
    let own = agent.rules.writer().port();
    let mut watch = Watch::open().map_err(Failure::new)?;
    // Whatever was done while nobody listened.
    let mut due = Instant::now();
    let mut tagged = true;
    let mut legacy = Shape::now();
    while !agent.stopping() {
        tokio::select! {
            heard = readable(watch.as_fd()) => {
                heard?;
                let mut heard = watch.drain().map_err(Failure::new)?;
                if !heard.table_by_others(own) && !heard.forward {
                    continue;
                }
                sleep(STORM).await;
                heard.forward |= watch.drain().map_err(Failure::new)?.forward;
                tagged |= heard.forward;
            }
            () = sleep(LEGACY), if !legacy.is_empty() => {
                if !tagged && legacy == Shape::now() {
                    continue;
                }
                tagged = true;
            }
            () = sleep_until(due) => {}
            () = agent.stopped() => return Ok(()),
        }
        let elsewhere = tagged;
        let before = Shape::now();
        match agent.work(move |agent| put_back(agent, elsewhere)).await? {
            Ok(changed) => {
                if changed {
                    tracing::warn!("rules of ours were taken out of nftables; they are back");
                }
                agent.health.well(PART);
                legacy = Shape::now();
                // Who flushed it just now was not heard.
                tagged = !legacy.is_empty() && (changed || legacy != before);
                due = Instant::now() + PATROL;
            }
            Err(error) => {
                agent.health.trouble(PART, sentence(&error));
                due = Instant::now() + RETRY;
            }
        }
    }
    Ok(())
}

/// Puts back what our table lacks and, if asked, our one rule elsewhere. A host that is not up has
/// none: that is the keeper's business.
fn put_back(agent: &Agent, tagged: bool) -> Result<bool, network::Error> {
    let state = agent.engine.state();
    let held =
        host::hold(agent.engine.config(), &mut |plan| agent.rules.writer().apply(&state, plan))?;
    let Some(mut changed) = held else { return Ok(false) };
    if tagged {
        changed |= nat::tagged::ensure(&state).map_err(nat::Error::from)?;
    }
    Ok(changed)
}
