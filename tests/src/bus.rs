//! A system bus: dbus-daemon with the distribution's own configuration, and callers on it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::command::{Command, Output};
use crate::daemon::Daemon;
use crate::host::Host;

/// Where callers look for the system bus.
const SOCKET: &str = "/run/dbus/system_bus_socket";

/// Where policies are installed.
const POLICIES: &str = "/etc/dbus-1/system.d";

/// The policy that is shipped.
const POLICY: &str = "dev.ovs.PortAgent1.conf";

/// Far above what it takes to start.
const START: Duration = Duration::from_secs(10);

/// A running system bus; dropping it stops it.
#[derive(Debug)]
pub struct SystemBus {
    daemon: Daemon,
}

impl SystemBus {
    /// Starts one with the shipped policy installed.
    pub fn start(host: &Host) -> Self {
        let policy = host.shipped(&format!("conf/{POLICY}"));
        Self::with_policy(host, &policy)
    }

    /// Starts one with another policy in the place of ours; none if it is empty.
    pub fn with_policy(host: &Host, policy: &str) -> Self {
        let file = format!("{POLICIES}/{POLICY}");
        if policy.is_empty() {
            fs::remove_file(&file).ok();
        } else {
            host.write(&file, policy);
        }
        fs::create_dir_all("/run/dbus").expect("a directory in /run");
        fs::remove_file(SOCKET).ok();
        let args = ["--system", "--nofork", "--nopidfile", "--nosyslog"];
        let command = Command::new("dbus-daemon").args(args).deadline(Duration::MAX);
        let daemon = Daemon::start("dbus-daemon", command);
        daemon.ready(START, || Path::new(SOCKET).exists() && busctl("list").output().ok());
        Self { daemon }
    }

    /// Ends it as a crash would.
    pub fn kill(&self) {
        self.daemon.kill();
    }
}

/// `busctl --system` as root; arguments as a shell splits them.
pub fn busctl(args: &str) -> Command {
    shell(&format!("busctl --system --no-pager {args}"))
}

/// A shell line as the user nobody.
pub fn as_nobody(line: &str) -> Output {
    Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-ec", line])
        .output()
}

fn shell(line: &str) -> Command {
    Command::new("sh").args(["-ec", line])
}
