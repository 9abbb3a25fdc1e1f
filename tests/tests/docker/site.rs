//! One host as its user has it: agent, driver and dockerd run, a way out, a wire behind `ovsbr0`.
//! Dockerd is 20.10 on a private host, or 26.1 on a booted Debian 13; most tests run on both.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use rig::{
    Container, Daemon, DockerDriver, Dockerd, Host, Machine, Output, Snapshot, Uplink, poll,
};
use serde_json::Value;
use shared::control;
use shared::state::State;

/// Some hundred segments both ways.
pub(crate) const DATA: usize = 300_000;

/// Far above what it takes; a machine under load is slow.
pub(crate) const SOON: Duration = Duration::from_secs(20);

const BRIDGES: &str = r#"
[[bridge]]
name = "ovsbr0"
mode = "direct"
uplink = "enp2s0"

[[bridge]]
name = "ovsbr1"
mode = "nat"
addresses = ["10.200.0.1/24", "fd6f:7673:6272:1::1/64"]
"#;

/// Runs a scenario with both Docker versions, each as a test of its own.
macro_rules! with_both {
    ($($scenario:ident),+ $(,)?) => {$(
        mod $scenario {
            #[test]
            fn with_docker_20() {
                super::$scenario(&mut crate::site::Site::docker_20());
            }
            #[test]
            fn with_docker_26() {
                super::$scenario(&mut crate::site::Site::docker_26());
            }
        }
    )+};
}
pub(crate) use with_both;

/// The host.
pub(crate) struct Site {
    // Fields drop in this order.
    own: Container,
    kind: Kind,
}

enum Kind {
    Private(Private),
    Booted(Machine),
}

struct Private {
    // Fields drop in this order.
    agent: Option<Daemon>,
    driver: Option<DockerDriver>,
    docker: Option<Dockerd>,
    way_out: Uplink,
    wire: Uplink,
    host: Host,
}

impl Site {
    /// With dockerd 20.10.
    pub(crate) fn docker_20() -> Self {
        let host = Host::new();
        let way_out = host.uplink("wlp4s0", 1).addressed(&host).routed(&host, 100);
        let wire = host.uplink("enp2s0", 7);
        host.config(BRIDGES);
        host.unified_cgroups();
        host.port_agent().run("up");
        let agent = start_agent(&host);
        let own = Container::of_process("host", agent.pid().as_raw().unsigned_abs());
        let (driver, docker) = (host.docker_driver(), host.dockerd());
        docker.load();
        let (agent, driver, docker) = (Some(agent), Some(driver), Some(docker));
        Self { own, kind: Kind::Private(Private { agent, driver, docker, way_out, wire, host }) }
    }

    /// With dockerd 26.1.
    pub(crate) fn docker_26() -> Self {
        let machine = Machine::boot();
        let lan = machine.wireless();
        machine.sh(&format!(
            "ip link set {0} up; ip address add {1}/24 dev {0}; ip route add default via {2}
             ip address add {3}/64 dev {0} nodad; ip -6 route add default via {4}",
            lan.interface(),
            lan.address(10),
            lan.address(1),
            lan.address6(10),
            lan.address6(1),
        ));
        machine.install(BRIDGES);
        // What "ip netns" leaves behind once and for all.
        machine.sh("mkdir -p /run/netns");
        machine.docker_image();
        Self { own: machine.network(), kind: Kind::Booted(machine) }
    }

    /// Runs `docker`, arguments separated by blanks; panics unless it succeeds.
    #[track_caller]
    pub(crate) fn docker(&self, args: &str) -> String {
        let output = self.try_docker(args);
        assert!(output.ok(), "{output}");
        output.stdout
    }

    /// Runs `docker`, whatever its end.
    pub(crate) fn try_docker(&self, args: &str) -> Output {
        match &self.kind {
            Kind::Private(site) => site.docker.as_ref().unwrap().output(args),
            Kind::Booted(machine) => machine
                .command("docker")
                .args(args.split_whitespace())
                .deadline(Duration::from_secs(120))
                .output(),
        }
    }

    /// Panics unless `docker` fails, and with these words.
    #[track_caller]
    pub(crate) fn refused(&self, args: &str, words: &[&str]) {
        let output = self.try_docker(args);
        assert!(!output.ok(), "{output}");
        for word in words {
            assert!(output.stderr.contains(word), "{word} is not said: {output}");
        }
    }

    /// The text of a file of the checkout.
    pub(crate) fn shipped(&self, path: &str) -> String {
        match &self.kind {
            Kind::Private(site) => site.host.shipped(path),
            Kind::Booted(machine) => machine.outside().shipped(path),
        }
    }

    /// Runs Compose on a file of this text; panics unless it succeeds.
    #[track_caller]
    pub(crate) fn compose(&self, text: &str, args: &str) -> String {
        let output = self.try_compose(text, args);
        assert!(output.ok(), "{output}");
        output.stdout
    }

    /// Runs Compose on a file of this text, whatever its end.
    pub(crate) fn try_compose(&self, text: &str, args: &str) -> Output {
        match &self.kind {
            Kind::Private(site) => site.docker.as_ref().unwrap().compose(text, args),
            Kind::Booted(machine) => {
                machine.write("/etc/lab/compose.yaml", text);
                machine
                    .command("docker")
                    .env("IMAGE", Dockerd::IMAGE)
                    .args(["compose", "-p", "lab", "-f", "/etc/lab/compose.yaml"])
                    .args(args.split_whitespace())
                    .deadline(Duration::from_secs(120))
                    .output()
            }
        }
    }

    /// Starts a container that sleeps, with `options` of `docker run`.
    #[track_caller]
    pub(crate) fn start(&self, name: &str, options: &str) -> Container {
        self.docker(&format!("run -d --name {name} {options} {}", Dockerd::IMAGE));
        self.container(name)
    }

    /// The network namespace of a running container.
    pub(crate) fn container(&self, name: &str) -> Container {
        match &self.kind {
            Kind::Private(site) => site.docker.as_ref().unwrap().container(name),
            Kind::Booted(machine) => machine.docker_container(name),
        }
    }

    /// One value of `docker inspect`.
    #[track_caller]
    pub(crate) fn inspect(&self, name: &str, path: &str) -> String {
        let output = match &self.kind {
            Kind::Private(site) => {
                return site.docker.as_ref().unwrap().inspect(name, path);
            }
            Kind::Booted(machine) => machine
                .command("docker")
                .args(["inspect", "-f", &format!("{{{{{path}}}}}"), name])
                .output(),
        };
        assert!(output.ok(), "{output}");
        output.stdout.trim().to_owned()
    }

    /// The address of a container on a network.
    #[track_caller]
    pub(crate) fn address(&self, network: &str, container: &str) -> IpAddr {
        let path = format!(".NetworkSettings.Networks.{network}.IPAddress");
        self.inspect(container, &path).parse().unwrap()
    }

    /// The IPv6 address of a container on a network.
    #[track_caller]
    pub(crate) fn address6(&self, network: &str, container: &str) -> IpAddr {
        let path = format!(".NetworkSettings.Networks.{network}.GlobalIPv6Address");
        self.inspect(container, &path).parse().unwrap()
    }

    /// The host's own network.
    pub(crate) fn host(&self) -> &Container {
        &self.own
    }

    /// Runs a shell script on the host; panics unless it succeeds.
    #[track_caller]
    pub(crate) fn sh(&self, script: &str) -> String {
        match &self.kind {
            Kind::Private(site) => site.host.sh(script),
            Kind::Booted(machine) => machine.sh(script),
        }
    }

    /// Runs a line that a user types into a shell of the host; panics unless it succeeds.
    #[track_caller]
    pub(crate) fn shell(&self, line: &str) -> String {
        match &self.kind {
            // The client of the daemon's own age, whatever else is installed.
            Kind::Private(site) => {
                let docker = "docker() { /usr/bin/docker -H unix:///run/docker.sock \"$@\"; }";
                site.host.sh(&format!("{docker}; {line}"))
            }
            Kind::Booted(machine) => machine.sh(line),
        }
    }

    /// Runs the line that starts everything, where nothing runs yet; there is no systemd on a
    /// private host.
    pub(crate) fn begin(&mut self, line: &str) {
        match &mut self.kind {
            Kind::Private(site) => {
                site.agent.take().unwrap().terminate(SOON);
                site.driver.take().unwrap().stop();
                site.host.port_agent().run("up");
                site.driver = Some(site.host.docker_driver());
            }
            Kind::Booted(machine) => {
                machine.sh("systemctl stop ovs-agent-docker ovs-port-agent; ovs-port-agent down");
                machine.sh(line);
            }
        }
    }

    /// The neighbour on the LAN that the host's way out leads through, with the internet behind it.
    pub(crate) fn peer(&self) -> &Container {
        match &self.kind {
            Kind::Private(site) => site.way_out.router(),
            Kind::Booted(machine) => machine.wireless().router(),
        }
    }

    /// The host's addresses on that LAN.
    pub(crate) fn lan(&self) -> [IpAddr; 2] {
        match &self.kind {
            Kind::Private(site) => [site.way_out.address(), site.way_out.address6()],
            Kind::Booted(machine) => {
                [machine.wireless().address(10), machine.wireless().address6(10)]
            }
        }
    }

    /// The neighbour's addresses on it.
    pub(crate) fn peers(&self) -> [IpAddr; 2] {
        match &self.kind {
            Kind::Private(site) => [site.way_out.gateway(), site.way_out.gateway6()],
            Kind::Booted(machine) => {
                [machine.wireless().address(1), machine.wireless().address6(1)]
            }
        }
    }

    /// The router on the wire behind `ovsbr0`.
    pub(crate) fn wire(&self) -> &Container {
        match &self.kind {
            Kind::Private(site) => site.wire.router(),
            Kind::Booted(machine) => machine.wired().router(),
        }
    }

    /// The address of host number `host` on the wire behind `ovsbr0`; 1 is the router.
    pub(crate) fn on_wire(&self, host: u8) -> Ipv4Addr {
        match &self.kind {
            Kind::Private(_) => Ipv4Addr::new(198, 18, 7, host),
            Kind::Booted(_) => Ipv4Addr::new(172, 16, 0, host),
        }
    }

    /// `ovs-port-agent` with these arguments, whatever its end.
    pub(crate) fn port_agent(&self, args: &str) -> Output {
        match &self.kind {
            Kind::Private(site) => site.host.port_agent().output(args),
            Kind::Booted(machine) => {
                machine.command("ovs-port-agent").args(args.split_whitespace()).output()
            }
        }
    }

    /// `ovs-port-agent status --json`.
    pub(crate) fn status(&self) -> Value {
        let output = self.port_agent("status --json");
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output}"))
    }

    /// What is published, as `status` shows it.
    pub(crate) fn ports(&self) -> Vec<Value> {
        self.status()["ports"].as_array().unwrap().clone()
    }

    /// Plugs a namespace of the host in by the CNI plugin: its name is the container's id.
    pub(crate) fn cni(&self, name: &str, conf: &Value) -> Container {
        match &self.kind {
            Kind::Private(site) => {
                let pod = site.host.container(name);
                site.host.plugin().add(&pod, conf).success();
                pod
            }
            Kind::Booted(machine) => {
                machine.sh(&format!("ip netns add {name}; ip -n {name} link set lo up"));
                machine.cni("ADD", name, conf);
                machine.netns(name, &format!("/run/netns/{name}"))
            }
        }
    }

    /// The error of a CNI ADD that must fail.
    pub(crate) fn cni_refused(&self, name: &str, conf: &Value) -> String {
        match &self.kind {
            Kind::Private(site) => {
                let pod = site.host.container(name);
                site.host.plugin().add(&pod, conf).failure().to_string()
            }
            Kind::Booted(machine) => {
                machine.sh(&format!("ip netns add {name}"));
                let output = machine.try_sh(&format!(
                    "echo '{conf}' | CNI_COMMAND=ADD CNI_CONTAINERID={name} CNI_IFNAME=eth0 \
                     CNI_NETNS=/run/netns/{name} CNI_PATH=/opt/cni/bin /opt/cni/bin/ovs-agent"
                ));
                machine.sh(&format!("ip netns del {name}"));
                assert!(!output.ok(), "{output}");
                output.stdout
            }
        }
    }

    /// Unplugs what [`Self::cni`] plugged in.
    pub(crate) fn cni_del(&self, pod: Container, conf: &Value) {
        match &self.kind {
            Kind::Private(site) => {
                site.host.plugin().del(&pod, conf).success();
                drop(pod);
            }
            Kind::Booted(machine) => {
                let name = pod.name().to_owned();
                machine.cni("DEL", &name, conf);
                drop(pod);
                machine.sh(&format!("ip netns del {name}"));
            }
        }
    }

    /// What the host looks like.
    pub(crate) fn snapshot(&self) -> Snapshot {
        match &self.kind {
            Kind::Private(site) => site.host.snapshot(),
            Kind::Booted(machine) => machine.snapshot(),
        }
    }

    /// Waits until the host is as it was: the agent shows a moment later in the managed block what
    /// has changed.
    #[track_caller]
    pub(crate) fn soon_as_before(&self, before: &Snapshot) {
        let end = std::time::Instant::now() + SOON;
        loop {
            let text = before.difference(&self.snapshot());
            // Where our table stands among others' is no matter.
            let order = |line: &&str| line.ends_with("same lines in another order");
            let left: Vec<_> = text.lines().filter(|line| !order(line)).collect();
            if left.is_empty() {
                return;
            }
            let late = std::time::Instant::now() > end;
            assert!(!late, "the host is not as it was:\n{}\n{}", left.join("\n"), self.log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// What the driver logged.
    pub(crate) fn log(&self) -> String {
        match &self.kind {
            Kind::Private(site) => site.driver.as_ref().map(DockerDriver::log).unwrap_or_default(),
            Kind::Booted(machine) => machine.journal("ovs-agent-docker"),
        }
    }

    /// Ends the agent in good order.
    pub(crate) fn stop_agent(&mut self) {
        match &mut self.kind {
            Kind::Private(site) => site.agent.take().unwrap().terminate(SOON),
            Kind::Booted(machine) => drop(machine.sh("systemctl stop ovs-port-agent")),
        }
    }

    /// Starts the agent.
    pub(crate) fn start_agent(&mut self) {
        match &mut self.kind {
            Kind::Private(site) => site.agent = Some(start_agent(&site.host)),
            Kind::Booted(machine) => drop(machine.sh("systemctl start ovs-port-agent")),
        }
    }

    /// Kills the driver, does something, and starts it again.
    pub(crate) fn without_driver(&mut self, work: impl FnOnce(&Self)) {
        match &mut self.kind {
            Kind::Private(site) => site.driver.take().unwrap().kill(),
            Kind::Booted(machine) => drop(
                machine
                    .sh("systemctl kill -s KILL ovs-agent-docker; systemctl stop ovs-agent-docker"),
            ),
        }
        work(self);
        match &mut self.kind {
            Kind::Private(site) => site.driver = Some(site.host.docker_driver()),
            Kind::Booted(machine) => {
                drop(machine.sh("systemctl reset-failed; systemctl start ovs-agent-docker"));
            }
        }
    }

    /// Restarts dockerd, in good order or after a crash, and waits until these containers run.
    pub(crate) fn restart_dockerd(&mut self, crash: bool, containers: &[&str]) {
        match &mut self.kind {
            Kind::Private(site) => {
                let docker = site.docker.take().unwrap();
                if crash {
                    docker.kill()
                } else {
                    docker.stop()
                }
                site.docker = Some(site.host.dockerd());
            }
            Kind::Booted(machine) => {
                let how = if crash {
                    "systemctl kill -s KILL --kill-whom=main docker; sleep 0.1"
                } else {
                    "systemctl stop docker.socket docker"
                };
                machine.sh(&format!(
                    "{how}; systemctl reset-failed; systemctl start docker.socket docker"
                ));
            }
        }
        for name in containers {
            poll(&format!("{name} does not run"), Duration::from_secs(90), || {
                let path = "{{.State.Running}}";
                let output = self.try_docker(&format!("inspect -f {path} {name}"));
                (output.stdout.trim() == "true").then_some(())
            });
        }
    }

    /// Restarts both daemons of Open vSwitch.
    pub(crate) fn restart_switch(&self) {
        match &self.kind {
            Kind::Private(site) => {
                site.host.switch().restart_vswitchd();
                site.host.switch().restart_ovsdb();
            }
            Kind::Booted(machine) => drop(machine.sh("systemctl restart openvswitch-switch")),
        }
    }

    /// Stops ovsdb-server.
    pub(crate) fn stop_ovsdb(&self) {
        match &self.kind {
            Kind::Private(site) => site.host.switch().stop_ovsdb(),
            // Debian's units take ovs-vswitchd along.
            Kind::Booted(machine) => drop(machine.sh("systemctl stop ovsdb-server")),
        }
    }

    /// Starts it again.
    pub(crate) fn start_ovsdb(&self) {
        match &self.kind {
            Kind::Private(site) => site.host.switch().start_ovsdb(),
            Kind::Booted(machine) => drop(
                machine.sh("systemctl reset-failed; systemctl start ovsdb-server ovs-vswitchd"),
            ),
        }
    }
}

fn start_agent(host: &Host) -> Daemon {
    let agent = host.port_agent().command("run").deadline(Duration::MAX);
    let agent = Daemon::start("port-agent", agent);
    let state = State::new("/run/ovs-port-agent".into());
    agent.ready(SOON, || control::is_served(&state));
    agent
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// TCP with data both ways, and UDP there and back.
pub(crate) fn tcp(from: &Container, address: IpAddr, port: u16) -> io::Result<()> {
    from.tcp_echo_port(address, port, DATA)
}

pub(crate) fn udp(from: &Container, address: IpAddr, port: u16) -> io::Result<()> {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = from.inside(|| UdpSocket::bind(any))?;
    rig::udp_exchange(&socket, SocketAddr::new(address, port))
}

/// Panics unless the echo server at `address` answers ICMP, TCP and UDP.
#[track_caller]
pub(crate) fn reaches(from: &Container, address: IpAddr) {
    assert!(from.ping(address), "{}: no ping of {address}", from.name());
    from.tcp_echo(address, DATA).unwrap_or_else(|e| panic!("{} to {address}: {e}", from.name()));
    from.udp_echo(address).unwrap_or_else(|e| panic!("{} to {address}: {e}", from.name()));
}

/// Panics unless the internet answers ICMP and TCP, in these families.
#[track_caller]
pub(crate) fn surfs(from: &Container, internet: &[IpAddr]) {
    for address in internet {
        assert!(from.ping(*address), "{}: no ping of {address}", from.name());
        let tcp = from.tcp_echo(*address, DATA);
        tcp.unwrap_or_else(|error| panic!("{} to {address}: {error}", from.name()));
    }
}

/// How long what must not come about is waited for.
const WHILE: Duration = Duration::from_millis(700);

/// Panics if the echo server at `address` is reached by ICMP, TCP or UDP.
#[track_caller]
pub(crate) fn apart(from: &Container, address: IpAddr) {
    let reached = std::thread::scope(|scope| {
        let ping = scope.spawn(|| {
            let ping = ["-n", "-q", "-c", "2", "-i", "0.2", "-W", "0.5", &address.to_string()];
            from.command("ping").args(ping).output().ok()
        });
        let tcp = scope.spawn(|| connects(from, address, rig::ECHO_PORT));
        let udp = scope.spawn(|| datagram(from, address));
        [("ICMP", ping), ("TCP", tcp), ("UDP", udp)].map(|(by, it)| (by, it.join().unwrap()))
    });
    for (by, reached) in reached {
        assert!(!reached, "{} reaches {address} by {by}", from.name());
    }
}

/// Panics if a connection comes about.
#[track_caller]
pub(crate) fn closed(from: &Container, address: IpAddr, port: u16) {
    assert!(!connects(from, address, port), "{} reaches {address}:{port}", from.name());
}

fn connects(from: &Container, address: IpAddr, port: u16) -> bool {
    let to = SocketAddr::new(address, port);
    from.inside(|| TcpStream::connect_timeout(&to, WHILE)).is_ok()
}

fn datagram(from: &Container, address: IpAddr) -> bool {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = from.inside(|| UdpSocket::bind(any)).unwrap();
    socket.set_read_timeout(Some(WHILE)).unwrap();
    // Where nothing leads there the kernel says so at once.
    socket.send_to(b"anybody?", SocketAddr::new(address, rig::ECHO_PORT)).is_ok()
        && socket.recv_from(&mut [0; 100]).is_ok()
}
