//! Published ports: a host whose agent runs, a LAN peer on its wire, containers plugged in through
//! the CNI plugin; who reaches them, and who does not.

mod conflict;
mod exposure;
mod keeping;
mod lifecycle;
mod reach;
mod rules;
mod runtimes;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use rig::lab::key;
use rig::{Container, Daemon, Host, Uplink, poll};
use serde_json::{Value, json};
use shared::attachment::Engine;
use shared::config::{self, Config};
use shared::control;
use shared::publish::{Holder, PortMapping};
use shared::state::State;

/// Some megabytes' worth of segments both ways would take long here: this is some hundred.
const DATA: usize = 300_000;

/// Far above what it takes; a machine under load is slow.
const SOON: Duration = Duration::from_secs(10);

/// A host with a wire, whose agent runs.
struct Lab {
    // Fields drop in this order.
    agent: Daemon,
    wire: Uplink,
    host: Host,
}

impl Lab {
    fn new() -> Self {
        Self::with("")
    }

    /// With some lines of configuration beside the bridges that come without any.
    fn with(config: &str) -> Self {
        let host = Host::new();
        host.config(config);
        Self::of(host)
    }

    fn of(host: Host) -> Self {
        let wire = host.uplink("eth0", 1).addressed(&host).routed(&host, 100);
        let agent = start(&host);
        Self { agent, wire, host }
    }

    /// Plugs a container in, with these ports of the host on its echo server.
    fn add(&self, name: &str, ports: Value) -> (Container, IpAddr, IpAddr) {
        let container = self.host.container(name);
        let result = self.host.plugin().add(&container, &conf(ports)).success();
        let ip = |index: usize| {
            let text = result["ips"][index]["address"].as_str().unwrap();
            text.split('/').next().unwrap().parse().unwrap()
        };
        (container, ip(0), ip(1))
    }

    fn engine(&self) -> Engine {
        let sysfs = Path::new("/sys");
        Engine::new(Config::load(Path::new(config::DEFAULT_PATH), sysfs).unwrap())
    }

    fn del(&self, container: &Container) {
        self.host.plugin().del(container, &conf(json!([]))).success();
    }

    fn peer(&self) -> &Container {
        self.wire.router()
    }
}

fn state() -> State {
    State::new("/run/ovs-port-agent".into())
}

fn start(host: &Host) -> Daemon {
    let agent = Daemon::start("ovs-port-agent", host.port_agent().command("run"));
    agent.ready(SOON, || {
        control::is_served(&state())
            && host.try_sh("nft list table inet ovs-agent").ok()
            && host.try_sh("ip address show dev ovsbr1 | grep -q 10.200.0.1").ok()
    });
    agent
}

#[expect(clippy::needless_pass_by_value, reason = "written in place by every caller")]
fn conf(ports: Value) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "lab", "type": "ovs-agent",
        "capabilities": {"portMappings": true}, "runtimeConfig": {"portMappings": ports},
    })
}

/// An echo server's port, published on `host_port` of every address.
fn port(host_port: u16, protocol: &str) -> Value {
    json!({"hostPort": host_port, "containerPort": rig::ECHO_PORT, "protocol": protocol})
}

/// The same for the engine.
fn mapping(port: &Value) -> PortMapping {
    PortMapping {
        protocol: serde_json::from_value(port["protocol"].clone()).unwrap(),
        host_ip: None,
        host_port: port["hostPort"].as_u64().unwrap().try_into().unwrap(),
        host_port_end: 0,
        container_port: rig::ECHO_PORT,
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A megabyte-like exchange over TCP from the host itself.
fn tcp_from_host(address: IpAddr, port: u16) -> io::Result<()> {
    let address = SocketAddr::new(address, port);
    rig::tcp_exchange(TcpStream::connect_timeout(&address, Duration::from_secs(3))?, DATA)
}

fn udp_from_host(address: IpAddr, port: u16) -> io::Result<()> {
    rig::udp_exchange(&udp_socket(address)?, SocketAddr::new(address, port))
}

fn udp_from(container: &Container, address: IpAddr, port: u16) -> io::Result<()> {
    let socket = container.inside(|| udp_socket(address))?;
    rig::udp_exchange(&socket, SocketAddr::new(address, port))
}

/// Connected, so that an answer from another address than the one asked does not count.
fn udp_socket(address: IpAddr) -> io::Result<UdpSocket> {
    UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })
}

/// No connection from there comes about in half a second.
fn refused(container: &Container, address: IpAddr, port: u16) {
    let to = SocketAddr::new(address, port);
    let result = container.inside(|| TcpStream::connect_timeout(&to, Duration::from_millis(500)));
    assert!(result.is_err(), "{} reaches {to}", container.name());
}
