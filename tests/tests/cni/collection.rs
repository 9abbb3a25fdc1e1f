//! GC: the runtime's list decides over the runtime's attachments, and over no other's.

use rig::{Container, Host};
use serde_json::{Value, json};

use crate::{host, versioned};

fn gc(host: &Host, more: Value) -> rig::Reply {
    host.plugin().call("GC", "", "", "", &versioned("1.1.0", more))
}

/// What the plugin prints when `caller`, words of a shell, calls it for `container`.
fn called_by(caller: &str, host: &Host, verb: &str, container: &Container, conf: &Value) -> String {
    host.sh(&format!(
        "printf '%s' '{conf}' | CNI_COMMAND={verb} CNI_CONTAINERID={} CNI_NETNS={} CNI_IFNAME=eth0 \
         CNI_PATH=/usr/lib/cni {caller} {} || true",
        container.name(),
        container.path().display(),
        host.plugin().path().display()
    ))
}

fn ports(host: &Host) -> Vec<String> {
    let text = host.vsctl("list-ports ovsbr1");
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn what_is_not_listed_is_unplugged_though_its_namespace_lives() {
    let host = host();
    let [web, db] = ["web", "db"].map(|name| host.container(name));
    for container in [&web, &db] {
        host.plugin().add(container, &versioned("1.1.0", json!({}))).success();
    }
    let list = json!([{"containerID": "db", "ifname": "eth0"}]);
    let reply = gc(&host, json!({"cni.dev/valid-attachments": list, "cni.dev/attachments": list}));
    assert_eq!(reply.output.stdout, "");
    reply.success();
    assert_eq!(ports(&host), ["veth-db-eth0"]);
    assert!(db.ping("10.200.0.1".parse().unwrap()));
    assert!(!web.try_exec("ip link show eth0").ok());
}

#[test]
fn null_and_empty_lists_collect_everything_and_an_absent_one_nothing() {
    let host = host();
    for list in [json!(null), json!([])] {
        let web = host.container("web");
        host.plugin().add(&web, &versioned("1.1.0", json!({}))).success();
        gc(&host, json!({})).success();
        assert_eq!(ports(&host).len(), 1);
        gc(&host, json!({"cni.dev/valid-attachments": list})).success();
        assert_eq!(ports(&host), Vec::<String>::new());
        web.remove();
    }
}

#[test]
fn other_networks_and_other_runtimes_are_only_reported() {
    let host = host();
    let [web, db] = ["web", "db"].map(|name| host.container(name));
    host.plugin().add(&web, &versioned("1.1.0", json!({"name": "other"}))).success();
    // Another program plugs in: a shell.
    called_by("", &host, "ADD", &db, &versioned("1.1.0", json!({})));
    let reply = gc(&host, json!({"cni.dev/valid-attachments": []}));
    assert!(reply.output.stderr.contains("net/db/eth0 is kept: made by sh"), "{}", reply.output);
    reply.success();
    assert_eq!(ports(&host).len(), 2);
}

/// Two runtimes whose names cannot be seen look like one.
#[test]
fn a_caller_in_another_pid_namespace_collects_nothing() {
    let host = host();
    let web = host.container("web");
    let call = |verb: &str, more: Value| {
        called_by("unshare --pid --fork", &host, verb, &web, &versioned("1.1.0", more))
    };
    call("ADD", json!({}));
    let error = call("GC", json!({"cni.dev/valid-attachments": []}));
    assert!(error.contains("another pid namespace") && error.contains("disableGC"), "{error}");
    assert_eq!(ports(&host), ["veth-web-eth0"]);
    assert_eq!(call("DEL", json!({})), "");
    assert_eq!(ports(&host), Vec::<String>::new());
}

#[test]
fn a_port_whose_record_is_gone_is_collected_too() {
    let host = host();
    let web = host.container("web");
    host.plugin().add(&web, &versioned("1.1.0", json!({}))).success();
    host.sh("rm -r /run/ovs-port-agent/attachments");
    gc(&host, json!({"cni.dev/valid-attachments": null})).success();
    assert_eq!(ports(&host), Vec::<String>::new());
}

#[test]
fn a_list_that_cannot_be_read_collects_nothing() {
    let host = host();
    let web = host.container("web");
    host.plugin().add(&web, &versioned("1.1.0", json!({}))).success();
    for bad in [json!("all"), json!([7]), json!([{"containerID": "web"}]), json!({})] {
        let error = gc(&host, json!({"cni.dev/valid-attachments": bad})).failure();
        assert_eq!(error["code"], 7, "{error}");
    }
    assert_eq!(ports(&host).len(), 1);
}
