//! The soak: ADD and DEL through the real plugin, many at once and for long, while ovsdb-server
//! and ovs-vswitchd are restarted and killed; then nothing may be left, and nothing have grown.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shared::config::Config;
use shared::ledger::{self, Ledger};

use crate::binary::Plugin;
use crate::command::poll;
use crate::container::Container;
use crate::daemon::Daemon;
use crate::host::Host;
use crate::lab::Lab;

/// A retry comes after a second, as kubelet's and Podman's do at the soonest, and so often.
const RETRIES: usize = 20;
const PAUSE: Duration = Duration::from_secs(1);

/// Longest a call may take.
const LONGEST_CALL: u64 = 30_000;

/// How often the soak's own clock ticks, in milliseconds. It stands still when the machine does.
const TICK: u64 = 50;

/// The share of pairs that are asked to pass traffic: one of so many.
const SAMPLED: usize = 50;

/// How much is sent through one of those.
const BYTES: usize = 100_000;

/// Between two faults, in milliseconds, at least and at most. ovs-vswitchd waits up to 8 s before it
/// looks for a lost ovsdb-server again.
const FAULTS: (u64, u64) = (5_000, 40_000);

/// Size of conf.db in KiB from which on it is compacted. ovsdb-server does that itself when it has
/// run for ten minutes, which the faults never let it.
const COMPACTED: u64 = 16 << 10;

/// What the agent and Open vSwitch take at some moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Moment {
    /// Pairs done.
    pub pairs: usize,
    /// Seconds since the start.
    pub seconds: f64,
    /// Resident memory in KiB of the agent, ovsdb-server and ovs-vswitchd; 0 while one is away.
    pub memory: [u64; 3],
    /// Their open descriptors.
    pub descriptors: [usize; 3],
    /// Size of conf.db in KiB.
    pub database: u64,
    /// Size of the ledger with its sealed segments in KiB.
    pub ledger: u64,
}

/// What a soak came to.
#[derive(Debug, Default)]
pub struct Soaked {
    /// Pairs done.
    pub pairs: usize,
    /// ADDs that failed at first.
    pub add_failures: usize,
    /// DELs that failed at first.
    pub del_failures: usize,
    /// The most tries that one pair took.
    pub most_tries: usize,
    /// Longest call, in milliseconds of the soak's own clock.
    pub longest: u64,
    /// Pairs that passed traffic.
    pub sampled: usize,
    /// Restarts and kills of ovsdb-server, then of ovs-vswitchd.
    pub faults: [usize; 2],
    /// The course of it.
    pub moments: Vec<Moment>,
    /// What did not hold.
    pub wrong: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// How long and how hard.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Pairs of ADD and DEL.
    pub pairs: usize,
    /// Containers at once.
    pub at_once: usize,
    /// What the dice begin with.
    pub seed: u64,
    /// Exactly so many faults, early; `None` for faults all along.
    pub faults: Option<usize>,
    /// Ends before all pairs are done.
    pub limit: Option<Duration>,
}

/// The same throws for the same seed (Knuth's MMIX generator).
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

struct Soak<'a> {
    plan: Plan,
    lab: &'a Lab,
    plugin: Plugin,
    agent: &'a Daemon,
    peer: IpAddr,
    clock: AtomicU64,
    next: AtomicUsize,
    done: AtomicUsize,
    running: AtomicUsize,
    over: AtomicBool,
    soaked: Mutex<Soaked>,
    started: Instant,
}

/// Runs it on a private host.
pub fn soak(plan: Plan) -> Soaked {
    let host = Host::new();
    host.config("[[bridge]]\nname = \"ovsbr1\"\nmode = \"nat\"\naddresses = [\"10.200.0.1/16\"]\n");
    let (path, sysfs) = (shared::config::DEFAULT_PATH, shared::config::SYSFS);
    let config = Config::load(path.as_ref(), sysfs.as_ref()).expect("a configuration");
    let lab = Lab { engine: shared::attachment::Engine::new(config), host };
    let agent = Daemon::start("ovs-port-agent", lab.host.port_agent().command("run"));
    agent.ready(Duration::from_secs(60), || agent.log().contains("the host is up"));
    let peer = lab.host.container("peer");
    let record = lab.attach(&peer);
    let _server = peer.echo_server();
    let containers: Vec<_> =
        (0..plan.at_once).map(|number| lab.host.container(&format!("c{number}"))).collect();
    let this = Soak {
        plan,
        lab: &lab,
        plugin: lab.host.plugin(),
        agent: &agent,
        peer: record.addresses[0].address.addr(),
        clock: AtomicU64::new(0),
        next: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
        running: AtomicUsize::new(containers.len()),
        over: AtomicBool::new(false),
        soaked: Mutex::default(),
        started: Instant::now(),
    };
    // What the first of all makes stays.
    this.pair(&containers[0], 0);
    // The agent shows the peer a moment after it was plugged in.
    agent.ready(Duration::from_secs(60), || {
        let block = fs::read_to_string("/etc/network/interfaces").unwrap_or_default();
        block.contains(record.port.as_str()) && block.matches("iface veth").count() == 1
    });
    let before = this.settled_picture();
    std::thread::scope(|scope| {
        scope.spawn(|| this.tick());
        scope.spawn(|| this.watch());
        for container in &containers {
            scope.spawn(|| {
                let _at_work = AtWork(&this);
                this.work(container);
            });
        }
        // On this thread: what it starts ends with it.
        this.trouble();
    });
    this.look();
    this.compare(&before);
    this.replay();
    let mut soaked = this.soaked.into_inner().unwrap_or_else(PoisonError::into_inner);
    soaked.pairs = this.done.into_inner();
    soaked.took = this.started.elapsed();
    soaked
}

/// The last one to leave, panicking or not, says that all is over.
struct AtWork<'a>(&'a Soak<'a>);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.over.store(true, Ordering::SeqCst);
        }
    }
}

impl Soak<'_> {
    /// Pairs in one container until all are done.
    fn work(&self, container: &Container) {
        let late = || self.plan.limit.is_some_and(|limit| self.started.elapsed() > limit);
        while !late() {
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            if number >= self.plan.pairs {
                return;
            }
            self.pair(container, number);
            self.done.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// One pair. What fails is tried again as a runtime does: DEL, then ADD.
    fn pair(&self, container: &Container, number: usize) {
        let id = format!("soak-{number}");
        let mut tries = 1;
        loop {
            let added = self.call("ADD", &id, container);
            match added {
                Ok(result) if number.is_multiple_of(SAMPLED) => {
                    match self.passes(container, &result) {
                        Ok(()) => {
                            self.lock().sampled += 1;
                            break;
                        }
                        Err(why) => self.failed(|s| &mut s.add_failures, &why, tries),
                    }
                }
                Ok(_) => break,
                Err(why) => self.failed(|s| &mut s.add_failures, &why, tries),
            }
            if tries > RETRIES {
                self.wrong(format!("{id}: ADD failed {tries} times"));
                break;
            }
            tries += 1;
            std::thread::sleep(PAUSE);
            self.unplug(&id, container);
        }
        self.unplug(&id, container);
        let mut soaked = self.lock();
        soaked.most_tries = soaked.most_tries.max(tries);
    }

    fn unplug(&self, id: &str, container: &Container) {
        for tries in 1..=RETRIES {
            match self.call("DEL", id, container) {
                Ok(_) => return,
                Err(why) => self.failed(|s| &mut s.del_failures, &why, tries),
            }
            std::thread::sleep(PAUSE);
        }
        self.wrong(format!("{id}: DEL failed {RETRIES} times"));
    }

    /// One call of the plugin; its error as a sentence.
    fn call(&self, verb: &str, id: &str, container: &Container) -> Result<Value, String> {
        let conf = json!({"cniVersion": "1.0.0", "name": "soak", "type": "ovs-agent"});
        let netns = container.path().display().to_string();
        let began = self.clock.load(Ordering::Relaxed);
        let reply = self.plugin.call(verb, id, &netns, "eth0", &conf);
        let took = (self.clock.load(Ordering::Relaxed) - began) * TICK;
        let mut soaked = self.lock();
        soaked.longest = soaked.longest.max(took);
        drop(soaked);
        if took > LONGEST_CALL {
            self.wrong(format!("{verb} {id} took {took} ms"));
        }
        if reply.ok() {
            return Ok(reply.json);
        }
        let said = reply.json["msg"].as_str().map(str::to_owned);
        let details = reply.json["details"].as_str().unwrap_or_default();
        match said {
            Some(msg) => Err(format!("{msg} {details}")),
            None => {
                self.wrong(format!("{verb} failed without an error: {}", reply.output));
                Err(String::new())
            }
        }
    }

    /// A healthy port passes traffic; while the switch is away none does, and the pair is tried
    /// again.
    fn passes(&self, container: &Container, result: &Value) -> Result<(), String> {
        let address = result["ips"][0]["address"].as_str().unwrap_or_default().to_owned();
        let sent = container.tcp_echo(self.peer, BYTES);
        sent.map_err(|error| format!("no traffic from {address}: {error}"))
    }

    /// The first failures are told, whatever becomes of them.
    fn failed(&self, which: fn(&mut Soaked) -> &mut usize, why: &str, tries: usize) {
        let mut soaked = self.lock();
        *which(&mut soaked) += usize::from(tries == 1);
        if tries > 5 {
            println!("  after {tries} tries: {why}");
        }
    }

    fn wrong(&self, what: String) {
        println!("WRONG {what}");
        self.lock().wrong.push(what);
    }

    fn tick(&self) {
        while !self.over() {
            std::thread::sleep(Duration::from_millis(TICK));
            self.clock.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Restarts and kills the daemons of Open vSwitch.
    fn trouble(&self) {
        let mut dice = Dice(self.plan.seed);
        let switch = self.lab.host.switch();
        let mut count = 0;
        loop {
            let pause = if self.plan.faults.is_some() {
                500
            } else {
                FAULTS.0 + dice.throw(FAULTS.1 - FAULTS.0)
            };
            let end = Instant::now() + Duration::from_millis(pause);
            while Instant::now() < end {
                if self.over() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(TICK));
            }
            if self.plan.faults.is_some_and(|faults| count >= faults) {
                return;
            }
            // With few, one of each kind in turn.
            let kind = if self.plan.faults.is_some() {
                count % 4
            } else {
                usize::try_from(dice.throw(4)).expect("small")
            };
            let away = Duration::from_millis(dice.throw(500));
            match kind {
                0 => switch.restart_ovsdb(),
                1 => switch.restart_vswitchd(),
                2 => {
                    switch.kill_ovsdb();
                    std::thread::sleep(away);
                    switch.start_ovsdb();
                }
                _ => {
                    switch.kill_vswitchd();
                    std::thread::sleep(away);
                    switch.start_vswitchd();
                }
            }
            count += 1;
            self.lock().faults[kind % 2] += 1;
        }
    }

    /// Looks at what the processes take, some forty times.
    fn watch(&self) {
        let step = (self.plan.pairs / 40).max(1);
        let mut wanted = 0;
        while !self.over() {
            if self.done.load(Ordering::SeqCst) >= wanted {
                wanted += step;
                self.look();
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn look(&self) {
        let [ovsdb, vswitchd] = self.lab.host.switch().pids();
        let pids = [Some(self.agent.pid().as_raw()), ovsdb, vswitchd];
        let memory = |pid: Option<i32>| {
            let status = fs::read_to_string(format!("/proc/{}/status", pid?)).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let descriptors =
            |pid: Option<i32>| Some(fs::read_dir(format!("/proc/{}/fd", pid?)).ok()?.count());
        let size = |path: &str| fs::metadata(path).map_or(0, |file| file.len() / 1024);
        let ledger = fs::read_dir("/var/lib/ovs-port-agent").into_iter().flatten().flatten();
        let ledger =
            ledger.filter(|entry| entry.file_name().to_string_lossy().starts_with("ledger"));
        let moment = Moment {
            pairs: self.done.load(Ordering::SeqCst),
            seconds: self.started.elapsed().as_secs_f64(),
            memory: pids.map(|pid| memory(pid).unwrap_or_default()),
            descriptors: pids.map(|pid| descriptors(pid).unwrap_or_default()),
            database: size("/run/rig/conf.db"),
            ledger: ledger.map(|entry| entry.metadata().map_or(0, |file| file.len() / 1024)).sum(),
        };
        println!("{moment}");
        self.lock().moments.push(moment);
        if moment.database > COMPACTED {
            self.lab.host.switch().compact();
        }
    }

    /// What there is when the switch and the agent have come to rest.
    fn settled_picture(&self) -> crate::snapshot::Snapshot {
        self.lab.ovsdb();
        self.lab.snapshot()
    }

    /// Nothing is left.
    fn compare(&self, before: &crate::snapshot::Snapshot) {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let difference = before.difference(&self.settled_picture());
            if difference.is_empty() {
                return;
            }
            if Instant::now() > end {
                self.wrong(format!("the host is not as it was:\n{difference}"));
                return;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// The ledger's chain holds, through all its rotations, and only the peer is open in it.
    fn replay(&self) {
        let ledger: Ledger = self.lab.engine.ledger();
        let report = poll("the spool is empty", Duration::from_secs(30), || {
            let report = ledger.verify().expect("the ledger");
            (report.spooled == 0).then_some(report)
        });
        if !report.is_sound() {
            self.wrong(format!("the ledger: {report:?}"));
        }
        let open = ledger.open().expect("the ledger");
        let open: BTreeSet<_> =
            open.iter().filter_map(|l: &ledger::Line| l.event.container.as_deref()).collect();
        if open != BTreeSet::from(["peer"]) {
            self.wrong(format!("open in the ledger: {open:?}"));
        }
        println!(
            "the ledger: {} lines in {} files, {} breaks",
            report.lines, report.files, report.breaks
        );
    }

    fn over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Soaked> {
        self.soaked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pairs, seconds, memory, descriptors, database, ledger } = self;
        write!(f, "{pairs:>8}{seconds:>8.0} s")?;
        for (memory, descriptors) in memory.iter().zip(descriptors) {
            write!(f, "{memory:>9} KiB{descriptors:>4} fd")?;
        }
        write!(f, "{database:>9} KiB{ledger:>9} KiB")
    }
}
