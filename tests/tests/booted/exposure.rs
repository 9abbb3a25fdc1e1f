//! Whoever loads a firewall anew on a booted host (row 26 of docs/faults.md): a LAN peer that never
//! stops trying gets in at no moment, and the way out comes back.

use std::time::Duration;

use rig::{CONVERGED, Datagrams, Machine, Recovery, poll, rounds};
use serde_json::json;

use super::{CONFIG, SECOND, WIRELESS, lab, users_machine};

/// A port of the container that nobody published.
const CLOSED: u16 = 4242;

/// nftables.service with rules of its user, which begin as Debian's file does.
const RULES: &str = "#!/usr/sbin/nft -f\nflush ruleset\ntable inet filter { chain input { type filter \
                     hook input priority filter; policy accept; }; }\n";

#[test]
fn no_restart_of_a_firewall_lets_anybody_in() {
    let machine = users_machine();
    machine.install(CONFIG);
    machine.write("/etc/nftables.conf", RULES);
    let conf = {
        let mut conf = lab();
        conf["capabilities"] = json!({ "portMappings": true });
        conf["runtimeConfig"] = json!({ "portMappings": [
            { "hostPort": 8007, "containerPort": rig::ECHO_PORT, "protocol": "udp" }
        ] });
        conf
    };
    machine.sh("ip netns add web; ip -n web link set lo up
         sysctl -q net.ipv4.ip_forward=1");
    let result = machine.cni("ADD", "web", &conf);
    let own = result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap();
    let own = own.parse().unwrap();
    let web = machine.netns("web", "/run/netns/web");
    let _server = web.echo_server();
    let peer = machine.wireless().peer(machine.outside(), "peer", 77);
    peer.ip(&format!("route add 10.200.0.0/24 via {WIRELESS}"));
    let router = machine.wireless().address(1);
    let mut silence = Recovery::of("26 firewall restarted, booted host: no way out");
    let mut published =
        Recovery::of("26 firewall restarted, booted host: a published port is silent");
    let probed = |what: &str, script: &str, after: Duration| {
        let inside = Datagrams::into(&peer, &web, own, CLOSED);
        let out = Datagrams::echo(&web, router, rig::ECHO_PORT);
        let port = Datagrams::echo(&peer, WIRELESS, 8007);
        std::thread::sleep(Duration::from_millis(300));
        let done = machine.try_sh(script);
        std::thread::sleep(after);
        let (inside, out, port) = (inside.end(), out.end(), port.end());
        println!(
            "{what} in {} ms: {} tries, {} got in",
            done.took.as_millis(),
            inside.sent,
            inside.arrived.len()
        );
        assert!(done.ok(), "{what}: {done}");
        assert!(inside.sent > 300, "the peer tried {} times", inside.sent);
        (inside.arrived.len(), out.longest_silence(), port.longest_silence())
    };
    let works = |what: &str| {
        poll(&format!("{what}: a way out"), CONVERGED, || web.udp_echo(router).ok());
    };
    works("before");
    for _ in 0..rounds(1, 10) {
        for (what, script) in [
            ("nft flush ruleset", "nft flush ruleset"),
            ("nftables.service restarts", "systemctl restart nftables"),
            ("nftables.service reloads", "systemctl reload nftables"),
            ("nftables.service stops", "systemctl stop nftables"),
            ("dockerd restarts", "systemctl restart docker"),
            ("firewalld starts", "systemctl start firewalld"),
            ("firewalld reloads", "firewall-cmd --reload"),
            ("firewalld restarts", "systemctl restart firewalld"),
            ("firewalld reloads all", "firewall-cmd --complete-reload"),
            ("firewalld stops", "systemctl stop firewalld"),
            ("the agent restarts", "systemctl restart ovs-port-agent"),
            ("the agent dies", "systemctl kill -s KILL ovs-port-agent"),
        ] {
            let (inside, out, port) = probed(what, script, SECOND);
            assert_eq!(inside, 0, "{what}: a peer got in");
            works(what);
            silence.took(out);
            published.took(port);
            let health = "ovs-port-agent status >/dev/null && systemctl is-active ovs-port-agent";
            machine.wait(&format!("{what}: all well"), CONVERGED * 2, health);
        }
    }
    machine.cni("DEL", "web", &conf);
    real(&machine);
}

/// The probe is real: where the agent is gone and its table with it, the peer gets in.
fn real(machine: &Machine) {
    let result = machine.cni("ADD", "web", &lab());
    let own = result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap();
    machine.sh("systemctl stop ovs-port-agent; nft delete table inet ovs-agent; \
                iptables -P FORWARD ACCEPT");
    let web = machine.netns("web", "/run/netns/web");
    let peer = machine.wireless().peer(machine.outside(), "late", 78);
    peer.ip(&format!("route add 10.200.0.0/24 via {WIRELESS}"));
    let inside = Datagrams::into(&peer, &web, own.parse().unwrap(), CLOSED);
    std::thread::sleep(Duration::from_millis(500));
    assert!(!inside.end().arrived.is_empty(), "the probe proves nothing");
}
