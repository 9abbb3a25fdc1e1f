//! The monitor: interfaces that `include_prefixes` names and that are clearly nobody's plug
//! themselves in, and out again when they vanish.
//!
//! Whoever makes an interface often moves, addresses or enslaves it a moment later. So what looks
//! free is looked at again `debounce_ms` later, and taken only if every fact is still the same.

use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::sys::AsyncSocket as _;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use shared::attachment::{Facts, Verdict};
use shared::error::sentence;
use shared::link::HOST_END_GROUP;
use shared::link::filter::{self, Gone};
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
    let (mut connection, _handle, mut news) =
        new_multicast_connection(&[MulticastGroup::Link]).map_err(|error| not_followed(&error))?;
    filter::attach(connection.socket_mut().socket_ref().as_fd(), Gone::Heard)
        .map_err(|error| not_followed(&error))?;
    // Ends with this part, however it ends.
    let mut following = JoinSet::new();
    following.spawn(connection);
    // Before the host is up: what comes from here on is new.
    agent.work(|agent| agent.engine.mark_older()).await?.map_err(Failure::new)?;
    let mut picture = agent.picture.subscribe();
    tokio::select! {
        up = picture.wait_for(Option::is_some) => drop(up),
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
                    Ok((message, _)) => match heard(&message.payload) {
                        Heard::Gone(port) if is_adopted(&agent, port.as_deref()) => break,
                        Heard::Gone(_) => agent.vanished.notify_one(),
                        Heard::Link => break,
                        Heard::Nothing => {}
                    },
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

fn not_followed(error: &std::io::Error) -> Failure {
    Failure::Work(format!("the kernel's links cannot be followed: {error}"))
}

/// What a message says.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// An interface that may be one for us came, changed or went.
    Link,
    /// The interface of a port of ours, of that name, is gone.
    Gone(Option<String>),
    /// Nothing for us: the host ends of containers are none, as long as they live.
    Nothing,
}

fn heard(payload: &NetlinkPayload<RouteNetlinkMessage>) -> Heard {
    let in_our_group = |link: &LinkMessage| {
        link.attributes.iter().any(|a| matches!(a, LinkAttribute::Group(HOST_END_GROUP)))
    };
    match payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) if in_our_group(link) => {
            Heard::Nothing
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) if in_our_group(link) => {
            Heard::Gone(link.attributes.iter().find_map(|a| match a {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            }))
        }
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::DelLink(_),
        ) => Heard::Link,
        // The kernel had no room for all of it.
        NetlinkPayload::Overrun(_) | NetlinkPayload::Error(_) => Heard::Link,
        _ => Heard::Nothing,
    }
}

/// Whether a port that lost its interface is for us to unplug. A container's is its runtime's, and
/// the collector's if that is gone.
fn is_adopted(agent: &Agent, port: Option<&str>) -> bool {
    let picture = agent.picture.borrow();
    let known = |name| picture.as_ref().and_then(|picture| picture.ports.get(&name));
    // One that the keeper has still to see may be.
    port.and_then(|name| name.parse().ok()).and_then(known).is_none_or(|port| port.adopted)
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
