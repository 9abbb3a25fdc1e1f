//! A host that somebody has set up by hand: `up` adds to it, `down` takes only that back.

use std::time::Duration;

use rig::{Host, assert_same, poll};

/// What a user typed before he heard of us.
const BY_HAND: &str = "
ovs-vsctl add-br ovsbr0 -- set Bridge ovsbr0 datapath_type=netdev fail_mode=standalone \
    other_config:hwaddr=02:00:00:00:0a:01 other_config:mine=1 external_ids:mine=yes \
    external_ids:bridge-id=ovsbr0 stp_enable=false
ovs-vsctl set-controller ovsbr0 ptcp:6653:127.0.0.1
ovs-vsctl add-port ovsbr0 mine0 tag=7 -- set Interface mine0 type=internal external_ids:a=b
ovs-vsctl set Interface ovsbr0 mtu_request=1450
ip address add 192.0.2.1/24 dev ovsbr0
ip link set ovsbr0 up
ip link set ovsbr0 down
ovs-vsctl add-br ovsbr1 -- set Bridge ovsbr1 datapath_type=netdev external_ids:mine=too
ip address add 10.200.0.1/24 dev ovsbr1
ip link set ovsbr1 up
iptables-nft -t nat -A POSTROUTING -s 10.200.0.0/24 -j MASQUERADE
iptables-nft -A FORWARD -i ovsbr1 -j ACCEPT
iptables-legacy -t nat -A POSTROUTING -s 10.200.0.0/24 -j MASQUERADE
iptables-legacy -A FORWARD -i ovsbr1 -j ACCEPT
ip6tables-nft -P FORWARD DROP
echo 1 > /proc/sys/net/ipv4/conf/ovsbr1/forwarding
";

const CONFIG: &str = r#"
[[bridge]]
name = "ovsbr0"
mode = "direct"
uplink = "enp2s0"
addresses = ["198.18.1.10/24", "192.0.2.1/24"]
gateway = "198.18.1.1"
mtu = 1400

[[bridge]]
name = "ovsbr1"
mode = "nat"
addresses = ["10.200.0.1/24", "fd00:200::1/64"]
"#;

#[test]
fn hand_made_bridges_addresses_and_rules_stay() {
    let host = Host::new();
    let _wire = host.uplink("enp2s0", 1);
    host.sh(BY_HAND);
    host.config(CONFIG);
    let agent = host.port_agent();
    let before = host.snapshot();
    let said = agent.run("up");
    assert!(!said.contains("made"), "{said}");
    for act in [
        "bridge ovsbr0               MTU 1400 set, enp2s0 plugged in, 198.18.1.10/24 added, \
         set up, default route via 198.18.1.1 added",
        "bridge ovsbr1               fd00:200::1/64 added",
    ] {
        assert!(said.contains(act), "not said: {act}\n{said}");
    }
    let up = host.snapshot();
    for section in [
        "addresses",
        "routes",
        "rules",
        "rules6",
        "nft",
        "iptables-nft-save",
        "ip6tables-nft-save",
        "iptables-legacy-save",
        "ip6tables-legacy-save",
    ] {
        let now = up.section(section);
        for line in before.section(section) {
            assert!(now.contains(line), "{section}: gone is {line}");
        }
    }
    for kept in [
        "get Bridge ovsbr0 datapath_type fail_mode other_config",
        "get Bridge ovsbr0 external_ids controller",
        "get Bridge ovsbr1 datapath_type external_ids other_config",
    ] {
        let now = host.vsctl(kept);
        assert!(!now.contains("ovs-agent"), "{kept}: {now}");
    }
    agent.run("up");
    assert_same(&up, &host.snapshot());
    agent.run("down");
    // Other internal ports follow their bridge's MTU when ovs-vswitchd next looks.
    poll("the MTU of mine0 follows", Duration::from_secs(10), || {
        host.ip("link show mine0").contains("mtu 1450").then_some(())
    });
    assert_same(&before, &host.snapshot());
}

#[test]
fn a_bridge_keeps_its_datapath_and_a_new_one_gets_what_the_kernel_has() {
    let host = Host::new();
    poll("the database lists it in any case", Duration::from_secs(10), || {
        host.vsctl("get Open_vSwitch . datapath_types").contains("system").then_some(())
    });
    host.port_agent().run("up");
    let kernel = std::path::Path::new("/sys/module/openvswitch").exists();
    let expected = if kernel { "system" } else { "netdev" };
    for bridge in ["ovsbr0", "ovsbr1"] {
        assert_eq!(host.vsctl(&format!("get Bridge {bridge} datapath_type")).trim(), expected);
        assert_eq!(host.vsctl(&format!("get Bridge {bridge} fail_mode")).trim(), "[]");
    }
}

#[test]
fn a_name_that_is_something_else_is_refused_before_anything_is_made() {
    let host = Host::new();
    let agent = host.port_agent();
    let refused = |words: &[&str]| {
        let before = host.snapshot();
        let output = agent.output("up");
        assert!(!output.ok(), "{output}");
        assert_eq!(output.stderr.trim().lines().count(), 1, "{output}");
        for word in words {
            assert!(output.stderr.contains(word), "{word} is not said: {output}");
        }
        assert_same(&before, &host.snapshot());
    };
    host.ip("link add ovsbr1 type bridge");
    refused(&["ovsbr1", "is no Open vSwitch bridge", "rename or remove"]);
    host.ip("link delete ovsbr1");
    host.bridge("other");
    host.vsctl("add-port other ovsbr1 -- set Interface ovsbr1 type=internal");
    refused(&["ovsbr1", "a port of other", "rename or remove"]);
    host.vsctl("del-port ovsbr1");
    // The last bridge of the file is looked at before the first is made.
    host.config(
        "[[bridge]]\nname = \"a\"\nmode = \"direct\"\n[[bridge]]\nname = \"b\"\nmode = \"nat\"\n\
         addresses = [\"10.9.0.1/24\"]\nuplink = \"wlan9\"\n",
    );
    refused(&["uplink wlan9 of bridge b does not exist", "ip link"]);
}
