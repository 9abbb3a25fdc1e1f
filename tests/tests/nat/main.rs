//! NAT for real: a host in namespaces of its own, segments made of veths, uplinks with a LAN and
//! an internet behind them. The engine is called directly; nft and iptables are the witnesses.

mod exposure;
mod foreign;
mod forwarding;
mod repair;
mod ruleset;
mod uplinks;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
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
    let to = SocketAddr::new(address, rig::ECHO_PORT);
    let second = Duration::from_secs(1);
    let error = container.inside(|| TcpStream::connect_timeout(&to, second)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{address}: {error}");
    assert!(!container.ping(address));
}

/// Every setting of forwarding and router advertisements, one `file value` each.
fn settings(host: &Host) -> Vec<String> {
    let text = host.sh("cd /proc/sys/net; for f in ipv4/conf/*/forwarding ipv6/conf/*/forwarding \
         ipv6/conf/*/force_forwarding ipv6/conf/*/accept_ra ipv4/conf/*/rp_filter \
         ipv4/conf/*/route_localnet; do echo \"$f $(cat $f)\"; done");
    text.lines().map(str::to_owned).collect()
}
