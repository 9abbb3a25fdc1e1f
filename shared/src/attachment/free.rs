//! Which interfaces of the host are clearly nobody's, so that the monitor may plug them in.

use std::fmt;

use serde::Serialize;

use crate::mac::Mac;
use crate::name::IfName;

/// What is known of one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Interface index.
    pub index: u32,
    /// Its name.
    pub name: IfName,
    /// Its MAC; `None` without Ethernet frames (a tun).
    pub mac: Option<Mac>,
    /// Whether its name begins as `include_prefixes` says.
    pub included: bool,
    /// What it is and who is behind it.
    pub behind: Behind,
    /// Whether it is plugged in by us.
    pub ours: bool,
    /// The Open vSwitch bridge it is a port of.
    pub switch: Option<String>,
    /// The interface it is a member of (a Linux bridge, a bond).
    pub master: Option<String>,
    /// Whether it carries an address; an IPv6 link-local one does not count.
    pub addressed: bool,
    /// Whether a route leads through it; the kernel's own for link-local addresses does not count.
    pub routed: bool,
    /// Why the monitor must not take it by itself.
    pub left: Option<Left>,
}

/// What an interface is, and what is behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behind {
    /// A veth whose other end is here as well.
    Here,
    /// A veth whose other end is in another namespace.
    Elsewhere(Elsewhere),
    /// A tap, with the programs that hold one of that name open.
    Tap(Vec<Holder>),
    /// Neither.
    Other,
}

/// The other end of a veth.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Elsewhere {
    /// Path of its namespace, if one was found.
    pub netns: Option<std::path::PathBuf>,
    /// What people call the container, if it has a name.
    pub container: Option<String>,
    /// Its name there.
    pub ifname: Option<IfName>,
    /// Its MAC.
    pub mac: Option<Mac>,
    /// Who runs that container.
    pub whose: Option<Whose>,
}

/// A program that holds a tap open.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// Its name (`/proc/PID/comm`).
    pub program: String,
    /// Whose it is.
    pub whose: Option<Whose>,
}

/// Somebody who plugs in his interfaces himself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whose {
    /// dockerd.
    Docker,
    /// A kubelet, its CRI or its CNI plugins.
    Kubernetes,
    /// Podman.
    Podman,
    /// Proxmox VE.
    Proxmox,
    /// libvirtd.
    Libvirt,
    /// OpenVPN.
    OpenVpn,
    /// Another tunnel.
    Tunnel,
}

impl Holder {
    /// Somebody who is not known.
    pub(super) fn unknown() -> Self {
        Self { program: String::new(), whose: None }
    }
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Docker => "Docker",
            Self::Kubernetes => "Kubernetes",
            Self::Podman => "Podman",
            Self::Proxmox => "Proxmox",
            Self::Libvirt => "libvirt",
            Self::OpenVpn => "OpenVPN",
            Self::Tunnel => "a tunnel",
        })
    }
}

/// Why the monitor leaves an interface alone that would be free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Left {
    /// It was there before the agent's first start.
    Older,
    /// It was detached by hand.
    Detached,
}

/// Whether an interface may be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is nobody's.
    Free,
    /// It is not, or not clearly.
    Not(Reason),
}

/// Why an interface is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// `include_prefixes` does not name it.
    #[error("its name begins with none of include_prefixes")]
    Name,
    /// Neither veth nor tap.
    #[error("it is neither a veth nor a tap")]
    Kind,
    /// A tun.
    #[error("it carries no Ethernet frames")]
    NoEthernet,
    /// Ours.
    #[error("it is plugged in already")]
    Ours,
    /// A port of a bridge.
    #[error("it is a port of the Open vSwitch bridge {bridge}")]
    Port {
        /// Which.
        bridge: String,
    },
    /// A member of a bridge or bond.
    #[error("it is a member of {master}")]
    Member {
        /// Of which.
        master: String,
    },
    /// Its name is one that somebody gives.
    #[error("its name is one that {whose} gives")]
    Named {
        /// Who.
        whose: Whose,
    },
    /// It has an address.
    #[error("it has an address")]
    Address,
    /// It has a route.
    #[error("a route leads through it")]
    Route,
    /// Both ends are here.
    #[error("its other end is on this host as well")]
    Here,
    /// Its container is somebody's.
    #[error("its other end is in a container of {whose}")]
    Container {
        /// Whose.
        whose: Whose,
    },
    /// Nobody holds the tap.
    #[error("no process is seen to hold it open")]
    Unheld,
    /// Somebody else's program holds the tap.
    #[error("it is held open by {program}, which is {whose}'s")]
    Held {
        /// Which program.
        program: String,
        /// Whose.
        whose: Whose,
    },
    /// Older than the agent.
    #[error("it is older than the agent's first start; --adopt takes it")]
    Older,
    /// Detached by hand.
    #[error("it was detached by hand; --adopt takes it")]
    Detached,
}

/// Whether the monitor may take an interface. It may take only what is clearly nobody's.
pub fn free(facts: &Facts) -> Verdict {
    match reason(facts) {
        Some(reason) => Verdict::Not(reason),
        None => Verdict::Free,
    }
}

fn reason(facts: &Facts) -> Option<Reason> {
    if !facts.included {
        return Some(Reason::Name);
    }
    if facts.behind == Behind::Other {
        return Some(Reason::Kind);
    }
    if facts.mac.is_none() {
        return Some(Reason::NoEthernet);
    }
    taken(facts).or_else(|| stranger(facts)).or_else(|| {
        facts.left.map(|left| match left {
            Left::Older => Reason::Older,
            Left::Detached => Reason::Detached,
        })
    })
}

/// What forbids to plug an interface in even by hand: it is in use.
pub(super) fn taken(facts: &Facts) -> Option<Reason> {
    if facts.ours {
        return Some(Reason::Ours);
    }
    if let Some(bridge) = &facts.switch {
        return Some(Reason::Port { bridge: bridge.clone() });
    }
    if let Some(master) = &facts.master {
        return Some(Reason::Member { master: master.clone() });
    }
    if facts.addressed {
        return Some(Reason::Address);
    }
    facts.routed.then_some(Reason::Route)
}

/// What says that somebody else will plug it in.
fn stranger(facts: &Facts) -> Option<Reason> {
    if let Some(whose) = named(facts.name.as_str()) {
        return Some(Reason::Named { whose });
    }
    match &facts.behind {
        Behind::Here => Some(Reason::Here),
        Behind::Elsewhere(end) => end.whose.map(|whose| Reason::Container { whose }),
        Behind::Tap(holders) if holders.is_empty() => Some(Reason::Unheld),
        Behind::Tap(holders) => holders.iter().find_map(|holder| {
            let program = holder.program.clone();
            holder.whose.map(|whose| Reason::Held { program, whose })
        }),
        Behind::Other => None,
    }
}

/// Whose names look like this, whoever is behind the interface.
fn named(name: &str) -> Option<Whose> {
    // Proxmox VE: "veth100i0", "tap100i0", "fwln100i0", "fwpr100p0" (container or VM and number).
    for prefix in ["veth", "tap", "fwln", "fwpr", "fwbr"] {
        if let Some(rest) = name.strip_prefix(prefix)
            && let Some((vm, number)) = rest.split_once(['i', 'o', 'p'])
            && is_number(vm)
            && is_number(number)
        {
            return Some(Whose::Proxmox);
        }
    }
    if name.strip_prefix("vnet").is_some_and(is_number) || name.starts_with("virbr") {
        return Some(Whose::Libvirt);
    }
    // CNI plugins that give a veth no master, address or route that we would see.
    let cluster = ["cali", "cilium", "lxc_health", "azv", "eni", "gke", "nodelocaldns", "kube"];
    if cluster.iter().any(|prefix| name.starts_with(prefix)) {
        return Some(Whose::Kubernetes);
    }
    // Cilium's endpoints: "lxc" and twelve or more hexadecimal digits.
    let hex = |rest: &str| rest.len() >= 10 && rest.bytes().all(|byte| byte.is_ascii_hexdigit());
    name.strip_prefix("lxc").is_some_and(hex).then_some(Whose::Kubernetes)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whose a process is, by its program's name and its cgroups (`/proc/PID/cgroup`).
pub(super) fn whose(program: &str, cgroup: &str) -> Option<Whose> {
    // systemd writes '-' inside a name as "\x2d".
    let groups = [
        ("kubepods", Whose::Kubernetes),
        ("libpod", Whose::Podman),
        ("docker", Whose::Docker),
        ("libvirt", Whose::Libvirt),
        ("machine-qemu", Whose::Libvirt),
        ("qemu.slice", Whose::Proxmox),
        ("openvpn", Whose::OpenVpn),
    ];
    if let Some((_, whose)) = groups.iter().find(|(part, _)| cgroup.contains(part)) {
        return Some(*whose);
    }
    let tunnels =
        ["openconnect", "vpnc", "tincd", "tailscaled", "zerotier-one", "edge", "vpnclient", "ssh"];
    match program {
        "openvpn" => Some(Whose::OpenVpn),
        _ if tunnels.contains(&program) => Some(Whose::Tunnel),
        _ => None,
    }
}

/// Whose a namespace is, by the name of its file.
pub(super) fn whose_netns(dir: &str, name: &str) -> Option<Whose> {
    // A UUID behind the prefix, as the runtimes make them.
    let made = |prefix: &str| name.strip_prefix(prefix).is_some_and(|rest| rest.len() == 36);
    match dir {
        "/run/docker/netns" => Some(Whose::Docker),
        _ if made("cni-") => Some(Whose::Kubernetes),
        _ if made("netns-") => Some(Whose::Podman),
        _ => None,
    }
}

/// What a container is called by its cgroup: LXC and systemd-nspawn name theirs.
pub(super) fn container(cgroup: &str) -> Option<String> {
    for line in cgroup.lines() {
        // hierarchy-ID:controllers:path, cgroups(7).
        let Some(path) = line.splitn(3, ':').nth(2) else { continue };
        for part in path.split('/') {
            let named = part.strip_prefix("lxc.payload.").or_else(|| {
                part.strip_prefix("machine-").and_then(|rest| rest.strip_suffix(".scope"))
            });
            if let Some(name) = named.filter(|name| !name.is_empty()) {
                return Some(name.replace("\\x2d", "-"));
            }
        }
        if let Some(rest) = path.strip_prefix("/lxc/") {
            return rest.split('/').next().filter(|name| !name.is_empty()).map(str::to_owned);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(name: &str, behind: Behind) -> Facts {
        Facts {
            index: 7,
            name: name.parse().unwrap(),
            mac: Mac::from_bytes([2, 0, 0, 0, 0, 7]),
            included: true,
            behind,
            ours: false,
            switch: None,
            master: None,
            addressed: false,
            routed: false,
            left: None,
        }
    }

    fn veth() -> Facts {
        facts("veth-lab", Behind::Elsewhere(Elsewhere::default()))
    }

    fn tap(programs: &[(&str, &str)]) -> Facts {
        let holder = |(program, cgroup): &(&str, &str)| Holder {
            program: (*program).to_owned(),
            whose: whose(program, cgroup),
        };
        facts("tap-vm1", Behind::Tap(programs.iter().map(holder).collect()))
    }

    fn container_of(whose: Whose) -> Behind {
        Behind::Elsewhere(Elsewhere { whose: Some(whose), ..Elsewhere::default() })
    }

    #[test]
    fn what_is_nobodys_is_free() {
        for facts in [
            veth(),
            facts("vethAb12Cd", Behind::Elsewhere(Elsewhere::default())),
            facts("veth0", Behind::Elsewhere(Elsewhere::default())),
            tap(&[("qemu-system-x86", "0::/user.slice/user-0.slice/session-1.scope\n")]),
            tap(&[("cloud-hypervisor", "0::/system.slice/vm1.service\n"), ("vhost-1", "0::/")]),
        ] {
            assert_eq!(free(&facts), Verdict::Free, "{facts:?}");
        }
    }

    #[test]
    fn what_is_somebodys_is_left_with_the_reason() {
        let table: Vec<(Facts, &str)> = vec![
            (Facts { included: false, ..veth() }, "its name begins with none of include_prefixes"),
            (facts("veth-x", Behind::Other), "it is neither a veth nor a tap"),
            (Facts { mac: None, ..tap(&[("x", "0::/")]) }, "it carries no Ethernet frames"),
            (Facts { ours: true, ..veth() }, "it is plugged in already"),
            (
                Facts { switch: Some("br-ex".into()), ..veth() },
                "it is a port of the Open vSwitch bridge br-ex",
            ),
            (Facts { master: Some("docker0".into()), ..veth() }, "it is a member of docker0"),
            (Facts { addressed: true, ..veth() }, "it has an address"),
            (Facts { routed: true, ..veth() }, "a route leads through it"),
            (facts("veth-x", Behind::Here), "its other end is on this host as well"),
            (
                facts("vethd34db33", container_of(Whose::Docker)),
                "its other end is in a container of Docker",
            ),
            (
                facts("veth12345678", container_of(Whose::Kubernetes)),
                "its other end is in a container of Kubernetes",
            ),
            (
                facts("veth100i0", Behind::Elsewhere(Elsewhere::default())),
                "its name is one that Proxmox gives",
            ),
            (facts("tap101i1", Behind::Tap(vec![])), "its name is one that Proxmox gives"),
            (facts("fwln100i0", Behind::Here), "its name is one that Proxmox gives"),
            (facts("vnet3", Behind::Tap(vec![])), "its name is one that libvirt gives"),
            (
                facts("cali0a1b2c3d4e5", Behind::Elsewhere(Elsewhere::default())),
                "its name is one that Kubernetes gives",
            ),
            (
                facts("lxc0a1b2c3d4e5f", Behind::Elsewhere(Elsewhere::default())),
                "its name is one that Kubernetes gives",
            ),
            (tap(&[]), "no process is seen to hold it open"),
            (
                tap(&[("openvpn", "0::/system.slice/x.service")]),
                "it is held open by openvpn, which is OpenVPN's",
            ),
            (
                tap(&[
                    ("a", "0::/"),
                    ("qemu-system-x86", "0::/machine.slice/machine-qemu\\x2d1.scope"),
                ]),
                "it is held open by qemu-system-x86, which is libvirt's",
            ),
            (
                Facts { left: Some(Left::Older), ..veth() },
                "it is older than the agent's first start; --adopt takes it",
            ),
            (
                Facts { left: Some(Left::Detached), ..veth() },
                "it was detached by hand; --adopt takes it",
            ),
        ];
        for (facts, expected) in table {
            let Verdict::Not(reason) = free(&facts) else { panic!("{facts:?} is free") };
            assert_eq!(reason.to_string(), expected, "{facts:?}");
        }
    }

    #[test]
    fn a_cgroup_says_whose_and_which_container() {
        for (cgroup, whose_is, name) in [
            ("0::/lxc.payload.web/init.scope\n", None, Some("web")),
            ("12:pids:/lxc/db/x\n0::/lxc/db\n", None, Some("db")),
            ("0::/machine.slice/machine-my\\x2dbox.scope/payload\n", None, Some("my-box")),
            ("0::/system.slice/docker-4f.scope\n", Some(Whose::Docker), None),
            ("0::/docker/4f0c\n", Some(Whose::Docker), None),
            ("0::/machine.slice/libpod-4f.scope/container\n", Some(Whose::Podman), None),
            ("0::/kubepods.slice/kubepods-pod1.slice/cri-1.scope\n", Some(Whose::Kubernetes), None),
            ("0::/user.slice\n", None, None),
            ("", None, None),
        ] {
            assert_eq!(whose("sh", cgroup), whose_is, "{cgroup}");
            assert_eq!(container(cgroup).as_deref(), name, "{cgroup}");
        }
    }

    #[test]
    fn runtimes_name_their_namespaces() {
        let uuid = "0d1c2b3a-0000-4000-8000-000000000000";
        assert_eq!(whose_netns("/run/netns", &format!("cni-{uuid}")), Some(Whose::Kubernetes));
        assert_eq!(whose_netns("/run/netns", &format!("netns-{uuid}")), Some(Whose::Podman));
        assert_eq!(whose_netns("/run/docker/netns", "0d1c2b3a4f5e"), Some(Whose::Docker));
        assert_eq!(whose_netns("/run/netns", "cni-lab"), None);
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_in_use_is_never_free(
            included: bool, ours: bool, addressed: bool, routed: bool, port: bool, member: bool,
            behind in 0..4,
        ) {
            let behind = match behind {
                0 => Behind::Here,
                1 => Behind::Elsewhere(Elsewhere::default()),
                2 => Behind::Tap(vec![Holder { program: "qemu".into(), whose: None }]),
                _ => Behind::Other,
            };
            let clear = included && matches!(behind, Behind::Elsewhere(_) | Behind::Tap(_))
                && !(ours || addressed || routed || port || member);
            let facts = Facts {
                included, ours, addressed, routed,
                switch: port.then(|| "br0".into()),
                master: member.then(|| "br1".into()),
                ..facts("veth-x", behind)
            };
            proptest::prop_assert_eq!(free(&facts) == Verdict::Free, clear);
        }
    }
}
