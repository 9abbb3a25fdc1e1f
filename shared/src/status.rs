//! One picture of the host: bridges, networks, NAT, attachments, pools, health.
//!
//! What cannot be read is said under `health`; the rest is shown all the same.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::address::Usage;
use crate::attachment::{Engine, Record};
use crate::config::{Mode, Uplink};
use crate::error::{Fault, sentence};
use crate::link::{Link, Netlink};
use crate::nat;
use crate::network::gateway::{Networks, gateway_port};
use crate::ovsdb::{Client, Port, vswitchd};
use crate::publish::PublishedPort;
use crate::state::{self, State};

/// The picture.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Status {
    /// The parts everything hangs on.
    pub health: Vec<Health>,
    /// The interfaces to the outside.
    pub uplinks: Vec<UplinkStatus>,
    /// The bridges of the configuration.
    pub bridges: Vec<BridgeStatus>,
    /// The networks with subnets.
    pub networks: Vec<NetworkStatus>,
    /// What is plugged in.
    pub attachments: Vec<AttachmentStatus>,
    /// Ports of the host that lead into containers.
    pub ports: Vec<PortStatus>,
}

/// One part, and whether it works.
#[derive(Debug, Clone, Serialize)]
pub struct Health {
    /// "ovsdb-server", "ovs-vswitchd", "kernel", "records", "agent", "Docker driver".
    pub part: String,
    /// Whether it answers, or is not needed.
    pub ok: bool,
    /// "works", "off", "fails".
    pub state: String,
    /// What is wrong and what to do; empty if nothing.
    pub detail: String,
}

/// One interface to the outside.
#[derive(Debug, Clone, Serialize)]
pub struct UplinkStatus {
    /// Its name.
    pub name: String,
    /// "carrier", "no carrier", "down" or "missing".
    pub state: String,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Its addresses.
    pub addresses: Vec<String>,
}

/// One bridge of the configuration.
#[derive(Debug, Clone, Serialize)]
pub struct BridgeStatus {
    /// Its name.
    pub name: String,
    /// "direct" or "nat".
    pub mode: String,
    /// "up", "down" or "missing".
    pub state: String,
    /// "system" or "netdev".
    pub datapath: String,
    /// MTU in bytes of its interface.
    pub mtu: Option<u32>,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Its uplink, "default" for whichever holds the default route.
    pub uplink: Option<String>,
    /// The interfaces its traffic leaves by now.
    pub ways: Vec<String>,
    /// Ports, its own and the uplink left out.
    pub ports: usize,
}

/// One network with subnets.
#[derive(Debug, Clone, Serialize)]
pub struct NetworkStatus {
    /// Its bridge.
    pub bridge: String,
    /// Its VLAN; 0 is untagged.
    pub vlan: u16,
    /// Interface that carries the gateway addresses.
    pub gateway_interface: Option<String>,
    /// "masquerade", "routed" or "none", and what is missing of it.
    pub nat: String,
    /// Its pools.
    pub pools: Vec<Usage>,
}

/// One attachment.
#[derive(Debug, Clone, Serialize)]
pub struct AttachmentStatus {
    /// Name people know the container by, else its id.
    pub container: String,
    /// Container id.
    pub id: String,
    /// "cni", "docker", "podman", "port-agent".
    pub runtime: String,
    /// The program behind it.
    pub caller: String,
    /// Network name.
    pub network: String,
    /// Interface in the container.
    pub ifname: String,
    /// Bridge.
    pub bridge: String,
    /// VLANs of the port.
    pub vlan: String,
    /// Port.
    pub port: String,
    /// Addresses.
    pub addresses: Vec<String>,
    /// MAC in the container.
    pub mac: String,
    /// "ok", or what is wrong.
    pub state: String,
    /// Seconds since the epoch.
    pub since: u64,
}

/// One published port.
#[derive(Debug, Clone, Serialize)]
pub struct PortStatus {
    /// Name people know the container by, else its id.
    pub container: String,
    /// Container id.
    pub id: String,
    /// Network name.
    pub network: String,
    /// "tcp" or "udp".
    pub protocol: String,
    /// Address of the host; `None` is every one.
    pub host_ip: Option<IpAddr>,
    /// Port of the host.
    pub host_port: u16,
    /// Addresses and port in the container.
    pub to: Vec<SocketAddr>,
    /// "ok", or what is wrong.
    pub state: String,
}

/// What a running agent says of its parts, in a file of the state directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentReport {
    /// Its process.
    pub pid: u32,
    /// Its parts, each with what is wrong with it.
    pub parts: BTreeMap<String, Option<String>>,
}

impl AgentReport {
    /// Where it is written.
    pub fn path(state: &State) -> PathBuf {
        state.dir().join("agent.json")
    }
}

/// Looks at everything; changes nothing.
pub fn look(engine: &Engine) -> Status {
    let mut status = Status::default();
    let ports = status.note("ovsdb-server", ports(engine)).unwrap_or_default();
    status.note("ovs-vswitchd", vswitchd::alive(&engine.config().ovsdb, vswitchd::DEADLINE));
    let netlink = Netlink::open();
    if let Some(mut netlink) = status.note("kernel", netlink) {
        status.bridges(engine, &ports, &mut netlink);
        status.uplinks(&mut netlink);
    }
    status.networks(engine, &ports);
    status.attachments(engine, &ports);
    status.ports(engine);
    status.agent(engine);
    status.docker(Path::new(DOCKER_SOCKET));
    status
}

/// The addresses of a link that tell somebody something.
fn addresses(netlink: &mut Netlink, link: Option<&Link>) -> Vec<String> {
    let addresses = link.and_then(|link| netlink.addresses(link.index).ok()).unwrap_or_default();
    let told = addresses.iter().filter(|address| !is_link_local(**address));
    told.map(ToString::to_string).collect()
}

/// The interfaces of the best default routes, that of IPv4 first.
fn defaults(netlink: &mut Netlink) -> Vec<String> {
    let routes = nat::defaults(netlink).unwrap_or_default();
    let mut names = Vec::new();
    for v6 in [false, true] {
        let ours = routes.iter().filter(|route| matches!(route.route.dst, IpNet::V6(_)) == v6);
        let best = ours.min_by_key(|route| route.route.priority.unwrap_or_default());
        let link = best.and_then(|route| netlink.link_by_index(route.oif?).ok().flatten());
        if let Some(name) = link.map(|link| link.name.to_string())
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

/// fe80::/10 comes with every interface and tells nobody anything.
fn is_link_local(address: IpNet) -> bool {
    matches!(address, IpNet::V6(v6) if v6.addr().is_unicast_link_local())
}

/// Where dockerd looks for our driver.
pub(crate) const DOCKER_SOCKET: &str = "/run/docker/plugins/ovs-agent.sock";

const WORKS: &str = "works";
const OFF: &str = "off";
const FAILS: &str = "fails";

/// The agent's part on the system bus.
const BUS: &str = "bus";
/// Where the system bus listens (D-Bus specification, "Well-known message bus instances").
const SYSTEM_BUS: &str = "/var/run/dbus/system_bus_socket";

type Ports = BTreeMap<String, Port>;

fn ports(engine: &Engine) -> Result<(Ports, BTreeMap<String, String>), crate::ovsdb::Error> {
    let mut ovsdb = Client::connect(&engine.config().ovsdb, vswitchd::DEADLINE)?;
    let datapaths = ovsdb
        .bridges()?
        .into_iter()
        .map(|bridge| (bridge.name.to_string(), bridge.datapath_type))
        .collect();
    let ports = ovsdb.ports()?.into_iter().map(|port| (port.name.to_string(), port)).collect();
    Ok((ports, datapaths))
}

impl Status {
    /// Keeps the value of what worked, and says what did not.
    fn note<T, E: Fault>(&mut self, part: &str, result: Result<T, E>) -> Option<T> {
        let (state, detail, value) = match result {
            Ok(value) => (WORKS, String::new(), Some(value)),
            Err(error) => (FAILS, sentence(&error), None),
        };
        self.say(part, state, detail);
        value
    }

    fn say(&mut self, part: &str, state: &str, detail: impl Into<String>) {
        let (part, ok) = (part.to_owned(), state != FAILS);
        self.health.push(Health { part, ok, state: state.to_owned(), detail: detail.into() });
    }

    /// Without an agent attach and detach work all the same.
    fn agent(&mut self, engine: &Engine) {
        match engine.agent_lives() {
            Ok(true) => {
                self.say("agent", WORKS, "");
                let report = state::read::<AgentReport>(&AgentReport::path(&engine.state()));
                for (part, trouble) in report.ok().flatten().map(|r| r.parts).unwrap_or_default() {
                    let state = match &trouble {
                        None => WORKS,
                        // A host without a system bus lacks nothing that containers need.
                        Some(_) if part == BUS && !Path::new(SYSTEM_BUS).exists() => OFF,
                        Some(_) => FAILS,
                    };
                    self.say(&format!("agent: {part}"), state, trouble.unwrap_or_default());
                }
            }
            Ok(false) => {
                let detail = "nothing is repaired, and nothing comes back after a reboot; start it \
                              (systemctl enable --now ovs-port-agent)";
                self.say("agent", OFF, detail);
            }
            Err(error) => self.say("agent", FAILS, sentence(&error)),
        }
    }

    /// The driver runs where somebody wants it; a socket that nobody serves keeps dockerd waiting.
    fn docker(&mut self, socket: &Path) {
        const PART: &str = "Docker driver";
        match UnixStream::connect(socket) {
            Ok(_) => self.say(PART, WORKS, ""),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.say(PART, OFF, ""),
            Err(error) => {
                let detail = format!(
                    "nobody serves {}: {error}; restart it (systemctl restart ovs-agent-docker)",
                    socket.display()
                );
                self.say(PART, FAILS, detail);
            }
        }
    }

    fn bridges(
        &mut self,
        engine: &Engine,
        (ports, datapaths): &(Ports, BTreeMap<String, String>),
        netlink: &mut Netlink,
    ) {
        for bridge in &engine.config().bridges {
            let name = bridge.name.to_string();
            let link = netlink.link(&bridge.name).ok().flatten();
            let datapath = datapaths.get(&name);
            let (mode, uplink) = match &bridge.mode {
                Mode::Direct { uplink, .. } => ("direct", uplink.as_ref().map(ToString::to_string)),
                Mode::Nat { uplink: Uplink::Default, .. } => ("nat", Some("default".to_owned())),
                Mode::Nat { uplink: Uplink::Named(uplink), .. } => {
                    ("nat", Some(uplink.to_string()))
                }
            };
            let ways = match &bridge.mode {
                Mode::Direct { uplink, .. } => uplink.iter().map(ToString::to_string).collect(),
                Mode::Nat { uplink: Uplink::Named(uplink), .. } => vec![uplink.to_string()],
                Mode::Nat { uplink: Uplink::Default, .. } => defaults(netlink),
            };
            let addresses = addresses(netlink, link.as_ref());
            let state = match (&link, datapath) {
                (Some(link), Some(_)) if link.up => "up",
                (Some(_), Some(_)) => "down",
                _ => "missing",
            };
            let own = |port: &&Port| {
                port.bridge.as_ref() == Some(&bridge.name)
                    && port.name != bridge.name
                    && Some(port.name.as_str()) != uplink.as_deref()
            };
            self.bridges.push(BridgeStatus {
                mode: mode.to_owned(),
                state: state.to_owned(),
                datapath: match datapath.map(String::as_str) {
                    Some("") => "system".to_owned(),
                    Some(other) => other.to_owned(),
                    None => String::new(),
                },
                mtu: link.map(|link| link.mtu),
                addresses,
                ports: ports.values().filter(own).count(),
                uplink,
                ways,
                name,
            });
        }
    }

    /// The interfaces that the bridges named.
    fn uplinks(&mut self, netlink: &mut Netlink) {
        let mut names: Vec<_> = self.bridges.iter().flat_map(|bridge| &bridge.ways).collect();
        names.sort_unstable();
        names.dedup();
        let looked = names.into_iter().map(|name| {
            let link = name.parse().ok().and_then(|name| netlink.link(&name).ok().flatten());
            let state = match &link {
                None => "missing",
                Some(link) if !link.up => "down",
                Some(link) if !link.running => "no carrier",
                Some(_) => "carrier",
            };
            UplinkStatus {
                name: name.clone(),
                state: state.to_owned(),
                addresses: addresses(netlink, link.as_ref()),
                mtu: link.map(|link| link.mtu),
            }
        });
        self.uplinks = looked.collect();
    }

    fn networks(&mut self, engine: &Engine, (ports, _): &(Ports, BTreeMap<String, String>)) {
        let networks = Networks::new(engine.config());
        for network in self.note("networks", networks.all()).unwrap_or_default() {
            let nat = match (network.nat, network.gateway) {
                (true, _) => "masquerade",
                (false, true) => "routed",
                (false, false) => "none",
            };
            let gateway = gateway_port(&network);
            let missing = match nat::missing(&networks.segment(&network)) {
                _ if network.gateway && !ports.contains_key(gateway.as_str()) => {
                    " (not up)".to_owned()
                }
                Ok(None) => String::new(),
                Ok(Some(what)) if network.gateway => format!(" ({what} missing)"),
                Ok(Some(_)) => String::new(),
                Err(error) => format!(" ({})", sentence(&error)),
            };
            let pools = engine.pools();
            self.networks.push(NetworkStatus {
                bridge: network.bridge.to_string(),
                vlan: network.vlan.get(),
                gateway_interface: network.gateway.then(|| gateway.to_string()),
                nat: format!("{nat}{missing}"),
                pools: network.subnets.iter().filter_map(|s| pools.usage(s).ok()).collect(),
            });
        }
    }

    fn attachments(&mut self, engine: &Engine, (ports, _): &(Ports, BTreeMap<String, String>)) {
        let Some((records, unreadable)) = self.note("records", engine.records()) else { return };
        for error in unreadable {
            self.note::<(), _>("record", Err(error));
        }
        for record in records {
            let state = match ports.get(record.port.as_str()) {
                _ if !record.complete => "unfinished",
                // Of its port nothing is known here.
                None if !record.is_of(&engine.config().ovsdb) => "ok",
                None => "port missing",
                Some(port) if port.error.is_some() => "port failed",
                Some(port) if port.bridge.as_ref() != Some(&record.bridge) => "on the wrong bridge",
                Some(_) => "ok",
            };
            self.attachments.push(AttachmentStatus::new(&record, state));
        }
        let by = |a: &AttachmentStatus| (a.container.clone(), a.ifname.clone(), a.network.clone());
        self.attachments.sort_by_cached_key(by);
    }
}

impl Status {
    fn ports(&mut self, engine: &Engine) {
        let Some((publications, unreadable)) = self.note("ports", engine.publications()) else {
            return;
        };
        for error in unreadable {
            self.note::<(), _>("ports", Err(error));
        }
        if publications.is_empty() {
            return;
        }
        let held = engine.held_ports();
        for publication in publications {
            let key = &publication.key;
            let name = self.attachments.iter().find(|a| {
                (&a.id, &a.network, a.ifname.as_str())
                    == (&key.container, &key.network, key.ifname.as_str())
            });
            let name = name.map_or_else(|| key.container.clone(), |a| a.container.clone());
            for mapping in &publication.ports {
                let of = |port: &&PublishedPort| port.key == *key && port.mapping == *mapping;
                let state = match &held {
                    Err(error) => sentence(error),
                    Ok(held) => match held.iter().find(of) {
                        Some(PublishedPort { trouble: None, .. }) => "ok".to_owned(),
                        Some(PublishedPort { trouble: Some(why), .. }) => why.clone(),
                        None => "not held yet".to_owned(),
                    },
                };
                let port = mapping.container_port;
                self.ports.push(PortStatus {
                    container: name.clone(),
                    id: key.container.clone(),
                    network: key.network.clone(),
                    protocol: mapping.protocol.to_string(),
                    host_ip: mapping.host_ip,
                    host_port: mapping.host_port,
                    to: publication.targets.iter().map(|t| SocketAddr::new(t.ip, port)).collect(),
                    state,
                });
            }
        }
    }
}

impl AttachmentStatus {
    fn new(record: &Record, state: &str) -> Self {
        Self {
            container: record.name(),
            id: record.key.container.clone(),
            runtime: record.runtime.to_string(),
            caller: record.caller.clone(),
            network: record.labels.network.as_ref().unwrap_or(&record.key.network).clone(),
            ifname: record.key.ifname.to_string(),
            bridge: record.bridge.to_string(),
            vlan: record.vlan.to_string(),
            port: record.port.to_string(),
            addresses: record.addresses.iter().map(|a| a.address.to_string()).collect(),
            mac: record.mac.to_string(),
            state: state.to_owned(),
            since: record.since,
        }
    }
}
