//! CHECK and STATUS: what is wrong is found, and named.

use rig::Host;
use serde_json::{Value, json};

use crate::{after, host, port, versioned};

fn conf() -> Value {
    versioned("1.1.0", json!({}))
}

#[test]
fn check_finds_every_damage() {
    for (damage, says) in [
        ("ovs-vsctl set Port $PORT tag=7 vlan_mode=access", "the VLAN of"),
        ("ovs-vsctl set Port $PORT trunks=5", "the VLAN of"),
        ("ovs-vsctl clear Port $PORT trunks", "the VLAN of"),
        ("ovs-vsctl del-port $PORT", "port $PORT in Open vSwitch is missing"),
        ("ovs-vsctl del-port $PORT -- add-port ovsbr0 $PORT", "$PORT"),
        ("ip link del $PORT", "$PORT is missing"),
        (
            "ip link del $PORT; ip link add $PORT type veth peer name eth0 netns web; \
             ip link set $PORT up; ip -n web link set eth0 up",
            "the MAC of",
        ),
        ("ip link set $PORT down", "$PORT"),
        ("ip link set $PORT mtu 1400", "the MTU of $PORT is 1400, expected 1500"),
        ("ip -n web link set eth0 mtu 1400", "the MTU of eth0 is 1400, expected 1500"),
        ("ip -n web link set eth0 down", "eth0"),
        ("ip -n web address flush dev eth0", "address 10.200.0.2/24 on eth0 is missing"),
        ("ip -n web route del default", "the route to 0.0.0.0/0 in the container is missing"),
        ("ip -n web -6 route del default", "the route to ::/0 in the container is missing"),
        ("nft flush ruleset", "missing"),
    ] {
        let host = host();
        let web = host.container("web");
        let result = host.plugin().add(&web, &conf()).success();
        let checked = after(&conf(), &result);
        host.plugin().check(&web, &checked).success();
        let port = port(&result);
        host.sh(&format!("PORT={port}; {damage}"));
        let reply = host.plugin().check(&web, &checked);
        assert!(!reply.ok(), "not found: {damage}");
        let error = reply.failure();
        let says = says.replace("$PORT", &port);
        assert!(error["msg"].as_str().unwrap().contains(&says), "{damage}: {error}");
    }
}

/// Rows lie: every one of them reads well, but no frame comes through.
#[test]
fn check_finds_a_port_that_passes_no_frames() {
    let host = host();
    let web = host.container("web");
    let result = host.plugin().add(&web, &conf()).success();
    let checked = after(&conf(), &result);
    host.plugin().check(&web, &checked).success();
    web.exec("tc qdisc replace dev eth0 root blackhole");
    let error = host.plugin().check(&web, &checked).failure();
    assert_eq!(error["code"], 103, "{error}");
    assert!(error["msg"].as_str().unwrap().contains("passes no frames"), "{error}");
}

#[test]
fn check_needs_a_previous_result_and_a_known_attachment() {
    let host = host();
    let web = host.container("web");
    let error = host.plugin().check(&web, &conf()).failure();
    assert_eq!(error["code"], 7);
    assert_eq!(error["msg"], "prevResult is missing, expected the result of ADD");
    let error = host.plugin().check(&web, &after(&conf(), &json!({}))).failure();
    assert_eq!(error["code"], 3, "{error}");
}

/// A later plugin of the chain may add routes; the check is for what ADD made.
#[test]
fn check_tolerates_what_others_added() {
    let host = host();
    let web = host.container("web");
    let result = host.plugin().add(&web, &conf()).success();
    web.ip("route add 10.50.0.0/16 via 10.200.0.1");
    web.ip("address add 10.51.0.1/24 dev eth0");
    host.plugin().check(&web, &after(&conf(), &result)).success();
}

fn status(host: &Host, more: Value) -> rig::Reply {
    host.plugin().call("STATUS", "", "", "", &versioned("1.1.0", more))
}

#[test]
fn status_says_whether_an_add_would_succeed() {
    let host = host();
    let reply = status(&host, json!({}));
    assert_eq!(reply.output.stdout, "");
    reply.success();
    status(&host, json!({"bridge": "ovsbr0", "ipam": {}})).success();

    let error = status(&host, json!({"bridge": "br-none"})).failure();
    assert_eq!(error["code"], 51, "{error}");
    let error = status(&host, json!({"ipam": {"type": "nobody"}})).failure();
    assert_eq!(error["code"], 50, "{error}");

    let small = json!({"vlan": 9, "subnets": [
        {"subnet": "10.9.0.0/24", "range": "10.9.0.9-10.9.0.9"}
    ]});
    status(&host, small.clone()).success();
    let web = host.container("web");
    host.plugin().add(&web, &versioned("1.1.0", small.clone())).success();
    let error = status(&host, small).failure();
    assert_eq!(error["code"], 50, "{error}");
    assert!(error["msg"].as_str().unwrap().contains("10.9.0.0/24"), "{error}");
}

#[test]
fn status_finds_dead_daemons() {
    let host = host();
    host.switch().kill_vswitchd();
    let error = status(&host, json!({})).failure();
    assert_eq!(error["code"], 51, "{error}");
    host.switch().start_vswitchd();
    host.switch().freeze_vswitchd();
    let error = status(&host, json!({})).failure();
    assert_eq!(error["code"], 51, "{error}");
    host.switch().thaw_vswitchd();
    status(&host, json!({})).success();
    host.switch().stop_ovsdb();
    let error = status(&host, json!({})).failure();
    assert_eq!(error["code"], 50, "{error}");
}
