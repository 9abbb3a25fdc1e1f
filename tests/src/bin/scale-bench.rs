//! What each act costs against the number of ports attached to one bridge.
//!
//! `scale-bench [--ports 0,100,…] [--rounds N] [--svg FILE]`

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rig::chart::{Chart, Series};
use rig::{Container, Daemon, Host, idle};
use serde_json::json;

/// A pool that holds a thousand.
const CONFIGURATION: &str = "\
[[bridge]]
name = \"ovsbr1\"
mode = \"nat\"
uplink = \"default\"
address = \"10.200.0.1/16\"
";

/// How many ADDs fill the bridge at once.
const LANES: usize = 8;

/// What is measured, in the order of the columns.
const ACTS: [&str; 6] = ["ADD", "ADD, the floor", "CHECK", "DEL", "status", "gc --dry-run"];

/// How long the idle agent is watched.
const WATCHED: Duration = Duration::from_secs(10);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let value = |flag: &str| {
        let at = words.iter().position(|word| word == flag)?;
        Some(words.get(at + 1).unwrap_or_else(|| panic!("{flag} wants a value")).clone())
    };
    let steps = value("--ports").unwrap_or_else(|| "0,50,100,250,500,750,1000".to_owned());
    let steps: Vec<usize> =
        steps.split(',').map(|step| step.parse().expect("--ports: numbers")).collect();
    let rounds = value("--rounds").map_or(15, |text| text.parse().expect("--rounds: a number"));
    let svg = value("--svg").map(PathBuf::from);
    // A thread of its own: the host unshares namespaces, and `main` keeps the machine's.
    thread::spawn(move || run(&steps, rounds, svg.as_deref())).join().expect("the bench panicked");
}

fn run(steps: &[usize], rounds: usize, svg: Option<&Path>) {
    let mut bench = Bench::new();
    println!("{rounds} rounds at each step, one act at a time on a switch at rest");
    println!("milliseconds, median; the agent: memory, and processor over {WATCHED:?} at rest\n");
    print!("{:>6}", "ports");
    ACTS.iter().for_each(|act| print!("{act:>16}"));
    println!("{:>20}", "the agent");
    let mut curves: Vec<Vec<(f64, f64)>> = vec![Vec::new(); ACTS.len()];
    for &ports in steps {
        bench.fill(ports);
        let medians = bench.measure(rounds);
        print!("{ports:>6}");
        for (median, curve) in medians.iter().zip(&mut curves) {
            print!("{median:>16.1}");
            curve.push((ports as f64, *median));
        }
        let (memory, share) = bench.agent_at_rest();
        println!("{:>12.1} MiB{share:>6.2} %", memory as f64 / 1024.0);
        // After each step: what was measured stays if a later one fails.
        if let Some(path) = svg {
            draw(&curves, path);
        }
    }
}

fn draw(curves: &[Vec<(f64, f64)>], path: &Path) {
    let series = ACTS.iter().zip(curves);
    let chart = Chart {
        title: "Milliseconds of one act against the ports on the bridge".to_owned(),
        x: "attached ports".to_owned(),
        y: "ms".to_owned(),
        series: series
            .map(|(name, points)| Series { name: (*name).to_owned(), points: points.clone() })
            .collect(),
    };
    fs::write(path, chart.svg()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

struct Bench {
    host: Host,
    /// One for each attached port: a thousand links in one namespace would have the kernel search
    /// a thousand routes for every frame that the bridge floods.
    attached: Vec<Container>,
    agent: Daemon,
    /// Attachments measured so far.
    acts: usize,
}

impl Bench {
    fn new() -> Self {
        let host = Host::new();
        host.config(CONFIGURATION);
        let port_agent = host.port_agent();
        port_agent.run("up");
        let agent = Daemon::start("port-agent", port_agent.command("run").deadline(Duration::MAX));
        Self { host, attached: Vec::new(), agent, acts: 0 }
    }

    /// Attaches until there are so many.
    fn fill(&mut self, ports: usize) {
        let first = self.attached.len();
        let more: Vec<Container> = thread::scope(|scope| {
            let bench = &*self;
            let lane = |lane| {
                let numbers = (first + lane..ports).step_by(LANES);
                scope.spawn(move || numbers.map(|number| bench.attach(number)).collect::<Vec<_>>())
            };
            let lanes: Vec<_> = (0..LANES).map(lane).collect();
            lanes.into_iter().flat_map(|lane| lane.join().expect("a lane")).collect()
        });
        self.attached.extend(more);
        self.rest();
    }

    fn attach(&self, number: usize) -> Container {
        let container = self.host.container(&format!("m{number}"));
        let netns = container.path().display().to_string();
        self.plugin("ADD", container.name(), &netns, "eth0");
        container
    }

    /// Lets ovs-vswitchd finish what the last act has caused, and the agent look at it: it does so
    /// once nothing has changed for `debounce_ms`, 500.
    fn rest(&self) {
        let ports = u64::try_from(self.attached.len()).expect("few ports");
        thread::sleep(Duration::from_micros(700_000 + 800 * ports));
    }

    fn measure(&mut self, rounds: usize) -> [f64; 6] {
        let mut times: [Vec<Duration>; 6] = Default::default();
        for _ in 0..rounds {
            self.acts += 1;
            let name = format!("c{}", self.acts);
            let container = self.host.container(&name);
            let netns = container.path().display().to_string();
            self.rest();
            times[0].push(self.plugin("ADD", &name, &netns, "eth0"));
            self.rest();
            // These change nothing.
            times[2].push(self.plugin("CHECK", &name, &netns, "eth0"));
            times[4].push(self.port_agent(&["status"]));
            times[5].push(self.port_agent(&["gc", "--dry-run"]));
            times[3].push(self.plugin("DEL", &name, &netns, "eth0"));
            self.rest();
            times[1].push(self.floor(&netns));
            let port = format!("f{}", self.acts);
            self.run(Command::new(beside("attach-floor")).args(["del", &port, "ovsbr1", SOCKET]));
            container.remove();
        }
        times.map(|mut times| {
            times.sort();
            times[times.len() / 2].as_secs_f64() * 1e3
        })
    }

    /// One verb of the plugin, from spawn to exit.
    fn plugin(&self, verb: &str, id: &str, netns: &str, ifname: &str) -> Duration {
        let mut conf = json!({ "cniVersion": "1.0.0", "name": "scale", "type": "ovs-agent" });
        if verb == "CHECK" {
            conf["prevResult"] = json!({ "cniVersion": "1.0.0", "interfaces": [
                { "name": ifname, "sandbox": netns }
            ], "ips": [] });
        }
        let start = Instant::now();
        self.host.plugin().call(verb, id, netns, ifname, &conf).success();
        start.elapsed()
    }

    fn port_agent(&self, words: &[&str]) -> Duration {
        self.run(Command::new(self.host.port_agent().path()).args(words))
    }

    fn floor(&self, netns: &str) -> Duration {
        let port = format!("f{}", self.acts);
        let address = format!("10.77.{}.{}", self.acts / 250, self.acts % 250 + 2);
        self.run(Command::new(beside("attach-floor")).args([
            "add",
            netns,
            &port,
            "eth0",
            &address,
            "16",
            "10.77.0.1",
            "ovsbr1",
            SOCKET,
        ]))
    }

    fn run(&self, command: &mut Command) -> Duration {
        let start = Instant::now();
        let output = command.stdin(Stdio::null()).output().expect("it starts");
        let took = start.elapsed();
        assert!(output.status.success(), "{command:?}: {output:?}");
        took
    }

    /// Resident memory in KiB, and per cent of one processor, while nothing happens.
    fn agent_at_rest(&self) -> (u64, f64) {
        // Whatever the last act has caused is over, idle threads included.
        thread::sleep(Duration::from_secs(12));
        let taken = idle::watch(self.agent.pid(), WATCHED);
        (taken.resident, taken.processor.as_secs_f64() / WATCHED.as_secs_f64() * 100.0)
    }
}

/// Where the private host's ovsdb-server listens.
const SOCKET: &str = "/var/run/openvswitch/db.sock";

/// A program built with this one.
fn beside(name: &str) -> PathBuf {
    let path = std::env::current_exe().expect("a path").with_file_name(name);
    assert!(path.exists(), "{} is missing: ./run bench scale builds it", path.display());
    path
}
