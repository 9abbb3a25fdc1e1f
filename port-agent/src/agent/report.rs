//! What `status` reads of a running agent: every part and what is wrong with it, in a file of the
//! state directory that dies with the boot.

use std::sync::Arc;

use shared::state;
use shared::status::AgentReport;

use super::Agent;
use crate::Failure;

/// Its name in the log and in the service's status.
pub(super) const PART: &str = "report";

/// Serves until the agent stops.
pub(crate) async fn serve(agent: Arc<Agent>) -> Result<(), Failure> {
    let mut news = agent.health.subscribe();
    loop {
        news.mark_unchanged();
        let parts = agent.health.parts();
        agent
            .work(move |agent| {
                let path = AgentReport::path(&agent.engine.state());
                state::write(&path, &AgentReport { pid: std::process::id(), parts })
                    .map_err(Failure::new)
            })
            .await??;
        agent.health.well(PART);
        tokio::select! {
            changed = news.changed() => if changed.is_err() { return Ok(()) },
            () = agent.stopped() => {
                let path = AgentReport::path(&agent.engine.state());
                return state::remove(&path).map(drop).map_err(Failure::new);
            }
        }
    }
}
