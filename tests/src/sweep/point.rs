//! The system calls of a process, and how one of them is disturbed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

/// One system call: the `number`th of its name that a thread makes. strace counts for each thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) call: String,
    pub(super) number: usize,
    /// Whether it changes or reveals something outside the process.
    pub(super) acts: bool,
    /// Whether it can fail: not before `main`, and no unlocking.
    fallible: bool,
}

/// What happens instead of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disturbance {
    /// SIGKILL before the call is made.
    Kill,
    /// The call is not made and returns this error.
    Error(&'static str),
}

impl Point {
    /// An error that the call may meet, another one for another `turn`; `None` for a call that
    /// does not fail.
    pub(super) fn error(&self, turn: usize) -> Option<&'static str> {
        let errors: &[&str] = match self.call.as_str() {
            "openat" | "open" => &["EACCES", "EMFILE", "EIO"],
            "write" | "pwrite64" | "writev" | "fallocate" | "mkdir" | "mkdirat" => {
                &["ENOSPC", "EIO", "EACCES"]
            }
            "rename" | "renameat" | "renameat2" | "link" | "linkat" | "symlink" | "unlink"
            | "unlinkat" | "rmdir" => &["EIO", "EACCES", "ENOSPC"],
            "fsync" | "fdatasync" | "ftruncate" | "read" | "pread64" | "getdents64" | "ioctl"
            | "flock" => &["EIO"],
            "fcntl" => &["ENOLCK"],
            "sendto" | "sendmsg" => &["ENOBUFS", "EPIPE"],
            "recvfrom" | "recvmsg" => &["ENOBUFS", "ECONNRESET"],
            "connect" => &["ECONNREFUSED", "EACCES"],
            "bind" | "setsockopt" | "getsockname" => &["ENOBUFS"],
            "socket" => &["EMFILE", "ENOBUFS"],
            "setns" | "chmod" | "fchmod" => &["EPERM"],
            "statx" | "newfstatat" => &["EACCES"],
            _ => return None,
        };
        self.fallible.then(|| errors[turn % errors.len()])
    }

    /// The options with which strace disturbs it.
    pub(super) fn options(&self, disturbance: Disturbance) -> [String; 4] {
        let Self { call, number, .. } = self;
        let what = match disturbance {
            Disturbance::Kill => "signal=KILL".to_owned(),
            Disturbance::Error(error) => format!("error={error}"),
        };
        let inject = format!("inject={call}:{what}:when={number}");
        ["-e".to_owned(), format!("trace={call}"), "-e".to_owned(), inject]
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} number {}", self.call, self.number)
    }
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill => f.write_str("killed"),
            Self::Error(error) => f.write_str(error),
        }
    }
}

/// The points in a log of strace. `whole`: from the exec on, else of a process that ran already.
pub(super) fn read(log: &str, whole: bool) -> Vec<Point> {
    let text = fs::read_to_string(log).unwrap_or_else(|error| panic!("no {log}: {error}"));
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut points: Vec<Point> = Vec::new();
    // The first thing that Rust's runtime does is a look at the three standard descriptors.
    let mut own = !whole;
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((call, args)) = rest.trim_start().split_once('(') else { continue };
        if !call.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            // A signal, an end, or the second half of a call.
            continue;
        }
        let count = counts.entry((thread, call)).or_default();
        *count += 1;
        let number = *count;
        // The exec itself, of the process or of a child: it can die before, by another point.
        if call == "execve" && number == 1 {
            continue;
        }
        let fallible = own && !args.contains("LOCK_UN");
        let point =
            Point { call: call.to_owned(), number, acts: own && acts(call, args), fallible };
        own |= call == "poll";
        match points.iter_mut().find(|known| known.call == call && known.number == number) {
            Some(known) => known.acts |= point.acts,
            None => points.push(point),
        }
    }
    assert!(points.iter().filter(|point| point.acts).count() > 1, "{text}");
    points
}

/// Whether somebody else can tell that the call was made.
fn acts(call: &str, args: &str) -> bool {
    match call {
        "openat" | "open" => ["O_CREAT", "O_WRONLY", "O_RDWR"].iter().any(|f| args.contains(f)),
        "fcntl" => args.contains("LK"),
        "write" | "pwrite64" | "writev" | "rename" | "renameat" | "renameat2" | "link"
        | "linkat" | "symlink" | "unlink" | "unlinkat" | "rmdir" | "mkdir" | "mkdirat"
        | "fallocate" | "ftruncate" | "flock" | "fsync" | "fdatasync" | "chmod" | "fchmod"
        | "setns" | "ioctl" | "sendto" | "sendmsg" | "connect" | "bind" | "setsockopt"
        | "execve" | "exit_group" => true,
        _ => false,
    }
}
