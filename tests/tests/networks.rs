//! Networks made on first use: a VLAN with subnets of its own, and the host as its gateway.

use std::net::IpAddr;
use std::time::Duration;

use rig::{Container, Daemon, Host, Reply, assert_same, poll};
use serde_json::{Value, json};

fn vlan(name: &str, vlan: u16, subnet: &str, gateway: &str) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": name, "type": "ovs-agent", "bridge": "ovsbr1",
        "vlan": vlan, "subnets": [{ "subnet": subnet, "gateway": gateway }],
    })
}

fn addresses(reply: Reply) -> Vec<IpAddr> {
    let result = reply.success();
    let ips = result["ips"].as_array().expect("ips");
    ips.iter()
        .map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap())
        .collect()
}

fn refused(host: &Host, container: &Container, conf: &Value, words: &[&str]) {
    let before = host.snapshot();
    let error = host.plugin().add(container, conf).failure().to_string();
    for word in words {
        assert!(error.contains(word), "{word} is not said: {error}");
    }
    assert_same(&before, &host.snapshot());
}

#[test]
fn a_vlan_gets_its_gateway_on_first_use_and_loses_it_with_down() {
    let host = Host::new();
    let agent = host.port_agent();
    host.config(
        "[[bridge]]\nname = \"ovsbr0\"\nmode = \"direct\"\naddresses = [\"172.16.0.10/24\"]\n\
         [[bridge]]\nname = \"ovsbr1\"\nmode = \"nat\"\naddresses = [\"10.200.0.1/24\"]\n\
         mtu = 1400\n",
    );
    let before = host.snapshot();
    agent.run("up");
    let (one, two, three) = (host.container("one"), host.container("two"), host.container("three"));
    let lab = vlan("lab", 30, "10.30.0.0/24", "10.30.0.1");
    let first = addresses(host.plugin().add(&one, &lab));
    let second = addresses(host.plugin().add(&two, &lab));
    let gateway: IpAddr = "10.30.0.1".parse().unwrap();
    assert_eq!(host.vsctl("get Port ovsbr1.30 tag").trim(), "30");
    assert!(host.ip("link show ovsbr1.30").contains("mtu 1400"));
    assert!(one.ip("link show eth0").contains("mtu 1400"));
    let mac = std::fs::read_to_string("/sys/class/net/ovsbr1.30/address").unwrap();
    for container in [&one, &two] {
        assert!(container.ping(gateway));
        let seen = container.ip(&format!("neighbour show {gateway}"));
        assert!(seen.contains(mac.trim()), "the gateway port's own MAC: {seen}");
    }
    assert!(one.ping(second[0]));
    let _server = one.echo_server();
    two.tcp_echo(first[0], 1 << 20).unwrap();

    // A subnet lives in one place.
    for (conf, words) in [
        (vlan("x", 31, "10.30.0.128/25", "10.30.0.129"), ["10.30.0.128/25", "VLAN 31", "VLAN 30"]),
        (
            vlan("x", 31, "10.200.0.0/16", "10.200.9.1"),
            ["10.200.0.0/16", "10.200.0.0/24", "ovsbr1"],
        ),
        (
            vlan("x", 31, "172.16.0.0/16", "172.16.9.1"),
            ["172.16.0.0/16", "172.16.0.0/24", "ovsbr0"],
        ),
        (
            vlan("x", 30, "10.30.0.0/24", "10.30.0.254"),
            ["10.30.0.0/24", "10.30.0.1", "10.30.0.254"],
        ),
    ] {
        refused(&host, &three, &conf, &words);
    }

    // Its port is lost, its address, and what was switched on: "up" repairs all.
    let up = host.snapshot();
    let said = agent.run("up");
    assert!(said.contains("gateway ovsbr1.30           as it was"), "{said}");
    assert_same(&up, &host.snapshot());
    host.vsctl("del-port ovsbr1.30");
    let said = agent.run("up");
    assert!(said.contains("gateway ovsbr1.30           made, 10.30.0.1/24 added"), "{said}");
    assert!(one.ping(gateway));
    assert_eq!(std::fs::read_to_string("/sys/class/net/ovsbr1.30/address").unwrap(), mac);
    host.ip("address flush dev ovsbr1.30");
    agent.run("up");
    assert!(two.ping(gateway));

    for container in [&one, &two] {
        host.plugin().del(container, &lab).success();
    }
    assert!(host.vsctl("list-ports ovsbr1").contains("ovsbr1.30"), "kept until down");
    let said = agent.run("down");
    assert!(said.contains("gateway ovsbr1.30           removed"), "{said}");
    drop(_server);
    one.remove();
    two.remove();
    three.remove();
    assert_same(&before, &host.snapshot());
}

#[test]
fn a_gateway_port_never_takes_over_a_port_of_somebody_else() {
    let host = Host::new();
    host.port_agent().run("up");
    host.bridge("other");
    host.vsctl("add-port other ovsbr1.30 -- set Interface ovsbr1.30 type=internal");
    let web = host.container("web");
    let lab = vlan("lab", 30, "10.30.0.0/24", "10.30.0.1");
    refused(&host, &web, &lab, &["ovsbr1.30", "bridge other"]);
    host.vsctl("del-port ovsbr1.30");
    host.plugin().add(&web, &lab).success();
    assert!(web.ping("10.30.0.1".parse().unwrap()));
}

/// It would have taken the place of the bridge's own network in NAT, and every repair would have
/// failed from then on.
#[test]
fn a_nat_bridges_own_network_takes_no_other_subnet() {
    let host = Host::new();
    host.port_agent().run("up");
    let web = host.container("web");
    let mut conf = vlan("lab", 30, "10.50.0.0/24", "10.50.0.1");
    conf.as_object_mut().unwrap().remove("vlan");
    refused(
        &host,
        &web,
        &conf,
        &["subnet 10.50.0.0/24 cannot be on ovsbr1, untagged", "10.200.0.0/24", "name a VLAN"],
    );
    conf["subnets"] = json!([{ "subnet": "10.50.0.0/24", "gateway": "none" }]);
    host.plugin().add(&web, &conf).failure();
    let steps = host.port_agent().run("up");
    assert!(!steps.contains("added") && !steps.contains(" set"), "{steps}");

    // A section that came after the network counts instead of it.
    host.port_agent().run("down");
    host.vsctl("add-br brx -- set Bridge brx datapath_type=netdev");
    let mut own = vlan("own", 30, "10.60.0.0/24", "10.60.0.1");
    own.as_object_mut().unwrap().remove("vlan");
    own["bridge"] = json!("brx");
    own["subnets"][0]["nat"] = json!(true);
    host.plugin().add(&web, &own).success();
    host.config("[[bridge]]\nname = \"brx\"\nmode = \"nat\"\naddresses = [\"10.60.0.1/24\"]\n");
    host.port_agent().run("up");
    assert!(web.ping("10.60.0.1".parse().unwrap()));
    let steps = host.port_agent().run("up");
    assert!(!steps.contains("added") && !steps.contains(" set"), "{steps}");
}

#[test]
fn a_network_made_anew_is_what_is_asked_for_now() {
    let host = Host::new();
    host.port_agent().run("up");
    let (web, db) = (host.container("web"), host.container("db"));
    let gateway: IpAddr = "10.30.0.1".parse().unwrap();
    let open = vlan("lab", 30, "10.30.0.0/24", "10.30.0.1");
    host.plugin().add(&web, &open).success();
    assert!(web.ping(gateway) && host.sh("nft list ruleset").contains("10.30.0.0/24"));
    // As long as somebody is there, the two are one.
    let island = vlan("island", 30, "10.30.0.0/24", "none");
    host.plugin().add(&db, &island).success();
    assert!(web.ping(gateway));
    host.plugin().del(&db, &island).success();
    host.plugin().del(&web, &open).success();

    host.plugin().add(&db, &island).success();
    assert!(!host.try_sh("ip link show ovsbr1.30").ok(), "its gateway is gone");
    assert!(!host.sh("nft list ruleset").contains("10.30.0."));
    host.plugin().del(&db, &island).success();

    host.plugin().add(&web, &open).success();
    assert!(web.ping(gateway));
    host.plugin().del(&web, &open).success();
    let mut routed = open.clone();
    routed["subnets"][0]["nat"] = json!(false);
    routed["subnets"][0]["gateway"] = json!("10.30.0.254");
    host.plugin().add(&web, &routed).success();
    assert!(web.ping("10.30.0.254".parse().unwrap()) && !web.ping(gateway));
}

#[test]
fn a_subnet_of_the_configuration_that_a_network_has_is_refused_and_stops_nothing() {
    let soon = Duration::from_secs(10);
    let host = Host::new();
    host.port_agent().run("up");
    let web = host.container("web");
    host.plugin().add(&web, &vlan("lab", 30, "10.30.0.0/24", "10.30.0.1")).success();
    let conf = |address: &str| {
        format!("[[bridge]]\nname = \"ovsbr1\"\nmode = \"nat\"\naddresses = [\"{address}\"]\n")
    };
    host.config(&conf("10.30.0.1/16"));
    let before = host.snapshot();
    let said = host.port_agent().output("up");
    assert!(!said.ok() && said.stderr.contains("of ovsbr1, VLAN 30"), "{said}");
    assert_same(&before, &host.snapshot());
    let agent = Daemon::start("ovs-port-agent", host.port_agent().command("run"));
    agent.ready(soon, || agent.log().contains("of ovsbr1, VLAN 30"));
    poll("the rules are those of the configuration", soon, || {
        host.sh("nft list ruleset").contains("10.30.0.0/16").then_some(())
    });
    // Nor is it taken down beside the agent, which would bring it up again.
    let said = host.port_agent().output("down --force");
    assert!(!said.ok() && said.stderr.contains("stop it first"), "{said}");
}

#[test]
fn a_bridge_with_another_name_has_its_subnet_to_itself() {
    let host = Host::new();
    let conf = |name: &str| {
        format!("[[bridge]]\nname = \"{name}\"\nmode = \"nat\"\naddresses = [\"10.200.0.1/24\"]\n")
    };
    host.config(&conf("ovsbr1"));
    host.port_agent().run("up");
    host.config(&conf("br-nat"));
    let steps = host.port_agent().run("up");
    assert!(steps.contains("10.200.0.1/24 removed, br-nat has that subnet now"), "{steps}");
    let web = host.container("web");
    let lab = json!({"cniVersion": "1.0.0", "name": "lab", "type": "ovs-agent"});
    let address = addresses(host.plugin().add(&web, &lab))[0];
    let _server = web.echo_server();
    assert!(web.ping("10.200.0.1".parse().unwrap()));
    host.sh(&format!("ping -n -q -c 1 -W 2 {address}"));
    let steps = host.port_agent().run("up");
    assert!(!steps.contains("removed") && !steps.contains("added"), "{steps}");
}

#[test]
fn a_network_whose_bridge_was_removed_is_in_no_others_way() {
    let soon = Duration::from_secs(10);
    let host = Host::new();
    let agent = Daemon::start("ovs-port-agent", host.port_agent().command("run"));
    agent.ready(soon, || agent.log().contains("the host is up"));
    host.vsctl("add-br brx -- set Bridge brx datapath_type=netdev");
    let (web, db) = (host.container("web"), host.container("db"));
    for (number, container) in [(30, &web), (0, &db)] {
        let subnet = format!("10.{}.0", 60 + number);
        let name = format!("own{number}");
        let mut own = vlan(&name, number, &format!("{subnet}.0/24"), &format!("{subnet}.1"));
        own["bridge"] = json!("brx");
        own["subnets"][0]["nat"] = json!(true);
        host.plugin().add(container, &own).success();
        host.plugin().del(container, &own).success();
    }
    host.vsctl("del-br brx");
    host.port_agent().run("up");
    host.ip("address flush dev ovsbr1");
    poll("the address of the other bridge is back", soon, || {
        host.ip("address show dev ovsbr1").contains("10.200.0.1").then_some(())
    });
    host.sh("nft flush ruleset");
    poll("the rules are back", soon, || {
        host.sh("nft list ruleset").contains("10.200.0.0/24").then_some(())
    });
}
