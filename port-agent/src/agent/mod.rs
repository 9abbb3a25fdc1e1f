//! `run`: the daemon of the host. One runtime, and the parts, each started again when it fails.

mod bus;
mod collector;
mod control;
mod health;
mod keeper;
mod ledger;
mod memory;
mod metrics;
mod mirror;
mod monitor;
mod publisher;
mod refusal;
mod report;
mod rules;

use std::future::Future;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use shared::attachment::{Engine, Picture};
use shared::config::{Config, NetworkManager};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::Failure;
use crate::agent::health::Health;
use crate::agent::publisher::Publisher;
use crate::agent::rules::Rules;

/// Between two tries to start a part that failed; twice as long each time, up to [`LONGEST`].
const RETRY: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(5);

/// Whoever starts after us (Docker) waits so long for a host that cannot be brought up: a boot
/// must not hang on one bridge.
const PATIENCE: Duration = Duration::from_secs(20);

/// What was begun when the agent is told to stop may take so long to end.
const GRACE: Duration = Duration::from_secs(5);

/// Threads for the engine's calls at most; each part needs one or two.
const THREADS: usize = 32;

/// An idle thread is given back after this.
const IDLE: Duration = Duration::from_secs(5);

/// What every part shares.
#[derive(Debug)]
pub(crate) struct Agent {
    /// The engine; its calls block, see [`Agent::work`].
    pub(crate) engine: Engine,
    /// What is wrong with which part.
    pub(crate) health: Health,
    /// The configuration file, if another than the usual one.
    pub(crate) config: Option<PathBuf>,
    /// The switch as the keeper saw it last, `None` until the host is up. A change is shown once
    /// its storm is over.
    pub(crate) picture: watch::Sender<Option<Arc<Picture>>>,
    /// A container's interface is gone.
    pub(crate) vanished: Notify,
    /// How many things had to be repaired.
    pub(crate) repairs: AtomicU64,
    /// Our nftables table.
    pub(crate) rules: Rules,
    /// The published ports.
    pub(crate) publisher: Publisher,
    stop: watch::Sender<bool>,
}

impl Agent {
    fn new(engine: Engine, config: Option<PathBuf>) -> Result<Self, Failure> {
        Ok(Self {
            rules: Rules::new(engine.config().protect_rules).map_err(Failure::new)?,
            engine,
            health: Health::default(),
            config,
            publisher: Publisher::default(),
            picture: watch::Sender::new(None),
            vanished: Notify::new(),
            repairs: AtomicU64::new(0),
            stop: watch::Sender::new(false),
        })
    }

    /// Whether the agent has been told to stop.
    pub(crate) fn stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Waits until the agent is told to stop.
    pub(crate) async fn stopped(&self) {
        // An error means that the sender is gone, which is ours.
        drop(self.stop.subscribe().wait_for(|stop| *stop).await);
    }

    /// Calls the engine on a thread of its own.
    pub(crate) async fn work<T: Send + 'static>(
        self: &Arc<Self>,
        call: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let agent = Arc::clone(self);
        let called = tokio::task::spawn_blocking(move || {
            let result = call(&agent);
            memory::give_back();
            result
        })
        .await;
        called.map_err(|broken| Failure::Work(format!("a call of the engine broke off: {broken}")))
    }

    /// [`Agent::work`] for whoever needs the engine's own error. A call that broke off breaks the
    /// caller off, too.
    pub(crate) async fn call<T: Send + 'static, E: Send + 'static>(
        self: &Arc<Self>,
        call: impl FnOnce(&Self) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let agent = Arc::clone(self);
        match tokio::task::spawn_blocking(move || call(&agent)).await {
            Ok(result) => result,
            Err(broken) => match broken.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is at its end, and so is the caller.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

/// Runs until SIGTERM or SIGINT; everything it keeps is whole at any moment.
pub(crate) fn run(config: Config, path: Option<PathBuf>) -> Result<ExitCode, Failure> {
    let engine = Engine::new(config);
    let Some(_claim) = engine.claim_agent().map_err(Failure::new)? else {
        return Err(Failure::Work("another ovs-port-agent runs already; stop it first".to_owned()));
    };
    memory::share();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(THREADS)
        .thread_keep_alive(IDLE)
        .build()
        .map_err(|error| Failure::Work(format!("cannot start a runtime: {error}")))?;
    let agent = Arc::new(Agent::new(engine, path)?);
    let served = runtime.block_on(serve(&agent));
    // Whatever is still at work by now was given its time.
    runtime.shutdown_background();
    served.map(|()| ExitCode::SUCCESS)
}

async fn serve(agent: &Arc<Agent>) -> Result<(), Failure> {
    let refused = |error| Failure::Work(format!("cannot listen to signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(refused)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(refused)?;
    let mut parts = JoinSet::new();
    // First, so that what the others have to write is written by us.
    parts.spawn(keep(Arc::clone(agent), "control", control::serve));
    parts.spawn(keep(Arc::clone(agent), keeper::PART, keeper::serve));
    parts.spawn(keep(Arc::clone(agent), ledger::PART, ledger::serve));
    parts.spawn(keep(Arc::clone(agent), bus::PART, bus::serve));
    if agent.engine.config().network_manager == NetworkManager::Mirror {
        parts.spawn(keep(Arc::clone(agent), mirror::PART, mirror::serve));
    }
    parts.spawn(keep(Arc::clone(agent), "publisher", publisher::serve));
    parts.spawn(keep(Arc::clone(agent), "rules", rules::serve));
    parts.spawn(keep(Arc::clone(agent), "metrics", metrics::serve));
    parts.spawn(keep(Arc::clone(agent), report::PART, report::serve));
    parts.spawn(keep(Arc::clone(agent), monitor::PART, monitor::serve));
    parts.spawn(keep(Arc::clone(agent), collector::PART, collector::serve));
    let patient = Arc::clone(agent);
    parts.spawn(async move {
        tokio::select! {
            () = sleep(PATIENCE) => patient.health.ready(),
            () = patient.stopped() => {}
        }
    });
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    agent.health.stopping();
    agent.stop.send_replace(true);
    if timeout(GRACE, async { while parts.join_next().await.is_some() {} }).await.is_err() {
        tracing::warn!("a part is still at work after {} s, and is left there", GRACE.as_secs());
    }
    Ok(())
}

/// Waits until there is something to read. In between the socket is nobody's: whatever arrives
/// while a storm is waited for wakes nobody.
async fn readable(socket: BorrowedFd<'_>) -> Result<(), Failure> {
    let failed = |error| Failure::Work(format!("cannot wait for news: {error}"));
    // SAFETY: what is borrowed stays open, and the same, for as long as it is.
    let ready = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    let ready = ready.map_err(|error| failed(error.into()))?;
    ready.readable().await.map(drop).map_err(failed)
}

/// Starts a part, and starts it again whenever it ends: a part that fails is said in the log and
/// in the service's status, and never takes the others with it.
async fn keep<F>(agent: Arc<Agent>, part: &'static str, serve: impl Fn(Arc<Agent>) -> F)
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    agent.health.starts(part);
    let mut pause = RETRY;
    loop {
        let begun = Instant::now();
        // As a task of its own, so that a panic is an end like any other.
        let end = tokio::spawn(serve(Arc::clone(&agent))).await;
        if agent.stopping() {
            return;
        }
        let why = match end {
            Ok(Ok(())) => "it ended, though nobody asked it to".to_owned(),
            Ok(Err(failure)) => failure.to_string(),
            Err(broken) => format!("it broke off: {broken}"),
        };
        agent.health.trouble(part, why);
        pause = if begun.elapsed() > LONGEST { RETRY } else { (pause * 2).min(LONGEST) };
        tokio::select! {
            () = sleep(pause) => {}
            () = agent.stopped() => return,
        }
    }
}
