//! What a host looks like, so that "nothing is left" can be proved.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::command::{Command, poll};
use crate::switch::Switch;

/// Trees whose files are part of the picture.
const TREES: [&str; 7] = [
    "/run/ovs-port-agent",
    "/run/netns",
    "/etc/ovs-port-agent",
    "/etc/network",
    "/etc/cni",
    "/var/lib/cni",
    "/etc/iproute2",
];

/// Settings that a bring-up touches.
const SYSCTLS: [&str; 6] =
    ["forwarding", "force_forwarding", "accept_ra", "rp_filter", "proxy_arp", "arp_ignore"];

/// Columns that move by themselves: counters, link state, what ovs-vswitchd reports back.
const VOLATILE: [&str; 23] = [
    "_version",
    "admin_state",
    "bond_active_slave",
    "cur_cfg",
    "datapath_id",
    "datapath_types",
    "dpdk_initialized",
    "dpdk_version",
    "duplex",
    "iface_types",
    "ifindex",
    "link_resets",
    "link_speed",
    "link_state",
    "lldp",
    "mac_in_use",
    "mtu",
    "next_cfg",
    "ofport",
    "rstp_statistics",
    "rstp_status",
    "statistics",
    "status",
];

/// Links, addresses, routes, rules, packet filters of every kind, OVSDB rows, settings and files
/// of a host, without what moves by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    sections: BTreeMap<String, Vec<String>>,
}

impl Snapshot {
    pub(crate) fn take(with_switch: bool) -> Self {
        // Duplicate address detection adds routes when it ends.
        poll("the end of duplicate address detection", Duration::from_secs(10), || {
            let tentative = ["-o", "-6", "address", "show", "tentative"];
            Command::new("ip").args(tentative).run().is_empty().then_some(())
        });
        let mut this = Self { sections: BTreeMap::new() };
        this.add("links", ["ip", "-o", "-d", "link"], link);
        this.add("addresses", ["ip", "-o", "address"], address);
        this.add("routes", ["ip", "-o", "-4", "route", "show", "table", "all"], route);
        this.add("routes6", ["ip", "-o", "-6", "route", "show", "table", "all"], route);
        this.add("rules", ["ip", "-4", "rule"], plain);
        this.add("rules6", ["ip", "-6", "rule"], plain);
        this.add("nft", ["nft", "list", "ruleset"], counter);
        for backend in ["nft", "legacy"] {
            for family in ["iptables", "ip6tables"] {
                let program = format!("{family}-{backend}-save");
                this.add(&program.clone(), [program.as_str()], saved);
            }
        }
        if with_switch {
            this.sections.insert("ovsdb".to_owned(), rows());
        }
        this.sections.insert("settings".to_owned(), settings());
        for tree in TREES {
            let mut lines = Vec::new();
            files(Path::new(tree), &mut lines);
            this.sections.insert(tree.to_owned(), lines);
        }
        this
    }

    /// What the host that this process lives on looks like, with its Open vSwitch if that runs.
    pub fn of_this_host() -> Self {
        Self::take(Path::new(Switch::SOCKET).exists())
    }

    /// As text, for [`Snapshot::parse`].
    pub fn text(&self) -> String {
        serde_json::to_string(&self.sections).expect("maps of strings are JSON")
    }

    /// Reads what [`Snapshot::text`] wrote.
    pub(crate) fn parse(text: &str) -> Self {
        let sections = serde_json::from_str(text)
            .unwrap_or_else(|error| panic!("not a snapshot: {error}: {text}"));
        Self { sections }
    }

    /// Adds the files below `dir` to the picture.
    #[must_use]
    pub fn with_tree(mut self, dir: impl AsRef<Path>) -> Self {
        let dir = dir.as_ref();
        let mut lines = Vec::new();
        files(dir, &mut lines);
        self.sections.insert(dir.display().to_string(), lines);
        self
    }

    /// What is different in `after`, a line each, under the name of its section; empty if nothing.
    pub fn difference(&self, after: &Self) -> String {
        let mut text = String::new();
        let names: BTreeSet<_> = self.sections.keys().chain(after.sections.keys()).collect();
        for name in names {
            let lines = |snapshot: &Self| snapshot.sections.get(name).cloned().unwrap_or_default();
            let (before, after) = (lines(self), lines(after));
            let mut gone = before.clone();
            let mut come = Vec::new();
            for line in &after {
                match gone.iter().position(|other| other == line) {
                    Some(at) => drop(gone.remove(at)),
                    None => come.push(line),
                }
            }
            if gone.is_empty() && come.is_empty() {
                if before != after {
                    let _ = writeln!(text, "{name}: same lines in another order");
                }
                continue;
            }
            let _ = writeln!(text, "{name}:");
            for line in gone {
                let _ = writeln!(text, "  - {line}");
            }
            for line in come {
                let _ = writeln!(text, "  + {line}");
            }
        }
        text
    }

    /// How many lines the picture has.
    pub fn len(&self) -> usize {
        self.sections.values().map(Vec::len).sum()
    }

    /// Whether the picture is blank; it never is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The lines of one section.
    pub fn section(&self, name: &str) -> &[String] {
        self.sections.get(name).map_or(&[], Vec::as_slice)
    }

    fn add<const N: usize>(
        &mut self,
        name: &str,
        command: [&str; N],
        clean: fn(&str) -> Option<String>,
    ) {
        let text = Command::new(command[0]).args(&command[1..]).run();
        self.sections.insert(name.to_owned(), text.lines().filter_map(clean).collect());
    }
}

/// Panics with the difference, a readable one, unless both are the same.
#[track_caller]
pub fn assert_same(before: &Snapshot, after: &Snapshot) {
    let difference = before.difference(after);
    assert!(difference.is_empty(), "the host is not as it was:\n{difference}");
}

/// Panics unless what `now` sees is as it was `before`, after `deadline` at the latest: ovs-vswitchd
/// takes its time after an act, and the agent shows a moment later in the managed block what has
/// changed.
#[track_caller]
pub fn assert_soon_same(before: &Snapshot, deadline: Duration, now: impl Fn() -> Snapshot) {
    let end = Instant::now() + deadline;
    loop {
        let after = now();
        if Instant::now() > end {
            return assert_same(before, &after);
        }
        if before.difference(&after).is_empty() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn plain(line: &str) -> Option<String> {
    Some(line.trim().to_owned())
}

/// ovs-vswitchd's own device of the userspace datapath: it comes with the first such bridge and
/// goes some time after the last.
const DATAPATH: &str = "ovs-netdev";

/// Without the index (a re-created link is caught by its MAC address) and without its state.
fn link(line: &str) -> Option<String> {
    let line = line.split_once(": ")?.1.replace('\\', " ");
    if line.starts_with(DATAPATH) {
        return None;
    }
    let mut words = Vec::new();
    let mut all = line.split_whitespace();
    while let Some(word) = all.next() {
        match word {
            // Depends on when ovs-vswitchd and the far end came up.
            "state" | "link-netnsid" => drop(all.next()),
            // Of a Linux bridge.
            "hello_timer" | "tcn_timer" | "topology_change_timer" | "gc_timer" => drop(all.next()),
            _ if word.starts_with('<') => {
                let up = word.contains("UP,") || word.contains(",UP>") || word.contains("<UP");
                words.push(if up { "up".to_owned() } else { "down".to_owned() });
            }
            _ => words.push(word.to_owned()),
        }
    }
    Some(words.join(" "))
}

/// Without link-local addresses, which come with the carrier.
fn address(line: &str) -> Option<String> {
    let line = line.split_once(": ")?.1.replace('\\', " ");
    if line.contains("inet6 fe80::") {
        return None;
    }
    let words = line.split_whitespace().filter(|word| *word != "tentative");
    Some(words.take_while(|word| *word != "valid_lft").collect::<Vec<_>>().join(" "))
}

/// Without what the kernel adds by itself, sooner or later, to a link that got its carrier: routes
/// to multicast, to link-local and to the host's own IPv6 addresses.
fn route(line: &str) -> Option<String> {
    let own = ["local ", "anycast ", "multicast ", "fe80::", "ff00::"];
    if line.contains("fe80::") || line.contains(':') && own.iter().any(|way| line.starts_with(way))
    {
        return None;
    }
    let mut words = Vec::new();
    let mut all = line.split_whitespace();
    while let Some(word) = all.next() {
        match word {
            "expires" => drop(all.next()),
            "linkdown" => {}
            _ => words.push(word),
        }
    }
    Some(words.join(" "))
}

/// Without the values of counters.
fn counter(line: &str) -> Option<String> {
    let mut words = Vec::new();
    let mut all = line.split_whitespace();
    while let Some(word) = all.next() {
        words.push(word);
        if word == "counter" {
            let rest = all.clone();
            if rest.clone().next() == Some("packets") {
                all.nth(3);
            }
        }
    }
    (!line.trim().is_empty() && !line.starts_with('#')).then(|| words.join(" "))
}

/// Without comments and the packet counts of chains.
fn saved(line: &str) -> Option<String> {
    let line = line.split(" [").next().unwrap_or_default().trim();
    (!line.is_empty() && !line.starts_with('#')).then(|| line.to_owned())
}

/// Every row of every table, a line each, volatile columns left out.
fn rows() -> Vec<String> {
    let dump = Command::new("ovsdb-client")
        .args(["--timeout=20", "-f", "json", "dump", &format!("unix:{}", Switch::SOCKET)])
        .args(["Open_vSwitch"])
        .run();
    let mut lines = Vec::new();
    for table in serde_json::Deserializer::from_str(&dump).into_iter::<Value>() {
        let table = table.unwrap_or_else(|error| panic!("ovsdb-client dump: {error}\n{dump}"));
        let caption = table["caption"].as_str().unwrap_or_default().to_owned();
        let headings = table["headings"].as_array().cloned().unwrap_or_default();
        for row in table["data"].as_array().into_iter().flatten() {
            let cells = row.as_array().cloned().unwrap_or_default();
            let mut line = caption.clone();
            for (heading, cell) in headings.iter().zip(&cells) {
                let heading = heading.as_str().unwrap_or_default();
                let empty = matches!(cell.to_string().as_str(), r#"["set",[]]"# | r#"["map",[]]"#);
                if !empty && !VOLATILE.contains(&heading) {
                    let _ = write!(line, " {heading}={cell}");
                }
            }
            lines.push(line);
        }
    }
    lines.sort();
    lines
}

fn settings() -> Vec<String> {
    let mut lines = Vec::new();
    for family in ["ipv4", "ipv6"] {
        let base = format!("/proc/sys/net/{family}/conf");
        for entry in fs::read_dir(&base).into_iter().flatten().flatten() {
            if entry.file_name() == DATAPATH {
                continue;
            }
            for setting in SYSCTLS {
                let path = entry.path().join(setting);
                if let Ok(value) = fs::read_to_string(&path) {
                    lines.push(format!("{} = {}", path.display(), value.trim()));
                }
            }
        }
    }
    lines.sort();
    lines
}

/// How many characters of a file a line shows.
const SHOWN: usize = 400;

/// What the engine keeps for itself and nobody else's eyes: the order in which addresses were
/// given, when port names were freed, the pace of the switch, locks, and the directories they are
/// in.
fn is_bookkeeping(path: &Path, meta: &fs::Metadata) -> bool {
    let name = path.file_name().unwrap_or_default();
    if path.starts_with("/var/lib/cni") {
        // Runtimes leave their empty directories.
        return meta.is_dir();
    }
    if name == "ledger.spool" {
        // Lines that wait for the ledger are somebody's business; that some once waited is not.
        return meta.len() == 0;
    }
    path.starts_with("/run/ovs-port-agent")
        && (meta.is_dir()
            || [".order", "freed", "lock", "slow-switch", "unshown"].iter().any(|n| name == *n))
}

fn files(path: &Path, lines: &mut Vec<String>) {
    let Ok(meta) = fs::symlink_metadata(path) else { return };
    let head = format!("{} {:o} {}:{}", path.display(), meta.mode(), meta.uid(), meta.gid());
    let bookkeeping = is_bookkeeping(path, &meta);
    if meta.is_dir() {
        if !bookkeeping {
            lines.push(head);
        }
        let mut entries: Vec<_> =
            fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        entries.sort();
        for entry in entries {
            files(&entry, lines);
        }
    } else if bookkeeping {
        // Comes and stays; says nothing of a container.
    } else if meta.is_symlink() {
        let target = fs::read_link(path).unwrap_or_default();
        lines.push(format!("{head} -> {}", target.display()));
    } else {
        let text = fs::read(path).unwrap_or_default();
        let text: String = String::from_utf8_lossy(&text).chars().take(SHOWN).collect();
        lines.push(format!("{head} {} bytes {text:?}", meta.len()));
    }
}
