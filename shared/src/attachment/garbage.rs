//! What a crash left behind, found from every source at once and removed only on proof from two of
//! them. [`Engine::collect`] obeys a runtime's own list; here nobody gives one.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::attach::{OVSDB_DEADLINE, lock_key};
use super::record::{Key, Record, Runtime};
use super::{Engine, Error, owner};
use crate::address::UNREADABLE;
use crate::error::{Fault, sentence};
use crate::file;
use crate::link::{Link, Netlink};
use crate::lock::{self, Lock};
use crate::name::IfName;
use crate::netns::{self, Netns};
use crate::network::gateway::{Networks, ROLE_GATEWAY, gateway_port};
use crate::network::{self, Network};
use crate::ovsdb::{Client, Port};
use crate::publish::Publication;
use crate::state;

/// A lease younger than this may be part of something under way, in seconds.
const YOUNG: u64 = 60;

/// The same for Docker's, whose driver writes down what it has when it has it.
const YOUNG_OF_DOCKER: u64 = 600;

/// A file that nobody has written to for so long has no writer any more.
const HALF_WRITTEN: Duration = Duration::from_secs(60);

/// What kind of thing was left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A record whose namespace is gone.
    Attachment,
    /// A port whose interface is gone.
    Port,
    /// An address that no attachment holds.
    Lease,
    /// A gateway port of a network nobody has.
    Gateway,
    /// A published port without a container.
    Publication,
}

/// One thing that was left behind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Piece {
    /// What it is.
    pub kind: Kind,
    /// Which, for people: an attachment, a port, an address.
    pub name: String,
    /// What two sources say, a sentence each.
    pub proof: [String; 2],
    #[serde(skip)]
    target: Target,
}

/// How it is removed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Attachment(Key),
    Lease(IpNet, IpAddr, String),
    Gateway(IfName),
}

/// What one look at the host found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Survey {
    /// What was left behind, with the proof.
    pub pieces: Vec<Piece>,
    /// What looks like it, and why it is spared.
    pub spared: Vec<String>,
    /// Sources that cannot be read: as long as there is one, nothing is removed.
    pub unreadable: Vec<String>,
}

/// What the sources say.
struct Sources {
    boot: String,
    /// Seconds since boot.
    uptime: u64,
    records: Vec<Record>,
    ports: Vec<Port>,
    links: Vec<Link>,
    leases: Vec<(IpNet, crate::address::Lease)>,
    networks: Vec<Network>,
    publications: Vec<Publication>,
    docker: Docker,
}

/// What Docker's driver keeps, as far as it must be spared.
#[derive(Default)]
struct Docker {
    networks: Vec<Network>,
    /// Its pools, as text: owners of leases are looked for in it.
    pools: String,
}

/// The part of a Docker network's file that says where it lives.
#[derive(Deserialize)]
struct DockerNetwork {
    place: Network,
}

impl Engine {
    /// Looks for what was left behind; changes nothing.
    pub fn survey(&self) -> Survey {
        let mut survey = Survey::default();
        match self.sources(&mut survey.unreadable) {
            Ok(sources) => {
                survey.attachments(&sources);
                survey.publications(&sources);
                survey.leases(&sources);
                survey.gateways(&sources);
            }
            Err(why) => survey.unreadable.push(why),
        }
        survey.pieces.sort();
        survey
    }

    /// Removes one piece of a survey if a second look, with everybody else kept out, finds it
    /// again; false if it does not.
    pub fn clear(&self, piece: &Piece) -> Result<bool, Error> {
        let state = self.state();
        state.prepare()?;
        let lock = match &piece.target {
            Target::Attachment(key) => state.try_lock(&lock_key(key)),
            // Named as the attachment that holds it.
            Target::Lease(_, _, owner) => state.try_lock(&format!("attachment {owner}")),
            Target::Gateway(_) => state.lock("networks"),
        };
        let _lock: Lock = match lock {
            Ok(lock) => lock,
            Err(lock::Error::Busy { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let again = self.survey();
        if let Some(why) = again.unreadable.into_iter().next() {
            return Err(Error::Unseen { why });
        }
        if !again.pieces.contains(piece) {
            return Ok(false);
        }
        match &piece.target {
            Target::Attachment(key) => {
                self.detach_locked(key)?;
                // An agent that does not answer takes its ports back when it does again.
                return Ok(!Publication::path(&state, key).exists());
            }
            Target::Lease(subnet, ip, owner) => {
                self.pools().release(*subnet, *ip, owner)?;
            }
            Target::Gateway(name) => {
                let mut ovsdb = Client::connect(&self.config().ovsdb, OVSDB_DEADLINE)?;
                if let Some(port) = ovsdb.port(name)? {
                    self.free_names(std::slice::from_ref(name), ovsdb.delete_ports(&[port.uuid])?);
                }
            }
        }
        Ok(true)
    }

    /// Removes records whose writer was killed before they had their names: a writer takes
    /// milliseconds. Returns what could not be removed, one sentence each.
    pub fn sweep_half_written(&self) -> Vec<String> {
        let mut failed = Vec::new();
        for entry in fs::read_dir(self.state().attachments()).into_iter().flatten().flatten() {
            let path = entry.path();
            let written = entry.metadata().and_then(|file| file.modified()).ok();
            let age = written.and_then(|time| time.elapsed().ok());
            if path.extension().is_some_and(|end| end == state::TEMPORARY)
                && age.is_some_and(|age| age > HALF_WRITTEN)
                && let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                failed.push(format!("cannot remove {}: {error}", path.display()));
            }
        }
        failed
    }

    /// Reads everything; what is lost in part is named in `unreadable`.
    fn sources(&self, unreadable: &mut Vec<String>) -> Result<Sources, String> {
        fn said<T, E: Fault>(result: Result<T, E>) -> Result<T, String> {
            result.map_err(|error| sentence(&error))
        }
        let state = self.state();
        let (records, lost) = said(self.records())?;
        unreadable.extend(lost.iter().map(|error| sentence(error)));
        let mut publications = Vec::new();
        for path in said(state::files(&state.ports()))? {
            match state::read(&path) {
                Ok(publication) => publications.extend::<Option<Publication>>(publication),
                Err(error) => unreadable.push(sentence(&error)),
            }
        }
        let mut leases = said(self.pools().leases())?;
        leases.retain(|(subnet, lease)| {
            if lease.owner == UNREADABLE {
                unreadable.push(format!("the lease of {} in {subnet} cannot be read", lease.ip));
            }
            lease.owner != UNREADABLE
        });
        let mut ovsdb = said(Client::connect(&self.config().ovsdb, OVSDB_DEADLINE))?;
        Ok(Sources {
            boot: said(state::boot_id())?,
            uptime: state::uptime(),
            records,
            ports: said(ovsdb.ports())?,
            links: said(Netlink::open().and_then(|mut netlink| netlink.links()))?,
            leases,
            networks: said(Networks::new(self.config()).all())?,
            publications,
            docker: Docker::read(&self.config().ledger_path.with_file_name("docker"))
                .map_err(|error| format!("cannot read what Docker's driver keeps: {error}"))?,
        })
    }
}

impl Docker {
    fn read(dir: &std::path::Path) -> io::Result<Self> {
        let texts = |room: &str| -> io::Result<Vec<String>> {
            let dir: PathBuf = dir.join(room);
            let entries = match fs::read_dir(&dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                entries => entries?,
            };
            let json = |path: &PathBuf| path.extension().is_some_and(|end| end == "json");
            let paths: Vec<_> =
                entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
            let text =
                |path: &PathBuf| String::from_utf8(file::read(path)?).map_err(io::Error::other);
            paths.iter().filter(|path| json(path)).map(text).collect()
        };
        let mut docker = Self { pools: texts("pools")?.concat(), ..Self::default() };
        for text in texts("networks")? {
            docker.networks.push(serde_json::from_str::<DockerNetwork>(&text)?.place);
        }
        Ok(docker)
    }
}

impl Sources {
    fn has_link(&self, name: &IfName) -> bool {
        self.links.iter().any(|link| link.name == *name)
    }

    /// The interface of a record, under whatever name it has now.
    fn has_host_end(&self, record: &Record) -> bool {
        self.has_link(&record.port)
            || self.links.iter().any(|link| match &record.adopted {
                Some(adopted) => link.index == adopted.index,
                None => link.mac == Some(record.host_mac),
            })
    }

    /// Whether records or the switch know of an attachment of this name.
    fn knows(&self, owner: &str) -> bool {
        self.records.iter().any(|record| record.key.to_string() == owner)
            || self.ports.iter().filter_map(owner::key_of).any(|key| key.to_string() == owner)
    }
}

impl Survey {
    fn add(&mut self, kind: Kind, name: String, proof: [String; 2], target: Target) {
        self.pieces.push(Piece { kind, name, proof, target });
    }

    fn attachments(&mut self, sources: &Sources) {
        let mut recorded = BTreeSet::new();
        for record in &sources.records {
            recorded.insert(record.key.clone());
            if sources.has_host_end(record) {
                continue;
            }
            let old_boot = record.boot_id != sources.boot;
            let gone = if old_boot {
                Some("its record is of an earlier boot".to_owned())
            } else {
                self.namespace_gone(record)
            };
            let Some(gone) = gone else { continue };
            // Only its runtime's DEL can give back what an IPAM plugin of its own gave.
            if record.runtime == Runtime::Cni && record.leases.len() != record.addresses.len() {
                let (key, caller) = (&record.key, &record.caller);
                self.spared
                    .push(format!("attachment {key}: {gone}, and {caller} has to delete it"));
                continue;
            }
            let name = match &record.labels.name {
                Some(name) => format!("{} ({name})", record.key),
                None => record.key.to_string(),
            };
            let proof = [format!("there is no interface {}", record.port), gone];
            let target = Target::Attachment(record.key.clone());
            self.add(Kind::Attachment, name, proof, target);
        }
        for port in &sources.ports {
            let Some(key) = owner::key_of(port).filter(|key| !recorded.contains(key)) else {
                continue;
            };
            if sources.has_link(&port.name) {
                let name = &port.name;
                self.spared.push(format!("port {name}: {key} has no record, but {name} is there"));
                continue;
            }
            let proof = [
                format!("there is no interface {}", port.name),
                format!("there is no record of {key}"),
            ];
            self.add(Kind::Port, port.name.to_string(), proof, Target::Attachment(key));
        }
    }

    /// What shows that the namespace of a record is gone; `None` if it is not, or nobody can say.
    fn namespace_gone(&mut self, record: &Record) -> Option<String> {
        let path = record.netns.display();
        if record.adopted.is_some() {
            // The monitor's: it hears of every interface that goes.
            return None;
        }
        let Some(id) = record.netns_id else {
            let whose = record.runtime;
            self.spared.push(format!("attachment {}: {whose} keeps its own list", record.key));
            return None;
        };
        match Netns::open(&record.netns) {
            Ok(netns) if netns.id() == id => {
                let key = &record.key;
                self.spared.push(format!("attachment {key}: its namespace {path} lives"));
                None
            }
            Ok(_) => Some(format!("{path} is another namespace by now")),
            Err(netns::Error::Missing { .. }) => Some(format!("{path} has gone")),
            Err(netns::Error::NotANamespace { .. }) => {
                Some(format!("{path} is no namespace any more"))
            }
            Err(error) => {
                self.unreadable.push(sentence(&error));
                None
            }
        }
    }

    fn publications(&mut self, sources: &Sources) {
        for publication in &sources.publications {
            let key = &publication.key;
            if sources.knows(&key.to_string()) {
                continue;
            }
            let proof = [
                format!("there is no record of {key}"),
                format!("there is no port of {key} in Open vSwitch"),
            ];
            let target = Target::Attachment(key.clone());
            self.add(Kind::Publication, key.to_string(), proof, target);
        }
    }

    fn leases(&mut self, sources: &Sources) {
        for (subnet, lease) in &sources.leases {
            let owner = &lease.owner;
            let name = format!("{} of {owner}", lease.ip);
            let age = sources.uptime.saturating_sub(lease.since);
            if sources.knows(owner) || age < YOUNG {
                continue;
            }
            if sources.publications.iter().any(|other| other.key.to_string() == *owner) {
                self.spared.push(format!("lease {name}: ports of the host lead there yet"));
                continue;
            }
            let proof = if owner.starts_with("host/") {
                // The gateway that Docker asked for, kept from everybody else.
                self.spared.push(format!("lease {name}: an address of the host"));
                continue;
            } else if owner.starts_with("docker/") {
                if age < YOUNG_OF_DOCKER || sources.docker.pools.contains(&format!("\"{owner}\"")) {
                    self.spared.push(format!("lease {name}: Docker's driver keeps it"));
                    continue;
                }
                [
                    format!("there is no port of {owner} in Open vSwitch"),
                    "no pool of Docker's driver has it".to_owned(),
                ]
            } else if owner.split('/').count() < 3 {
                self.spared.push(format!("lease {name}: not an attachment's"));
                continue;
            } else {
                [
                    format!("there is no record of {owner}"),
                    format!("there is no port of {owner} in Open vSwitch"),
                ]
            };
            self.add(Kind::Lease, name, proof, Target::Lease(*subnet, lease.ip, owner.clone()));
        }
    }

    fn gateways(&mut self, sources: &Sources) {
        let is_gateway = |port: &&Port| {
            network::gateway::role(ROLE_GATEWAY)
                .iter()
                .all(|(key, value)| port.external_ids.get(key) == Some(value))
        };
        for port in sources.ports.iter().filter(is_gateway) {
            let known = sources.networks.iter().chain(&sources.docker.networks);
            if known.into_iter().any(|network| gateway_port(network) == port.name) {
                continue;
            }
            let in_vlan = |record: &&Record| {
                Some(&record.bridge) == port.bridge.as_ref()
                    && port.vlan.as_ref().is_some_and(|vlan| record.vlan.domain() == vlan.domain())
            };
            if let Some(record) = sources.records.iter().find(in_vlan) {
                self.spared.push(format!("gateway {}: {} is plugged in", port.name, record.key));
                continue;
            }
            let proof = [
                "no network has it".to_owned(),
                "no container is plugged into its VLAN".to_owned(),
            ];
            let target = Target::Gateway(port.name.clone());
            self.add(Kind::Gateway, port.name.to_string(), proof, target);
        }
    }
}
