use serde_json::json;
use shared::attachment::record::Labels;
use shared::attachment::{Key, Runtime};
use shared::netns::NetnsId;
use shared::vlan::PortVlan;

use super::*;

const SANDBOX: &str = "/var/run/netns/cni-1";

fn record() -> Record {
    let mut default = Route::new("0.0.0.0/0".parse().unwrap(), Some("10.200.0.1".parse().unwrap()));
    default.priority = Some(7);
    Record {
        key: Key {
            network: "net".to_owned(),
            container: "web".to_owned(),
            ifname: "eth0".parse().unwrap(),
        },
        runtime: Runtime::Cni,
        caller: "test".to_owned(),
        boot_id: String::new(),
        complete: true,
        since: 0,
        uptime: 0,
        netns: SANDBOX.into(),
        netns_id: Some(NetnsId { dev: 4, ino: 1 }),
        bridge: "ovsbr1".parse().unwrap(),
        port: "veth-web-eth0".parse().unwrap(),
        vlan: PortVlan::untagged(),
        isolated: false,
        host_mac: "02:00:00:00:00:01".parse().unwrap(),
        mac: "0a:58:0a:c8:00:02".parse().unwrap(),
        mtu: 1500,
        addresses: vec![
            Address {
                address: "10.200.0.2/24".parse().unwrap(),
                gateway: Some("10.200.0.1".parse().unwrap()),
            },
            Address { address: "fd00::2/64".parse().unwrap(), gateway: None },
        ],
        routes: vec![default],
        leases: Vec::new(),
        labels: Labels::default(),
        adopted: None,
        extras: shared::attachment::record::PortExtras::default(),
        ovsdb: None,
        front_end: Value::Null,
    }
}

fn dns() -> Map<String, Value> {
    json!({"nameservers": ["10.200.0.1"]}).as_object().unwrap().clone()
}

#[test]
fn results_up_to_0_4_0_say_the_family() {
    for version in [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0] {
        assert_eq!(
            render(version, &record(), SANDBOX, &Map::new(), None),
            json!({
                "cniVersion": version.as_str(),
                "interfaces": [
                    {"name": "veth-web-eth0", "mac": "02:00:00:00:00:01"},
                    {"name": "eth0", "mac": "0a:58:0a:c8:00:02", "sandbox": SANDBOX},
                ],
                "ips": [
                    {"version": "4", "interface": 1, "address": "10.200.0.2/24",
                     "gateway": "10.200.0.1"},
                    {"version": "6", "interface": 1, "address": "fd00::2/64"},
                ],
                "routes": [{"dst": "0.0.0.0/0", "gw": "10.200.0.1"}],
            })
        );
    }
}

#[test]
fn a_1_0_0_result_has_no_family_and_nothing_of_1_1_0() {
    assert_eq!(
        render(Version::V1_0_0, &record(), SANDBOX, &dns(), None),
        json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                {"name": "veth-web-eth0", "mac": "02:00:00:00:00:01"},
                {"name": "eth0", "mac": "0a:58:0a:c8:00:02", "sandbox": SANDBOX},
            ],
            "ips": [
                {"interface": 1, "address": "10.200.0.2/24", "gateway": "10.200.0.1"},
                {"interface": 1, "address": "fd00::2/64"},
            ],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.200.0.1"}],
            "dns": {"nameservers": ["10.200.0.1"]},
        })
    );
}

#[test]
fn a_1_1_0_result_adds_mtu_and_metrics() {
    let result = render(Version::V1_1_0, &record(), SANDBOX, &Map::new(), None);
    assert_eq!(result["interfaces"][0]["mtu"], 1500);
    assert_eq!(result["interfaces"][1]["mtu"], 1500);
    assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0", "gw": "10.200.0.1", "priority": 7}]));
}

#[test]
fn plain_l2_has_interfaces_alone() {
    let mut record = record();
    record.addresses.clear();
    record.routes.clear();
    let result = render(Version::V1_0_0, &record, SANDBOX, &Map::new(), None);
    let keys: Vec<_> = result.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["cniVersion", "interfaces"]);
}

#[test]
fn behind_another_plugin_nothing_of_its_result_is_lost() {
    let previous = json!({
        "CNIVersion": "1.0.0",
        "interfaces": [{"name": "dummy0", "sandbox": SANDBOX, "socketPath": "/x"}],
        "ips": [{"interface": 0, "address": "10.9.0.2/24"}],
        "Routes": null,
        "dns": {"nameservers": ["9.9.9.9"]},
        "vendor": {"kept": true},
    });
    let previous = previous.as_object().unwrap();
    let result = render(Version::V1_0_0, &record(), SANDBOX, &Map::new(), Some(previous));
    assert_eq!(result["interfaces"][0], previous["interfaces"][0]);
    assert_eq!(result["interfaces"][2]["name"], "eth0");
    assert_eq!(result["ips"][0], previous["ips"][0]);
    assert_eq!(result["ips"][1]["interface"], 2);
    assert_eq!(result["routes"].as_array().unwrap().len(), 1);
    assert_eq!(result["dns"], previous["dns"]);
    assert_eq!(result["vendor"], previous["vendor"]);
    assert_eq!(result["cniVersion"], "1.0.0");
    assert!(result.get("CNIVersion").is_none());
    let ours = render(Version::V1_0_0, &record(), SANDBOX, &dns(), Some(previous));
    assert_eq!(ours["dns"], json!({"nameservers": ["10.200.0.1"]}));
}

#[test]
fn what_ipam_plugins_print_is_read() {
    let answer = json!({
        "cniVersion": "0.4.0",
        "ips": [{"version": "4", "address": "10.1.0.5/24", "gateway": "10.1.0.1", "interface": null},
                {"Address": "fd00::5/64"}],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {},
    });
    let handed = read_ipam(answer.as_object().unwrap()).unwrap();
    assert_eq!(handed.addresses.len(), 2);
    assert_eq!(handed.addresses[0].gateway, Some("10.1.0.1".parse().unwrap()));
    assert_eq!(handed.routes, [Route::new("0.0.0.0/0".parse().unwrap(), None)]);
    assert!(handed.dns.is_empty());
    let bad = json!({"ips": [{"address": "10.1.0.5/33"}]});
    assert!(read_ipam(bad.as_object().unwrap()).is_err());
}

#[test]
fn check_looks_for_its_own_interface_only() {
    let previous = json!({
        "interfaces": [
            {"name": "veth1", "mac": "02:00:00:00:00:01"},
            {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": SANDBOX},
            {"name": "eth1", "mac": "02:00:00:00:00:03", "sandbox": SANDBOX},
        ],
        "ips": [
            {"interface": 1, "address": "10.200.0.2/24", "gateway": "10.200.0.1"},
            {"interface": 2, "address": "10.9.0.2/24"},
            {"address": "10.200.1.2/24"},
        ],
        "routes": [
            {"dst": "0.0.0.0/0", "gw": "10.200.0.1"},
            {"dst": "10.8.0.0/16", "gw": "10.9.0.1"},
        ],
    });
    let Previous { mac, addresses, routes } =
        read_previous(previous.as_object().unwrap(), "eth0", SANDBOX).unwrap();
    let texts: Vec<_> = addresses.iter().map(|a| a.address.to_string()).collect();
    assert_eq!(texts, ["10.200.0.2/24", "10.200.1.2/24"]);
    assert_eq!(routes.len(), 1);
    assert_eq!(mac.unwrap().to_string(), "02:00:00:00:00:02");
}

#[test]
fn a_result_of_ours_is_read_back_whole() {
    for version in Version::ALL {
        let result = render(version, &record(), SANDBOX, &dns(), None);
        let Previous { mac, addresses, routes } =
            read_previous(result.as_object().unwrap(), "eth0", SANDBOX).unwrap();
        assert_eq!(mac, Some(record().mac));
        assert_eq!(addresses, record().addresses);
        assert_eq!(routes[0].gw, record().routes[0].gw);
    }
}
