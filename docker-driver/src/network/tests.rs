#![allow(clippy::needless_pass_by_value, reason = "JSON written in place reads better")]

use serde_json::{Value, json};

use super::*;

/// Plans a network on the default configuration.
fn planned(
    options: Value,
    ipv4: Value,
    others: &[DockerNetwork],
    pools: &[Pool],
) -> Result<DockerNetwork, String> {
    let vlans = (3000.try_into().unwrap(), 3001.try_into().unwrap());
    let mut config = Config { docker_vlans: vlans, ..Config::default() };
    if let Mode::Direct { addresses, .. } = &mut config.bridges[0].mode {
        addresses.push("172.16.0.10/24".parse().unwrap());
    }
    let request = json!({"NetworkID": "ab".repeat(32), "Options": options, "IPv4Data": ipv4});
    let request: CreateNetwork = serde_json::from_value(request).unwrap();
    let around = Surroundings { config: &config, made: &[], others, pools };
    plan(&request, &around).map_err(|error| shared::error::sentence(&error))
}

fn data(space: &str, pool: &str, gateway: &str) -> Value {
    json!([{"AddressSpace": space, "Pool": pool, "Gateway": gateway}])
}

fn generic(options: Value) -> Value {
    json!({"com.docker.network.generic": options, "com.docker.network.enable_ipv6": false})
}

fn pool(net: &str, range: bool, gateway_named: bool) -> Pool {
    let net: IpNet = net.parse().unwrap();
    let mut pool = Pool::new("ovs-1".to_owned(), net);
    pool.range = range.then(|| (net.addr(), net.addr()));
    pool.gateway_named = gateway_named;
    pool
}

#[track_caller]
fn refused(result: Result<DockerNetwork, String>, words: &[&str]) {
    let error = result.unwrap_err();
    for word in words {
        assert!(error.contains(word), "{error} lacks {word}");
    }
}

#[test]
fn a_plain_network_gets_a_vlan_a_gateway_and_nat() {
    let data = data("LocalDefault", "172.18.0.0/16", "172.18.0.1/16");
    let one = planned(generic(json!({})), data.clone(), &[], &[]).unwrap();
    assert_eq!((one.place.bridge.as_str(), one.place.vlan.get()), ("ovsbr1", 3000));
    assert!(one.place.gateway && one.place.nat && !one.internal);
    assert_eq!(one.gateway_of("172.18.0.9".parse().unwrap()), "172.18.0.1".parse().ok());
    let next = self::data("LocalDefault", "172.19.0.0/16", "172.19.0.1/16");
    let two =
        planned(generic(json!({"nat": "false"})), next.clone(), std::slice::from_ref(&one), &[]);
    let two = two.unwrap();
    assert_eq!((two.place.vlan.get(), two.place.nat), (3001, false));
    refused(
        planned(generic(json!({"vlan": "3000"})), next.clone(), std::slice::from_ref(&one), &[]),
        &["-o vlan \"3000\"", "abababababab"],
    );
    let third = self::data("LocalDefault", "172.20.0.0/16", "172.20.0.1/16");
    refused(
        planned(generic(json!({})), third, &[one.clone(), two], &[]),
        &["every VLAN from 3000 to 3001", "docker_vlans"],
    );
    let inner = self::data("LocalDefault", "172.18.5.0/24", "172.18.5.1/24");
    refused(
        planned(generic(json!({})), inner, &[one], &[]),
        &["172.18.5.0/24", "overlaps 172.18.0.0/16"],
    );
}

#[test]
fn an_internal_network_has_no_gateway() {
    let data = data("LocalDefault", "172.18.0.0/16", "172.18.0.1/16");
    let options = |more: Value| json!({"com.docker.network.generic": more, "com.docker.network.internal": true});
    let network = planned(options(json!({})), data.clone(), &[], &[]).unwrap();
    assert!(network.internal && !network.place.gateway && !network.place.nat);
    assert_eq!(network.gateway_of("172.18.0.9".parse().unwrap()), None);
    refused(
        planned(options(json!({"nat": "true"})), data.clone(), &[], &[]),
        &["-o nat", "internal"],
    );
    refused(planned(options(json!({"bridge": "ovsbr0"})), data, &[], &[]), &["internal", "ovsbr0"]);
}

#[test]
fn the_subnet_of_the_nat_bridge_joins_it() {
    let own = data(SPACE, "10.200.0.0/24", "10.200.0.1/24");
    let network = planned(generic(json!({})), own.clone(), &[], &[]).unwrap();
    assert!(network.place.is_configured(&Config::default().bridges));
    assert_eq!(network.place.vlan, VlanId::UNTAGGED);
    let again = planned(generic(json!({"vlan": "0"})), own.clone(), &[network], &[]).unwrap();
    assert_eq!(again.place.subnets.len(), 1);
    let docker = data("LocalDefault", "10.200.0.0/24", "10.200.0.1/24");
    refused(planned(generic(json!({})), docker, &[], &[]), &["--ipam-driver ovs-agent"]);
    let other = data(SPACE, "10.200.0.0/24", "10.200.0.9/24");
    refused(
        planned(generic(json!({})), other, &[], &[]),
        &["gateway \"10.200.0.9\"", "10.200.0.1"],
    );
    refused(
        planned(generic(json!({"vlan": "30"})), own.clone(), &[], &[]),
        &["-o vlan \"30\"", "untagged"],
    );
    refused(planned(generic(json!({"nat": "false"})), own.clone(), &[], &[]), &["-o nat"]);
    let internal = json!({"com.docker.network.internal": true});
    refused(planned(internal, own, &[], &[]), &["internal"]);
    let wider = data(SPACE, "10.200.0.0/16", "10.200.0.1/16");
    refused(
        planned(generic(json!({})), wider, &[], &[]),
        &["overlaps 10.200.0.0/24 of ovsbr1, untagged"],
    );
    let elsewhere = data(SPACE, "10.9.0.0/24", "10.9.0.1/24");
    refused(planned(generic(json!({"vlan": "0"})), elsewhere, &[], &[]), &["10.200.0.0/24"]);
}

#[test]
fn our_addresses_without_a_subnet_are_those_of_the_nat_bridge() {
    let unnamed = data(SPACE, "0.0.0.0/0", "10.200.0.1/24");
    let network = planned(generic(json!({})), unnamed.clone(), &[], &[]).unwrap();
    assert!(network.place.is_configured(&Config::default().bridges));
    assert_eq!(network.place.subnets[0].net.to_string(), "10.200.0.0/24");
    let options = |more: Value| planned(generic(more), unnamed.clone(), &[], &[]);
    refused(options(json!({"vlan": "30"})), &["-o vlan \"30\"", "untagged", "another subnet"]);
    refused(options(json!({"bridge": "ovsbr0"})), &["-o bridge \"ovsbr0\"", "--subnet"]);
    let internal = json!({"com.docker.network.internal": true});
    refused(planned(internal, unnamed, &[], &[]), &["internal", "--subnet"]);
    let null = data("null", "0.0.0.0/0", "");
    assert!(planned(generic(json!({})), null, &[], &[]).unwrap().place.subnets.is_empty());
}

#[test]
fn on_a_real_network_nothing_is_guessed() {
    let lan = data(SPACE, "172.16.0.0/24", "172.16.0.1/24");
    let options = generic(json!({"bridge": "ovsbr0"}));
    refused(planned(options.clone(), lan.clone(), &[], &[]), &["no range", "--ip-range"]);
    let docker = data("LocalDefault", "172.16.0.0/24", "172.16.0.1/24");
    let full = [pool("172.16.0.0/24", true, true)];
    refused(planned(options.clone(), docker, &[], &full), &["no range"]);
    let bare = [pool("172.16.0.0/24", true, false)];
    refused(planned(options.clone(), lan.clone(), &[], &bare), &["--gateway"]);
    let network = planned(options.clone(), lan, &[], &full).unwrap();
    assert_eq!(network.place.vlan, VlanId::UNTAGGED);
    assert!(!network.place.gateway && !network.place.nat);
    assert_eq!(network.gateway_of("172.16.0.77".parse().unwrap()), "172.16.0.1".parse().ok());
    let tagged = generic(json!({"bridge": "ovsbr0", "vlan": "30"}));
    let plain = planned(tagged, data("null", "0.0.0.0/0", ""), &[], &[]).unwrap();
    assert_eq!((plain.place.vlan.get(), plain.place.subnets.len()), (30, 0));
    let nat = generic(json!({"bridge": "ovsbr0", "nat": "true"}));
    refused(planned(nat, data("null", "0.0.0.0/0", ""), &[], &[]), &["-o nat \"true\""]);
}
