//! A user's day: what one types and what there is then.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use rig::{Host, INTERNET};

use crate::{host, nothing_left, refused, up};

#[test]
fn the_page_starts_with_a_session_that_works() {
    let (host, _driver, docker) = host();
    let page = host.shipped("docs/docker.md");
    let session = page.split("```console\n").nth(1).unwrap().split("```").next().unwrap();
    let lines: Vec<_> = session.lines().map(|line| line.strip_prefix("# ").unwrap()).collect();
    let [up, setup @ .., question] = lines.as_slice() else { panic!("{session}") };
    assert_eq!((*up, setup.len()), ("ovs-port-agent up && systemctl start ovs-agent-docker", 3));
    for line in setup {
        let args = line.strip_prefix("docker ").unwrap();
        docker.run(&args.replace("nginx:stable", rig::Dockerd::IMAGE));
    }
    // What nginx does.
    let one = docker.container("one");
    let listener = one.inside(|| TcpListener::bind("0.0.0.0:80")).unwrap();
    let answer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        let mut request = [0; 4096];
        let _length = stream.read(&mut request)?;
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nwelcome")
    });
    let question = question.strip_prefix("docker ").unwrap().replace("curl -s", "wget -q -O -");
    assert_eq!(docker.run(&question), "welcome");
    answer.join().unwrap().unwrap();
}

#[test]
fn an_endpoint_is_what_its_options_say() {
    let (host, driver, docker) = host();
    let before = host.snapshot();
    docker.run("network create -d ovs-agent --subnet 10.30.0.0/24 web");
    docker.run(
        "run -d --name one --network web --ip 10.30.0.9 --mac-address 02:42:0a:1e:00:99 \
         --network-alias first localhost/rig:1",
    );
    docker.run(
        "run -d --name two --network name=web,alias=second,driver-opt=mtu=1280 localhost/rig:1",
    );
    let (one, two) = (docker.container("one"), docker.container("two"));
    assert_eq!(docker.address("web", "one").to_string(), "10.30.0.9");
    assert_eq!(one.mac("eth0"), [0x02, 0x42, 0x0a, 0x1e, 0x00, 0x99]);
    assert!(two.ip("-o link show eth0").contains("mtu 1280"));
    let _server = one.echo_server();
    two.tcp_echo("10.30.0.9".parse().unwrap(), 1 << 20).unwrap();
    docker.run("exec two ping -c 1 -W 2 first");
    docker.run("exec one ping -c 1 -W 2 second");
    docker.run("exec one ping -c 1 -W 2 two");
    for (option, words) in
        [("driver-opt=vlan=3", "driver-opt vlan \"3\""), ("driver-opt=mtu=12", "-o mtu \"12\"")]
    {
        let args = format!("run -d --network name=web,{option} localhost/rig:1");
        refused(&docker, &args, &[words]);
    }
    refused(&docker, "run -d --network web --ip 10.31.0.9 localhost/rig:1", &["10.31.0.9"]);
    // On a second network while it runs, with what that one asks for.
    docker.run("network create -d ovs-agent --subnet 10.31.0.0/24 db");
    docker.run("network connect --ip 10.31.0.44 --alias store db one");
    docker.run("run -d --name three --network db localhost/rig:1");
    docker.run("exec three ping -c 1 -W 2 store");
    assert!(one.ip("-o address").contains("10.31.0.44/24"));
    refused(&docker, "network rm db", &["active endpoints"]);
    docker.run("network disconnect db one");
    assert!(!one.ip("-o address").contains("10.31.0.44"));
    // To a stopped one nothing is plugged in, until it starts.
    docker.run("stop -t 0 two");
    docker.run("network connect db two");
    docker.run("start two");
    docker.run("exec two ping -c 1 -W 2 three");
    docker.run("exec two ping -c 1 -W 2 first");
    docker.run("pause two");
    docker.run("unpause two");
    docker.run("kill three");
    docker.run("restart -t 0 two");
    docker.run("exec two ping -c 1 -W 2 first");
    assert_eq!(docker.run("run --rm --network web localhost/rig:1 echo bye").trim(), "bye");
    // One that cannot start had its interface already.
    refused(
        &docker,
        "run --rm --network web localhost/rig:1 /no/such/program",
        &["/no/such/program"],
    );
    docker.run("rm -f one two three");
    docker.run("network rm web db");
    drop((one, two));
    nothing_left(&before, &host);
    assert!(!driver.log().contains("ERROR"), "{}", driver.log());
}

#[test]
fn inspect_shows_what_was_asked_for() {
    let (_host, _driver, docker) = host();
    docker.run(
        "network create -d ovs-agent --subnet 10.30.0.0/24 --gateway 10.30.0.254 --ip-range \
         10.30.0.64/28 --aux-address printer=10.30.0.65 -o vlan=30 -o mtu=1400 --label a=b lan",
    );
    assert_eq!(docker.inspect("lan", ".Options|json"), r#"{"mtu":"1400","vlan":"30"}"#);
    let ipam = docker.inspect("lan", ".IPAM.Config|json");
    for part in ["10.30.0.0/24", "10.30.0.64/28", "10.30.0.254", "\"printer\":\"10.30.0.65\""] {
        assert!(ipam.contains(part), "{ipam}");
    }
    docker.start_container("one", "--network lan");
    let containers = docker.inspect("lan", ".Containers|json");
    assert!(containers.contains("\"Name\":\"one\"") && containers.contains("10.30.0.64/24"));
    let list = docker.run("network ls --filter driver=ovs-agent --format {{.Name}}");
    assert_eq!(list, "lan\n");
}

#[test]
fn our_addresses_without_a_subnet_join_the_nat_bridge() {
    let host = Host::new();
    let uplink = host.uplink("wlp4s0", 1).addressed(&host).routed(&host, 100);
    let (_driver, docker) = up(&host);
    docker.run("network create -d ovs-agent --ipam-driver ovs-agent shared");
    let pod = host.container("pod");
    let conf = serde_json::json!({"cniVersion": "1.0.0", "name": "lab", "type": "ovs-agent"});
    let result = host.plugin().add(&pod, &conf).success();
    let cni = result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
    let one = docker.start_container("one", "--network shared");
    let address = docker.address("shared", "one");
    assert!(address.to_string().starts_with("10.200.0.") && address.to_string() != cni);
    assert!(one.ip("-o address show eth0").contains(&format!("{address}/24")));
    assert!(one.ip("route").contains("default via 10.200.0.1"));
    let (_here, _there) = (one.echo_server(), pod.echo_server());
    one.tcp_echo(cni.parse().unwrap(), 1 << 20).unwrap();
    pod.tcp_echo(address, 1 << 20).unwrap();
    assert_eq!(one.who_answers(INTERNET).unwrap().1, uplink.address());
    // Two of them are one domain; dockerd's restart asks for both again.
    docker.run("network create -d ovs-agent --ipam-driver ovs-agent --ipv6 also");
    let two = docker.start_container("two", "--network also --restart always");
    one.tcp_echo(docker.address("also", "two"), 1 << 20).unwrap_err();
    let _server = two.echo_server();
    one.tcp_echo(docker.address("also", "two"), 1 << 20).unwrap();
    let six = docker.inspect("two", ".NetworkSettings.Networks.also.GlobalIPv6Address");
    assert!(six.starts_with("fd6f:7673:6272:1:"), "{six}");
    assert!(two.ping("fd6f:7673:6272:1::1".parse().unwrap()));
    docker.stop();
    let docker = host.dockerd();
    let three = docker.start_container("three", "--network shared");
    assert!(three.ping(cni.parse().unwrap()));
    assert_ne!(docker.address("shared", "three").to_string(), cni);
    for (options, words) in [
        ("-o vlan=30", ["-o vlan", "untagged"]),
        ("--internal", ["internal", "--subnet"]),
        ("-o bridge=ovsbr0", ["-o bridge", "--subnet"]),
        ("--ipam-opt a=b", ["--ipam-opt a", "leave it out"]),
    ] {
        let args = format!("network create -d ovs-agent --ipam-driver ovs-agent {options} bad");
        refused(&docker, &args, &words);
    }
}

#[test]
fn what_cannot_be_is_refused_with_what_can() {
    let (host, _driver, docker) = host();
    let before = host.snapshot().with_tree("/var/lib/ovs-port-agent/docker");
    for (options, words) in [
        ("-o vlan=5000", ["-o vlan \"5000\"", "4094"]),
        ("-o mtu=big", ["-o mtu \"big\"", "68"]),
        ("-o mtu=1000 --ipv6 --subnet fd00:31::/64", ["-o mtu \"1000\"", "1280"]),
        ("-o nat=perhaps", ["-o nat \"perhaps\"", "nat=false"]),
        ("-o bridge=nowhere --ipam-driver null", ["nowhere", ";"]),
        ("-o parent=eth0", ["-o parent \"eth0\"", "bridge, vlan, mtu and nat"]),
        ("--internal -o nat=true", ["-o nat \"true\"", "internal"]),
        ("-o vlan=0", ["-o vlan \"0\"", "--ipam-driver ovs-agent"]),
        ("--subnet 10.200.0.128/25", ["10.200.0.128/25", "10.200.0.0/24"]),
        ("-o bridge=ovsbr0 --subnet 198.18.7.0/24", ["no range", "--ip-range"]),
        ("-o bridge=ovsbr0 --internal --ipam-driver null", ["internal", "ovsbr0"]),
    ] {
        refused(&docker, &format!("network create -d ovs-agent {options} bad"), &words);
    }
    rig::assert_same(&before, &host.snapshot().with_tree("/var/lib/ovs-port-agent/docker"));
}
