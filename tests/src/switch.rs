//! A private Open vSwitch at the default paths.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::command::{Command, poll};
use crate::daemon::Daemon;

const RUN_DIR: &str = "/var/run/openvswitch";
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const DATABASE: &str = "/run/rig/conf.db";
const READY: Duration = Duration::from_secs(30);

/// One of the two daemons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Ovsdb,
    Vswitchd,
}

/// ovsdb-server and ovs-vswitchd of one host. Each can be stopped, frozen and killed.
#[derive(Debug)]
pub struct Switch {
    ovsdb: Mutex<Option<Daemon>>,
    vswitchd: Mutex<Option<Daemon>>,
    database: Mutex<PathBuf>,
}

impl Switch {
    /// Where its ovsdb-server listens.
    pub const SOCKET: &str = "/var/run/openvswitch/db.sock";

    /// Creates the database and starts both daemons.
    pub(crate) fn start() -> Self {
        assert!(
            Path::new(SCHEMA).exists(),
            "Open vSwitch is not installed: apt-get install openvswitch-switch (./run test does)"
        );
        std::fs::create_dir_all(RUN_DIR).expect("a directory in /run");
        Command::new("ovsdb-tool").args(["create", DATABASE, SCHEMA]).run();
        let this = Self {
            ovsdb: Mutex::new(None),
            vswitchd: Mutex::new(None),
            database: Mutex::new(DATABASE.into()),
        };
        this.start_ovsdb();
        vsctl(&[
            "--no-wait",
            "init",
            "--",
            "set",
            "Open_vSwitch",
            ".",
            "external-ids:system-id=rig",
        ]);
        this.start_vswitchd();
        this
    }

    /// Starts ovsdb-server on the database as it is.
    pub fn start_ovsdb(&self) {
        assert!(self.try_start_ovsdb(), "ovsdb-server does not start");
    }

    /// Starts ovsdb-server on the database as it is; false if it refuses that.
    fn try_start_ovsdb(&self) -> bool {
        let database = self.database();
        let command = Command::new("ovsdb-server").args([
            database.to_str().expect("a plain path"),
            "--remote=punix:/var/run/openvswitch/db.sock",
            "--remote=db:Open_vSwitch,Open_vSwitch,manager_options",
            "--pidfile=/var/run/openvswitch/ovsdb-server.pid",
            "--unixctl=/var/run/openvswitch/ovsdb-server.ctl",
            "-vconsole:info",
            "-vsyslog:off",
        ]);
        let daemon = Daemon::start("ovsdb-server", command);
        let serves = poll("ovsdb-server neither serves nor ends", READY, || {
            let serves = std::os::unix::net::UnixStream::connect(Self::SOCKET).is_ok();
            (serves || !daemon.alive()).then_some(serves)
        });
        if serves {
            *self.part(Part::Ovsdb) = Some(daemon);
        }
        serves
    }

    /// Starts ovs-vswitchd and waits until it serves its control socket.
    pub fn start_vswitchd(&self) {
        let command = Command::new("ovs-vswitchd").args([
            "unix:/var/run/openvswitch/db.sock",
            "--pidfile=/var/run/openvswitch/ovs-vswitchd.pid",
            "-vconsole:info",
            "-vsyslog:off",
        ]);
        let daemon = Daemon::start("ovs-vswitchd", command);
        // Named after its process, as ovs-appctl(8) looks for it.
        daemon.ready(READY, || {
            std::fs::read_to_string(format!("{RUN_DIR}/ovs-vswitchd.pid")).is_ok_and(|pid| {
                let control = format!("{RUN_DIR}/ovs-vswitchd.{}.ctl", pid.trim());
                std::os::unix::net::UnixStream::connect(control).is_ok()
            })
        });
        *self.part(Part::Vswitchd) = Some(daemon);
    }

    /// Stops ovs-vswitchd in good order.
    pub fn stop_vswitchd(&self) {
        self.stop(Part::Vswitchd);
    }

    /// Stops ovsdb-server in good order.
    pub fn stop_ovsdb(&self) {
        self.stop(Part::Ovsdb);
    }

    /// Kills ovs-vswitchd with SIGKILL.
    pub fn kill_vswitchd(&self) {
        drop(self.part(Part::Vswitchd).take());
    }

    /// Kills ovsdb-server with SIGKILL.
    pub fn kill_ovsdb(&self) {
        drop(self.part(Part::Ovsdb).take());
    }

    /// Freezes ovs-vswitchd (SIGSTOP): it is there and answers nothing.
    pub fn freeze_vswitchd(&self) {
        self.signal(Part::Vswitchd, Signal::SIGSTOP);
    }

    /// Freezes ovsdb-server (SIGSTOP): connections are accepted by the kernel, then silence.
    pub fn freeze_ovsdb(&self) {
        self.signal(Part::Ovsdb, Signal::SIGSTOP);
    }

    /// Lets a frozen ovs-vswitchd go on.
    pub fn thaw_vswitchd(&self) {
        self.signal(Part::Vswitchd, Signal::SIGCONT);
    }

    /// Lets a frozen ovsdb-server go on.
    pub fn thaw_ovsdb(&self) {
        self.signal(Part::Ovsdb, Signal::SIGCONT);
    }

    /// Stops and starts ovs-vswitchd.
    pub fn restart_vswitchd(&self) {
        self.stop_vswitchd();
        self.start_vswitchd();
    }

    /// Stops and starts ovsdb-server.
    pub fn restart_ovsdb(&self) {
        self.stop_ovsdb();
        self.start_ovsdb();
    }

    /// Stops ovsdb-server, erases its database, and starts it on an empty one.
    pub fn erase_database(&self) {
        self.stop_ovsdb();
        self.create_database();
        self.start_ovsdb();
    }

    /// Kills ovsdb-server, damages its file, and starts it again; where it refuses what it finds,
    /// on an empty one, as an administrator would. True if it took the damaged one.
    pub fn damage_database(&self, damage: impl FnOnce(&mut Vec<u8>)) -> bool {
        self.kill_ovsdb();
        let file = self.database();
        let mut bytes = std::fs::read(&file).expect("a database");
        damage(&mut bytes);
        std::fs::write(&file, bytes).expect("a database");
        let taken = self.try_start_ovsdb();
        if !taken {
            self.create_database();
            self.start_ovsdb();
        }
        taken
    }

    /// Moves the database to this directory, ovsdb-server and all; ovs-vswitchd reconnects.
    pub fn move_database(&self, dir: &str) {
        self.stop_ovsdb();
        let to = Path::new(dir).join("conf.db");
        std::fs::copy(self.database(), &to).expect("copy the database");
        *self.database.lock().unwrap_or_else(PoisonError::into_inner) = to;
        self.start_ovsdb();
    }

    /// Has ovsdb-server leave out of its file what is past; one that is just being restarted does not.
    pub fn compact(&self) {
        let socket = "/var/run/openvswitch/ovsdb-server.ctl";
        Command::new("ovs-appctl").args(["-t", socket, "ovsdb-server/compact"]).output();
    }

    fn create_database(&self) {
        let file = self.database();
        std::fs::remove_file(&file).expect("a database");
        Command::new("ovsdb-tool")
            .args(["create".as_ref(), file.as_os_str(), SCHEMA.as_ref()])
            .run();
    }

    fn database(&self) -> PathBuf {
        self.database.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until ovs-vswitchd has opened the interface: ofport set, and above 0.
    pub fn wait_open(&self, interface: &str) {
        poll(&format!("ovs-vswitchd did not open {interface}"), READY, || {
            let ofport = vsctl(&["get", "Interface", interface, "ofport"]);
            ofport.trim().parse::<u32>().ok().filter(|port| *port > 0)
        });
    }

    /// Process ids of ovsdb-server and ovs-vswitchd, as far as they run.
    pub(crate) fn pids(&self) -> [Option<i32>; 2] {
        [Part::Ovsdb, Part::Vswitchd]
            .map(|part| self.part(part).as_ref().map(|daemon| daemon.pid().as_raw()))
    }

    fn stop(&self, part: Part) {
        let daemon = self.part(part).take();
        daemon.unwrap_or_else(|| panic!("{part:?} does not run")).terminate(READY);
    }

    fn signal(&self, part: Part, signal: Signal) {
        let daemon = self.part(part);
        daemon.as_ref().unwrap_or_else(|| panic!("{part:?} does not run")).signal(signal);
    }

    fn part(&self, part: Part) -> MutexGuard<'_, Option<Daemon>> {
        let slot = match part {
            Part::Ovsdb => &self.ovsdb,
            Part::Vswitchd => &self.vswitchd,
        };
        slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // ovs-vswitchd first: it logs the loss of its database otherwise.
        self.kill_vswitchd();
        self.kill_ovsdb();
    }
}

/// `ovs-vsctl` with a deadline; panics unless it succeeds.
pub(crate) fn vsctl<S: AsRef<str>>(args: &[S]) -> String {
    let args = std::iter::once("--timeout=20").chain(args.iter().map(AsRef::as_ref));
    Command::new("ovs-vsctl").args(args).run()
}
