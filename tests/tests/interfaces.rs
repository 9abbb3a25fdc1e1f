//! The managed block before the programs that read it at boot: ifupdown and ifupdown2 themselves,
//! with the hook of Debian's openvswitch-switch and a running Open vSwitch.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rig::{Command, Host};
use shared::interfaces::{self, BridgeStanza, PortStanza};
use shared::vlan::{PortVlan, VlanId};

const FILE: &str = "/etc/network/interfaces";
const TAG: &str = "ovs-port-agent";
const OURS: [&str; 3] = ["ovsbr1", "veth-a-eth0", "veth-b-eth0"];

/// A host whose own bridge comes up at boot, in every way Debian knows.
const USER: &str = "\
auto lo
iface lo inet loopback

auto ovsbr0
allow-ovs ovsbr0
iface ovsbr0 inet manual
\tovs_type OVSBridge
\tovs_extra set bridge ovsbr0 datapath_type=netdev
";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Ifupdown,
    Ifupdown2,
}

impl Tool {
    fn unpacked(self) -> PathBuf {
        let name = match self {
            Self::Ifupdown => "ifupdown",
            Self::Ifupdown2 => "ifupdown2",
        };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/setup").join(name);
        path.canonicalize().unwrap_or_else(|error| {
            panic!(
                "{}: {error}; sh tests/setup/ifupdown.sh unpacks it, and so does ./run setup",
                path.display()
            )
        })
    }

    /// Puts the tool where a host has it, with Open vSwitch's hook.
    fn install(self, host: &Host) {
        let unpacked = self.unpacked();
        for program in fs::read_dir(unpacked.join("bin")).unwrap() {
            let program = program.unwrap();
            let link = Path::new("/usr/local/sbin").join(program.file_name());
            fs::remove_file(&link).ok();
            symlink(program.path(), link).unwrap();
        }
        // The hook has Open vSwitch started, which runs here already: by systemd, or where a
        // minimal Debian has none, by the init script.
        for starter in ["systemctl", "service"] {
            let path = format!("/usr/local/sbin/{starter}");
            host.write(&path, "#!/bin/sh\n");
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::create_dir_all("/run/network").unwrap();
        if self == Self::Ifupdown2 {
            let conf = unpacked.join("etc/network/ifupdown2");
            let file = "/etc/network/ifupdown2/ifupdown2.conf";
            host.sh(&format!(
                "cp -r {} /etc/network/; sed -i 's|^state_dir=.*|state_dir=/run/network/|' {file}",
                conf.display()
            ));
            return;
        }
        for moment in ["pre-up", "up", "down", "post-down"] {
            fs::create_dir_all(format!("/etc/network/if-{moment}.d")).unwrap();
        }
        for moment in ["pre-up", "post-down"] {
            symlink(
                "/usr/share/openvswitch/scripts/ifupdown.sh",
                format!("/etc/network/if-{moment}.d/openvswitch"),
            )
            .unwrap();
        }
    }

    fn command(line: &str) -> Command {
        let mut words = line.split(' ');
        // Debian byte-compiles ifupdown2 when it installs it, and hears then what Python 3.13 says
        // of its regular expressions.
        Command::new(words.next().unwrap())
            .args(words)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYTHONWARNINGS", "ignore::SyntaxWarning")
    }
}

/// Shows `ovsbr1` and two ports beside the text of the user.
fn show() {
    let name = |text: &str| text.parse().unwrap();
    let bridges = [BridgeStanza { name: name("ovsbr0") }, BridgeStanza { name: name("ovsbr1") }];
    let ports = [
        PortStanza {
            name: name("veth-a-eth0"),
            bridge: name("ovsbr0"),
            vlan: PortVlan::access(VlanId::try_from(5).unwrap()),
        },
        PortStanza {
            name: name("veth-b-eth0"),
            bridge: name("ovsbr1"),
            vlan: PortVlan::untagged(),
        },
    ];
    assert!(interfaces::update(Path::new(FILE), TAG, &bridges, &ports).unwrap());
}

fn assert_none_of_ours(output: &str, what: &str) {
    for name in OURS {
        assert!(!output.contains(name), "{what} speaks of {name}:\n{output}");
    }
}

/// What happens to networks while Debian boots, with either tool.
fn boot(tool: Tool) {
    Tool::command("ifup -a").output().success();
    // The start script of openvswitch-switch.
    Tool::command("ifup --allow=ovs ovsbr0").output().success();
    if tool == Tool::Ifupdown2 {
        // "Apply Configuration" in Proxmox.
        Tool::command("ifreload -a").output().success();
    }
}

fn tool_reads_the_block_and_starts_none_of_it(tool: Tool) {
    let host = Host::new();
    tool.install(&host);
    host.write(FILE, USER);
    show();

    let asked = Tool::command("ifquery veth-a-eth0").run().replace('-', "_");
    for (key, value) in [
        ("ovs_type", "OVSIntPort"),
        ("ovs_bridge", "ovsbr0"),
        ("ovs_options", "tag=5 vlan_mode=access"),
    ] {
        let value = value.replace('-', "_");
        let found = asked.lines().any(|line| {
            line.trim().split_once([' ', ':']).is_some_and(|(k, v)| k == key && v.trim() == value)
        });
        assert!(found, "{key} {value} is not in\n{asked}");
    }
    let asked = Tool::command("ifquery veth-b-eth0").run();
    assert!(asked.contains("trunks=0 vlan_mode=trunk"), "{asked}");
    assert!(Tool::command("ifquery ovsbr1").run().contains("OVSBridge"));

    let mut lists = vec!["ifquery --list -a".to_owned(), "ifquery --list".to_owned()];
    for class in ["auto", "hotplug", "ovs", "ovsbr0", "ovsbr1"] {
        lists.push(format!("ifquery --list --allow={class}"));
    }
    if tool == Tool::Ifupdown2 {
        lists.push("ifquery -a".to_owned());
    }
    for line in &lists {
        let output = Tool::command(line).output();
        // What ifupdown2 calls an empty list.
        let complaints = output
            .stderr
            .replace("error: main exception: no ifaces found matching given allow lists", "");
        assert_eq!(complaints.trim(), "", "{output}");
        assert_none_of_ours(&output.stdout, line);
    }
    assert!(Tool::command(&lists[0]).run().contains("ovsbr0"));

    if tool == Tool::Ifupdown2 {
        // It knows no bridge of Open vSwitch and says so of the user's; what else it says counts.
        let check = Tool::command("ifreload -a --syntax-check").output();
        let complaints = check.stderr.lines().filter(|line| !line.contains("ovsbr0: ovs-type"));
        assert_eq!(complaints.collect::<String>(), "");
    }

    boot(tool);
    let rehearsal = Tool::command("ifup -a --no-act --verbose --force").output();
    assert_none_of_ours(&(rehearsal.stdout + &rehearsal.stderr), "ifup -a --no-act");
    Tool::command("ifup ovsbr0 --force").output().success();
    assert_eq!(host.vsctl("list-br"), "ovsbr0\n");
    assert_eq!(host.vsctl("list-ports ovsbr0"), "");

    // Ports that are there live through it all.
    host.ip("link add veth-a-eth0 type veth peer name peer");
    host.vsctl("add-port ovsbr0 veth-a-eth0 tag=5 vlan_mode=access");
    boot(tool);
    Tool::command("ifup ovsbr0 --force").output().success();
    assert_eq!(host.vsctl("list-ports ovsbr0"), "veth-a-eth0\n");
    assert_eq!(host.vsctl("get Port veth-a-eth0 tag"), "5\n");
    assert_eq!(host.vsctl("get Interface veth-a-eth0 type"), "\"\"\n");

    // The same tools do make such a port when told to: the silence above is not theirs.
    host.vsctl("del-port ovsbr0 veth-a-eth0");
    host.ip("link del veth-a-eth0");
    let text = fs::read_to_string(FILE).unwrap();
    host.write(FILE, &text.replace("iface veth-a-eth0", "auto veth-a-eth0\niface veth-a-eth0"));
    Tool::command("ifup -a --force").output().success();
    assert_eq!(host.vsctl("list-ports ovsbr0"), "veth-a-eth0\n");
    assert_eq!(host.vsctl("get Interface veth-a-eth0 type"), "internal\n");
}

#[test]
fn ifupdown_reads_the_block_and_starts_none_of_it() {
    tool_reads_the_block_and_starts_none_of_it(Tool::Ifupdown);
}

#[test]
fn ifupdown2_reads_the_block_and_starts_none_of_it() {
    tool_reads_the_block_and_starts_none_of_it(Tool::Ifupdown2);
}

/// docs/interfaces.md says so of bridges that the user defines with `ovs_ports`.
#[test]
fn ifupdown2_spares_ports_only_by_the_line_in_the_manual() {
    let host = Host::new();
    Tool::Ifupdown2.install(&host);
    host.bridge("ovsbr0");
    host.ip("link add veth-a-eth0 type veth peer name peer");
    for (regex, left) in [("\tovs-ports-condone-regex ^(veth|tap)\n", "veth-a-eth0\n"), ("", "")] {
        let bridge = format!("{USER}\tovs_ports lan0\n{regex}");
        let port =
            "auto lan0\niface lan0 inet manual\n\tovs_type OVSIntPort\n\tovs_bridge ovsbr0\n";
        host.write(FILE, &format!("{bridge}\n{port}"));
        show();
        host.vsctl("--may-exist add-port ovsbr0 veth-a-eth0");
        Tool::command("ifreload -a").output().success();
        let ports = host.vsctl("list-ports ovsbr0");
        assert_eq!(ports, format!("lan0\n{left}"));
    }
}
