//! One private host.

use std::marker::PhantomData;
use std::path::Path;
use std::sync::MutexGuard;

use crate::binary::{Plugin, PortAgent, binary};
use crate::command::{Command, Output};
use crate::container::Container;
use crate::docker_driver::DockerDriver;
use crate::dockerd::Dockerd;
use crate::isolation::Isolation;
use crate::podman::Podman;
use crate::snapshot::Snapshot;
use crate::switch::{Switch, vsctl};
use crate::traffic::EchoServer;
use crate::uplink::Uplink;

/// A private host: the calling thread, and every thread or process it starts, lives in namespaces
/// of its own until this is dropped.
///
/// It cannot be sent to another thread (the namespaces are the thread's) but can be shared with
/// scoped threads, which inherit them. Two hosts at once need two threads.
#[derive(Debug)]
pub struct Host {
    // Fields drop in this order: the switch ends before its namespaces do.
    switch: Option<Switch>,
    _isolation: Isolation,
    _thread: PhantomData<MutexGuard<'static, ()>>,
}

impl Host {
    /// A host with Open vSwitch running at its default paths and no bridge.
    pub fn new() -> Self {
        let mut host = Self::bare();
        host.switch = Some(Switch::start());
        host
    }

    /// A host where Open vSwitch does not run.
    pub fn bare() -> Self {
        let isolation = Isolation::enter();
        let host = Self { switch: None, _isolation: isolation, _thread: PhantomData };
        host.ip("link set lo up");
        host
    }

    /// Its Open vSwitch; panics on a [`Host::bare`] one.
    pub fn switch(&self) -> &Switch {
        self.switch.as_ref().expect("this host was made without Open vSwitch")
    }

    /// Runs a shell script (`sh -ec`); panics unless it succeeds. Returns its stdout.
    pub fn sh(&self, script: &str) -> String {
        self.try_sh(script).success().stdout
    }

    /// Runs a shell script (`sh -ec`), whatever its end.
    pub fn try_sh(&self, script: &str) -> Output {
        Command::new("sh").args(["-ec", script]).output()
    }

    /// Runs `ip`, arguments separated by blanks; panics unless it succeeds.
    pub fn ip(&self, args: &str) -> String {
        Command::new("ip").args(args.split_whitespace()).run()
    }

    /// Runs `ovs-vsctl`, arguments separated by blanks; panics unless it succeeds.
    pub fn vsctl(&self, args: &str) -> String {
        vsctl(&args.split_whitespace().collect::<Vec<_>>())
    }

    /// Makes a bridge on the userspace datapath, the only one every kernel has, and sets it up.
    pub fn bridge(&self, name: &str) {
        self.vsctl(&format!("add-br {name} -- set Bridge {name} datapath_type=netdev"));
        self.ip(&format!("link set {name} up"));
    }

    /// Makes a network namespace at `/run/netns/NAME`, its loopback up: a container to plug in.
    pub fn container(&self, name: &str) -> Container {
        Container::new(name)
    }

    /// Starts an echo server on the host itself: see [`Container::echo_server`].
    pub fn echo_server(&self) -> EchoServer {
        EchoServer::start("host")
    }

    /// Makes an interface `name` as if it were physical: its other end, in a namespace of its
    /// own, is the LAN router number `number` (1 to 250) with an internet behind it.
    pub fn uplink(&self, name: &str, number: u8) -> Uplink {
        Uplink::new(self, name, number)
    }

    /// The CNI plugin as built.
    pub fn plugin(&self) -> Plugin {
        Plugin::find()
    }

    /// The port agent as built.
    pub fn port_agent(&self) -> PortAgent {
        PortAgent::find()
    }

    /// Puts the CNI plugin and the shipped conflist where `./run install` puts them.
    pub fn install_plugin(&self) {
        let target = Path::new("/opt/cni/bin/ovs-agent");
        std::fs::create_dir_all("/opt/cni/bin")
            .and_then(|()| std::fs::copy(self.plugin().path(), target))
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", target.display()));
        // As ./run install does: Debian's containerd looks in no other directory.
        self.sh("ln -sfn /opt/cni/bin/ovs-agent /usr/lib/cni/ovs-agent");
        self.write(
            "/etc/cni/net.d/50-ovs-agent.conflist",
            &self.shipped("conf/50-ovs-agent.conflist"),
        );
    }

    /// The text of a file of the checkout.
    pub fn shipped(&self, path: &str) -> String {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
        let path = checkout.join(path);
        std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
    }

    /// Mounts a cgroup2 tree alone on `/sys/fs/cgroup`, as Debian has it since version 11.
    pub fn unified_cgroups(&self) {
        self.sh("umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup");
    }

    /// Podman with its CNI backend.
    pub fn podman(&self) -> Podman {
        Podman::new(self)
    }

    /// Podman 5 with netavark, of Debian 13 whatever this machine is.
    pub fn podman5(&self) -> Podman {
        Podman::trixie(self)
    }

    /// Starts the Docker driver as built.
    pub fn docker_driver(&self) -> DockerDriver {
        DockerDriver::start(Command::new(binary("ovs-agent-docker")))
    }

    /// Starts it with more in its environment.
    pub fn docker_driver_with(&self, env: &[(&str, &str)]) -> DockerDriver {
        let command = Command::new(binary("ovs-agent-docker"));
        DockerDriver::start(
            env.iter().fold(command, |command, (key, value)| command.env(key, value)),
        )
    }

    /// Starts dockerd.
    pub fn dockerd(&self) -> Dockerd {
        Dockerd::start(self, &[])
    }

    /// Starts dockerd so that its containers outlive it.
    pub fn dockerd_live_restore(&self) -> Dockerd {
        Dockerd::start(self, &["--live-restore"])
    }

    /// Writes `/etc/ovs-port-agent/config.toml`.
    pub fn config(&self, text: &str) {
        self.write("/etc/ovs-port-agent/config.toml", text);
    }

    /// Writes a file and the directories above it.
    pub fn write(&self, path: impl AsRef<Path>, text: &str) {
        let path = path.as_ref();
        let parent = path.parent().expect("an absolute path");
        std::fs::create_dir_all(parent)
            .and_then(|()| std::fs::write(path, text))
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }

    /// What the host looks like now: see [`Snapshot`].
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::take(self.switch.is_some())
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}
