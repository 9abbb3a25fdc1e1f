//! `ovs-agent-docker`: Docker's networks on Open vSwitch, a NetworkDriver and IpamDriver.

mod driver;
mod error;
mod ipam;
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
use std::time::{Duration, Instant};

use clap::Parser;
use shared::attachment::Engine;
use shared::config::{self, Config};
use shared::error::sentence;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::driver::Driver;
use crate::server::Server;

/// Between two looks for what dockerd has forgotten.
const SWEEP: Duration = Duration::from_secs(30);

/// Between two tries to put back what a reboot took.
const RETRY: Duration = Duration::from_secs(1);

/// Docker's networks on Open vSwitch: `docker network create -d ovs-agent`.
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

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_target(false)
        .with_max_level(tracing::Level::INFO)
        .init();
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
    let serving = tokio::spawn(Arc::clone(&server).serve(listener));
    tokio::spawn(keep(Arc::clone(&server)));
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
    serving.abort();
    std::fs::remove_file(path)?;
    // What was begun is ended: dockerd would forget it.
    let end = Instant::now() + server::DEADLINE;
    while server.busy() > 0 && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Puts back what a reboot took, then clears away what dockerd forgets.
async fn keep(server: Arc<Server>) {
    let mut restored = false;
    loop {
        let this = Arc::clone(&server);
        let work = move || {
            let result = if restored { Ok(()) } else { this.driver().restore() };
            result.and_then(|()| this.driver().sweep())
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(())) => restored = true,
            Ok(Err(error)) => tracing::warn!(error = %sentence(&error), "will be tried again"),
            Err(error) => tracing::error!(%error, "the sweep broke off"),
        }
        tokio::time::sleep(if restored { SWEEP } else { RETRY }).await;
    }
}
