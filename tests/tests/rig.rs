//! The rig proves itself before it judges anything else.

use std::time::Duration;

use rig::{Command, Container, Frame, Host, INTERNET, INTERNET6, assert_same, poll};

const SECOND: Duration = Duration::from_secs(1);

/// Plugs a container into a bridge with nothing but ip, ethtool and ovs-vsctl.
fn plug(host: &Host, container: &Container, bridge: &str, address: &str, tag: Option<u16>) {
    let port = format!("v-{}", container.name());
    host.ip(&format!("link add {port} type veth peer name eth0 netns {}", container.name()));
    host.ip(&format!("link set {port} up"));
    let tag = tag.map(|tag| format!("tag={tag}")).unwrap_or_default();
    host.vsctl(&format!("add-port {bridge} {port} {tag}"));
    container.ip(&format!("address add {address} dev eth0"));
    container.ip("link set eth0 up");
    host.switch().wait_open(&port);
}

#[test]
fn containers_plugged_by_hand_talk_once_checksums_are_real() {
    let host = Host::new();
    host.bridge("br0");
    let (one, two) = (host.container("one"), host.container("two"));
    plug(&host, &one, "br0", "10.9.0.1/24", None);
    plug(&host, &two, "br0", "10.9.0.2/24", None);
    let _server = two.echo_server();
    let address = "10.9.0.2".parse().unwrap();
    assert!(one.ping(address));
    // The trap of the userspace datapath: ping passes, TCP does not.
    one.tcp_echo(address, 1000).unwrap_err();
    for container in [&one, &two] {
        container.exec("ethtool -K eth0 tx off");
    }
    one.tcp_echo(address, 3_000_000).unwrap();
    one.udp_echo(address).unwrap();
    let (name, seen) = one.who_answers(address).unwrap();
    assert_eq!((name.as_str(), seen), ("two", "10.9.0.1".parse().unwrap()));
}

#[test]
fn raw_frames_show_their_tags() {
    let host = Host::new();
    host.bridge("br0");
    let (access, trunk, other) =
        (host.container("access"), host.container("trunk"), host.container("other"));
    plug(&host, &access, "br0", "10.9.0.1/24", Some(7));
    plug(&host, &trunk, "br0", "10.9.0.2/24", None);
    plug(&host, &other, "br0", "10.9.0.3/24", Some(8));
    let (sender, receiver, outsider) =
        (access.raw_socket("eth0"), trunk.raw_socket("eth0"), other.raw_socket("eth0"));
    sender.send(&Frame::broadcast(access.mac("eth0"), None, "seven"));
    let heard = receiver.hear("seven", SECOND * 3).unwrap();
    assert_eq!(heard.vlan, Some(7), "a bare OVS port trunks every VLAN");
    assert_eq!(outsider.hear("seven", SECOND / 2), None);
    receiver.send(&Frame::broadcast(trunk.mac("eth0"), Some(8), "eight"));
    let heard = outsider.hear("eight", SECOND * 3).unwrap();
    assert_eq!(heard.vlan, None);
    assert_eq!(sender.hear("eight", SECOND / 2), None);
}

#[test]
fn a_snapshot_sees_each_kind_of_leak() {
    let host = Host::new();
    host.bridge("br0");
    let before = host.snapshot();
    assert_same(&before, &host.snapshot());
    for (section, make, undo) in [
        ("links", "ip link add leak type veth peer name leak2", "ip link del leak"),
        ("addresses", "ip address add 10.1.1.1/32 dev lo", "ip address del 10.1.1.1/32 dev lo"),
        ("routes", "ip route add 10.1.2.0/24 dev lo", "ip route del 10.1.2.0/24 dev lo"),
        ("rules", "ip rule add from 10.1.2.3 table 77", "ip rule del from 10.1.2.3 table 77"),
        ("rules6", "ip -6 rule add from fd00::1 table 77", "ip -6 rule del from fd00::1 table 77"),
        ("nft", "nft add table inet leak", "nft delete table inet leak"),
        (
            "iptables-nft",
            "iptables-nft -A INPUT -s 10.9.9.9 -j DROP",
            "iptables-nft -D INPUT -s 10.9.9.9 -j DROP",
        ),
        (
            "ip6tables-legacy",
            "ip6tables-legacy -A INPUT -s fd00::9 -j DROP",
            "ip6tables-legacy -D INPUT -s fd00::9 -j DROP",
        ),
        ("ovsdb", "ovs-vsctl add-port br0 leak", "ovs-vsctl del-port leak"),
        (
            "settings",
            "echo 1 >/proc/sys/net/ipv4/conf/lo/forwarding",
            "echo 0 >/proc/sys/net/ipv4/conf/lo/forwarding",
        ),
        ("/etc/network", "echo >>/etc/network/leak", "rm /etc/network/leak"),
        (
            "/run/ovs-port-agent",
            "mkdir /run/ovs-port-agent; echo x >/run/ovs-port-agent/leak",
            "rm -r /run/ovs-port-agent",
        ),
    ] {
        host.sh(make);
        let difference = before.difference(&host.snapshot());
        assert!(difference.contains(section), "{make} was not seen in {section}: {difference:?}");
        host.sh(undo);
    }
}

#[test]
fn an_uplink_leads_to_an_internet_that_knows_only_its_lan() {
    let host = Host::bare();
    let wire = host.uplink("enp2s0", 1).addressed(&host).routed(&host, 100);
    assert_eq!(host.sh("ip -o -4 route show default").matches("enp2s0").count(), 1);
    let near = host.container("near");
    host.sh("ip link add v type veth peer name eth0 netns near; ip link set v up; \
             ip address add 10.9.0.1/24 dev v; echo 1 >/proc/sys/net/ipv4/ip_forward");
    near.exec(
        "ip address add 10.9.0.2/24 dev eth0; ip link set eth0 up; \
               ip route add default via 10.9.0.1",
    );
    assert!(!near.ping(INTERNET), "no answer without NAT");
    host.sh("nft 'add table ip n; add chain ip n p { type nat hook postrouting priority 100; }; \
             add rule ip n p ip saddr 10.9.0.0/24 masquerade'");
    let (name, seen) = near.who_answers(INTERNET).unwrap();
    assert_eq!((name, seen), ("lan-enp2s0".to_owned(), wire.address()));
    let own = host.sh(&format!("ping -n -q -c 1 -W 2 {INTERNET6}"));
    assert!(own.contains("1 received"), "{own}");
}

#[test]
fn the_switch_can_be_frozen_killed_and_started_again() {
    let host = Host::new();
    host.bridge("br0");
    let ask = || Command::new("ovs-vsctl").args(["--timeout=1", "list-br"]).output().ok();
    let open = || {
        let args = ["--timeout=1", "add-port", "br0", "probe", "--", "set", "Interface", "probe"];
        let added = Command::new("ovs-vsctl").args(args).args(["type=internal"]).output().ok();
        host.sh("ovs-vsctl --no-wait --if-exists del-port probe");
        added
    };
    // A busy machine takes its time, and ovs-vswitchd a second or two to find its database again.
    let answers = || poll("ovsdb-server does not answer", SECOND * 15, || ask().then_some(()));
    let works = || poll("ovs-vswitchd opens no port", SECOND * 15, || open().then_some(()));
    let switch = host.switch();
    switch.freeze_ovsdb();
    assert!(!ask());
    switch.thaw_ovsdb();
    answers();
    switch.kill_ovsdb();
    assert!(!ask());
    switch.start_ovsdb();
    answers();
    works();
    switch.freeze_vswitchd();
    assert!(!open());
    switch.thaw_vswitchd();
    works();
    switch.kill_vswitchd();
    assert!(!open());
    switch.start_vswitchd();
    works();
    switch.restart_vswitchd();
    switch.restart_ovsdb();
    works();
}

#[test]
fn a_host_has_own_files_and_interfaces() {
    let mark = "/etc/ovs-port-agent/rig-was-here";
    let host = Host::bare();
    host.config("bridge_name = \"ovsbr0\"\n");
    host.write(mark, "");
    host.write("/var/lib/ovs-port-agent/rig-was-here", "");
    host.write("/opt/cni/bin/rig-was-here", "");
    assert_eq!(host.sh("ls /sys/class/net").trim(), "lo");
    assert_eq!(host.sh("cat /etc/network/interfaces"), "auto lo\niface lo inet loopback\n");
    drop(host);
    assert!(!std::path::Path::new(mark).exists(), "the machine's own /etc was written");
    assert!(!std::path::Path::new("/opt/cni/bin/rig-was-here").exists());
    // The thread is back where it was, and can make a host again.
    let again = Host::bare();
    assert_eq!(again.sh("ls /etc/ovs-port-agent 2>&1 || true").matches("rig").count(), 0);
}

#[test]
fn nothing_survives_a_host() {
    let host = Host::new();
    let container = host.container("box");
    // Daemonised twice over: no child of ours any more, and in a container's namespace.
    container.exec("setsid sh -c 'sleep 300 & echo $! >/run/rig/pid' >/dev/null 2>&1 &");
    let pid: u32 = poll("the pid file", SECOND * 5, || {
        std::fs::read_to_string("/run/rig/pid").ok()?.trim().parse().ok()
    });
    let proc = format!("/proc/{pid}/stat");
    let state = || std::fs::read_to_string(&proc).ok();
    let alive = || state().is_some_and(|text| !text.contains(") Z "));
    assert!(alive());
    drop((container, host));
    poll("the daemon lives", SECOND * 5, || (!alive()).then_some(()));
}

#[test]
fn a_hanging_child_ends_at_its_deadline() {
    let _host = Host::bare();
    let output = Command::new("sleep").args(["60"]).deadline(SECOND / 5).output();
    assert!(output.timed_out && output.took < SECOND * 5, "{output}");
    let big = "x".repeat(300_000);
    let echoed = Command::new("cat").stdin(big.clone()).run();
    assert_eq!(echoed, big);
}
