//! Where addresses come from: the NAT bridge, own subnets, what was requested, nowhere.

use rig::assert_same;
use serde_json::{Value, json};

use crate::{column, conf, host, ip, port};

#[test]
fn the_smallest_configuration_reaches_the_internet() {
    let host = host();
    let uplink = host.uplink("wlp4s0", 1).addressed(&host).routed(&host, 600);
    host.port_agent().run("up");
    let web = host.container("web");
    let result = host.plugin().add(&web, &conf(json!({}))).success();
    assert_eq!(result["ips"][0]["gateway"], "10.200.0.1");
    assert!(web.ping("10.200.0.1".parse().unwrap()));
    assert!(web.ping(rig::INTERNET));
    web.tcp_echo(rig::INTERNET, 1 << 20).unwrap();
    web.tcp_echo(rig::INTERNET6, 1 << 20).unwrap();
    let (_, seen) = web.who_answers(rig::INTERNET).unwrap();
    assert_eq!(seen, uplink.address());
}

#[test]
fn own_subnets_on_a_vlan_have_a_gateway_and_keep_to_it() {
    let host = host();
    let before = host.snapshot();
    let conf = conf(json!({
        "vlan": 30,
        "subnets": [{"subnet": "10.30.0.0/24", "range": "10.30.0.100-10.30.0.101"}],
    }));
    let [one, two, three] = ["one", "two", "three"].map(|name| host.container(name));
    let first = host.plugin().add(&one, &conf).success();
    let second = host.plugin().add(&two, &conf).success();
    assert_eq!(ip(&first, 0).to_string(), "10.30.0.100");
    assert_eq!(first["ips"][0]["gateway"], "10.30.0.1");
    assert_eq!(column(&host, "Port", &port(&first), "tag"), "30");
    assert!(one.ping("10.30.0.1".parse().unwrap()));
    let _server = two.echo_server();
    one.tcp_echo(ip(&second, 0), 1 << 20).unwrap();

    let error = host.plugin().add(&three, &conf).failure();
    assert_eq!(error["code"], 102, "{error}");
    let msg = error["msg"].as_str().unwrap();
    assert!(msg.contains("10.30.0.0/24") && msg.contains("held by net/"), "{msg}");

    host.plugin().del(&one, &conf).success();
    let third = host.plugin().add(&three, &conf).success();
    assert_eq!(ip(&third, 0), ip(&first, 0));
    for container in [&two, &three] {
        host.plugin().del(container, &conf).success();
    }
    for container in [one, two, three] {
        container.remove();
    }
    // The gateway of the network stays for the next container; the rest is as it was.
    let left = before.difference(&host.snapshot());
    assert!(!left.contains("veth"), "{left}");
}

#[test]
fn requested_addresses_come_from_every_place_a_runtime_writes_them() {
    let host = host();
    let ipv6 = "fd6f:7673:6272:1::77";
    for (name, more, args) in [
        ("runtime", json!({"RuntimeConfig": {"IPs": ["10.200.0.77", "10.200.0.77", ipv6]}}), ""),
        ("cni", json!({"args": {"cni": {"ips": ["10.200.0.77/24", format!("{ipv6}/64")]}}}), ""),
        ("args", json!({"runtimeConfig": {"ips": [ipv6]}}), "IgnoreUnknown=1;IP=10.200.0.77"),
    ] {
        let container = host.container(name);
        let plugin = host.plugin().env("CNI_ARGS", args);
        let result = plugin.add(&container, &conf(more.clone())).success();
        assert_eq!(ip(&result, 0).to_string(), "10.200.0.77", "{name}");
        assert_eq!(ip(&result, 1).to_string(), ipv6, "{name}");
        plugin.del(&container, &conf(more)).success();
    }
}

#[test]
fn requests_that_cannot_be_met_leave_nothing() {
    let host = host();
    let (web, db) = (host.container("web"), host.container("db"));
    let ask = |ips: Value| conf(json!({"runtimeConfig": {"ips": ips}}));
    host.plugin().add(&db, &ask(json!(["10.200.0.9"]))).success();
    let before = host.snapshot();
    for (ips, code, says) in [
        (json!(["10.99.0.1"]), 7, "is in no subnet of this network"),
        (json!(["10.200.0.5", "10.200.0.6"]), 7, "which gives one each"),
        (json!(["10.200.0.5/16"]), 7, "another prefix length"),
        (json!(["10.200.0.1"]), 7, "the gateway"),
        (json!(["10.200.0.9"]), 101, "is held by net/db/eth0"),
    ] {
        let error = host.plugin().add(&web, &ask(ips.clone())).failure();
        assert_eq!(error["code"], code, "{error}");
        assert!(error["msg"].as_str().unwrap().contains(says), "{error}");
        assert_same(&before, &host.snapshot());
    }
    let plain = conf(json!({"ipam": {}, "runtimeConfig": {"ips": ["10.200.0.5"]}}));
    assert_eq!(host.plugin().add(&web, &plain).failure()["code"], 7);
}

#[test]
fn the_mac_of_the_higher_place_wins() {
    let host = host();
    let macs = ["02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03", "02:00:00:00:00:04"];
    for winner in 0..4 {
        let web = host.container("web");
        let mut more = json!({"mac": macs[3]});
        if winner < 1 {
            more["runtimeConfig"] = json!({"mac": macs[0]});
        }
        if winner < 2 {
            more["args"] = json!({"cni": {"mac": macs[1]}});
        }
        let args = if winner < 3 { format!("MAC={}", macs[2]) } else { String::new() };
        let plugin = host.plugin().env("CNI_ARGS", &args);
        let result = plugin.add(&web, &conf(more.clone())).success();
        assert_eq!(result["interfaces"][1]["mac"], macs[winner]);
        assert!(web.ip("link show eth0").contains(macs[winner]));
        plugin.del(&web, &conf(more)).success();
        web.remove();
    }
}

#[test]
fn plain_l2_has_no_address_and_carries_frames() {
    let host = host();
    let conf = conf(json!({"bridge": "ovsbr0", "vlan": 12, "mtu": 1400}));
    let (web, db) = (host.container("web"), host.container("db"));
    for (container, address) in [(&web, "10.12.0.1/24"), (&db, "10.12.0.2/24")] {
        let result = host.plugin().add(container, &conf).success();
        assert!(result.get("ips").is_none(), "{result}");
        assert!(result.get("routes").is_none(), "{result}");
        container.ip(&format!("address add {address} dev eth0"));
        assert!(container.ip("link show eth0").contains("mtu 1400"));
    }
    let _server = db.echo_server();
    web.tcp_echo("10.12.0.2".parse().unwrap(), 1 << 20).unwrap();
}

#[test]
fn the_lan_of_a_direct_bridge_gives_addresses_from_an_explicit_range_only() {
    let host = rig::Host::new();
    host.config(
        "[[bridge]]\nname = \"ovsbr0\"\nmode = \"direct\"\naddresses = [\"172.16.0.10/24\"]\n\
         gateway = \"172.16.0.1\"\n",
    );
    host.port_agent().run("up");
    let web = host.container("web");
    let lan = |subnet: Value| conf(json!({"bridge": "ovsbr0", "subnets": [subnet]}));
    let error = host.plugin().add(&web, &lan(json!("172.16.0.0/24"))).failure();
    assert_eq!(error["code"], 7);
    assert!(error["details"].as_str().unwrap().contains("range"), "{error}");
    let range = json!({"subnet": "172.16.0.0/24", "range": "172.16.0.200-172.16.0.201"});
    let result = host.plugin().add(&web, &lan(range)).success();
    assert_eq!(result["ips"][0]["address"], "172.16.0.200/24");
    assert_eq!(result["ips"][0]["gateway"], "172.16.0.1");
    assert!(web.ping("172.16.0.10".parse().unwrap()));
}

#[test]
fn routes_external_ids_and_isolation_reach_their_places() {
    let host = host();
    let web = host.container("web");
    let conf = conf(json!({
        "routes": [{"dst": "192.168.0.0/16"}, {"dst": "10.99.0.0/24", "gw": "10.200.0.7"}],
        "external_ids": {"team": "red"}, "isolated": true, "ofport_request": 77,
    }));
    let plugin = host.plugin().env("CNI_ARGS", "K8S_POD_NAME=web-0;K8S_POD_NAMESPACE=prod");
    let result = plugin.add(&web, &conf).success();
    let routes = web.ip("route");
    assert!(routes.contains("192.168.0.0/16 via 10.200.0.1"), "{routes}");
    assert!(routes.contains("10.99.0.0/24 via 10.200.0.7"), "{routes}");
    assert!(routes.contains("default via 10.200.0.1"), "{routes}");
    let port = port(&result);
    assert_eq!(column(&host, "Port", &port, "external_ids:team"), "red");
    assert_eq!(column(&host, "Port", &port, "external_ids:container_name"), "web-0");
    assert_eq!(column(&host, "Port", &port, "protected"), "true");
    assert_eq!(column(&host, "Interface", &port, "ofport"), "77");
}

/// The second network of a container must not fail because the first has the default route.
#[test]
fn a_container_can_join_two_networks() {
    let host = host();
    let web = host.container("web");
    let netns = web.path().display().to_string();
    host.plugin().add(&web, &conf(json!({}))).success();
    let mut second = conf(json!({"vlan": 31, "subnets": ["10.31.0.0/24"]}));
    second["name"] = json!("second");
    host.plugin().call("ADD", "web", &netns, "eth1", &second).success();
    assert!(web.ping("10.200.0.1".parse().unwrap()));
    assert!(web.ping("10.31.0.1".parse().unwrap()));
    let defaults = web.ip("route show default");
    assert!(defaults.lines().next().unwrap().contains("10.200.0.1"), "{defaults}");
}
