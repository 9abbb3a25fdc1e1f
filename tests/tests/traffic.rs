//! Traffic of an attached container: TCP with data, the gateway's true MAC, large frames.

use std::net::IpAddr;
use std::time::Duration;

use rig::{Container, Lab, poll};
use shared::address::Subnet;
use shared::attachment::{Addressing, Record};
use shared::config::Config;
use shared::network::Network;
use shared::vlan::{PortVlan, VlanId};

fn addresses(record: &Record) -> Vec<IpAddr> {
    record.addresses.iter().map(|address| address.address.addr()).collect()
}

fn gateways(record: &Record) -> Vec<IpAddr> {
    record.addresses.iter().filter_map(|address| address.gateway).collect()
}

/// The MAC that the container has in its neighbour table for an address, once it has asked.
fn neighbour(container: &Container, address: IpAddr) -> String {
    container.ping(address);
    let line = container.ip(&format!("neighbour show {address} dev eth0"));
    let mac = line.split_whitespace().skip_while(|word| *word != "lladdr").nth(1);
    mac.unwrap_or_else(|| panic!("{address} is not known: {line}")).to_owned()
}

#[test]
fn tcp_and_udp_with_data_both_families() {
    let lab = Lab::new();
    let (web, db) = (lab.host.container("web"), lab.host.container("db"));
    lab.attach(&web);
    let record = lab.attach(&db);
    let _servers = (lab.host.echo_server(), db.echo_server());
    assert_eq!(record.addresses.len(), 2, "both families");
    for address in [addresses(&record), gateways(&record)].concat() {
        web.tcp_echo(address, 1 << 20).unwrap_or_else(|error| panic!("TCP to {address}: {error}"));
        web.udp_echo(address).unwrap_or_else(|error| panic!("UDP to {address}: {error}"));
    }
    // The switch takes frames as they are: checksums must be in them.
    let features = web.exec("ethtool -k eth0");
    assert!(features.contains("tx-checksumming: off"), "{features}");
}

#[test]
fn the_gateway_is_the_gateway_port() {
    let lab = Lab::new();
    let web = lab.host.container("web");
    let record = lab.attach(&web);
    let link = lab.host.ip("-o link show ovsbr1");
    let own = link.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap();
    for gateway in gateways(&record) {
        // Again and again: the answer of the host end's own stack would come first now and then.
        for _ in 0..10 {
            web.ip("neighbour flush dev eth0");
            assert_eq!(neighbour(&web, gateway), own, "MAC of {gateway}");
        }
    }
    // Nor does the host's stack learn of the container past the switch.
    for address in addresses(&record) {
        let known = lab.host.ip(&format!("neighbour show {address}"));
        assert!(!known.contains(record.port.as_str()), "{known}");
    }
}

#[test]
fn the_mtu_of_the_bridge_is_that_of_the_container() {
    let mut config = Config::default();
    for bridge in &mut config.bridges {
        bridge.mtu = Some(9000);
    }
    let lab = Lab::of(config);
    poll("the bridge's MTU", Duration::from_secs(5), || {
        lab.host.ip("-o link show ovsbr1").contains("mtu 9000").then_some(())
    });
    let (web, db) = (lab.host.container("web"), lab.host.container("db"));
    lab.attach(&web);
    let record = lab.attach(&db);
    assert_eq!(record.mtu, 9000);
    for address in [addresses(&record), gateways(&record)].concat() {
        let headers = if address.is_ipv4() { 28 } else { 48 };
        let ping = format!("ping -n -c 3 -i 0.2 -W 1 -M do -s {} {address}", 9000 - headers);
        web.exec(&ping);
    }
    let mut small = lab.request("web");
    small.key.ifname = "eth1".parse().unwrap();
    small.mtu = Some(1400);
    assert_eq!(lab.attach_as(&small).mtu, 1400);
    assert!(web.ip("link show eth1").contains("mtu 1400"));
}

#[test]
fn an_address_given_again_is_known_at_once() {
    let lab = Lab::new();
    let (web, db) = (lab.host.container("web"), lab.host.container("db"));
    lab.attach(&web);
    let mut request = lab.request("db");
    let old = lab.attach_as(&request);
    let address = addresses(&old)[0];
    assert!(web.ping(address));
    lab.detach("db");
    // The same address with another MAC: nobody may go on sending to the old one.
    request.mac = Some("02:00:00:00:00:99".parse().unwrap());
    let Addressing::Pool { requested, .. } = &mut request.addressing else { panic!("pool") };
    requested.push(address);
    let new = lab.attach_as(&request);
    assert_eq!(addresses(&new)[0], address);
    assert_ne!(new.mac, old.mac);
    let _server = db.echo_server();
    web.tcp_echo(address, 1000).unwrap();
    assert_eq!(neighbour(&web, address), "02:00:00:00:00:99");
}

#[test]
fn a_network_with_subnets_of_its_own() {
    let lab = Lab::new();
    let subnet = |net: &str, gateway: &str| Subnet {
        net: net.parse().unwrap(),
        range: None,
        gateway: Some(gateway.parse().unwrap()),
    };
    let vlan = VlanId::try_from(30).unwrap();
    let network = Network {
        bridge: "ovsbr1".parse().unwrap(),
        vlan,
        subnets: vec![subnet("10.30.0.0/24", "10.30.0.1"), subnet("fd00:30::/64", "fd00:30::1")],
        gateway: true,
        nat: true,
    };
    let containers = ["web", "db"].map(|name| lab.host.container(name));
    let records = containers.each_ref().map(|container| {
        let mut request = lab.plain(container.name(), PortVlan::access(vlan));
        let (network, requested) = (network.clone(), Vec::new());
        request.addressing = Addressing::Pool { network, requested, default_route: true };
        lab.attach_as(&request)
    });
    let ([web, db], record) = (&containers, &records[1]);
    let _servers = (lab.host.echo_server(), db.echo_server());
    let link = lab.host.ip("-o link show ovsbr1.30");
    let own = link.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap();
    for address in [addresses(record), gateways(record)].concat() {
        web.tcp_echo(address, 1 << 20).unwrap_or_else(|error| panic!("TCP to {address}: {error}"));
    }
    for gateway in gateways(record) {
        assert_eq!(neighbour(web, gateway), own, "MAC of {gateway}");
    }
    for record in &records {
        lab.check(record).unwrap();
        lab.detach(&record.key.container);
    }
    assert_eq!(lab.traces(), [""; 0]);
}

#[test]
fn ovs_vswitchd_comes_back() {
    let lab = Lab::new();
    let (web, db) = (lab.host.container("web"), lab.host.container("db"));
    let records = [lab.attach(&web), lab.attach(&db)];
    let _servers = (lab.host.echo_server(), db.echo_server());
    lab.host.switch().kill_vswitchd();
    lab.host.switch().start_vswitchd();
    for record in &records {
        poll("CHECK passes again", Duration::from_secs(10), || lab.check(record).ok());
    }
    for address in [addresses(&records[1]), gateways(&records[1])].concat() {
        // The bridge's port is back a little later, and IPv6 asks around before it answers.
        poll(&format!("a ping to {address}"), Duration::from_secs(10), || {
            web.ping(address).then_some(())
        });
        web.tcp_echo(address, 1 << 20).unwrap_or_else(|error| panic!("TCP to {address}: {error}"));
    }
}
