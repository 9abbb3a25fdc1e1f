//! Docker, Podman and a CNI runtime on one booted Debian 13 host: one pool, one status, one network.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use rig::{Container, INTERNET, Machine, poll};
use serde_json::{Value, json};

/// The host's address on the LAN that the NAT bridge leaves through.
const OWN: &str = "192.168.4.10";

/// A machine with everything installed, its way out through `wlp4s0`.
fn machine() -> Machine {
    let machine = Machine::boot();
    let lan = machine.wireless();
    machine.sh(&format!(
        "ip link set {0} up; ip address add {OWN}/24 dev {0}; ip route add default via {1}",
        lan.interface(),
        lan.address(1)
    ));
    machine.install("");
    machine
}

fn address(container: &Container) -> IpAddr {
    let text = container.ip("-o -4 address show dev eth0 scope global");
    let word = text.split_whitespace().nth(3).unwrap_or_else(|| panic!("no address: {text}"));
    word.split('/').next().unwrap().parse().unwrap()
}

/// Runtimes and addresses that status knows.
fn known(machine: &Machine) -> BTreeSet<(String, String)> {
    let status = machine.status();
    let all = status["attachments"].as_array().unwrap_or_else(|| panic!("{status}")).clone();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    all.iter()
        .map(|one| {
            let list = one["addresses"].to_string();
            let address = list.split(['"', '/']).find(|part| part.parse::<IpAddr>().is_ok());
            (text(&one["runtime"]), address.unwrap_or_default().to_owned())
        })
        .collect()
}

#[test]
fn three_runtimes_share_one_pool_and_reach_each_other() {
    let mut machine = machine();
    let image = machine.docker_image();
    machine.sh(
        "docker network create -d ovs-agent --ipam-driver ovs-agent --subnet 10.200.0.0/24 shared
         podman network create -d ovs-agent pool
         ip netns add cni",
    );
    machine.sh(&format!("docker run -d --name whale --network shared {image}"));
    let rootfs = machine.rootfs();
    let podman = format!("podman run -d --name seal --network pool --rootfs {rootfs} sleep 100000");
    machine.sh(&podman);
    let conf = json!({"cniVersion": "1.0.0", "name": "cni", "type": "ovs-agent"});
    machine.cni("ADD", "cni", &conf);

    let all = [
        ("docker", machine.docker_container("whale")),
        ("podman", machine.podman_container("seal")),
        ("cni", machine.netns("cni", "/run/netns/cni")),
    ];
    let given: BTreeSet<_> = all
        .iter()
        .map(|(runtime, one)| ((*runtime).to_owned(), address(one).to_string()))
        .collect();
    let once: BTreeSet<_> = given.iter().map(|(_, address)| address).collect();
    assert!(once.len() == 3 && once.iter().all(|ip| ip.starts_with("10.200.0.")), "{given:?}");
    assert_eq!(known(&machine), given);

    let servers: Vec<_> = all.iter().map(|(_, one)| one.echo_server()).collect();
    for (from, one) in &all {
        for (to, other) in all.iter().filter(|(to, _)| to != from) {
            one.tcp_echo(address(other), 1_000_000)
                .unwrap_or_else(|error| panic!("from {from} to {to}: {error}"));
        }
        let seen = poll("a way out", Duration::from_secs(15), || one.who_answers(INTERNET).ok());
        assert_eq!(seen.1, OWN.parse::<IpAddr>().unwrap(), "{from}");
    }
    drop(servers);
    // What one has, no other gets, and is told who has it.
    let taken = address(&all[0].1);
    let refused = machine
        .try_sh(&format!("podman run --rm --network pool:ip={taken} --rootfs {rootfs} true"));
    assert!(!refused.ok() && refused.stderr.contains("is held by"), "{refused}");

    // A reboot: nobody has anything, and each starts again.
    drop(all);
    machine.reboot();
    let up = "systemctl is-active ovs-port-agent docker";
    machine.wait("the units", Duration::from_secs(60), up);
    assert_eq!(known(&machine), BTreeSet::new());
    machine.sh("podman start seal; docker start whale");
    let (whale, seal) = (machine.docker_container("whale"), machine.podman_container("seal"));
    assert_ne!(address(&whale), address(&seal));
    let server = seal.echo_server();
    whale.tcp_echo(address(&seal), 1_000_000).unwrap();
    drop(server);
    machine.sh("podman rm -f -t 0 seal; docker rm -f whale");
    assert_eq!(known(&machine), BTreeSet::new());
}

/// Quadlet as systemd runs it: the units of the examples, started and stopped.
#[test]
fn the_quadlet_examples_are_units_of_a_booted_host() {
    let machine = machine();
    let image = machine.docker_image();
    machine.sh("podman load -q -i /usr/src/image.tar");
    for file in ["pool.network", "blue.network", "web.container"] {
        let text = machine.sh(&format!("cat /usr/src/ovs-agent/examples/podman/{file}"));
        let text = text.replace("docker.io/library/busybox", image);
        machine.write(&format!("/etc/containers/systemd/{file}"), &text);
    }
    machine.sh("systemctl daemon-reload; systemctl start web.service");
    let web = machine.podman_container("web");
    assert_eq!(address(&web).to_string(), "10.30.0.50");
    let seen = poll("a way out", Duration::from_secs(15), || web.who_answers(INTERNET).ok());
    assert_eq!(seen.1, OWN.parse::<IpAddr>().unwrap());
    machine.sh("systemctl restart web.service");
    assert_eq!(address(&machine.podman_container("web")).to_string(), "10.30.0.50");
    machine.sh("systemctl stop web.service blue-network.service");
    assert_eq!(known(&machine), BTreeSet::new());
}
