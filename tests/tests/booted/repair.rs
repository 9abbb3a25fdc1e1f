//! What gets lost on a booted host is back within ten seconds, under the hardened unit, and a TCP
//! stream goes on.

use std::time::{Duration, Instant};

use rig::{INTERNET, Machine, poll};
use serde_json::json;

use super::{CONFIG, SECOND, lab, users_machine};

/// The limit of every repair.
const REPAIRED: Duration = Duration::from_secs(10);

/// How long TCP itself may be silent after that: it doubles its pauses while nothing passes.
const PATIENCE: Duration = Duration::from_secs(30);

/// The rows of our ports, and which bridge has which.
fn rows(machine: &Machine) -> String {
    let looked = machine.try_sh(
        "ovs-vsctl --timeout=2 --format=csv --no-headings \
             --columns=name,tag,trunks,vlan_mode,protected,external_ids \
             find Port external_ids:owner=ovs-agent | sort
         for bridge in $(ovs-vsctl --timeout=2 list-br); do
             ovs-vsctl --timeout=2 list-ports $bridge | sed \"s/^/$bridge /\" | sort
         done",
    );
    if looked.ok() { looked.stdout } else { String::new() }
}

#[test]
fn whatever_is_lost_comes_back_and_a_stream_goes_on() {
    let machine = users_machine();
    machine.install(CONFIG);
    machine.sh("for n in web db; do ip netns add $n; ip -n $n link set lo up; done");
    let mut own = lab();
    own["name"] = json!("own");
    own["bridge"] = json!("ovsbr1");
    own["vlan"] = json!(30);
    own["subnets"] = json!([{ "subnet": "10.30.0.0/24", "gateway": "10.30.0.1" }]);
    machine.cni("ADD", "web", &own);
    machine.cni("ADD", "db", &own);
    let web = machine.netns("web", "/run/netns/web");
    let db = machine.netns("db", "/run/netns/db");
    let address = db.ip("-o -4 address show dev eth0");
    let address = address.split_whitespace().nth(3).unwrap().split('/').next().unwrap();
    let _servers = [db.echo_server(), machine.network().echo_server()];
    let mut streams = [
        ("web to db", web.stream(address.parse().unwrap()).unwrap()),
        ("web to its gateway", web.stream("10.30.0.1".parse().unwrap()).unwrap()),
        ("web to the internet", poll("NAT", SECOND * 15, || web.stream(INTERNET).ok())),
    ];
    let outside = machine.wireless().router();
    let before = rows(&machine);
    assert!(before.contains("veth-web-eth0") && before.contains("ovsbr1.30"), "{before}");
    let rules =
        || machine.sh("nft list table inet ovs-agent 2>/dev/null | grep -c masquerade || true");
    let masquerades = rules();

    for (what, fault) in [
        ("a deleted address", "ip address del 10.200.0.1/24 dev ovsbr1"),
        ("a gateway's addresses", "ip address flush dev ovsbr1.30"),
        ("the address of the moved wire", "ip address flush dev ovsbr0"),
        ("a flushed ruleset", "nft flush ruleset; iptables -F"),
        ("a port unplugged by hand", "ovs-vsctl del-port veth-web-eth0"),
        ("a removed bridge", "ovs-vsctl del-br ovsbr1"),
        ("a restarted ovs-vswitchd", "systemctl restart ovs-vswitchd"),
        ("a restarted ovsdb-server", "systemctl restart ovsdb-server"),
        ("a killed ovs-vswitchd", "systemctl kill -s KILL ovs-vswitchd"),
        (
            "an erased conf.db",
            "systemctl stop ovs-vswitchd ovsdb-server; rm -f /etc/openvswitch/conf.db \
                 /var/lib/openvswitch/conf.db; systemctl start ovsdb-server ovs-vswitchd",
        ),
    ] {
        let done = machine.try_sh(fault);
        assert!(done.ok() || what == "a flushed ruleset", "{what}: {done}");
        let since = Instant::now();
        poll(what, REPAIRED, || {
            let addresses = machine.sh("ip -o -4 address show");
            (rows(&machine) == before
                && ["10.200.0.1/24", "10.30.0.1/24", "172.16.0.10/24"]
                    .iter()
                    .all(|address| addresses.contains(address))
                && rules() == masquerades)
                .then_some(())
        });
        println!("{what}: repaired after {:.1} s", since.elapsed().as_secs_f64());
        for (name, stream) in &mut streams {
            stream
                .exchange(50_000, PATIENCE)
                .unwrap_or_else(|error| panic!("{what}: {name}: {error}"));
        }
        println!("{what}: streams go on after {:.1} s", since.elapsed().as_secs_f64());
        assert!(!outside.ping("10.30.0.1".parse().unwrap()), "{what}: let in from outside");
    }
    machine.wait(
        "all well",
        SECOND * 20,
        "systemctl status --no-pager ovs-port-agent | grep 'Status: \"the host is as it should be'",
    );
}
