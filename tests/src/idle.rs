//! What a process takes while nothing happens.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::unistd::{Pid, SysconfVar, sysconf};

/// What a process took.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// KiB in memory at the end.
    pub resident: u64,
    /// KiB of it that no other process shares.
    pub own: u64,
    /// Processor time.
    pub processor: Duration,
    /// Times its threads went to sleep. A thread that ended takes its count along.
    pub sleeps: u64,
}

/// Watches a process for so long.
pub fn watch(pid: Pid, time: Duration) -> Taken {
    let (ticks, sleeps) = spent(pid);
    thread::sleep(time);
    let (ticks_after, sleeps_after) = spent(pid);
    let second = sysconf(SysconfVar::CLK_TCK).ok().flatten().expect("clock ticks");
    let status = format!("/proc/{pid}/status");
    Taken {
        resident: figure(Path::new(&status), "VmRSS:"),
        own: figure(Path::new(&status), "RssAnon:"),
        processor: Duration::from_secs_f64((ticks_after - ticks) as f64 / second as f64),
        sleeps: sleeps_after.saturating_sub(sleeps),
    }
}

/// Clock ticks in user and system mode, and times its threads went to sleep.
fn spent(pid: Pid) -> (u64, u64) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    let fields: Vec<_> =
        stat.rsplit_once(')').expect("proc_pid_stat(5)").1.split_whitespace().collect();
    let ticks = |at: usize| fields[at - 3].parse::<u64>().expect("a number");
    let mut sleeps = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        sleeps += figure(&task.path().join("status"), "voluntary_ctxt_switches:");
    }
    (ticks(14) + ticks(15), sleeps)
}

fn figure(path: &Path, key: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    line.split_whitespace().next().map_or(0, |number| number.parse().unwrap_or_default())
}
