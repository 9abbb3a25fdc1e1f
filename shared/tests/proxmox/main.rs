//! The managed block under Proxmox VE: how it shows, and what a save in the GUI leaves of it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must fail")]

mod model;

use std::fs;
use std::path::PathBuf;

use model::{Release, read, write};
use proptest::prelude::*;
use shared::interfaces::{BridgeStanza, PortStanza, update};
use shared::vlan::{PortVlan, VlanId};
use tempfile::TempDir;

const TAG: &str = "ovs-port-agent";
const CARDS: [&str; 2] = ["eno1", "eno2"];

/// A host as the installer of Proxmox leaves it, with an OVS bridge and lines of the user.
const USER: &str = "\
# the user's own comment
auto lo
iface lo inet loopback

auto eno1
iface eno1 inet manual
\tovs_type OVSPort
\tovs_bridge vmbr1

iface eno2 inet manual

auto vmbr0
iface vmbr0 inet static
\taddress 192.0.2.2/24
\tgateway 192.0.2.1
\tbridge-ports eno2
\tbridge-stp off
\tpost-up echo 1 > /proc/sys/net/ipv4/ip_forward
#the LAN

auto vmbr1
iface vmbr1 inet manual
\tovs_type OVSBridge
\tovs_ports eno1

source /etc/network/interfaces.d/*
";

struct Host {
    _dir: TempDir,
    path: PathBuf,
}

impl Host {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("interfaces");
        fs::write(&path, text).unwrap();
        Self { _dir: dir, path }
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.path).unwrap()
    }

    fn show(&self, bridges: &[&str], ports: &[&str]) -> bool {
        let name = |text: &str| text.parse().unwrap();
        let bridges: Vec<_> = bridges.iter().map(|b| BridgeStanza { name: name(b) }).collect();
        let ports: Vec<_> = ports
            .iter()
            .map(|port| PortStanza {
                name: name(port),
                bridge: name("vmbr1"),
                vlan: PortVlan::access(VlanId::try_from(7).unwrap()),
            })
            .collect();
        update(&self.path, TAG, &bridges, &ports).unwrap()
    }

    /// "Create" or "Edit" in the GUI, then "Apply Configuration".
    fn save(&self, release: Release) {
        let table = read(&self.text(), &CARDS);
        fs::write(&self.path, write(&table, release).unwrap()).unwrap();
    }

    fn count(&self, line: &str) -> usize {
        self.text().lines().filter(|found| *found == line).count()
    }
}

/// The lines that say something, in no order: a save moves stanzas of others about as it likes.
fn lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn proxmox_knows_every_stanza() {
    let host = Host::new(USER);
    host.show(&["ovsbr0", "vmbr1"], &["veth-a-eth0", "tap100i0"]);
    let table = read(&host.text(), &CARDS);
    for (name, kind) in [
        ("ovsbr0", "OVSBridge"),
        ("veth-a-eth0", "OVSIntPort"),
        ("tap100i0", "OVSIntPort"),
        ("vmbr1", "OVSBridge"),
        ("eno1", "OVSPort"),
    ] {
        assert_eq!(table.ifaces[name].kind, kind, "{name}");
    }
    for name in ["ovsbr0", "veth-a-eth0", "tap100i0"] {
        let iface = &table.ifaces[name];
        assert!(!iface.autostart);
        let comments: Vec<_> = iface.comments.values().flatten().collect();
        assert_eq!(comments, [&format!(" managed by {TAG}: {name}")]);
    }
    assert_eq!(table.ifaces["veth-a-eth0"].known["ovs_bridge"], "vmbr1");
    assert_eq!(table.ifaces["veth-a-eth0"].known["ovs_options"], "tag=7 vlan_mode=access");
    // No marker became a comment of a stanza.
    assert!(table.ifaces.values().all(|iface| {
        iface.comments.values().flatten().all(|comment| !comment.contains(" BEGIN "))
    }));
    assert!(table.ifaces.values().all(|iface| iface.kind != "unknown"));
}

#[test]
fn a_save_starts_nothing_of_ours_and_leaves_no_litter() {
    for release in Release::ALL {
        let (plain, host) = (Host::new(USER), Host::new(USER));
        host.show(&["ovsbr0"], &["veth-a-eth0", "veth-b-eth0"]);
        plain.save(release);
        host.save(release);
        let saved = host.text();
        for name in ["ovsbr0", "veth-a-eth0", "veth-b-eth0"] {
            let started = saved.lines().filter(|line| {
                (line.starts_with("auto")
                    || line.starts_with("allow-")
                    || line.contains("ovs_ports"))
                    && line.split_whitespace().any(|word| word == name)
            });
            assert_eq!(started.count(), 0, "{release:?}\n{saved}");
        }
        // What is ours goes again without a trace, ports and bridge.
        assert!(host.show(&[], &[]));
        assert_eq!(lines(&host.text()), lines(&plain.text()), "{release:?}");
    }
}

#[test]
fn after_a_save_each_stanza_is_there_once_again() {
    for release in Release::ALL {
        let host = Host::new(USER);
        let ports = ["veth-a-eth0", "veth-b-eth0"];
        host.show(&["ovsbr0"], &ports);
        for _ in 0..3 {
            host.save(release);
            let saved = host.text();
            host.show(&["ovsbr0"], &ports);
            for name in ["ovsbr0", "veth-a-eth0", "veth-b-eth0", "vmbr0", "vmbr1", "eno1", "eno2"] {
                assert_eq!(
                    host.count(&format!("iface {name} inet manual"))
                        + host.count(&format!("iface {name} inet static")),
                    1,
                    "{name} {release:?}"
                );
            }
            assert_eq!(host.count(&format!("# BEGIN {TAG}")), 1);
            let before = host.text();
            assert!(!host.show(&["ovsbr0"], &ports));
            assert_eq!(host.text(), before);
            // What Proxmox wrote of others stands as it wrote it.
            let foreign = read(&saved, &CARDS).ifaces;
            let now = read(&before, &CARDS).ifaces;
            for name in ["lo", "eno1", "eno2", "vmbr0", "vmbr1"] {
                assert_eq!(now[name].known, foreign[name].known);
                assert_eq!(now[name].autostart, foreign[name].autostart);
            }
        }
    }
}

#[test]
fn a_bridge_taken_over_in_the_gui_is_the_users() {
    let host = Host::new(USER);
    host.show(&["ovsbr0"], &[]);
    let mut table = read(&host.text(), &CARDS);
    let bridge = table.ifaces.get_mut("ovsbr0").unwrap();
    bridge.autostart = true;
    bridge.known.insert("address".to_owned(), "198.51.100.1/24".to_owned());
    for release in Release::ALL {
        let saved = write(&table, release).unwrap();
        fs::write(&host.path, &saved).unwrap();
        assert!(!host.show(&["ovsbr0"], &[]));
        assert!(!host.show(&[], &[]));
        assert_eq!(host.text(), saved);
    }
}

#[test]
fn a_name_that_would_lock_the_gui_is_not_shown() {
    let host = Host::new(USER);
    host.show(&[], &["veth.5", "veth-a-eth0"]);
    assert!(write(&read(&host.text(), &CARDS), Release::ALL[3]).is_ok());
    // With it, every save would fail.
    let text = host.text().replace("veth-a-eth0", "veth.5");
    let error = write(&read(&text, &CARDS), Release::ALL[3]).unwrap_err();
    assert_eq!(error, "vlan 'veth.5' - wrong interface type on parent 'veth'");
}

/// The traps are in the model too: without the precautions it starts ports and leaves litter.
#[test]
fn the_model_bites() {
    let host = Host::new(USER);
    host.show(&[], &["veth-a-eth0"]);
    let text = host.text().replace("ovs_ports eno1", "ovs_ports eno1 veth-a-eth0");
    let text = text.replace("\tovs_bonds veth-a-eth0\n", "");
    for release in Release::ALL {
        let saved = write(&read(&text, &CARDS), release).unwrap();
        let line = if release.ifupdown2 { "auto" } else { "allow-vmbr1" };
        assert!(saved.contains(&format!("{line} veth-a-eth0\n")));
    }
    let unlisted = host.text().replace("\tovs_bonds veth-a-eth0\n", "");
    for release in Release::ALL {
        let saved = write(&read(&unlisted, &CARDS), release).unwrap();
        let bare = saved.contains("iface veth-a-eth0 inet manual\n\n");
        assert_eq!(bare, release.keeps_unused_ports);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_life_of_the_file_ends_as_if_we_had_not_been_there(
        steps in prop::collection::vec((0..6_usize, prop::collection::vec(0..4_usize, 0..4)), 1..8),
        last in 0..4_usize,
    ) {
        let names = ["veth-a-eth0", "veth-b-eth0", "tap1i0", "eth7"];
        let (plain, host) = (Host::new(USER), Host::new(USER));
        for (step, ports) in steps {
            if let Some(release) = Release::ALL.get(step) {
                plain.save(*release);
                host.save(*release);
            } else {
                let ports: Vec<_> = ports.into_iter().map(|port| names[port]).collect();
                host.show(if step == 4 { &["ovsbr0"] } else { &[] }, &ports);
            }
        }
        plain.save(Release::ALL[last]);
        host.save(Release::ALL[last]);
        host.show(&[], &[]);
        let (left, right) = (host.text(), plain.text());
        prop_assert_eq!(lines(&left), lines(&right));
    }
}
