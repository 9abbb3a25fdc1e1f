//! The fault matrix of docs/faults.md, as far as no other subject holds a row of it. `./run faults
//! --long` does more of everything.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod agent;
mod clock;
mod database;
mod disk;
mod firewall;
mod page;
mod parallel;
mod vswitchd;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use rig::{CONVERGED, Container, Daemon, Host, Reply, Snapshot, poll};
use serde_json::{Value, json};
use shared::attachment::{Engine, owner};
use shared::config::Config;
use shared::ovsdb::Client;

/// The longest any call may take (invariant I6).
const LONGEST: Duration = Duration::from_secs(30);

const GATEWAY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 200, 0, 1));

/// A host that is up, beside things of others, and the plugin on it.
struct Site {
    // Fields drop in this order.
    agent: Option<Daemon>,
    engine: Engine,
    /// What it looks like with nothing plugged in.
    before: Snapshot,
    host: Host,
}

fn lab() -> Value {
    json!({ "cniVersion": "1.0.0", "name": "lab", "type": "ovs-agent" })
}

/// The same with these ports published.
fn publishing(ports: &Value) -> Value {
    let mut conf = lab();
    conf["capabilities"] = json!({ "portMappings": true });
    conf["runtimeConfig"] = json!({ "portMappings": ports });
    conf
}

fn start(host: &Host) -> Daemon {
    let agent = Daemon::start("ovs-port-agent", host.port_agent().command("run"));
    agent.ready(CONVERGED, || agent.log().contains("the host is up"));
    let state = shared::state::State::new("/run/ovs-port-agent".into());
    agent.ready(CONVERGED, || shared::control::is_served(&state));
    agent
}

impl Site {
    /// Without an agent.
    fn new() -> Self {
        let host = Host::new();
        Self::foreign(&host);
        host.port_agent().run("up");
        let before = host.snapshot();
        Self { agent: None, engine: Engine::new(Config::default()), before, host }
    }

    /// With an agent that runs.
    fn with_agent() -> Self {
        Self::configured("")
    }

    /// With these lines of configuration, and an agent that runs.
    fn configured(config: &str) -> Self {
        let host = Host::new();
        Self::foreign(&host);
        host.config(config);
        let agent = start(&host);
        let mut before = host.snapshot();
        poll("the host settles", CONVERGED, || {
            let now = host.snapshot();
            let same = before.difference(&now).is_empty();
            before = now;
            same.then_some(())
        });
        Self { agent: Some(agent), engine: Engine::new(Config::default()), before, host }
    }

    /// What must come through every fault as it is (invariant I3).
    fn foreign(host: &Host) {
        host.bridge("theirs");
        host.ip("link add their0 type veth peer name their1");
        host.vsctl("add-port theirs their0 tag=30 -- set Port their0 external_ids:whose=theirs");
        host.ip("address add 192.0.2.1/24 dev their1");
        host.sh("nft 'table inet theirs { chain c { tcp dport 22 accept; }; }'");
        host.sh("iptables -A INPUT -p tcp --dport 2222 -j ACCEPT");
        host.sh("printf '# theirs\\niface their1 inet manual\\n' >>/etc/network/interfaces");
    }

    fn agent(&self) -> &Daemon {
        self.agent.as_ref().unwrap()
    }

    /// ADD; no call takes longer than [`LONGEST`].
    fn add(&self, container: &Container, conf: &Value) -> Reply {
        timely(self.host.plugin().add(container, conf))
    }

    /// DEL, likewise.
    fn del(&self, container: &Container, conf: &Value) -> Reply {
        timely(self.host.plugin().del(container, conf))
    }

    /// A container that is plugged in, with its first address.
    fn plug(&self, name: &str) -> (Container, IpAddr) {
        let container = self.host.container(name);
        let result = self.add(&container, &lab()).success();
        (container, address(&result))
    }

    /// Invariants I1, I2 and I4: what is plugged in is what everybody says is, works, and nothing
    /// else is there.
    #[track_caller]
    fn assert_whole(&self, what: &str, plugged: &[&Container]) {
        let wanted: BTreeSet<String> = plugged.iter().map(|c| c.name().to_owned()).collect();
        poll(&format!("{what}: records, ports, leases and the ledger agree"), CONVERGED, || {
            let engine = &self.engine;
            let (records, unreadable) = engine.records().ok()?;
            let recorded: BTreeSet<_> =
                records.iter().filter(|r| r.complete).map(|r| r.key.container.clone()).collect();
            let mut ovsdb = Client::connect(&engine.config().ovsdb, CONVERGED).ok()?;
            let ports = ovsdb.ports_with(&owner::ours()).ok()?;
            let switched: BTreeSet<_> =
                ports.iter().filter_map(owner::key_of).map(|key| key.container).collect();
            let leases = engine.pools().leases().ok()?;
            let owners: BTreeSet<_> = leases
                .iter()
                .filter_map(|(_, lease)| lease.owner.split('/').nth(1).map(str::to_owned))
                .collect();
            let told = engine.ledger().open().ok()?;
            let told: BTreeSet<_> =
                told.into_iter().filter_map(|line| line.event.container).collect();
            // One address of each family for each.
            let agree = [&recorded, &switched, &owners, &told].iter().all(|set| **set == wanted);
            let once = leases.len() == 2 * wanted.len();
            (agree && once && unreadable.is_empty()).then_some(())
        });
        let report = self.engine.ledger().verify().unwrap();
        assert!(report.breaks == 0 && report.is_sound(), "{what}: {report:?}");
        let mut given = BTreeSet::new();
        for container in plugged {
            let record = self.engine.records().unwrap().0;
            let record = record.iter().find(|r| r.key.container == container.name()).unwrap();
            let inside = container.ip("-o address show dev eth0");
            for held in &record.leases {
                assert!(inside.contains(&format!(" {}/", held.ip)), "{what}: {inside}");
                assert!(given.insert(held.ip), "{what}: {} has two owners", held.ip);
            }
            poll(&format!("{what}: {} reaches its gateway", container.name()), CONVERGED, || {
                container.ping(GATEWAY).then_some(())
            });
        }
    }

    /// Invariants I1, I3 and I4 with nothing plugged in: the host is what it was.
    #[track_caller]
    fn assert_clean(&self, what: &str) {
        self.assert_whole(what, &[]);
        let mut difference = Vec::new();
        let end = std::time::Instant::now() + CONVERGED;
        while std::time::Instant::now() < end {
            difference = self.difference();
            if difference.is_empty() {
                return;
            }
        }
        panic!("{what}: the host is not as it was:\n{}", difference.join("\n"));
    }

    /// What is not as it was, a line each: containers that the test itself has are no matter, nor
    /// what the agent says of its own process, nor a spool with nothing in it.
    fn difference(&self) -> Vec<String> {
        let text = self.before.difference(&self.host.snapshot());
        let changes = text.lines().filter(|line| line.starts_with("  "));
        let own = ["/run/netns/", "/run/ovs-port-agent/agent.json", "ledger.spool 100600 0:0 0 "];
        changes
            .filter(|line| !own.iter().any(|file| line.contains(file)))
            .map(str::to_owned)
            .collect()
    }

    /// Invariant I5 and the rest: the same verbs succeed, and then nothing is left.
    #[track_caller]
    fn assert_heals(&self, what: &str, container: &Container) {
        self.add(container, &lab()).success();
        self.assert_whole(what, &[container]);
        self.del(container, &lab()).success();
        self.assert_clean(what);
    }
}

#[track_caller]
fn timely(reply: Reply) -> Reply {
    assert!(reply.output.took < LONGEST, "{}", reply.output);
    reply
}

/// The first address of a result.
fn address(result: &Value) -> IpAddr {
    let text = result["ips"][0]["address"].as_str().unwrap();
    text.split('/').next().unwrap().parse().unwrap()
}

/// An error of the plugin as one text.
fn said(error: &Value) -> String {
    let word = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
    format!("{} | {}", word("msg"), word("details"))
}
