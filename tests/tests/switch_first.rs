//! ADD where the switch is slow: it is told of a port before the pair is made. What must hold of
//! an ADD holds of this one too.

use std::fs;
use std::path::PathBuf;

use rig::{Container, Lab};
use shared::attachment::Error;

/// Where the pace of the switch is noted.
fn note(lab: &Lab) -> PathBuf {
    lab.engine.state().dir().join("slow-switch")
}

/// A host whose last ADD was slow.
fn lab() -> (Lab, Container) {
    let lab = Lab::new();
    lab.engine.state().prepare().unwrap();
    let web = lab.host.container("web");
    slow(&lab);
    (lab, web)
}

fn slow(lab: &Lab) {
    fs::write(note(lab), "").unwrap();
}

/// Ports that carry nothing, as a busy host has them.
fn fill(lab: &Lab, count: usize) {
    let (mut links, mut ports) = (String::new(), String::from("ovs-vsctl"));
    for number in 0..count {
        links.push_str(&format!("link add fill{number} type veth peer name peer{number}\n"));
        ports.push_str(&format!(" -- add-port ovsbr1 fill{number} vlan_mode=trunk trunks=0"));
    }
    lab.host.write("/run/links", &links);
    lab.host.sh("sysctl -qw net.ipv6.conf.default.disable_ipv6=1; ip -batch /run/links");
    lab.host.sh(&ports);
}

#[test]
fn a_port_told_first_passes_traffic_and_leaves_nothing() {
    let (lab, web) = lab();
    let db = lab.host.container("db");
    let before = lab.snapshot();
    let served = lab.attach(&db);
    let _server = db.echo_server();
    // Ten times: ovs-vswitchd may look for the device before it is there, and after.
    for _ in 0..10 {
        slow(&lab);
        let record = lab.attach(&web);
        for address in &served.addresses {
            web.tcp_echo(address.address.addr(), 1 << 16).unwrap();
        }
        lab.check(&record).unwrap();
        lab.detach("web");
    }
    lab.detach("db");
    lab.assert_returned(&before, "ten rounds");
}

#[test]
fn a_device_of_that_name_is_never_plugged_in() {
    let (lab, web) = lab();
    lab.host.ip("link add veth-web-eth0 type veth peer name other");
    let device = lab.host.ip("-d link show veth-web-eth0");
    let record = lab.attach(&web);
    assert_ne!(record.port.as_str(), "veth-web-eth0");
    lab.check(&record).unwrap();
    assert_eq!(lab.host.ip("-d link show veth-web-eth0"), device);
    assert!(!lab.host.vsctl("show").contains("veth-web-eth0"));
}

#[test]
fn a_port_of_that_name_is_left_alone() {
    let (lab, web) = lab();
    lab.host.vsctl("add-port ovsbr0 veth-web-eth0 -- set Port veth-web-eth0 external_ids:a=b");
    let record = lab.attach(&web);
    assert_ne!(record.port.as_str(), "veth-web-eth0");
    assert_eq!(lab.host.vsctl("get Port veth-web-eth0 external_ids").trim(), "{a=b}");
    assert_eq!(lab.host.vsctl("iface-to-br veth-web-eth0").trim(), "ovsbr0");
    lab.check(&record).unwrap();
}

#[test]
fn what_fails_after_the_switch_was_told_is_taken_back() {
    let (lab, web) = lab();
    web.ip("link add eth0 type veth peer name p");
    let before = lab.snapshot();
    let error = lab.engine.attach(&lab.request("web")).unwrap_err();
    assert!(matches!(error, Error::InterfaceExists { .. }), "{error}");
    assert_eq!(lab.traces(), [""; 0]);
    lab.assert_returned(&before, "the interface exists");

    slow(&lab);
    let mut request = lab.request("web");
    request.key.ifname = "eth1".parse().unwrap();
    request.mtu = Some(70_000);
    lab.engine.attach(&request).unwrap_err();
    assert_eq!(lab.traces(), [""; 0]);
    lab.assert_returned(&before, "an MTU no veth has");

    slow(&lab);
    request.mtu = None;
    lab.check(&lab.attach_as(&request)).unwrap();
}

/// ovs-vswitchd looked for the device too early, opened it a moment later, and left the error.
#[test]
fn an_error_from_before_the_port_was_open_counts_for_nothing() {
    let (lab, web) = lab();
    let record = lab.attach(&web);
    // Frozen, it does not clear what is written in its stead.
    lab.host.switch().freeze_vswitchd();
    lab.host.vsctl("--no-wait set Interface veth-web-eth0 error=no_such_device");
    assert_eq!(lab.attach(&web), record);
    assert_eq!(lab.host.vsctl("get Interface veth-web-eth0 error").trim(), "no_such_device");
    lab.host.switch().thaw_vswitchd();
    lab.check(&record).unwrap();
}

#[test]
fn the_pace_is_found_out_by_itself() {
    let lab = Lab::new();
    let web = lab.host.container("web");
    fill(&lab, 250);
    lab.attach(&web);
    assert!(note(&lab).exists(), "250 ports were not slow");
    lab.detach("web");
    let record = lab.attach(&web);
    lab.check(&record).unwrap();
    assert!(note(&lab).exists(), "250 ports are quick by now");
}

#[test]
fn many_at_once_are_all_plugged_in() {
    let (lab, web) = lab();
    web.remove();
    let before = lab.snapshot();
    let containers: Vec<_> =
        (0..24).map(|number| lab.host.container(&format!("c{number}"))).collect();
    let requests: Vec<_> = containers.iter().map(|one| lab.request(one.name())).collect();
    let engine = &lab.engine;
    let records: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> =
            requests.iter().map(|one| scope.spawn(|| engine.attach(one).unwrap())).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    for (container, record) in containers.into_iter().zip(&records) {
        lab.check(record).unwrap();
        lab.detach(container.name());
        container.remove();
    }
    lab.assert_returned(&before, "many at once");
}
