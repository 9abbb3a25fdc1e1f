//! Subnets, gateways, ranges and pools: whose address is whose.

use rig::INTERNET;
use serde_json::json;

use crate::site::{Site, closed, ip, reaches, surfs, with_both};

with_both!(
    docker_gives_addresses,
    our_pools_give_addresses,
    a_subnet_lives_in_one_place,
    the_pool_of_the_nat_bridge_is_one,
);

/// Docker's own IPAM.
fn docker_gives_addresses(site: &Site) {
    site.docker(
        "network create -d ovs-agent --subnet 10.30.0.0/24 --gateway 10.30.0.254 --ip-range \
         10.30.0.64/28 --aux-address printer=10.30.0.65 --aux-address far=10.30.0.9 lan",
    );
    let (one, two) = (site.start("one", "--network lan"), site.start("two", "--network lan"));
    assert_eq!(site.address("lan", "one"), ip("10.30.0.64"));
    assert_eq!(site.address("lan", "two"), ip("10.30.0.66"), "the range, less what is reserved");
    // Docker's own check, of 20.10 too.
    site.refused("run --rm --network lan --ip 10.30.0.9 localhost/rig:1", &["in use"]);
    let _server = two.echo_server();
    reaches(&one, ip("10.30.0.66"));
    // The gateway is the one that was named, and only that.
    assert!(one.ip("route").contains("default via 10.30.0.254 dev eth0"));
    let _host = site.host().echo_server();
    reaches(&one, ip("10.30.0.254"));
    assert!(!one.ping(ip("10.30.0.1")));
    surfs(&one, &[INTERNET]);
    assert_eq!(one.who_answers(INTERNET).unwrap().1, site.lan()[0]);
    // Two subnets of one family, and one without a word about its gateway.
    site.docker("network create -d ovs-agent --subnet 10.32.0.0/24 --subnet 10.33.0.0/24 both");
    let three = site.start("three", "--network both --ip 10.32.0.7");
    let four = site.start("four", "--network both --ip 10.33.0.7");
    for (container, gateway) in [(&three, "10.32.0.1"), (&four, "10.33.0.1")] {
        assert!(container.ip("route").contains(&format!("default via {gateway}")));
        reaches(container, ip(gateway));
        surfs(container, &[INTERNET]);
    }
    // Both families.
    site.docker(
        "network create -d ovs-agent --ipv6 --subnet fd00:30::/64 --gateway fd00:30::99 \
                 --subnet 10.34.0.0/24 six",
    );
    let (five, six) = (site.start("five", "--network six"), site.start("six", "--network six"));
    let _six = six.echo_server();
    reaches(&five, site.address6("six", "six"));
    reaches(&five, site.address("six", "six"));
    assert!(five.ip("-6 route").contains("default via fd00:30::99"));
    reaches(&five, ip("fd00:30::99"));
    surfs(&five, &[rig::INTERNET6]);
    site.docker("exec five ping -c 1 -W 2 six");
    // No addresses at all.
    site.docker("network create -d ovs-agent --ipam-driver null plain");
    let (seven, eight) =
        (site.start("seven", "--network plain"), site.start("eight", "--network plain"));
    assert_eq!(seven.ip("-o -4 address show dev eth0"), "");
    assert_eq!(seven.ip("-o link").lines().count(), 2, "a way out of Docker's own");
    seven.ip("address add 10.99.0.1/24 dev eth0");
    eight.ip("address add 10.99.0.2/24 dev eth0");
    let _eight = eight.echo_server();
    reaches(&seven, ip("10.99.0.2"));
    // What was asked for is what is shown.
    let shown = site.inspect("lan", ".IPAM.Config|json");
    for part in ["10.30.0.0/24", "10.30.0.64/28", "10.30.0.254", "\"printer\":\"10.30.0.65\""] {
        assert!(shown.contains(part), "{shown}");
    }
}

/// `--ipam-driver ovs-agent`.
fn our_pools_give_addresses(site: &Site) {
    let before = site.snapshot();
    let create = "network create -d ovs-agent --ipam-driver ovs-agent --subnet 10.31.0.0/24 \
                  --ip-range 10.31.0.64/30 --gateway 10.31.0.254 --aux-address printer=10.31.0.65 \
                  --aux-address far=10.31.0.9 own";
    site.docker(create);
    let (one, two) = (site.start("one", "--network own"), site.start("two", "--network own"));
    let given = [site.address("own", "one"), site.address("own", "two")];
    assert_eq!(given, [ip("10.31.0.64"), ip("10.31.0.66")], "the range, less what is reserved");
    let _server = two.echo_server();
    reaches(&one, given[1]);
    assert!(one.ip("route").contains("default via 10.31.0.254"));
    surfs(&one, &[INTERNET]);
    // What is asked for by name may lie anywhere in the subnet, but for what is reserved or held.
    let three = site.start("three", "--network own --ip 10.31.0.200");
    reaches(&three, given[1]);
    for (address, words) in [
        ("10.31.0.9", "is held by"),
        ("10.31.0.65", "is held by"),
        ("10.31.0.64", "is held by"),
        ("10.31.0.254", "10.31.0.254"),
        ("10.32.0.1", "10.32.0.1"),
    ] {
        let run = format!("run --rm --network own --ip {address} localhost/rig:1 true");
        site.refused(&run, &[words]);
    }
    let four = site.start("four", "--network own");
    assert_eq!(site.address("own", "four"), ip("10.31.0.67"));
    let full = "run --rm --network own localhost/rig:1 true";
    site.refused(full, &["no free address in 10.31.0.0/24"]);
    // What is given back is given again.
    site.docker("rm -f one");
    let five = site.start("five", "--network own");
    assert_eq!(site.address("own", "five"), ip("10.31.0.64"));
    let shown = site.inspect("own", ".IPAM|json");
    for part in ["\"Driver\":\"ovs-agent\"", "10.31.0.64/30", "10.31.0.254", "10.31.0.65"] {
        assert!(shown.contains(part), "{shown}");
    }
    site.docker("rm -f two three four five");
    site.docker("network rm own");
    // And all of it once more.
    site.docker(create);
    site.docker("run --rm --network own localhost/rig:1 true");
    site.docker("network rm own");
    drop((one, two, three, four, five));
    site.soon_as_before(&before);
}

fn a_subnet_lives_in_one_place(site: &Site) {
    let conf = |subnet: &str, vlan: u16| {
        json!({
            "cniVersion": "1.0.0", "name": "blue", "type": "ovs-agent", "vlan": vlan,
            "subnets": [subnet],
        })
    };
    site.docker("network create -d ovs-agent --subnet 10.30.0.0/24 routed");
    site.docker("network create -d ovs-agent --internal --subnet 10.31.0.0/24 inner");
    site.docker("network create -d ovs-agent --ipam-driver ovs-agent --subnet 10.32.0.0/24 ours");
    let blue = conf("10.33.0.0/24", 44);
    let pod = site.cni("pod", &blue);
    for (subnet, words) in [
        ("10.30.0.128/25", "10.30.0.0/24"),
        ("10.31.0.0/16", "10.3"),
        ("10.31.0.128/25", "10.31.0.0/24"),
        ("10.32.0.0/25", "overlaps 10.32.0.0/24"),
        ("10.33.0.0/24", "overlaps 10.33.0.0/24 of ovsbr1, VLAN 44"),
        ("10.200.0.0/23", "overlaps 10.200.0.0/24"),
    ] {
        let create = "network create -d ovs-agent --subnet";
        // Docker's own IPAM knows its own pools, and is as strict.
        site.refused(&format!("{create} {subnet} bad"), &["overlaps"]);
        site.refused(&format!("{create} {subnet} --ipam-driver ovs-agent bad"), &[words]);
    }
    // The same by name, in another VLAN, is another place.
    let same = "network create -d ovs-agent --ipam-driver ovs-agent --subnet 10.32.0.0/24 bad";
    site.refused(same, &["overlaps 10.32.0.0/24 of ovsbr1, VLAN"]);
    // Nor does anybody else get what Docker has.
    for subnet in ["10.30.0.0/24", "10.31.0.0/25", "10.32.0.0/24"] {
        let error = site.cni_refused("late", &conf(subnet, 45));
        assert!(error.contains("overlaps"), "{error}");
    }
    // A VLAN that somebody has is nobody else's.
    site.refused("network create -d ovs-agent -o vlan=44 bad", &["-o vlan \"44\"", "in use"]);
    site.cni_del(pod, &blue);
    // What was refused left no pool behind.
    site.docker("network rm routed inner ours");
    for subnet in ["10.30.0.0/23", "10.32.0.0/23"] {
        let create = "network create -d ovs-agent --ipam-driver ovs-agent --subnet";
        site.docker(&format!("{create} {subnet} good"));
        site.docker("network rm good");
    }
}

/// The pool shared with CNI and Podman, with and without naming it.
fn the_pool_of_the_nat_bridge_is_one(site: &Site) {
    let before = site.snapshot();
    site.docker("network create -d ovs-agent --ipam-driver ovs-agent --subnet 10.200.0.0/24 named");
    site.docker("network create -d ovs-agent --ipam-driver ovs-agent unnamed");
    let lab = json!({"cniVersion": "1.0.0", "name": "lab", "type": "ovs-agent"});
    let pod = site.cni("pod", &lab);
    let pods = pod.ip("-o -4 address show dev eth0");
    let pods = ip(pods.split_whitespace().nth(3).unwrap().split('/').next().unwrap());
    let one = site.start("one", "--network named --ip 10.200.0.77");
    let two = site.start("two", "--network unnamed");
    let addresses = [ip("10.200.0.77"), site.address("unnamed", "two"), pods];
    assert_eq!(site.address("named", "one"), addresses[0]);
    let _servers = [one.echo_server(), two.echo_server(), pod.echo_server()];
    let all = [&one, &two, &pod];
    for from in all {
        for to in addresses {
            reaches(from, to);
        }
        surfs(from, &[INTERNET]);
        assert!(from.ip("route").contains("default via 10.200.0.1 "));
        assert_eq!(from.who_answers(INTERNET).unwrap().1, site.lan()[0]);
    }
    // Untagged, each of them once, by its own name, with its holder's.
    let end = std::time::Instant::now() + crate::site::SOON;
    loop {
        let status = site.status();
        let mut shown: Vec<_> = status["attachments"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| {
                let text = |key: &str| one[key].as_str().unwrap().to_owned();
                (text("runtime"), text("container"), text("network"), text("vlan"))
            })
            .collect();
        shown.sort();
        let row = |runtime: &str, container: &str, network: &str| {
            let vlan = shown.first().map(|row| row.3.clone()).unwrap_or_default();
            (runtime.to_owned(), container.to_owned(), network.to_owned(), vlan)
        };
        let wanted = [
            row("cni", "pod", "lab"),
            row("docker", "one", "named"),
            row("docker", "two", "unnamed"),
        ];
        if shown == wanted {
            break;
        }
        assert!(std::time::Instant::now() < end, "{shown:?}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let run = format!("run --rm --network named --ip {pods} localhost/rig:1 true");
    site.refused(&run, &["is held by lab/pod/eth0"]);
    let taken = site.address("unnamed", "two");
    let run = format!("run --rm --network named --ip {taken} localhost/rig:1 true");
    site.refused(&run, &["is held by docker/"]);
    // Docker cannot be told what its pool is; the table is.
    let peer = site.peer();
    peer.ip(&format!("route add 10.200.0.0/24 via {}", site.lan()[0]));
    for address in addresses {
        closed(peer, address, rig::ECHO_PORT);
    }
    site.docker("rm -f one two");
    site.docker("network rm named unnamed");
    site.cni_del(pod, &lab);
    drop((one, two));
    site.soon_as_before(&before);
}
