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

/// A host without link-local addresses, which come when they like and would blur snapshots.
fn host() -> Host {
    let host = Host::bare();
    host.sh("echo 1 > /proc/sys/net/ipv6/conf/default/addr_gen_mode");
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
        drop((stream, second));
        host.ip("link delete vlan20");

        assert!(remove());
        assert!(!remove());
        assert_same(&inside, &host.snapshot());
        silent(&container, INTERNET);
        drop(container);
        host.ip("link delete ovsbr1");
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

/// Routes and policy rules of the host, sorted.
fn routes(host: &Host) -> Vec<String> {
    let text = host.sh("for f in -4 -6; do ip $f rule; ip $f route show table all; done");
    let mut lines: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).collect();
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
