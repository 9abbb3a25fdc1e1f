//! What the drawings look like, and what names cannot do to them.

use proptest::prelude::*;
use shared::status::{AttachmentStatus, BridgeStatus, NetworkStatus, Status, UplinkStatus};

use super::picture::Picture;
use super::{mermaid, svg, tree};

fn plug(
    container: &str,
    runtime: &str,
    bridge: &str,
    vlan: &str,
    address: &str,
) -> AttachmentStatus {
    AttachmentStatus {
        container: container.to_owned(),
        id: container.to_owned(),
        runtime: runtime.to_owned(),
        caller: runtime.to_owned(),
        network: "lab".to_owned(),
        ifname: "eth0".to_owned(),
        bridge: bridge.to_owned(),
        vlan: vlan.to_owned(),
        port: format!("veth-{container}-eth0"),
        addresses: vec![address.to_owned()],
        mac: "02:00:00:00:00:01".to_owned(),
        state: "ok".to_owned(),
        since: 0,
    }
}

fn bridge(name: &str, mode: &str, ways: &[&str], addresses: &[&str]) -> BridgeStatus {
    BridgeStatus {
        name: name.to_owned(),
        mode: mode.to_owned(),
        state: "up".to_owned(),
        datapath: "netdev".to_owned(),
        mtu: Some(1500),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        uplink: None,
        ways: ways.iter().map(ToString::to_string).collect(),
        ports: 0,
    }
}

fn uplink(name: &str, state: &str, addresses: &[&str]) -> UplinkStatus {
    UplinkStatus {
        name: name.to_owned(),
        state: state.to_owned(),
        mtu: Some(1500),
        addresses: addresses.iter().map(ToString::to_string).collect(),
    }
}

/// A laptop as its owner has it.
fn status() -> Status {
    let pool = |subnet: &str, used, size| shared::address::Usage {
        subnet: subnet.parse().unwrap(),
        used,
        size,
    };
    let network = |vlan, gateway: &str, pools| NetworkStatus {
        bridge: "ovsbr1".to_owned(),
        vlan,
        gateway_interface: Some(gateway.to_owned()),
        nat: "masquerade".to_owned(),
        pools,
    };
    let mut broken = plug("mail", "docker", "ovsbr1", "untagged", "10.200.0.9/24");
    broken.state = "port missing".to_owned();
    let mut dual = plug("api", "podman", "ovsbr1", "3000", "10.88.7.2/24");
    dual.addresses.push("fd00:88:7::2/64".to_owned());
    Status {
        uplinks: vec![
            uplink("enp2s0", "carrier", &[]),
            uplink("wlp4s0", "carrier", &["192.168.1.23/24", "2001:db8::23/64"]),
        ],
        bridges: vec![
            bridge("ovsbr0", "direct", &["enp2s0"], &["172.16.0.10/24"]),
            bridge("ovsbr1", "nat", &["wlp4s0"], &["10.200.0.1/24", "fd00:200::1/64"]),
        ],
        networks: vec![
            network(
                0,
                "ovsbr1",
                vec![pool("10.200.0.0/24", 4, 253), pool("fd00:200::/64", 1, u64::MAX)],
            ),
            network(3000, "ovsbr1.3000", vec![pool("10.88.7.0/24", 1, 253)]),
        ],
        attachments: vec![
            plug("vm-101", "port-agent", "ovsbr0", "untagged", "172.16.0.50/24"),
            plug("camera", "cni", "ovsbr0", "20", "172.16.20.2/24"),
            plug("web", "docker", "ovsbr1", "untagged", "10.200.0.2/24"),
            plug("shop/front-7c9d", "cni", "ovsbr1", "untagged", "10.200.0.3/24"),
            plug("shop/back-58d4", "cni", "ovsbr1", "untagged", "10.200.0.4/24"),
            plug("db", "podman", "ovsbr1", "untagged", "10.200.0.5/24"),
            broken,
            dual,
        ],
        ..Status::default()
    }
}

/// The files beside this one are what people see: look at them before you change them
/// (`UPDATE=1 cargo test -p ovs-port-agent topology` writes them anew).
#[track_caller]
fn is_as_in(file: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/topology").join(file);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(text == expected, "{file} differs:\n{text}");
}

#[test]
fn a_host_is_drawn_as_it_was() {
    let picture = Picture::of("lab", &status());
    is_as_in("host.svg", &svg::draw(&picture));
    is_as_in("host.mmd", &mermaid::draw(&picture));
    is_as_in("host.txt", &tree::draw(&picture));
}

#[test]
fn an_empty_host_is_drawn_too() {
    let picture = Picture::of("lab", &Status::default());
    roxmltree::Document::parse(&svg::draw(&picture)).unwrap();
    assert_eq!(tree::draw(&picture), "lab\n");
}

#[test]
fn the_svg_loads_nothing_and_runs_nothing() {
    let text = svg::draw(&Picture::of("lab", &status()));
    let document = roxmltree::Document::parse(&text).unwrap();
    for node in document.descendants().filter(roxmltree::Node::is_element) {
        let name = node.tag_name().name();
        assert!(
            ["svg", "title", "style", "rect", "text", "path", "circle", "g"].contains(&name),
            "{name}"
        );
        for attribute in node.attributes() {
            assert!(!attribute.name().starts_with("on") && !attribute.name().ends_with("href"));
        }
    }
    assert!(!text.contains("url(") && !text.contains("@import") && !text.contains("@font-face"));
}

#[test]
fn hostile_names_draw_nothing_but_themselves() {
    let evil = "</text><script>alert(1)</script>\"]; end\u{1b}[2J\u{202e}`${x}`&amp;";
    let mut status = status();
    status.attachments[0].container = evil.to_owned();
    status.bridges[0].mode = "<!--".to_owned();
    status.uplinks[0].name = "\"><script>".to_owned();
    status.bridges[0].ways = vec![status.uplinks[0].name.clone()];
    let picture = Picture::of("<host>", &status);
    let text = svg::draw(&picture);
    let document = roxmltree::Document::parse(&text).unwrap();
    assert!(!document.descendants().any(|node| node.tag_name().name() == "script"));
    let titles: Vec<_> = document
        .descendants()
        .filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "title")))
        .filter_map(|node| node.text())
        .collect();
    let shown = crate::table::printable(evil);
    assert!(titles.iter().any(|title| title.contains(&shown)), "{titles:?}");
    let text = mermaid::draw(&picture);
    assert!(!text.contains("<script") && !text.contains('`') && !text.contains("]; end"), "{text}");
    let text = tree::draw(&picture);
    assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'), "{text}");
}

proptest! {
    #[test]
    fn any_name_makes_well_formed_xml_and_one_line_each(name: String, port: String, vlan: String) {
        let mut status = status();
        status.attachments[0].container = name;
        status.attachments[1].port = port;
        status.attachments[2].vlan = vlan;
        let picture = Picture::of("lab", &status);
        let text = svg::draw(&picture);
        prop_assert!(roxmltree::Document::parse(&text).is_ok(), "{text}");
        let lines = tree::draw(&picture).lines().count();
        let bridges: usize = picture.bridges.iter().map(|bridge| 1 + bridge.lanes.len()).sum();
        prop_assert_eq!(lines, 1 + bridges + status.attachments.len());
        for line in mermaid::draw(&picture).lines() {
            prop_assert!(line.matches('"').count() % 2 == 0, "{line}");
        }
    }
}
