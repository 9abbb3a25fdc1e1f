//! Podman: with its CNI backend as Debian 12 has it, or version 5 with netavark as Debian 13 has it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
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
tmp_dir = "/run/rig/podman/tmp"
infra_image = "localhost/rig:1"
[network]
"#;

const STORAGE: &str = r#"
[storage]
driver = "vfs"
graphroot = "/run/rig/podman/root"
runroot = "/run/rig/podman/run"
"#;

const CNI: &str = r#"
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]
"#;

const NETAVARK: &str = "network_backend = \"netavark\"\n";

/// Debian 13's Podman, unpacked.
const TRIXIE: &str = "target/setup/trixie";

/// Makes `$1` a root directory at `$2` that differs from the host only in its programs. Namespaces
/// that Podman mounts inside are seen outside too: there they are found and ended.
const ROOT: &str = "
    mkdir -p $2 $2.upper $2.work
    mount -t overlay -o lowerdir=$1,upperdir=$2.upper,workdir=$2.work overlay $2
    mount --bind /run/netns /run/netns
    mount --make-shared /run/netns
    for dir in proc sys dev run run/netns etc/network etc/ovs-port-agent var/lib/ovs-port-agent; do
        mkdir -p /$dir $2/$dir
        case $dir in
        proc | sys | dev) mount --rbind /$dir $2/$dir ;;
        *) mount --bind /$dir $2/$dir ;;
        esac
    done
    mkdir -p $2/root $2/var/tmp";

const FILE: &str = "/run/rig/containers.conf";
const STORAGE_FILE: &str = "/run/rig/storage.conf";

/// Podman on one host, its storage in the private `/run`.
#[derive(Debug)]
pub struct Podman {
    rootfs: String,
    /// Where its programs are; the host's own root directory if `None`.
    root: Option<PathBuf>,
}

impl Podman {
    pub(crate) fn new(host: &Host) -> Self {
        Self::configured(host, CNI, None)
    }

    /// Version 5 with the plugin where `./run install` puts it.
    pub(crate) fn trixie(host: &Host) -> Self {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
        let packages = checkout.join(TRIXIE);
        assert!(
            packages.is_dir(),
            "no {}: tests/setup/trixie.sh unpacks it (./run test does)",
            packages.display()
        );
        let root = PathBuf::from("/run/rig/trixie");
        let this = Self::configured(host, NETAVARK, Some(root.clone()));
        let args = [Path::new("-ec"), Path::new(ROOT), Path::new("sh"), &packages, &root];
        Command::new("sh").args(args).run();
        let (plugin, driver) = ("opt/cni/bin/ovs-agent", "usr/local/libexec/netavark/ovs-agent");
        let make = |path: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("below the root"))?;
            Ok::<_, std::io::Error>(path)
        };
        make(plugin)
            .and_then(|path| fs::copy(host.plugin().path(), path))
            .and_then(|_| symlink(Path::new("/").join(plugin), make(driver)?))
            .unwrap_or_else(|error| panic!("cannot put the plugin into place: {error}"));
        this
    }

    fn configured(host: &Host, network: &str, root: Option<PathBuf>) -> Self {
        host.unified_cgroups();
        host.write(FILE, &format!("{CONFIGURATION}{network}"));
        host.write(STORAGE_FILE, STORAGE);
        Self { rootfs: image::directory().display().to_string(), root }
    }

    /// A command among its programs.
    pub fn command(&self, program: &str) -> Command {
        match &self.root {
            None => Command::new(program),
            Some(root) => Command::new("chroot").args([root.as_path(), Path::new(program)]),
        }
    }

    /// Runs a shell session in which `podman` is this one; panics unless it succeeds. Returns its
    /// stdout.
    pub fn session(&self, script: &str) -> String {
        let line = self.podman().line();
        let podman = format!("podman() {{ command {line} \"$@\"; }}\n");
        Command::new("sh")
            .args(["-ec", &format!("{podman}{script}")])
            .env("CONTAINERS_CONF", FILE)
            .env("CONTAINERS_STORAGE_CONF", STORAGE_FILE)
            .deadline(Duration::from_secs(120))
            .run()
    }

    /// What its containers are made of, as an option of `podman run`.
    pub fn rootfs(&self) -> String {
        format!("--rootfs {}", self.rootfs)
    }

    /// Writes a file as its programs will see it.
    pub fn write(&self, path: &str, text: &str) {
        let root = self.root.as_deref().unwrap_or(Path::new("/"));
        let path = root.join(path.trim_start_matches('/'));
        let parent = path.parent().expect("an absolute path");
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, text))
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }

    /// Runs podman, arguments separated by blanks, whatever its end.
    pub fn output(&self, args: &str) -> Output {
        self.podman().args(args.split_whitespace()).output()
    }

    /// podman, told where its files are.
    pub fn podman(&self) -> Command {
        self.tool("podman")
    }

    /// A program that runs podman.
    pub fn tool(&self, program: &str) -> Command {
        self.command(program)
            .env("CONTAINERS_CONF", FILE)
            .env("CONTAINERS_STORAGE_CONF", STORAGE_FILE)
            .deadline(Duration::from_secs(120))
    }

    /// podman as a plain user runs it, with a home of its own.
    pub fn rootless(&self, uid: u32) -> Command {
        let (home, run) = (format!("/run/rig/home-{uid}"), format!("/run/rig/user-{uid}"));
        let user = uid.to_string();
        let args = ["-d", "-m", "700", "-o", &user, "-g", &user, &home, &run];
        let _made = Command::new("install").args(args).run();
        let root = self.root.as_deref().unwrap_or(Path::new("/"));
        let command = Command::new("podman").rooted(root, uid);
        command.env("HOME", home).env("XDG_RUNTIME_DIR", run)
    }

    /// Gives it the image [`image::NAME`].
    pub fn load(&self) {
        self.run(&format!("load -q -i {}", image::file().display()));
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
