//! Namespaces of a host's own for the calling thread, and the way back.

use std::fs::{self, File};
use std::io::{PipeWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
use nix::unistd::{Pid, Uid, chroot, fchdir};

use crate::command::PATH;

/// Where the rig keeps its own files; inside the private `/run`.
pub(crate) const DIR: &str = "/run/rig";

/// Directories a host can write to without the machine noticing.
const OVERLAID: [&str; 5] = ["/etc", "/var/lib", "/usr/local", "/usr/lib/cni", "/opt"];

/// Directories a fresh host has empty, whatever the machine has in them.
const EMPTY: [&str; 5] =
    ["/etc/cni", "/etc/network", "/etc/ovs-port-agent", "/var/lib/cni", "/var/lib/ovs-port-agent"];

const INTERFACES: &str = "auto lo\niface lo inet loopback\n";

/// Ends what a killed runner leaves: its children get SIGKILL from the kernel, but not what those
/// had daemonised. The shell reads a pipe that only the runner holds.
const GUARD: &str = "read -r _; for n in /proc/self/ns/net /run/netns/* /run/docker/netns/*; do \
     for p in /proc/[0-9]*; do if [ \"$p/ns/net\" -ef \"$n\" ] || [ \"$p/ns/mnt\" -ef \
     /proc/self/ns/mnt ]; then p=${p#/proc/}; [ \"$p\" = $$ ] || kill -9 \"$p\"; fi; done; done";

/// The calling thread lives in namespaces of its own until this is dropped.
#[derive(Debug)]
pub(crate) struct Isolation {
    net: File,
    mnt: File,
    /// Entering a mount namespace ends a chroot: this is the way back into it.
    root: File,
    cwd: Option<PathBuf>,
    /// Its end tells the guard that the runner died.
    lifeline: Option<PipeWriter>,
    guard: Option<Child>,
}

impl Isolation {
    /// Moves the calling thread into new network and mount namespaces with a fresh `/run`, an own
    /// `/sys` and copy-on-write `/etc`, `/var/lib`, `/usr/local`,
    /// `/usr/lib/cni` and `/opt`.
    pub(crate) fn enter() -> Self {
        assert!(
            Uid::effective().is_root(),
            "the rig makes namespaces: run the tests as root (./run test uses sudo by itself)"
        );
        let open = |name: &str| {
            let path = format!("/proc/thread-self/ns/{name}");
            File::open(&path).unwrap_or_else(|error| panic!("cannot open {path}: {error}"))
        };
        let (net, mnt) = (open("net"), open("mnt"));
        let root = File::open("/").expect("open /");
        let cwd = std::env::current_dir().ok();
        crate::binary::own();
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap_or_else(|error| {
            panic!("cannot make namespaces: {error}; in a container, the tests need --privileged")
        });
        let mut this = Self { net, mnt, root, cwd, lifeline: None, guard: None };
        this.mounts();
        this.watch();
        this
    }

    fn mounts(&self) {
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .expect("make / private");
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
            .expect("a tmpfs on /run");
        for dir in [DIR, "/run/lock", "/run/netns"] {
            fs::create_dir_all(dir).unwrap_or_else(|error| panic!("cannot make {dir}: {error}"));
        }
        // A sysfs shows the interfaces of the namespace it was mounted in.
        let aside = format!("{DIR}/cgroup");
        fs::create_dir(&aside).expect("a directory in /run");
        let cgroup = "/sys/fs/cgroup";
        mount(Some(cgroup), aside.as_str(), none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
            .expect("set the cgroup tree aside");
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).expect("an own /sys");
        mount(Some(aside.as_str()), cgroup, none, MsFlags::MS_MOVE, none)
            .expect("put the cgroup tree back");
        for dir in OVERLAID.iter().filter(|dir| Path::new(dir).is_dir()) {
            let base = format!("{DIR}/overlay{}", dir.replace('/', "_"));
            let (upper, work) = (format!("{base}/upper"), format!("{base}/work"));
            fs::create_dir_all(&upper).expect("a directory in /run");
            fs::create_dir_all(&work).expect("a directory in /run");
            let options = format!("lowerdir={dir},upperdir={upper},workdir={work}");
            mount(Some("overlay"), *dir, Some("overlay"), MsFlags::empty(), Some(&*options))
                .unwrap_or_else(|error| panic!("cannot mount an overlay on {dir}: {error}"));
        }
        for dir in EMPTY {
            // Only ever below an overlay: the machine's own copy stays.
            let parent = Path::new(dir).parent().expect("has a parent");
            let magic = statfs(parent).expect("statfs").filesystem_type();
            assert_eq!(magic, OVERLAYFS_SUPER_MAGIC, "{} is no overlay", parent.display());
            if Path::new(dir).exists() {
                fs::remove_dir_all(dir).unwrap_or_else(|error| panic!("emptying {dir}: {error}"));
            }
        }
        fs::create_dir("/etc/network").expect("make /etc/network");
        fs::write("/etc/network/interfaces", INTERFACES).expect("write /etc/network/interfaces");
    }

    fn watch(&mut self) {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let mut guard = std::process::Command::new("sh");
        guard.args(["-c", GUARD]).env("PATH", PATH).stdin(Stdio::from(reader));
        guard.stdout(Stdio::null()).stderr(Stdio::null());
        self.guard = Some(guard.spawn().expect("start sh"));
        self.lifeline = Some(writer);
    }

    /// Kills every process left in the host's namespaces or those of its containers.
    fn sweep(&self) {
        let own = |name: &str| fs::metadata(format!("/proc/thread-self/ns/{name}")).ok();
        let (Some(mnt), Some(net)) = (own("mnt"), own("net")) else { return };
        let mut nets = vec![net.ino()];
        for dir in ["/run/netns", "/run/docker/netns"] {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                nets.extend(fs::metadata(entry.path()).map(|meta| meta.ino()));
            }
        }
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if u32::try_from(pid).is_ok_and(|pid| pid == std::process::id()) {
                continue;
            }
            let ino =
                |name: &str| fs::metadata(entry.path().join("ns").join(name)).map(|m| m.ino());
            if ino("mnt").is_ok_and(|ino| ino == mnt.ino())
                || ino("net").is_ok_and(|ino| nets.contains(&ino))
            {
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
        }
    }
}

impl Drop for Isolation {
    fn drop(&mut self) {
        // With one test thread, libtest runs on the process's main thread: then "our" namespaces
        // are those of the next test too, unless this thread goes back.
        if let Some(mut guard) = self.guard.take() {
            guard.kill().ok();
            guard.wait().ok();
        }
        if let Some(mut lifeline) = self.lifeline.take() {
            lifeline.flush().ok();
        }
        self.sweep();
        umount2("/run/netns", MntFlags::MNT_DETACH).ok();
        let back = setns(&self.net, CloneFlags::CLONE_NEWNET)
            .and_then(|()| setns(&self.mnt, CloneFlags::CLONE_NEWNS))
            .and_then(|()| fchdir(&self.root))
            .and_then(|()| chroot("."));
        if let Err(error) = back {
            eprintln!("rig: the test thread cannot return to its namespaces: {error}");
        }
        if let Some(cwd) = &self.cwd {
            std::env::set_current_dir(cwd).ok();
        }
    }
}
