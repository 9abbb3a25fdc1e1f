//! NAT for real: a host in namespaces of its own, segments made of veths, uplinks with a LAN and
//! an internet behind them. The engine is called directly; nft and iptables are the witnesses.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::time::{Duration, Instant};

use rig::{Container, Host, INTERNET, INTERNET6, Uplink as Wire, assert_same};
use shared::config::Uplink;
use shared::error::{Fault as _, Kind, sentence};
use shared::link::Netlink;
use shared::name::IfName;
use shared::nat::forwarding::Ipv6;
use shared::nat::{self, Segment, routing, table, tagged};
use shared::state::State;

/// Where the engine keeps its memory.
const STATE: &str = "/run/ovs-port-agent";

/// A megabyte: many segments both ways.
const DATA: usize = 1_000_000;

/// A host whose state directory is there, as on any after its first `up`.
fn host() -> Host {
    let host = Host::bare();
    state().prepare().unwrap();
    host
}

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A segment `NAME` with subnets 10.200.N.0/24 and fd00:200:N::/64.
fn segment(interface: &str, number: u8, uplink: Uplink) -> Segment {
    Segment {
        interface: name(interface),
        subnets: vec![
            format!("10.200.{number}.0/24").parse().unwrap(),
            format!("fd00:200:{number}::/64").parse().unwrap(),
        ],
        masquerade: true,
        uplink,
    }
}

fn state() -> State {
    State::new(STATE.into())
}

fn apply(segments: &[Segment]) -> bool {
    nat::apply(&state(), segments).unwrap_or_else(|e| panic!("{}", sentence(&e)))
}

fn remove() -> bool {
    nat::remove(&state()).unwrap_or_else(|e| panic!("{}", sentence(&e)))
}

/// The gateway interface of segment number N, and a container behind it with address .5.
fn network(host: &Host, interface: &str, number: u8) -> Container {
    let container = host.container(&format!("c-{interface}"));
    host.ip(&format!("link add {interface} type veth peer name eth0 netns c-{interface}"));
    host.ip(&format!("address add 10.200.{number}.1/24 dev {interface}"));
    host.ip(&format!("address add fd00:200:{number}::1/64 dev {interface} nodad"));
    host.ip(&format!("link set {interface} up"));
    container.ip(&format!("address add 10.200.{number}.5/24 dev eth0"));
    container.ip(&format!("address add fd00:200:{number}::5/64 dev eth0 nodad"));
    container.ip("link set eth0 up");
    container.ip(&format!("route add default via 10.200.{number}.1"));
    container.ip(&format!("-6 route add default via fd00:200:{number}::1"));
    container
}

/// Ping and TCP with data, IPv4 and IPv6, to the internet; who answered saw the uplink's address.
fn reaches_internet(container: &Container, wire: &Wire) {
    for (internet, address) in [(INTERNET, wire.address()), (INTERNET6, wire.address6())] {
        assert!(container.ping(internet), "ping {internet}");
        container.tcp_echo(internet, DATA).unwrap();
        let (router, seen) = container.who_answers(internet).unwrap();
        assert_eq!((router, seen), (format!("lan-{}", wire.name()), address));
    }
    // To the LAN: the router answers a datagram from the address next to the caller.
    container.udp_echo(wire.gateway()).unwrap();
    container.udp_echo(wire.gateway6()).unwrap();
}

/// A few bytes there and back.
fn echo(mut stream: &TcpStream) {
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    stream.write_all(b"still there").unwrap();
    let mut back = [0; 11];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"still there");
}

fn unreachable(container: &Container, address: IpAddr) {
    let error = container.tcp_echo(address, 10).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("unreachable") || text.contains("No route"), "{address}: {text}");
    assert!(!container.ping(address));
}

fn silent(container: &Container, address: IpAddr) {
    let error = container.connect(address, rig::ECHO_PORT).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{address}: {error}");
    assert!(!container.ping(address));
}

#[test]
fn nft_reads_what_was_written() {
    let host = host();
    let _wires =
        [host.uplink("eth0", 1).addressed(&host).routed(&host, 100), host.uplink("wlan0", 2)];
    let _networks = [network(&host, "ovsbr1", 1), network(&host, "vlan20", 2)];
    let segments = [
        segment("ovsbr1", 1, Uplink::Default),
        Segment { masquerade: false, ..segment("vlan20", 2, Uplink::Named(name("wlan0"))) },
    ];
    assert!(apply(&segments));
    let listing = plain(&host.sh("nft list ruleset"));
    let golden = include_str!("nat-ruleset.nft");
    assert!(listing == golden, "expected:\n{golden}\nnft says:\n{listing}");
}

/// A listing without the digest, which every change changes, and with sorted set elements.
fn plain(listing: &str) -> String {
    let one_line = listing.replace(",\n\t\t\t     ", ", ");
    let mut text = String::new();
    for line in one_line.lines().filter(|line| !line.contains("digest")) {
        let elements = line.strip_prefix("\t\telements = { ").and_then(|l| l.strip_suffix(" }"));
        match elements {
            Some(elements) => {
                let mut elements: Vec<&str> = elements.split(", ").collect();
                elements.sort_unstable();
                text.push_str(&format!("\t\telements = {{ {} }}\n", elements.join(", ")));
            }
            None => text.push_str(&format!("{}\n", line.trim_end())),
        }
    }
    text
}

#[test]
fn traffic_leaves_under_the_uplinks_address() {
    let host = host();
    let before = host.snapshot();
    {
        let wire = host.uplink("eth0", 1).addressed(&host).routed(&host, 100);
        let made = host.snapshot();
        let container = network(&host, "ovsbr1", 1);
        let inside = host.snapshot();
        silent(&container, INTERNET);
        let segments = [segment("ovsbr1", 1, Uplink::Default)];
        assert!(apply(&segments));
        reaches_internet(&container, &wire);
        assert_eq!(nat::missing(&segments[0]).unwrap(), None);

        // Again: nothing is written.
        let written = host.sh("nft --handle list ruleset");
        assert!(!apply(&segments));
        assert_eq!(host.sh("nft --handle list ruleset"), written);

        // A connection goes on through a change of the table.
        let stream = container.connect(INTERNET, rig::ECHO_PORT).unwrap();
        let second = network(&host, "vlan20", 2);
        assert!(apply(&[segments[0].clone(), segment("vlan20", 2, Uplink::Default)]));
        echo(&stream);
        reaches_internet(&second, &wire);
        assert!(apply(&segments));
        echo(&stream);
        silent(&second, INTERNET);
        host.ip("link delete vlan20");
        drop((stream, second));

        assert!(remove());
        assert!(!remove());
        assert_same(&inside, &host.snapshot());
        silent(&container, INTERNET);
        host.ip("link delete ovsbr1");
        drop(container);
        assert_same(&made, &host.snapshot());
        host.ip("link delete eth0");
    }
    assert_same(&before, &host.snapshot());
}

#[test]
fn a_named_uplink_carries_the_traffic_or_nothing_does() {
    let host = host();
    let usb = host.uplink("usb0", 1).addressed(&host).routed(&host, 100);
    let wifi = host.uplink("wlan0", 2).addressed(&host).routed(&host, 600);
    // A VPN client's two halves of the internet, and strict reverse path checks.
    host.ip(&format!("route add 0.0.0.0/1 via {} dev usb0", usb.gateway()));
    host.ip(&format!("route add 128.0.0.0/1 via {} dev usb0", usb.gateway()));
    host.sh("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 > $f; done");
    let container = network(&host, "ovsbr1", 1);
    let made = routes(&host);
    let segments = [segment("ovsbr1", 1, Uplink::Named(name("wlan0")))];
    assert!(apply(&segments));
    assert!(!apply(&segments));
    assert_eq!(nat::missing(&segments[0]).unwrap(), None);
    reaches_internet(&container, &wifi);
    // The host itself, and what is on it, stays within reach.
    assert!(container.ping(ip("10.200.1.1")));

    // The LAN of the other wire is not the named uplink either.
    let leaked = || forwarded(&usb);
    let none = leaked();
    unreachable(&container, usb.gateway());
    unreachable(&container, usb.gateway6());

    // Without default routes there, nothing goes, and least of all elsewhere.
    host.ip("route delete default dev wlan0");
    host.ip("-6 route delete default dev wlan0");
    let mut netlink = Netlink::open().unwrap();
    assert!(routing::sync(&mut netlink, &segments).unwrap());
    assert!(!routing::sync(&mut netlink, &segments).unwrap());
    unreachable(&container, INTERNET);
    unreachable(&container, INTERNET6);
    assert!(container.ping(wifi.gateway()), "its LAN is there all the same");
    assert_eq!(leaked(), none, "nothing from the subnet came out of usb0");

    // The routes come back, one of them over a next hop no subnet contains.
    host.ip(&format!("route add default via {} dev wlan0 onlink metric 600", wifi.gateway()));
    host.ip(&format!("-6 route add default via {} dev wlan0 metric 600", wifi.gateway6()));
    assert!(routing::sync(&mut netlink, &segments).unwrap());
    reaches_internet(&container, &wifi);

    // The interface goes down: the kernel takes its routes away.
    host.ip("link set wlan0 down");
    unreachable(&container, INTERNET);
    host.ip("link set wlan0 up");
    host.ip(&format!("route add default via {} dev wlan0 metric 600", wifi.gateway()));
    host.ip(&format!("address replace {}/64 dev wlan0 nodad", wifi.address6()));
    host.ip(&format!("-6 route add default via {} dev wlan0 metric 600", wifi.gateway6()));
    assert!(apply(&segments));
    reaches_internet(&container, &wifi);
    assert_eq!(leaked(), none);

    // And back to the default: the better route wins again.
    assert!(apply(&[segment("ovsbr1", 1, Uplink::Default)]));
    reaches_internet(&container, &usb);
    assert!(remove());
    // The test itself has put routes in another order.
    assert_eq!(routes(&host), made);
}

/// Routes and policy rules of the host, sorted; link-local addresses come when they like.
fn routes(host: &Host) -> Vec<String> {
    let text = host.sh("for f in -4 -6; do ip $f rule; ip $f route show table all; done");
    let lines = text.lines().filter(|line| !line.contains("fe80::"));
    let mut lines: Vec<String> = lines.map(|line| line.trim_end().to_owned()).collect();
    lines.sort_unstable();
    lines
}

/// Packets of the subnets of segments which the router behind a wire has seen.
fn forwarded(wire: &Wire) -> String {
    let router = wire.router();
    if !router.try_exec("nft list table inet seen").ok() {
        router.exec(
            "nft 'table inet seen { chain in { type filter hook prerouting priority -500; \
             ip saddr 10.200.0.0/16 counter; ip6 saddr fd00:200::/32 counter; \
             ip daddr 203.0.113.1 counter; ip6 daddr 2001:db8:ffff::1 counter; }; }'",
        );
    }
    router.exec("nft list table inet seen")
}

/// What the four save programs say, without counters and dates.
fn saved(host: &Host) -> Vec<String> {
    let text = host.sh("for p in iptables-nft ip6tables-nft iptables-legacy ip6tables-legacy; do \
         echo \"== $p\"; $p-save; done");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(" [").next().unwrap_or(line).trim_end().to_owned()).collect()
}

fn is_tagged(line: &str) -> bool {
    line.contains("--comment ovs-agent ")
}

/// What others have in there.
fn foreign(lines: &[String]) -> Vec<String> {
    lines.iter().filter(|line| !is_tagged(line)).cloned().collect()
}

/// Rules of somebody else, and the policy that is in our way.
fn drop_forwarded(host: &Host, backend: &str) {
    for family in ["iptables", "ip6tables"] {
        host.sh(&format!(
            "i={family}-{backend}; $i -P FORWARD DROP; $i -A FORWARD -i foreign0 -j ACCEPT; \
             $i -A FORWARD -m comment --comment \"not ovs-agent\" -j LOG; $i -N MINE; \
             $i -A MINE -p tcp --dport 80 -j RETURN; $i -t nat -A POSTROUTING -o foreign0 -j MASQUERADE",
        ));
    }
}

fn passes_a_forward_drop(backend: &str) {
    let host = host();
    let wire = host.uplink("eth0", 1).addressed(&host).routed(&host, 100);
    let container = network(&host, "ovsbr1", 1);
    drop_forwarded(&host, backend);
    let before = saved(&host);
    assert!(apply(&[segment("ovsbr1", 1, Uplink::Default)]));
    assert_eq!(tagged::missing().unwrap().len(), 2);
    silent(&container, INTERNET);

    assert!(tagged::ensure().unwrap());
    assert!(!tagged::ensure().unwrap());
    assert_eq!(tagged::missing().unwrap(), [""; 0]);
    reaches_internet(&container, &wire);
    let with = saved(&host);
    assert_eq!(foreign(&with), before);
    let rule = "-A FORWARD -m mark --mark 0x1000/0x1000 -m comment --comment ovs-agent -j ACCEPT";
    let ours: Vec<_> = with.iter().filter(|line| is_tagged(line)).collect();
    assert_eq!(ours, [rule, rule]);
    let first = with.iter().find(|line| line.starts_with("-A FORWARD"));
    assert_eq!(first.map(String::as_str), Some(rule), "on top of the chain");

    // Docker comes: its chain is the right place.
    host.sh(&format!(
        "for i in iptables-{backend} ip6tables-{backend}; do $i -N DOCKER-USER; \
         $i -A DOCKER-USER -j RETURN; $i -I FORWARD -j DOCKER-USER; done"
    ));
    assert!(tagged::ensure().unwrap());
    assert!(!tagged::ensure().unwrap());
    reaches_internet(&container, &wire);
    let with = saved(&host);
    assert_eq!(with.iter().filter(|line| is_tagged(line)).count(), 2);
    let rule = rule.replace("-A FORWARD", "-A DOCKER-USER");
    assert!(with.contains(&rule));

    // Down: what others have stays as it is.
    let docker = foreign(&with);
    assert!(tagged::remove().unwrap());
    assert!(!tagged::remove().unwrap());
    assert!(remove());
    assert_eq!(saved(&host), docker);
}

#[test]
fn traffic_passes_a_forward_drop_of_iptables_nft() {
    passes_a_forward_drop("nft");
}

#[test]
fn traffic_passes_a_forward_drop_of_legacy_iptables() {
    passes_a_forward_drop("legacy");
}

#[test]
fn no_filter_table_is_made_where_none_is() {
    let host = host();
    assert!(!tagged::ensure().unwrap());
    assert!(!tagged::remove().unwrap());
    assert_eq!(host.sh("nft list ruleset"), "");
    assert_eq!(host.sh("cat /proc/net/ip_tables_names 2>/dev/null || true"), "");
}

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
fn another_managers_bridge_is_its_own_business() {
    let host = host();
    let wire = host.uplink("eth0", 1).addressed(&host).routed(&host, 100);
    let container = network(&host, "ovsbr1", 1);
    let foreign = host.container("foreign");
    host.ip("link add docker0 type bridge");
    host.ip("address add 172.17.0.1/16 dev docker0");
    host.ip("link set docker0 up");
    host.ip("link add v0 type veth peer name eth0 netns foreign");
    host.ip("link set v0 master docker0 up");
    foreign.ip("address add 172.17.0.2/16 dev eth0");
    foreign.ip("link set eth0 up");
    foreign.ip("route add default via 172.17.0.1");
    let _servers = [foreign.echo_server(), container.echo_server()];
    assert!(apply(&[segment("ovsbr1", 1, Uplink::Default)]));
    // As Docker does: forwarding for all, nothing passes but what it knows.
    host.sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
    host.sh("iptables-nft -P FORWARD DROP");
    host.sh("iptables-nft -A FORWARD -o docker0 -m conntrack --ctstate ESTABLISHED -j ACCEPT");
    host.sh("iptables-nft -A FORWARD -i docker0 ! -o docker0 -j ACCEPT");
    host.sh("iptables-nft -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE");
    assert!(tagged::ensure().unwrap());
    reaches_internet(&container, &wire);
    silent(&container, ip("172.17.0.2"));
    silent(&foreign, ip("10.200.1.5"));
    // Forwarding was ours on eth0 first; Docker's containers have their answers all the same.
    foreign.tcp_echo(INTERNET, DATA).unwrap();
    // And it stays on for Docker once we are gone.
    assert!(tagged::remove().unwrap());
    assert!(remove());
    foreign.tcp_echo(INTERNET, DATA).unwrap();
}

/// Every setting of forwarding and router advertisements, one `file value` each.
fn settings(host: &Host) -> Vec<String> {
    let text = host.sh("cd /proc/sys/net; for f in ipv4/conf/*/forwarding ipv6/conf/*/forwarding \
         ipv6/conf/*/force_forwarding ipv6/conf/*/accept_ra ipv4/conf/*/rp_filter \
         ipv4/conf/*/route_localnet; do echo \"$f $(cat $f)\"; done");
    text.lines().map(str::to_owned).collect()
}

/// What was changed, one `file value` each.
fn changes(before: &[String], after: &[String]) -> Vec<String> {
    after.iter().filter(|line| !before.contains(line)).cloned().collect()
}

#[test]
fn forwarding_is_on_where_it_is_needed_and_back_afterwards() {
    let host = host();
    let wire = host.uplink("eth0", 1).addressed(&host).routed(&host, 100);
    let _other = host.uplink("eth1", 2).addressed(&host);
    let container = network(&host, "ovsbr1", 1);
    let before = settings(&host);
    let segments = [segment("ovsbr1", 1, Uplink::Default)];
    assert!(apply(&segments));
    let per_interface = [
        "ipv4/conf/eth0/forwarding 1",
        "ipv4/conf/ovsbr1/forwarding 1",
        "ipv6/conf/eth0/force_forwarding 1",
        "ipv6/conf/ovsbr1/force_forwarding 1",
        "ipv6/conf/ovsbr1/accept_ra 0",
    ];
    assert_eq!(changes(&before, &settings(&host)), per_interface);
    reaches_internet(&container, &wire);

    // Somebody resets one; CHECK sees it, the next apply repairs it and forgets nothing.
    host.sh("echo 0 > /proc/sys/net/ipv6/conf/ovsbr1/force_forwarding");
    let lacking = nat::missing(&segments[0]).unwrap();
    assert_eq!(lacking.as_deref(), Some("forwarding on ovsbr1"));
    assert!(apply(&segments));
    assert_eq!(changes(&before, &settings(&host)), per_interface);

    // The default route moves: so does the setting.
    host.ip("route delete default");
    host.ip("route add default via 198.18.2.1");
    assert!(apply(&segments));
    assert!(!apply(&segments));
    assert_eq!(
        changes(&before, &settings(&host)),
        [
            "ipv4/conf/eth1/forwarding 1",
            "ipv4/conf/ovsbr1/forwarding 1",
            "ipv6/conf/eth0/force_forwarding 1",
            "ipv6/conf/ovsbr1/force_forwarding 1",
            "ipv6/conf/ovsbr1/accept_ra 0",
        ]
    );
    assert!(remove());
    assert_eq!(settings(&host), before);

    // What the user changes meanwhile is the user's, and so is an interface made anew.
    assert!(apply(&segments));
    host.sh("echo 2 > /proc/sys/net/ipv6/conf/ovsbr1/accept_ra");
    host.ip("link delete ovsbr1");
    drop(container);
    let _container = network(&host, "ovsbr1", 1);
    host.sh("echo 1 > /proc/sys/net/ipv4/conf/ovsbr1/forwarding");
    assert!(remove());
    assert_eq!(changes(&before, &settings(&host)), ["ipv4/conf/ovsbr1/forwarding 1"]);
}

#[test]
fn a_kernel_with_one_switch_for_ipv6_goes_on_listening_to_routers() {
    let host = host();
    let wire = host.uplink("eth0", 1).addressed(&host).routed(&host, 100);
    let other = host.uplink("eth1", 2).addressed(&host).routed(&host, 600);
    let container = network(&host, "ovsbr1", 1);
    host.sh("echo 0 > /proc/sys/net/ipv6/conf/eth1/accept_ra");
    host.sh("echo 1 > /proc/sys/net/ipv6/conf/eth1/forwarding");
    let before = settings(&host);
    let segments = [segment("ovsbr1", 1, Uplink::Default)];
    let apply = || nat::apply_as(&state(), &segments, Ipv6::Everywhere).unwrap();
    assert!(apply());
    assert!(!apply());
    assert_eq!(
        changes(&before, &settings(&host)),
        [
            "ipv4/conf/eth0/forwarding 1",
            "ipv4/conf/eth1/forwarding 1",
            "ipv4/conf/ovsbr1/forwarding 1",
            "ipv6/conf/all/forwarding 1",
            "ipv6/conf/default/forwarding 1",
            "ipv6/conf/eth0/forwarding 1",
            "ipv6/conf/lo/forwarding 1",
            "ipv6/conf/ovsbr1/forwarding 1",
            "ipv6/conf/default/accept_ra 2",
            "ipv6/conf/eth0/accept_ra 2",
            "ipv6/conf/lo/accept_ra 2",
            "ipv6/conf/ovsbr1/accept_ra 0",
        ]
    );
    assert_eq!(nat::missing(&segments[0]).unwrap(), None);
    reaches_internet(&container, &wire);
    // The whole host forwards IPv6 now, but not from one wire to another.
    other.router().ip(&format!("-6 route add 2001:db8:1::/64 via {}", other.address6()));
    wire.router().ip(&format!("-6 route add 2001:db8:2::/64 via {}", wire.address6()));
    wire.router().ip(&format!("-6 route add default via {}", wire.address6()));
    silent(other.router(), wire.gateway6());
    silent(wire.router(), other.gateway6());
    assert!(remove());
    assert_eq!(settings(&host), before);
}

#[test]
fn the_host_does_not_become_a_router_between_its_wires() {
    let host = host();
    let usb = host.uplink("usb0", 1).addressed(&host).routed(&host, 100);
    let wifi = host.uplink("wlan0", 2).addressed(&host).routed(&host, 600);
    let container = network(&host, "ovsbr1", 1);
    for (wire, other) in [(&usb, &wifi), (&wifi, &usb)] {
        wire.router().ip(&format!("route add {}/32 via {}", other.gateway(), wire.address()));
        wire.router().ip(&format!("-6 route add {}/128 via {}", other.gateway6(), wire.address6()));
    }
    silent(usb.router(), wifi.gateway());
    let segments = [segment("ovsbr1", 1, Uplink::Default)];
    assert!(apply(&segments));
    reaches_internet(&container, &usb);
    for (wire, other) in [(&usb, &wifi), (&wifi, &usb)] {
        silent(wire.router(), other.gateway());
        silent(wire.router(), other.gateway6());
    }
    // Unless its owner wants one.
    host.sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
    host.sh("echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
    assert!(apply(&segments));
    usb.router().tcp_echo(wifi.gateway(), 1000).unwrap();
    wifi.router().tcp_echo(usb.gateway6(), 1000).unwrap();
    assert!(remove());
    usb.router().tcp_echo(wifi.gateway(), 1000).unwrap();
    wifi.router().tcp_echo(usb.gateway6(), 1000).unwrap();
}

#[test]
fn what_somebody_takes_away_is_named_and_comes_back() {
    let host = host();
    let wire = host.uplink("eth0", 1).addressed(&host).routed(&host, 100);
    let container = network(&host, "ovsbr1", 1);
    let segments = [segment("ovsbr1", 1, Uplink::Default)];
    let other = segment("vlan20", 2, Uplink::Named(name("eth0")));
    assert!(nat::missing(&segments[0]).unwrap().is_some());
    assert!(apply(&segments));
    let lacking = nat::missing(&other).unwrap().unwrap();
    assert_eq!(lacking, "nftables rule \"vlan20: masquerade 10.200.2.0/24\"");

    let whole = host.sh("nft list ruleset");
    for (chain, comment) in
        [("srcnat", "ovsbr1: masquerade fd00:200:1::/64"), ("leaving", "isolation")]
    {
        let handle = host.sh(&format!(
            "nft -a list chain inet {} {chain} | sed -n 's,.*\"{comment}\" # handle ,,p'",
            table::NAME
        ));
        host.sh(&format!("nft delete rule inet {} {chain} handle {handle}", table::NAME));
        let lacking = nat::missing(&segments[0]).unwrap();
        assert_eq!(lacking, Some(format!("nftables rule \"{comment}\"")));
        assert!(apply(&segments));
        assert_eq!(host.sh("nft list ruleset"), whole);
    }
    // Something of somebody's in our table goes, too.
    host.sh(&format!("nft insert rule inet {} leaving accept", table::NAME));
    assert!(apply(&segments));
    assert_eq!(host.sh("nft list ruleset"), whole);
    // A set in use cannot be changed.
    let opened = format!("nft delete element inet {} gateways '{{ ovsbr1 }}'", table::NAME);
    assert!(!host.try_sh(&opened).ok());

    host.sh("nft flush ruleset");
    assert!(nat::missing(&segments[0]).unwrap().is_some());
    assert!(apply(&segments));
    assert_eq!(host.sh("nft list ruleset"), whole);
    reaches_internet(&container, &wire);

    let rule = "rule add from 10.9.0.0/24 lookup main priority 5100";
    host.ip(rule);
    assert!(remove());
    assert!(host.ip("rule").contains("10.9.0.0/24"), "a rule of somebody else's stays");
}

#[test]
fn a_table_in_other_hands_is_left_to_them() {
    let host = host();
    let _container = network(&host, "ovsbr1", 1);
    let segments = [segment("ovsbr1", 1, Uplink::Default)];
    let own = format!("add table inet {} {{ flags owner; }}", table::NAME);
    host.sh(&format!("(echo '{own}'; sleep 600) | nft -i >/dev/null 2>&1 &"));
    rig::poll("the owned table", Duration::from_secs(5), || {
        host.sh("nft list tables").contains(table::NAME).then_some(())
    });
    let before = settings(&host);
    let error = nat::apply(&state(), &segments).unwrap_err();
    assert_eq!(error.kind(), Kind::Busy, "{}", sentence(&error));
    assert_eq!(settings(&host), before, "no forwarding without rules");
}

#[test]
fn impossible_plans_are_refused_by_name() {
    let host = host();
    let _wire = host.uplink("eth0", 1).addressed(&host).routed(&host, 100);
    let _container = network(&host, "ovsbr1", 1);
    let one = segment("ovsbr1", 1, Uplink::Default);
    let refusal = |segments: &[Segment]| {
        let error = nat::apply(&state(), segments).unwrap_err();
        (error.kind(), sentence(&error))
    };
    let cases = [
        (
            vec![one.clone(), one.clone()],
            Kind::Invalid,
            "segment ovsbr1: interface ovsbr1 is the gateway of another segment too",
        ),
        (
            vec![one.clone(), segment("vlan20", 1, Uplink::Default)],
            Kind::Invalid,
            "segment vlan20: subnet 10.200.1.0/24 overlaps a subnet of another segment",
        ),
        (
            vec![Segment { uplink: Uplink::Named(name("ovsbr1")), ..one.clone() }],
            Kind::Invalid,
            "segment ovsbr1: uplink ovsbr1 is the gateway of a segment",
        ),
        (
            vec![Segment { subnets: vec!["0.0.0.0/0".parse().unwrap()], ..one.clone() }],
            Kind::Invalid,
            "segment ovsbr1: subnet 0.0.0.0/0 covers the internet",
        ),
        (
            vec![segment("ovsbr9", 9, Uplink::Default)],
            Kind::Missing,
            "interface ovsbr9 does not exist; check the name with \"ip link show ovsbr9\"",
        ),
    ];
    for (segments, kind, text) in cases {
        let (found, said) = refusal(&segments);
        assert!(found == kind && said.starts_with(text), "{found:?}: {said}");
    }
    assert_eq!(host.sh("nft list ruleset"), "");
    assert_eq!(host.sh(&format!("ls {STATE}")), "attachments\nnetworks\n");
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

#[test]
fn a_hundred_segments_fit_one_batch_and_it_is_quick() {
    let host = host();
    let _wire = host.uplink("eth0", 1).addressed(&host).routed(&host, 100);
    let mut segments = Vec::new();
    for number in 1..=100 {
        let interface = format!("gw{number}");
        host.ip(&format!("link add {interface} type veth peer name p{number}"));
        segments.push(segment(&interface, number, Uplink::Default));
    }
    let timed = |what: &str, work: &mut dyn FnMut() -> bool| {
        let start = Instant::now();
        assert!(work(), "{what}");
        println!("{what}: {:.1} ms", start.elapsed().as_secs_f64() * 1000.0);
        assert!(start.elapsed() < Duration::from_secs(2), "{what}");
    };
    timed("apply of one segment", &mut || apply(&segments[..1]));
    timed("no change", &mut || !apply(&segments[..1]));
    timed("missing", &mut || nat::missing(&segments[0]).unwrap().is_none());
    timed("apply of two, one of them there", &mut || apply(&segments[..2]));
    timed("apply of a hundred", &mut || apply(&segments));
    timed("no change of a hundred", &mut || !apply(&segments));
    timed("missing, of a hundred", &mut || nat::missing(&segments[99]).unwrap().is_none());
    timed("remove", &mut remove);
}

#[test]
fn an_uplink_may_come_later() {
    let host = host();
    let usb = host.uplink("usb0", 1).addressed(&host).routed(&host, 100);
    let (one, two) = (network(&host, "ovsbr1", 1), network(&host, "vlan20", 2));
    let segments =
        [segment("ovsbr1", 1, Uplink::Named(name("wlan0"))), segment("vlan20", 2, Uplink::Default)];
    assert!(apply(&segments));
    reaches_internet(&two, &usb);
    unreachable(&one, INTERNET);
    unreachable(&one, INTERNET6);
    assert_eq!(nat::missing(&segments[0]).unwrap().as_deref(), Some("uplink wlan0"));

    let wifi = host.uplink("wlan0", 2).addressed(&host).routed(&host, 600);
    assert!(apply(&segments));
    assert_eq!(nat::missing(&segments[0]).unwrap(), None);
    reaches_internet(&one, &wifi);
    reaches_internet(&two, &usb);
}

#[test]
fn a_new_gateway_solicits_neighbours_at_once() {
    let host = Host::new();
    host.port_agent().run("up");
    let addresses = host.ip("-6 -o address show dev ovsbr1 scope link");
    assert!(addresses.contains("fe80::"), "{addresses}");
    assert!(!addresses.contains("tentative"), "{addresses}");
}
