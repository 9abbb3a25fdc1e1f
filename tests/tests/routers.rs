//! Who may tell a container its routes: on a NAT bridge nobody, on a wire whoever is its router.

use std::net::Ipv6Addr;
use std::time::Duration;

use rig::{Container, Frame, Lab, poll};
use shared::name::IfName;
use shared::vlan::PortVlan;

/// Every node of the link (RFC 4291 section 2.7.1).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The network that the router of these tests says is here.
const TOLD: &str = "fd00:bad::";

/// How many router solicitations a container has sent.
fn solicitations(container: &Container) -> u64 {
    let counters = container.exec("grep Icmp6OutRouterSolicits /proc/self/net/snmp6");
    let count = counters.split_whitespace().nth(1);
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{counters}"))
}

/// A router advertisement of somebody who would be everybody's default route for half an hour
/// (RFC 4861 sections 4.2 and 4.6.2).
fn advertisement(from: [u8; 6]) -> Frame {
    let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xbad);
    // Type 134, hop limit 64, lifetime 1800 s; no reachable time, no retransmission timer.
    let mut message = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    // Prefix information: /64, on the link, for addresses of one's own, valid for an hour.
    message.extend([3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0]);
    message.extend(TOLD.parse::<Ipv6Addr>().unwrap().octets());
    let length = u16::try_from(message.len()).unwrap();
    let pseudo = [&source.octets(), &ALL_NODES.octets(), &[0, 0][..], &length.to_be_bytes()];
    let sum = checksum(&[&pseudo.concat()[..], &[0, 0, 0, 58], &message].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut payload = vec![0x60, 0, 0, 0];
    payload.extend(length.to_be_bytes());
    payload.extend([58, 255]);
    payload.extend(source.octets());
    payload.extend(ALL_NODES.octets());
    payload.extend(message);
    Frame { to: [0x33, 0x33, 0, 0, 0, 1], from, vlan: None, ethertype: [0x86, 0xdd], payload }
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

#[test]
fn behind_nat_a_container_asks_for_no_router_and_listens_to_none() {
    let lab = Lab::new();
    let direct: IfName = "ovsbr0".parse().unwrap();
    let on_wire = |container: &str| {
        let mut request = lab.plain(container, PortVlan::untagged());
        request.bridge = direct.clone();
        request
    };
    let inside = ["web", "rogue"].map(|name| lab.host.container(name));
    let wired = ["pc", "router"].map(|name| lab.host.container(name));
    inside.iter().for_each(|container| drop(lab.attach(container)));
    wired.iter().for_each(|container| drop(lab.attach_as(&on_wire(container.name()))));
    // A network without addresses is behind the NAT all the same.
    let plain = lab.host.container("plain");
    lab.attach_as(&lab.plain("plain", PortVlan::untagged()));

    // On the wire it asks, once its link-local address is its own: by then all have had the time.
    poll("a question on the wire", Duration::from_secs(10), || {
        (solicitations(&wired[0]) > 0).then_some(())
    });
    let others = [&inside[0], &inside[1], &plain];
    assert_eq!(others.map(solicitations), [0; 3]);

    for speaker in [&inside[1], &wired[1]] {
        speaker.raw_socket("eth0").send(&advertisement(speaker.mac("eth0")));
    }
    poll("the route on the wire", Duration::from_secs(10), || {
        let routes = wired[0].ip("-6 route show");
        (routes.contains("default via fe80::bad") && routes.contains(TOLD)).then_some(())
    });
    for container in others {
        let (routes, addresses) = (container.ip("-6 route show"), container.ip("-6 address show"));
        assert!(!routes.contains("fe80::bad"), "{}: {routes}", container.name());
        assert!(!addresses.contains("fd00:bad:"), "{}: {addresses}", container.name());
    }
    // What it was given stays.
    let routes = inside[0].ip("-6 route show default");
    assert!(routes.starts_with("default via fd"), "{routes}");
}
