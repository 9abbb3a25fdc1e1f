//! A real Docker daemon, for what it does to the packet filter.

use std::time::Duration;

use crate::command::Command;
use crate::daemon::Daemon;
use crate::host::Host;

const SOCKET: &str = "unix:///run/docker.sock";
const READY: Duration = Duration::from_secs(60);

/// dockerd on one host; its rules stay after it has ended, as on any host.
#[derive(Debug)]
pub struct Dockerd {
    daemon: Daemon,
}

impl Dockerd {
    /// Starts it and waits until it answers.
    pub(crate) fn start(_host: &Host) -> Self {
        let command = Command::new("dockerd").args([
            "--data-root=/run/rig/docker/data",
            "--exec-root=/run/rig/docker/exec",
            "--pidfile=/run/rig/docker.pid",
            "--host=unix:///run/docker.sock",
            "--storage-driver=vfs",
        ]);
        let this = Self { daemon: Daemon::start("dockerd", command) };
        this.daemon
            .ready(READY, || Command::new("docker").args(["-H", SOCKET, "info"]).output().ok());
        this
    }

    /// Runs `docker`, arguments separated by blanks; panics unless it succeeds.
    pub fn run(&self, args: &str) -> String {
        Command::new("docker").args(["-H", SOCKET]).args(args.split_whitespace()).run()
    }

    /// Ends it in good order; its rules stay.
    pub fn stop(self) {
        self.daemon.terminate(READY);
    }
}
