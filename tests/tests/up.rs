//! `ovs-port-agent up` and `down` as a user calls them: what they make, and that nothing is left.

use std::fs;
use std::time::Duration;

use rig::{Host, PortAgent, Snapshot, assert_same, assert_soon_same, poll};

/// A configuration with everything that `up` can make.
const FULL: &str = r#"
[[bridge]]
name = "ovsbr0"
mode = "direct"
uplink = "enp2s0"
addresses = ["198.18.1.10/24"]
gateway = "198.18.1.1"

[[bridge]]
name = "ovsbr1"
mode = "nat"
addresses = ["10.200.0.1/24", "fd00:200::1/64"]
uplink = "wlp4s0"
mtu = 1400
"#;

/// A host with the two uplinks of [`FULL`], its wired one down and without address.
struct Laptop {
    _wired: rig::Uplink,
    _wifi: rig::Uplink,
    host: Host,
}

fn laptop() -> Laptop {
    let host = Host::new();
    let wired = host.uplink("enp2s0", 1);
    host.ip("link set enp2s0 down");
    let wifi = host.uplink("wlp4s0", 2).addressed(&host).routed(&host, 600);
    host.config(FULL);
    Laptop { _wired: wired, _wifi: wifi, host }
}

/// A picture of the host, its history left out: that stays by design.
fn picture(host: &Host) -> Snapshot {
    host.snapshot()
}

fn agent_fails(agent: &PortAgent, args: &str) -> String {
    let output = agent.output(args);
    assert!(!output.ok() && !output.timed_out, "{output}");
    let text = output.stderr.trim().to_owned();
    assert_eq!(text.lines().count(), 1, "one clear sentence: {output}");
    assert!(text.starts_with("ovs-port-agent: "), "{output}");
    text
}

#[test]
fn up_twice_is_up_once_and_down_leaves_nothing() {
    let Laptop { host, .. } = &laptop();
    let agent = host.port_agent();
    let before = picture(host);
    let first = agent.run("up");
    for said in [
        "bridge ovsbr0               made (netdev datapath), enp2s0 plugged in, enp2s0 set up, \
         198.18.1.10/24 added, default route via 198.18.1.1 added\n",
        "bridge ovsbr1               made (netdev datapath), MTU 1400 set, 10.200.0.1/24 added, \
         fd00:200::1/64 added\n",
        "forwarding, NAT and guard   set\n",
        "/etc/network/interfaces     managed block rewritten\n",
        "See \"ovs-port-agent status\"",
    ] {
        assert!(first.contains(said), "not said: {said}\n{first}");
    }
    let up = picture(host);
    assert!(up.difference(&before).contains("ovsbr0"));

    let second = agent.run("up");
    assert_same(&up, &picture(host));
    assert_eq!(second.matches(" as it was\n").count(), 4, "{second}");
    assert!(!second.contains("made") && !second.contains("added"), "{second}");

    let down = agent.run("down");
    assert!(down.contains("bridge ovsbr0               enp2s0 unplugged, removed\n"), "{down}");
    assert_same(&before, &picture(host));
    let again = agent.run("down");
    assert!(!again.contains("removed"), "{again}");
    assert_same(&before, &picture(host));
    let acts = host.sh("grep -o '\"action\":\"[a-z]*\"' /var/lib/ovs-port-agent/ledger.jsonl");
    assert_eq!(acts.matches("\"up\"").count(), 1, "what changes nothing is no history:\n{acts}");
    assert_eq!(acts.matches("\"down\"").count(), 1, "{acts}");
}

#[test]
fn down_without_up_changes_nothing() {
    let host = Host::new();
    host.vsctl("add-br mine -- set Bridge mine datapath_type=netdev");
    let before = host.snapshot().with_tree("/var/lib/ovs-port-agent");
    let said = host.port_agent().run("down");
    assert!(said.contains("bridge ovsbr0               as it was\n"), "{said}");
    assert_same(&before, &host.snapshot().with_tree("/var/lib/ovs-port-agent"));
}

#[test]
fn a_bridge_has_its_mac_and_its_mtu_for_good() {
    let Laptop { host, .. } = &laptop();
    let agent = host.port_agent();
    agent.run("up");
    let look = || {
        ["ovsbr0", "ovsbr1"].map(|bridge| {
            let link = host.ip(&format!("-o link show {bridge}"));
            let words: Vec<_> = link.split_whitespace().collect();
            let after = |key: &str| {
                let at = words.iter().position(|word| *word == key).expect(key);
                words[at + 1].to_owned()
            };
            (after("mtu"), after("link/ether"))
        })
    };
    let before = look();
    assert_eq!((before[0].0.as_str(), before[1].0.as_str()), ("1500", "1400"));
    let plugin = host.plugin();
    // The lowest MAC and the smallest MTU of all: ovs-vswitchd would take both.
    for (name, bridge, mac) in
        [("a", "ovsbr0", "02:00:00:00:00:01"), ("b", "ovsbr1", "02:00:00:00:00:02")]
    {
        let container = host.container(name);
        let small = serde_json::json!({
            "cniVersion": "1.0.0", "name": "small", "type": "ovs-agent", "bridge": bridge,
            "mtu": 1300, "mac": mac,
        });
        plugin.add(&container, &small).success();
        assert_eq!(look(), before, "with a small container on {bridge}");
        plugin.del(&container, &small).success();
        assert_eq!(look(), before, "without it");
    }
    let container = host.container("c");
    let nat = serde_json::json!({ "cniVersion": "1.0.0", "name": "nat", "type": "ovs-agent" });
    plugin.add(&container, &nat).success();
    assert!(container.ip("link show eth0").contains("mtu 1400"), "containers inherit the MTU");
}

#[test]
fn a_changed_configuration_takes_away_what_the_old_one_wanted() {
    let Laptop { host, .. } = &laptop();
    let agent = host.port_agent();
    let before = picture(host);
    agent.run("up");
    host.ip("link add spare type veth peer name spare-peer");
    host.config(
        &FULL
            .replace("enp2s0", "spare")
            .replace("198.18.1.10", "198.18.1.20")
            .replace("gateway = \"198.18.1.1\"", "gateway = \"198.18.1.2\""),
    );
    let said = agent.run("up");
    assert!(said.contains("enp2s0 unplugged") && said.contains("spare plugged in"), "{said}");
    let addresses = host.ip("-4 -o address show ovsbr0");
    assert!(addresses.contains("198.18.1.20") && !addresses.contains("198.18.1.10"));
    let routes = host.ip("-4 route show default");
    assert!(routes.contains("198.18.1.2 ") && !routes.contains("198.18.1.1 "), "{routes}");
    assert_eq!(host.vsctl("list-ports ovsbr0").trim(), "spare");
    assert!(host.ip("-o link show enp2s0").contains("state DOWN"));

    // A bridge that the file does not know any more goes as well.
    host.config("[[bridge]]\nname = \"other\"\nmode = \"direct\"\n");
    agent.run("down");
    host.config(FULL);
    host.ip("link delete spare");
    assert_same(&before, &picture(host));
}

#[test]
fn a_reboot_between_up_and_up_is_repaired() {
    let Laptop { host, .. } = &laptop();
    let agent = host.port_agent();
    let before = picture(host);
    agent.run("up");
    let up = picture(host);
    // What survives a reboot: the database and the files on disk.
    host.switch().stop_vswitchd();
    host.sh("for i in ovsbr0 ovsbr1; do ip link delete $i || :; done; \
         rm -r /run/ovs-port-agent; ip link set enp2s0 down; nft flush ruleset; \
         ip rule del pref 5100; ip rule del pref 5101; ip -6 rule del pref 5100; \
         ip -6 rule del pref 5101; for t in $(ip route show table all | grep -o 'table 1[0-9]*' | \
         cut -d' ' -f2 | sort -u); do ip route flush table $t; ip -6 route flush table $t; done; \
         echo 0 > /proc/sys/net/ipv4/conf/wlp4s0/forwarding");
    host.switch().start_vswitchd();
    let said = agent.run("up");
    assert!(said.contains("enp2s0 set up, 198.18.1.10/24 added"), "{said}");
    let difference = up.difference(&picture(host));
    // Forgotten with the boot: nothing but what was noted for `down`.
    assert!(!difference.contains("ovsdb") && !difference.contains("links:"), "{difference}");
    agent.run("down");
    let left = before.difference(&picture(host));
    assert!(!left.contains("ovsdb:") && !left.contains("links:"), "{left}");
}

#[test]
fn ports_of_an_earlier_boot_are_swept() {
    let host = Host::new();
    let agent = host.port_agent();
    agent.run("up");
    let port = |name: &str, boot: &str| {
        host.vsctl(&format!(
            "--no-wait add-port ovsbr1 {name} -- set Port {name} external_ids:owner=ovs-agent \
             external_ids:ovs-agent-network=n external_ids:ovs-agent-container={name} \
             external_ids:ovs-agent-ifname=eth0 external_ids:ovs-agent-boot={boot}"
        ));
    };
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    port("dead", "11111111-2222-3333-4444-555555555555");
    port("young", boot.trim());
    // Its device is there: whatever the row says, something may use it.
    host.ip("link add alive type veth peer name alive-peer");
    port("alive", "11111111-2222-3333-4444-555555555555");
    host.vsctl("--no-wait add-port ovsbr1 foreign");
    let said = agent.run("up");
    assert!(said.contains("ports of earlier boots      1 removed"), "{said}");
    let mut ports: Vec<_> = host.vsctl("list-ports ovsbr1").lines().map(str::to_owned).collect();
    ports.sort();
    // Of this boot, but neither a record nor a device speaks for it.
    assert!(said.contains("port young (there is no interface young, there is no record"), "{said}");
    assert_eq!(ports, ["alive", "foreign"]);
}

#[test]
fn down_refuses_while_containers_are_plugged_in() {
    let host = Host::new();
    let agent = host.port_agent();
    let before = host.snapshot();
    agent.run("up");
    let conf = serde_json::json!({ "cniVersion": "1.0.0", "name": "lab", "type": "ovs-agent" });
    let web = host.container("web");
    host.plugin().add(&web, &conf).success();
    let with = host.snapshot();
    let said = agent_fails(&agent, "down");
    assert!(
        said.contains("1 container") && said.contains("web") && said.contains("--force"),
        "{said}"
    );
    assert_same(&with, &host.snapshot());
    let said = agent.run("down --force");
    assert!(said.contains("containers                  1 unplugged"), "{said}");
    web.remove();
    assert_same(&before, &host.snapshot());
}

#[test]
fn down_refuses_to_take_ports_of_others_along() {
    let host = Host::new();
    let agent = host.port_agent();
    let before = host.snapshot();
    agent.run("up");
    host.vsctl("add-port ovsbr1 tap9 -- set Interface tap9 type=internal");
    let with = host.snapshot();
    let said = agent_fails(&agent, "down");
    assert!(said.contains("tap9") && said.contains("ovsbr1") && said.contains("--force"), "{said}");
    assert_same(&with, &host.snapshot());
    agent.run("down --force");
    poll("tap9 is gone", Duration::from_secs(5), || {
        (!host.try_sh("ip link show tap9").ok()).then_some(())
    });
    assert_same(&before, &host.snapshot());
}

#[test]
fn without_a_switch_up_says_so_at_once_and_changes_nothing() {
    let host = Host::new();
    let agent = host.port_agent();
    let files = || {
        let dirs = "/etc/network /run/ovs-port-agent /var/lib/ovs-port-agent";
        host.sh(&format!("find {dirs} -type f ! -name lock 2> /dev/null || :"))
    };
    let (links, found) = (host.ip("-o link"), files());
    let refused = |what: &[&str], seconds: u64| {
        let output = agent.output("up");
        assert!(!output.ok(), "{output}");
        assert_eq!(output.stderr.lines().count(), 1, "one sentence: {output}");
        assert!(output.took < Duration::from_secs(seconds), "{output} took {:?}", output.took);
        for word in what {
            assert!(output.stderr.contains(word), "{word} is not said: {output}");
        }
        assert_eq!((host.ip("-o link"), files()), (links.clone(), found.clone()));
        let status = agent.output("status");
        assert_eq!(status.status.code(), Some(1), "{status}");
        assert!(status.stdout.contains("PROBLEM"), "{status}");
        assert!(status.took < Duration::from_secs(2 * seconds), "{status}");
        assert_eq!((host.ip("-o link"), files()), (links.clone(), found.clone()), "{status}");
    };
    host.switch().freeze_vswitchd();
    refused(&["ovs-vswitchd did not answer", "restart"], 6);
    host.switch().thaw_vswitchd();
    host.switch().stop_vswitchd();
    refused(&["ovs-vswitchd does not run", "systemctl start openvswitch-switch"], 4);
    host.switch().start_vswitchd();
    host.switch().freeze_ovsdb();
    refused(&["ovsdb-server", "did not answer within 5 s", "restart"], 9);
    host.switch().thaw_ovsdb();
    host.switch().stop_ovsdb();
    refused(&["cannot reach ovsdb-server", "systemctl start openvswitch-switch"], 4);
    host.switch().start_ovsdb();
    poll("up", Duration::from_secs(20), || agent.output("up").ok().then_some(()));
}

#[test]
fn down_goes_as_far_as_it_can_say_and_is_finished_later() {
    let Laptop { host, .. } = &laptop();
    let agent = host.port_agent();
    let before = picture(host);
    agent.run("up");
    host.switch().stop_ovsdb();
    let said = agent_fails(&agent, "down");
    assert!(said.contains("cannot reach ovsdb-server"), "{said}");
    host.switch().start_ovsdb();
    agent.run("down");
    assert_soon_same(&before, Duration::from_secs(10), || picture(host));
}

/// A lookup that failed was taken for an interface that is gone, and its forwarding switched off.
#[test]
fn an_interface_that_cannot_be_looked_up_goes_on_forwarding() {
    let Laptop { host, .. } = &laptop();
    let agent = host.port_agent();
    agent.run("up");
    let forwarding = || {
        host.sh("cat /proc/sys/net/ipv4/conf/ovsbr1/forwarding /proc/sys/net/ipv4/conf/wlp4s0/forwarding")
    };
    assert_eq!(forwarding().split_whitespace().collect::<Vec<_>>(), ["1", "1"]);
    let mut refused = 0;
    for number in 1..=12 {
        let strace =
            format!("strace -f -qq -o /dev/null -e inject=ioctl:error=EMFILE:when={number}");
        let ended = host.try_sh(&format!("{strace} {} up", agent.path().display()));
        refused += usize::from(!ended.ok());
        assert_eq!(forwarding().split_whitespace().collect::<Vec<_>>(), ["1", "1"], "{ended}");
    }
    assert!(refused > 0, "no lookup failed");
    agent.run("up");
}
