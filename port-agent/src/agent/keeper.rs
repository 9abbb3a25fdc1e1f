//! The keeper: brings the host up and keeps it so, and keeps the managed block. It sleeps until the
//! switch or the kernel says something, or somebody writes the interfaces file anew.

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use shared::attachment::{Engine, Picture};
use shared::error::sentence;
use shared::key::Key;
use shared::network::host::{Kept, Step};
use shared::news::{Heard, News};
use shared::{link, ovsdb};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Agent, readable};
use crate::{Failure, host, uplink};

/// Its name in the log and in the service's status.
pub(crate) const PART: &str = "keeper";

/// Between two tries to reach ovsdb-server, or to repair what could not be repaired.
const RETRY: Duration = Duration::from_secs(1);

/// Between two looks at the host when nothing was heard of it: settings and iptables-legacy rules
/// come and go unheard.
const PATROL: Duration = Duration::from_secs(30);

/// A storm of the kernel's news may gather for so long.
const GATHER: Duration = Duration::from_millis(100);

/// Between two repairs at least: whoever makes and removes links all the time does not keep us busy.
const SPACING: Duration = Duration::from_millis(500);

/// What there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// The switch has changed: show it, and plug in again what it has lost.
    Switch,
    /// The kernel said something.
    Host,
    /// Nobody said anything for long.
    Patrol,
    /// Somebody wrote the interfaces file.
    File,
    /// Nobody listened for a while: everything.
    All,
}

/// How the host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// As it should be.
    Whole,
    /// So but for a part that is refused: what would change that is heard of.
    InPart,
    /// Otherwise: to be tried again.
    Troubled,
}

/// Serves until the agent stops.
pub(crate) async fn serve(agent: Arc<Agent>) -> Result<(), Failure> {
    let mut kernel = link::Watch::open().map_err(Failure::new)?;
    let begun = agent.work(|agent| host::begin(&agent.engine)).await??;
    say(&begun.steps);
    let mut state = judge(&agent, &begun);
    if state == State::Whole {
        tracing::info!("the host is up");
    }
    agent.health.ready();
    let config = agent.engine.config();
    let debounce = Duration::from_millis(config.debounce_ms);
    let file = News::beside(&config.interfaces_path, Heard::Files).map_err(Failure::new)?;
    let mut written = None;
    let mut switch = None;
    let (mut patrol, mut repaired) = (Instant::now(), Instant::now());
    let mut took = Duration::ZERO;
    while !agent.stopping() {
        // Without the directory nothing is heard: the next patrol listens again.
        drop(file.listen());
        let rewritten = written != identity(&config.interfaces_path);
        let due = match &mut switch {
            None => {
                match agent.call(|agent| ovsdb::Watch::open(&agent.engine.config().ovsdb)).await {
                    Ok(opened) => {
                        switch = Some(opened);
                        Due::All
                    }
                    Err(error) => {
                        agent.health.trouble(PART, not_followed(&error));
                        state = State::Troubled;
                        pause(&agent, RETRY).await;
                        continue;
                    }
                }
            }
            Some(news) => tokio::select! {
                heard = readable(news.as_fd()) => {
                    heard?;
                    // What takes long is not done for each change by itself.
                    let calm = (debounce / 4).max(took * 4).min(debounce);
                    match storm(&agent, news, debounce, calm).await {
                        Ok(true) => Due::Switch,
                        Ok(false) => continue,
                        Err(error) => {
                            agent.health.trouble(PART, not_followed(&error));
                            state = State::Troubled;
                            switch = None;
                            continue;
                        }
                    }
                }
                heard = readable(kernel.as_fd()) => {
                    heard?;
                    // What does not concern us is no news.
                    if !heard_of(&mut kernel) {
                        continue;
                    }
                    pause(&agent, GATHER.max(SPACING.saturating_sub(repaired.elapsed()))).await;
                    Due::Host
                }
                // Our own writes are heard as well.
                heard = readable(file.as_fd()), if !rewritten => {
                    heard?;
                    continue;
                }
                () = pause(&agent, debounce / 4), if rewritten => Due::File,
                () = sleep_until(patrol) => Due::Patrol,
                () = agent.stopped() => continue,
            },
        };
        let due = if state == State::Troubled { Due::All } else { due };
        if matches!(due, Due::Host | Due::Patrol | Due::All) {
            // Whatever comes from here on is news again.
            heard_of(&mut kernel);
        }
        let begun = Instant::now();
        let now = switch.as_ref().filter(|_| due == Due::Switch).map(Picture::of);
        state = match agent.work(move |agent| tend(agent, due, now)).await? {
            Ok(Some(kept)) => judge(&agent, &kept),
            // A look at ports or the file says nothing of what was refused.
            Ok(None) if state == State::InPart => state,
            Ok(None) => well(&agent),
            Err(Trouble::Host(why)) => {
                agent.health.trouble(PART, why);
                State::Troubled
            }
            Err(Trouble::Anew(failure)) => return Err(failure),
        };
        written = identity(&config.interfaces_path);
        match due {
            Due::Switch => took = begun.elapsed(),
            Due::File => {}
            Due::Host | Due::Patrol | Due::All => {
                repaired = Instant::now();
                patrol = repaired + PATROL;
            }
        }
        if state == State::Troubled {
            patrol = Instant::now() + RETRY;
        }
    }
    Ok(())
}

/// Which file has the name, and since when it is as it is.
fn identity(path: &Path) -> Option<(u64, i64, i64)> {
    let found = fs::metadata(path).ok()?;
    Some((found.ino(), found.mtime(), found.mtime_nsec()))
}

/// Takes the kernel's news; true if there is any.
fn heard_of(kernel: &mut link::Watch) -> bool {
    kernel.drain().unwrap_or_else(|error| {
        tracing::warn!(error = %sentence(&error), "the kernel cannot be followed");
        true
    })
}

/// How the host is after that, told.
fn judge(agent: &Agent, kept: &Kept) -> State {
    let why: Vec<_> = kept.failed.iter().chain(&kept.refused).map(String::as_str).collect();
    if why.is_empty() {
        return well(agent);
    }
    agent.health.trouble(PART, not_whole(&why.join("; ")));
    if kept.failed.is_empty() { State::InPart } else { State::Troubled }
}

fn well(agent: &Agent) -> State {
    agent.health.well(PART);
    State::Whole
}

fn not_whole(why: &str) -> String {
    format!("the host is not as it should be: {why}")
}

fn not_followed(error: &ovsdb::Error) -> String {
    format!("Open vSwitch cannot be followed: {}", sentence(error))
}

async fn pause(agent: &Agent, time: Duration) {
    tokio::select! {
        () = sleep(time) => {}
        () = agent.stopped() => {}
    }
}

/// Waits until a storm of changes is over. The first of them is shown within `debounce_ms`, the
/// last one soon after it. False if nothing has changed.
async fn storm(
    agent: &Agent,
    news: &mut ovsdb::Watch,
    debounce: Duration,
    calm: Duration,
) -> Result<bool, ovsdb::Error> {
    if !news.drain()? {
        return Ok(false);
    }
    let end = Instant::now() + debounce;
    while Instant::now() < end {
        pause(agent, calm).await;
        if !news.drain()? {
            break;
        }
    }
    Ok(true)
}

/// Why the host is not as it should be.
enum Trouble {
    /// One sentence.
    Host(String),
    /// The configuration is another one by now.
    Anew(Failure),
}

/// Puts right what is to be put right, and shows the switch as it is then. `now` is the switch where
/// that is what has changed. `None` if that was not the whole host.
fn tend(agent: &Agent, due: Due, now: Option<Picture>) -> Result<Option<Kept>, Trouble> {
    let engine = &agent.engine;
    if matches!(due, Due::Host | Due::Patrol | Due::All)
        && uplink::is_outdated(engine, agent.config.as_deref())
    {
        tracing::info!("an uplink was moved: beginning anew with the configuration as it is");
        let error = uplink::begin_anew();
        return Err(Trouble::Anew(Failure::Work(format!("cannot begin anew: {error}"))));
    }
    let known = agent.picture.borrow().clone();
    match (due, known) {
        (Due::Switch, Some(known)) => {
            let now = now.map_or_else(|| look(engine), Ok)?;
            let lost = lost(&known, &now);
            // A bridge takes its ports along.
            let whole = known.bridges.is_subset(&now.bridges);
            show(agent, now);
            if whole {
                plug_again(engine, &lost).map(|()| None)
            } else {
                repair(agent, true).map(Some)
            }
        }
        (Due::Host | Due::Patrol, Some(known)) => {
            let repaired = repair(agent, false);
            show_block(engine, &known);
            if due == Due::Patrol {
                plugged_again(host::restore_unseen(engine, &known))?;
            }
            repaired.map(Some)
        }
        (Due::File, Some(known)) => {
            if show_block(engine, &known) {
                let file = engine.config().interfaces_path.display();
                tracing::info!("somebody wrote {file}: the managed block is in it again");
            }
            Ok(None)
        }
        _ => {
            let repaired = repair(agent, true);
            show(agent, look(engine)?);
            repaired.map(Some)
        }
    }
}

fn look(engine: &Engine) -> Result<Picture, Trouble> {
    engine
        .picture()
        .map_err(|error| Trouble::Host(format!("the switch cannot be read: {}", sentence(&error))))
}

/// The attachments whose ports were there and are not.
fn lost(known: &Picture, now: &Picture) -> Vec<Key> {
    let gone = known.ports.values().filter(|port| !now.ports.contains_key(&port.port));
    gone.map(|port| port.key.clone()).collect()
}

/// Shows the switch to whoever wants to know.
fn show(agent: &Agent, now: Picture) {
    show_block(&agent.engine, &now);
    agent.picture.send_if_modified(|known| {
        let news = known.as_deref() != Some(&now);
        if news && let Some(known) = known {
            tell(known, &now);
        }
        if news {
            *known = Some(Arc::new(now));
        }
        news
    });
}

/// True if the block was another one.
fn show_block(engine: &Engine, now: &Picture) -> bool {
    engine.show_picture(now).unwrap_or_else(|error| {
        tracing::error!(error = %sentence(&error), "the managed block is out of date");
        false
    })
}

/// What came and what went, for the journal.
fn tell(before: &Picture, now: &Picture) {
    for (name, port) in &now.ports {
        if before.ports.get(name) != Some(port) {
            let (container, bridge) = (&port.key.container, &port.bridge);
            tracing::info!(%container, ifname = %port.key.ifname, port = %name, %bridge, "plugged in");
        }
    }
    for (name, port) in &before.ports {
        if !now.ports.contains_key(name) {
            let (container, bridge) = (&port.key.container, &port.bridge);
            tracing::info!(%container, ifname = %port.key.ifname, port = %name, %bridge, "unplugged");
        }
    }
}

/// Ports of containers that somebody removed: the kernel would not say.
fn plug_again(engine: &Engine, lost: &[Key]) -> Result<(), Trouble> {
    if lost.is_empty() { Ok(()) } else { plugged_again(host::restore(engine, lost)) }
}

fn plugged_again(restored: Result<Vec<Step>, String>) -> Result<(), Trouble> {
    match restored {
        Ok(steps) => {
            say(&steps);
            Ok(())
        }
        Err(why) => Err(Trouble::Host(format!("a port is lost: {why}"))),
    }
}

/// Makes the host what it should be; with `ports`, every port of every container, too.
fn repair(agent: &Agent, ports: bool) -> Result<Kept, Trouble> {
    let kept = host::repair(&agent.engine, ports).map_err(|why| Trouble::Host(not_whole(&why)))?;
    say(&kept.steps);
    let acts: usize = kept.steps.iter().map(|step| step.acts.len()).sum();
    agent.repairs.fetch_add(acts as u64, Ordering::Relaxed);
    Ok(kept)
}

/// What had to be done.
fn say(steps: &[Step]) {
    for step in steps.iter().filter(|step| !step.acts.is_empty()) {
        tracing::info!("{}: {}", step.what, step.acts.join(", "));
    }
}
