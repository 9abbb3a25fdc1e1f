//! Our rules survive what others do to nftables.

use std::time::Instant;

use super::*;

/// How long until `probe` says yes; panics after [`SOON`].
fn until(what: &str, mut probe: impl FnMut() -> bool) -> Duration {
    let begin = Instant::now();
    poll(what, SOON, || probe().then_some(()));
    let took = begin.elapsed();
    println!("{what}: {} ms", took.as_millis());
    took
}

#[test]
fn where_the_kernel_protects_tables_nobody_takes_ours() {
    let lab = Lab::new();
    let (web, ..) = lab.add("web", json!([port(8007, "tcp")]));
    let _server = web.echo_server();
    let listing = || lab.host.sh("nft list table inet ovs-agent");
    let before = listing();
    assert!(before.contains("flags owner"), "{before}");
    for attack in [
        "nft flush ruleset",
        "nft delete table inet ovs-agent",
        "nft flush chain inet ovs-agent forward",
        "nft flush map inet ovs-agent ports-ipv4",
    ] {
        lab.host.try_sh(attack);
        assert_eq!(listing(), before, "{attack}");
    }
    // A network made on first use is written by the agent, on behalf of the plugin.
    let blue = lab.host.container("blue");
    let mut conf = conf(json!([]));
    conf["vlan"] = json!(30);
    conf["subnets"] = json!(["10.30.0.0/24"]);
    lab.host.plugin().add(&blue, &conf).success();
    assert!(listing().contains("masquerade 10.30.0.0/24"), "{}", listing());
    lab.peer().tcp_echo_port(lab.wire.address(), 8007, DATA).unwrap();
    assert!(blue.ping(rig::INTERNET));
}

#[test]
fn elsewhere_they_are_back_within_a_second() {
    let lab = Lab::with("protect_rules = false\n");
    let (web, ..) = lab.add("web", json!([port(8007, "tcp")]));
    let _server = web.echo_server();
    let listing = || lab.host.try_sh("nft list table inet ovs-agent").stdout;
    let before = listing();
    assert!(!before.contains("flags owner") && before.contains("8007"), "{before}");
    for attack in [
        "nft flush ruleset",
        "nft delete table inet ovs-agent",
        "nft flush chain inet ovs-agent forward",
        "nft flush map inet ovs-agent ports-ipv4",
        "nft insert rule inet ovs-agent forward accept",
    ] {
        lab.host.sh(attack);
        let took = until(attack, || listing() == before);
        assert!(took < Duration::from_secs(1), "{attack}: {took:?}");
    }
    lab.peer().tcp_echo_port(lab.wire.address(), 8007, DATA).unwrap();
    assert!(web.ping(rig::INTERNET));
}

#[test]
fn the_one_rule_elsewhere_is_back_within_a_second() {
    let lab = Lab::new();
    lab.host.sh("iptables -P FORWARD DROP");
    let there = || lab.host.sh("iptables -S").contains("--comment ovs-agent");
    until("the table of iptables comes", there);
    for attack in [
        "iptables -F FORWARD",
        "nft flush ruleset; iptables -P FORWARD DROP",
        // What dockerd does when it starts.
        "iptables -N DOCKER-USER; iptables -A DOCKER-USER -j RETURN; \
         iptables -I FORWARD -j DOCKER-USER",
        // What is left of that then is a chain that nothing leads to.
        "iptables -F FORWARD",
    ] {
        lab.host.sh(attack);
        let took = until(attack, || {
            let rules = lab.host.sh("iptables -S");
            let docker = rules.contains("-A FORWARD -j DOCKER-USER");
            let chain = if docker { "-A DOCKER-USER" } else { "-A FORWARD" };
            rules.lines().any(|line| line.starts_with(chain) && line.contains("ovs-agent"))
        });
        assert!(took < Duration::from_secs(1), "{attack}: {took:?}");
    }
}

#[test]
fn a_restart_leaves_no_gap() {
    let mut lab = Lab::new();
    let (web, ..) = lab.add("web", json!([port(8007, "tcp")]));
    let _server = web.echo_server();
    let stream = lab.peer().connect(lab.wire.address(), 8007).unwrap();
    lab.agent.kill();
    assert!(!lab.host.sh("nft list table inet ovs-agent").contains("owner"));
    // Without an agent anybody of ours may write it.
    let blue = lab.host.container("blue");
    let mut conf = conf(json!([]));
    conf["vlan"] = json!(30);
    conf["subnets"] = json!(["10.30.0.0/24"]);
    lab.host.plugin().add(&blue, &conf).success();
    lab.peer().tcp_echo_port(lab.wire.address(), 8007, DATA).unwrap();
    lab.agent = start(&lab.host);
    let listing = || lab.host.sh("nft list table inet ovs-agent");
    poll("it is ours again", SOON, || listing().contains("flags owner").then_some(()));
    assert!(listing().contains("8007") && listing().contains("10.30.0.0/24"));
    rig::tcp_exchange(stream, DATA).unwrap();
}
