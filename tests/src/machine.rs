//! A whole Debian 13 host: systemd, D-Bus, NetworkManager, Open vSwitch, Docker, Podman; booted,
//! rebooted, and gone with the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::command::{Command, Output, poll};
use crate::container::Container;
use crate::daemon::Daemon;
use crate::host::Host;
use crate::image;
use crate::lan::Lan;
use crate::snapshot::Snapshot;

/// What `tests/setup/machine.sh` makes.
const PRISTINE: &str = "target/setup/machine";

/// Where the machine's disk is mounted, in the test's own `/run`.
const DISK: &str = "/run/rig/machine";

/// From power-on to a settled systemd; 4 s on an idle machine.
const BOOT_DEADLINE: Duration = Duration::from_secs(120);

/// From `reboot` to power-off.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(90);

/// Deadline of one command.
const COMMAND_DEADLINE: Duration = Duration::from_secs(60);

/// How systemd-nspawn says that its machine wants to be started again.
const REBOOT_STATUS: i32 = 133;

/// The name of a machine's cgroup, up to the id of its test's thread.
const CGROUP: &str = "rig-machine-";

/// Lines of the journal that a failing test prints.
const JOURNAL_TAIL: &str = "80";

/// Powers on: a process id namespace around it all, so that one kill ends everything; a cgroup of
/// its own, so that two machines at once do not share a payload. $1: cgroup, $2: network namespace,
/// $3: the checkout, $4: the directory of the built programs, $5: the disk.
const POWER_ON: &str = r#"
    echo 0 >"$1/cgroup.procs"
    export SYSTEMD_NSPAWN_API_VFS_WRITABLE=network
    exec systemd-nspawn --quiet --register=no --keep-unit --boot --directory="$5/root" \
        --machine=host13 --network-namespace-path="/run/netns/$2" --capability=all \
        --system-call-filter="bpf keyctl add_key request_key" --console=pipe \
        --resolv-conf=off --timezone=off --link-journal=no \
        --bind="$5/docker:/var/lib/docker" --bind="$5/containers:/var/lib/containers" \
        --bind-ro="$3:/usr/src/ovs-agent" --bind-ro="$4:/usr/src/programs"
"#;

/// Runs a command in all namespaces of process $2 and in cgroup $1.
const ENTER: &str =
    r#"echo 0 >"$1/cgroup.procs"; pid=$2; shift 2; exec nsenter -t "$pid" -a -- "$@""#;

/// A booted Debian 13 host with two interfaces, `enp2s0` and `wlp4s0`, each on a LAN of its own.
/// The calling thread lives outside, where the LANs are; dropping this ends everything.
#[derive(Debug)]
pub struct Machine {
    // Fields drop in this order.
    power: Option<Power>,
    lans: [Lan; 2],
    boots: u32,
    host: Host,
}

/// What runs while the machine is on.
#[derive(Debug)]
struct Power {
    nspawn: Daemon,
    /// Its systemd, as a process of ours.
    init: u32,
    cgroup: PathBuf,
    _netns: Container,
}

impl Machine {
    /// A machine as Debian installs it, running: nothing of ours on it, its interfaces without
    /// addresses, no unit failed.
    pub fn boot() -> Self {
        let pristine = checkout().join(PRISTINE);
        assert!(
            pristine.join("etc/recipe").is_file(),
            "no {}: tests/setup/machine.sh makes it (./run setup does)",
            pristine.display()
        );
        let host = Host::bare();
        host.unified_cgroups();
        // Docker and Podman cannot stack their layers on the disk's own.
        host.sh(&format!(
            "cd /run; mkdir -p {DISK}; cd {DISK}; mkdir upper work root docker containers; \
             mount -t overlay -o lowerdir={},upperdir=upper,workdir=work overlay root",
            pristine.display()
        ));
        let lans = [
            Lan::new(&host, "enp2s0", [172, 16, 0], 1),
            Lan::new(&host, "wlp4s0", [192, 168, 4], 2),
        ];
        let mut this = Self { power: None, lans, boots: 0, host };
        let state = this.power_on();
        assert_eq!(state, "running", "{}", this.try_sh("systemctl --failed --no-pager"));
        this
    }

    /// Where the LANs are.
    pub fn outside(&self) -> &Host {
        &self.host
    }

    /// The wired LAN, behind `enp2s0`: 172.16.0.0/24.
    pub fn wired(&self) -> &Lan {
        &self.lans[0]
    }

    /// The other LAN, behind `wlp4s0`: 192.168.4.0/24.
    pub fn wireless(&self) -> &Lan {
        &self.lans[1]
    }

    /// A command to run as root in the machine.
    pub fn command(&self, program: &str) -> Command {
        let power = self.power();
        Command::new("sh")
            .args(["-c", ENTER, "sh"])
            .args([power.cgroup.join("payload/rig")])
            .args([&power.init.to_string(), program])
            .env("HOME", "/root")
            .deadline(COMMAND_DEADLINE)
    }

    /// Runs a shell script (`sh -ec`) in the machine; panics unless it succeeds. Returns its stdout.
    pub fn sh(&self, script: &str) -> String {
        self.try_sh(script).success().stdout
    }

    /// Runs a shell script (`sh -ec`) in the machine, whatever its end.
    pub fn try_sh(&self, script: &str) -> Output {
        self.command("sh").args(["-ec", script]).output()
    }

    /// Runs a shell script as the plain user of the machine, whatever its end.
    pub fn as_user(&self, script: &str) -> Output {
        let args = ["-u", "user", "--", "env", "HOME=/home/user", "sh", "-ec", script];
        self.command("runuser").args(args).output()
    }

    /// Waits until a shell script succeeds in the machine; panics naming `what` at the deadline.
    /// Returns its stdout.
    pub fn wait(&self, what: &str, deadline: Duration, script: &str) -> String {
        poll(what, deadline, || {
            let output = self.try_sh(script);
            output.ok().then_some(output.stdout)
        })
    }

    /// Restarts it as `systemctl reboot` does: a new boot id, an empty /run, new cables, the same
    /// disk. Returns what systemd says of itself then: `running`, or `degraded` if a unit failed.
    pub fn reboot(&mut self) -> String {
        self.sh("systemctl --no-block reboot");
        let power = self.power.take().expect("it was on");
        let status = power.nspawn.ended(SHUTDOWN_DEADLINE);
        assert_eq!(status.code(), Some(REBOOT_STATUS), "the machine did not reboot: {status}");
        self.power_off(&power);
        self.power_on()
    }

    /// Pulls the plug, and starts it again. Returns as [`Machine::reboot`].
    pub fn crash(&mut self) -> String {
        let power = self.power.take().expect("it was on");
        self.power_off(&power);
        self.power_on()
    }

    /// Installs what was built, as `./run install` does for a user, with this configuration (the
    /// shipped one if empty), and enables both units at once.
    pub fn install(&self, config: &str) {
        if !config.is_empty() {
            self.write("/etc/ovs-port-agent/config.toml", config);
        }
        self.run("install").success();
        self.sh("systemctl enable --now ovs-port-agent ovs-agent-docker");
    }

    /// `./run ARGS` in the machine, with the programs of this build.
    pub fn run(&self, args: &str) -> Output {
        self.command("/usr/src/ovs-agent/run")
            .args(args.split_whitespace())
            .env("OVS_AGENT_BINARIES", "/usr/src/programs")
            .output()
    }

    /// Writes a file of its disk (not of /run or /tmp) and the directories above it.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.disk(path);
        let parent = path.parent().expect("below the root");
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, text))
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }

    /// Reads a file of its disk.
    pub fn read(&self, path: &str) -> String {
        let path = self.disk(path);
        fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
    }

    /// The CNI plugin as installed, called with `verb` for `eth0` of the namespace that `ip netns`
    /// knows as `name`. Panics unless it succeeds; its answer, `Null` if there is none.
    #[track_caller]
    pub fn cni(&self, verb: &str, name: &str, conf: &Value) -> Value {
        let output = self
            .command("/opt/cni/bin/ovs-agent")
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", name)
            .env("CNI_NETNS", format!("/run/netns/{name}"))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin")
            .stdin(conf.to_string())
            .output()
            .success();
        if output.stdout.trim().is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output}"))
    }

    /// `ovs-port-agent status --json`, whatever it says.
    pub fn status(&self) -> Value {
        let output = self.command("ovs-port-agent").args(["status", "--json"]).output();
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output}"))
    }

    /// The network namespace behind a path of the machine, such as `/run/netns/web` or
    /// `/proc/PID/ns/net`.
    pub fn netns(&self, name: &str, path: &str) -> Container {
        let root = PathBuf::from(format!("/proc/{}/root", self.power().init));
        Container::at(name, root.join(path.trim_start_matches('/')))
    }

    /// The machine's own network, to talk to and from.
    pub fn network(&self) -> Container {
        Container::of_process("host13", self.power().init)
    }

    /// The network namespace of a running Docker container.
    pub fn docker_container(&self, name: &str) -> Container {
        let pid = self.sh(&format!("docker inspect -f '{{{{.State.Pid}}}}' {name}"));
        self.netns(name, &format!("/proc/{}/ns/net", pid.trim()))
    }

    /// The network namespace of a running Podman container.
    pub fn podman_container(&self, name: &str) -> Container {
        let pid = self.sh(&format!("podman inspect -f '{{{{.State.Pid}}}}' {name}"));
        self.netns(name, &format!("/proc/{}/ns/net", pid.trim()))
    }

    /// Gives Docker an image of busybox that sleeps unless told otherwise; its name.
    pub fn docker_image(&self) -> &'static str {
        let file = "/usr/src/image.tar";
        fs::copy(image::file(), self.disk(file)).expect("copy the image");
        self.sh(&format!("docker load -q -i {file}"));
        image::NAME
    }

    /// A directory of the machine with busybox in it, for `podman run --rootfs`.
    pub fn rootfs(&self) -> &'static str {
        let dir = "/usr/src/rootfs";
        if !self.disk(dir).exists() {
            let from = image::directory();
            Command::new("cp").args(["-a"]).args([from, self.disk(dir)]).run();
        }
        dir
    }

    /// What the machine looks like now: see [`Snapshot`].
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::parse(&self.command("/usr/src/programs/host-picture").output().success().stdout)
    }

    /// The journal of this boot, of one unit if named, newest last.
    pub fn journal(&self, unit: &str) -> String {
        let unit = if unit.is_empty() { String::new() } else { format!("-u {unit}") };
        self.try_sh(&format!("journalctl -b --no-pager -o short-monotonic {unit}")).stdout
    }

    fn disk(&self, path: &str) -> PathBuf {
        Path::new(DISK).join("root").join(path.trim_start_matches('/'))
    }

    fn power(&self) -> &Power {
        self.power.as_ref().expect("the machine is on")
    }

    fn power_on(&mut self) -> String {
        self.boots += 1;
        // A cable's end goes with the namespace it is in, as everything of a host's kernel does.
        let netns = self.host.container(&format!("host13-{}", self.boots));
        for lan in &self.lans {
            lan.plug(&netns);
        }
        let cgroup = cgroup();
        let programs = crate::binary::binary("ovs-port-agent");
        let command = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-ec", POWER_ON, "sh"])
            .args([&cgroup])
            .args([netns.name()])
            .args([checkout(), programs.parent().expect("in a directory"), Path::new(DISK)]);
        let nspawn = Daemon::start(&format!("host13-{}", self.boots), command);
        let init = poll("the machine's systemd", BOOT_DEADLINE, || {
            assert!(nspawn.alive(), "the machine did not start:\n{}", nspawn.log());
            init_below(nspawn.pid().as_raw().unsigned_abs())
        });
        let rig = cgroup.join("payload/rig");
        poll("the machine's cgroup", BOOT_DEADLINE, || fs::create_dir(&rig).ok());
        self.power = Some(Power { nspawn, init, cgroup, _netns: netns });
        poll("the machine is not up", BOOT_DEADLINE, || {
            let output = self.command("systemctl").args(["is-system-running"]).output();
            let state = output.stdout.trim().to_owned();
            (state == "running" || state == "degraded").then_some(state)
        })
    }

    /// Ends what still runs and takes its cables.
    fn power_off(&self, power: &Power) {
        power.nspawn.kill();
        for lan in &self.lans {
            lan.unplug();
        }
        poll("processes of the machine live", SHUTDOWN_DEADLINE, || {
            discard(&power.cgroup);
            (!power.cgroup.exists()).then_some(())
        });
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let Some(power) = &self.power else { return };
        if std::thread::panicking() && power.nspawn.alive() {
            let journal = ["-b", "--no-pager", "-o", "short-monotonic", "-n", JOURNAL_TAIL];
            let tail = self.command("journalctl").args(journal).output();
            eprintln!("--- journal of the machine\n{}---", tail.stdout);
        }
        let power = self.power.take().expect("it is on");
        self.power_off(&power);
    }
}

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// A new cgroup below our own.
fn cgroup() -> PathBuf {
    let text = fs::read_to_string("/proc/self/cgroup").expect("the kernel has cgroups");
    let own = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let parent = Path::new("/sys/fs/cgroup").join(own);
    // What a killed runner left: its thread is gone, and all of the machine's processes with it.
    for entry in fs::read_dir(&parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let thread = name.to_str().and_then(|name| name.strip_prefix(CGROUP));
        if thread.is_some_and(|thread| !Path::new("/proc").join(thread).exists()) {
            discard(&entry.path());
        }
    }
    let path = parent.join(format!("{CGROUP}{}", nix::unistd::gettid()));
    fs::create_dir(&path)
        .unwrap_or_else(|error| panic!("cannot make cgroup {}: {error}", path.display()));
    path
}

/// Removes a cgroup and those below it, unless something lives there.
fn discard(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            discard(&entry.path());
        }
    }
    fs::remove_dir(cgroup).ok();
}

/// The first process of the innermost of the process id namespaces below `parent`, once it is
/// systemd.
fn init_below(parent: u32) -> Option<u32> {
    let nspawn = child_of(parent)?;
    let init = child_of(nspawn)?;
    let name = fs::read_to_string(format!("/proc/{init}/comm")).ok()?;
    (name.trim() == "systemd").then_some(init)
}

/// The child of `parent` that is process 1 of a namespace of its own.
fn child_of(parent: u32) -> Option<u32> {
    let ids = |status: &str, key: &str| -> Vec<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
    };
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let is_init = ids(&status, "NSpid:").last() == Some(&1);
        (is_init && ids(&status, "PPid:") == [parent]).then_some(pid)
    })
}
