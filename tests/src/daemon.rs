//! Daemons: started, frozen, killed, and gone with the test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::{Command, panic_start, poll};
use crate::isolation::DIR;

/// Lines of its log that a failing test prints.
const LOG_TAIL: usize = 12;

/// A long-running child. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    log: PathBuf,
    child: Mutex<Child>,
}

impl Daemon {
    /// Starts `command`; what it prints goes to a log in the private `/run`.
    pub fn start(name: &str, command: Command) -> Self {
        let dir = Path::new(DIR).join("log");
        fs::create_dir_all(&dir).expect("a directory in /run");
        let log = dir.join(name);
        let file = File::options().create(true).append(true).open(&log).expect("a log in /run");
        let mut command = command.into_inner();
        command.stdin(Stdio::null());
        command.stdout(file.try_clone().expect("a second handle of the log")).stderr(file);
        let child = command.spawn().unwrap_or_else(|error| panic_start(name, &error));
        Self { name: name.to_owned(), log, child: Mutex::new(child) }
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child().id().cast_signed())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal)
            .unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
    }

    /// Whether it still runs.
    pub fn alive(&self) -> bool {
        matches!(self.child().try_wait(), Ok(None))
    }

    /// Waits until `ready` says so; panics with the log if the daemon dies first.
    pub fn ready(&self, deadline: Duration, mut ready: impl FnMut() -> bool) {
        poll(&format!("{} is not ready", self.name), deadline, || {
            assert!(self.alive(), "{} died:\n{}", self.name, self.log());
            ready().then_some(())
        });
    }

    /// Asks it to end (SIGTERM) and waits, at most for `deadline`.
    pub fn terminate(&self, deadline: Duration) {
        self.signal(Signal::SIGTERM);
        poll(&format!("{} did not end", self.name), deadline, || (!self.alive()).then_some(()));
    }

    /// Waits for it to end by itself, at most for `deadline`.
    pub fn ended(&self, deadline: Duration) -> ExitStatus {
        poll(&format!("{} did not end", self.name), deadline, || {
            self.child().try_wait().expect("wait for a child")
        })
    }

    /// Kills it with SIGKILL, which a frozen process obeys too.
    pub fn kill(&self) {
        let mut child = self.child();
        child.kill().ok();
        child.wait().ok();
    }

    /// Everything it printed.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n");
            eprintln!("--- log of {}\n{tail}\n---", self.name);
        }
    }
}
