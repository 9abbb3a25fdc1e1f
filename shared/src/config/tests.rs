use std::collections::BTreeSet;
use std::fs;

use proptest::prelude::*;

use super::*;
use crate::error::sentence;

const EIGHT_KEYS: &str = r#"
bridge_name = "ovsbr0"
interfaces_path = "/etc/network/interfaces"
include_prefixes = ["veth-", "tap", "veth"]
debounce_ms = 500
managed_block_tag = "ovs-port-agent"
naming_template = "veth-{container}-eth{index}"
enable_rename = true
ledger_path = "/var/lib/ovs-port-agent/ledger.jsonl"
"#;

const EXAMPLE: &str = include_str!("../../../conf/config.toml");
const DOCS: &str = include_str!("../../../docs/configuration.md");

/// A sysfs with a wired enp2s0 and two sorts of wireless interface.
fn sysfs() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in ["enp2s0", "wlp4s0/wireless", "wlan1/phy80211"] {
        fs::create_dir_all(dir.path().join("class/net").join(entry)).unwrap();
    }
    dir
}

fn parse(text: &str) -> Result<Config, Error> {
    Config::parse(text, Path::new("config.toml"), sysfs().path())
}

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

#[test]
fn the_file_the_user_has_and_none_mean_two_bridges() {
    let config = parse(EIGHT_KEYS).unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(parse("").unwrap(), config);
    assert_eq!(config.bridges.len(), 2);
    let direct = config.direct_bridge().unwrap();
    assert_eq!(direct.name, name("ovsbr0"));
    let nothing = Mode::Direct { uplink: None, addresses: vec![], gateway: None };
    assert_eq!(direct.mode, nothing);
    let nat = config.nat_bridge().unwrap();
    assert_eq!((nat, Some(nat)), (&config.bridges[1], config.bridge(&name("ovsbr1"))));
    assert!(matches!(&nat.mode, Mode::Nat { uplink: Uplink::Default, .. }));
    let subnets: Vec<_> = config.subnets().map(|(b, net)| format!("{} {net}", b.name)).collect();
    assert_eq!(subnets, ["ovsbr1 10.200.0.0/24", "ovsbr1 fd6f:7673:6272:1::/64"]);
    assert_eq!(config.bridge(&name("ovsbr2")), None);
}

#[test]
fn metrics_stay_on_this_host() {
    let listen = |text: &str| parse(&format!("metrics_listen = \"{text}\"")).unwrap().metrics;
    assert_eq!(listen("unix:/run/m.sock"), Some(Listen::Unix("/run/m.sock".into())));
    for text in ["127.0.0.1:9479", "[::1]:9479"] {
        assert_eq!(listen(text), Some(Listen::Loopback(text.parse().unwrap())));
    }
    assert_eq!(Config::default().metrics, None);
}

#[test]
fn bridge_name_names_the_direct_bridge() {
    let config = parse("bridge_name = \"br-lan\"").unwrap();
    assert_eq!(config.direct_bridge().unwrap().name, name("br-lan"));
    assert_eq!(config.bridge_name, name("br-lan"));
    assert_eq!(config.nat_bridge().unwrap().name, name("ovsbr1"));
}

#[test]
fn sections_say_all() {
    let config = parse(
        r#"
        ledger_sync = "always"
        ovsdb_socket = "/tmp/db.sock"
        state_dir = "/tmp/state"
        [[bridge]]
        name = "inside"
        mode = "nat"
        address = "10.1.0.1/16"
        uplink = "wlp4s0"
        mtu = 1400
        [[bridge]]
        name = "lan"
        mode = "direct"
        uplink = "enp2s0"
        addresses = ["172.16.0.10/24", "172.16.0.11/24", "2001:db8::10/64"]
        gateway = "172.16.0.1"
        datapath_type = "netdev"
        [[bridge]]
        name = "inside2"
        mode = "nat"
        addresses = ["10.2.0.1/24"]
        uplink = "wlp4s0"
        [[bridge]]
        name = "inside3"
        mode = "nat"
        addresses = ["10.3.0.1/24"]
        uplink = "lan"
        [[bridge]]
        name = "inside4"
        mode = "nat"
        addresses = ["10.4.0.1/24"]
        uplink = "default"
        "#,
    )
    .unwrap();
    assert_eq!(config.ledger_sync, ledger::Sync::Always);
    assert_eq!(config.ovsdb, Endpoint::Unix("/tmp/db.sock".into()));
    assert_eq!(config.state_dir, Path::new("/tmp/state"));
    assert_eq!(config.bridge_name, name("lan"), "the direct one");
    let [inside, lan, ..] = config.bridges.as_slice() else { panic!() };
    assert_eq!(
        *inside,
        Bridge {
            name: name("inside"),
            mtu: Some(1400),
            datapath_type: None,
            mode: Mode::Nat {
                addresses: vec!["10.1.0.1/16".parse().unwrap()],
                uplink: Uplink::Named(name("wlp4s0")),
            },
        }
    );
    assert_eq!(lan.datapath_type.as_deref(), Some("netdev"));
    let Mode::Direct { uplink, addresses, gateway } = &lan.mode else { panic!() };
    assert_eq!((uplink, addresses.len()), (&Some(name("enp2s0")), 3));
    assert_eq!(*gateway, Some("172.16.0.1".parse().unwrap()));
    assert!(matches!(&config.bridges[4].mode, Mode::Nat { uplink: Uplink::Default, .. }));
    assert_eq!(config.nat_bridge(), Some(inside));
    let named =
        "bridge_name = \"n\"\n[[bridge]]\nname=\"n\"\nmode=\"nat\"\naddress=\"10.0.0.1/24\"";
    assert_eq!(parse(named).unwrap().bridge_name, name("n"));
}

/// A direct and a NAT section, and one line more, which is line 9.
fn with(line: &str) -> String {
    format!(
        "[[bridge]]\nname = \"lan\"\nmode = \"direct\"\naddress = \"172.16.0.10/24\"\nuplink = \"enp2s0\"\n[[bridge]]\nname = \"nat\"\nmode = \"nat\"\n{line}\naddress = \"10.200.0.1/24\"\n"
    )
}

#[test]
fn a_mistake_is_one_line_with_its_place_and_the_way_out() {
    let cases = [
        // Keys and types.
        ("bridge_nam = \"a\"", "1:1: bridge_nam: unknown key; did you mean bridge_name?"),
        ("\n\nfoo = 1", "3:1: foo: unknown key; remove it, or use one of bridge_name, inter"),
        ("uplink = \"a\"", "1:1: uplink: unknown key; move uplink into a [[bridge]] section"),
        (&with("adress = \"a\""), "9:1: adress: unknown key; did you mean address?"),
        (&with("state_dir = \"/a\""), "9:1: state_dir: unknown key; move state_dir above"),
        (
            "debounce_ms = \"500\"",
            "1:15: debounce_ms = \"500\": expected a whole number; write a number without quotes, such as debounce_ms = 1500",
        ),
        ("  bridge_name = 5", "1:17: bridge_name = 5: expected a text; write bridge_name = \"…\""),
        ("enable_rename = \"yes\"", "enable_rename = \"yes\": expected true or false; write"),
        (
            "include_prefixes = \"veth\"",
            "include_prefixes = \"veth\": expected a list; write include_prefixes = [\"…\"]",
        ),
        ("include_prefixes = [\"veth\",\n 5]", "2:2: include_prefixes = 5: expected a text"),
        (
            "[bridge]\nname = \"a\"",
            "bridge = [bridge]: expected a list; write [[bridge]], in double",
        ),
        (&with("mtu = 1.5"), "9:7: mtu = 1.5: expected a whole number"),
        ("debounce_ms = 99999999999999999999", "1:15: debounce_ms = 99999999999999999999: "),
        ("bridge_name = ovsbr0", "1:15: bridge_name = ovsbr0: "),
        ("debounce_ms = 1\ndebounce_ms = 2", "2:1: debounce_ms = 2: duplicate key; remove one"),
        ("bridge_name \"a\"", "1:13: bridge_name \"a\": "),
        // Values.
        (
            "bridge_name = \"a name\"",
            "1:15: bridge_name = \"a name\": \"a name\" is not an interface name",
        ),
        ("bridge_name = \"ovsbr1\"", "bridge_name = \"ovsbr1\": the NAT bridge has this name"),
        (
            "interfaces_path = \"interfaces\"",
            "expected an absolute path without control characters; begin the path with \"/\"",
        ),
        (
            "ledger_path = \"/var/lib/\"",
            "ledger_path = \"/var/lib/\": expected a path that neither ends",
        ),
        (
            "metrics_listen = \"0.0.0.0:9479\"",
            "metrics_listen = \"0.0.0.0:9479\": 0.0.0.0 is no loopback address; write",
        ),
        ("metrics_listen = \"127.0.0.1\"", "expected unix:/path or a loopback address with a port"),
        ("metrics_listen = \"unix:m.sock\"", "unix:m.sock\": expected an absolute path"),
        (
            "network_manager = \"profiles\"",
            "network_manager = \"profiles\": expected \"ignore\" or \"mirror\"",
        ),
        ("docker_vlans = \"40-30\"", "docker_vlans = \"40-30\": expected first-last"),
        ("docker_vlans = \"0-30\"", "docker_vlans = \"0-30\": expected first-last"),
        ("docker_vlans = \"1-4095\"", "docker_vlans = \"1-4095\": expected first-last"),
        ("state_dir = \"/run/../etc\"", "state_dir = \"/run/../etc\": expected a path"),
        ("ledger_path = \"/a\\nb\"", "ledger_path = \"/a\\nb\": expected an absolute path"),
        (
            "ledger_path = \"/a\"\ninterfaces_path = \"/a\"",
            "1:15: ledger_path = \"/a\": ledger_path and interfaces_path are the same file; give",
        ),
        ("debounce_ms = 60001", "debounce_ms = 60001: expected 0 to 60000 milliseconds; write"),
        ("debounce_ms = -1", "debounce_ms = -1: expected 0 to 60000 milliseconds"),
        (
            "managed_block_tag = \"a\\nauto eth0\"",
            "managed_block_tag = \"a\\nauto eth0\": expected one line",
        ),
        (
            "managed_block_tag = \"a\\\\\"",
            "expected one line of 1 to 64 bytes without control characters, backslashes",
        ),
        ("managed_block_tag = \"\"", "managed_block_tag = \"\": expected one line"),
        ("managed_block_tag = \" a\"", "managed_block_tag = \" a\": expected one line"),
        (
            "naming_template = \"veth-{index}\"",
            "1:19: naming_template = \"veth-{index}\": naming template \"veth-{index}\" has no {container}",
        ),
        (
            "naming_template = \"{container}{idx}\"",
            "unknown placeholder \"{idx}\", expected {container} and {index}; write a template such as",
        ),
        (
            "ledger_sync = \"never\"",
            "ledger_sync = \"never\": expected \"agent\" or \"always\"; write ledger_sync = \"agent\"",
        ),
        (
            "ovsdb_socket = \"db.sock\"",
            "ovsdb_socket = \"db.sock\": \"db.sock\" is not an OVSDB endpoint",
        ),
        (
            "include_prefixes = [\"veth\", \"\"]",
            "1:29: include_prefixes = \"\": expected the beginning of an interface name",
        ),
        (
            "include_prefixes = [\"ovs\"]",
            "include_prefixes = \"ovs\": the bridge ovsbr0 begins so, and is no container's; write a longer prefix",
        ),
        (
            &format!("include_prefixes = [\"en\"]\n{}", with("")),
            "1:21: include_prefixes = \"en\": the uplink enp2s0 begins so",
        ),
        // Sections.
        ("bridge = []", "1:10: bridge = []: expected at least one bridge"),
        (
            "debounce_ms = 1\n[[bridge]]\nmode = \"nat\"",
            "2:1: [[bridge]]: name is missing; write name = \"ovsbr0\"",
        ),
        ("[[bridge]]\nname = \"a\"", "1:1: [[bridge]] a: mode is missing; write mode = \"direct\""),
        (
            "[[bridge]]\nname = \"a\"\nmode = \"bridged\"",
            "3:8: mode = \"bridged\": expected \"direct\" or \"nat\"; write",
        ),
        (
            "[[bridge]]\nname = \"a\"\nmode = \"nat\"",
            "1:1: [[bridge]] a: addresses is missing; write addresses = [\"10.200.0.1/24\"]",
        ),
        (
            &format!("bridge_name = \"x\"\n{}", with("")),
            "1:15: bridge_name = \"x\": no [[bridge]] has this name, expected lan or nat; add a [[bridge]]",
        ),
        (&with("mtu = 20"), "9:7: mtu = 20: expected 68 to 65535 bytes; write mtu = 1500"),
        (&with("datapath_type = \"kernel\""), "expected \"system\" or \"netdev\"; leave it out"),
        (
            &with("gateway = \"10.200.0.2\""),
            "9:11: gateway = \"10.200.0.2\": a NAT bridge has none",
        ),
        (
            &with("addresses = []"),
            "address = \"10.200.0.1/24\": the section has addresses too; write all",
        ),
        (
            &with("[[bridge]]\nname = \"lan\"\nmode = \"direct\""),
            "[[bridge]] nat: addresses is missing",
        ),
        (
            &format!("{}[[bridge]]\nname = \"lan\"\nmode = \"direct\"", with("")),
            "12:8: name = \"lan\": line 2 has a bridge of this name; join",
        ),
        (
            &format!(
                "{}[[bridge]]\nname = \"b\"\nmode = \"nat\"\naddress = \"10.200.0.129/25\"",
                with("")
            ),
            "14:11: address = \"10.200.0.129/25\": its subnet 10.200.0.128/25 overlaps 10.200.0.0/24 of nat in line 10; give each bridge",
        ),
        (
            &format!(
                "{}[[bridge]]\nname = \"b\"\nmode = \"direct\"\naddress = \"172.16.0.11/24\"",
                with("")
            ),
            "overlaps 172.16.0.0/24 of lan in line 4",
        ),
        (
            "[[bridge]]\nname = \"a\"\nmode = \"direct\"\naddress = \"10.1.0.2/24\"\ngateway = \"10.1.0.1\"\n[[bridge]]\nname = \"b\"\nmode = \"direct\"\naddress = \"10.2.0.2/24\"\ngateway = \"10.2.0.1\"",
            "10:11: gateway = \"10.2.0.1\": line 5 has the host's IPv4 gateway already; keep the one",
        ),
        // Uplinks.
        (&with("uplink = \"nat\""), "9:10: uplink = \"nat\": it is the bridge of line 7; name"),
        (
            &with("uplink = \"enp2s0\""),
            "9:10: uplink = \"enp2s0\": it is the uplink of lan already, in line 5; an interface",
        ),
        (&with("uplink = \"a/b\""), "uplink = \"a/b\": \"a/b\" is not an interface name"),
        (
            "[[bridge]]\nname = \"a\"\nmode = \"direct\"\nuplink = \"wlp4s0\"",
            "4:10: uplink = \"wlp4s0\": a wireless interface cannot be bridged: 802.11 carries frames of one MAC alone; write mode = \"nat\"",
        ),
        (
            "[[bridge]]\nname = \"a\"\nmode = \"direct\"\nuplink = \"wlan1\"",
            "uplink = \"wlan1\": a wireless interface",
        ),
        (
            "[[bridge]]\nname = \"a\"\nmode = \"direct\"\nuplink = \"default\"",
            "uplink = \"default\": expected the name of a wired interface on a direct bridge; name it",
        ),
        (
            "[[bridge]]\nname = \"a\"\nmode = \"direct\"\nuplink = \"b\"\n[[bridge]]\nname = \"b\"\nmode = \"direct\"\naddress = \"10.0.0.1/8\"",
            "4:10: uplink = \"b\": it is the bridge of line 6",
        ),
    ];
    for (text, expected) in cases {
        let error = parse(text).expect_err(text);
        let line = sentence(&error);
        assert!(line.starts_with("config.toml:") && line.contains(expected), "{text}\ngave {line}");
        assert!(!line.contains('\n'), "{line:?}");
        assert!(error.hint().is_some_and(|hint| !hint.is_empty()), "{line}");
        assert_eq!(error.kind(), Kind::Invalid);
    }
}

#[test]
fn an_address_is_that_of_a_host() {
    for (mode, address, expected) in [
        (
            "nat",
            "10.200.0.1",
            "expected an IP address and a prefix length; write \"10.200.0.1/24\"",
        ),
        ("nat", "fd00::1", "expected an IP address and a prefix length; write \"fd00::1/64\""),
        ("nat", "ten/24", "expected an IP address and a prefix length; write an address such as"),
        (
            "nat",
            "10.200.0.0/24",
            "expected the address of a host, this is the address of the subnet itself; write \"10.200.0.1/24\"",
        ),
        ("direct", "10.200.0.255/24", "this is its broadcast address; write \"10.200.0.1/24\""),
        ("nat", "fd00::/64", "the address of the subnet itself; write \"fd00::1/64\""),
        (
            "nat",
            "10.200.0.1/31",
            "expected a prefix length from 1 to 30, to have room for containers; write \"10.200.0.1/24\"",
        ),
        (
            "nat",
            "fd00::1/128",
            "expected a prefix length from 1 to 126, to have room for containers; write \"fd00::1/64\"",
        ),
        ("direct", "10.0.0.1/0", "expected a prefix length from 1"),
        ("nat", "127.0.0.1/8", "expected an address that can be routed"),
        ("nat", "169.254.1.1/16", "expected an address that can be routed"),
        ("nat", "fe80::1/64", "expected an address that can be routed"),
        ("nat", "224.0.0.1/24", "expected an address that can be routed"),
    ] {
        let text = format!("[[bridge]]\nname = \"a\"\nmode = \"{mode}\"\naddress = \"{address}\"");
        let line = sentence(&parse(&text).expect_err(&text));
        assert!(line.contains(expected) && line.contains(":4:11: address = "), "{line}");
        let list =
            format!("[[bridge]]\nname = \"a\"\nmode = \"{mode}\"\naddresses = [\n\"{address}\"]");
        assert!(sentence(&parse(&list).unwrap_err()).contains(":5:1: addresses = \""));
    }
    for address in ["10.0.0.7/31", "10.0.0.7/32", "2001:db8::1/127", "10.0.0.1/8"] {
        parse(&format!("[[bridge]]\nname = \"a\"\nmode = \"direct\"\naddress = \"{address}\""))
            .unwrap();
    }
}

#[test]
fn a_gateway_is_another_host_of_a_subnet() {
    let section = |gateway| {
        format!(
            "[[bridge]]\nname = \"a\"\nmode = \"direct\"\naddress = \"172.16.0.10/24\"\ngateway = \"{gateway}\""
        )
    };
    for (gateway, expected) in [
        ("172.16.1.1", "it lies outside 172.16.0.0/24; write the router's"),
        ("fd00::1", "it is in no subnet: the bridge has no address of its kind"),
        ("172.16.0.0", "expected the address of another host, this is no host's address"),
        ("172.16.0.255", "this is no host's address"),
        ("172.16.0.10", "this is the bridge's own address"),
        ("172.16.0.1/24", "expected an IP address; write an address such as \"172.16.0.1\""),
    ] {
        let line = sentence(&parse(&section(gateway)).unwrap_err());
        assert!(line.contains(expected) && line.contains(":5:11: gateway = "), "{line}");
    }
    parse(&section("172.16.0.1")).unwrap();
    let none = "[[bridge]]\nname = \"a\"\nmode = \"direct\"\ngateway = \"172.16.0.1\"";
    assert!(sentence(&parse(none).unwrap_err()).contains("it is in no subnet"));
}

#[test]
fn ipv6_needs_its_mtu() {
    let text = "[[bridge]]\nname = \"a\"\nmode = \"nat\"\nmtu = 1279\naddress = \"fd00::1/64\"";
    let line = sentence(&parse(text).unwrap_err());
    assert!(
        line.contains("4:7: mtu = 1279: expected 1280 to 65535 bytes, as IPv6 needs"),
        "{line}"
    );
    assert_eq!(parse(&text.replace("1279", "1280")).unwrap().bridges[0].mtu, Some(1280));
}

#[test]
fn the_file_may_be_absent_at_its_usual_place_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    let error = Config::load(&path, Path::new(SYSFS)).unwrap_err();
    assert_eq!(error.kind(), Kind::Missing);
    assert!(sentence(&error).contains("config.toml; name a file that exists"), "{error}");
    fs::write(&path, EIGHT_KEYS).unwrap();
    assert_eq!(Config::load(&path, Path::new(SYSFS)).unwrap(), Config::default());
    fs::write(&path, b"bridge_name = \"\xff\"").unwrap();
    assert_eq!(Config::load(&path, Path::new(SYSFS)).unwrap_err().kind(), Kind::System);
    let usual = dir.path().join("usual.toml");
    let load = || Config::load_unless_absent(&usual, &usual, Path::new(SYSFS));
    assert_eq!(load().unwrap(), Config::default());
    fs::write(&usual, "bridge_name = \"br0\"").unwrap();
    assert_eq!(load().unwrap().bridge_name, name("br0"));
}

#[test]
fn the_example_equals_the_defaults_and_works_with_its_comments_removed() {
    assert_eq!(parse(EXAMPLE).unwrap(), Config::default());
    let bare: String = EXAMPLE
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
        .flat_map(|line| [line, "\n"])
        .collect();
    let config = parse(&bare).unwrap();
    assert_eq!(
        config.direct_bridge().unwrap().mode,
        Mode::Direct {
            uplink: Some(name("enp2s0")),
            addresses: vec!["172.16.0.10/24".parse().unwrap()],
            gateway: Some("172.16.0.1".parse().unwrap()),
        }
    );
    let nat = config.nat_bridge().unwrap();
    assert!(
        matches!(&nat.mode, Mode::Nat { uplink: Uplink::Named(n), .. } if *n == name("wlp4s0"))
    );
    assert_eq!((nat.mtu, nat.datapath_type.as_deref()), (Some(1500), Some("system")));
    assert_eq!(config.subnets().count(), 3);
}

/// The keys the reader knows, by its own account.
fn keys(text: &str) -> BTreeSet<String> {
    let Err(error) = toml::from_str::<raw::Raw>(text) else { panic!("{text}") };
    let keys: BTreeSet<_> =
        error.message().split('`').skip(3).step_by(2).map(str::to_owned).collect();
    assert!(keys.len() >= 8, "{keys:?}");
    keys
}

#[test]
fn every_key_is_documented_and_shown() {
    let (top, bridge) = (keys("zzzzzzzz = 1"), keys("[[bridge]]\nzzzzzzzz = 1"));
    for key in top.iter().chain(&bridge) {
        let row =
            if key == "bridge" { "| `[[bridge]]` |".to_owned() } else { format!("| `{key}` |") };
        assert!(DOCS.contains(&row), "{key} is not documented");
        if key != "address" {
            assert!(EXAMPLE.contains(key.as_str()), "{key} is not in the example");
        }
    }
    let rows = DOCS.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, top.len() + bridge.len(), "a documented key that does not exist");
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        drop(parse(&text));
    }

    #[test]
    fn no_value_panics_and_every_refusal_has_a_place(
        key in proptest::sample::select(vec![
            "bridge_name", "interfaces_path", "managed_block_tag", "naming_template",
            "ledger_sync", "ovsdb_socket", "state_dir", "docker_vlans", "metrics_listen",
            "network_manager",
            "name", "mode", "uplink", "address",
            "gateway", "datapath_type",
        ]),
        value in prop_oneof![any::<String>(), "[0-9a-f:.]{0,12}/[0-9]{1,3}", "[{}a-z0-9-]{0,20}"],
        section in any::<bool>(),
    ) {
        let value = toml::Value::String(value).to_string();
        let text = if section {
            format!("[[bridge]]\nname = \"a\"\nmode = \"direct\"\naddress = \"10.0.0.1/24\"\n{key} = {value}")
        } else {
            format!("{key} = {value}")
        };
        if let Err(error) = parse(&text) {
            let line = sentence(&error);
            prop_assert!(line.starts_with("config.toml:") && !line.contains('\n'), "{:?}", line);
        }
    }
}

#[test]
fn a_default_prefix_that_a_bridge_begins_with_is_none() {
    let read = |text: &str| Config::parse(text, Path::new("/c"), Path::new("/none")).unwrap();
    let config = read("[[bridge]]\nname = \"tapbr0\"\nmode = \"direct\"\nuplink = \"veth0\"\n");
    assert_eq!(config.include_prefixes, ["veth-"]);
    assert_eq!(read("bridge_name = \"tapbr0\"").include_prefixes, ["veth-", "veth"]);
}
