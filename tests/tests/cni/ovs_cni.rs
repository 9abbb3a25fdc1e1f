//! Configurations written for ovs-cni, with only `type` changed.

use rig::{Frame, Host};
use serde_json::{Value, json};

use crate::{column, port, versioned};

/// The configurations of its documentation and its demos.
#[test]
fn documented_configurations_give_the_same_port() {
    let host = Host::new();
    host.bridge("mynet0");
    for (index, (more, expected)) in [
        (json!({"vlan": 100}), [("vlan_mode", "access"), ("tag", "100"), ("trunks", "[]")]),
        (json!({"vlan": 0}), [("vlan_mode", "access"), ("tag", "0"), ("trunks", "[]")]),
        (
            json!({"mtu": 9000, "trunk": [{"id": 42}, {"minID": 1000, "maxID": 1002}]}),
            [("vlan_mode", "trunk"), ("tag", "[]"), ("trunks", "[42, 1000, 1001, 1002]")],
        ),
        (
            json!({"vlan": 5, "trunk": [{"id": 42}]}),
            [("vlan_mode", "trunk"), ("tag", "[]"), ("trunks", "[42]")],
        ),
        // The one difference: not every VLAN, but untagged frames only.
        (json!({}), [("vlan_mode", "trunk"), ("tag", "[]"), ("trunks", "[0]")]),
    ]
    .into_iter()
    .enumerate()
    {
        let web = host.container(&format!("web{index}"));
        let mut conf = versioned("0.3.1", more);
        conf["bridge"] = json!("mynet0");
        conf["socket_file"] = json!("unix:/var/run/openvswitch/db.sock");
        conf["interface_type"] = json!("");
        let result = host.plugin().add(&web, &conf).success();
        assert!(result.get("ips").is_none());
        for (name, value) in expected {
            assert_eq!(column(&host, "Port", &port(&result), name), value, "{conf}");
        }
        if conf.get("mtu").is_some() {
            assert!(web.ip("link show eth0").contains("mtu 9000"));
        }
        host.plugin().del(&web, &conf).success();
    }
    assert_eq!(host.vsctl("list-ports mynet0").trim(), "");
}

#[test]
fn without_vlan_no_tagged_frame_passes() {
    let host = Host::new();
    host.bridge("mynet0");
    let conf = versioned("1.0.0", json!({"bridge": "mynet0"}));
    let all = versioned("1.0.0", json!({"bridge": "mynet0", "vlan_mode": "trunk"}));
    let [plain, other, trunk] = ["plain", "other", "trunk"].map(|name| host.container(name));
    host.plugin().add(&plain, &conf).success();
    host.plugin().add(&other, &conf).success();
    host.plugin().add(&trunk, &all).success();
    let (sender, receiver, every) =
        (plain.raw_socket("eth0"), other.raw_socket("eth0"), trunk.raw_socket("eth0"));
    sender.send(&Frame::broadcast(plain.mac("eth0"), Some(7), "tagged"));
    sender.send(&Frame::broadcast(plain.mac("eth0"), None, "untagged"));
    let second = std::time::Duration::from_secs(1);
    assert!(receiver.hear("untagged", second * 3).is_some());
    assert!(every.hear("untagged", second * 3).is_some());
    sender.send(&Frame::broadcast(plain.mac("eth0"), Some(7), "tagged again"));
    assert_eq!(receiver.hear("tagged again", second / 2), None);
    assert_eq!(every.hear("tagged again", second / 2), None);
    every.send(&Frame::broadcast(trunk.mac("eth0"), Some(9), "from the trunk"));
    assert_eq!(receiver.hear("from the trunk", second / 2), None);
}

#[test]
fn the_flat_file_fills_in_and_the_named_one_comes_first() {
    let host = Host::new();
    host.bridge("br-flat");
    host.bridge("br-named");
    host.write("/etc/cni/net.d/ovs.d/ovs.conf", r#"{"bridge": "br-flat", "vlan": 9, "mtu": 1300}"#);
    host.write("/etc/other.conf", r#"{"Bridge": "br-named"}"#);
    let web = host.container("web");
    let result = host.plugin().add(&web, &versioned("0.4.0", json!({"vlan": 8}))).success();
    assert_eq!(host.vsctl(&format!("port-to-br {}", port(&result))).trim(), "br-flat");
    assert_eq!(column(&host, "Port", &port(&result), "tag"), "8");
    assert!(web.ip("link show eth0").contains("mtu 1300"));
    host.plugin().del(&web, &versioned("0.4.0", json!({}))).success();

    let named = versioned("0.4.0", json!({"configuration_path": "/etc/other.conf"}));
    let result = host.plugin().add(&web, &named).success();
    assert_eq!(host.vsctl(&format!("port-to-br {}", port(&result))).trim(), "br-named");
    // A broken flat file keeps nobody plugged in.
    host.write("/etc/other.conf", "{");
    host.plugin().del(&web, &named).success();
    assert_eq!(host.vsctl("list-ports br-named").trim(), "");
    assert_eq!(host.plugin().add(&web, &named).failure()["code"], 6);
}

#[test]
fn an_ovn_port_goes_to_br_int_with_its_iface_id() {
    let host = Host::new();
    host.bridge("br-int");
    for (args, more) in [
        ("IgnoreUnknown=1;OvnPort=lsp-1;MAC=02:00:00:00:00:07", json!({})),
        ("ovnPort=lsp-1;mac=02:00:00:00:00:07", json!({})),
        ("", json!({"args": {"cni": {"ovnPort": "lsp-1", "mac": "02:00:00:00:00:07"}}})),
        ("OvnPort=lsp-1;MAC=02:00:00:00:00:07", json!({"args": {"cni": {"ovnPort": "lsp-9"}}})),
    ] {
        let web = host.container("web");
        let plugin = host.plugin().env("CNI_ARGS", args);
        let conf = versioned("0.4.0", more);
        let result = plugin.add(&web, &conf).success();
        assert_eq!(result["interfaces"][1]["mac"], "02:00:00:00:00:07");
        let port = port(&result);
        assert_eq!(host.vsctl(&format!("port-to-br {port}")).trim(), "br-int");
        assert_eq!(column(&host, "Interface", &port, "external_ids:iface-id"), "lsp-1");
        plugin.del(&web, &conf).success();
        web.remove();
    }
}

#[test]
fn another_socket_is_remembered_for_del() {
    let host = Host::new();
    host.bridge("br0");
    // The usual place is empty: only the configuration knows where the switch is.
    host.sh("mkdir /run/elsewhere; ln -s /var/run/openvswitch/* /run/elsewhere/");
    host.config("ovsdb_socket = \"/run/nowhere/db.sock\"\n");
    let web = host.container("web");
    let more = json!({"bridge": "br0", "socket_file": "/run/elsewhere/db.sock"});
    let conf = versioned("0.4.0", more);
    host.plugin().add(&web, &conf).success();
    let changed: Value = versioned("0.4.0", json!({"bridge": "br0"}));
    host.plugin().del(&web, &changed).success();
    assert_eq!(host.vsctl("list-ports br0").trim(), "");
}
