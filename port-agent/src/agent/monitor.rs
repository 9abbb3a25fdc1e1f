//! The monitor: interfaces that `include_prefixes` names and that are clearly nobody's plug
//! themselves in, and out again when they vanish.
//!
//! Whoever makes an interface often moves, addresses or enslaves it a moment later. So what looks
//! free is looked at again `debounce_ms` later, and taken only if every fact is still the same.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::{MulticastGroup, new_multicast_connection};
use shared::attachment::{Facts, Verdict};
use shared::error::sentence;
use shared::link::HOST_END_GROUP;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Agent;
use crate::Failure;
use crate::interface::monitored;

/// Its name in the log and in the service's status.
pub(crate) const PART: &str = "monitor";

/// Between two looks when nothing was heard: an address that is taken away makes no news of a link.
const PATROL: Duration = Duration::from_secs(60);

/// So long at least an interface is watched, whatever `debounce_ms` says: two looks at one moment
/// would be one.
const SHORTEST: Duration = Duration::from_millis(50);

/// How long a storm may gather before it is looked at.
const GATHER: Duration = Duration::from_millis(100);

/// An interface that could not be plugged in is tried again after this.
const AGAIN: Duration = Duration::from_secs(30);

/// Serves until the agent stops.
pub(crate) async fn serve(agent: Arc<Agent>) -> Result<(), Failure> {
    let (connection, _handle, mut news) = new_multicast_connection(&[MulticastGroup::Link])
        .map_err(|error| {
            Failure::Work(format!("the kernel's links cannot be followed: {error}"))
        })?;
    // Ends with this part, however it ends.
    let mut following = JoinSet::new();
    following.spawn(connection);
    // Before the host is up: what comes from here on is new.
    agent.work(|agent| agent.engine.mark_older()).await?.map_err(Failure::new)?;
    let mut changes = agent.changes.subscribe();
    tokio::select! {
        up = changes.wait_for(|count| *count > 0) => drop(up),
        () = agent.stopped() => return Ok(()),
    }
    agent.health.well(PART);
    let mut watched = Watched::default();
    loop {
        let next;
        (watched, next) = agent.work(move |agent| look(agent, watched)).await??;
        let due = sleep(next);
        tokio::pin!(due);
        loop {
            tokio::select! {
                message = news.recv() => match message {
                    Ok((message, _)) if concerns_us(&message.payload) => break,
                    Ok(_) => {}
                    Err(_) => {
                        return Err(Failure::Work("the kernel's news came to an end".to_owned()));
                    }
                },
                () = &mut due => break,
                () = agent.stopped() => return Ok(()),
            }
        }
        sleep(GATHER.min(debounce(&agent) / 2)).await;
        while news.try_recv().is_ok() {}
    }
}

/// Whether a message may be of an interface for us: the host ends of containers are not, as long
/// as they live.
fn concerns_us(payload: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
    let in_our_group = |link: &LinkMessage| {
        link.attributes.iter().any(|a| matches!(a, LinkAttribute::Group(HOST_END_GROUP)))
    };
    match payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => !in_our_group(link),
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(_)) => true,
        // The kernel had no room for all of it.
        NetlinkPayload::Overrun(_) | NetlinkPayload::Error(_) => true,
        _ => false,
    }
}

fn debounce(agent: &Agent) -> Duration {
    Duration::from_millis(agent.engine.config().debounce_ms).max(SHORTEST)
}

/// What has been seen of interfaces that look free, by index.
#[derive(Debug, Default)]
struct Watched {
    since: HashMap<u32, (Facts, Instant)>,
    failed: HashMap<u32, Instant>,
}

impl Watched {
    /// Of what is free now, what has been exactly so for `debounce`; the rest is watched on.
    fn ripe(&mut self, free: Vec<Facts>, now: Instant, debounce: Duration) -> Vec<Facts> {
        let (mut before, mut ripe) = (std::mem::take(&mut self.since), Vec::new());
        self.failed.retain(|_, at| now.duration_since(*at) < AGAIN);
        for facts in free {
            if self.failed.contains_key(&facts.index) {
                continue;
            }
            match before.remove(&facts.index) {
                Some((seen, since)) if seen == facts => {
                    if now.duration_since(since) >= debounce {
                        ripe.push(facts);
                    } else {
                        self.since.insert(facts.index, (seen, since));
                    }
                }
                _ => {
                    self.since.insert(facts.index, (facts, now));
                }
            }
        }
        ripe
    }

    /// How long until the next is ripe.
    fn next(&self, now: Instant, debounce: Duration) -> Duration {
        let left = |since: &Instant| debounce.saturating_sub(now.duration_since(*since));
        self.since.values().map(|(_, since)| left(since)).min().unwrap_or(PATROL)
    }
}

/// One look: what has vanished goes, what is ripe comes. Returns when to look again.
fn look(agent: &Agent, mut watched: Watched) -> Result<(Watched, Duration), Failure> {
    let engine = &agent.engine;
    let vanished = engine.detach_vanished().map_err(Failure::new)?;
    for record in &vanished.detached {
        tracing::info!(
            container = %record.key.container, port = %record.port,
            "unplugged: the interface is gone"
        );
    }
    for error in &vanished.failed {
        tracing::warn!("{}", sentence(error));
    }
    let looked = engine.look(false).map_err(Failure::new)?;
    let free = looked
        .into_iter()
        .filter(|(_, verdict)| *verdict == Verdict::Free)
        .map(|(facts, _)| facts)
        .collect();
    let debounce = debounce(agent);
    let ripe = watched.ripe(free, Instant::now(), debounce);
    if !ripe.is_empty() {
        let results = engine.adopt(&monitored(engine.config()), &ripe).map_err(Failure::new)?;
        for (facts, result) in ripe.iter().zip(results) {
            match result {
                Ok(record) => tracing::info!(
                    container = %record.key.container, port = %record.port,
                    "plugged {} into {}", facts.name, record.bridge
                ),
                Err(error) => {
                    tracing::warn!("{} is not plugged in: {}", facts.name, sentence(&error));
                    watched.failed.insert(facts.index, Instant::now());
                }
            }
        }
    }
    let next = watched.next(Instant::now(), debounce);
    Ok((watched, next))
}

#[cfg(test)]
mod tests {
    use shared::attachment::Behind;

    use super::*;

    const DEBOUNCE: Duration = Duration::from_millis(500);

    fn facts(index: u32, name: &str) -> Facts {
        Facts {
            index,
            name: name.parse().unwrap(),
            mac: None,
            included: true,
            behind: Behind::Here,
            ours: false,
            switch: None,
            master: None,
            addressed: false,
            routed: false,
            left: None,
        }
    }

    #[test]
    fn what_stays_the_same_is_taken_after_the_debounce() {
        let (start, mut watched) = (Instant::now(), Watched::default());
        assert_eq!(watched.next(start, DEBOUNCE), PATROL);
        assert!(watched.ripe(vec![facts(1, "veth1")], start, DEBOUNCE).is_empty());
        assert_eq!(watched.next(start, DEBOUNCE), DEBOUNCE);
        let soon = start + DEBOUNCE / 2;
        assert!(watched.ripe(vec![facts(1, "veth1")], soon, DEBOUNCE).is_empty());
        assert_eq!(watched.next(soon, DEBOUNCE), DEBOUNCE / 2);
        let then = start + DEBOUNCE;
        assert_eq!(watched.ripe(vec![facts(1, "veth1")], then, DEBOUNCE), [facts(1, "veth1")]);
        assert_eq!(watched.next(then, DEBOUNCE), PATROL);
    }

    #[test]
    fn any_change_begins_the_wait_anew() {
        let (start, mut watched) = (Instant::now(), Watched::default());
        watched.ripe(vec![facts(1, "veth1"), facts(2, "veth2")], start, DEBOUNCE);
        let then = start + DEBOUNCE;
        // One was renamed, the other was somebody's for a moment.
        assert!(watched.ripe(vec![facts(1, "veth9")], then, DEBOUNCE).is_empty());
        let both = vec![facts(1, "veth9"), facts(2, "veth2")];
        assert!(watched.ripe(both.clone(), then + DEBOUNCE / 2, DEBOUNCE).is_empty());
        assert_eq!(watched.ripe(both, then + DEBOUNCE, DEBOUNCE), [facts(1, "veth9")]);
    }

    #[test]
    fn what_failed_is_left_for_a_while() {
        let (start, mut watched) = (Instant::now(), Watched::default());
        watched.failed.insert(1, start);
        assert!(watched.ripe(vec![facts(1, "veth1")], start, DEBOUNCE).is_empty());
        assert_eq!(watched.next(start, DEBOUNCE), PATROL);
        watched.ripe(vec![facts(1, "veth1")], start + AGAIN, DEBOUNCE);
        assert_eq!(watched.since.len(), 1);
    }
}
