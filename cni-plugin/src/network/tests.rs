use serde_json::{Value, json};

use super::*;
use crate::netconf::Envelope;
use crate::version::Version;

fn config() -> Config {
    let mut config = Config::default();
    config.bridges[0].mode = Mode::Direct {
        uplink: None,
        addresses: vec!["172.16.0.10/24".parse().unwrap()],
        gateway: Some("172.16.0.1".parse().unwrap()),
    };
    config
}

fn conf(value: &Value) -> NetConf {
    let envelope = Envelope::parse(value.to_string().as_bytes()).unwrap();
    NetConf::read(&envelope, Version::V1_0_0, "net").unwrap()
}

fn place(value: &Value) -> Result<Place, Error> {
    settle(&conf(value), false, &config())
}

fn network(value: &Value) -> Network {
    match place(value).unwrap().source {
        Source::Pool(network) => network,
        other => panic!("expected a pool, not {other:?}"),
    }
}

fn text(value: &Value) -> String {
    place(value).unwrap_err().to_string()
}

#[test]
fn nothing_said_is_the_nat_bridge_and_its_pools() {
    let network = network(&json!({}));
    assert_eq!(network.bridge.as_str(), "ovsbr1");
    assert!(network.gateway && network.nat);
    assert_eq!(network.subnets[0].gateway, Some("10.200.0.1".parse().unwrap()));
}

#[test]
fn other_places_give_no_addresses_by_themselves() {
    for value in [
        json!({"bridge": "ovsbr0"}),
        json!({"bridge": "br-foreign"}),
        json!({"vlan": 7}),
        json!({"vlan_mode": "trunk"}),
        json!({"ipam": {}}),
    ] {
        assert_eq!(place(&value).unwrap().source, Source::Nobody, "{value}");
    }
    assert_eq!(
        place(&json!({"ipam": {"type": "dhcp"}})).unwrap().source,
        Source::Plugin("dhcp".to_owned())
    );
}

#[test]
fn an_ovn_port_lives_on_br_int_unless_told_otherwise() {
    let bridge = |value, ovn| settle(&conf(&value), ovn, &config()).unwrap().bridge.to_string();
    assert_eq!(bridge(json!({}), true), "br-int");
    assert_eq!(bridge(json!({"bridge": "br-x"}), true), "br-x");
    let mut bare = config();
    bare.bridges.clear();
    assert_eq!(settle(&conf(&json!({})), false, &bare), Err(Error::NoBridge));
}

#[test]
fn own_subnets_of_the_nat_bridge_are_masqueraded_by_the_host() {
    let network = network(&json!({"vlan": 30, "subnets": ["10.30.0.0/24", "fd30::/64"]}));
    assert_eq!(network.vlan, VlanId::try_from(30).unwrap());
    assert!(network.gateway && network.nat);
    assert_eq!(network.subnets[0].gateway, Some("10.30.0.1".parse().unwrap()));
    assert_eq!(network.subnets[1].gateway, Some("fd30::1".parse().unwrap()));
}

#[test]
fn nat_false_keeps_the_gateway_and_gateway_none_drops_both() {
    let routed =
        network(&json!({"vlan": 30, "subnets": [{"subnet": "10.30.0.0/24", "nat": false}]}));
    assert!(routed.gateway && !routed.nat);
    let closed =
        network(&json!({"vlan": 30, "subnets": [{"subnet": "10.30.0.0/24", "gateway": "none"}]}));
    assert!(!closed.gateway && !closed.nat);
    assert_eq!(closed.subnets[0].gateway, None);
    assert_eq!(
        text(&json!({"subnets": [{"subnet": "10.30.0.0/24", "gateway": "none", "nat": true}]})),
        "subnet 10.30.0.0/24 has nat true and gateway \"none\", expected a gateway for nat"
    );
}

#[test]
fn off_the_nat_bridge_the_host_takes_an_address_only_for_nat() {
    let wired = json!({
        "bridge": "ovsbr0", "vlan": 20,
        "subnets": [{"subnet": "10.20.0.0/24", "gateway": "10.20.0.254"}],
    });
    let wired = network(&wired);
    assert!(!wired.gateway && !wired.nat);
    assert_eq!(wired.subnets[0].gateway, Some("10.20.0.254".parse().unwrap()));
    let bare = network(&json!({"bridge": "br-x", "subnets": ["10.20.0.0/24"]}));
    assert_eq!((bare.gateway, bare.subnets[0].gateway), (false, None));
    let masqueraded =
        network(&json!({"bridge": "br-x", "subnets": [{"subnet": "10.20.0.0/24", "nat": true}]}));
    assert!(masqueraded.gateway && masqueraded.nat);
    assert_eq!(masqueraded.subnets[0].gateway, Some("10.20.0.1".parse().unwrap()));
}

#[test]
fn the_real_lan_gives_addresses_only_from_an_explicit_range() {
    let lan = |subnet: Value| json!({"bridge": "ovsbr0", "subnets": [subnet]});
    assert_eq!(
        text(&lan(json!("172.16.0.0/24"))),
        "subnet 172.16.0.0/24 is the LAN of direct bridge ovsbr0, expected an explicit range"
    );
    let range = "172.16.0.200-172.16.0.220";
    let network = network(&lan(json!({"subnet": "172.16.0.0/24", "range": range})));
    assert!(!network.gateway && !network.nat);
    assert_eq!(network.subnets[0].gateway, Some("172.16.0.1".parse().unwrap()));
    assert_eq!(
        text(&lan(json!({"subnet": "172.16.0.0/24", "range": range, "nat": true}))),
        "subnet 172.16.0.0/24 is the LAN of direct bridge ovsbr0, expected nat false"
    );
}

#[test]
fn one_network_treats_its_subnets_alike() {
    assert_eq!(
        text(&json!({"subnets": ["10.30.0.0/24", {"subnet": "fd30::/64", "nat": false}]})),
        "subnets 10.30.0.0/24 and fd30::/64 differ in nat, expected the same for all"
    );
}

#[test]
fn addresses_need_untagged_frames() {
    assert_eq!(
        text(&json!({"trunk": [{"id": 5}], "subnets": ["10.30.0.0/24"]})),
        "subnets are given, but the port carries tagged frames only (trunk 5)"
    );
    let native = json!({
        "vlan": 4, "vlan_mode": "native-untagged", "trunk": [{"id": 5}],
        "subnets": ["10.30.0.0/24"],
    });
    assert_eq!(network(&native).vlan, VlanId::try_from(4).unwrap());
}

#[test]
fn an_ipam_plugin_keeps_out_of_our_pools() {
    let ours: Vec<Network> = config().bridges.iter().filter_map(Network::of_nat_bridge).collect();
    let refused = |ipam: Value| {
        let spans = ipam_spans(ipam.as_object().unwrap());
        assert!(!spans.is_empty(), "{ipam}");
        refuse_overlap(&spans, &ours).map_err(|error| error.to_string())
    };
    assert_eq!(
        refused(json!({"subnet": "10.200.0.0/16"})).unwrap_err(),
        "ipam hands out 10.200.0.0-10.200.255.255, which overlaps the pool 10.200.0.0/24 of ovsbr1, untagged"
    );
    for ipam in [
        json!({"ranges": [[{"subnet": "10.1.0.0/24"}], [{"Subnet": "10.200.0.128/25"}]]}),
        json!({"ranges": [[{"subnet": "10.200.0.0/16", "rangeStart": "10.200.0.9", "rangeEnd": "10.200.1.9"}]]}),
        json!({"addresses": [{"address": "10.200.0.7/24"}]}),
        json!({"subnet": "fd6f:7673:6272:1::/64"}),
    ] {
        assert!(refused(ipam.clone()).is_err(), "{ipam}");
    }
    for ipam in [
        json!({"subnet": "10.201.0.0/24"}),
        json!({"ranges": [[{"subnet": "10.200.0.0/16", "rangeStart": "10.200.1.0", "rangeEnd": "10.200.1.9"}]]}),
        json!({"addresses": [{"address": "10.201.0.7/8"}]}),
    ] {
        assert_eq!(refused(ipam.clone()), Ok(()), "{ipam}");
    }
}
