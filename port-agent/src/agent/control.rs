//! The control socket: what other processes of ours ask of the agent ([`shared::control`]).

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::control::{AWAKE, Answer, LINE_MAX, Refusal};
use shared::error::{Fault, Kind};
use shared::key::Key;
use shared::nat::Plan;
use shared::{link, publish, socket};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::Agent;
use crate::Failure;

/// How long a caller may take to say what it wants, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Callers at once, most of whom have said nothing yet: each costs a descriptor.
const CALLERS: usize = 256;

/// Conversations at once: each may hold a line of [`LINE_MAX`] bytes.
const CONVERSATIONS: usize = 32;

/// Between two tries to accept a call when none can be.
const PAUSE: Duration = Duration::from_millis(100);

/// What can be asked.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Request {
    /// Ports of an attachment.
    Publish(publish::Request),
    /// An attachment is going.
    Withdraw(Key),
    /// What is published, and how it fares.
    Ports(()),
    /// Our nftables table as planned, or no more.
    Table(Option<Plan>),
    /// A link is to go.
    Unlink(link::Unlink),
}

/// Serves until the agent stops.
pub(crate) async fn serve(agent: Arc<Agent>) -> Result<(), Failure> {
    let path = agent.engine.state().control();
    let failed = |error| Failure::Work(format!("cannot listen on {}: {error}", path.display()));
    let listener = listen(&path).map_err(failed)?;
    agent.health.well("control");
    let free = Arc::new(Semaphore::new(CALLERS));
    let turns = Arc::new(Semaphore::new(CONVERSATIONS));
    loop {
        let accepted = tokio::select! {
            () = agent.stopped() => return Ok(()),
            Ok(place) = Arc::clone(&free).acquire_owned() => tokio::select! {
                () = agent.stopped() => return Ok(()),
                accepted = listener.accept() => accepted.map(|(stream, _)| (stream, place)),
            },
        };
        match accepted {
            Ok((stream, place)) => {
                let (agent, turns) = (Arc::clone(&agent), Arc::clone(&turns));
                tokio::spawn(async move {
                    converse(&agent, &turns, stream).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::error!(%error, "a call on the control socket is lost");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Bound under another name and then given its own. The caller holds the claim that no other agent
/// runs, so what has the name is dead.
fn listen(path: &Path) -> std::io::Result<UnixListener> {
    let unnamed = path.with_extension("new");
    match fs::remove_file(&unnamed) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = socket::listen(&unnamed)?;
    fs::rename(&unnamed, path)?;
    UnixListener::from_std(listener)
}

/// One question, one answer. A caller that goes away has had its answer; one that says nothing takes
/// nobody's turn.
async fn converse(agent: &Arc<Agent>, turns: &Semaphore, mut stream: UnixStream) {
    if !matches!(timeout(PATIENCE, stream.write_all(AWAKE)).await, Ok(Ok(()))) {
        tracing::debug!("who asked has gone; what it asked is done all the same");
    }
    if !matches!(timeout(PATIENCE, stream.readable()).await, Ok(Ok(()))) {
        return;
    }
    let Ok(_turn) = turns.acquire().await else { return };
    let (reader, mut writer) = stream.split();
    let limit = u64::try_from(LINE_MAX).unwrap_or(u64::MAX);
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(limit));
    match timeout(PATIENCE, reader.read_line(&mut line)).await {
        // Somebody who only looked whether we are there.
        Ok(Ok(0)) | Err(_) => return,
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "a question cannot be read");
            return;
        }
    }
    let answer = match answer(agent, &line).await {
        Ok(value) => Answer::Ok(value),
        Err(refusal) => Answer::Error(refusal),
    };
    let mut text = serde_json::to_string(&answer).unwrap_or_default();
    text.push('\n');
    if let Ok(Err(error)) = timeout(PATIENCE, writer.write_all(text.as_bytes())).await {
        tracing::debug!(%error, "an answer was not taken");
    }
}

async fn answer(agent: &Arc<Agent>, line: &str) -> Result<Value, Refusal> {
    let request = serde_json::from_str(line).map_err(|error| Refusal {
        kind: Kind::Unsupported,
        text: format!("the running ovs-port-agent does not understand: {error}"),
        hint: Some("restart it after an update: systemctl restart ovs-port-agent".to_owned()),
    })?;
    match request {
        Request::Publish(request) => value(agent.publisher.publish(agent, request).await),
        Request::Withdraw(key) => value(agent.publisher.withdraw(agent, key).await),
        Request::Ports(()) => Ok(json(&agent.publisher.list().await)),
        Request::Unlink(unlink) => value(agent.call(move |_| unlink.run()).await),
        Request::Table(plan) => value(
            agent
                .call(move |agent| {
                    let mut writer = agent.rules.writer();
                    match &plan {
                        Some(plan) => writer.apply(&agent.engine.state(), plan),
                        None => writer.remove(),
                    }
                })
                .await,
        ),
    }
}

fn value<T: Serialize, E: Fault>(result: Result<T, E>) -> Result<Value, Refusal> {
    result.map(|value| json(&value)).map_err(|error| Refusal::of(&error))
}

fn json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}
