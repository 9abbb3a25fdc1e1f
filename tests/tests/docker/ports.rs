//! `docker run -p`: held by the port agent, as CNI's and Podman's are.

use std::net::IpAddr;
use std::time::Duration;

use rig::{Container, poll};

use crate::site::{SOON, Site, closed, ip, tcp, udp, with_both};

with_both!(
    ports_are_reached_from_where_they_are_published,
    nothing_is_exposed_that_is_not_published,
    ports_lead_into_every_kind_of_network,
    a_port_that_is_taken_is_refused_and_its_holder_named,
    without_the_agent_only_what_publishes_is_refused,
    ports_survive_what_is_restarted,
);

const SIX: &str =
    "network create -d ovs-agent --ipv6 --subnet fd00:30::/64 --subnet 10.30.0.0/24 six";

/// From the host, from the LAN, TCP and UDP or TCP alone.
#[track_caller]
fn reached(site: &Site, port: u16) {
    for address in [ip("127.0.0.1"), ip("::1"), site.lan()[0], site.lan()[1]] {
        tcp(site.host(), address, port).unwrap_or_else(|e| panic!("host, {address}:{port}: {e}"));
    }
    for address in site.lan() {
        tcp(site.peer(), address, port).unwrap_or_else(|e| panic!("peer, {address}:{port}: {e}"));
    }
}

fn ports_are_reached_from_where_they_are_published(site: &Site) {
    site.docker("network create -d ovs-agent web");
    site.docker("network create -d ovs-agent db");
    site.docker(SIX);
    let before = site.snapshot();
    let web = site.start(
        "web",
        "--network web -p 8080:7 -p 8053:7/udp -p 127.0.0.1:8090:7 -p [::1]:8091:7 -p 9005-9013:5-13 \
         -p 9020-9029:7",
    );
    let _web = web.echo_server();
    let (host, peer, lan) = (site.host(), site.peer(), site.lan());
    let neighbour = site.start("neighbour", "--network web");
    let other = site.start("other", "--network db");
    // Every address of the host, from everywhere; from the container itself too.
    reached(site, 8080);
    for from in [host, peer, &neighbour, &other, &web] {
        tcp(from, lan[0], 8080).unwrap_or_else(|e| panic!("tcp from {}: {e}", from.name()));
        udp(from, lan[0], 8053).unwrap_or_else(|e| panic!("udp from {}: {e}", from.name()));
    }
    for address in [ip("127.0.0.1"), ip("::1"), lan[1]] {
        udp(host, address, 8053).unwrap();
    }
    udp(peer, lan[1], 8053).unwrap();
    // TCP is not UDP.
    closed(peer, lan[0], 8053);
    assert!(udp(peer, lan[0], 8080).is_err());
    // One address alone.
    tcp(host, ip("127.0.0.1"), 8090).unwrap();
    tcp(host, ip("::1"), 8091).unwrap();
    for from in [host, peer, &neighbour, &other] {
        for address in lan {
            closed(from, address, 8090);
            closed(from, address, 8091);
        }
    }
    closed(host, ip("::1"), 8090);
    closed(host, ip("127.0.0.1"), 8091);
    // A range, each to its own; and one port on the first free of a range.
    tcp(peer, lan[0], 9007).unwrap();
    let (name, seen) = rig::who_answers(peer.connect(lan[0], 9013).unwrap()).unwrap();
    assert_eq!((name.as_str(), seen), ("web", site.peers()[0]), "the caller is seen as who it is");
    tcp(peer, lan[0], 9020).unwrap();
    closed(peer, lan[0], 9021);
    // A container with both families, and any free port.
    let six =
        site.start("six", "--network six -p 8092:7 -p 8092:7/udp -p [::1]:8093:7 --expose 13 -P");
    let _six = six.echo_server();
    reached(site, 8092);
    for from in [host, peer, &six] {
        for address in lan {
            tcp(from, address, 8092).unwrap_or_else(|e| panic!("{}, {address}: {e}", from.name()));
            udp(from, address, 8092).unwrap_or_else(|e| panic!("{}, {address}: {e}", from.name()));
        }
    }
    tcp(&web, lan[0], 8092).unwrap();
    let (_, seen) = rig::who_answers(peer.connect(lan[0], 9013).unwrap()).unwrap();
    assert_eq!(seen, site.peers()[0]);
    tcp(host, ip("::1"), 8093).unwrap();
    closed(peer, lan[1], 8093);
    // Docker does not show them; status does, with what they lead to.
    assert_eq!(site.docker("port web").trim(), "");
    let ports = site.ports();
    assert!(ports.iter().all(|port| port["state"] == "ok"), "{ports:?}");
    let free: Vec<_> = ports
        .iter()
        .filter_map(|port| u16::try_from(port["host_port"].as_u64()?).ok())
        .filter(|port| *port > 10_000)
        .collect();
    assert_eq!(free.len(), 1, "-P: {ports:?}");
    let (name, _) = rig::who_answers(peer.connect(lan[0], free[0]).unwrap()).unwrap();
    assert_eq!(name, "six");
    let shown = site.port_agent("status").stdout;
    for text in ["*:8080", "127.0.0.1:8090", "*:9012", "[::1]:8093"] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    // They end with the container and come back with it.
    site.docker("stop -t 0 web");
    for address in [ip("127.0.0.1"), lan[0]] {
        closed(host, address, 8080);
    }
    closed(peer, lan[0], 8080);
    closed(host, ip("127.0.0.1"), 8090);
    site.docker("start web");
    let _again = site.container("web").echo_server();
    reached(site, 8080);
    drop(_again);
    site.docker("rm -f web neighbour other six");
    closed(peer, lan[0], 8080);
    closed(peer, lan[1], 8092);
    drop((web, neighbour, other, six));
    site.soon_as_before(&before);
}

/// A neighbour on the LAN that routes straight to the containers gets nothing, whatever happens to
/// rules and daemons meanwhile.
fn nothing_is_exposed_that_is_not_published(site: &mut Site) {
    site.sh("echo 1 >/proc/sys/net/ipv4/ip_forward
             echo 1 >/proc/sys/net/ipv6/conf/all/forwarding");
    site.docker("network create -d ovs-agent web");
    site.docker("network create -d ovs-agent --ipam-driver ovs-agent pool");
    site.docker("network create -d ovs-agent -o nat=false routed");
    site.docker(SIX);
    // What is published is reached by the host's address alone, never by the container's.
    let all =
        [("web", 8001), ("pool", 8002), ("routed", 8003), ("six", 8007)].map(|(name, port)| {
            site.start(
                name,
                &format!("--network {name} --restart always -p {port}:7 -p 127.0.0.1:1{port}:13"),
            )
        });
    let _servers = all.each_ref().map(Container::echo_server);
    let lan = site.lan();
    let mut addresses: Vec<IpAddr> =
        ["web", "pool", "routed", "six"].iter().map(|name| site.address(name, name)).collect();
    addresses.push(site.address6("six", "six"));
    for address in &addresses {
        let (family, length, via) =
            if address.is_ipv4() { ("-4", 32, lan[0]) } else { ("-6", 128, lan[1]) };
        site.peer().ip(&format!("{family} route add {address}/{length} via {via}"));
    }
    let check = |site: &Site, when: &str| {
        std::thread::scope(|scope| {
            for address in &addresses {
                scope.spawn(|| crate::site::apart(site.peer(), *address));
                for port in [13, 8001, 8002, 8003, 8007] {
                    scope.spawn(move || closed(site.peer(), *address, port));
                }
            }
            // Nor anything of the host's own that was not published.
            for address in [lan[0], lan[1], ip("10.200.0.1")] {
                scope.spawn(move || closed(site.peer(), address, 13));
            }
        });
        for port in [8001, 8002, 8003, 8007] {
            tcp(site.peer(), lan[0], port).unwrap_or_else(|e| panic!("{port} after {when}: {e}"));
        }
    };
    check(site, "the start");
    site.sh("nft flush ruleset");
    check(site, "a flush");
    site.stop_agent();
    check(site, "the agent's end");
    site.start_agent();
    site.without_driver(|site| check(site, "the driver's end"));
    check(site, "the driver's start");
}

/// Networks of every kind publish, and say so where they cannot.
fn ports_lead_into_every_kind_of_network(site: &Site) {
    let router = site.on_wire(1);
    site.docker("network create -d ovs-agent --ipam-driver ovs-agent pool");
    site.docker("network create -d ovs-agent -o nat=false routed");
    site.docker(&format!(
        "network create -d ovs-agent -o bridge=ovsbr0 --ipam-driver ovs-agent --subnet {}/24 \
         --ip-range {}/28 --gateway {router} real",
        site.on_wire(0),
        site.on_wire(128)
    ));
    for (network, port) in [("pool", 8001), ("routed", 8002)] {
        let one = site.start(network, &format!("--network {network} -p {port}:7"));
        let _server = one.echo_server();
        reached(site, port);
        tcp(&one, site.lan()[0], port).unwrap();
    }
    // A host without an address there cannot lead anybody in.
    let run = "run --rm --network real -p 8003:7 localhost/rig:1 true";
    site.refused(run, &["the host has no address on its network", "by its own address"]);
    // With one it can: it carries each connection itself, as the router is somebody else.
    site.sh(&format!("ip address add {}/24 dev ovsbr0", site.on_wire(10)));
    let real = site.start("real", "--network real -p 8003:7");
    let _server = real.echo_server();
    reached(site, 8003);
    tcp(site.wire(), site.on_wire(10).into(), 8003).unwrap();
    tcp(site.wire(), site.address("real", "real"), 7).unwrap();
    closed(site.wire(), site.address("real", "real"), 8003);
}

fn a_port_that_is_taken_is_refused_and_its_holder_named(site: &Site) {
    site.docker("network create -d ovs-agent web");
    // What Docker's own bridge is like once it has had a container.
    site.docker("run --rm localhost/rig:1 true");
    let web = site.start("web", "--network web -p 8080:7 -p 127.0.0.1:8081:7");
    let _server = web.echo_server();
    // Its holder is named as soon as dockerd has told how it is called.
    poll("the holder is not named", SOON, || {
        let output = site.try_docker("run -d --rm --network web -p 8080:80 localhost/rig:1");
        assert!(output.stderr.contains("8080:80/tcp cannot be published: "), "{output}");
        output.stderr.contains("published: web has 8080:7/tcp").then_some(())
    });
    let before = site.snapshot();
    let (run, rig) = ("run -d --rm --network web", rig::Dockerd::IMAGE);
    site.refused(
        &format!("{run} -p 8081:80 {rig}"),
        &["8081:80/tcp cannot be published", "web has", "choose another host port"],
    );
    let foreign = site.host().inside(|| std::net::TcpListener::bind("0.0.0.0:8070")).unwrap();
    site.refused(
        &format!("{run} -p 8070:80 {rig}"),
        &["8070:80/tcp cannot be published", "in use by another program", "ss -ltnp"],
    );
    site.refused(
        &format!("{run} -p 192.0.2.9:8071:80 {rig}"),
        &["192.0.2.9 is no address of this"],
    );
    site.refused(&format!("{run} -p 8071:80/sctp {rig}"), &["80/sctp", "tcp or udp"]);
    // Docker's own bridge and its proxy are "another program" too, in both directions.
    site.docker(&format!("run -d --name plain -p 8060:7 {rig}"));
    site.refused(&format!("{run} -p 8060:80 {rig}"), &["8060:80/tcp cannot be published"]);
    site.refused(&format!("run -d --rm -p 8080:7 {rig}"), &["8080"]);
    site.docker("rm -f plain");
    drop(foreign);
    // Another port of the range is free, and UDP is another matter.
    site.docker(&format!("run -d --name two --network web -p 8080-8085:7 -p 8080:7/udp {rig}"));
    reached(site, 8080);
    let two = site.container("two");
    let _two = two.echo_server();
    udp(site.peer(), site.lan()[0], 8080).unwrap();
    tcp(site.peer(), site.lan()[0], 8082).unwrap();
    drop(_two);
    drop(two);
    site.docker("rm -f two");
    site.soon_as_before(&before);
}

fn without_the_agent_only_what_publishes_is_refused(site: &mut Site) {
    site.docker("network create -d ovs-agent web");
    site.stop_agent();
    let run = "run -d --rm --network web -p 8080:7 localhost/rig:1";
    let started = std::time::Instant::now();
    site.refused(
        run,
        &["published ports need a running ovs-port-agent; start it (systemctl start"],
    );
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let (one, two) = (site.start("one", "--network web"), site.start("two", "--network web"));
    let _server = two.echo_server();
    crate::site::reaches(&one, site.address("web", "two"));
    crate::site::surfs(&one, &[rig::INTERNET]);
    site.docker("rm -f two");
    site.docker("network create -d ovs-agent db");
    site.docker("network connect db one");
    site.docker("network disconnect db one");
    site.docker("network rm db");
    site.start_agent();
    poll("nothing can be published again", SOON, || site.try_docker(run).ok().then_some(()));
}

fn ports_survive_what_is_restarted(site: &mut Site) {
    site.docker("network create -d ovs-agent web");
    site.docker("network create -d ovs-agent --ipam-driver ovs-agent shared");
    let names = ["web", "shared"];
    let start = |name: &str, port: u16| {
        site.start(name, &format!("--network {name} --restart always -p {port}:7"))
    };
    let (web, shared) = (start("web", 8080), start("shared", 8081));
    let servers = (web.echo_server(), shared.echo_server());
    let both = |site: &Site| {
        reached(site, 8080);
        reached(site, 8081);
    };
    both(site);
    // The driver and the agent: containers go on.
    site.without_driver(both);
    both(site);
    site.stop_agent();
    for port in [8080, 8081] {
        tcp(site.peer(), site.lan()[0], port).unwrap();
    }
    site.start_agent();
    poll("ports are held again", SOON, || {
        let held = |port| tcp(site.host(), ip("127.0.0.1"), port).is_ok();
        (held(8080) && held(8081)).then_some(())
    });
    both(site);
    drop(servers);
    drop((web, shared));
    // dockerd in good order, and crashed: it starts its containers again.
    for crash in [false, true] {
        site.restart_dockerd(crash, &names);
        let [web, shared] = names.map(|name| site.container(name));
        let _servers = (web.echo_server(), shared.echo_server());
        both(site);
        let ports = site.ports();
        assert!(ports.len() == 2 && ports.iter().all(|port| port["state"] == "ok"), "{ports:?}");
    }
    site.docker("restart -t 0 web");
    let web = site.container("web");
    let _server = web.echo_server();
    reached(site, 8080);
}
