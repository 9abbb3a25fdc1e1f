//! Beside a real dockerd, which sets the policy of FORWARD to DROP.

use rig::{Container, Host, INTERNET, INTERNET6, Uplink, assert_same};
use serde_json::json;

/// A host with a way out; not up yet.
fn host() -> (Host, Uplink) {
    let host = Host::new();
    let uplink = host.uplink("wlp4s0", 1).addressed(&host).routed(&host, 100);
    (host, uplink)
}

fn plugged(host: &Host, name: &str) -> Container {
    let container = host.container(name);
    let conf = json!({"cniVersion": "1.0.0", "name": "lab", "type": "ovs-agent"});
    let _result = host.plugin().add(&container, &conf).success();
    container
}

/// Docker's rules and everybody's else, one of ours aside.
fn foreign(host: &Host) -> String {
    let saved = host.sh("iptables-save; ip6tables-save; iptables-legacy-save");
    let keep = |line: &&str| !line.contains("--comment ovs-agent ") && !line.starts_with('#');
    let clean = |line: &str| line.split(" [").next().unwrap_or_default().to_owned();
    saved.lines().filter(keep).map(clean).collect::<Vec<_>>().join("\n")
}

fn reaches_the_internet(container: &Container, uplink: &Uplink) {
    let (_, seen) = container.who_answers(INTERNET).unwrap();
    assert_eq!(seen, uplink.address());
    container.tcp_echo(INTERNET, 1_000_000).unwrap();
    let (_, seen) = container.who_answers(INTERNET6).unwrap();
    assert_eq!(seen, uplink.address6());
}

#[test]
fn nat_works_when_docker_was_there_first() {
    let (host, uplink) = host();
    let docker = host.dockerd();
    host.sh(
        "iptables -A INPUT -s 192.0.2.1 -j DROP; iptables-legacy -A INPUT -s 192.0.2.2 -j DROP",
    );
    let (rules, before) = (foreign(&host), host.snapshot());
    assert!(rules.contains(":FORWARD DROP"), "{rules}");
    host.port_agent().run("up");
    let web = plugged(&host, "web");
    reaches_the_internet(&web, &uplink);
    assert_eq!(foreign(&host), rules, "somebody else's rules changed");
    let ours = host.sh("iptables-save | grep -e '--comment ovs-agent '");
    assert_eq!(ours.lines().count(), 1, "one rule of ours outside our table: {ours}");
    host.port_agent().run("up");
    assert_eq!(host.sh("iptables-save | grep -e '--comment ovs-agent '"), ours, "up is idempotent");
    let conf = json!({"cniVersion": "1.0.0", "name": "lab", "type": "ovs-agent"});
    let _gone = host.plugin().del(&web, &conf).success();
    drop(web);
    host.port_agent().run("down");
    assert_same(&before, &host.snapshot());
    docker.stop();
}

#[test]
fn up_repairs_what_a_docker_started_later_has_cut() {
    let (host, uplink) = host();
    host.port_agent().run("up");
    let web = plugged(&host, "web");
    reaches_the_internet(&web, &uplink);
    let docker = host.dockerd();
    let rules = foreign(&host);
    host.port_agent().run("up");
    reaches_the_internet(&web, &uplink);
    assert_eq!(foreign(&host), rules, "somebody else's rules changed");
    docker.stop();
    let _again = host.dockerd();
    host.port_agent().run("up");
    reaches_the_internet(&web, &uplink);
}
