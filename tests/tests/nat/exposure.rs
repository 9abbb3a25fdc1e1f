//! What can be reached from outside, from other networks, and through host ends.

use super::*;

#[test]
fn nothing_is_exposed_that_was_not_published() {
    let host = host();
    let wire = host.uplink("eth0", 1).addressed(&host).routed(&host, 100);
    let peer = wire.router();
    let (one, two) = (network(&host, "ovsbr1", 1), network(&host, "vlan20", 2));
    let _servers = [one.echo_server(), two.echo_server()];
    peer.ip(&format!("route add 10.200.0.0/16 via {}", wire.address()));
    peer.ip(&format!("-6 route add fd00:200::/32 via {}", wire.address6()));
    // The host forwards for everybody, and a foreign firewall lets all pass.
    host.sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
    host.sh("echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
    for address in ["10.200.1.5", "10.200.2.5", "fd00:200:1::5", "fd00:200:2::5"].map(ip) {
        peer.tcp_echo(address, 1000).unwrap();
    }
    one.tcp_echo(ip("10.200.2.5"), 1000).unwrap();

    let segments = [segment("ovsbr1", 1, Uplink::Default), segment("vlan20", 2, Uplink::Default)];
    assert!(apply(&segments));
    for address in ["10.200.1.5", "fd00:200:2::5"].map(ip) {
        silent(peer, address);
    }
    silent(&one, ip("10.200.2.5"));
    silent(&two, ip("fd00:200:1::5"));
    // Not even by the address of the other gateway's interface once somebody routes there.
    host.sh("ip rule add from 10.200.1.0/24 lookup main");
    silent(&one, ip("10.200.2.5"));

    // A source that is not of the segment does not get out.
    one.ip("address add 10.99.0.5/32 dev eth0");
    host.ip("route add 10.99.0.5/32 dev ovsbr1");
    one.ip(&format!("route add {}/32 via 10.200.1.1 src 10.99.0.5", wire.gateway()));
    assert!(!one.ping(wire.gateway()));
    one.ip(&format!("route delete {}/32", wire.gateway()));
    assert!(one.ping(wire.gateway()));

    // Published: whoever makes the DNAT, from the LAN and from a network of the host.
    host.sh("nft 'table inet publisher { chain in { type nat hook prerouting priority dstnat; \
         fib daddr type local tcp dport 8007 dnat ip to 10.200.2.5:7; \
         fib daddr type local tcp dport 8007 dnat ip6 to [fd00:200:2::5]:7; }; }'");
    for (caller, address) in [
        (peer, wire.address()),
        (peer, wire.address6()),
        (&one, ip("10.200.1.1")),
        (&one, wire.address()),
        (&one, ip("fd00:200:1::1")),
    ] {
        let stream = caller.connect(address, 8007);
        echo(&stream.unwrap_or_else(|e| panic!("{} to {address}: {e}", caller.name())));
    }
}

#[test]
fn the_hosts_stack_does_not_answer_on_host_ends() {
    let host = host();
    let container = network(&host, "v0", 1);
    let _wire = host.uplink("eth0", 1).addressed(&host).routed(&host, 100);
    assert!(container.ping(ip("10.200.1.1")));
    assert!(apply(&[]));
    assert!(container.ping(ip("10.200.1.1")));
    host.ip(&format!("link set v0 group {}", shared::link::HOST_END_GROUP));
    assert!(!container.ping(ip("10.200.1.1")));
    assert!(!container.ping(ip("fd00:200:1::1")));
}
