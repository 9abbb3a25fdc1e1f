//! The bench: ours, the floor and Debian's `bridge` plugin in turn, on one private host, in one
//! run. What counts is the ratio to the floor; milliseconds belong to the machine.
//!
//! `attach-bench [--rounds N] [--check]`: with `--check` a ratio over its budget is an error.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rig::{Container, Daemon, Host};
use shared::link::Netlink;

/// One IPv4 address for each container, as the floor and the `bridge` plugin give: like with like.
const CONFIGURATION: &str = "\
[[bridge]]
name = \"ovsbr1\"
mode = \"nat\"
uplink = \"default\"
address = \"10.200.0.1/16\"
";

/// Where Debian's containernetworking-plugins live.
const DEBIAN_PLUGINS: &str = "/usr/lib/cni";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let check = words.iter().any(|word| word == "--check");
    let rounds = words
        .iter()
        .position(|word| word == "--rounds")
        .map_or(100, |at| words[at + 1].parse().expect("a number of rounds"));
    // A thread of its own: the host unshares namespaces, and `main` keeps the machine's.
    let over = std::thread::spawn(move || run(rounds)).join().expect("the bench panicked");
    if check && over > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// How long each of the three took.
type Times = [Vec<Duration>; 3];

/// Measures everything; returns how many budgets were missed.
fn run(rounds: usize) -> usize {
    let bench = Bench::new();
    println!(
        "{rounds} rounds, ours, floor and bridge plugin in changing order; milliseconds, median (p90)\n"
    );
    println!(
        "{:<34}{:>16}{:>16}{:>16}{:>8}{:>8}",
        "", "ours", "floor", "bridge", "ratio", "budget"
    );
    let mut over = 0;
    let [adds, dels, settled] = bench.one_by_one(rounds);
    over += report("ADD", &adds, 1.3);
    over += report("DEL", &dels, 1.2);
    over += report("DEL, and the kernel is done", &settled, f64::INFINITY);
    let [adds, dels] = bench.many_at_once(100, 32, 5);
    over += report("100 ADDs, 32 at once", &adds, 1.6);
    over += report("100 DELs, 32 at once", &dels, f64::INFINITY);
    bench.fill(500);
    let [adds, dels, settled] = bench.one_by_one(rounds.min(40));
    over += report("ADD at 500 ports", &adds, 1.2);
    over += report("DEL at 500 ports", &dels, f64::INFINITY);
    over += report("DEL at 500 ports, and the kernel", &settled, f64::INFINITY);
    let peak = bench.peak();
    println!("\n{:<34}{:>13} KiB{:>40}", "peak memory of one ADD", peak, "budget 8192 KiB");
    over + usize::from(peak > 8192)
}

/// Waits until the kernel would make another link: it removes one under a lock that both need.
fn kernel_is_done() -> Duration {
    let start = Instant::now();
    let lo = "lo".parse().unwrap();
    let mut netlink = Netlink::open().unwrap();
    let lo = netlink.link(&lo).unwrap().unwrap();
    // A look alone takes no lock by now (Linux 6.18).
    netlink.set_up(lo.index, true).unwrap();
    start.elapsed()
}

fn report(what: &str, times: &Times, budget: f64) -> usize {
    let [ours, floor, bridge] = times.each_ref().map(|times| summary(times));
    let ratio = ours.0 / floor.0;
    let cell = |(median, p90): (f64, f64)| {
        if median.is_nan() { "-".to_owned() } else { format!("{median:.1} ({p90:.1})") }
    };
    let limit = if budget.is_finite() { format!("{budget:.1}") } else { "-".to_owned() };
    println!(
        "{what:<34}{:>16}{:>16}{:>16}{ratio:>8.2}{limit:>8}{}",
        cell(ours),
        cell(floor),
        cell(bridge),
        if ratio > budget { "  OVER" } else { "" }
    );
    usize::from(ratio > budget)
}

/// Median and 90th percentile in milliseconds.
fn summary(times: &[Duration]) -> (f64, f64) {
    let mut millis: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    millis.sort_by(f64::total_cmp);
    let at = |part: usize| millis.get(millis.len() * part / 100).copied().unwrap_or(f64::NAN);
    (at(50), at(90))
}

/// The same throws in every run (Knuth's MMIX generator).
struct Dice(u64);

impl Dice {
    /// One of the orders in which three can go.
    fn order(&mut self) -> [usize; 3] {
        const ORDERS: [[usize; 3]; 6] =
            [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ORDERS[usize::try_from(self.0 >> 33).unwrap() % ORDERS.len()]
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Variant {
    Ours,
    Floor,
    Bridge,
}

const VARIANTS: [Variant; 3] = [Variant::Ours, Variant::Floor, Variant::Bridge];

struct Bench {
    host: Host,
    plugin: PathBuf,
    floor: PathBuf,
    _agent: Daemon,
}

impl Bench {
    fn new() -> Self {
        let host = Host::new();
        host.config(CONFIGURATION);
        let port_agent = host.port_agent();
        port_agent.run("up");
        // As installed: the agent follows the switch, and the plugin leaves the managed block to it.
        let agent = Daemon::start("port-agent", port_agent.command("run").deadline(Duration::MAX));
        let plugin = host.plugin().path().to_owned();
        let floor = std::env::current_exe().unwrap().with_file_name("attach-floor");
        assert!(floor.exists(), "{} is missing: ./run bench builds it", floor.display());
        Self { host, plugin, floor, _agent: agent }
    }

    /// ADDs, DELs, and DELs until another link could be made.
    fn one_by_one(&self, rounds: usize) -> [Times; 3] {
        let [mut adds, mut dels, mut settled] = <[Times; 3]>::default();
        let mut dice = Dice(1);
        for round in 0..rounds {
            // What one leaves behind in kernel and switch must not always meet the same next one.
            for which in dice.order() {
                let container = self.host.container(&format!("b{round}-{which}"));
                let (id, netns) = (container.name().to_owned(), path(&container));
                let number = round * 3 + which;
                adds[which].push(self.time(VARIANTS[which], "ADD", &id, &netns, number));
                let del = self.time(VARIANTS[which], "DEL", &id, &netns, number);
                dels[which].push(del);
                settled[which].push(del + kernel_is_done());
                container.remove();
            }
        }
        [adds, dels, settled]
    }

    /// ADDs and DELs, each until the kernel was done.
    fn many_at_once(&self, count: usize, width: usize, reps: usize) -> [Times; 2] {
        let [mut adds, mut dels] = <[Times; 2]>::default();
        for rep in 0..reps {
            for turn in 0..VARIANTS.len() {
                let which = (rep + turn) % VARIANTS.len();
                let containers: Vec<Container> = (0..count)
                    .map(|n| self.host.container(&format!("c{rep}-{which}-{n}")))
                    .collect();
                for (verb, times) in [("ADD", &mut adds), ("DEL", &mut dels)] {
                    let start = Instant::now();
                    std::thread::scope(|scope| {
                        for lane in 0..width {
                            let containers = &containers;
                            scope.spawn(move || {
                                for (number, container) in
                                    containers.iter().enumerate().skip(lane).step_by(width)
                                {
                                    let netns = path(container);
                                    self.time(
                                        VARIANTS[which],
                                        verb,
                                        container.name(),
                                        &netns,
                                        number,
                                    );
                                }
                            });
                        }
                    });
                    kernel_is_done();
                    times[which].push(start.elapsed());
                }
                containers.into_iter().for_each(Container::remove);
            }
        }
        [adds, dels]
    }

    /// Runs one verb to its end and returns how long it took, from spawn to exit.
    fn time(&self, variant: Variant, verb: &str, id: &str, netns: &str, number: usize) -> Duration {
        let (mut command, input) = self.command(variant, verb, id, netns, number);
        let start = Instant::now();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let elapsed = start.elapsed();
        assert!(
            output.status.success(),
            "{verb} of {id} failed: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        elapsed
    }

    fn command(
        &self,
        variant: Variant,
        verb: &str,
        id: &str,
        netns: &str,
        number: usize,
    ) -> (Command, String) {
        if variant == Variant::Floor {
            let mut command = Command::new(&self.floor);
            let port = format!("f{number}");
            let socket = "/var/run/openvswitch/db.sock";
            if verb == "ADD" {
                let address = format!("10.77.{}.{}", number / 250, number % 250 + 2);
                command.args([
                    "add",
                    netns,
                    &port,
                    "eth0",
                    &address,
                    "16",
                    "10.77.0.1",
                    "ovsbr1",
                    socket,
                ]);
            } else {
                command.args(["del", &port, "ovsbr1", socket]);
            }
            return (command, String::new());
        }
        let (program, configuration) = if variant == Variant::Ours {
            (self.plugin.clone(), r#"{"cniVersion":"1.0.0","name":"bench","type":"ovs-agent"}"#)
        } else {
            (
                PathBuf::from(DEBIAN_PLUGINS).join("bridge"),
                r#"{"cniVersion":"1.0.0","name":"benchbr","type":"bridge","bridge":"cni0","isGateway":true,"ipam":{"type":"host-local","ranges":[[{"subnet":"10.78.0.0/16"}]],"routes":[{"dst":"0.0.0.0/0"}]}}"#,
            )
        };
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", DEBIAN_PLUGINS)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        (command, configuration.to_owned())
    }

    /// Adds ports that carry nothing, as a busy host has them.
    fn fill(&self, count: usize) {
        let mut links = String::new();
        let mut ports = String::from("ovs-vsctl");
        for number in 0..count {
            links.push_str(&format!("link add fill{number} type veth peer name peer{number}\n"));
            ports.push_str(&format!(" -- add-port ovsbr1 fill{number} vlan_mode=trunk trunks=0"));
        }
        self.host.write("/run/links", &links);
        self.host.sh("sysctl -qw net.ipv6.conf.default.disable_ipv6=1; ip -batch /run/links");
        self.host.sh(&ports);
    }

    /// Peak memory of one ADD in KiB.
    fn peak(&self) -> u64 {
        let container = self.host.container("peak");
        let netns = path(&container);
        let (ours, input) = self.command(Variant::Ours, "ADD", "peak", &netns, 0);
        let mut command =
            Command::new(std::env::current_exe().unwrap().with_file_name("peak-memory"));
        command.arg(ours.get_program()).env_clear();
        command.envs(ours.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        let peak = text.rsplit_once("peak ").expect(&text).1.trim().parse().expect(&text);
        self.time(Variant::Ours, "DEL", "peak", &netns, 0);
        container.remove();
        peak
    }
}

fn path(container: &Container) -> String {
    container.path().display().to_string()
}
