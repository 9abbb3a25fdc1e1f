//! `ovs-port-agent doctor`: every check is broken for real, and put right by the very command that
//! the doctor prints.

use std::time::Duration;

use rig::bus::SystemBus;
use rig::{Container, Daemon, Host, INTERNET, Uplink, poll};
use serde_json::{Value, json};

/// Far above what it takes; a machine under load is slow.
const SOON: Duration = Duration::from_secs(10);

const CONFIG: &str = "/etc/ovs-port-agent/config.toml";

/// A finding of the doctor.
#[derive(Debug)]
struct Finding {
    verdict: String,
    says: String,
    fix: Option<String>,
}

/// What the doctor says under one head.
fn findings(host: &Host, what: &str) -> Vec<Finding> {
    let output = host.port_agent().output("doctor --json");
    let report: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output}"));
    let worst = match report["verdict"].as_str().unwrap() {
        "problem" => 2,
        "warning" => 1,
        _ => 0,
    };
    assert_eq!(output.status.code(), Some(worst), "{output}");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let checks = report["checks"].as_array().unwrap().iter();
    checks
        .filter(|check| check["what"] == what)
        .map(|check| Finding {
            verdict: text(&check["verdict"]).unwrap(),
            says: text(&check["says"]).unwrap(),
            fix: text(&check["fix"]),
        })
        .collect()
}

/// The one finding that is as bad as this and says so.
#[track_caller]
fn finding(host: &Host, what: &str, verdict: &str, word: &str) -> Finding {
    let all = findings(host, what);
    let told = format!("{all:#?}");
    let mut found = all.into_iter().filter(|f| f.verdict == verdict && f.says.contains(word));
    let Some(first) = found.next() else { panic!("{what}: no {verdict} with {word:?}: {told}") };
    first
}

/// Nothing but what is as it should be.
#[track_caller]
fn is_well(host: &Host, what: &str) {
    let bad: Vec<_> = findings(host, what).into_iter().filter(|f| f.verdict != "ok").collect();
    assert!(bad.is_empty(), "{what}: {bad:#?}");
}

/// The doctor sees it, and the command it prints puts it right.
#[track_caller]
fn heals(host: &Host, what: &str, verdict: &str, word: &str) -> String {
    let found = finding(host, what, verdict, word);
    let fix = found.fix.unwrap_or_else(|| panic!("no command for: {}", found.says));
    run(host, &fix);
    is_well(host, what);
    fix
}

/// As the user would: in a shell, with our program in the path.
#[track_caller]
fn run(host: &Host, command: &str) {
    let dir = host.port_agent().path().parent().unwrap().display().to_string();
    host.sh(&format!("PATH={dir}:/usr/local/sbin:$PATH; {command}"));
}

/// A host that is up, with a way out, and a container.
fn up() -> (Host, Uplink, Container) {
    let host = Host::new();
    let wire = host.uplink("eth0", 1).addressed(&host).routed(&host, 100);
    host.port_agent().run("up");
    let web = host.container("web");
    let conf = json!({ "cniVersion": "1.0.0", "name": "lab", "type": "ovs-agent" });
    host.plugin().add(&web, &conf).success();
    assert!(web.ping(INTERNET));
    (host, wire, web)
}

#[test]
fn a_sound_host_has_nothing_but_an_agent_to_wish_for() {
    let (host, _wire, _web) = up();
    let before = host.snapshot();
    let output = host.port_agent().output("doctor --quiet");
    assert_eq!(output.status.code(), Some(1), "{output}");
    assert!(output.stdout.starts_with("warning  agent  does not run"), "{output}");
    assert!(output.stdout.ends_with("\n1 warning.\n"), "{output}");
    let found = finding(&host, "agent", "warning", "does not run");
    // Whoever looks changes nothing.
    rig::assert_same(&before, &host.snapshot());
    run(&host, &found.fix.unwrap());
    poll("the agent lives", SOON, || host.port_agent().output("doctor").ok().then_some(()));
    let output = host.port_agent().output("doctor");
    assert!(output.stdout.ends_with("\nNothing to do.\n"), "{output}");
}

#[test]
fn daemons_that_do_not_run_are_started() {
    let (host, _wire, web) = up();
    // Where Debian's init script looks for what this host has elsewhere, and what it writes.
    host.sh("mount -t tmpfs none /var/log; mkdir -p /var/log/openvswitch /etc/openvswitch; \
             rm -f /etc/openvswitch/conf.db; ln -s /run/rig/conf.db /etc/openvswitch/conf.db");
    host.switch().stop_vswitchd();
    is_well(&host, "ovsdb-server");
    let fix = finding(&host, "ovs-vswitchd", "problem", "does not run").fix.unwrap();
    assert_eq!(fix, "service openvswitch-switch start");
    host.switch().stop_ovsdb();
    let found = finding(&host, "ovsdb-server", "problem", "cannot reach ovsdb-server");
    assert_eq!(found.fix.as_deref(), Some("service openvswitch-switch start"));
    run(&host, &fix);
    is_well(&host, "ovsdb-server");
    is_well(&host, "ovs-vswitchd");
    host.port_agent().run("up");
    poll("the container reaches its gateway", SOON, || {
        web.ping("10.200.0.1".parse().unwrap()).then_some(())
    });
}

#[test]
fn bridges_addresses_forwarding_and_rules_come_back() {
    let (host, _wire, web) = up();
    host.ip("address del 10.200.0.1/24 dev ovsbr1");
    heals(&host, "bridge", "problem", "ovsbr1 has lost 10.200.0.1/24");
    host.ip("link set ovsbr1 down");
    heals(&host, "bridge", "problem", "ovsbr1 is down");
    for name in ["ovsbr1", "eth0"] {
        host.sh(&format!("echo 0 >/proc/sys/net/ipv4/conf/{name}/forwarding"));
        heals(&host, "forwarding", "problem", name);
    }
    host.sh("nft flush chain inet ovs-agent srcnat");
    heals(&host, "NAT", "problem", "ovsbr1 lacks the nftables rule");
    host.sh("nft delete table inet ovs-agent");
    heals(&host, "NAT", "problem", "ovsbr1 lacks the nftables rule");
    poll("the container is out again", SOON, || web.ping(INTERNET).then_some(()));
    host.vsctl("del-br ovsbr0");
    heals(&host, "bridge", "problem", "ovsbr0 does not exist");
}

#[test]
fn a_datapath_this_kernel_does_not_have_is_exchanged() {
    if std::path::Path::new("/sys/module/openvswitch").exists() {
        // There the other direction is the one to see.
        let host = Host::new();
        host.config(
            "[[bridge]]\nname = \"ovsbr0\"\nmode = \"direct\"\ndatapath_type = \"netdev\"\n",
        );
        host.port_agent().run("up");
        heals(&host, "datapath", "note", "in userspace although the kernel could");
        return;
    }
    let (host, _wire, _web) = up();
    host.sh("ovs-vsctl --no-wait set Bridge ovsbr0 datapath_type=system");
    heals(&host, "datapath", "problem", "ovsbr0 wants the kernel's datapath");
}

#[test]
fn firewalls_that_drop_are_told_to_spare_us() {
    let (host, _wire, web) = up();
    // As dockerd does it when it comes after us.
    host.sh("iptables-nft -P FORWARD DROP");
    assert!(!web.ping(INTERNET));
    heals(&host, "FORWARD", "problem", "drops by default (iptables-nft)");
    assert!(web.ping(INTERNET));
    // Rules of the user's own, as in /etc/nftables.conf.
    host.sh("nft -f - <<'X'\ntable inet mine {\n chain forward {\n  type filter hook forward \
             priority filter; policy drop;\n }\n}\nX");
    assert!(!web.ping(INTERNET));
    let fix = heals(&host, "other firewalls", "problem", "inet mine forward drops");
    assert_eq!(
        fix,
        "nft insert rule inet mine forward meta mark and 0x1000 == 0x1000 accept comment ovs-agent"
    );
    assert!(web.ping(INTERNET));
    assert!(!web.ping("2001:db8:ffff::2".parse().unwrap()), "nobody is there");
}

#[test]
fn what_iptables_of_the_old_kind_drops_is_seen_too() {
    let (host, _wire, web) = up();
    if !host.try_sh("iptables-legacy -P FORWARD DROP").ok() {
        panic!("no iptables-legacy on this kernel: the check of it cannot be seen");
    }
    assert!(!web.ping(INTERNET));
    heals(&host, "FORWARD", "problem", "iptables-legacy");
    assert!(web.ping(INTERNET));
}

#[test]
fn uplinks_without_a_way_out_are_named() {
    let host = Host::new();
    let wire = host.uplink("enp2s0", 1);
    let wifi = host.uplink("wlp4s0", 2).addressed(&host).routed(&host, 600);
    host.config(
        "[[bridge]]\nname = \"ovsbr0\"\nmode = \"direct\"\nuplink = \"enp2s0\"\n\
         [[bridge]]\nname = \"ovsbr1\"\nmode = \"nat\"\naddresses = [\"10.200.0.1/24\"]\n\
         uplink = \"wlp4s0\"\n",
    );
    host.port_agent().run("up");
    is_well(&host, "uplink");
    host.ip("link set enp2s0 down");
    heals(&host, "uplink", "problem", "enp2s0, the wire of ovsbr0, is down");
    host.vsctl("del-port ovsbr0 enp2s0");
    heals(&host, "uplink", "problem", "enp2s0 is not plugged into ovsbr0");
    wire.router().ip("link set lan0 down");
    poll("the carrier is lost", SOON, || {
        let all = findings(&host, "uplink");
        all.iter().any(|f| f.says.contains("has no carrier")).then_some(())
    });
    wire.router().ip("link set lan0 up");
    host.ip("route del default dev wlp4s0");
    let found = finding(&host, "uplink", "warning", "no IPv4 default route leads out of wlp4s0");
    // Which router, only the user knows.
    run(&host, &found.fix.unwrap().replace("ROUTER", &wifi.gateway().to_string()));
    poll("the carrier is back", SOON, || {
        findings(&host, "uplink").iter().all(|f| f.verdict == "ok").then_some(())
    });
    host.ip("link set wlp4s0 down");
    let fix = finding(&host, "uplink", "problem", "wlp4s0, by which ovsbr1 leaves, is down").fix;
    run(&host, &fix.unwrap());
    assert!(!findings(&host, "uplink").iter().any(|f| f.verdict == "problem"));
}

#[test]
fn a_strict_reverse_path_filter_is_loosened_where_it_drops() {
    let host = Host::new();
    let wire = host.uplink("enp2s0", 1);
    let _wifi = host.uplink("wlp4s0", 2).addressed(&host).routed(&host, 100);
    host.config(
        "[[bridge]]\nname = \"ovsbr0\"\nmode = \"direct\"\nuplink = \"enp2s0\"\n\
         addresses = [\"198.18.1.2/24\"]\ngateway = \"198.18.1.1\"\n",
    );
    host.port_agent().run("up");
    is_well(&host, "rp_filter");
    host.sh("echo 1 >/proc/sys/net/ipv4/conf/all/rp_filter");
    // The LAN is not concerned, and knows the host's MAC from here on.
    poll("the LAN is served", SOON, || wire.router().ping(wire.address()).then_some(()));
    // Whether what comes from beyond the LAN gets as far as the host's own ICMP. An answer takes
    // the other way, and the routers here would drop it.
    let echoes = || -> u64 {
        let text = host.sh("nstat -asz IcmpInEchos");
        text.split_whitespace().nth(2).map_or(0, |n| n.parse().unwrap_or(0))
    };
    let arrives = || {
        let before = echoes();
        let me = wire.address();
        wire.router().exec(&format!("ping -c1 -W1 -I {INTERNET} {me} >/dev/null || true"));
        echoes() > before
    };
    assert!(!arrives(), "the strict filter drops nothing here");
    heals(&host, "rp_filter", "warning", "ovsbr0 drops what comes from beyond its subnet");
    assert!(arrives());
}

#[test]
fn frames_that_cross_a_linux_bridge_meet_no_forward_drop() {
    let host = Host::new();
    // The wire of ovsbr0 is a cable into a Linux bridge (Proxmox's vmbr0, say), with a LAN behind.
    let lan = host.container("lan");
    host.ip("link add vmbr0 type bridge");
    host.ip("link add wire0 type veth peer name wire1");
    host.ip("link add lan0 type veth peer name eth0 netns lan");
    for name in ["wire1", "lan0"] {
        host.ip(&format!("link set {name} master vmbr0"));
    }
    for name in ["vmbr0", "wire0", "wire1", "lan0"] {
        host.ip(&format!("link set {name} up"));
    }
    lan.ip("link set eth0 up");
    lan.ip("address add 172.16.0.2/24 dev eth0");
    host.config(
        "[[bridge]]\nname = \"ovsbr0\"\nmode = \"direct\"\nuplink = \"wire0\"\n\
         addresses = [\"172.16.0.10/24\"]\n",
    );
    host.port_agent().run("up");
    host.sh("ethtool -K ovsbr0 tx off >/dev/null");
    let me = "172.16.0.10".parse().unwrap();
    host.sh("echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables");
    is_well(&host, "br_netfilter");
    poll("the LAN is reached", SOON, || lan.ping(me).then_some(()));
    host.sh("iptables-nft -P FORWARD DROP");
    assert!(!lan.ping(me), "the frames pass FORWARD");
    let fix = heals(&host, "br_netfilter", "problem", "pass the Linux bridge vmbr0");
    assert_eq!(fix, "sysctl -w net/bridge/bridge-nf-call-iptables=0");
    assert!(lan.ping(me));
}

#[test]
fn sizes_that_do_not_fit_are_made_to() {
    let (host, _wire, web) = up();
    is_well(&host, "MTU");
    host.ip("link set eth0 mtu 1400");
    heals_with_others(&host, "ovsbr1 has 1500, its uplink eth0 1400");
    // Now the bridge is smaller than its ports.
    let found =
        finding(&host, "MTU", "warning", "port veth-web-eth0 has 1500, its bridge ovsbr1 1400");
    run(&host, &found.fix.unwrap());
    is_well(&host, "MTU");
    assert!(web.ip("link show eth0").contains("mtu 1400"));
    host.vsctl("set Interface ovsbr1 mtu_request=1300");
    host.config(
        "[[bridge]]\nname = \"ovsbr1\"\nmode = \"nat\"\naddresses = [\"10.200.0.1/24\"]\nmtu = 1400\n",
    );
    poll("the switch follows", SOON, || host.ip("link show ovsbr1").contains("1300").then_some(()));
    heals(&host, "MTU", "problem", "ovsbr1 has 1300, the configuration wants 1400");

    fn heals_with_others(host: &Host, word: &str) {
        let found = finding(host, "MTU", "warning", word);
        run(host, &found.fix.unwrap());
        poll("the switch follows", SOON, || {
            (!findings(host, "MTU").iter().any(|f| f.says.contains(word))).then_some(())
        });
    }
}

#[test]
fn rights_that_are_too_wide_are_narrowed() {
    let (host, _wire, _web) = up();
    let driver = host.docker_driver();
    is_well(&host, "rights");
    for (path, mode) in [
        ("/run/ovs-port-agent", "755"),
        ("/run/ovs-port-agent/leases", "777"),
        ("/run/docker/plugins/ovs-agent.sock", "666"),
        ("/var/lib/ovs-port-agent/ledger.jsonl", "666"),
        ("/var/lib/ovs-port-agent", "777"),
    ] {
        host.sh(&format!("chmod {mode} {path}"));
        heals(&host, "rights", "problem", path);
    }
    host.config("debounce_ms = 500\n");
    host.sh(&format!("chown 1000 {CONFIG}"));
    heals(&host, "rights", "problem", "belongs to user 1000");
    host.sh("mv /run/ovs-port-agent/leases /run/elsewhere && \
             ln -s /run/elsewhere /run/ovs-port-agent/leases");
    heals(&host, "rights", "warning", "/run/ovs-port-agent/leases is a symbolic link");
    drop(driver);
}

#[test]
fn a_configuration_that_cannot_be_used_is_opened_at_its_line() {
    let (host, _wire, _web) = up();
    host.config("debounce_ms = 500\n\ndebunce = 5\n");
    // An editor that takes the line away.
    host.write("/usr/local/sbin/ed-line", "#!/bin/sh\nsed -i \"${1#+}d\" \"$2\"\n");
    host.sh("chmod 755 /usr/local/sbin/ed-line");
    let found = finding(&host, "configuration", "problem", "config.toml:3:1: debunce: unknown key");
    let fix = found.fix.unwrap();
    assert_eq!(fix, format!("${{EDITOR:-editor}} +3 {CONFIG}"));
    run(&host, &format!("export EDITOR=ed-line; {fix}"));
    is_well(&host, "configuration");
}

#[test]
fn a_broken_history_is_set_aside_and_a_new_one_begins() {
    let (host, _wire, _web) = up();
    is_well(&host, "ledger");
    let ledger = "/var/lib/ovs-port-agent/ledger.jsonl";
    host.sh(&format!("sed -i '1s/\"seq\":1/\"seq\":7/' {ledger}"));
    heals(&host, "ledger", "problem", "the chain is broken");
    host.sh("ls -d /var/lib/ovs-port-agent/ledger.jsonl.broken-*/ledger.jsonl");
    host.port_agent().run("up");
    is_well(&host, "ledger");
    // A line that a power cut left unfinished.
    host.sh(&format!("printf '{{\"seq\":' >>{ledger}"));
    heals(&host, "ledger", "warning", "an unfinished line");
}

#[test]
fn what_was_made_by_hand_is_shown_and_removed() {
    let (host, _wire, web) = up();
    is_well(&host, "left behind");
    let before = host.snapshot();
    for program in ["iptables-nft", "iptables-legacy"] {
        for line in [
            "-t nat -A POSTROUTING -s 10.200.0.0/24 ! -o ovsbr1 -j MASQUERADE",
            "-A FORWARD -i ovsbr1 -j ACCEPT",
            "-A FORWARD -d 10.200.0.0/24 -m state --state RELATED,ESTABLISHED -j ACCEPT",
        ] {
            host.sh(&format!("{program} {line}"));
            heals(
                &host,
                "left behind",
                "warning",
                line.split(" -A ").last().unwrap().split_at(8).0,
            );
        }
    }
    // What others wrote, and what has nothing to do with us, is left alone.
    host.sh("iptables-nft -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE");
    is_well(&host, "left behind");
    host.sh("iptables-nft -t nat -D POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE");
    host.sh(
        "iptables-nft -A FORWARD -s 10.200.0.0/24 -m comment --comment \"it's kube\" -j ACCEPT",
    );
    heals(&host, "left behind", "note", "it'");
    host.sh(
        "nft -f - <<'X'\ntable ip old {\n chain post {\n  type nat hook postrouting priority 100;\n\
             \n  ip saddr 10.200.0.0/24 masquerade\n }\n}\nX",
    );
    heals(&host, "left behind", "warning", "a rule in ip old post masquerades");
    host.sh("nft delete table ip old");

    host.bridge("br-old");
    host.ip("address add 10.200.0.1/24 dev br-old");
    heals_first(&host, "problem", "br-old has 10.200.0.1/24, in a subnet of ours");
    heals(&host, "left behind", "note", "bridge br-old is in no configuration");
    host.sh("ovs-vsctl --no-wait add-port ovsbr1 veth-gone");
    poll("the switch has tried", SOON, || {
        findings(&host, "left behind")
            .iter()
            .any(|f| f.says.contains("leads nowhere"))
            .then_some(())
    });
    heals(&host, "left behind", "warning", "port veth-gone of ovsbr1, made by hand, leads nowhere");
    host.ip("link add vm0 type veth peer name vm1");
    host.vsctl("add-port ovsbr1 vm0");
    heals(
        &host,
        "left behind",
        "note",
        "vm0 was plugged into ovsbr1 by hand and carries every VLAN",
    );
    host.ip("link del vm0");
    assert!(web.ping(INTERNET));
    host.sh("for k in '' 6; do for t in nat filter; do ip${k}tables-legacy -t $t -S >/dev/null 2>&1 || true; done; done");
    drop(before);

    fn heals_first(host: &Host, verdict: &str, word: &str) {
        let fix = finding(host, "left behind", verdict, word).fix.unwrap();
        run(host, &fix);
        assert!(!findings(host, "left behind").iter().any(|f| f.says.contains(word)));
    }
}

#[test]
fn a_driver_that_died_is_no_driver() {
    let (host, _wire, _web) = up();
    let driver = host.docker_driver();
    let part = |host: &Host| -> String {
        let output = host.port_agent().output("status --json");
        let json: Value = serde_json::from_str(&output.stdout).unwrap();
        let parts = json["health"].as_array().unwrap();
        let part = parts.iter().find(|part| part["part"] == "Docker driver").unwrap();
        part["state"].as_str().unwrap().to_owned()
    };
    assert_eq!(part(&host), "works");
    drop(driver);
    let state = part(&host);
    assert!(["off", "fails"].contains(&state.as_str()), "{state}");
}

#[test]
fn a_name_that_the_bus_refuses_is_allowed() {
    let (host, _wire, _web) = up();
    is_well(&host, "D-Bus");
    let _bus = SystemBus::with_policy(&host, "");
    let agent = Daemon::start("ovs-port-agent", host.port_agent().command("run"));
    agent.ready(SOON, || agent.log().contains("the host is up"));
    let found = finding(&host, "D-Bus", "problem", "no policy for dev.ovs.PortAgent1");
    finding(&host, "D-Bus", "problem", "nobody has the name");
    run(&host, &found.fix.unwrap());
    poll("the agent has its name", SOON, || {
        findings(&host, "D-Bus").iter().all(|f| f.verdict == "ok").then_some(())
    });
    let all = findings(&host, "D-Bus");
    assert!(all.iter().any(|f| f.says == "dev.ovs.PortAgent1 is served"), "{all:#?}");
}
