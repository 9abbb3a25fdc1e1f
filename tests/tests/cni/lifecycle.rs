//! ADD and DEL in every order and state of disrepair.

use std::collections::BTreeSet;

use rig::{Container, Host, assert_same};
use serde_json::{Value, json};

use crate::{conf, host, ip, port};

/// A host, and what it looks like before `work` plugs in and out.
fn leaves_nothing(work: impl FnOnce(&Host, &Container, &Value)) {
    let host = host();
    let before = host.snapshot();
    let web = host.container("web");
    let conf = conf(json!({}));
    work(&host, &web, &conf);
    web.remove();
    assert_same(&before, &host.snapshot());
}

#[test]
fn add_asked_twice_answers_the_same() {
    leaves_nothing(|host, web, conf| {
        let first = host.plugin().add(web, conf).success();
        assert_eq!(host.plugin().add(web, conf).success(), first);
        host.plugin().del(web, conf).success();
        host.plugin().del(web, conf).success();
    });
}

#[test]
fn del_before_any_add_succeeds() {
    leaves_nothing(|host, web, conf| {
        host.plugin().del(web, conf).success();
    });
}

#[test]
fn del_needs_no_namespace() {
    let host = host();
    let before = host.snapshot();
    for netns in ["", "/run/netns/web"] {
        let web = host.container("web");
        host.plugin().add(&web, &conf(json!({}))).success();
        web.remove();
        host.plugin().call("DEL", "web", netns, "eth0", &conf(json!({}))).success();
        assert_same(&before, &host.snapshot());
    }
}

#[test]
fn del_succeeds_whatever_is_gone_already() {
    for damage in [
        "ip -n web link del eth0",
        "ovs-vsctl --no-wait del-port $PORT",
        "ip link del $PORT",
        "ovs-vsctl del-port $PORT; ip link del $PORT",
        "rm -r /run/ovs-port-agent/attachments",
        "rm -r /run/ovs-port-agent/leases",
        "rm -r /run/ovs-port-agent/attachments; ip link del $PORT",
        "rm -r /run/ovs-port-agent/attachments; ovs-vsctl del-port $PORT",
    ] {
        leaves_nothing(|host, web, conf| {
            let result = host.plugin().add(web, conf).success();
            host.sh(&format!("PORT={}; {damage}", port(&result)));
            let reply = host.plugin().del(web, conf);
            assert!(reply.ok(), "after {damage}: {}", reply.output);
            assert_eq!(traces(host), "", "after {damage}");
        });
    }
}

#[test]
fn del_succeeds_with_another_configuration() {
    leaves_nothing(|host, web, conf| {
        host.plugin().add(web, conf).success();
        let changed = json!({
            "name": "net", "bridge": "elsewhere", "vlan": 4095, "brigde": true,
            "runtimeConfig": {"portMappings": [{"hostPort": 80}]},
        });
        host.plugin().env("CNI_ARGS", "nonsense").del(web, &changed).success();
    });
}

#[test]
fn del_succeeds_without_the_bridge() {
    let host = host();
    host.bridge("br-gone");
    let web = host.container("web");
    let conf = conf(json!({"bridge": "br-gone"}));
    let result = host.plugin().add(&web, &conf).success();
    host.vsctl("del-br br-gone");
    host.plugin().del(&web, &conf).success();
    assert!(!host.ip("link").contains(&port(&result)));
}

/// What is left of web: its port, its host end, its leases.
fn traces(host: &Host) -> String {
    host.sh("ovs-vsctl list-ports ovsbr1; ip -br link | grep veth || true; \
         find /run/ovs-port-agent -type f -path '*/attachments/*' -o -type f -path '*/leases/*/10.*'")
}

#[test]
fn del_succeeds_while_ovs_vswitchd_is_stopped() {
    let host = host();
    let web = host.container("web");
    host.plugin().add(&web, &conf(json!({}))).success();
    host.switch().stop_vswitchd();
    host.plugin().del(&web, &conf(json!({}))).success();
    assert_eq!(traces(&host), "");
    host.switch().start_vswitchd();
    let result = host.plugin().add(&web, &conf(json!({}))).success();
    assert!(web.ping("10.200.0.1".parse().unwrap()), "{result}");
}

/// Without its database nobody knows whether a port is left: DEL says so, and finishes later.
#[test]
fn del_without_ovsdb_fails_in_time_and_then_finishes() {
    let host = host();
    let web = host.container("web");
    let result = host.plugin().add(&web, &conf(json!({}))).success();
    host.switch().stop_ovsdb();
    let error = host.plugin().del(&web, &conf(json!({}))).failure();
    assert_eq!(error["code"], 11, "{error}");
    assert!(!host.ip("link").contains(&port(&result)), "the container is unplugged at once");
    host.switch().start_ovsdb();
    host.plugin().del(&web, &conf(json!({}))).success();
    assert_eq!(traces(&host), "");
}

#[test]
fn a_silent_ovsdb_does_not_hang_an_add() {
    let host = host();
    let web = host.container("web");
    host.switch().freeze_ovsdb();
    let reply = host.plugin().add(&web, &conf(json!({})));
    assert!(reply.output.took.as_secs() < 20, "{:?}", reply.output.took);
    let error = reply.failure();
    assert_eq!(error["code"], 11, "{error}");
    host.switch().thaw_ovsdb();
    host.plugin().add(&web, &conf(json!({}))).success();
}

#[test]
fn a_container_plugged_in_again_at_once_passes_traffic() {
    let host = host();
    let web = host.container("web");
    let gateway = "10.200.0.1".parse().unwrap();
    for _ in 0..5 {
        host.plugin().add(&web, &conf(json!({}))).success();
        assert!(web.ping(gateway));
        host.plugin().del(&web, &conf(json!({}))).success();
    }
}

#[test]
fn an_add_into_a_taken_interface_name_leaves_nothing() {
    let host = host();
    let web = host.container("web");
    web.ip("link add eth0 type veth peer name other");
    let before = host.snapshot();
    let error = host.plugin().add(&web, &conf(json!({}))).failure();
    assert_eq!(error["code"], 101, "{error}");
    assert!(error["msg"].as_str().unwrap().contains("interface eth0 exists already"), "{error}");
    assert_same(&before, &host.snapshot());
}

#[test]
fn an_add_to_a_missing_bridge_leaves_nothing_and_says_what_to_do() {
    let host = host();
    let web = host.container("web");
    let before = host.snapshot();
    let error = host.plugin().add(&web, &conf(json!({"bridge": "br-none"}))).failure();
    assert_eq!(error["code"], 100, "{error}");
    assert!(error["details"].as_str().unwrap().contains("ovs-vsctl add-br br-none"), "{error}");
    assert_same(&before, &host.snapshot());
}

#[test]
fn many_at_once_get_addresses_of_their_own_and_leave_nothing() {
    let host = host();
    let before = host.snapshot();
    let containers: Vec<_> = (0..16).map(|n| host.container(&format!("c{n}"))).collect();
    let calls = |verb: &'static str| -> Vec<Value> {
        let jobs: Vec<_> = containers
            .iter()
            .map(|container| (container.name(), container.path().display().to_string()))
            .collect();
        let plugin = host.plugin();
        std::thread::scope(|scope| {
            let plugin = &plugin;
            let running: Vec<_> = jobs
                .iter()
                .map(|(id, netns)| {
                    scope.spawn(move || plugin.call(verb, id, netns, "eth0", &conf(json!({}))))
                })
                .collect();
            running.into_iter().map(|job| job.join().unwrap().success()).collect()
        })
    };
    let results = calls("ADD");
    for index in 0..2 {
        let addresses: BTreeSet<_> = results.iter().map(|result| ip(result, index)).collect();
        assert_eq!(addresses.len(), containers.len());
    }
    for container in &containers {
        assert!(container.ping("10.200.0.1".parse().unwrap()), "{}", container.name());
    }
    calls("DEL");
    containers.into_iter().for_each(Container::remove);
    assert_same(&before, &host.snapshot());
}

/// A runtime that loses patience sends DEL while its ADD still runs.
#[test]
fn add_and_del_at_the_same_time_end_in_one_of_both_states() {
    let host = host();
    let before = host.snapshot();
    for _ in 0..4 {
        let web = host.container("web");
        let netns = web.path().display().to_string();
        let plugin = host.plugin();
        std::thread::scope(|scope| {
            let add = scope.spawn(|| plugin.call("ADD", "web", &netns, "eth0", &conf(json!({}))));
            let del = scope.spawn(|| plugin.call("DEL", "web", &netns, "eth0", &conf(json!({}))));
            add.join().unwrap().success();
            del.join().unwrap().success();
        });
        host.plugin().del(&web, &conf(json!({}))).success();
        web.remove();
        assert_same(&before, &host.snapshot());
    }
}
