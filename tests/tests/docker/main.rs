//! Networks of a real dockerd on the Docker driver.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod compose;
mod day;
mod names;
mod ports;
mod survival;

use std::net::IpAddr;

use rig::{DockerDriver, Dockerd, Host, INTERNET, Snapshot};
use serde_json::json;

/// Brings a host up, with a driver and a dockerd that has an image.
fn up(host: &Host) -> (DockerDriver, Dockerd) {
    host.unified_cgroups();
    host.port_agent().run("up");
    let driver = host.docker_driver();
    let docker = host.dockerd();
    docker.load();
    // As at every boot: Docker's chain is there now, and our rule moves into it.
    host.port_agent().run("up");
    (driver, docker)
}

/// The same on a host without uplink.
fn host() -> (Host, DockerDriver, Dockerd) {
    let host = Host::new();
    let (driver, docker) = up(&host);
    (host, driver, docker)
}

/// What is different from before; where our table stands among others' is not.
fn difference(before: &Snapshot, host: &Host) -> String {
    let text = before.difference(&host.snapshot());
    text.lines().filter(|line| !line.ends_with("same lines in another order")).collect()
}

#[track_caller]
fn nothing_left(before: &Snapshot, host: &Host) {
    let difference = difference(before, host);
    assert!(difference.is_empty(), "the host is not as it was: {difference}");
}

#[test]
fn a_users_first_session() {
    let (host, driver, docker) = host();
    let before = host.snapshot();
    docker.run("network create -d ovs-agent web");
    let (one, two) = (
        docker.start_container("one", "--network web"),
        docker.start_container("two", "--network web"),
    );
    let to = docker.address("web", "two");
    let _server = two.echo_server();
    assert!(one.ping(to), "{}", driver.log());
    one.tcp_echo(to, 1 << 20).unwrap();
    one.udp_echo(to).unwrap();
    docker.run("exec one ping -c 1 -W 2 two");
    docker.run("rm -f one two");
    docker.run("network rm web");
    drop((one, two));
    nothing_left(&before, &host);
}

/// Panics unless the command fails, and with these words.
#[track_caller]
fn refused(docker: &Dockerd, args: &str, words: &[&str]) {
    let output = docker.output(args);
    assert!(!output.ok(), "{output}");
    for word in words {
        assert!(output.stderr.contains(word), "{word} is not said: {output}");
    }
}

#[test]
fn containers_reach_the_internet_and_networks_are_apart() {
    let host = Host::new();
    let uplink = host.uplink("wlp4s0", 1).addressed(&host).routed(&host, 100);
    let (_driver, docker) = up(&host);
    docker.run("network create -d ovs-agent web");
    docker.run("network create -d ovs-agent db");
    docker.run(
        "network create -d ovs-agent --internal --subnet 10.77.0.0/24 -o vlan=77 -o mtu=1400 vault",
    );
    docker.run("network create -d ovs-agent -o nat=false routed");
    let one = docker.start_container("one", "--network web");
    let two = docker.start_container("two", "--network db");
    let three = docker.start_container("three", "--network vault");
    let _four = docker.start_container("four", "--network vault");
    let five = docker.start_container("five", "--network routed");
    for container in [&one, &two] {
        let (_, seen) = container.who_answers(INTERNET).unwrap();
        assert_eq!(seen, uplink.address(), "masqueraded");
        container.tcp_echo(INTERNET, 1 << 20).unwrap();
    }
    assert!(!five.ping(INTERNET), "an address that is not masqueraded got an answer");
    assert!(five.ping(uplink.address()), "the host routes for it");
    let (db, vault) = (docker.address("db", "two"), docker.address("vault", "four"));
    assert!(!one.ping(db), "a network reaches another");
    assert!(!one.ping(vault) && !three.ping(db) && !three.ping(INTERNET));
    assert!(three.ping(vault));
    // No second interface with a way out of its own.
    for container in [&one, &three] {
        assert_eq!(container.ip("-o link").lines().count(), 2);
    }
    docker.run("network connect db one");
    assert!(one.ping(db), "connected while it runs");
    docker.run("exec one ping -c 1 -W 2 two");
    docker.run("network disconnect db one");
    assert!(!one.ping(db) && one.ping(INTERNET));
}

#[test]
fn what_a_user_asks_for_is_what_there_is() {
    let (host, _driver, docker) = host();
    docker.run(
        "network create -d ovs-agent --subnet 10.30.0.0/24 --gateway 10.30.0.254 --ip-range \
         10.30.0.64/28 --aux-address printer=10.30.0.65 -o vlan=30 -o mtu=1400 lan",
    );
    // Over the API: newer clients send no --mac-address to a dockerd as old as Debian 12's.
    let create = json!({
        "Image": Dockerd::IMAGE,
        "MacAddress": "02:42:0a:1e:00:99",
        "HostConfig": {"NetworkMode": "lan"},
        "NetworkingConfig": {
            "EndpointsConfig": {"lan": {"IPAMConfig": {"IPv4Address": "10.30.0.9"}}}
        },
    });
    host.sh(&format!(
        "curl -sSf --unix-socket /run/docker.sock -H 'Content-Type: application/json' -d '{create}' \
         'http://docker/v1.41/containers/create?name=one'"
    ));
    docker.run("start one");
    let one = docker.container("one");
    let two = docker.start_container("two", "--network lan");
    assert_eq!(
        docker.inspect("one", ".NetworkSettings.Networks.lan.MacAddress"),
        "02:42:0a:1e:00:99"
    );
    assert_eq!(one.mac("eth0"), [0x02, 0x42, 0x0a, 0x1e, 0x00, 0x99]);
    assert!(one.ip("-o link show eth0").contains("mtu 1400"));
    assert!(one.ip("route").contains("default via 10.30.0.254"));
    let given: IpAddr = docker.address("lan", "two");
    assert_eq!(given.to_string(), "10.30.0.64", "the range, less what is reserved");
    assert!(two.ping("10.30.0.9".parse().unwrap()) && two.ping("10.30.0.254".parse().unwrap()));
    refused(&docker, "run -d --network lan --ip 10.30.0.9 localhost/rig:1", &["in use"]);
    // No agent runs here.
    refused(
        &docker,
        "run -d --network lan -p 8080:80 localhost/rig:1",
        &["ovs-port-agent; start it"],
    );
    refused(&docker, "network create -d ovs-agent -o vlan=30 other", &["-o vlan", "in use"]);
    refused(
        &docker,
        "network create -d ovs-agent -o vlna=31 other",
        &["-o vlna", "use bridge, vlan"],
    );
    refused(
        &docker,
        "network create -d ovs-agent --subnet 10.200.0.0/24 other",
        &["--ipam-driver ovs-agent"],
    );
    refused(&docker, "network create -d ovs-agent -o bridge=ovsbr0 other", &["--ip-range"]);
    docker.run("network create -d ovs-agent --ipam-driver null plain");
    let three = docker.start_container("three", "--network plain");
    assert_eq!(three.ip("-o -4 address show eth0"), "");
    docker
        .run("network create -d ovs-agent --ipv6 --subnet fd00:30::/64 --subnet 10.31.0.0/24 six");
    let (four, five) = (
        docker.start_container("four", "--network six"),
        docker.start_container("five", "--network six"),
    );
    let six = docker.inspect("five", ".NetworkSettings.Networks.six.GlobalIPv6Address");
    let _server = five.echo_server();
    assert!(four.ping(six.parse().unwrap()));
    four.tcp_echo(six.parse().unwrap(), 1 << 20).unwrap();
    assert!(four.ip("-6 route").contains("default via fd00:30::1"));
}

#[test]
fn a_network_of_the_bridges_own_subnet_is_shared_with_cni() {
    let (host, _driver, docker) = host();
    docker.run("network create -d ovs-agent --ipam-driver ovs-agent --subnet 10.200.0.0/24 shared");
    let before = host.snapshot();
    let conf = json!({"cniVersion": "1.0.0", "name": "lab", "type": "ovs-agent"});
    let pod = host.container("pod");
    let result = host.plugin().add(&pod, &conf).success();
    let cni = result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
    let one = docker.start_container("one", "--network shared");
    let docker_address = docker.address("shared", "one");
    assert_ne!(docker_address.to_string(), cni);
    let (_here, _there) = (one.echo_server(), pod.echo_server());
    one.tcp_echo(cni.parse().unwrap(), 1 << 20).unwrap();
    pod.tcp_echo(docker_address, 1 << 20).unwrap();
    refused(
        &docker,
        &format!("run -d --network shared --ip {cni} localhost/rig:1"),
        &["is held by lab/pod/eth0"],
    );
    let status = host.port_agent().run("status");
    assert!(status.contains(&docker_address.to_string()) && status.contains("docker"), "{status}");
    docker.run("network create -d ovs-agent --ipam-driver ovs-agent --subnet 10.31.0.0/24 own");
    let two = docker.start_container("two", "--network own");
    assert!(docker.address("own", "two").to_string().starts_with("10.31.0."));
    docker.run("rm -f one two");
    docker.run("network rm own");
    let _gone = host.plugin().del(&pod, &conf).success();
    drop((one, two));
    pod.remove();
    let containers = docker.run("ps -aq");
    for container in containers.split_whitespace() {
        docker.run(&format!("rm -f {container}"));
    }
    nothing_left(&before, &host);
}

#[test]
fn the_real_network_is_joined_by_what_the_user_names() {
    let host = Host::new();
    let uplink = host.uplink("enp2s0", 7);
    host.config(
        "[[bridge]]\nname = \"ovsbr0\"\nmode = \"direct\"\nuplink = \"enp2s0\"\n\
         [[bridge]]\nname = \"ovsbr1\"\nmode = \"nat\"\naddresses = [\"10.200.0.1/24\"]\n",
    );
    let (_driver, docker) = up(&host);
    docker.run(
        "network create -d ovs-agent -o bridge=ovsbr0 --ipam-driver ovs-agent --subnet \
         198.18.7.0/24 --ip-range 198.18.7.128/28 --gateway 198.18.7.1 lan",
    );
    let one = docker.start_container("one", "--network lan");
    assert!(one.ping(uplink.gateway()));
    let (_, seen) = one.who_answers(INTERNET).unwrap();
    assert_eq!(seen, docker.address("lan", "one"), "its own address on the wire");
    assert!(seen.to_string().starts_with("198.18.7.1"));
}

#[test]
fn thirty_containers_start_at_once() {
    let (_host, _driver, docker) = host();
    docker.run("network create -d ovs-agent web");
    let start =
        |n: i32| docker.output(&format!("run -d --name c{n} --network web {}", Dockerd::IMAGE));
    std::thread::scope(|scope| {
        let start = &start;
        let threads: Vec<_> = (0..30).map(|n| scope.spawn(move || start(n))).collect();
        for thread in threads {
            let output = thread.join().unwrap();
            assert!(output.ok(), "{output}");
        }
    });
    let last = docker.address("web", "c29");
    assert!(docker.container("c0").ping(last));
}
