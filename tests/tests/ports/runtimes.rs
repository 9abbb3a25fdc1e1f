//! Ports published by the runtimes themselves: one publisher behind all of them.

use rig::Podman;

use super::*;

/// TCP and UDP on 8007 of every address, and a port of the host alone on 8008.
const PORTS: &str = "-p 8007:7 -p 8007:7/udp -p 127.0.0.1:8008:7";

/// From the host, from a LAN peer, and not past the published port.
fn reached(lab: &Lab, container: &Container, own: IpAddr) {
    let _server = container.echo_server();
    let lan = [lab.wire.address(), lab.wire.address6()];
    for address in ["127.0.0.1", "::1"].map(ip).into_iter().chain(lan) {
        tcp_from_host(address, 8007).unwrap_or_else(|e| panic!("tcp, host to {address}: {e}"));
        udp_from_host(address, 8007).unwrap_or_else(|e| panic!("udp, host to {address}: {e}"));
    }
    for address in lan {
        lab.peer().tcp_echo_port(address, 8007, DATA).unwrap();
        udp_from(lab.peer(), address, 8007).unwrap();
        if address.is_ipv4() {
            container.tcp_echo_port(address, 8007, DATA).unwrap();
        }
        refused(lab.peer(), address, 8008);
    }
    tcp_from_host(ip("127.0.0.1"), 8008).unwrap();
    // A peer that routes to the container itself.
    lab.peer().ip(&format!("route replace {own}/32 via {}", lan[0]));
    for port in [rig::ECHO_PORT, 8007, 8008] {
        refused(lab.peer(), own, port);
    }
    lab.peer().ip(&format!("route delete {own}/32"));
}

fn gone(lab: &Lab) {
    poll("the ports are given back", SOON, || {
        lab.host.sh("ls /run/ovs-port-agent/ports").is_empty().then_some(())
    });
    refused(lab.peer(), lab.wire.address(), 8007);
    assert!(tcp_from_host(ip("127.0.0.1"), 8007).is_err());
}

fn address(container: &Container) -> IpAddr {
    let text = container.ip("-o -4 address show dev eth0 scope global");
    let word = text.split_whitespace().nth(3).unwrap_or_else(|| panic!("no address: {text}"));
    word.split('/').next().unwrap().parse().unwrap()
}

#[test]
fn podman_4() {
    let host = Host::new();
    let podman = host.podman();
    assert!(podman.version().0 < 5, "Podman 5 has no CNI: run this on Debian 12");
    host.install_plugin();
    let lab = Lab::of(host);
    podman_publishes(&lab, &podman, "--network ovs-agent");
}

#[test]
fn podman_5() {
    let host = Host::new();
    let podman = host.podman5();
    let lab = Lab::of(host);
    podman.run("network create -d ovs-agent pool");
    podman.run("network create -d ovs-agent --subnet 10.30.0.0/24 -o vlan=30 blue");
    podman_publishes(&lab, &podman, "--network blue");
    podman_publishes(&lab, &podman, "--network pool");
    // Both at once: Podman tells each network about the ports.
    podman_publishes(&lab, &podman, "--network pool --network blue");
    // A range.
    let web = podman.start("web", "--network pool -p 9005-9007:5-7");
    let server = web.echo_server();
    tcp_from_host(ip("127.0.0.1"), 9007).unwrap();
    lab.peer().tcp_echo_port(lab.wire.address(), 9007, DATA).unwrap();
    drop(server);
    podman.run("rm -f -t 0 web");
    gone(&lab);
}

/// What Podman itself makes of its own sockets and of several networks.
#[test]
fn podman_5_beside_others() {
    let host = Host::new();
    let podman = host.podman5();
    host.config(
        "[[bridge]]\nname = \"ovsbr1\"\nmode = \"nat\"\naddresses = [\"10.200.0.1/24\"]\n\
         [[bridge]]\nname = \"ovsbr0\"\nmode = \"direct\"\naddresses = [\"198.18.7.10/24\"]\n",
    );
    let lab = Lab::of(host);
    podman.run("network create -d ovs-agent pool");
    let island = "--internal --subnet 10.31.0.0/24 -o vlan=31 island";
    podman.run(&format!("network create -d ovs-agent {island}"));
    // Nobody is reached on an island, and the container starts.
    let web = podman.start("web", "--network island --network pool -p 8007:7 -p 127.0.0.2:8009:7");
    let server = web.echo_server();
    lab.peer().tcp_echo_port(lab.wire.address(), 8007, DATA).unwrap();
    // One loopback address is not another.
    tcp_from_host(ip("127.0.0.2"), 8009).unwrap();
    assert!(tcp_from_host(ip("127.0.0.1"), 8009).is_err());
    drop(server);
    podman.run("rm -f -t 0 web");
    gone(&lab);

    // A sender that never pauses finds the container again after its restart.
    let run = "--network pool -p 8007:7/udp";
    let web = podman.start("web", run);
    let server = web.echo_server();
    let called = SocketAddr::new(lab.wire.address(), 8007);
    let sender = lab.peer().inside(|| udp_socket(called.ip())).unwrap();
    rig::udp_exchange(&sender, called).unwrap();
    drop(server);
    podman.run("rm -f -t 0 web");
    sender.send_to(b"nobody is there", called).unwrap();
    let web = podman.start("web", run);
    let server = web.echo_server();
    rig::udp_exchange(&sender, called).unwrap();
    drop(server);
    podman.run("rm -f -t 0 web");
    gone(&lab);

    // On the wire beside the host, Podman's own socket would be all there is.
    podman.run(
        "network create -d ovs-agent --interface-name ovsbr0 --subnet 198.18.7.0/24 \
         --gateway 198.18.7.1 --ip-range 198.18.7.100-198.18.7.110 lan",
    );
    let root = podman.rootfs();
    let beside =
        podman.output(&format!("run -d --name beside --network lan -p 8007:7 {root} sleep 1000"));
    assert!(!beside.ok() && beside.stderr.contains("the host is not its gateway"), "{beside}");
    podman.output("rm -f -t 0 beside");
    gone(&lab);
}

fn podman_publishes(lab: &Lab, podman: &Podman, network: &str) {
    let web = podman.start("web", &format!("{network} {PORTS}"));
    reached(lab, &web, address(&web));
    let root = podman.rootfs();
    let late = podman.output(&format!("run -d --name late {network} -p 8007:7 {root} sleep 1000"));
    // Podman binds ports itself: version 5 before it asks us, version 4 after.
    let (ours, theirs) = ("8007:7/tcp cannot be published: web has", "address already in use");
    let said = [ours, theirs].iter().any(|words| late.stderr.contains(words));
    assert!(!late.ok() && said, "{late}");
    podman.output("rm -f -t 0 late");
    if !network.contains("blue") {
        podman.run("network reload web");
        reached(lab, &web, address(&web));
    }
    podman.run("rm -f -t 0 web");
    gone(lab);
}

#[test]
fn docker() {
    let host = Host::new();
    host.unified_cgroups();
    let lab = Lab::of(host);
    let _driver = lab.host.docker_driver();
    let docker = lab.host.dockerd();
    docker.load();
    docker.run("network create -d ovs-agent web");
    let web = docker.start_container("web", &format!("--network web {PORTS} -p 9001-9009:7"));
    let own = docker.address("web", "web");
    reached(&lab, &web, own);
    let server = web.echo_server();
    tcp_from_host(ip("127.0.0.1"), 9001).unwrap();
    let image = rig::Dockerd::IMAGE;
    let late = docker.output(&format!("run -d --name next --network web -p 8007:7 {image}"));
    assert!(late.stderr.contains("8007:7/tcp cannot be published: "), "{late}");
    docker.output("rm -f next");
    let listed = lab.host.port_agent().run("status");
    assert!(listed.contains("*:8007") && listed.contains("127.0.0.1:8008"), "{listed}");
    drop(server);

    // Docker's own restart, and its rules with it.
    docker.run("rm -f web");
    gone(&lab);
    let web = docker.start_container("web", &format!("--network web --restart always {PORTS}"));
    reached(&lab, &web, docker.address("web", "web"));
    docker.stop();
    let docker = lab.host.dockerd();
    poll("the container is up again", SOON * 3, || {
        let running = docker.output("inspect -f {{.State.Running}} web");
        (running.stdout.trim() == "true").then_some(())
    });
    let web = docker.container("web");
    reached(&lab, &web, docker.address("web", "web"));
    docker.run("rm -f web");
    gone(&lab);
}
