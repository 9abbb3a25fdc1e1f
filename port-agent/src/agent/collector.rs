//! The collector: removes what crashes leave behind, once two looks some time apart have found it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use shared::attachment::garbage::Piece;
use shared::error::sentence;
use tokio::time::sleep;

use super::Agent;
use crate::{Failure, gc};

/// Its name in the log and in the service's status.
pub(super) const PART: &str = "collector";

/// Between two looks when nothing is heard.
const PATROL: Duration = Duration::from_secs(600);

/// Between a change and the look at what it left; the next look comes as long after that.
const SETTLED: Duration = Duration::from_secs(5);

/// After a change some things are too young to be called left behind: a later look finds them.
const AGED: Duration = Duration::from_secs(75);

/// Serves until the agent stops.
pub(super) async fn serve(agent: Arc<Agent>) -> Result<(), Failure> {
    let mut picture = agent.picture.subscribe();
    let mut seen = BTreeSet::new();
    let mut young = true;
    loop {
        let found = agent.work(move |agent| look(agent, &seen)).await?;
        // What one look finds, the next one removes.
        let troubled = agent.health.is_troubled(PART);
        let pause = match (found.is_empty() && !troubled, young) {
            (false, _) => SETTLED,
            (true, true) => AGED,
            (true, false) => PATROL,
        };
        seen = found;
        tokio::select! {
            () = sleep(pause) => {
                young &= pause != AGED;
                continue;
            }
            Ok(()) = picture.changed() => {}
            () = agent.vanished.notified() => {}
            () = agent.stopped() => return Ok(()),
        }
        young = true;
        tokio::select! {
            () = sleep(SETTLED) => {}
            () = agent.stopped() => return Ok(()),
        }
        picture.mark_unchanged();
    }
}

/// One look: what was `seen` by the last one as well is removed. Returns the rest.
fn look(agent: &Agent, seen: &BTreeSet<Piece>) -> BTreeSet<Piece> {
    let engine = &agent.engine;
    let survey = engine.survey();
    if !survey.unreadable.is_empty() {
        agent.health.trouble(PART, format!("nothing is removed: {}", survey.unreadable.join("; ")));
        return BTreeSet::new();
    }
    agent.health.well(PART);
    let (again, first): (BTreeSet<_>, BTreeSet<_>) =
        survey.pieces.into_iter().partition(|piece| seen.contains(piece));
    let mut removed = Vec::new();
    for (piece, outcome) in engine.clear(again.into_iter().collect()) {
        match outcome {
            Ok(true) => {
                tracing::info!("left behind, removed: {}", gc::said(&piece));
                removed.push(piece);
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(error = %sentence(&error), "left behind, and kept"),
        }
    }
    gc::note(engine, removed.iter());
    for why in engine.sweep_half_written() {
        tracing::warn!("{why}");
    }
    first
}
