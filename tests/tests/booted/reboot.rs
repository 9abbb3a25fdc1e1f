//! What a reboot must bring back, and what it must not.

use rig::{INTERNET, INTERNET6, Machine, poll};

use super::{CONFIG, SECOND, WIRELESS, active_since, plug, users_machine};

/// How many host ends of containers there are.
fn host_ends(machine: &Machine) -> usize {
    machine.sh("ip -o link show group 28534").lines().count()
}

/// Bridges, addresses, NAT and forwarding are there and in use.
fn whole(machine: &Machine) {
    let network = machine.network();
    poll("the wire behind ovsbr0", SECOND * 10, || {
        network.ping(machine.wired().address(1)).then_some(())
    });
    let addresses = machine.sh("ip -o -4 address show");
    assert!(addresses.contains("ovsbr0") && addresses.contains("172.16.0.10/24"), "{addresses}");
    assert!(!addresses.contains(" enp2s0 "), "{addresses}");
    let (web, _) = plug(machine, "web");
    let seen = poll("a way out through wlp4s0", SECOND * 15, || web.who_answers(INTERNET).ok());
    assert_eq!(seen, ("lan-wlp4s0".to_owned(), WIRELESS));
    web.tcp_echo(INTERNET, 2_000_000).unwrap();
    poll("a way out for IPv6", SECOND * 15, || web.tcp_echo(INTERNET6, 1_000_000).ok());
    web.tcp_echo(machine.wired().address(1), 100_000).unwrap_err();
    let status = machine.status();
    let health = status["health"].as_array().unwrap();
    assert!(health.iter().all(|part| part["ok"] == true), "{status}");
}

#[test]
fn bridges_addresses_nat_and_forwarding_come_back_and_nothing_of_the_old_boot() {
    let mut machine = users_machine();
    machine.install(CONFIG);
    whole(&machine);
    assert_eq!(host_ends(&machine), 1);
    for state in [Machine::reboot, Machine::crash] {
        assert_eq!(machine.sh("ls /run/ovs-port-agent/attachments | wc -l"), "1\n");
        assert_eq!(state(&mut machine), "running");
        assert_eq!(machine.status()["attachments"], serde_json::json!([]));
        assert_eq!(host_ends(&machine), 0);
        let ports = machine.sh("ovs-vsctl list-ports ovsbr1");
        assert_eq!(ports, "", "a port of the old boot");
        assert!(!machine.read("/etc/network/interfaces").contains("veth-web"));
        let agent = active_since(&machine, "ovs-port-agent");
        for later in ["docker", "containerd", "ovs-agent-docker"] {
            let since = active_since(&machine, later);
            assert!(agent < since, "{later} at {since} s, ovs-port-agent at {agent} s");
        }
        whole(&machine);
    }
    machine.sh("ovs-port-agent ledger verify");
}

#[test]
fn containers_that_docker_restarts_have_network_after_a_reboot() {
    let mut machine = users_machine();
    machine.install(CONFIG);
    let image = machine.docker_image();
    machine.sh(&format!(
        "docker network create -d ovs-agent web
         docker network create -d ovs-agent --ipam-driver ovs-agent --subnet 10.200.0.0/24 pool
         for n in one two; do
             docker run -d --restart=always --network web --name $n {image}
         done
         docker run -d --restart=always --network pool --name three {image}
         docker run -d --network pool --name four {image}"
    ));
    let look = |machine: &Machine| {
        let [one, two, three] = ["one", "two", "three"].map(|name| machine.docker_container(name));
        let address = machine
            .sh("docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' two");
        let address = address.trim().parse().unwrap();
        let _server = two.echo_server();
        poll("one reaches two", SECOND * 20, || one.tcp_echo(address, 100_000).ok());
        one.tcp_echo(address, 2_000_000).unwrap();
        for container in [&one, &three] {
            poll("a way out", SECOND * 15, || container.tcp_echo(INTERNET, 100_000).ok());
            assert_eq!(container.who_answers(INTERNET).unwrap().1, WIRELESS);
        }
        three.tcp_echo(address, 1000).unwrap_err();
    };
    look(&machine);
    assert_eq!(host_ends(&machine), 4);
    let ids = machine.sh("docker ps -q --no-trunc --filter name='one|two|three' | sort");
    for state in [Machine::reboot, Machine::crash] {
        assert_eq!(state(&mut machine), "running");
        machine.wait("Docker's containers", SECOND * 30, "[ $(docker ps -q | wc -l) = 3 ]");
        let now = machine.sh("docker ps -q --no-trunc --filter name='one|two|three' | sort");
        assert_eq!(now, ids, "not the same containers");
        look(&machine);
        // What the old boot had: its ports, host ends, leases, records.
        let clean = "[ $(ip -o link show group 28534 | wc -l) = 3 ] && \
                     [ $(ovs-vsctl list-ports ovsbr1 | grep -c veth) = 3 ]";
        machine.wait("only what runs is left", SECOND * 60, clean);
        let status = machine.status();
        let attachments = status["attachments"].as_array().unwrap();
        assert_eq!(attachments.len(), 3, "{status}");
    }
    machine.sh("docker rm -f one two three four
         docker network rm web pool");
    assert_eq!(host_ends(&machine), 0);
    assert_eq!(machine.sh("ovs-vsctl list-ports ovsbr1"), "");
    assert_eq!(
        machine.sh("find /run/ovs-port-agent/leases -type f | grep -vc '/[.]' || true").trim(),
        "0"
    );
    machine.sh("ovs-port-agent ledger verify");
}
