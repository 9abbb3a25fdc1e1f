//! What the agent costs when nothing happens: five hundred ports, no change.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};
use rig::{Daemon, Lab, lab};

const PORTS: usize = 500;

/// Long enough to have the agent's own look at the host in it.
const WATCHED: Duration = Duration::from_secs(40);

/// Far above what it takes; a machine under load is slow.
const SOON: Duration = Duration::from_secs(60);

/// Issue 4: "under 20 MiB of memory and no measurable CPU".
const MEMORY_KIB: u64 = 20 * 1024;

/// Of one processor. A build without optimisation takes several times what a release does.
const SHARE: f64 = 0.005;

/// Clock ticks in user and system mode, and times its threads went to sleep.
fn spent(pid: i32) -> (u64, u64) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = |at: usize| fields[at - 3].parse::<u64>().unwrap();
    let mut sleeps = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        sleeps += figure(&task.path().join("status"), "voluntary_ctxt_switches:");
    }
    (ticks(14) + ticks(15), sleeps)
}

fn figure(path: &Path, key: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    line.split_whitespace().next().map_or(0, |number| number.parse().unwrap())
}

#[test]
fn five_hundred_ports_cost_nothing_while_nothing_changes() {
    let lab = Lab::new();
    let many = lab.host.container("many");
    // The NAT bridge's pool is smaller than that.
    let plain = lab.plain(many.name(), shared::vlan::PortVlan::untagged());
    for n in 0..PORTS {
        let mut request = plain.clone();
        request.key = lab::key("many");
        request.key.ifname = format!("e{n}").parse().unwrap();
        drop(lab.attach_as(&request));
    }
    let agent = Daemon::start("ovs-port-agent", lab.host.port_agent().command("run"));
    agent.ready(SOON, || agent.log().contains("the host is up"));
    let shown =
        || fs::read_to_string("/etc/network/interfaces").unwrap().matches("iface veth").count();
    agent.ready(SOON, || shown() == PORTS);
    // Whatever belongs to the start is over.
    thread::sleep(Duration::from_secs(3));
    let pid = agent.pid().as_raw();
    let (ticks, sleeps) = spent(pid);
    thread::sleep(WATCHED);
    let (ticks, sleeps) = (spent(pid).0 - ticks, spent(pid).1.saturating_sub(sleeps));
    let second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap();
    let share = ticks as f64 / second as f64 / WATCHED.as_secs_f64();
    let status = format!("/proc/{pid}/status");
    let memory = figure(Path::new(&status), "VmRSS:");
    let awake = sleeps as f64 / WATCHED.as_secs_f64();
    println!(
        "{PORTS} ports: {memory} KiB resident, {:.2} % of a processor, {awake:.1} wake-ups a second",
        share * 100.0
    );
    assert!(memory < MEMORY_KIB, "{memory} KiB, expected less than {MEMORY_KIB}");
    assert!(share <= SHARE, "{:.2} % of a processor", share * 100.0);
    assert!(awake < 10.0, "{awake:.1} wake-ups a second");
}
