//! `ovs-agent-docker`: Docker's networks on Open vSwitch, a NetworkDriver and IpamDriver.

mod api;
mod driver;
mod error;
mod forward;
mod ipam;
#[cfg(any(test, feature = "laws"))]
pub mod laws;
mod message;
mod network;
mod options;
mod server;
mod socket;
mod store;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use hyper_util::server::graceful::GracefulShutdown;
use shared::attachment::Engine;
use shared::config::{self, Config};
use shared::error::sentence;
use shared::journal::Journal;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::api::Api;
use crate::driver::{Driver, LEAVING};
use crate::error::Error;
use crate::server::{Server, blocking};

/// Between two looks for what dockerd has forgotten.
const SWEEP: Duration = Duration::from_secs(30);

/// Between two tries to put back what a reboot took.
const RETRY: Duration = Duration::from_secs(1);

/// From the first Join of a storm to the question what the containers are called: dockerd knows
/// once it has started them.
const SETTLE: Duration = Duration::from_millis(500);

/// How long calls are accepted that came before the socket was removed.
const LAST_CALLS: Duration = Duration::from_millis(50);

/// Docker's networks on Open vSwitch: `docker network create -d ovs-agent`.
///
/// What `ovs-port-agent status` calls Docker's containers is asked of dockerd at /var/run/docker.sock,
/// or where DOCKER_HOST=unix://… says.
#[derive(Debug, Parser)]
#[command(name = "ovs-agent-docker", version, max_term_width = 100)]
struct Arguments {
    /// Configuration file; without it /etc/ovs-port-agent/config.toml, if that exists.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Where dockerd looks for the driver; the file's name is the driver's.
    #[arg(long, value_name = "SOCKET", default_value = "/run/docker/plugins/ovs-agent.sock")]
    socket: PathBuf,

    /// Where networks, endpoints and pools are kept.
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/lib/ovs-port-agent/docker")]
    state: PathBuf,
}

/// Logs to the journal where systemd has connected us with it, else to stderr.
fn log() {
    let level = tracing::Level::INFO;
    let stream = std::env::var("JOURNAL_STREAM").ok();
    let set = match Journal::behind(io::stderr(), stream.as_deref(), "ovs-agent-docker", level) {
        Some(journal) => tracing::subscriber::set_global_default(journal),
        None => tracing::subscriber::set_global_default(
            tracing_subscriber::fmt()
                .with_writer(io::stderr)
                .with_target(false)
                .with_max_level(level)
                .finish(),
        ),
    };
    // There is none before this one.
    drop(set);
}

/// Reads the arguments and serves until it is told to end.
pub fn main() -> ExitCode {
    log();
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nowhere is left to report that stderr cannot be written.
            drop(writeln!(io::stderr(), "ovs-agent-docker: {failure}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let path = arguments.config.as_deref().unwrap_or(Path::new(config::DEFAULT_PATH));
    let config = Config::load(path, Path::new(config::SYSFS)).map_err(|e| sentence(&e))?;
    let driver = Driver::open(Engine::new(config), &arguments.state).map_err(|e| sentence(&e))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    let served = runtime.block_on(serve(Arc::new(Server::new(driver)), &arguments.socket));
    // A sweep under way may be left: the next one finds the same.
    runtime.shutdown_timeout(Duration::from_secs(1));
    served.map_err(|error| format!("cannot serve {}: {error}", arguments.socket.display()))
}

async fn serve(server: Arc<Server>, path: &Path) -> io::Result<()> {
    let listener = UnixListener::from_std(socket::listen(path)?)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let calls = Arc::new(GracefulShutdown::new());
    let serving = tokio::spawn(Arc::clone(&server).serve(listener, Arc::clone(&calls)));
    tokio::spawn(keep(Arc::clone(&server)));
    let this = Arc::clone(&server);
    std::thread::Builder::new()
        .name("forward".into())
        .spawn(move || forward::keep(this.driver()))?;
    match Api::at(std::env::var_os("DOCKER_HOST").as_deref()) {
        Some(api) => drop(tokio::spawn(listen(Arc::clone(&server), api))),
        None => {
            tracing::warn!("DOCKER_HOST is no unix:// socket: containers are shown by their ids")
        }
    }
    socket::notify("READY=1")?;
    tracing::info!("serving {}", path.display());
    std::future::poll_fn(|context| {
        match (terminate.poll_recv(context), interrupt.poll_recv(context)) {
            (std::task::Poll::Pending, std::task::Poll::Pending) => std::task::Poll::Pending,
            _ => std::task::Poll::Ready(()),
        }
    })
    .await;
    socket::notify("STOPPING=1")?;
    std::fs::remove_file(path)?;
    // Who had connected by then is still heard; dockerd would repeat a lost call without its body.
    tokio::time::sleep(LAST_CALLS).await;
    serving.abort();
    // Its end, whichever way, is what lets go of the other share of `calls`.
    drop(serving.await);
    // What was begun is ended and answered: dockerd would forget it.
    if let Some(calls) = Arc::into_inner(calls) {
        drop(tokio::time::timeout(server::DEADLINE, calls.shutdown()).await);
    }
    Ok(())
}

/// Puts back what a reboot took, and clears away what dockerd forgets.
async fn keep(server: Arc<Server>) {
    let mut restored = false;
    let mut trouble = None;
    loop {
        let (why, leaving) = match look_after(&server, restored).await {
            Ok((missing, leaving)) => {
                restored = missing.is_empty();
                ((!restored).then(|| missing.join("; ")), leaving)
            }
            Err(error) => (Some(sentence(&error)), false),
        };
        // Said once: a bridge may be away for long.
        if let Some(why) = why.as_ref().filter(|why| trouble.as_ref() != Some(*why)) {
            tracing::warn!("will be tried again: {why}");
        }
        trouble = why;
        let pause = match (restored, leaving) {
            (false, _) => RETRY,
            (true, true) => LEAVING,
            (true, false) => SWEEP,
        };
        if tokio::time::timeout(pause, server.activated()).await.is_ok() {
            // It writes its own rules meanwhile.
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Returns why networks are not there yet, a sentence each: one that cannot be put back keeps
/// nothing else from being cleared away. And whether to look again after [`LEAVING`].
async fn look_after(server: &Arc<Server>, restored: bool) -> Result<(Vec<String>, bool), Error> {
    let mut missing = Vec::new();
    if !restored {
        let this = Arc::clone(server);
        for id in blocking(move || this.driver().restore()).await? {
            let named = id.clone();
            let put_back = server.between_networks(move |driver| driver.restore_network(&id)).await;
            missing.extend(put_back.err().map(|e| format!("network {named}: {}", sentence(&e))));
        }
    }
    let this = Arc::clone(server);
    let leaving = blocking(move || this.driver().sweep()).await?;
    server.between_networks(Driver::sweep_networks).await?;
    Ok((missing, leaving))
}

/// Keeps what dockerd tells over its API: asks soon after a Join, until all containers have names,
/// and now and then, as a container may be renamed, or a network removed while nobody served.
async fn listen(server: Arc<Server>, api: Api) {
    let mut pause = SETTLE;
    let mut trouble = None;
    loop {
        let heard = hear(&server, &api).await;
        // Said once: dockerd may be away for long.
        let why = heard.as_ref().err().map(|error| sentence(error));
        if let Some(why) = why.as_ref().filter(|why| trouble.as_ref() != Some(*why)) {
            tracing::warn!("containers are shown by their ids: {why}");
        }
        trouble = why;
        pause = if heard.unwrap_or(false) { SWEEP } else { (pause * 2).min(SWEEP) };
        if tokio::time::timeout(pause, server.joined()).await.is_ok() {
            pause = SETTLE;
            tokio::time::sleep(SETTLE).await;
        }
    }
}

/// Asks once. True if nothing that is plugged in lacks a name.
async fn hear(server: &Arc<Server>, api: &Api) -> Result<bool, Error> {
    let this = Arc::clone(server);
    let used = blocking(move || this.driver().used()).await?;
    if !used {
        return Ok(true);
    }
    let (containers, networks) = (api.containers().await?, api.networks().await?);
    server.between_networks(move |driver| driver.forget_networks_but(&networks)).await?;
    let this = Arc::clone(server);
    blocking(move || this.driver().name(&containers)).await
}
