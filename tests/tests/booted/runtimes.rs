//! Containers of Docker, Podman and CNI live on while the daemons around them come and go.

use std::net::IpAddr;

use rig::{Container, INTERNET, Machine, poll};

use super::{CONFIG, SECOND, WIRELESS, plug, users_machine};

/// The first address of `eth0` inside.
fn address(container: &Container) -> IpAddr {
    let text = container.ip("-o -4 address show dev eth0");
    let net = text.split_whitespace().nth(3).and_then(|net| net.split('/').next());
    net.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no address: {text}"))
}

/// A container of each runtime on the NAT bridge's own pool.
fn three(machine: &Machine) -> [(Container, IpAddr); 3] {
    let (image, rootfs) = (machine.docker_image(), machine.rootfs());
    machine.sh(&format!(
        "docker network create -d ovs-agent --ipam-driver ovs-agent pool
         docker run -d --name docked --network pool {image}
         podman network create -d ovs-agent pool
         podman run -d --name podded --network pool --rootfs {rootfs} sleep 100000"
    ));
    let (docked, podded) = (machine.docker_container("docked"), machine.podman_container("podded"));
    let (at, pt) = (address(&docked), address(&podded));
    [plug(machine, "plain"), (docked, at), (podded, pt)]
}

#[test]
fn containers_live_through_the_daemons_around_them() {
    let machine = users_machine();
    machine.install(CONFIG);
    let containers = three(&machine);
    let _servers: Vec<_> = containers.iter().map(|(one, _)| one.echo_server()).collect();
    let talk = |what: &str| {
        for (at, (one, _)) in containers.iter().enumerate() {
            let (_, other) = &containers[(at + 1) % containers.len()];
            poll(&format!("{}'s neighbour after {what}", one.name()), SECOND * 15, || {
                one.tcp_echo(*other, 100_000).ok()
            });
            poll(&format!("{}'s way out after {what}", one.name()), SECOND * 15, || {
                one.tcp_echo(INTERNET, 100_000).ok()
            });
            assert_eq!(one.who_answers(INTERNET).unwrap().1, WIRELESS, "after {what}");
        }
    };
    talk("the start");
    for (what, script) in [
        ("a restart of Open vSwitch", "systemctl restart openvswitch-switch"),
        ("a restart of ovs-vswitchd", "systemctl restart ovs-vswitchd"),
        ("a crash of ovs-vswitchd", "kill -9 $(pidof ovs-vswitchd)"),
        ("a crash of ovsdb-server", "kill -9 $(pidof ovsdb-server)"),
        ("a crash of the agent", "systemctl kill -s KILL ovs-port-agent"),
        ("a crash of the Docker driver", "systemctl kill -s KILL ovs-agent-docker"),
        ("a firewall's start", "systemctl start firewalld"),
        ("a firewall's reload", "firewall-cmd --reload"),
        ("a firewall's end", "systemctl stop firewalld"),
    ] {
        machine.sh(script);
        talk(what);
    }
}
