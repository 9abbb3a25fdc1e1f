//! What gets lost while the agent runs is back within ten seconds, and conversations go on: the
//! address of a bridge, the bridge, a port, both daemons of Open vSwitch, its whole database.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use rig::{Container, Daemon, EchoServer, Host, Stream, poll};
use serde_json::{Value, json};

/// The limit of every repair.
const REPAIRED: Duration = Duration::from_secs(10);

/// How long TCP itself may be silent after that: it doubles its pauses while nothing passes.
const PATIENCE: Duration = Duration::from_secs(30);

const GATEWAY: &str = "10.200.0.1";

/// A host with an agent and containers of every kind, talking.
struct House {
    streams: Vec<(&'static str, Stream)>,
    _servers: Vec<EchoServer>,
    containers: Vec<Container>,
    /// What their runtime keeps for CHECK.
    checks: Vec<Value>,
    agent: Daemon,
    host: Host,
}

fn network(name: &str, more: &Value) -> Value {
    let mut network = json!({ "cniVersion": "1.0.0", "name": name, "type": "ovs-agent" });
    for (key, value) in more.as_object().unwrap() {
        network[key] = value.clone();
    }
    network
}

impl House {
    fn new() -> Self {
        let host = Host::new();
        let agent = Daemon::start("ovs-port-agent", host.port_agent().command("run"));
        agent.ready(REPAIRED, || agent.log().contains("the host is up"));
        let plain = || network("lab", &json!({}));
        let own = || {
            let subnets = json!([{ "subnet": "10.30.0.0/24", "gateway": "10.30.0.1" }]);
            network("own", &json!({ "bridge": "ovsbr1", "vlan": 30, "subnets": subnets }))
        };
        let trunk = || {
            let trunk = json!([{ "id": 40 }, { "minID": 50, "maxID": 52 }]);
            network("trunk", &json!({ "bridge": "ovsbr1", "trunk": trunk, "ipam": {} }))
        };
        let (mut containers, mut checks) = (Vec::new(), Vec::new());
        for (name, conf) in [
            ("web", plain()),
            ("db", plain()),
            ("red", own()),
            ("blue", own()),
            ("router", trunk()),
        ] {
            let container = host.container(name);
            let mut conf = conf;
            conf["prevResult"] = host.plugin().add(&container, &conf).success();
            containers.push(container);
            checks.push(conf);
        }
        let _servers =
            vec![host.echo_server(), containers[1].echo_server(), containers[3].echo_server()];
        let mut house = Self { streams: Vec::new(), _servers, containers, checks, agent, host };
        let address = |c: &Container| -> IpAddr {
            let line = c.ip("-o -4 address show dev eth0");
            let text = line.split_whitespace().nth(3).unwrap().split('/').next().unwrap();
            text.parse().unwrap()
        };
        for (what, from, to) in [
            ("web to db", 0, address(&house.containers[1])),
            ("web to its gateway", 0, GATEWAY.parse().unwrap()),
            ("red to blue", 2, address(&house.containers[3])),
            ("red to its gateway", 2, "10.30.0.1".parse().unwrap()),
        ] {
            let mut stream = house.containers[from].stream(to).unwrap();
            stream.exchange(20_000, PATIENCE).unwrap_or_else(|error| panic!("{what}: {error}"));
            house.streams.push((what, stream));
        }
        house
    }

    /// What the switch says of every port of ours.
    fn rows(&self) -> Vec<String> {
        let ports = self.host.vsctl(
            "--format=csv --no-headings --columns=name,tag,trunks,vlan_mode,protected,external_ids \
             find Port external_ids:owner=ovs-agent",
        );
        let mut rows: Vec<_> = ports.lines().map(str::to_owned).collect();
        for bridge in self.host.vsctl("list-br").lines() {
            rows.extend(
                self.host
                    .vsctl(&format!("list-ports {bridge}"))
                    .lines()
                    .map(|port| format!("{bridge} {port}")),
            );
        }
        rows.sort();
        rows
    }

    fn is_reachable(&self) -> bool {
        let ping = |container: usize, address: &str| {
            let ping = format!("ping -n -q -c 1 -W 1 {address}");
            self.containers[container].try_exec(&ping).ok()
        };
        ping(0, GATEWAY) && ping(1, GATEWAY) && ping(2, "10.30.0.1") && ping(3, "10.30.0.1")
    }

    /// After the fault: everything is as it was within ten seconds, and every conversation goes on.
    fn assert_repaired(&mut self, what: &str, before: &[String]) {
        let since = Instant::now();
        poll(&format!("{what}: rows and gateways are back"), REPAIRED, || {
            (self.host.try_sh("ovs-vsctl --timeout=2 show").ok()
                && self.rows() == before
                && self.is_reachable())
            .then_some(())
        });
        println!("{what}: repaired in {:.1} s", since.elapsed().as_secs_f32());
        for (name, stream) in &mut self.streams {
            stream
                .exchange(50_000, PATIENCE)
                .unwrap_or_else(|error| panic!("{what}: {name}: {error}"));
        }
        println!("{what}: every conversation went on after {:.1} s", since.elapsed().as_secs_f32());
        for (container, conf) in self.containers.iter().zip(&self.checks) {
            let check = self.host.plugin().check(container, conf);
            assert!(check.ok(), "{what}: {}: {}", container.name(), check.output);
        }
        assert!(self.agent.alive());
    }
}

#[test]
fn addresses_bridges_ports_and_daemons() {
    let mut house = House::new();
    let before = house.rows();
    assert!(before.iter().any(|row| row.contains("veth-red-eth0,30")), "{before:#?}");
    assert!(before.iter().any(|row| row.contains("[40, 50, 51, 52]")), "{before:#?}");

    house.host.ip("address flush dev ovsbr1");
    house.assert_repaired("a flushed address", &before);

    house.host.vsctl("del-port veth-red-eth0");
    house.assert_repaired("a removed port", &before);

    house.host.vsctl("del-port ovsbr1.30");
    house.assert_repaired("a removed gateway", &before);

    house.host.switch().restart_ovsdb();
    house.assert_repaired("a restarted ovsdb-server", &before);

    house.host.switch().restart_vswitchd();
    house.assert_repaired("a restarted ovs-vswitchd", &before);

    house.host.switch().kill_vswitchd();
    house.host.switch().start_vswitchd();
    house.assert_repaired("a killed ovs-vswitchd", &before);

    house.host.vsctl("--no-wait del-br ovsbr1");
    house.assert_repaired("a removed bridge", &before);
    let log = house.agent.log();
    assert!(log.contains("lab/web/eth0 plugged in again"), "{log}");
}

#[test]
fn an_erased_database() {
    let mut house = House::new();
    let before = house.rows();
    house.host.switch().erase_database();
    house.assert_repaired("an erased conf.db", &before);
    // And once more, both daemons at once.
    house.host.switch().kill_vswitchd();
    house.host.switch().erase_database();
    house.host.switch().start_vswitchd();
    house.assert_repaired("an erased conf.db and a killed ovs-vswitchd", &before);
}

/// Nothing in the kernel says that a table of legacy iptables was changed.
#[test]
fn a_flushed_rule_of_legacy_iptables() {
    let host = Host::new();
    for program in ["iptables-legacy", "ip6tables-legacy"] {
        host.sh(&format!("{program} -P FORWARD DROP"));
    }
    let agent = Daemon::start("ovs-port-agent", host.port_agent().command("run"));
    agent.ready(REPAIRED, || agent.log().contains("the host is up"));
    let passes = |program: &str| {
        let saved = host.sh(&format!("{program}-save -t filter"));
        saved.contains("-A FORWARD") && saved.contains("--comment ovs-agent")
    };
    for program in ["iptables-legacy", "ip6tables-legacy"] {
        assert!(passes(program), "{program}");
        for _ in 0..2 {
            host.sh(&format!("{program} -F FORWARD"));
            let since = Instant::now();
            poll(&format!("{program} passes again"), REPAIRED, || passes(program).then_some(()));
            println!("{program}: back in {:.1} s", since.elapsed().as_secs_f32());
        }
    }
    agent.terminate(PATIENCE);
}
