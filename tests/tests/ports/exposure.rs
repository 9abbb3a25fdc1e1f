//! Nothing is exposed that was not published: a LAN peer that routes straight to a container's
//! subnet gets nothing.

use super::*;

#[test]
fn a_peer_that_routes_to_our_subnets_gets_nothing() {
    let lab = Lab::new();
    // The host forwards for everybody and lets all pass: the worst case.
    lab.host.sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
    lab.host.sh("echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
    let (web, own, own6) = lab.add("web", json!([port(8007, "tcp"), port(8007, "udp")]));
    let blue = lab.host.container("blue");
    let mut conf = conf(json!([port(8030, "tcp")]));
    conf["name"] = json!("blue");
    conf["vlan"] = json!(30);
    conf["subnets"] = json!(["10.30.0.0/24", "fd30::/64"]);
    lab.host.plugin().add(&blue, &conf).success();
    let _servers = [web.echo_server(), blue.echo_server()];
    let (lan, lan6) = (lab.wire.address(), lab.wire.address6());
    let peer = lab.peer();
    peer.ip(&format!("route add 10.0.0.0/8 via {lan}"));
    for net in ["fd00::/8", "fd30::/64"] {
        peer.ip(&format!("-6 route add {net} via {lan6}"));
    }
    let closed = || {
        for address in [own, own6, ip("10.30.0.2"), ip("fd30::2")] {
            for port in [rig::ECHO_PORT, rig::NAME_PORT, 8007, 8030] {
                refused(peer, address, port);
            }
            assert!(udp_from(peer, address, rig::ECHO_PORT).is_err(), "{address}");
            assert!(!peer.ping(address), "{address}");
        }
        // Nor by the gateways' addresses, but for what is published.
        refused(peer, ip("10.200.0.1"), rig::ECHO_PORT);
        refused(peer, lan, rig::ECHO_PORT);
    };
    let open = || {
        for (address, port) in [(lan, 8007), (lan6, 8007), (lan, 8030), (lan6, 8030)] {
            peer.tcp_echo_port(address, port, DATA)
                .unwrap_or_else(|error| panic!("{address}:{port}: {error}"));
        }
    };
    closed();
    open();
    // A firewall is loaded anew.
    lab.host.sh("nft flush ruleset");
    closed();
    open();
    // The agent dies.
    lab.agent.kill();
    closed();
    open();
    let _agent = start(&lab.host);
    closed();
    open();
    // And after the end of a container its port leads nowhere.
    lab.del(&web);
    refused(peer, lan, 8007);
}

/// The host's lease has ended, and another machine has its address.
#[test]
fn an_address_that_is_another_machines_by_now_is_left_to_it() {
    let lab = Lab::new();
    let shared = ip("198.18.1.50");
    lab.host.ip("address add 198.18.1.50/32 dev eth0");
    let mut naming =
        json!({"hostPort": rig::NAME_PORT, "containerPort": rig::NAME_PORT, "protocol": "tcp"});
    naming["hostIP"] = json!(shared.to_string());
    let (web, ..) = lab.add("web", json!([naming]));
    let _server = web.echo_server();
    let (neighbour, ..) = lab.add("db", json!([]));
    let answers = || {
        let stream = neighbour.connect(shared, rig::NAME_PORT).unwrap();
        rig::who_answers(stream).unwrap().0
    };
    assert_eq!(answers(), "web");
    lab.host.ip("address del 198.18.1.50/32 dev eth0");
    lab.peer().ip("address add 198.18.1.50/24 dev lan0");
    assert_eq!(answers(), lab.peer().name());
}

/// A hung agent that is killed, and not thawed, for a DEL that could not wait for it.
#[test]
fn what_a_hung_agent_carried_ends_with_the_next_one() {
    let mut lab = Lab::new();
    let (web, own, _) = lab.add("web", json!([port(8007, "udp")]));
    let server = web.echo_server();
    let lan = lab.wire.address();
    let socket = lab.peer().inside(|| udp_socket(lan)).unwrap();
    rig::udp_exchange(&socket, SocketAddr::new(lan, 8007)).unwrap();
    lab.agent.signal(Signal::SIGSTOP);
    lab.del(&web);
    lab.agent.kill();
    drop(server);
    lab.agent = start(&lab.host);
    let next = lab.host.container("next");
    let mut same = conf(json!([]));
    same["args"] = json!({"cni": {"ips": [own.to_string()]}});
    poll("the address is free", SOON, || lab.host.plugin().add(&next, &same).ok().then_some(()));
    let _server = next.echo_server();
    assert!(rig::udp_exchange(&socket, SocketAddr::new(lan, 8007)).is_err(), "a talk goes on");
}

#[test]
fn an_address_that_is_given_again_is_not_reached_by_the_old_port() {
    let lab = Lab::new();
    let (web, own, _) = lab.add("web", json!([port(8007, "tcp"), port(8007, "udp")]));
    let server = web.echo_server();
    let lan = lab.wire.address();
    // A caller that never stops talking.
    let socket = lab.peer().inside(|| udp_socket(lan)).unwrap();
    rig::udp_exchange(&socket, SocketAddr::new(lan, 8007)).unwrap();
    lab.agent.kill();
    lab.del(&web);
    refused(lab.peer(), lan, 8007);
    drop(server);
    let next = lab.host.container("next");
    let mut same = conf(json!([]));
    same["args"] = json!({"cni": {"ips": [own.to_string()]}});
    lab.host.plugin().add(&next, &same).success();
    let _server = next.echo_server();
    refused(lab.peer(), lan, 8007);
    assert!(rig::udp_exchange(&socket, SocketAddr::new(lan, 8007)).is_err(), "a talk goes on");
}
