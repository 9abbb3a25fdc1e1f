//! The ledger, kept on disk: what was written is there within a second, and what had to wait in the
//! spool is written as soon as the disk takes it.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use shared::error::sentence;
use shared::ledger::Ledger;
use shared::news::{Heard, News};
use tokio::time::sleep;

use super::{Agent, readable};
use crate::Failure;

/// Its name in the log and in the service's status.
pub(super) const PART: &str = "ledger";

/// From a line to the disk: one fdatasync for all that come meanwhile.
const GATHER: Duration = Duration::from_millis(500);

/// Between two tries while lines wait, or while nothing can be heard.
const RETRY: Duration = Duration::from_secs(1);

/// Between two looks when nothing was heard.
const PATROL: Duration = Duration::from_secs(300);

/// Serves until the agent stops; what was written is on disk then.
pub(super) async fn serve(agent: Arc<Agent>) -> Result<(), Failure> {
    // One that is kept: it knows what is on disk.
    let ledger = agent.engine.ledger();
    let path = &agent.engine.config().ledger_path;
    let news = News::beside(path, Heard::Writes).map_err(Failure::new)?;
    let mut picture = agent.picture.subscribe();
    agent.health.well(PART);
    loop {
        // The directory is made with the first line.
        let deaf = news.listen().is_err();
        let flushed = ledger.clone();
        let waits = agent.work(move |_| flush(&flushed)).await?;
        if agent.stopping() {
            return Ok(());
        }
        tokio::select! {
            heard = readable(news.as_fd()) => heard?,
            // Lines may go to the spool, of which nothing is heard.
            Ok(()) = picture.changed() => {}
            () = sleep(if waits || deaf { RETRY } else { PATROL }) => continue,
            () = agent.stopped() => continue,
        }
        tokio::select! {
            () = sleep(GATHER) => {}
            () = agent.stopped() => {}
        }
    }
}

/// True if lines wait in the spool.
fn flush(ledger: &Ledger) -> bool {
    if let Err(error) = ledger.flush() {
        tracing::error!(error = %sentence(&error), "the ledger cannot be forced to disk");
    }
    ledger.waits()
}
