//! What the doctor looks at, all of it read before anything is judged.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::iptables::Saved;
use super::managers::{self, NetworkManager};
use super::ruleset::Ruleset;
use super::tool;
use crate::attachment::{Engine, Record};
use crate::config::{self, Config};
use crate::error::{Fault, sentence};
use crate::ledger;
use crate::link::sysctl::{Family, Sysctl};
use crate::link::{HOST_END_GROUP, Link, Netlink};
use crate::name::IfName;
use crate::nat::{self, Lack, Segment, forwarding, tagged};
use crate::network::datapath;
use crate::network::gateway::Networks;
use crate::ovsdb::{Bridge, Client, Port, vswitchd};
use crate::status::DOCKER_SOCKET;

/// What was seen, or why it was not.
pub type Seen<T> = Result<T, String>;

/// The well-known name of the agent on the system bus.
pub const BUS_NAME: &str = "dev.ovs.PortAgent1";

/// Where the system bus reads its policies (dbus-daemon(1)), and where we put ours.
const POLICIES: [&str; 3] =
    ["/etc/dbus-1/system.d", "/usr/share/dbus-1/system.d", "/usr/local/share/dbus-1/system.d"];

/// Where the system bus listens.
const BUS_SOCKET: &str = "/run/dbus/system_bus_socket";

/// The variants of iptables-save, and the file that names the tables of the legacy ones: asking
/// them would make tables.
const SAVES: [(&str, Option<&str>); 4] = [
    ("iptables-nft", None),
    ("ip6tables-nft", None),
    ("iptables-legacy", Some("/proc/thread-self/net/ip_tables_names")),
    ("ip6tables-legacy", Some("/proc/thread-self/net/ip6_tables_names")),
];

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigTrouble {
    /// Why, with the way out.
    pub says: String,
    /// The line to look at, if it is one.
    pub line: Option<usize>,
}

/// One interface of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The link.
    pub link: Link,
    /// Its addresses; not read for host ends, which have none.
    pub addresses: Vec<IpNet>,
}

/// A default route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Default {
    /// The interface it leaves by.
    pub interface: IfName,
    /// IPv6.
    pub v6: bool,
    /// Its metric.
    pub metric: u32,
}

/// A network the host routes for.
#[derive(Debug, Clone)]
pub struct SegmentFacts {
    /// The network.
    pub segment: Segment,
    /// The first thing it lacks besides forwarding.
    pub lacks: Seen<Option<Lack>>,
    /// Whether what comes in by its gateway interface is forwarded.
    pub forwards: Seen<bool>,
}

/// The system bus.
#[derive(Debug, Clone, Default)]
pub struct Bus {
    /// Whether there is one.
    pub runs: bool,
    /// Where our policy was found.
    pub policy: Option<PathBuf>,
    /// Whether somebody has our name; `None` where nothing is installed to ask with.
    pub owned: Option<Seen<bool>>,
}

/// A file, directory or socket of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFact {
    /// Where.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// A symbolic link.
    pub link: bool,
    /// A socket.
    pub socket: bool,
    /// Nobody but root has any business with it.
    pub private: bool,
}

/// Everything.
#[derive(Debug)]
pub struct Facts {
    /// What the host should look like.
    pub config: Config,
    /// Where that is written.
    pub config_path: PathBuf,
    /// Why it could not be read; `config` is then what holds without one.
    pub config_trouble: Option<ConfigTrouble>,
    /// systemd is the service manager.
    pub systemd: bool,
    /// Open vSwitch is installed.
    pub installed: bool,
    /// Rows of Bridge.
    pub bridges: Seen<Vec<Bridge>>,
    /// Rows of Port.
    pub ports: Seen<Vec<Port>>,
    /// The version with which ovs-vswitchd answers.
    pub vswitchd: Seen<String>,
    /// Whether the kernel has Open vSwitch.
    pub kernel_datapath: Seen<bool>,
    /// Links and addresses.
    pub interfaces: Seen<Vec<Interface>>,
    /// Default routes.
    pub defaults: Seen<Vec<Default>>,
    /// Networks the host routes for.
    pub segments: Vec<SegmentFacts>,
    /// Settings, by their name under /proc/sys.
    pub settings: BTreeMap<String, String>,
    /// Rules of iptables.
    pub saved: Seen<Saved>,
    /// Rules of nf_tables; `None` where nft is not installed.
    pub ruleset: Option<Seen<Ruleset>>,
    /// Filter tables of iptables that lack our one rule.
    pub untagged: Seen<Vec<String>>,
    /// The zone of each interface of ours; `None` where firewalld does not run.
    pub zones: Option<BTreeMap<String, String>>,
    /// `None` where NetworkManager does not run.
    pub manager: Option<Seen<NetworkManager>>,
    /// Whether the agent runs.
    pub agent: Seen<bool>,
    /// The system bus.
    pub bus: Bus,
    /// Files of ours.
    pub files: Vec<FileFact>,
    /// What the ledger is like.
    pub ledger: Seen<ledger::Report>,
    /// What is plugged in.
    pub records: Vec<Record>,
}

impl Facts {
    /// Looks at everything; changes nothing. `path` is where `loaded` was read from.
    pub fn gather(path: &Path, loaded: Result<Config, config::Error>) -> Self {
        let (config, config_trouble) = match loaded {
            Ok(config) => (config, None),
            Err(error) => {
                let line = match &error {
                    config::Error::Invalid { line, .. } => Some(*line),
                    _ => None,
                };
                (Config::default(), Some(ConfigTrouble { says: sentence(&error), line }))
            }
        };
        let engine = Engine::new(config.clone());
        let (bridges, ports) = switch(&config);
        let (interfaces, defaults) = kernel();
        let segments = segments(&config);
        let saved = saved();
        let ruleset = tool::read("nft", &["-j", "list", "ruleset"])
            .map(|text| text.and_then(|text| Ruleset::read(&text)));
        let mut facts = Self {
            config_path: path.to_owned(),
            config_trouble,
            systemd: Path::new("/run/systemd/system").is_dir(),
            installed: tool::find("ovs-vswitchd").is_some(),
            bridges,
            ports,
            vswitchd: seen(vswitchd::alive(&config.ovsdb, vswitchd::DEADLINE)),
            kernel_datapath: seen(datapath::choose()).map(|kind| kind == "system"),
            interfaces,
            defaults,
            segments,
            settings: BTreeMap::new(),
            saved,
            ruleset,
            untagged: seen(tagged::missing()),
            zones: None,
            manager: managers::look(),
            agent: seen(engine.agent_lives()),
            bus: bus(),
            files: files(&config, path),
            ledger: seen(engine.ledger().verify()),
            records: engine.records().map(|(records, _)| records).unwrap_or_default(),
            config,
        };
        let names: Vec<_> =
            super::interfaces_of(&facts.config, &facts).into_iter().cloned().collect();
        facts.zones = managers::zones(&names);
        facts.settings = settings(&facts, &names);
        facts
    }

    /// The interface of this name.
    pub fn interface(&self, name: &IfName) -> Option<&Interface> {
        self.interfaces.as_ref().ok()?.iter().find(|interface| interface.link.name == *name)
    }

    /// The interfaces that NATed traffic leaves by.
    pub fn uplinks(&self) -> Vec<IfName> {
        let mut names = Vec::new();
        for SegmentFacts { segment, .. } in &self.segments {
            match &segment.uplink {
                config::Uplink::Named(name) => names.push(name.clone()),
                config::Uplink::Default => {
                    names.extend(self.defaults.iter().flatten().map(|d| d.interface.clone()));
                }
            }
        }
        names.sort_unstable();
        names.dedup();
        names
    }

    /// A setting of one interface.
    pub fn setting(&self, family: &str, interface: &str, key: &str) -> Option<&str> {
        self.settings.get(&format!("net/{family}/conf/{interface}/{key}")).map(String::as_str)
    }

    /// The command that calls us with the same configuration.
    pub fn agent_command(&self, words: &str) -> String {
        if self.config_path == Path::new(config::DEFAULT_PATH) {
            return format!("ovs-port-agent {words}");
        }
        let path = super::quoted(&self.config_path.display().to_string());
        format!("ovs-port-agent --config {path} {words}")
    }
}

fn seen<T, E: Fault>(result: Result<T, E>) -> Seen<T> {
    result.map_err(|error| sentence(&error))
}

fn switch(config: &Config) -> (Seen<Vec<Bridge>>, Seen<Vec<Port>>) {
    match seen(Client::connect(&config.ovsdb, vswitchd::DEADLINE)) {
        Ok(mut ovsdb) => (seen(ovsdb.bridges()), seen(ovsdb.ports())),
        Err(why) => (Err(why.clone()), Err(why)),
    }
}

fn kernel() -> (Seen<Vec<Interface>>, Seen<Vec<Default>>) {
    let mut netlink = match seen(Netlink::open()) {
        Ok(netlink) => netlink,
        Err(why) => return (Err(why.clone()), Err(why)),
    };
    let interfaces = seen(netlink.links()).and_then(|links| {
        let mut interfaces = Vec::new();
        for link in links {
            let addresses = if link.group == HOST_END_GROUP {
                Vec::new()
            } else {
                seen(netlink.addresses(link.index))?
            };
            interfaces.push(Interface { link, addresses });
        }
        Ok(interfaces)
    });
    let defaults = seen(nat::defaults(&mut netlink)).map(|routes| {
        let name = |index: u32| {
            let mut all = interfaces.iter().flatten();
            all.find(|there| there.link.index == index).map(|there| there.link.name.clone())
        };
        let route = |route: &crate::link::InstalledRoute| {
            Some(Default {
                interface: name(route.oif?)?,
                v6: matches!(route.route.dst, IpNet::V6(_)),
                metric: route.route.priority.unwrap_or_default(),
            })
        };
        routes.iter().filter_map(route).collect()
    });
    (interfaces, defaults)
}

fn segments(config: &Config) -> Vec<SegmentFacts> {
    let networks = Networks::new(config);
    // Networks that cannot be read are the business of `status`.
    let segments = networks.segments().unwrap_or_default();
    segments
        .into_iter()
        .map(|segment| SegmentFacts {
            lacks: seen(nat::missing(&segment)),
            forwards: seen(forwarding::is_on(&segment)),
            segment,
        })
        .collect()
}

fn saved() -> Seen<Saved> {
    let mut saved = Saved::default();
    for (program, tables) in SAVES {
        let empty = |path| fs::read_to_string(path).unwrap_or_default().trim().is_empty();
        if tables.is_some_and(empty) {
            continue;
        }
        match tool::read(&format!("{program}-save"), &[]) {
            Some(Ok(text)) => saved.add(program, &text),
            Some(Err(why)) => return Err(why),
            None => {}
        }
    }
    Ok(saved)
}

fn settings(facts: &Facts, ours: &[IfName]) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    let all: Option<IfName> = "all".parse().ok();
    let uplinks = facts.uplinks();
    for name in ours.iter().chain(&uplinks).chain(&all) {
        for (family, half, key) in [
            (Family::Ipv4, "ipv4", "forwarding"),
            (Family::Ipv4, "ipv4", "rp_filter"),
            (Family::Ipv6, "ipv6", "forwarding"),
            (Family::Ipv6, "ipv6", "force_forwarding"),
        ] {
            if let Ok(value) = Sysctl::new(family, name, key).read() {
                settings.insert(format!("net/{half}/conf/{name}/{key}"), value);
            }
        }
    }
    for key in ["net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"] {
        if let Ok(value) = fs::read_to_string(Path::new("/proc/sys").join(key)) {
            settings.insert(key.to_owned(), value.trim_end().to_owned());
        }
    }
    settings
}

fn bus() -> Bus {
    let file = format!("{BUS_NAME}.conf");
    let policy = POLICIES.iter().map(|dir| Path::new(dir).join(&file)).find(|path| path.is_file());
    let runs = Path::new(BUS_SOCKET).exists();
    let dbus = "org.freedesktop.DBus";
    let words =
        ["--system", "call", dbus, "/org/freedesktop/DBus", dbus, "NameHasOwner", "s", BUS_NAME];
    let owned = runs.then(|| tool::read("busctl", &words)).flatten();
    Bus { runs, policy, owned: owned.map(|text| text.map(|text| text.contains("true"))) }
}

fn files(config: &Config, path: &Path) -> Vec<FileFact> {
    let mut files = Vec::new();
    let mut look = |path: &Path, private: bool| {
        let Ok(meta) = fs::symlink_metadata(path) else { return };
        files.push(FileFact {
            path: path.to_owned(),
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            link: meta.file_type().is_symlink(),
            socket: meta.file_type().is_socket(),
            private,
        });
    };
    look(path, false);
    let state = crate::state::State::new(config.state_dir.clone());
    for dir in [state.dir().to_owned(), state.attachments(), state.networks(), state.leases()] {
        look(&dir, true);
    }
    look(&state.spool(), true);
    look(Path::new(DOCKER_SOCKET), true);
    if let Some(dir) = config.ledger_path.parent() {
        look(dir, false);
        look(&dir.join("docker"), false);
    }
    look(&config.ledger_path, false);
    files
}
