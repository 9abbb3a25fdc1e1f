use serde_json::json;
use shared::address::Subnet;
use shared::network::Network;
use shared::state;

use super::network::PodmanNetwork;
use super::*;

/// What netavark 1.14 sends for a container on a network with a subnet and a VLAN.
pub(super) fn setup() -> Map<String, Value> {
    object(json!({
        "container_id": "cf8e7427c57d", "container_name": "web", "port_mappings": null,
        "network": {
            "dns_enabled": false, "driver": "ovs-agent", "id": "b014d0898020", "internal": false,
            "ipv6_enabled": false, "name": "blue", "network_interface": "ovsbr1",
            "options": {"vlan": "30", "addresses": "pool", "gateway": "10.5.0.1"},
            "ipam_options": {"driver": "none"},
            "subnets": [{"gateway": "10.5.0.1", "lease_range": null, "subnet": "10.5.0.0/24"}],
            "routes": null, "network_dns_servers": null,
        },
        "network_options": {
            "aliases": ["cf8e7427c57d"], "interface_name": "eth0", "static_ips": null,
            "static_mac": null, "options": null,
        },
    }))
}

/// What Podman 5.4 sends for `podman network create`, with more keys.
fn create(more: Value) -> Map<String, Value> {
    let mut network = object(json!({
        "name": "blue", "id": "f17ef53669d8", "driver": "ovs-agent",
        "created": "0001-01-01T00:00:00Z", "ipv6_enabled": false, "internal": false,
        "dns_enabled": true,
    }));
    network.extend(object(more));
    network
}

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else { panic!("{value} is no object") };
    map
}

/// The default configuration, with an empty state directory of its own.
fn host() -> (Config, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Config { state_dir: dir.path().to_owned(), ..Config::default() }, dir)
}

fn created(more: Value) -> Value {
    let (config, _dir) = host();
    create::run(&create(more), &config).unwrap()
}

fn refused(more: Value) -> String {
    let (config, _dir) = host();
    sentence(&create::run(&create(more), &config).unwrap_err())
}

#[test]
fn without_a_subnet_the_pool_gives_and_podman_does_not() {
    let network = created(json!({}));
    assert_eq!(network["options"], json!({"addresses": "pool"}));
    assert_eq!(network["ipam_options"], json!({"driver": "none"}));
    assert_eq!(network["dns_enabled"], false);
    assert_eq!(network["network_interface"], "ovsbr1");
    for (key, value) in [("name", "blue"), ("id", "f17ef53669d8"), ("driver", "ovs-agent")] {
        assert_eq!(network[key], value, "Podman refuses an edited {key}");
    }
}

#[test]
fn with_a_subnet_the_pool_gives_too_and_the_gateway_is_settled() {
    let network = created(json!({
        "subnets": [{"subnet": "10.5.0.0/24"}, {"subnet": "fd05::/64", "gateway": "fd05::ff"}],
        "options": {"vlan": "30"},
    }));
    assert_eq!(
        network["options"],
        json!({"vlan": "30", "addresses": "pool", "gateway": "10.5.0.1,fd05::ff"})
    );
    assert_eq!(network["subnets"][0]["gateway"], "10.5.0.1");
    assert_eq!(network["ipam_options"]["driver"], "none");
}

#[test]
fn what_create_wrote_reads_the_same_however_podman_turns_the_gateway() {
    let mut network = object(created(json!({
        "subnets": [{"subnet": "10.5.0.0/24"}], "options": {"bridge": "ovsbr0", "vlan": "30"},
    })));
    assert_eq!(network["options"]["gateway"], "none", "nobody is the gateway on a wire");
    network["subnets"][0]["gateway"] = json!("10.5.0.1");
    let read = PodmanNetwork::read(&network).unwrap();
    let place = read.place(&Config::default()).unwrap();
    assert_eq!(place.subnets()[0].gateway, None);
}

/// Podman hands the ports of a container to each of its networks.
#[test]
fn an_internal_network_publishes_nothing() {
    let ports = |internal: bool| {
        let mut input = setup();
        input["port_mappings"] = json!([{"container_port": 80, "host_ip": "", "host_port": 8080,
                                         "protocol": "tcp", "range": 1}]);
        input["network"]["internal"] = json!(internal);
        super::setup::Call::read(&input).unwrap().ports.len()
    };
    assert_eq!([ports(false), ports(true)], [1, 0]);
}

#[test]
fn an_internal_network_has_no_gateway() {
    let network = object(created(json!({
        "internal": true, "subnets": [{"subnet": "10.5.0.0/24"}], "options": {"vlan": "30"},
    })));
    let place = PodmanNetwork::read(&network).unwrap().place(&Config::default()).unwrap();
    let crate::network::Source::Pool(network) = place.source else { panic!("expected a pool") };
    assert!(!network.gateway && !network.nat && network.subnets[0].gateway.is_none());
    assert_eq!(
        refused(json!({"internal": true})),
        "the network is internal, but the pool of ovsbr1 leads outside; add --subnet, and -o vlan to keep it apart"
    );
}

#[test]
fn podman_may_give_the_addresses_of_a_subnet_nobody_else_has() {
    let given = json!({
        "subnets": [{"subnet": "10.5.0.0/24"}], "ipam_options": {"driver": "host-local"},
        "options": {"vlan": "29"},
    });
    let network = created(given.clone());
    assert_eq!(network["options"]["addresses"], "podman");
    assert_eq!(network["ipam_options"]["driver"], "host-local");

    let ours = json!({
        "subnets": [{"subnet": "10.200.0.0/25"}], "ipam_options": {"driver": "host-local"},
    });
    assert_eq!(
        refused(ours),
        "ipam hands out 10.200.0.0-10.200.0.127, which overlaps the pool 10.200.0.0/24 of ovsbr1, untagged; leave --ipam-driver out to get addresses of that pool, or choose another subnet"
    );
    // The same for the pool of a network made on first use.
    let (config, _dir) = host();
    let made = Network {
        bridge: "ovsbr1".parse().unwrap(),
        vlan: 30u64.try_into().unwrap(),
        subnets: vec![Subnet {
            net: "10.5.0.0/24".parse().unwrap(),
            range: None,
            gateway: Some("10.5.0.1".parse().unwrap()),
        }],
        gateway: true,
        nat: true,
    };
    state::State::new(config.state_dir.clone()).prepare().unwrap();
    state::write(&config.state_dir.join("networks/ovsbr1-30.json"), &made).unwrap();
    let mut given = given;
    given["options"] = json!({"vlan": "30"});
    let error = create::run(&create(given.clone()), &config).unwrap_err().to_string();
    assert!(error.contains("overlaps the pool 10.5.0.0/24 of ovsbr1, VLAN 30"), "{error}");
    // Without an allocator of its own the network shares that pool; elsewhere it cannot have it.
    given["ipam_options"] = Value::Null;
    let shared = create::run(&create(given.clone()), &config).unwrap();
    assert_eq!(shared["options"]["addresses"], "pool");
    given["options"] = json!({"vlan": "31"});
    let error = create::run(&create(given), &config).unwrap_err().to_string();
    assert!(error.contains("overlaps 10.5.0.0/24"), "{error}");
}

#[test]
fn no_addresses_where_none_are_wanted_or_none_are_there() {
    for more in [
        json!({"ipam_options": {"driver": "none"}}),
        json!({"options": {"addresses": "none"}}),
        json!({"options": {"vlan": "30"}}),
        json!({"network_interface": "ovsbr0"}),
        json!({"options": {"trunk": "10,20-30"}}),
    ] {
        let network = created(more.clone());
        assert_eq!(network["options"]["addresses"], "none", "{more}");
        assert_eq!(network["ipam_options"]["driver"], "none", "{more}");
    }
}

#[test]
fn labels_are_the_other_spelling_of_options() {
    let network = created(json!({
        "labels": {"ovs-agent.bridge": "br9", "ovs-agent.vlan": "30", "com.example.team": "net"},
        "options": {"vlan": "31"},
    }));
    let read = PodmanNetwork::read(&object(network.clone())).unwrap();
    assert_eq!(read.bridge.unwrap().as_str(), "br9");
    assert_eq!(read.vlan.to_string(), "31", "an option outranks its label");
    assert_eq!(network["labels"]["com.example.team"], "net");
    let said = refused(json!({"labels": {"ovs-agent.brigde": "br9"}}));
    assert_eq!(said, "unknown key options.brigde (value \"br9\"); did you mean \"bridge\"?");
}

#[test]
fn name_servers_become_an_option() {
    let network = created(json!({"network_dns_servers": ["10.200.0.53", "fd53::1"]}));
    assert_eq!(network["options"]["dns"], "10.200.0.53,fd53::1");
    assert!(network.get("network_dns_servers").is_none(), "Podman refuses {network}");
    let read = PodmanNetwork::read(&object(network)).unwrap();
    assert_eq!(read.dns.len(), 2);
    let said = refused(json!({"options": {"dns": "one.example"}}));
    assert_eq!(said, "options.dns is \"one.example\", expected IP addresses with commas");
}

#[test]
fn every_option_is_read() {
    let network = create(json!({
        "subnets": [{"subnet": "10.5.0.0/24", "lease_range": {"start_ip": "10.5.0.64", "end_ip": "10.5.0.127"}}],
        "routes": [{"destination": "10.9.0.0/16", "gateway": "10.5.0.7", "metric": 5}],
        "network_dns_servers": ["10.5.0.53"],
        "options": {"bridge": "ovsbr1", "vlan": "30", "vlan_mode": "native-untagged",
            "trunk": "40, 50-52", "mtu": "9000", "nat": "false", "isolated": "1",
            "no_default_route": "true"},
    }));
    let read = PodmanNetwork::read(&network).unwrap();
    assert_eq!(read.vlan.to_string(), "native-untagged 30 trunk 40,50,51,52");
    assert_eq!((read.mtu, read.isolated, read.no_default_route), (Some(9000), true, true));
    assert_eq!(read.subnets[0].nat, Some(false));
    let range = ("10.5.0.64".parse().unwrap(), "10.5.0.127".parse().unwrap());
    assert_eq!(read.subnets[0].range, Some(range));
    assert_eq!((read.routes[0].priority, read.dns.len()), (Some(5), 1));
}

#[test]
fn bad_options_are_refused_by_name() {
    for (more, text) in [
        (
            json!({"options": {"brigde": "br0"}}),
            "unknown key options.brigde (value \"br0\"); did you mean \"bridge\"?",
        ),
        (
            json!({"options": {"com.example": "1"}}),
            "unknown key options.com.example (value \"1\"); remove it; docs/podman.md lists the options",
        ),
        (
            json!({"options": {"vlan": "4095"}}),
            "options.vlan is 4095, expected a whole number from 0 to 4094",
        ),
        (
            json!({"options": {"vlan": "blue"}}),
            "options.vlan is \"blue\", expected a whole number from 0 to 4094",
        ),
        (
            json!({"options": {"mtu": "12"}}),
            "options.mtu is 12, expected a whole number from 68 to 65535",
        ),
        (
            json!({"options": {"isolated": "yes"}}),
            "options.isolated is \"yes\", expected true or false",
        ),
        (
            json!({"options": {"trunk": "10-"}}),
            "options.trunk is \"10-\", expected VLANs such as 10,20-30",
        ),
        (
            json!({"options": {"trunk": "20", "vlan": "10"}}),
            "options.vlan_mode is missing, expected native-untagged or native-tagged beside vlan and trunk",
        ),
        (
            json!({"options": {"bridge": "a b"}}),
            "options.bridge is \"a b\", expected an interface name of 1 to 15 letters, digits, \"_\", \".\" or \"-\", a letter or digit first",
        ),
        (
            json!({"options": {"bridge": "a"}, "network_interface": "b"}),
            "options.bridge is \"a\", expected b, as in --interface-name, or only one of them",
        ),
        (
            json!({"options": {"addresses": "dhcp"}}),
            "options.addresses is \"dhcp\", expected pool, podman or none",
        ),
        (
            json!({"options": {"addresses": "pool"}, "ipam_options": {"driver": "none"}}),
            "options.addresses is pool, expected none, as in --ipam-driver, or only one of them",
        ),
        (json!({"options": {"nat": "true"}}), "options.nat is given, expected --subnet beside it"),
        (
            json!({"options": {"gateway": "10.6.0.1"}, "subnets": [{"subnet": "10.5.0.0/24"}]}),
            "options.gateway is 10.6.0.1, expected an address of the subnets",
        ),
        (
            json!({"subnets": [{"subnet": "10.5.0.0/16"}, {"subnet": "10.5.1.0/24"}]}),
            "subnets[1].subnet is \"10.5.1.0/24\", expected no overlap with 10.5.0.0/16",
        ),
        (
            json!({"subnets": [{"subnet": "10.200.0.128/25"}]}),
            "subnet 10.200.0.128/25 cannot be on ovsbr1, untagged: that is the configuration's network 10.200.0.0/24 and fd6f:7673:6272:1::/64; name a VLAN of its own, leave the subnet out to join the network there is, or give ovsbr1 another address in the configuration",
        ),
        (
            json!({"subnets": [{"subnet": "10.200.0.128/25"}], "options": {"vlan": "30"}}),
            "subnet 10.200.0.128/25 of ovsbr1, VLAN 30 overlaps 10.200.0.0/24 of ovsbr1, untagged; choose another subnet",
        ),
        (
            json!({"subnets": [{"subnet": "10.5.0.7/32"}], "options": {"vlan": "30"}}),
            "subnet 10.5.0.7/32 has no room for a gateway beside a container; name a larger subnet",
        ),
        (
            json!({"options": {"addresses": "none"}, "subnets": [{"subnet": "10.5.0.0/24"}]}),
            "subnet 10.5.0.0/24 is given, but addresses are switched off (none); leave the subnet out, or do not say none",
        ),
        (
            json!({"ipam_options": {"driver": "host-local"}}),
            "ipam driver \"host-local\" is given without a subnet; add --subnet, or leave --ipam-driver out",
        ),
        (
            json!({"name": "../x"}),
            "name is \"../x\", expected letters, digits, \"_\", \".\" or \"-\", a letter or digit first",
        ),
    ] {
        assert_eq!(refused(more), text);
    }
    let said = refused(json!({"ipam_options": {"driver": "dhcp"}}));
    assert!(said.starts_with("ipam driver \"dhcp\" is not offered; "), "{said}");
}

#[test]
fn teardown_needs_no_more_than_the_key() {
    let mut input = setup();
    input["network"] = json!({"name": "blue", "options": {"nonsense": "1"}});
    assert_eq!(setup::key(&input).unwrap().to_string(), "blue/cf8e7427c57d/eth0");
}
