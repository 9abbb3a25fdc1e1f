//! `docker run -p`: held by the port agent, as CNI's and Podman's are.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use rig::{Container, Daemon, DockerDriver, Dockerd, Host, Snapshot, Uplink, poll};
use shared::control;
use shared::state::State;

use crate::{difference, nothing_left, refused};

const DATA: usize = 300_000;

/// A host with a wire whose agent, driver and dockerd run.
struct Lab {
    // Fields drop in this order.
    agent: Daemon,
    driver: DockerDriver,
    docker: Dockerd,
    wire: Uplink,
    host: Host,
}

impl Lab {
    fn new() -> Self {
        let host = Host::new();
        let wire = host.uplink("eth0", 1).addressed(&host).routed(&host, 100);
        host.unified_cgroups();
        host.port_agent().run("up");
        let agent = start_agent(&host);
        let (driver, docker) = (host.docker_driver(), host.dockerd());
        docker.load();
        docker.run("network create -d ovs-agent web");
        Self { agent, driver, docker, wire, host }
    }

    fn lan(&self) -> IpAddr {
        self.wire.address()
    }

    /// From the host, from the LAN.
    #[track_caller]
    fn reached(&self, port: u16) {
        tcp(ip("127.0.0.1"), port).unwrap();
        tcp(self.lan(), port).unwrap();
        self.wire.router().tcp_echo_port(self.lan(), port, DATA).unwrap();
    }

    fn free(&self, port: u16) -> bool {
        TcpStream::connect((self.lan(), port)).is_err()
    }
}

pub(crate) fn start_agent(host: &Host) -> Daemon {
    let agent = host.port_agent().command("run").deadline(Duration::MAX);
    let agent = Daemon::start("port-agent", agent);
    let state = State::new("/run/ovs-port-agent".into());
    agent.ready(Duration::from_secs(15), || control::is_served(&state));
    agent
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn tcp(address: IpAddr, port: u16) -> io::Result<()> {
    let address = SocketAddr::new(address, port);
    rig::tcp_exchange(TcpStream::connect_timeout(&address, Duration::from_secs(3))?, DATA)
}

fn udp(address: IpAddr, port: u16) -> io::Result<()> {
    let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    rig::udp_exchange(&socket, SocketAddr::new(address, port))
}

fn refuses(container: &Container, address: IpAddr, port: u16) {
    assert!(container.connect(address, port).is_err(), "{address}:{port} answers");
}

#[test]
fn ports_are_reached_from_where_they_are_published() {
    let lab = Lab::new();
    let (docker, peer) = (&lab.docker, lab.wire.router());
    docker.run("network create -d ovs-agent db");
    docker
        .run("network create -d ovs-agent --ipv6 --subnet fd00:30::/64 --subnet 10.30.0.0/24 six");
    let before = lab.host.snapshot();
    let web = docker.start_container(
        "web",
        "--network web -p 8080:7 -p 8053:7/udp -p 127.0.0.1:8090:7 -p 9000-9002:13-15",
    );
    let _server = web.echo_server();
    lab.reached(8080);
    udp(ip("127.0.0.1"), 8053).unwrap();
    udp(lab.lan(), 8053).unwrap();
    tcp(ip("127.0.0.1"), 8090).unwrap();
    refuses(peer, lab.lan(), 8090);
    let (name, seen) = rig_name(peer, lab.lan(), 9000);
    assert_eq!((name.as_str(), seen), ("web", lab.wire.gateway()));
    let other = docker.start_container("other", "--network db");
    other.tcp_echo_port(lab.lan(), 8080, DATA).unwrap();
    // A neighbour that routes straight to the container gets what was not published: nothing.
    let own = docker.address("web", "web");
    peer.ip(&format!("route add {own}/32 via {}", lab.lan()));
    for port in [7, 13] {
        refuses(peer, own, port);
    }
    // IPv6, and any free port.
    let six = docker.start_container("six", "--network six -p [::1]:8091:7 -p 8092:7 -p 7");
    let _six = six.echo_server();
    tcp(ip("::1"), 8091).unwrap();
    tcp(ip("::1"), 8092).unwrap();
    lab.reached(8092);
    peer.tcp_echo_port(lab.wire.address6(), 8092, DATA).unwrap();
    refuses(peer, lab.wire.address6(), 8091);
    // Docker does not show them; we do.
    assert_eq!(docker.run("port web").trim(), "");
    let status = lab.host.port_agent().run("status");
    for text in ["*:8080", "127.0.0.1:8090", "*:9002", "[::1]:8091"] {
        assert!(status.contains(text), "{text}: {status}");
    }
    docker.run("stop -t 0 web");
    assert!(lab.free(8080) && tcp(ip("127.0.0.1"), 8090).is_err());
    docker.run("start web");
    let _server = docker.container("web").echo_server();
    lab.reached(8080);
    docker.run("rm -f web other six");
    assert!(lab.free(8080));
    drop((web, other, six));
    soon_as_before(&before, &lab.host);
}

/// The agent shows what has changed in the managed block a moment later.
#[track_caller]
pub(crate) fn soon_as_before(before: &Snapshot, host: &Host) {
    let end = Instant::now() + Duration::from_secs(10);
    while !difference(before, host).is_empty() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(200));
    }
    nothing_left(before, host);
}

/// Who answers at a port, and as whom it saw the caller.
fn rig_name(from: &Container, address: IpAddr, port: u16) -> (String, IpAddr) {
    rig::who_answers(from.connect(address, port).unwrap()).unwrap()
}

#[test]
fn a_port_that_is_taken_is_refused_and_its_holder_named() {
    let lab = Lab::new();
    let (docker, host) = (&lab.docker, &lab.host);
    let web = docker.start_container("web", "--network web -p 8080:7 -p 127.0.0.1:8081:7");
    let _server = web.echo_server();
    let before = host.snapshot();
    let run = |options: &str| format!("run -d --rm --network web {options} localhost/rig:1");
    // Its holder is named as soon as dockerd has told how it is called.
    poll("the holder is not named", Duration::from_secs(20), || {
        let output = docker.output(&run("-p 8080:80"));
        assert!(output.stderr.contains("8080:80/tcp cannot be published: "), "{output}");
        output.stderr.contains("published: web has 8080:7/tcp").then_some(())
    });
    refused(docker, &run("-p 8081:80"), &["8081:80/tcp cannot be published", "web has"]);
    let _other = std::net::TcpListener::bind("0.0.0.0:8070").unwrap();
    refused(docker, &run("-p 8070:80"), &["8070:80/tcp cannot be published", "in use", "ss -ltnp"]);
    refused(docker, &run("-p 192.0.2.9:8071:80"), &["192.0.2.9 is no address of this host"]);
    refused(docker, &run("-p 8071:80/sctp"), &["80/sctp", "tcp or udp"]);
    // Another port of the range is free, and UDP is another matter.
    docker.run("run -d --name two --network web -p 8080-8085:7 -p 8080:7/udp localhost/rig:1");
    lab.reached(8080);
    let _two = docker.container("two").echo_server();
    udp(lab.lan(), 8080).unwrap();
    docker.run("rm -f two");
    soon_as_before(&before, host);
}

#[test]
fn without_the_agent_only_what_publishes_is_refused() {
    let lab = Lab::new();
    lab.agent.terminate(Duration::from_secs(15));
    let run = "run -d --rm --network web -p 8080:7 localhost/rig:1";
    refused(&lab.docker, run, &["published ports need a running ovs-port-agent; start it"]);
    lab.docker.start_container("one", "--network web");
    let _agent = start_agent(&lab.host);
    lab.docker.run(run);
}

#[test]
fn ports_survive_what_is_restarted() {
    let mut lab = Lab::new();
    lab.docker.run("network create -d ovs-agent --ipam-driver ovs-agent shared");
    let start = |name: &str, network: &str, port: u16| {
        let options = format!("--network {network} --restart always -p {port}:7");
        lab.docker.start_container(name, &options)
    };
    let (web, shared) = (start("web", "web", 8080), start("shared", "shared", 8081));
    let servers = (web.echo_server(), shared.echo_server());
    let both = |lab: &Lab| {
        lab.reached(8080);
        lab.reached(8081);
    };
    both(&lab);
    // The driver and the agent: containers go on.
    lab.driver.kill();
    lab.driver = lab.host.docker_driver();
    both(&lab);
    lab.agent.kill();
    lab.agent = start_agent(&lab.host);
    poll("ports are held again", Duration::from_secs(10), || {
        (tcp(ip("127.0.0.1"), 8080).is_ok() && tcp(lab.lan(), 8081).is_ok()).then_some(())
    });
    both(&lab);
    drop(servers);
    drop((web, shared));
    // dockerd in good order, and crashed: it starts its containers again.
    for crash in [false, true] {
        if crash {
            lab.docker.kill();
        } else {
            lab.docker.stop();
        }
        lab.docker = lab.host.dockerd();
        poll("the containers do not run", Duration::from_secs(60), || {
            let running = |name| lab.docker.inspect(name, ".State.Running") == "true";
            (running("web") && running("shared")).then_some(())
        });
        let web = lab.docker.container("web");
        let shared = lab.docker.container("shared");
        let _servers = (web.echo_server(), shared.echo_server());
        both(&lab);
    }
    lab.docker.run("restart -t 0 web");
    let web = lab.docker.container("web");
    let _server = web.echo_server();
    lab.reached(8080);
}
