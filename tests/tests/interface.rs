//! `ovs-port-agent attach` and `detach`: interfaces that somebody else made, by hand.

use std::net::IpAddr;
use std::time::Duration;

use rig::{Command, Container, Daemon, Host, assert_same, poll};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(15);

fn gateway() -> IpAddr {
    "10.200.0.1".parse().unwrap()
}

/// A host that is up, and a pair as one makes it by hand: `veth1` here, `eth0` of "web".
fn pair(host: &Host) -> Container {
    host.port_agent().run("up");
    let web = host.container("web");
    host.ip("link add veth1 type veth peer name eth0 netns web");
    host.ip("link set veth1 up");
    web.ip("link set eth0 up");
    web
}

fn passes_traffic(host: &Host, web: &Container) {
    web.ip("address replace 10.200.0.9/24 dev eth0");
    let echo = host.echo_server();
    poll("ping passes", SOON, || web.ping(gateway()).then_some(()));
    web.tcp_echo(gateway(), 300_000).unwrap();
    drop(echo);
    web.ip("address flush dev eth0");
}

#[test]
fn a_pair_by_hand_and_back() {
    let host = Host::new();
    let web = pair(&host);
    let agent = host.port_agent();
    let before = host.snapshot();
    let said = agent.run("attach veth1 --bridge ovsbr1");
    assert_eq!(said, "veth1 plugged into ovsbr1 as veth-web-eth0 (untagged)\n");
    passes_traffic(&host, &web);
    assert_eq!(agent.run("attach veth-web-eth0 --bridge ovsbr1"), said, "again");
    let ids = host.vsctl("get Port veth-web-eth0 external_ids");
    for word in [
        "owner=ovs-agent",
        "ovs-agent-container=web",
        "ovs-agent-runtime=port-agent",
        "ovs-agent-caller=attach",
        "ovs-agent-adopted=veth1",
    ] {
        assert!(ids.contains(word), "{word}: {ids}");
    }
    assert!(agent.run("status").contains("port-agent"));
    let ledger = agent.run("ledger show");
    assert!(ledger.contains("attach") && ledger.contains("veth-web-eth0"), "{ledger}");
    let json: Value = serde_json::from_str(&agent.run("detach veth1 --json")).unwrap();
    assert_eq!(json["interface"], "veth1");
    assert_eq!(json["port"], "veth-web-eth0");
    assert_same(&before, &host.snapshot());
    let again = agent.output("detach veth1");
    assert!(!again.ok() && again.stderr.contains("interface veth1 is not plugged in"), "{again}");
    agent.run("ledger verify");
}

/// Plugging it in renamed the first, so that another could have its name: that one was taken for
/// the first, which `attach` called plugged in, or unplugged.
#[test]
fn a_name_that_came_back_is_another_interface() {
    let host = Host::new();
    let web = pair(&host);
    let agent = host.port_agent();
    agent.run("attach veth1 --bridge ovsbr1");
    let db = host.container("db");
    host.ip("link add veth1 type veth peer name eth0 netns db");
    let refused = agent.output("detach veth1");
    assert!(refused.stderr.contains("interface veth1 is not plugged in"), "{refused}");
    let said = agent.run("attach veth1 --bridge ovsbr1");
    assert_eq!(said, "veth1 plugged into ovsbr1 as veth-db-eth0 (untagged)\n");
    db.ip("link set eth0 up");
    passes_traffic(&host, &db);
    passes_traffic(&host, &web);
    // Both had it.
    let refused = agent.output("detach veth1");
    assert!(refused.stderr.contains("interface veth1 is not plugged in"), "{refused}");
    agent.run("detach veth-db-eth0");
    host.ip("link delete veth1");
    agent.run("detach veth1");
    assert_eq!(host.ip("-o link show veth1").lines().count(), 1, "web's has its name back");
}

/// The same where the namespace has no name: the attachment is named after the interface.
#[test]
fn a_name_that_came_back_takes_no_port_from_the_first() {
    let host = Host::new();
    let agent = host.port_agent();
    agent.run("up");
    let ports = || {
        host.vsctl("list-ports ovsbr1").split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let _containers = [1, 2].map(|number| {
        let command = Command::new("unshare").args(["-n", "sleep", "600"]);
        let container = Daemon::start("nameless", command.deadline(Duration::MAX));
        let pid = container.pid();
        poll("it has its namespace", SOON, || {
            let own = host.sh(&format!("readlink /proc/self/ns/net /proc/{pid}/ns/net | sort -u"));
            (own.lines().count() == 2).then_some(())
        });
        host.ip(&format!("link add veth7 type veth peer name eth{number} netns {pid}"));
        agent.run("attach veth7 --bridge ovsbr1");
        assert_eq!(ports().len(), number, "{:?}", ports());
        container
    });
    for port in ports() {
        agent.run(&format!("detach {port}"));
    }
    assert_eq!(ports(), Vec::<String>::new());
}

#[test]
fn another_vlan_or_bridge_plugs_it_in_anew() {
    let host = Host::new();
    let web = pair(&host);
    let agent = host.port_agent();
    let json: Value =
        serde_json::from_str(&agent.run("attach veth1 --bridge ovsbr1 --vlan 20 --json")).unwrap();
    assert_eq!((&json["vlan"], &json["bridge"]), (&"20".into(), &"ovsbr1".into()));
    web.ip("address replace 10.200.0.9/24 dev eth0");
    assert!(!web.ping(gateway()), "VLAN 20 is not the gateway's");
    agent.run("attach veth1 --bridge ovsbr1");
    passes_traffic(&host, &web);
    let port = agent.run("attach veth1 --bridge ovsbr0");
    let name = port.split_whitespace().nth(5).unwrap();
    assert_eq!(host.vsctl("list-ports ovsbr0").trim(), name, "{port}");
    assert!(!host.vsctl("list-ports ovsbr1").contains("veth"));
    // As "down" does.
    agent.run("down --force");
    assert!(host.ip("link show veth1").contains("veth1@if"), "it is given back, not deleted");
}

#[test]
fn the_name_of_the_other_end_is_as_good() {
    let host = Host::new();
    let _web = pair(&host);
    let agent = host.port_agent();
    let said = agent.run("attach eth0 --netns web");
    assert_eq!(said, "veth1 plugged into ovsbr0 as veth-web-eth0 (untagged)\n");
    agent.run("detach veth-web-eth0");
    let said = agent.run("attach veth1 --netns /run/netns/web --vlan 7");
    assert_eq!(said, "veth1 plugged into ovsbr0 as veth-web-eth0 (7)\n");
}

#[test]
fn without_renaming_names_stay() {
    let host = Host::new();
    host.config("enable_rename = false\n");
    let web = pair(&host);
    let agent = host.port_agent();
    let before = host.snapshot();
    for _ in 0..3 {
        // The same name at once: the switch must have forgotten the last port first.
        let said = agent.run("attach veth1 --bridge ovsbr1");
        assert_eq!(said, "veth1 plugged into ovsbr1 (untagged)\n");
        passes_traffic(&host, &web);
        agent.run("detach veth1");
    }
    assert_same(&before, &host.snapshot());
}

#[test]
fn what_is_in_use_is_refused_and_left() {
    let host = Host::new();
    let _web = pair(&host);
    let agent = host.port_agent();
    host.ip("link add name br9 type bridge");
    host.ip("link add veth2 type veth peer name veth3");
    host.ip("link set veth2 master br9");
    host.ip("link add veth4 type veth peer name veth5");
    host.ip("link set veth4 up");
    host.ip("route add 192.0.2.0/24 dev veth4");
    host.ip("tuntap add mode tun tun0");
    let before = host.snapshot();
    for (arguments, words) in [
        (
            "attach veth2",
            "interface veth2 cannot be plugged in: it is a member of br9; take it out: ip link set veth2 nomaster",
        ),
        ("attach veth4", "a route leads through it; remove its routes: ip route flush dev veth4"),
        ("attach tun0", "it carries no Ethernet frames"),
        ("attach lo", "lo cannot be plugged in: it has an address"),
        (
            "attach ovsbr1",
            "ovsbr1 cannot be plugged in: it is a port of the Open vSwitch bridge ovsbr1",
        ),
        (
            "attach nothing0",
            "there is no interface nothing0 on this host; name one that \"ip link\" shows",
        ),
        ("attach veth1 --bridge br9", "br9"),
        ("attach veth1 --vlan 0", "expected a VLAN from 1 to 4094"),
        ("attach veth1 --netns nowhere", "/run/netns/nowhere"),
        ("attach veth5 --netns web", "the other end of veth5 is not in /run/netns/web"),
        ("detach veth1", "interface veth1 is not plugged in"),
    ] {
        let output = agent.output(arguments);
        assert!(!output.ok() && output.stderr.contains(words), "{arguments}: {output}");
    }
    assert_same(&before, &host.snapshot());
}
