//! What Proxmox VE does to `/etc/network/interfaces` when its GUI saves, as far as it can touch the
//! managed block: pve-common reads the file into a table and prints the table again.

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Which generation of Proxmox, and which ifup it drives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Release {
    /// Since 9 an OVS port that no interface lists becomes a bare line; before, it was dropped.
    pub(crate) keeps_unused_ports: bool,
    /// ifupdown2 is installed.
    pub(crate) ifupdown2: bool,
}

impl Release {
    pub(crate) const ALL: [Self; 4] = [
        Self { keeps_unused_ports: false, ifupdown2: false },
        Self { keeps_unused_ports: false, ifupdown2: true },
        Self { keeps_unused_ports: true, ifupdown2: false },
        Self { keeps_unused_ports: true, ifupdown2: true },
    ];
}

/// One interface of the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Iface {
    pub(crate) kind: String,
    pub(crate) autostart: bool,
    priority: Option<u32>,
    /// Family and method of each stanza.
    stanzas: Vec<(String, String)>,
    /// Options that Proxmox knows.
    pub(crate) known: BTreeMap<String, String>,
    /// Lines it carries along, by family.
    unknown: BTreeMap<String, Vec<String>>,
    pub(crate) comments: BTreeMap<String, Vec<String>>,
}

/// The table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) ifaces: BTreeMap<String, Iface>,
    /// Top-level lines it does not understand.
    lines: Vec<(u32, String)>,
}

const KNOWN: [&str; 11] = [
    "mtu",
    "ovs_type",
    "ovs_options",
    "ovs_bridge",
    "ovs_bonds",
    "ovs_ports",
    "address",
    "netmask",
    "gateway",
    "bridge_ports",
    "slaves",
];

fn is_physical(name: &str) -> bool {
    let digits = |rest: &str| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_digit());
    let word = |rest: &str| !rest.is_empty() && !rest.contains([':', '.']);
    ["eth", "nic", "if"].iter().any(|p| name.strip_prefix(p).is_some_and(digits))
        || ["en", "ib"].iter().any(|p| name.strip_prefix(p).is_some_and(word))
}

fn is_bond(name: &str) -> bool {
    name.strip_prefix("bond")
        .is_some_and(|n| !n.is_empty() && n.chars().all(|c| c.is_ascii_digit()))
}

fn vlan_parent(name: &str) -> Option<&str> {
    let (parent, id) = name.rsplit_once('.')?;
    (!parent.is_empty() && !id.is_empty() && id.chars().all(|c| c.is_ascii_digit()))
        .then_some(parent)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_whitespace()
}

/// Reads the file on a host with the network cards `cards`.
pub(crate) fn read(text: &str, cards: &[&str]) -> Table {
    let mut table = Table::default();
    let mut priority = 2;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let trimmed = line.trim();
        let key = words(trimmed).next().unwrap_or_default();
        if trimmed.starts_with('#') {
            continue; // A comment outside a stanza is lost.
        }
        match key {
            "auto" | "allow-auto" | "allow-ovs" | "allow-hotplug" => {
                for name in words(trimmed).skip(1) {
                    table.ifaces.entry(name.to_owned()).or_default().autostart = true;
                }
            }
            "iface" => {
                let parts: Vec<_> = words(trimmed).collect();
                let [_, name, family, method] = parts[..] else {
                    panic!("the model knows no {trimmed:?}")
                };
                let iface = table.ifaces.entry(name.to_owned()).or_default();
                if iface.priority.is_none() {
                    iface.priority = Some(priority);
                    priority += 1;
                }
                iface.stanzas.push((family.to_owned(), method.to_owned()));
                // Up to the first blank line or keyword; comments in there belong to the stanza.
                while let Some(line) = lines.peek() {
                    let body = line.trim();
                    if let Some(comment) = body.strip_prefix('#') {
                        iface
                            .comments
                            .entry(family.to_owned())
                            .or_default()
                            .push(comment.trim_end().to_owned());
                    } else {
                        let key = words(body).next().unwrap_or_default();
                        let keyword = ["iface", "mapping", "auto", "source", "source-directory"];
                        if keyword.contains(&key) || key.starts_with("allow-") {
                            break;
                        }
                        let Some((_, value)) = body.split_once(char::is_whitespace) else { break };
                        let alias = match key {
                            "ovs_mtu" => "mtu",
                            "bridge-ports" => "bridge_ports",
                            "bond-slaves" => "slaves",
                            _ => key,
                        };
                        if KNOWN.contains(&alias) {
                            iface.known.insert(alias.to_owned(), value.trim().to_owned());
                        } else {
                            let unknown = iface.unknown.entry(family.to_owned()).or_default();
                            unknown.push(body.to_owned());
                        }
                    }
                    lines.next();
                }
            }
            "" => {}
            _ => {
                table.lines.push((priority, line.to_owned()));
                priority += 1;
            }
        }
    }
    for card in cards {
        table.ifaces.entry((*card).to_owned()).or_default();
    }
    let lo = table.ifaces.entry("lo".to_owned()).or_default();
    if lo.stanzas.is_empty() {
        lo.priority = Some(1);
        lo.autostart = true;
        lo.stanzas.push(("inet".to_owned(), "loopback".to_owned()));
    }
    classify(&mut table);
    drop_generated_lines(&mut table);
    table
}

fn classify(table: &mut Table) {
    let mut parents = Vec::new();
    for (name, iface) in &mut table.ifaces {
        let ovs_type = iface.known.get("ovs_type").map(String::as_str);
        let kind = match ovs_type {
            _ if iface.known.contains_key("bridge_ports") => "bridge",
            Some("OVSBridge") => "OVSBridge",
            None if is_bond(name) => "bond",
            Some("OVSBond") if is_bond(name) => "OVSBond",
            _ if is_bond(name) => "unknown",
            _ if vlan_parent(name).is_some() => {
                parents.extend(vlan_parent(name).map(str::to_owned));
                "vlan"
            }
            None if is_physical(name) => "eth",
            Some("OVSPort") if is_physical(name) => "OVSPort",
            _ if is_physical(name) => "unknown",
            None if name == "lo" => "loopback",
            Some("OVSIntPort") => "OVSIntPort",
            _ => "unknown",
        };
        iface.kind = kind.to_owned();
        if iface.stanzas.is_empty() {
            iface.stanzas.push(("inet".to_owned(), "manual".to_owned()));
        }
    }
    for parent in parents {
        table.ifaces.entry(parent).or_default();
    }
}

/// `allow-BRIDGE PORT` lines are made anew from `ovs_ports`.
fn drop_generated_lines(table: &mut Table) {
    let ifaces = &table.ifaces;
    table.lines.retain_mut(|(_, line)| {
        let Some(rest) = line.strip_prefix("allow-") else { return true };
        let mut parts = words(rest);
        let bridge = parts.next().unwrap_or_default().to_owned();
        let listed = ifaces.get(&bridge).and_then(|iface| iface.known.get("ovs_ports"));
        let listed: Vec<_> = listed.map(|ports| words(ports).collect()).unwrap_or_default();
        let left: Vec<_> = parts.filter(|port| !listed.contains(port)).collect();
        let line_left = format!("allow-{bridge} {}", left.join(" "));
        let keep = !left.is_empty();
        *line = line_left;
        keep
    });
}

/// Saves the table, or says why the GUI shows an error.
pub(crate) fn write(table: &Table, release: Release) -> Result<String, String> {
    let mut table = table.clone();
    let mut users: BTreeMap<String, String> = BTreeMap::new();
    for (name, iface) in &table.ifaces {
        for key in ["bridge_ports", "ovs_ports", "slaves", "ovs_bonds"] {
            for port in iface.known.get(key).into_iter().flat_map(|list| words(list)) {
                if let Some(user) = users.insert(port.to_owned(), name.clone())
                    && user != *name
                {
                    return Err(format!("port '{port}' is already used on interface '{user}'"));
                }
            }
        }
    }
    drop_unused_ports(&mut table, &users, release);
    let bridges: Vec<_> = table
        .ifaces
        .iter()
        .filter(|(_, iface)| iface.kind == "OVSBridge")
        .filter_map(|(name, iface)| Some((name.clone(), iface.known.get("ovs_ports")?.clone())))
        .collect();
    for (bridge, ports) in bridges {
        for port in words(&ports) {
            let Some(iface) = table.ifaces.get_mut(port) else {
                return Err(format!("OVS bridge '{bridge}' - unable to find port '{port}'"));
            };
            match iface.kind.as_str() {
                "eth" => iface.kind = "OVSPort".to_owned(),
                "OVSPort" | "OVSIntPort" | "OVSBond" => {}
                _ => return Err(format!("interface '{port}' is not defined as OVS port/bond")),
            }
            iface.known.insert("ovs_bridge".to_owned(), bridge.clone());
        }
    }
    for (name, iface) in &table.ifaces {
        if iface.kind == "vlan" {
            let parent = vlan_parent(name).unwrap();
            let kind = table.ifaces.get(parent).map_or("", |parent| parent.kind.as_str());
            if !["eth", "bridge", "bond", "vlan"].contains(&kind) {
                return Err(format!("vlan '{name}' - wrong interface type on parent '{parent}'"));
            }
        }
    }
    Ok(print(&table, release))
}

fn drop_unused_ports(table: &mut Table, users: &BTreeMap<String, String>, release: Release) {
    for name in table.ifaces.keys().cloned().collect::<Vec<_>>() {
        if !["OVSPort", "OVSIntPort", "OVSBond"].contains(&table.ifaces[&name].kind.as_str()) {
            continue;
        }
        let user = users.get(&name).and_then(|user| table.ifaces.get(user));
        match user {
            None if release.keeps_unused_ports || is_physical(&name) => {
                let bare = Iface {
                    kind: "eth".to_owned(),
                    stanzas: vec![("inet".to_owned(), "manual".to_owned())],
                    ..Iface::default()
                };
                table.ifaces.insert(name, bare);
            }
            Some(user) if user.kind == "OVSBridge" => {}
            _ => {
                table.ifaces.remove(&name);
            }
        }
    }
}

fn print(table: &Table, release: Release) -> String {
    let mut text =
        "# network interface settings; autogenerated\n# (eight more lines)\n\n".to_owned();
    let mut lines = table.lines.iter().peekable();
    let mut order: Vec<_> =
        table.ifaces.iter().filter(|(_, iface)| !iface.kind.is_empty()).collect();
    order.sort_by(|a, b| compare(table, *a, *b));
    for (name, iface) in order {
        let priority = iface.priority.unwrap_or(0);
        let mut any = false;
        while let Some((_, line)) = lines.next_if(|(at, _)| *at < priority) {
            text += &format!("{line}\n");
            any = true;
        }
        if any {
            text.push('\n');
        }
        let is_port = ["OVSPort", "OVSIntPort", "OVSBond"].contains(&iface.kind.as_str());
        if is_port && let Some(bridge) = iface.known.get("ovs_bridge") {
            // Started with its bridge.
            let line =
                if release.ifupdown2 { "auto".to_owned() } else { format!("allow-{bridge}") };
            text += &format!("{line} {name}\n");
        } else if iface.autostart {
            let ovs = iface.kind == "OVSBridge" && !release.ifupdown2;
            text += &format!("{} {name}\n", if ovs { "allow-ovs" } else { "auto" });
        }
        for (index, (family, method)) in iface.stanzas.iter().enumerate() {
            text += &format!("iface {name} {family} {method}\n");
            if index == 0 {
                for (key, value) in &iface.known {
                    let key = match key.as_str() {
                        "bridge_ports" => "bridge-ports",
                        "slaves" => "bond-slaves",
                        other => other,
                    };
                    text += &format!("\t{key} {value}\n");
                }
            }
            for option in iface.unknown.get(family).into_iter().flatten() {
                text += &format!("\t{option}\n");
            }
            for comment in iface.comments.get(family).into_iter().flatten() {
                text += &format!("#{comment}\n");
            }
            text.push('\n');
        }
    }
    for (_, line) in lines {
        text += &format!("{line}\n");
    }
    text
}

/// By kind and then by place in the file; only the place counts where one kind is unknown.
fn compare(table: &Table, a: (&String, &Iface), b: (&String, &Iface)) -> Ordering {
    let rank = |name: &str| {
        let root = name.split(['.', ':']).next().unwrap_or_default();
        let children = u32::try_from(name.matches(['.', ':']).count()).unwrap();
        let base = match table.ifaces.get(root).map_or("", |iface| iface.kind.as_str()) {
            "loopback" => 100_000,
            "eth" | "OVSPort" => 200_000,
            "OVSIntPort" => 300_000,
            "OVSBond" | "bond" => 400_000,
            "bridge" | "OVSBridge" => 500_000,
            "vlan" => 600_000,
            _ => return None,
        };
        Some(base + children)
    };
    let (ra, rb) = match (rank(a.0), rank(b.0)) {
        (Some(ra), Some(rb)) => (ra, rb),
        _ => (0, 0),
    };
    let place = |rank: u32, iface: &Iface| rank + iface.priority.unwrap_or(50_000);
    place(ra, a.1).cmp(&place(rb, b.1)).then_with(|| a.0.cmp(b.0))
}
