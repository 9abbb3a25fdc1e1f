//! Podman with its CNI backend, as Debian 12 has it.

use std::fs;
use std::time::Duration;

use crate::command::{Command, Output};
use crate::container::Container;
use crate::host::Host;
use crate::image;

/// The limits are below what a test machine in a sandbox may set; real hosts need none of this.
const CONFIGURATION: &str = r#"
[containers]
cgroups = "disabled"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
[network]
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]
"#;

const FILE: &str = "/run/rig/containers.conf";

/// Podman on one host, its storage in the private `/run`.
#[derive(Debug)]
pub struct Podman {
    rootfs: String,
}

impl Podman {
    pub(crate) fn new(host: &Host) -> Self {
        host.unified_cgroups();
        host.write(FILE, CONFIGURATION);
        Self { rootfs: image::directory().display().to_string() }
    }

    /// Runs podman, arguments separated by blanks, whatever its end.
    pub fn output(&self, args: &str) -> Output {
        Command::new("podman")
            .args(["--root", "/run/rig/podman/root", "--runroot", "/run/rig/podman/run"])
            .args(["--tmpdir", "/run/rig/podman/tmp", "--storage-driver", "vfs"])
            .args(args.split_whitespace())
            .env("CONTAINERS_CONF", FILE)
            .deadline(Duration::from_secs(60))
            .output()
    }

    /// Runs podman; panics unless it succeeds. Returns its stdout.
    pub fn run(&self, args: &str) -> String {
        self.output(args).success().stdout
    }

    /// Starts a container that sleeps, with `options` of `podman run`.
    pub fn start(&self, name: &str, options: &str) -> Container {
        let rootfs = &self.rootfs;
        self.run(&format!("run -d --name {name} {options} --rootfs {rootfs} sleep 100000"));
        self.container(name)
    }

    /// Runs a command in a new container, with `options` of `podman run`; returns its stdout.
    pub fn once(&self, options: &str, command: &str) -> Output {
        self.output(&format!("run --rm {options} --rootfs {} {command}", self.rootfs))
    }

    /// The network namespace of a running container.
    pub fn container(&self, name: &str) -> Container {
        let pid = self.run(&format!("inspect -f {{{{.State.Pid}}}} {name}"));
        Container::of_process(name, pid.trim().parse().expect("a process id"))
    }

    /// Its version, such as (4, 3).
    pub fn version(&self) -> (u32, u32) {
        let text = self.run("--version");
        let number = text.split_whitespace().last().unwrap_or_default();
        let mut parts = number.split('.').map(|part| part.parse().unwrap_or_default());
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // Layers of vfs are plain directories in /run, but containers hold mounts.
        if fs::exists("/run/rig/podman/root").unwrap_or(false) {
            self.output("rm -f -a -t 0");
        }
    }
}
