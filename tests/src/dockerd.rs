//! A real Docker daemon.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::{Command, Output, poll};
use crate::container::Container;
use crate::daemon::Daemon;
use crate::host::Host;
use crate::image;
use crate::isolation::DIR;

const SOCKET: &str = "unix:///run/docker.sock";
/// The client of the daemon's own age, whatever else is installed.
const CLIENT: &str = "/usr/bin/docker";
const READY: Duration = Duration::from_secs(60);

/// dockerd on one host; its rules stay after it has ended, as on any host.
#[derive(Debug)]
pub struct Dockerd {
    daemon: Daemon,
}

impl Dockerd {
    /// An image of busybox that sleeps unless told otherwise.
    pub const IMAGE: &str = image::NAME;

    /// Starts it with more options, and waits until it answers.
    pub(crate) fn start(_host: &Host, options: &[&str]) -> Self {
        let command = Command::new("dockerd")
            .args([
                "--data-root=/run/rig/docker/data",
                "--exec-root=/run/rig/docker/exec",
                "--pidfile=/run/rig/docker.pid",
                "--host=unix:///run/docker.sock",
                "--storage-driver=vfs",
            ])
            .args(options);
        let this = Self { daemon: Daemon::start("dockerd", command) };
        this.daemon
            .ready(READY, || Command::new(CLIENT).args(["-H", SOCKET, "info"]).output().ok());
        this
    }

    /// Runs `docker`, arguments separated by blanks; panics unless it succeeds.
    pub fn run(&self, args: &str) -> String {
        self.output(args).success().stdout
    }

    /// Runs `docker`, whatever its end.
    pub fn output(&self, args: &str) -> Output {
        Command::new(CLIENT)
            .args(["-H", SOCKET])
            .args(args.split_whitespace())
            .deadline(Duration::from_secs(120))
            .output()
    }

    /// Gives it the image that [`Dockerd::IMAGE`] names.
    pub fn load(&self) {
        let image = image::file().display().to_string();
        self.run(&format!("load -q -i {image}"));
    }

    /// One value of `docker inspect`.
    pub fn inspect(&self, name: &str, path: &str) -> String {
        self.run(&format!("inspect -f {{{{{path}}}}} {name}")).trim().to_owned()
    }

    /// The address of a container on a network.
    pub fn address(&self, network: &str, container: &str) -> IpAddr {
        let path = format!(".NetworkSettings.Networks.{network}.IPAddress");
        self.inspect(container, &path).parse().expect("an address")
    }

    /// Runs Compose on a file of this text, arguments separated by blanks, whatever its end.
    pub fn compose(&self, text: &str, args: &str) -> Output {
        let file = Path::new(DIR).join("compose.yaml");
        std::fs::write(&file, text).expect("write in /run");
        Command::new("docker-compose")
            .env("DOCKER_HOST", SOCKET)
            .env("IMAGE", image::NAME)
            .args(["-p", "lab", "-f"])
            .args([&file])
            .args(args.split_whitespace())
            .deadline(Duration::from_secs(120))
            .output()
    }

    /// Starts a container that sleeps, with `options` of `docker run`.
    pub fn start_container(&self, name: &str, options: &str) -> Container {
        self.run(&format!("run -d --name {name} {options} {}", Self::IMAGE));
        self.container(name)
    }

    /// The network namespace of a running container.
    pub fn container(&self, name: &str) -> Container {
        let pid = self.inspect(name, ".State.Pid");
        Container::of_process(name, pid.parse().expect("a process id"))
    }

    /// Kills it with SIGKILL, as a crash does, and the containerd it had started; containers go
    /// on.
    pub fn kill(self) {
        self.kill_daemon();
    }

    /// The same, while somebody waits for its answer.
    pub fn kill_daemon(&self) {
        self.daemon.kill();
        let file = "/run/rig/docker/exec/containerd/containerd.pid";
        let pid = std::fs::read_to_string(file).expect("dockerd has started containerd");
        let pid = Pid::from_raw(pid.trim().parse().expect("a process id"));
        // It may have died with dockerd.
        kill(pid, Signal::SIGKILL).ok();
        poll("containerd lives", READY, || kill(pid, None).is_err().then_some(()));
        std::fs::remove_file(file).ok();
    }

    /// Everything it logged.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Ends it in good order; its rules stay.
    pub fn stop(self) {
        self.daemon.terminate(READY);
    }
}
