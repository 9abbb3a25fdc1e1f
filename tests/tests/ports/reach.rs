//! From where a published port is reached.

use super::*;

#[test]
fn a_port_is_reached_from_everywhere_over_tcp_and_udp() {
    let lab = Lab::new();
    // Docker is there: forwarding is dropped but for what it knows.
    lab.host.sh("iptables -P FORWARD DROP; ip6tables -P FORWARD DROP");
    poll("the one rule of ours is in FORWARD", SOON, || {
        let rules = lab.host.sh("iptables -S FORWARD; ip6tables -S FORWARD");
        (rules.matches("ovs-agent").count() == 2).then_some(())
    });
    let (web, own, own6) = lab.add("web", json!([port(8007, "tcp"), port(8007, "udp")]));
    let _server = web.echo_server();
    let (neighbour, ..) = lab.add("db", json!([]));
    let stranger = lab.host.container("stranger");
    let mut other = conf(json!([]));
    other["name"] = json!("blue");
    other["vlan"] = json!(30);
    other["subnets"] = json!(["10.30.0.0/24", "fd30::/64"]);
    lab.host.plugin().add(&stranger, &other).success();

    let lan = [lab.wire.address(), lab.wire.address6()];
    for address in ["127.0.0.1", "127.0.0.7", "::1", "10.200.0.1"].map(ip).into_iter().chain(lan) {
        tcp_from_host(address, 8007).unwrap_or_else(|e| panic!("tcp, host to {address}: {e}"));
        udp_from_host(address, 8007).unwrap_or_else(|e| panic!("udp, host to {address}: {e}"));
    }
    for caller in [lab.peer(), &neighbour, &stranger, &web] {
        for address in lan {
            caller
                .tcp_echo_port(address, 8007, DATA)
                .unwrap_or_else(|e| panic!("tcp, {} to {address}: {e}", caller.name()));
            udp_from(caller, address, 8007)
                .unwrap_or_else(|e| panic!("udp, {} to {address}: {e}", caller.name()));
        }
    }
    neighbour.tcp_echo_port(ip("10.200.0.1"), 8007, DATA).unwrap();
    stranger.tcp_echo_port(ip("10.30.0.1"), 8007, DATA).unwrap();
    // From one network to another there is no other way.
    for address in [own, own6] {
        refused(&stranger, address, rig::ECHO_PORT);
    }

    let status = lab.host.port_agent().run("status");
    assert!(status.contains("*:8007") && status.contains(&format!("{own}:7")), "{status}");
}

/// A resolver asks from another port each time, and would wait five seconds for each answer.
#[test]
fn the_first_datagram_of_a_caller_is_answered() {
    let lab = Lab::new();
    let (web, ..) = lab.add("web", json!([port(8007, "udp")]));
    let _server = web.echo_server();
    let mut buffer = [0; 16];
    for address in ["127.0.0.1", "::1"].map(ip).into_iter().cycle().take(20) {
        let socket = udp_socket(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        socket.send_to(b"once", SocketAddr::new(address, 8007)).unwrap();
        let count = socket.recv(&mut buffer).unwrap_or_else(|e| panic!("{address}: {e}"));
        assert_eq!(&buffer[..count], b"once");
    }
}

/// As Podman has it: its own socket is there first, and never answers.
#[test]
fn who_has_been_calling_all_along_is_answered() {
    let lab = Lab::new();
    let (web, ..) = lab.add("web", json!([]));
    let _server = web.echo_server();
    let lan = lab.wire.address();
    let _podmans = UdpSocket::bind("0.0.0.0:8007").unwrap();
    let socket = lab.peer().inside(|| udp_socket(lan)).unwrap();
    let called = SocketAddr::new(lan, 8007);
    assert!(rig::udp_exchange(&socket, called).is_err());
    let ports = [port(8007, "udp")].map(|port| mapping(&port));
    lab.engine().publish_held(&key("web"), &ports, Holder::Runtime).unwrap();
    rig::udp_exchange(&socket, called).unwrap();
}

/// Podman has bound the port and never answers there; the rules lead only behind this host.
#[test]
fn beside_the_host_the_agent_serves_and_podman_is_told() {
    let host = Host::new();
    let wire = host.uplink("eth0", 1);
    host.config(
        "[[bridge]]\nname = \"ovsbr1\"\nmode = \"nat\"\naddresses = [\"10.200.0.1/24\"]\n\
         [[bridge]]\nname = \"ovsbr0\"\nmode = \"direct\"\nuplink = \"eth0\"\n\
         addresses = [\"198.18.1.10/24\"]\ngateway = \"198.18.1.1\"\n",
    );
    let agent = start(&host);
    let lab = Lab { agent, wire, host };
    let web = lab.host.container("web");
    let mut lan = conf(json!([]));
    lan["bridge"] = json!("ovsbr0");
    lan["subnets"] = json!([{ "subnet": "198.18.1.0/24", "gateway": "198.18.1.1",
                              "range": "198.18.1.100-198.18.1.110" }]);
    lab.host.plugin().add(&web, &lan).success();
    let _server = web.echo_server();
    let ports = [port(8007, "tcp")].map(|port| mapping(&port));
    let podman = lab.engine().publish_held(&key("web"), &ports, Holder::Runtime);
    let said = shared::error::sentence(&podman.unwrap_err());
    assert!(said.contains("Podman holds them, and the host is not its gateway"), "{said}");
    lab.engine().publish(&key("web"), &ports).unwrap();
    lab.peer().tcp_echo_port(ip("198.18.1.10"), 8007, DATA).unwrap();
}

#[test]
fn the_caller_is_seen_as_who_it_is() {
    let lab = Lab::new();
    let naming = json!([{"hostPort": 8013, "containerPort": 13, "protocol": "tcp"}]);
    let (web, ..) = lab.add("web", naming);
    let _server = web.echo_server();
    for (address, caller) in
        [(lab.wire.address(), lab.wire.gateway()), (lab.wire.address6(), lab.wire.gateway6())]
    {
        let stream = lab.peer().connect(address, 8013).unwrap();
        let (name, seen) = rig::who_answers(stream).unwrap();
        assert_eq!((name.as_str(), seen), ("web", caller));
    }
}

#[test]
fn an_address_is_bound_alone() {
    let lab = Lab::new();
    let (lan, lan6) = (lab.wire.address(), lab.wire.address6());
    let at = |address: IpAddr, host_port: u16| {
        let mut port = port(host_port, "tcp");
        port["hostIP"] = json!(address.to_string());
        port
    };
    let ports = json!([
        at(ip("127.0.0.1"), 8001),
        at(ip("::1"), 8001),
        at(lan, 8002),
        at(lan6, 8003),
        at(ip("0.0.0.0"), 8004),
        at(ip("::"), 8005),
    ]);
    let (web, ..) = lab.add("web", ports);
    let _server = web.echo_server();
    let (db, ..) = lab.add("db", json!([]));
    let reach = |address: IpAddr, port: u16| {
        tcp_from_host(address, port).unwrap_or_else(|e| panic!("host to {address}:{port}: {e}"));
    };
    let no = |address: IpAddr, port: u16| {
        assert!(tcp_from_host(address, port).is_err(), "host to {address}:{port}");
    };
    reach(ip("127.0.0.1"), 8001);
    reach(ip("::1"), 8001);
    reach(lan, 8002);
    reach(lan6, 8003);
    reach(ip("127.0.0.1"), 8004);
    reach(ip("::1"), 8005);
    no(lan, 8001);
    no(lan6, 8001);
    no(ip("127.0.0.1"), 8002);
    no(lan, 8003);
    no(ip("::1"), 8004);
    no(ip("127.0.0.1"), 8005);
    for caller in [lab.peer(), &db] {
        caller.tcp_echo_port(lan, 8002, DATA).unwrap();
        caller.tcp_echo_port(lan6, 8003, DATA).unwrap();
        caller.tcp_echo_port(lan, 8004, DATA).unwrap();
        caller.tcp_echo_port(lan6, 8005, DATA).unwrap();
        for (address, port) in [(lan, 8001), (lan6, 8001), (lan6, 8004), (lan, 8005)] {
            refused(caller, address, port);
        }
        refused(caller, ip("10.200.0.1"), 8002);
    }
    // A peer that sends to the loopback address through us gets nothing, even if we let it in.
    lab.peer().ip(&format!("route add 127.0.0.99/32 via {lan} dev lan0"));
    lab.peer().exec("echo 1 > /proc/sys/net/ipv4/conf/lan0/route_localnet");
    refused(lab.peer(), ip("127.0.0.99"), 8001);
    let localnet = lab.host.sh("cat /proc/sys/net/ipv4/conf/*/route_localnet");
    assert!(localnet.lines().all(|line| line == "0"), "route_localnet stays off");
}

#[test]
fn a_wire_without_forwarding_is_served_by_the_agent() {
    let lab = Lab::new();
    // Another wire of the host, through which no default route leads.
    let other = lab.host.uplink("eth1", 2).addressed(&lab.host);
    let (web, ..) = lab.add("web", json!([port(8007, "tcp"), port(8007, "udp")]));
    let _server = web.echo_server();
    for address in [other.address(), other.address6()] {
        other.router().tcp_echo_port(address, 8007, DATA).unwrap();
        udp_from(other.router(), address, 8007).unwrap();
    }
    let forwarding = lab.host.sh("cat /proc/sys/net/ipv4/conf/eth1/forwarding");
    assert_eq!(forwarding.trim(), "0");
}

#[test]
fn a_container_with_one_family_is_reached_over_both() {
    let lab = Lab::new();
    let web = lab.host.container("web");
    let mut conf = conf(json!([port(8007, "tcp"), port(8007, "udp")]));
    conf["vlan"] = json!(40);
    conf["subnets"] = json!(["10.40.0.0/24"]);
    lab.host.plugin().add(&web, &conf).success();
    let _server = web.echo_server();
    for address in ["127.0.0.1", "::1"].map(ip) {
        tcp_from_host(address, 8007).unwrap();
        udp_from_host(address, 8007).unwrap();
    }
    for address in [lab.wire.address(), lab.wire.address6()] {
        lab.peer().tcp_echo_port(address, 8007, DATA).unwrap();
        udp_from(lab.peer(), address, 8007).unwrap();
    }
}
