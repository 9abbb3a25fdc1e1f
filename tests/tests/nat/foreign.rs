//! Beside the rules and bridges of others.

use super::*;

/// What the four save programs say, without counters and dates.
fn saved(host: &Host) -> Vec<String> {
    let text = host.sh("for p in iptables-nft ip6tables-nft iptables-legacy ip6tables-legacy; do \
         echo \"== $p\"; $p-save; done");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(" [").next().unwrap_or(line).trim_end().to_owned()).collect()
}

fn is_tagged(line: &str) -> bool {
    line.contains("--comment ovs-agent ")
}

/// What others have in there.
fn foreign(lines: &[String]) -> Vec<String> {
    lines.iter().filter(|line| !is_tagged(line)).cloned().collect()
}

/// Rules of somebody else, and the policy that is in our way.
fn drop_forwarded(host: &Host, backend: &str) {
    for family in ["iptables", "ip6tables"] {
        host.sh(&format!(
            "i={family}-{backend}; $i -P FORWARD DROP; $i -A FORWARD -i foreign0 -j ACCEPT; \
             $i -A FORWARD -m comment --comment \"not ovs-agent\" -j LOG; $i -N MINE; \
             $i -A MINE -p tcp --dport 80 -j RETURN; $i -t nat -A POSTROUTING -o foreign0 -j MASQUERADE",
        ));
    }
}

fn passes_a_forward_drop(backend: &str) {
    let host = host();
    let wire = host.uplink("eth0", 1).addressed(&host).routed(&host, 100);
    let container = network(&host, "ovsbr1", 1);
    drop_forwarded(&host, backend);
    let before = saved(&host);
    assert!(apply(&[segment("ovsbr1", 1, Uplink::Default)]));
    assert_eq!(tagged::missing().unwrap().len(), 2);
    silent(&container, INTERNET);

    assert!(tagged::ensure(&state()).unwrap());
    assert!(!tagged::ensure(&state()).unwrap());
    assert_eq!(tagged::missing().unwrap(), [""; 0]);
    reaches_internet(&container, &wire);
    let with = saved(&host);
    assert_eq!(foreign(&with), before);
    let rule = "-A FORWARD -m mark --mark 0x1000/0x1000 -m comment --comment ovs-agent -j ACCEPT";
    let ours: Vec<_> = with.iter().filter(|line| is_tagged(line)).collect();
    assert_eq!(ours, [rule, rule]);
    let first = with.iter().find(|line| line.starts_with("-A FORWARD"));
    assert_eq!(first.map(String::as_str), Some(rule), "on top of the chain");

    // Docker comes: its chain is the right place.
    host.sh(&format!(
        "for i in iptables-{backend} ip6tables-{backend}; do $i -N DOCKER-USER; \
         $i -A DOCKER-USER -j RETURN; $i -I FORWARD -j DOCKER-USER; done"
    ));
    assert!(tagged::ensure(&state()).unwrap());
    assert!(!tagged::ensure(&state()).unwrap());
    reaches_internet(&container, &wire);
    let with = saved(&host);
    assert_eq!(with.iter().filter(|line| is_tagged(line)).count(), 2);
    let rule = rule.replace("-A FORWARD", "-A DOCKER-USER");
    assert!(with.contains(&rule));

    // Down: what others have stays as it is.
    let docker = foreign(&with);
    assert!(tagged::remove(&state()).unwrap());
    assert!(!tagged::remove(&state()).unwrap());
    assert!(remove());
    assert_eq!(saved(&host), docker);
}

#[test]
fn traffic_passes_a_forward_drop_of_iptables_nft() {
    passes_a_forward_drop("nft");
}

#[test]
fn traffic_passes_a_forward_drop_of_legacy_iptables() {
    passes_a_forward_drop("legacy");
}

/// Agent, driver and command line each found no rule and added theirs.
#[test]
fn many_who_look_for_the_rule_at_once_add_it_once() {
    let host = host();
    for attack in ["-P FORWARD DROP", "-F FORWARD", "-F FORWARD"] {
        host.sh(&format!("iptables-nft {attack}; iptables-legacy {attack}"));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| tagged::ensure(&state()).unwrap());
            }
        });
        let rules = saved(&host);
        assert_eq!(rules.iter().filter(|line| is_tagged(line)).count(), 2, "{rules:#?}");
    }
}

#[test]
fn no_filter_table_is_made_where_none_is() {
    let host = host();
    assert!(!tagged::ensure(&state()).unwrap());
    assert!(!tagged::remove(&state()).unwrap());
    assert_eq!(host.sh("nft list ruleset"), "");
    assert_eq!(host.sh("cat /proc/net/ip_tables_names 2>/dev/null || true"), "");
}

#[test]
fn another_managers_bridge_is_its_own_business() {
    let host = host();
    let wire = host.uplink("eth0", 1).addressed(&host).routed(&host, 100);
    let container = network(&host, "ovsbr1", 1);
    let foreign = host.container("foreign");
    host.ip("link add docker0 type bridge");
    host.ip("address add 172.17.0.1/16 dev docker0");
    host.ip("link set docker0 up");
    host.ip("link add v0 type veth peer name eth0 netns foreign");
    host.ip("link set v0 master docker0 up");
    foreign.ip("address add 172.17.0.2/16 dev eth0");
    foreign.ip("link set eth0 up");
    foreign.ip("route add default via 172.17.0.1");
    let _servers = [foreign.echo_server(), container.echo_server()];
    assert!(apply(&[segment("ovsbr1", 1, Uplink::Default)]));
    // As Docker does: forwarding for all, nothing passes but what it knows.
    host.sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
    host.sh("iptables-nft -P FORWARD DROP");
    host.sh("iptables-nft -A FORWARD -o docker0 -m conntrack --ctstate ESTABLISHED -j ACCEPT");
    host.sh("iptables-nft -A FORWARD -i docker0 ! -o docker0 -j ACCEPT");
    host.sh("iptables-nft -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE");
    assert!(tagged::ensure(&state()).unwrap());
    reaches_internet(&container, &wire);
    silent(&container, ip("172.17.0.2"));
    silent(&foreign, ip("10.200.1.5"));
    // Forwarding was ours on eth0 first; Docker's containers have their answers all the same.
    foreign.tcp_echo(INTERNET, DATA).unwrap();
    // And it stays on for Docker once we are gone.
    assert!(tagged::remove(&state()).unwrap());
    assert!(remove());
    foreign.tcp_echo(INTERNET, DATA).unwrap();
}
