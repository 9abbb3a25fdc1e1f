//! `./run install`, the hardened units, `./run uninstall`, as on a user's host.

use std::collections::BTreeSet;

use rig::{INTERNET, assert_same};

use super::{SECOND, lab, plug, users_machine};

/// Every file, directory and link that an install could touch; the ledger of systemd's own clock
/// files and of the journal aside.
const TREE: &str = "find /etc /usr/local /usr/lib/cni /opt /var/lib -xdev \
     -path /var/lib/docker -prune -o -path /var/lib/containers -prune -o \
     -path /var/lib/systemd -prune -o -path /var/lib/containerd -prune -o \
     -path /var/lib/openvswitch -prune -o -path /etc/openvswitch -prune -o \
     -path /var/lib/NetworkManager -prune -o \
     \\( -type d -printf '%p %m %U:%G\\n' -o -printf '%p %m %U:%G %s %l\\n' \\) 2>/dev/null | sort";

/// The most that `systemd-analyze security` may say of a unit.
const EXPOSURE: f64 = 3.0;

#[test]
fn an_install_works_hardened_and_an_uninstall_leaves_no_trace() {
    let machine = users_machine();
    // dockerd settles its rules after it has said that it is ready.
    machine.wait("Docker's rules", SECOND * 10, "iptables -S DOCKER-USER");
    // As the first "ip netns add" leaves the host, whatever comes of it.
    machine.sh("ip netns add first; ip netns del first");
    let tree = machine.sh(TREE);
    let before = machine.snapshot();

    machine.install("");
    for unit in ["ovs-port-agent", "ovs-agent-docker"] {
        let said = machine.sh(&format!("systemd-analyze security --no-pager {unit} | tail -n 1"));
        let exposure = said.split_whitespace().find_map(|word| word.parse::<f64>().ok());
        assert!(exposure.is_some_and(|exposure| exposure <= EXPOSURE), "{unit}: {said}");
        machine.sh(&format!("systemctl is-active {unit}; systemctl is-enabled {unit}"));
    }
    let status = machine.sh("systemctl status --no-pager ovs-port-agent");
    assert!(status.contains("Status: \"the host is as it should be\""), "{status}");
    let block = machine.read("/etc/network/interfaces");
    assert!(block.contains("iface ovsbr1"), "the unit may not write the block: {block}");
    // Twice is as good as once.
    machine.run("install").success();

    let (web, _) = plug(&machine, "web");
    web.tcp_echo(INTERNET, 1_000_000).unwrap();
    let refused = machine.run("uninstall");
    assert!(!refused.ok() && refused.stderr.contains("nothing was removed"), "{refused}");
    machine.sh("systemctl is-active ovs-port-agent ovs-agent-docker");
    web.tcp_echo(INTERNET, 100_000).unwrap();
    machine.cni("DEL", "web", &lab());
    drop(web);
    machine.sh("ip netns del web");

    machine.run("uninstall").success();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let left = machine.sh(TREE);
    let changed: Vec<_> = lines(&tree).symmetric_difference(&lines(&left)).cloned().collect();
    assert!(changed.is_empty(), "traces: {changed:#?}");
    assert_same(&before, &machine.snapshot());
    let units = machine.sh("systemctl list-units --all --no-legend 'ovs-port*' 'ovs-agent*'");
    assert_eq!(units, "", "a unit is left");
    assert_eq!(machine.sh("systemctl is-system-running"), "running\n");
}
