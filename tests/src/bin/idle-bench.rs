//! What the agent costs when nothing happens: five hundred ports, no change.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};
use rig::{Daemon, Lab};
use shared::vlan::PortVlan;

const PORTS: usize = 500;

/// Long enough to have the agent's own look at the host in it.
const WATCHED: Duration = Duration::from_secs(40);

/// Far above what it takes; a machine under load is slow.
const SOON: Duration = Duration::from_secs(60);

/// Issue 4: "under 20 MiB of memory and no measurable CPU".
const MEMORY_KIB: u64 = 20 * 1024;

/// Per cent of one processor: a clock tick or two in [`WATCHED`].
const SHARE: f64 = 0.1;

/// Clock ticks in user and system mode, and times its threads went to sleep.
fn spent(pid: i32) -> (u64, u64) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the agent lives");
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

fn main() -> ExitCode {
    let lab = Lab::new();
    let many = lab.host.container("many");
    let plain = lab.plain(many.name(), PortVlan::untagged());
    for n in 0..PORTS {
        let mut request = plain.clone();
        request.key.ifname = format!("e{n}").parse().expect("a name");
        drop(lab.attach_as(&request));
    }
    let agent = Daemon::start("ovs-port-agent", lab.host.port_agent().command("run"));
    agent.ready(SOON, || agent.log().contains("the host is up"));
    let interfaces = "/etc/network/interfaces";
    let block = || fs::read_to_string(interfaces).unwrap_or_default();
    agent.ready(SOON, || block().matches("iface veth").count() == PORTS);
    // Whatever belongs to the start is over.
    thread::sleep(Duration::from_secs(3));
    let pid = agent.pid().as_raw();
    let before = spent(pid);
    thread::sleep(WATCHED);
    let after = spent(pid);
    let second = sysconf(SysconfVar::CLK_TCK).ok().flatten().expect("clock ticks");
    let seconds = WATCHED.as_secs_f64();
    let share = (after.0 - before.0) as f64 / second as f64 / seconds * 100.0;
    // A thread that ended takes its count along.
    let awake = after.1.saturating_sub(before.1) as f64 / seconds;
    let status = format!("/proc/{pid}/status");
    let memory = figure(Path::new(&status), "VmRSS:");
    let own = figure(Path::new(&status), "RssAnon:");
    println!("{PORTS} ports, {seconds} s without a change:");
    println!("  memory    {memory} KiB resident, {own} KiB of it its own");
    println!("  processor {share:.2} %");
    println!("  wake-ups  {awake:.1} a second");
    let over = memory >= MEMORY_KIB || share > SHARE;
    if over {
        println!("over the budget: {MEMORY_KIB} KiB and {SHARE} % of a processor");
    }
    let check = std::env::args().any(|argument| argument == "--check");
    if over && check { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
