//! Row 26: somebody flushes the firewall. The rules come back, and a LAN peer that never stops
//! trying gets in at no moment. On the booted host: `booted/exposure.rs`.

use rig::{Datagrams, Recovery, rounds};

use super::*;

/// A port of the container that nobody published.
const CLOSED: u16 = 4242;

const ATTACKS: [&str; 4] = [
    "nft flush ruleset",
    "nft delete table inet ovs-agent",
    "nft flush chain inet ovs-agent forward",
    "iptables -F; iptables -t nat -F; iptables -P FORWARD ACCEPT",
];

/// Makes every attack while probes run; the times in which the peer got in, and in which a
/// published port and the way out did not work.
fn attacked(config: &str) -> (Recovery, Recovery) {
    let site = Site::configured(config);
    let host = &site.host;
    let wire = host.uplink("eth0", 1).addressed(host).routed(host, 100);
    // The worst case: the host forwards for everybody, and lets all pass.
    host.sh("echo 1 >/proc/sys/net/ipv4/ip_forward");
    let web = host.container("web");
    let ports = json!([{"hostPort": 8007, "containerPort": rig::ECHO_PORT, "protocol": "udp"}]);
    let own = address(&site.add(&web, &publishing(&ports)).success());
    let _server = web.echo_server();
    let peer = wire.router();
    peer.ip(&format!("route add 10.200.0.0/24 via {}", wire.address()));
    let what = if config.is_empty() { "table kept by the kernel" } else { "table unprotected" };
    let mut inside = Recovery::of(format!("26 firewall flushed, {what}: a peer gets in"));
    let mut silence =
        Recovery::of(format!("26 firewall flushed, {what}: a published port is silent"));
    let mut way_out = Recovery::of(format!("26 firewall flushed, {what}: no way out"));
    for round in 0..rounds(4, 400) {
        let attack = ATTACKS[round % ATTACKS.len()];
        let exposure = Datagrams::into(peer, &web, own, CLOSED);
        let published = Datagrams::echo(peer, wire.address(), 8007);
        // The router answers a datagram from the address next to the caller.
        let out = Datagrams::echo(&web, wire.gateway(), rig::ECHO_PORT);
        std::thread::sleep(Duration::from_millis(200));
        host.try_sh(attack);
        std::thread::sleep(Duration::from_millis(1000));
        let (exposure, published, out) = (exposure.end(), published.end(), out.end());
        assert!(exposure.sent > 300, "the peer tried {} times", exposure.sent);
        assert!(published.arrived.len() > 100, "{attack}: the published port is dead");
        assert!(out.arrived.len() > 100, "{attack}: no way out");
        let first = exposure.arrived.first().zip(exposure.arrived.last());
        inside.took(
            first.map_or(Duration::ZERO, |(first, last)| *last - *first + Duration::from_millis(1)),
        );
        silence.took(published.longest_silence());
        way_out.took(out.longest_silence());
    }
    // The probe is real: without an agent and its table it gets in.
    site.agent().kill();
    host.sh("nft delete table inet ovs-agent");
    let open = Datagrams::into(peer, &web, own, CLOSED);
    std::thread::sleep(Duration::from_millis(300));
    assert!(!open.end().arrived.is_empty(), "the probe proves nothing");
    (inside, silence)
}

#[test]
fn a_flushed_firewall_lets_nobody_in_at_any_moment() {
    let (inside, silence) = attacked("");
    assert_eq!(inside.worst(), Duration::ZERO, "a peer got in");
    assert!(silence.worst() < Duration::from_secs(1));
}

/// Without the kernel's protection (before Linux 6.9) there is a moment until the agent has
/// noticed.
#[test]
fn an_unprotected_table_is_back_within_a_second() {
    let (inside, silence) = attacked("protect_rules = false\n");
    assert!(inside.worst() < Duration::from_secs(1), "{:?}", inside.worst());
    assert!(silence.worst() < Duration::from_secs(1), "{:?}", silence.worst());
}
