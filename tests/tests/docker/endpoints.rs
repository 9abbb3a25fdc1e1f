//! A container's interfaces: what its options say, and comings and goings while it runs.

use rig::INTERNET;

use crate::site::{DATA, Site, apart, closed, ip, reaches, surfs, tcp, with_both};

with_both!(
    an_endpoint_is_what_its_options_say,
    ports_follow_the_network_that_leads_out,
    comings_and_goings_leave_nothing,
    thirty_containers_start_at_once,
);

fn an_endpoint_is_what_its_options_say(site: &Site) {
    site.docker("network create -d ovs-agent --subnet 10.30.0.0/24 web");
    site.docker("network create -d ovs-agent --subnet 10.31.0.0/24 -o mtu=1400 db");
    let one = site.start(
        "one",
        "--network web --ip 10.30.0.9 --mac-address 02:42:0a:1e:00:99 --network-alias first",
    );
    let two = site.start("two", "--network name=web,alias=second,driver-opt=mtu=1280");
    assert_eq!(site.address("web", "one"), ip("10.30.0.9"));
    assert_eq!(one.mac("eth0"), [0x02, 0x42, 0x0a, 0x1e, 0x00, 0x99]);
    assert!(two.ip("-o link show eth0").contains("mtu 1280"));
    let shown = site.inspect("one", ".NetworkSettings.Networks.web.MacAddress");
    assert_eq!(shown, "02:42:0a:1e:00:99");
    let _server = one.echo_server();
    reaches(&two, ip("10.30.0.9"));
    for (from, to) in [("two", "first"), ("one", "second"), ("one", "two"), ("two", "one")] {
        site.docker(&format!("exec {from} ping -c 1 -W 2 {to}"));
    }
    // On a second network while it runs, with what that one asks for.
    site.docker("network connect --ip 10.31.0.44 --alias store --driver-opt mtu=1300 db one");
    assert!(one.ip("-o address show eth1").contains("10.31.0.44/24"));
    assert!(one.ip("-o link show eth1").contains("mtu 1300"));
    let three = site.start("three", "--network db");
    assert!(three.ip("-o link show eth0").contains("mtu 1400"));
    reaches(&three, ip("10.31.0.44"));
    site.docker("exec three ping -c 1 -W 2 store");
    // What an endpoint cannot be is refused, by name, with what would be right.
    for (option, words) in [
        ("vlan=3", ["driver-opt vlan \"3\"", "use mtu"]),
        ("mtuu=1400", ["driver-opt mtuu \"1400\"", "did you mean mtu?"]),
        ("mtu=12", ["driver-opt mtu \"12\"", "68"]),
    ] {
        let run = format!("run --rm --network name=web,driver-opt={option} localhost/rig:1 true");
        site.refused(&run, &words);
        site.refused(&format!("network connect --driver-opt {option} db two"), &words);
    }
    site.refused("run --rm --network web --ip 10.31.0.9 localhost/rig:1 true", &["10.31.0.9"]);
    // Nothing of what was refused stays.
    site.docker("network connect db two");
    let _three = three.echo_server();
    reaches(&two, site.address("db", "three"));
}

/// `-p` belongs to the container: it is reached through whichever network is its way out.
fn ports_follow_the_network_that_leads_out(site: &Site) {
    let before = site.snapshot();
    site.docker("network create -d ovs-agent web");
    site.docker("network create -d ovs-agent db");
    let one = site.start("one", "--network web -p 8080:7");
    let _server = one.echo_server();
    let lan = site.lan()[0];
    let reached = || {
        tcp(site.peer(), lan, 8080).unwrap();
        tcp(site.host(), ip("127.0.0.1"), 8080).unwrap();
        surfs(&one, &[INTERNET]);
        assert_eq!(site.ports().len(), 1);
    };
    let leads_to = |network: &str| {
        let ports = site.ports();
        let to = ports[0]["to"].to_string();
        assert!(to.contains(&site.address(network, "one").to_string()), "{network}: {to}");
    };
    reached();
    leads_to("web");
    site.docker("network connect db one");
    reached();
    site.docker("network disconnect web one");
    reached();
    leads_to("db");
    assert!(!one.ip("-o link").contains("eth0"));
    site.docker("network connect web one");
    reached();
    site.docker("network disconnect -f db one");
    reached();
    leads_to("web");
    // On none, it has none.
    site.docker("network disconnect web one");
    closed(site.peer(), lan, 8080);
    closed(site.host(), ip("127.0.0.1"), 8080);
    apart(&one, INTERNET);
    site.docker("network connect web one");
    reached();
    drop(_server);
    drop(one);
    site.docker("rm -f one");
    closed(site.peer(), lan, 8080);
    site.docker("network rm web db");
    site.soon_as_before(&before);
}

fn comings_and_goings_leave_nothing(site: &Site) {
    let before = site.snapshot();
    site.docker("network create -d ovs-agent --subnet 10.30.0.0/24 web");
    site.docker("network create -d ovs-agent --ipam-driver ovs-agent --subnet 10.31.0.0/24 db");
    for name in ["one", "two", "three"] {
        site.start(name, "--network web -p 7");
    }
    // Each talks to its neighbour, by name and with data.
    let talk = |from: &str, to: &str, network: &str| {
        let _server = site.container(to).echo_server();
        reaches(&site.container(from), site.address(network, to));
        site.docker(&format!("exec {from} ping -c 1 -W 2 {to}"));
    };
    talk("one", "two", "web");
    site.refused("network rm web", &["active endpoints"]);
    site.docker("kill two");
    site.docker("start two");
    talk("one", "two", "web");
    site.docker("restart -t 0 one");
    talk("two", "one", "web");
    site.docker("stop -t 0 three");
    // To a stopped one nothing is plugged in, until it starts.
    site.docker("network connect db three");
    site.docker("start three");
    talk("one", "three", "web");
    site.docker("network connect db one");
    talk("one", "three", "db");
    site.docker("pause one");
    site.docker("unpause one");
    site.docker("network disconnect web one");
    talk("three", "one", "db");
    site.docker("rename one uno");
    site.docker("exec three ping -c 1 -W 2 uno");
    // One that ends by itself, one that never starts.
    let said = site.docker("run --rm --network web localhost/rig:1 echo bye");
    assert_eq!(said.trim(), "bye");
    let never = "run --rm --network web -p 8088:7 localhost/rig:1 /no/such/program";
    site.refused(never, &["/no/such/program"]);
    site.docker("run --rm --network web -p 8088:7 localhost/rig:1 true");
    site.docker("rm -f uno two three");
    // What is gone is known to nobody.
    let shown = site.status();
    assert_eq!(shown["attachments"], serde_json::json!([]), "{shown}");
    assert_eq!(shown["ports"], serde_json::json!([]), "{shown}");
    site.docker("network rm web db");
    site.soon_as_before(&before);
    let log = site.log();
    assert!(!log.contains("ERROR"), "{log}");
}

fn thirty_containers_start_at_once(site: &Site) {
    site.docker("network create -d ovs-agent web");
    let before = site.snapshot();
    std::thread::scope(|scope| {
        let start = move |n: i32| {
            let run = format!("run -d --name c{n} --network web -p 7 {}", rig::Dockerd::IMAGE);
            site.try_docker(&run)
        };
        let threads: Vec<_> = (0..30).map(|n| scope.spawn(move || start(n))).collect();
        for thread in threads {
            let output = thread.join().unwrap();
            assert!(output.ok(), "{output}");
        }
    });
    // Everybody reaches the next one, and is reached.
    let all: Vec<_> = (0..30).map(|n| site.container(&format!("c{n}"))).collect();
    let addresses: Vec<_> = (0..30).map(|n| site.address("web", &format!("c{n}"))).collect();
    let mut once = addresses.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), 30, "{addresses:?}");
    let servers: Vec<_> = all.iter().map(rig::Container::echo_server).collect();
    for n in 0..30 {
        all[n].tcp_echo(addresses[(n + 1) % 30], DATA / 10).unwrap();
    }
    let ports = site.ports();
    assert_eq!(ports.len(), 30);
    for port in ports {
        assert_eq!(port["state"], "ok", "{port}");
        let number = u16::try_from(port["host_port"].as_u64().unwrap()).unwrap();
        site.peer().tcp_echo_port(site.lan()[0], number, DATA / 10).unwrap();
    }
    drop(servers);
    drop(all);
    let names: Vec<_> = (0..30).map(|n| format!("c{n}")).collect();
    site.docker(&format!("rm -f {}", names.join(" ")));
    site.soon_as_before(&before);
}
