use serde_json::{Value, json};

use super::*;

fn read(value: &Value) -> Result<NetConf, Error> {
    let envelope = Envelope::parse(value.to_string().as_bytes()).unwrap();
    NetConf::read(&envelope, Version::V1_1_0, "net")
}

fn text(value: &Value) -> String {
    read(value).unwrap_err().to_string()
}

#[test]
fn the_smallest_configuration_is_enough() {
    let conf = read(&json!({"cniVersion": "1.0.0", "name": "net", "type": "ovs-agent"})).unwrap();
    assert_eq!(conf.bridge, None);
    assert_eq!(conf.vlan, PortVlan::untagged());
    assert_eq!(conf.ipam, Ipam::Absent);
    assert!(conf.dns.is_empty() && conf.routes.is_empty() && conf.subnets.is_empty());
}

#[test]
fn every_key_of_ours_is_read() {
    let conf = read(&json!({
        "name": "net", "type": "ovs-agent", "bridge": "br0", "vlan": 7, "mtu": 9000,
        "mac": "02:00:5e:10:00:01", "ofport_request": 42, "isolated": true,
        "external_ids": {"team": "net"},
        "subnets": ["10.1.0.0/24"],
        "routes": [{"dst": "192.168.0.0/16", "gw": "10.1.0.9", "mtu": 1400, "priority": 5}],
        "dns": {"nameservers": ["10.1.0.1"], "search": ["a.example"], "domain": "example"},
    }))
    .unwrap();
    assert_eq!(conf.bridge.unwrap().as_str(), "br0");
    assert_eq!((conf.mtu, conf.ofport_request, conf.isolated), (Some(9000), Some(42), true));
    assert_eq!(conf.external_ids["team"], "net");
    let mut route =
        Route::new("192.168.0.0/16".parse().unwrap(), Some("10.1.0.9".parse().unwrap()));
    route.mtu = Some(1400);
    route.priority = Some(5);
    assert_eq!(conf.routes, [route]);
    assert_eq!(
        Value::Object(conf.dns),
        json!({"nameservers": ["10.1.0.1"], "search": ["a.example"], "domain": "example"})
    );
}

/// A configuration out of the ovs-cni documentation, with only `type` changed.
#[test]
fn an_ovs_cni_configuration_is_read_unchanged() {
    let conf = read(&json!({
        "cniVersion": "0.4.0", "name": "mynet", "type": "ovs-agent", "bridge": "mynet1",
        "vlan": 0, "mtu": 0, "ofport_request": 0, "interface_type": "system",
        "socket_file": "unix:/var/run/openvswitch/db.sock",
        "configuration_path": "", "deviceID": "",
        "link_state_check_retries": 5, "link_state_check_interval": 600,
        "trunk": [{"id": 42}, {"minID": 1000, "maxID": 1002}],
        "ipam": {"type": "host-local", "subnet": "10.244.0.0/16"},
        "args": {"cni": {"MAC": "02:00:5e:10:00:01", "OvnPort": "lsp-1"}},
        "runtimeConfig": {"CNIDeviceInfoFile": "/var/run/x"},
    }))
    .unwrap();
    assert_eq!(conf.vlan.to_string(), "trunk 42,1000,1001,1002");
    assert_eq!((conf.mtu, conf.ofport_request), (None, None));
    assert_eq!(conf.ipam, Ipam::Plugin("host-local".to_owned()));
    assert_eq!(conf.ovn_port.as_deref(), Some("lsp-1"));
    assert!(conf.runtime_mac.is_some());
    assert_eq!(conf.compat.link_deadline, std::time::Duration::from_secs(3));
}

#[test]
fn what_runtimes_inject_is_no_unknown_key() {
    let conf = read(&json!({
        "CNIVersion": "1.1.0", "cniVersions": ["1.0.0"], "NAME": "net", "Type": "ovs-agent",
        "capabilities": {"mac": true, "aliases": true}, "prevResult": null,
        "args": {"podman_labels": {"a": "b"}, "cni": {"somebody": "else"}},
        "runtimeConfig": {
            "aliases": {"net": ["web"]}, "cgroupPath": "/x", "infinibandGUID": "",
            "io.kubernetes.cri.pod-annotations": {"a": "b"}, "portMappings": [],
            "bandwidth": {"ingressRate": 0, "egressRate": 0}, "deviceID": "", "ipRanges": null,
        },
        "deviceID": "", "pciBusID": "", "disableCheck": true, "disableGC": true,
        "cni.dev/valid-attachments": [], "cni.dev/attachments": null,
    }));
    assert!(conf.is_ok(), "{conf:?}");
}

#[test]
fn unknown_keys_are_refused_with_the_one_that_was_meant() {
    use shared::error::{Fault as _, Kind};
    let error = read(&json!({"name": "net", "brigde": "br0"})).unwrap_err();
    assert_eq!(error.to_string(), "unknown key brigde (value \"br0\")");
    assert_eq!(error.hint().as_deref(), Some("did you mean \"bridge\"?"));
    assert_eq!(error.kind(), Kind::Unsupported);
}

#[test]
fn runtime_config_matches_keys_as_go_writes_them() {
    let conf = read(&json!({
        "name": "net",
        "RuntimeConfig": {
            "Mac": "02:00:5e:10:00:02", "IPs": ["10.9.0.5", "10.9.0.5/24"],
            "DNS": {"Servers": ["10.9.0.1"], "Searches": ["b.example"], "Options": ["ndots:2"]},
        },
        "dns": {"nameservers": ["9.9.9.9"]},
        "args": {"cni": {"mac": "02:00:5e:10:00:01", "ips": ["fd00::5"]}},
    }))
    .unwrap();
    assert_eq!(conf.runtime_mac.unwrap().to_string(), "02:00:5e:10:00:02");
    assert_eq!(conf.requested.len(), 3);
    assert_eq!(
        Value::Object(conf.dns),
        json!({"nameservers": ["10.9.0.1"], "search": ["b.example"], "options": ["ndots:2"]})
    );
}

#[test]
fn what_is_not_offered_says_what_to_do() {
    use shared::error::Fault as _;
    for (config, field) in [
        (
            json!({"portMappings": [{"HostPort": 80, "ContainerPort": 8080, "Protocol": "sctp"}]}),
            "runtimeConfig.portMappings[0].protocol",
        ),
        (json!({"Bandwidth": {"IngressRate": 1000}}), "runtimeConfig.bandwidth"),
        (json!({"deviceID": "0000:03:02.0"}), "runtimeConfig.deviceID"),
        (json!({"ipRanges": [[{"subnet": "10.0.0.0/24"}]]}), "runtimeConfig.ipRanges"),
    ] {
        let error = read(&json!({"name": "net", "runtimeConfig": config})).unwrap_err();
        assert!(error.to_string().starts_with(field), "{error}");
        assert!(error.to_string().ends_with("is not supported yet"), "{error}");
        assert!(error.hint().is_some());
    }
    let delegated = json!({
        "name": "net", "ipam": {"type": "host-local"},
        "runtimeConfig": {"ipRanges": [[{"subnet": "10.0.0.0/24"}]]},
    });
    assert!(read(&delegated).is_ok());
}

#[test]
fn bad_values_name_field_value_and_expectation() {
    for (config, expected) in [
        (json!({"mtu": 67}), "mtu is 67, expected a whole number from 68 to 65535"),
        (json!({"mtu": 65536}), "mtu is 65536, expected a whole number from 68 to 65535"),
        (json!({"mtu": 1500.5}), "mtu is 1500.5, expected a whole number from 68 to 65535"),
        (
            json!({"ofport_request": 65280}),
            "ofport_request is 65280, expected a whole number from 1 to 65279",
        ),
        (
            json!({"mac": "01:00:5e:00:00:01"}),
            "mac is \"01:00:5e:00:00:01\", expected a unicast MAC address such as 02:00:5e:10:00:01",
        ),
        (json!({"isolated": 1}), "isolated is 1, expected true or false"),
        (json!({"external_ids": {"a": 1}}), "external_ids.a is 1, expected a string"),
        (
            json!({"external_ids": {"ovs-agent-network": "x"}}),
            "external_ids.ovs-agent-network is \"x\", expected a key other than \"owner\" and those that begin with \"ovs-agent\"",
        ),
        (
            json!({"routes": [{"gw": "10.0.0.1"}]}),
            "routes[0].dst is missing, expected a subnet such as 10.10.0.0/24",
        ),
        (
            json!({"routes": [{"dst": "::/0", "gw": "10.0.0.1"}]}),
            "routes[0].gw is \"10.0.0.1\", expected an address of the family of ::/0",
        ),
        (
            json!({"ipam": {"subnet": "10.0.0.0/24"}}),
            "ipam.type is missing, expected an IPAM plugin such as host-local, or an empty ipam for no addresses",
        ),
        (
            json!({"ipam": {"type": "static"}, "subnets": ["10.0.0.0/24"]}),
            "subnets is given, expected either subnets or ipam",
        ),
        (
            json!({"runtimeConfig": {"ips": ["10.0.0"]}}),
            "runtimeConfig.ips is \"10.0.0\", expected IP addresses, with or without a prefix length",
        ),
        (
            json!({"dns": {"nameservers": "9.9.9.9"}}),
            "dns.nameservers is \"9.9.9.9\", expected a list",
        ),
    ] {
        assert_eq!(text(&config), expected);
    }
    assert!(
        text(&json!({"bridge": "a/b"}))
            .starts_with("bridge is \"a/b\", expected an interface name")
    );
}

#[test]
fn an_empty_ipam_asks_for_plain_l2() {
    assert_eq!(read(&json!({"ipam": {}})).unwrap().ipam, Ipam::Nobody);
    assert_eq!(read(&json!({"ipam": {"type": ""}})).unwrap().ipam, Ipam::Nobody);
    assert_eq!(read(&json!({"ipam": null})).unwrap().ipam, Ipam::Absent);
}

#[test]
fn an_envelope_has_a_name_and_a_version_we_speak() {
    let parse = |text: &str| Envelope::parse(text.as_bytes());
    assert!(matches!(parse("{"), Err(EnvelopeError::Json { .. })));
    assert!(matches!(parse(""), Err(EnvelopeError::Json { .. })));
    assert!(matches!(parse("[]"), Err(EnvelopeError::NoObject { .. })));
    let name =
        |text: &str| parse(text).unwrap().name().map(str::to_owned).map_err(|e| e.to_string());
    assert_eq!(name(r#"{"Name": "net.1_a-b"}"#), Ok("net.1_a-b".to_owned()));
    assert_eq!(name("{}"), Err("missing network name".to_owned()));
    assert_eq!(name(r#"{"name": ""}"#), Err("missing network name".to_owned()));
    assert!(
        name(r#"{"name": "../x"}"#).unwrap_err().starts_with("network name \"../x\" is invalid")
    );
    let version = |text: &str| parse(text).unwrap().version().map_err(|e| e.to_string());
    assert_eq!(version(r#"{"cniVersion": "0.4.0"}"#), Ok(Version::V0_4_0));
    for other in
        ["{}", r#"{"cniVersion": ""}"#, r#"{"cniVersion": "9.9.9"}"#, r#"{"cniVersion": 1}"#]
    {
        assert_eq!(version(other), Err("incompatible CNI versions".to_owned()), "{other}");
    }
}
