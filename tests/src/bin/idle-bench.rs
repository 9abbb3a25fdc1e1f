//! What the agent costs when nothing happens, with five hundred ports or another number of them; and
//! what it does beside an ADD and a DEL.

use std::fs;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use rig::{Daemon, Lab, idle};
use shared::vlan::PortVlan;

/// Unless another number is given.
const PORTS: usize = 500;

/// Long enough to have the agent's own look at the host in it.
const WATCHED: Duration = Duration::from_secs(40);

/// Far above what it takes; a machine under load is slow.
const SOON: Duration = Duration::from_secs(60);

/// The limit of resident memory.
const MEMORY_KIB: u64 = 20 * 1024;

/// Per cent of one processor: a clock tick or two in [`WATCHED`].
const SHARE: f64 = 0.1;

/// Pairs of ADD and DEL, and the pause between them: far enough apart that none is another's storm.
const PAIRS: u32 = 10;
const APART: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let ports = words.iter().find_map(|word| word.parse().ok()).unwrap_or(PORTS);
    let lab = Lab::new();
    let many = lab.host.container("many");
    let plain = lab.plain(many.name(), PortVlan::untagged());
    for n in 0..ports {
        let mut request = plain.clone();
        request.key.ifname = format!("e{n}").parse().expect("a name");
        drop(lab.attach_as(&request));
    }
    let agent = Daemon::start("ovs-port-agent", lab.host.port_agent().command("run"));
    agent.ready(SOON, || agent.log().contains("the host is up"));
    let interfaces = "/etc/network/interfaces";
    let block = || fs::read_to_string(interfaces).unwrap_or_default();
    agent.ready(SOON, || block().matches("iface veth").count() == ports);
    // Whatever belongs to the start is over, idle threads included.
    thread::sleep(Duration::from_secs(15));
    let seconds = WATCHED.as_secs_f64();
    let taken = idle::watch(agent.pid(), WATCHED);
    let share = taken.processor.as_secs_f64() / seconds * 100.0;
    println!("{ports} ports, {seconds} s without a change:");
    println!("  memory    {} KiB resident, {} KiB of it its own", taken.resident, taken.own);
    println!("  processor {share:.2} %");
    println!("  wake-ups  {:.2} a second", taken.sleeps as f64 / seconds);
    let over = taken.resident >= MEMORY_KIB || share > SHARE;
    if over {
        println!("over the budget: {MEMORY_KIB} KiB and {SHARE} % of a processor");
    }
    let name = plain.key.ifname.clone();
    let busy = thread::scope(|scope| {
        let pairs = scope.spawn(|| {
            for _ in 0..PAIRS {
                let mut request = plain.clone();
                request.key.ifname = name.clone();
                drop(lab.attach_as(&request));
                thread::sleep(APART / 2);
                lab.engine.detach(&request.key).expect("a detach");
                thread::sleep(APART / 2);
            }
        });
        let busy = idle::watch(agent.pid(), APART * PAIRS);
        pairs.join().expect("no panic");
        busy
    });
    println!("for each ADD and DEL, half a second apart:");
    println!("  processor {:.1} ms", busy.processor.as_secs_f64() * 1000.0 / f64::from(PAIRS));
    println!("  wake-ups  {:.1}", busy.sleeps as f64 / f64::from(PAIRS));
    let check = words.iter().any(|word| word == "--check");
    if over && check { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
