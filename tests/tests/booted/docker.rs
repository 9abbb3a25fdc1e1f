//! A user's day with Docker 26 and its own client.

use rig::{INTERNET, Machine, assert_same};

use super::{CONFIG, SECOND, WIRELESS, plug, users_machine};

/// Panics unless the command fails, and with these words.
#[track_caller]
fn refused(machine: &Machine, command: &str, words: &[&str]) {
    let output = machine.try_sh(command);
    assert!(!output.ok(), "{output}");
    for word in words {
        assert!(output.stderr.contains(word), "{word} is not said: {output}");
    }
}

#[test]
fn a_day_with_docker_26() {
    let machine = users_machine();
    machine.install(CONFIG);
    let image = machine.docker_image();
    let inspect = |name: &str, path: &str| {
        machine.sh(&format!("docker inspect -f '{{{{{path}}}}}' {name}")).trim().to_owned()
    };
    let address = |network: &str, name: &str| {
        let path = format!("(index .NetworkSettings.Networks \"{network}\").IPAddress");
        inspect(name, &path).parse().unwrap()
    };
    // What both leave behind once and for all: a directory, a chain.
    machine.sh("ip netns add warm; ip netns del warm
                docker network create -d ovs-agent warm; docker network rm warm");
    let before = machine.snapshot();
    machine.sh("docker network create -d ovs-agent web
         docker network create -d ovs-agent --subnet 10.30.0.0/24 --gateway 10.30.0.254 \
             --ip-range 10.30.0.64/28 --aux-address printer=10.30.0.65 -o vlan=30 -o mtu=1400 lan
         docker network create -d ovs-agent --internal --subnet 10.77.0.0/24 vault
         docker network create -d ovs-agent --ipv6 --subnet fd00:31::/64 --subnet 10.31.0.0/24 six
         docker network create -d ovs-agent --ipam-driver ovs-agent shared
         docker network create -d ovs-agent --ipam-driver null plain
         docker network create -d ovs-agent -o nat=false routed
         docker network create -d ovs-agent -o bridge=ovsbr0 --ipam-driver ovs-agent \
             --subnet 172.16.0.0/24 --ip-range 172.16.0.128/28 --gateway 172.16.0.1 real");
    machine.sh(&format!(
        "docker run -d --name one --network lan --ip 10.30.0.9 --mac-address 02:42:0a:1e:00:99 {image}
         docker run -d --name two --network lan --network-alias second {image}
         docker run -d --name three --network name=web,driver-opt=mtu=1280 -p 8080:7 \
             -p 127.0.0.1:8081:7 -p 8082:7/udp {image}
         docker run -d --name four --network shared {image}
         docker run -d --name five --network real {image}
         docker run -d --name six --network six {image}
         docker run -d --name seven --network vault {image}
         docker run -d --name eight --network plain {image}
         docker run -d --name nine --network lan --network vault {image}"
    ));
    let [one, two, three, four, five, six, seven, eight] =
        ["one", "two", "three", "four", "five", "six", "seven", "eight"]
            .map(|name| machine.docker_container(name));
    // What was asked for.
    assert_eq!(one.mac("eth0"), [0x02, 0x42, 0x0a, 0x1e, 0x00, 0x99]);
    assert!(one.ip("-o address").contains("10.30.0.9/24"));
    assert!(one.ip("route").contains("default via 10.30.0.254"));
    assert!(two.ip("-o link show eth0").contains("mtu 1400"));
    assert!(two.ip("-o address").contains("10.30.0.64/24"), "the range, less what is reserved");
    assert!(three.ip("-o link show eth0").contains("mtu 1280"));
    assert_eq!(eight.ip("-o -4 address show eth0"), "");
    // Names.
    machine.sh("docker exec one ping -c 1 -W 2 two; docker exec one ping -c 1 -W 2 second
                docker exec nine ping -c 1 -W 2 one; docker exec nine ping -c 1 -W 2 seven");
    // Traffic where it is meant to go, and nowhere else.
    let _server = two.echo_server();
    one.tcp_echo(address("lan", "two"), 1 << 20).unwrap();
    for container in [&one, &three, &four, &six] {
        assert_eq!(container.who_answers(INTERNET).unwrap().1, WIRELESS);
    }
    assert_eq!(five.who_answers(machine.wired().address(1)).unwrap().1, address("real", "five"));
    assert!(!seven.ping(INTERNET) && !three.ping(address("lan", "two")));
    let (pod, pod_address) = plug(&machine, "pod");
    let _pod = pod.echo_server();
    four.tcp_echo(pod_address, 1 << 20).unwrap();
    assert!(six.ping("fd00:31::1".parse().unwrap()));
    // Published ports: from the host, from the LAN, and no further than was said.
    let _web = three.echo_server();
    let (host, peer) = (machine.network(), machine.wireless().router());
    host.tcp_echo_port("127.0.0.1".parse().unwrap(), 8080, 100_000).unwrap();
    host.tcp_echo_port("127.0.0.1".parse().unwrap(), 8081, 100_000).unwrap();
    peer.tcp_echo_port(WIRELESS, 8080, 100_000).unwrap();
    peer.connect(WIRELESS, 8081).unwrap_err();
    let taken = format!("docker run --rm --network web -p 8080:80 {image} true");
    refused(&machine, &taken, &["8080:80/tcp cannot be published"]);
    // A second network while it runs.
    machine.sh("docker network connect --ip 10.30.0.44 lan three");
    machine.sh("docker exec three ping -c 1 -W 2 two; docker network disconnect lan three");
    assert!(!three.ping(address("lan", "two")));
    // What Docker and the host call them.
    machine.wait("names in status", SECOND * 10, "ovs-port-agent status | grep -q 'nine.*vault'");
    assert!(inspect("lan", "json .Options").contains(r#""vlan":"30""#));
    // Comings and goings.
    drop((one, two, three, four, six, seven, eight));
    machine.sh("docker restart -t 0 one; docker kill two; docker start two; docker stop -t 0 nine
                docker start nine; docker exec nine ping -c 1 -W 2 two
                docker exec nine ping -c 1 -W 2 seven; docker exec one ping -c 1 -W 2 two");
    // Both daemons are restarted, together and alone.
    machine.sh("systemctl restart ovs-agent-docker; docker restart -t 0 two
                docker exec one ping -c 1 -W 2 two");
    machine.sh("systemctl kill -s KILL ovs-agent-docker; docker restart -t 0 two
                docker exec one ping -c 1 -W 2 two");
    for (options, words) in [
        ("-o vlan=5000", ["-o vlan", "4094"]),
        ("-o parent=eth0", ["-o parent", "bridge, vlan, mtu and nat"]),
        ("-o vlan=30", ["-o vlan", "in use"]),
        ("--subnet 10.200.0.0/24", ["10.200.0.0/24", "--ipam-driver ovs-agent"]),
        ("-o bridge=ovsbr0", ["no range", "--ip-range"]),
    ] {
        refused(&machine, &format!("docker network create -d ovs-agent {options} bad"), &words);
    }
    machine.cni("DEL", "pod", &super::lab());
    drop((five, pod));
    machine.sh("ip netns del pod
                docker rm -f one two three four five six seven eight nine
                docker network rm web lan vault six shared plain routed real");
    let shown = "! grep -q veth- /etc/network/interfaces";
    machine.wait("the managed block shows nothing", SECOND * 10, shown);
    assert_same(&before, &machine.snapshot());
    let log = machine.journal("ovs-agent-docker");
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
fn live_restore_with_docker_26() {
    let machine = users_machine();
    machine.write("/etc/docker/daemon.json", "{\"live-restore\": true}");
    machine.install(CONFIG);
    machine.sh("systemctl restart docker");
    let image = machine.docker_image();
    machine.sh(&format!(
        "docker network create -d ovs-agent web
         docker network create -d ovs-agent --ipam-driver ovs-agent shared
         docker run -d --restart=always --name one --network web {image}
         docker run -d --restart=always --name two --network web {image}
         docker run -d --restart=always --name three --network shared {image}"
    ));
    let pids = || machine.sh("docker inspect -f '{{.State.Pid}}' one two three");
    let same = pids();
    let (one, two) = (machine.docker_container("one"), machine.docker_container("two"));
    let there = machine.sh("docker inspect -f '{{.NetworkSettings.Networks.web.IPAddress}}' two");
    let there = there.trim().parse().unwrap();
    let _server = two.echo_server();
    for how in ["stop docker.socket docker", "kill -s KILL --kill-whom=main docker"] {
        machine.sh(&format!("systemctl {how}; systemctl restart ovs-agent-docker"));
        one.tcp_echo(there, 1 << 20).unwrap();
        // Started that often, systemd would wait ten seconds.
        machine.sh("systemctl reset-failed; systemctl start docker.socket docker");
        machine.wait("dockerd", SECOND * 60, "docker info");
        assert_eq!(pids(), same);
        one.tcp_echo(there, 1 << 20).unwrap();
        assert_eq!(one.who_answers(INTERNET).unwrap().1, WIRELESS);
        machine.sh(&format!("docker run --rm --network shared {image} true"));
    }
    drop((one, two));
    machine.sh("docker rm -f one two three; docker network rm web shared");
    assert_eq!(machine.sh("ip -o link show group 28534"), "");
    assert_eq!(machine.sh("ovs-vsctl list-ports ovsbr1"), "");
}
