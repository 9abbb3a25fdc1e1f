//! What a network is kept from: other networks, the outside, the LAN of an uplink.

use std::time::Duration;

use rig::{Frame, INTERNET};

use crate::site::{Site, apart, closed, ip, reaches, surfs, with_both};

/// How long a frame may take.
const WAIT: Duration = Duration::from_secs(1);

with_both!(
    an_internal_network_has_no_way_in_or_out,
    networks_do_not_reach_each_other,
    on_the_real_network_a_vlan_is_what_the_user_names,
);

fn an_internal_network_has_no_way_in_or_out(site: &Site) {
    let before = site.snapshot();
    site.docker("network create -d ovs-agent --internal --subnet 10.77.0.0/24 vault");
    site.docker(
        "network create -d ovs-agent --internal --ipv6 --subnet fd00:78::/64 --ipam-driver \
         ovs-agent --subnet 10.78.0.0/24 six",
    );
    site.docker("network create -d ovs-agent web");
    for (network, one, two) in [("vault", "one", "two"), ("six", "three", "four")] {
        // Docker takes the ports and says nothing of them; so does its own bridge.
        let one = site.start(one, &format!("--network {network} -p 8080:7"));
        let other = site.start(two, &format!("--network {network}"));
        let _server = one.echo_server();
        let own = site.address(network, one.name());
        reaches(&other, own);
        site.docker(&format!("exec {two} ping -c 1 -W 2 {}", one.name()));
        for version in ["-4", "-6"] {
            let routes = other.ip(&format!("{version} route show default"));
            assert_eq!(routes, "", "{network}");
        }
        assert_eq!(other.ip("-o link").lines().count(), 2, "an interface of Docker's own");
        let _host = site.host().echo_server();
        for outside in [INTERNET, rig::INTERNET6, site.lan()[0]] {
            apart(&other, outside);
        }
        // Nor for one who helps himself: no gateway is there to be found.
        let net = own.to_string();
        let gateway = format!("{}.1", net.rsplit_once('.').unwrap().0);
        other.ip(&format!("route add default via {gateway}"));
        for outside in [INTERNET, site.lan()[0], ip("10.200.0.1")] {
            apart(&other, outside);
        }
        // From outside: the host, and a neighbour who routes there.
        apart(site.host(), own);
        site.peer().ip(&format!("route replace {own}/32 via {}", site.lan()[0]));
        apart(site.peer(), own);
        closed(site.host(), ip("127.0.0.1"), 8080);
        closed(site.peer(), site.lan()[0], 8080);
        assert!(site.ports().is_empty(), "{:?}", site.ports());
    }
    // A second, ordinary network gives a way out, and the published ports with it.
    site.docker("network connect web one");
    let one = site.container("one");
    let _server = one.echo_server();
    surfs(&one, &[INTERNET]);
    site.peer().tcp_echo_port(site.lan()[0], 8080, crate::site::DATA).unwrap();
    site.docker("network disconnect web one");
    closed(site.peer(), site.lan()[0], 8080);
    apart(&one, INTERNET);
    drop(_server);
    drop(one);
    site.docker("rm -f one two three four");
    site.docker("network rm vault six web");
    for route in ["10.77.0.2", "10.78.0.2"] {
        site.peer().try_exec(&format!("ip route del {route}/32"));
    }
    site.soon_as_before(&before);
}

fn networks_do_not_reach_each_other(site: &Site) {
    // The host forwards for everybody: the worst case.
    site.sh("echo 1 >/proc/sys/net/ipv4/ip_forward");
    site.docker("network create -d ovs-agent one");
    site.docker("network create -d ovs-agent two");
    site.docker("network create -d ovs-agent -o nat=false routed");
    site.docker("network create -d ovs-agent --ipam-driver ovs-agent pool");
    site.docker("network create plain");
    let all = ["one", "two", "routed", "pool", "plain"]
        .map(|network| (network, site.start(network, &format!("--network {network}"))));
    let _servers = all.each_ref().map(|(_, container)| container.echo_server());
    let addresses = all.each_ref().map(|(name, _)| site.address(name, name));
    for (from, container) in &all {
        std::thread::scope(|scope| {
            for ((to, _), address) in all.iter().zip(addresses) {
                if from != to {
                    scope.spawn(move || apart(container, address));
                }
            }
        });
    }
    for (from, to) in [("one", "two"), ("two", "pool"), ("pool", "plain")] {
        let name = site.try_docker(&format!("exec {from} ping -c 1 -W 1 {to}"));
        assert!(!name.ok(), "{from} knows {to}: {name}");
    }
    // Each has its own VLAN, gateway and way out.
    let shown = site.port_agent("status").stdout;
    for vlan in ["3000", "3001", "3002"] {
        assert!(shown.contains(vlan), "{shown}");
    }
    let [(_, one), (_, two), (_, routed), (_, pool), _] = &all;
    for container in [one, two, pool] {
        assert_eq!(container.who_answers(INTERNET).unwrap().1, site.lan()[0]);
    }
    assert!(!routed.ping(INTERNET), "an address that is not masqueraded got an answer");
    // With a route back it has one, under its own address.
    let address = site.address("routed", "routed");
    site.peer().ip(&format!("route add {address}/32 via {}", site.lan()[0]));
    surfs(routed, &[INTERNET]);
    assert_eq!(routed.who_answers(INTERNET).unwrap().1, address);
    apart(site.peer(), address);
    // One that is on two reaches both, and neither the other by it.
    site.docker("network connect two one");
    let there = site.address("two", "two");
    reaches(one, there);
    site.docker("exec one ping -c 1 -W 2 two");
    apart(two, site.address("one", "one"));
    site.docker("network disconnect two one");
    apart(one, there);
}

fn on_the_real_network_a_vlan_is_what_the_user_names(site: &Site) {
    let (net, router) = (format!("{}/24", site.on_wire(0)), site.on_wire(1));
    let range = format!("{}/28", site.on_wire(128));
    let create = "network create -d ovs-agent -o bridge=ovsbr0";
    // Nothing is guessed: no addresses, no range, no router, no VLAN.
    for (options, words) in [
        (String::new(), "no range"),
        ("--ipam-driver ovs-agent".to_owned(), "--subnet"),
        (format!("--subnet {net} --gateway {router}"), "no range"),
        (format!("--ipam-driver ovs-agent --subnet {net}"), "no range"),
        (format!("--ipam-driver ovs-agent --subnet {net} --ip-range {range}"), "--gateway"),
        (format!("--subnet {net} --ip-range {range} --gateway {router}"), "--ipam-driver"),
        ("--ipam-driver null -o nat=true".to_owned(), "-o nat"),
        ("--ipam-driver null --internal".to_owned(), "internal"),
    ] {
        site.refused(&format!("{create} {options} bad"), &[words]);
    }
    let before = site.snapshot();
    let ranged = format!("--subnet {net} --ip-range {range} --gateway {router}");
    site.docker(&format!("{create} --ipam-driver ovs-agent {ranged} real"));
    site.docker(&format!("{create} --ipam-driver null plain"));
    site.docker(&format!("{create} --ipam-driver null -o vlan=30 tagged"));
    let [real, plain, tagged, second] =
        [("real", "real"), ("plain", "plain"), ("tagged", "tagged"), ("second", "tagged")]
            .map(|(name, network)| site.start(name, &format!("--network {network}")));
    // Its own address, from the range, on the wire.
    let address = site.address("real", "real");
    assert_eq!(address, site.on_wire(128));
    reaches(&real, router.into());
    surfs(&real, &[INTERNET]);
    assert_eq!(real.who_answers(INTERNET).unwrap().1, address);
    let _server = real.echo_server();
    reaches(site.wire(), address);
    // On the wire: untagged without a word, VLAN 30 and no other with it.
    let wire = site.wire();
    let lan = if wire.try_exec("ip link show lan0 type bridge").stdout.is_empty() {
        "lan0"
    } else {
        "cable"
    };
    let listener = wire.raw_socket(lan);
    for (container, vlan) in [(&plain, None), (&real, None), (&tagged, Some(30))] {
        let payload = format!("from {}", container.name());
        let frame = Frame::broadcast(container.mac("eth0"), None, &payload);
        let sent = container.raw_socket("eth0");
        sent.send(&frame);
        let seen = listener.hear(&payload, WAIT);
        assert_eq!(seen.map(|frame| frame.vlan), Some(vlan), "{payload}");
        // A tag of the container's own leads nowhere.
        let payload = format!("smuggled by {}", container.name());
        sent.send(&Frame::broadcast(container.mac("eth0"), Some(31), &payload));
        assert_eq!(listener.hear(&payload, WAIT).map(|frame| frame.vlan), None, "{payload}");
    }
    // Traffic in it, and none between.
    tagged.ip("address add 10.99.0.1/24 dev eth0");
    second.ip("address add 10.99.0.2/24 dev eth0");
    plain.ip("address add 10.99.0.3/24 dev eth0");
    let _servers = [second.echo_server(), plain.echo_server()];
    reaches(&tagged, ip("10.99.0.2"));
    apart(&tagged, ip("10.99.0.3"));
    // A second range of the same network is the same pool; the same in a VLAN is another network.
    let other = format!("--subnet {net} --ip-range {}/28 --gateway {router}", site.on_wire(144));
    site.docker(&format!("{create} --ipam-driver ovs-agent {other} also"));
    let also = site.start("also", "--network also");
    assert_eq!(site.address("also", "also"), site.on_wire(144));
    reaches(&also, address);
    site.refused(
        &format!("{create} --ipam-driver ovs-agent {ranged} -o vlan=31 bad"),
        &["overlaps"],
    );
    drop((real, plain, tagged, second, also));
    site.docker("rm -f real plain tagged second also");
    site.docker("network rm real plain tagged also");
    site.soon_as_before(&before);
}
