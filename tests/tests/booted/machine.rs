//! The booted machine of the rig proves itself before it judges anything else.

use std::path::Path;
use std::time::Duration;

use rig::{INTERNET, INTERNET6, Machine, assert_same, poll};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_machine_boots_talks_on_two_lans_and_reboots() {
    let mut machine = Machine::boot();
    let release = machine.sh(". /etc/os-release; echo $ID $VERSION_ID; ps -p 1 -o comm=");
    assert_eq!(release, "debian 13\nsystemd\n");
    assert_eq!(machine.as_user("id -un; test ! -w /etc").success().stdout, "user\n");
    for unit in ["NetworkManager", "dbus", "ovs-vswitchd", "ovsdb-server", "docker", "containerd"] {
        machine.sh(&format!("systemctl is-active {unit}"));
    }
    let before = machine.snapshot();
    assert!(before.section("links").iter().any(|link| link.starts_with("enp2s0")));
    assert_same(&before, &machine.snapshot());

    // Two LANs, each with a router that knows the internet, and other hosts.
    let network = machine.network();
    for lan in [machine.wired(), machine.wireless()] {
        let (own, gateway, interface) = (lan.address(10), lan.address(1), lan.interface());
        machine.sh(&format!(
            "ip link set {interface} up; ip address add {own}/24 dev {interface}; \
             ip -6 address add {}/64 dev {interface} nodad",
            lan.address6(10)
        ));
        poll("the LAN's router", SECOND * 10, || network.ping(gateway).then_some(()));
        let peer = lan.peer(machine.outside(), &format!("peer-{interface}"), 20);
        let _server = peer.echo_server();
        network.tcp_echo(lan.address(20), 1_000_000).unwrap();
        network.tcp_echo(lan.address6(20), 1_000_000).unwrap();
        peer.tcp_echo(lan.address(1), 100_000).unwrap();
    }
    machine.sh(&format!("ip route add default via {}", machine.wired().address(1)));
    machine.sh(&format!("ip -6 route add default via {}", machine.wired().address6(1)));
    network.tcp_echo(INTERNET, 100_000).unwrap();
    network.tcp_echo(INTERNET6, 100_000).unwrap();
    drop(network);

    let boot_id = "cat /proc/sys/kernel/random/boot_id";
    let first = machine.sh(boot_id);
    machine.sh("touch /run/gone /var/lib/stays; ovs-vsctl add-br br0 -- set bridge br0 datapath_type=netdev");
    assert_eq!(machine.reboot(), "running");
    assert_ne!(machine.sh(boot_id), first);
    machine.sh("test ! -e /run/gone; test -e /var/lib/stays; ovs-vsctl br-exists br0");
    assert!(machine.sh("ip -o address show dev enp2s0 scope global").is_empty());
    machine.sh("touch /var/lib/stays-too");
    assert_eq!(machine.crash(), "running");
    machine.sh("test -e /var/lib/stays-too; systemctl is-active docker");
}

#[test]
fn containers_of_docker_and_podman_run_in_a_machine_and_end_with_it() {
    let machine = Machine::boot();
    let image = machine.docker_image();
    machine.sh(&format!("docker run -d --name web {image}"));
    let web = machine.docker_container("web");
    assert!(web.ip("-o -4 address show dev eth0").contains("172.17.0.2/16"));
    let rootfs = machine.rootfs();
    let said = machine.sh(&format!("podman run --rm --rootfs {rootfs} echo hello from podman"));
    assert_eq!(said.trim(), "hello from podman");
    let pid: u32 = machine.sh("docker inspect -f '{{.State.Pid}}' web").trim().parse().unwrap();
    assert!(pid > 1);
    let path = web.path();
    assert!(path.exists());
    drop(machine);
    poll("the container lives", SECOND * 5, || (!path.exists()).then_some(()));
    assert!(!Path::new("/run/rig/machine").exists());
}
