//! The text of the file.

mod disk;

use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::vlan::{VlanId, VlanMode};

const TAG: &str = "ovs-port-agent";

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

fn bridge(text: &str) -> BridgeStanza {
    BridgeStanza { name: name(text) }
}

fn port(text: &str, on: &str, vlan: PortVlan) -> PortStanza {
    PortStanza { name: name(text), bridge: name(on), vlan }
}

fn access(id: u64) -> PortVlan {
    PortVlan::access(VlanId::try_from(id).unwrap())
}

/// The new text; the old one if nothing changes.
fn rewritten(text: &[u8], bridges: &[BridgeStanza], ports: &[PortStanza]) -> Vec<u8> {
    let path = Path::new("/nonexistent/interfaces");
    block::rewrite(path, text, TAG, bridges, ports).unwrap().unwrap_or_else(|| text.to_vec())
}

fn shown(text: &str, bridges: &[BridgeStanza], ports: &[PortStanza]) -> String {
    String::from_utf8(rewritten(text.as_bytes(), bridges, ports)).unwrap()
}

fn marker_error(text: &str) -> String {
    let ports = [port("veth-a", "ovsbr0", access(5))];
    let path = Path::new("/etc/network/interfaces");
    block::rewrite(path, text.as_bytes(), TAG, &[], &ports).unwrap_err().to_string()
}

const LO: &str = "auto lo\niface lo inet loopback\n";

#[test]
fn the_block_shows_bridges_and_ports() {
    let ports = [
        port("veth-b-eth0", "ovsbr0", PortVlan::untagged()),
        port("veth-a-eth0", "ovsbr0", access(5)),
    ];
    let text = shown(LO, &[bridge("ovsbr0")], &ports);
    assert_eq!(
        text,
        format!(
            "{LO}
# BEGIN ovs-port-agent
iface ovsbr0 inet manual
\tovs_type OVSBridge
# managed by ovs-port-agent: ovsbr0

iface veth-a-eth0 inet manual
\tovs_type OVSIntPort
\tovs_bridge ovsbr0
\tovs_options tag=5 vlan_mode=access
\tovs_bonds veth-a-eth0
# managed by ovs-port-agent: veth-a-eth0

iface veth-b-eth0 inet manual
\tovs_type OVSIntPort
\tovs_bridge ovsbr0
\tovs_options trunks=0 vlan_mode=trunk
\tovs_bonds veth-b-eth0
# managed by ovs-port-agent: veth-b-eth0

# END ovs-port-agent
"
        )
    );
    assert_eq!(shown(&text, &[], &[]), LO);
}

#[test]
fn the_order_of_ports_does_not_matter() {
    let (a, b) = (port("a", "br", access(1)), port("b", "br", access(2)));
    let text = shown(LO, &[], &[a.clone(), b.clone()]);
    assert_eq!(shown(&text, &[], &[b, a]), text);
}

#[test]
fn a_bridge_that_the_file_defines_is_left_to_it() {
    for other in [
        "iface ovsbr0 inet static\n\taddress 10.0.0.1/24\n\tovs_type OVSBridge\n",
        "iface ovsbr0\n",
        "   iface   ovsbr0 inet6 auto\n",
        "iface \\\n ovsbr0 inet manual\n",
        "iface ovsbr[0-3] inet manual\n",
        "auto ovsbr0\n",
    ] {
        assert_eq!(shown(other, &[bridge("ovsbr0")], &[]), other);
    }
    for other in ["# iface ovsbr0 inet manual\n", "iface ovsbr00 inet manual\n"] {
        assert!(shown(other, &[bridge("ovsbr0")], &[]).contains("\niface ovsbr0 inet manual\n"));
    }
}

#[test]
fn a_port_that_ifup_could_start_is_not_shown() {
    let ports = [port("veth-a", "ovsbr0", access(5))];
    for other in [
        "auto veth-a",
        "auto lo veth-a",
        "allow-hotplug veth-a",
        "allow-ovsbr0 veth-a",
        "auto lo \\\n  veth-a",
        "auto /veth*",
        "auto /*",
        "auto mac/02:*",
        "auto /en*=veth-a",
        "auto all",
        "auto veth-[a-c]",
        "auto veth${n}",
        "iface ovsbr0 inet manual\n  ovs_type OVSBridge\n  ovs_ports enp2s0 veth-a",
        "iface ovsbr0 inet manual\n  ovs-ports veth-a",
        "iface br0 inet manual\n  bridge-ports enp3s0 veth-a",
        "iface enp3s0 inet manual\n  up ifup veth-a",
        "iface veth-a inet dhcp",
        "iface veth-a inet manual",
        "rename veth0=veth-a",
    ] {
        assert_eq!(shown(other, &[], &ports), other, "beside {other:?}");
    }
    for other in ["auto veth-b", "auto /en*", "auto en[1-3]", "#auto veth-a", "auto /veth*=other"] {
        assert!(shown(other, &[], &ports).contains("iface veth-a inet manual"), "beside {other:?}");
    }
}

#[test]
fn a_name_of_another_kind_gets_what_proxmox_can_read() {
    let kind = |text: &str| {
        let shown = shown("", &[], &[port(text, "br", access(1))]);
        shown.split("ovs_type ").nth(1).map(|rest| rest.split('\n').next().unwrap().to_owned())
    };
    for virtual_name in ["veth-a-eth0", "tap100i0", "eth", "eth0x", "en", "nic", "if", "ens"] {
        let expected = if virtual_name == "ens" { "OVSPort" } else { "OVSIntPort" };
        assert_eq!(kind(virtual_name).as_deref(), Some(expected), "{virtual_name}");
    }
    for card in ["eth0", "enp2s0", "enx001122334455", "ib0", "nic3", "if12"] {
        assert_eq!(kind(card).as_deref(), Some("OVSPort"), "{card}");
    }
    assert_eq!(kind("veth.5"), None);
    assert_eq!(kind("veth.a").as_deref(), Some("OVSIntPort"));
}

#[test]
fn own_stanzas_are_found_wherever_they_stand() {
    // What Proxmox makes of the block: sorted, markers gone, signatures at the left edge.
    let moved = "\
auto lo
iface lo inet loopback

iface ovsbr1 inet manual
\tovs_type OVSBridge
# managed by ovs-port-agent: ovsbr1

auto vmbr0
iface vmbr0 inet static
\taddress 192.0.2.1/24

";
    let text = shown(moved, &[bridge("ovsbr1")], &[]);
    assert_eq!(text.matches("iface ovsbr1 ").count(), 1);
    let end = "# BEGIN ovs-port-agent
iface ovsbr1 inet manual
\tovs_type OVSBridge
# managed by ovs-port-agent: ovsbr1

# END ovs-port-agent
";
    assert!(text.ends_with(end), "{text}");
    assert_eq!(
        shown(&text, &[], &[]),
        "auto lo\niface lo inet loopback\n\nauto vmbr0\niface vmbr0 inet static\n\taddress 192.0.2.1/24\n\n"
    );
}

#[test]
fn a_stanza_that_is_not_wholly_ours_is_kept() {
    for other in [
        // Another tag, another name, no tag.
        "iface ovsbr1 inet manual\n\tovs_type OVSBridge\n# managed by somebody: ovsbr1\n",
        "iface ovsbr1 inet manual\n\tovs_type OVSBridge\n# managed by ovs-port-agent: ovsbr2\n",
        "iface ovsbr1 inet manual\n\tovs_type OVSBridge\n",
        // The user gave it an address, a port, a start at boot, another method.
        "iface ovsbr1 inet manual\n\tovs_type OVSBridge\n\tmtu 9000\n# managed by ovs-port-agent: ovsbr1\n",
        "iface ovsbr1 inet manual\n\tovs_type OVSBridge\n# managed by ovs-port-agent: ovsbr1\n\n\tmtu 9000\n",
        "iface ovsbr1 inet manual\n\tovs_type OVSBridge\n\tovs_ports enp2s0\n# managed by ovs-port-agent: ovsbr1\n",
        "auto ovsbr1\niface ovsbr1 inet manual\n\tovs_type OVSBridge\n# managed by ovs-port-agent: ovsbr1\n",
        "iface ovsbr1 inet dhcp\n\tovs_type OVSBridge\n# managed by ovs-port-agent: ovsbr1\n",
    ] {
        assert_eq!(shown(other, &[], &[]), other);
        let text = shown(other, &[bridge("ovsbr1"), bridge("ovsbr9")], &[]);
        assert!(text.starts_with(other));
        assert_eq!(text.matches("iface ovsbr1 ").count(), 1, "{text}");
    }
}

#[test]
fn text_between_the_markers_that_is_not_ours_stays() {
    let text = shown(LO, &[], &[port("veth-a", "br", access(5))]);
    let edited = text.replace(
        "# END",
        "# my note\nauto enp3s0\niface enp3s0 inet dhcp\n    metric 5\n\n\n# END",
    );
    let foreign = "# my note\nauto enp3s0\niface enp3s0 inet dhcp\n    metric 5\n";
    let again = shown(&edited, &[], &[port("veth-b", "br", access(6))]);
    assert_eq!(again.matches(foreign).count(), 1);
    assert!(!again.contains("veth-a"));
    assert!(again.starts_with(&format!("{LO}\n# BEGIN ovs-port-agent\n{foreign}\niface veth-b")));
    assert_eq!(shown(&again, &[], &[port("veth-b", "br", access(6))]), again);
    assert_eq!(shown(&again, &[], &[]), format!("{LO}\n{foreign}"));
}

#[test]
fn a_comment_inside_an_own_stanza_stays() {
    let text = shown(LO, &[bridge("ovsbr1")], &[])
        .replace("\tovs_type OVSBridge\n", "\tovs_type OVSBridge\n# the lab\n");
    let again = shown(&text, &[], &[]);
    assert_eq!(again, format!("{LO}\n# the lab\n"));
}

#[test]
fn an_empty_file_and_one_without_final_newline_come_back() {
    let ports = [port("veth-a", "br", access(5))];
    for original in ["", "\n", "\n\n", "auto lo", "auto lo\r\niface lo inet loopback\r\n", "a\r"] {
        let with = shown(original, &[], &ports);
        assert!(with.starts_with(original));
        assert_eq!(shown(&with, &[], &ports), with);
        assert_eq!(shown(&with, &[], &[]), original);
    }
}

#[test]
fn broken_markers_are_refused_with_their_line() {
    let cases = [
        ("a\n# BEGIN ovs-port-agent\n", "line 2: \"# BEGIN ovs-port-agent\" has no END behind it"),
        (
            "# BEGIN ovs-port-agent\nauto veth0 \\\n# END ovs-port-agent\nveth1\n",
            "line 3: \"# END ovs-port-agent\" is in the middle of a line that a backslash \
             continues",
        ),
        ("# END ovs-port-agent\n", "line 1: \"# END ovs-port-agent\" has no BEGIN before it"),
        (
            "# BEGIN ovs-port-agent\n# BEGIN ovs-port-agent\n# END ovs-port-agent\n",
            "line 2: \"# BEGIN ovs-port-agent\" is there for the second time",
        ),
        (
            "# BEGIN ovs-port-agent\n# END ovs-port-agent\n\n#BEGIN ovs-port-agent\n# END ovs-port-agent",
            "line 4: \"# BEGIN ovs-port-agent\" is there for the second time",
        ),
    ];
    for (text, expected) in cases {
        let error = marker_error(text);
        assert_eq!(error, format!("/etc/network/interfaces, {expected}"));
    }
    // Another tag's block is text like any other.
    shown("# BEGIN other\n", &[], &[port("veth-a", "br", access(5))]);
}

/// A reader of the block's stanzas that shares nothing with the writer.
fn reread(text: &str) -> (Vec<BridgeStanza>, Vec<PortStanza>) {
    let (mut bridges, mut ports) = (Vec::new(), Vec::new());
    for stanza in text.split("\n\n").map(str::trim).filter(|text| text.contains("iface ")) {
        let value = |key: &str| {
            let mut values = stanza.lines().filter_map(|line| {
                line.trim().split_once(' ').filter(|(word, _)| *word == key).map(|(_, rest)| rest)
            });
            let value = values.next();
            assert_eq!(values.next(), None, "{key} twice in {stanza}");
            value
        };
        let name = value("iface").unwrap().strip_suffix(" inet manual").unwrap().parse().unwrap();
        if value("ovs_type") == Some("OVSBridge") {
            bridges.push(BridgeStanza { name });
            continue;
        }
        let mut vlan = PortVlan { mode: VlanMode::Access, tag: None, trunks: BTreeSet::new() };
        let id = |text: &str| VlanId::try_from(text.parse::<u64>().unwrap()).unwrap();
        for option in value("ovs_options").unwrap().split(' ') {
            match option.split_once('=').unwrap() {
                ("tag", tag) => vlan.tag = Some(id(tag)),
                ("trunks", list) => vlan.trunks = list.split(',').map(id).collect(),
                ("vlan_mode", mode) => {
                    vlan.mode = serde_json::from_value(mode.into()).unwrap();
                }
                other => panic!("{other:?}"),
            }
        }
        ports.push(PortStanza {
            name,
            bridge: value("ovs_bridge").unwrap().parse().unwrap(),
            vlan,
        });
    }
    (bridges, ports)
}

fn any_vlan() -> impl Strategy<Value = PortVlan> {
    let id = || (0_u64..4095).prop_map(|id| VlanId::try_from(id).unwrap());
    let mode = prop::sample::select(vec![
        VlanMode::Access,
        VlanMode::Trunk,
        VlanMode::NativeTagged,
        VlanMode::NativeUntagged,
        VlanMode::Dot1qTunnel,
    ]);
    (mode, prop::option::of(id()), prop::collection::btree_set(id(), 0..5))
        .prop_map(|(mode, tag, trunks)| PortVlan { mode, tag, trunks })
}

fn any_name() -> impl Strategy<Value = IfName> {
    "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}".prop_map(|text| text.parse().unwrap())
}

fn any_ports() -> impl Strategy<Value = Vec<PortStanza>> {
    let port = (any_name(), any_name(), any_vlan()).prop_map(|(name, bridge, vlan)| PortStanza {
        name,
        bridge,
        vlan,
    });
    prop::collection::vec(port, 0..6)
}

fn any_bridges() -> impl Strategy<Value = Vec<BridgeStanza>> {
    prop::collection::vec(any_name().prop_map(|name| BridgeStanza { name }), 0..3)
}

/// Text of others: lines that mean something, and bytes that mean nothing.
fn any_text() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        "(auto|allow-hotplug|iface|source|mapping|  address|#|# BEGIN|# END other|)[ -~]{0,20}(\n|\r\n|\n\n| \\\\\n)"
            .prop_map(String::into_bytes),
        "iface [a-z]{1,3} inet manual\n(\tovs_type OVSBridge\n)?(# managed by (x|ovs-port-agent): [A-Z]\n)?(  mtu 5\n)?"
            .prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..12),
    ];
    prop::collection::vec(line, 0..8).prop_map(|lines| lines.concat()).prop_filter(
        "no block of ours",
        |text| {
            text.split(|b| *b == b'\n')
                .all(|line| !["BEGIN", "END"].iter().any(|word| block::is_marker(line, word, TAG)))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_rendered_is_read_back(bridges in any_bridges(), ports in any_ports()) {
        let mut bridges = bridges;
        let mut ports = ports;
        bridges.retain(|bridge| !stanza::looks_like_vlan(bridge.name.as_str()));
        bridges.sort_by(|a, b| a.name.cmp(&b.name));
        bridges.dedup_by(|a, b| a.name == b.name);
        ports.retain(|port| !stanza::looks_like_vlan(port.name.as_str()));
        ports.retain(|port| bridges.iter().all(|bridge| bridge.name != port.name));
        ports.sort_by(|a, b| a.name.cmp(&b.name));
        ports.dedup_by(|a, b| a.name == b.name);
        let text = shown("", &bridges, &ports);
        prop_assert_eq!(reread(&text), (bridges, ports));
    }

    #[test]
    fn text_of_others_survives(text in any_text(), bridges in any_bridges(), ports in any_ports()) {
        let with = rewritten(&text, &bridges, &ports);
        prop_assert!(with.starts_with(&text));
        prop_assert_eq!(rewritten(&with, &bridges, &ports), with.clone());
        prop_assert_eq!(rewritten(&with, &[], &[]), text);
    }

    #[test]
    fn text_around_the_block_survives(
        before in any_text(),
        after in any_text(),
        first in any_ports(),
        second in any_ports(),
    ) {
        let block = rewritten(b"", &[bridge("ovsbr0")], &first);
        let whole = [before.as_slice(), b"\n\n", &block, &after].concat();
        let update = rewritten(&whole, &[], &second);
        prop_assert!(update.starts_with(&before));
        prop_assert!(update.ends_with(&after));
        prop_assert_eq!(rewritten(&update, &[], &second), update);
    }
}
