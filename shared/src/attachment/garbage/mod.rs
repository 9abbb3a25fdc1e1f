//! What a crash left behind, found from every source at once and removed only on proof from two of
//! them. [`Engine::collect`] obeys a runtime's own list; here nobody gives one.

mod clear;
mod sources;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use self::sources::Sources;
use super::attach::lock_key;
use super::record::{Key, Record, Runtime};
use super::{Engine, owner};
use crate::error::sentence;
use crate::name::IfName;
use crate::netns::{self, Netns};
use crate::network;
use crate::network::gateway::{ROLE_GATEWAY, gateway_port};
use crate::ovsdb::Port;

/// A lease younger than this may be part of something under way, in seconds.
const YOUNG: u64 = 60;

/// The same for Docker's, whose driver writes down what it has when it has it.
const YOUNG_OF_DOCKER: u64 = 600;

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

impl Target {
    /// The name of the lock that everybody takes who works on it.
    fn lock(&self) -> String {
        match self {
            Self::Attachment(key) => lock_key(key),
            // Named as the attachment that holds it.
            Self::Lease(_, _, owner) => format!("attachment {owner}"),
            Self::Gateway(_) => "networks".to_owned(),
        }
    }
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
}

impl Survey {
    fn add(&mut self, kind: Kind, name: String, proof: [String; 2], target: Target) {
        self.pieces.push(Piece { kind, name, proof, target });
    }

    fn attachments(&mut self, sources: &Sources) {
        let mut recorded = BTreeSet::new();
        for record in &sources.records {
            recorded.insert(record.key.clone());
            if sources.links.has_host_end(record) {
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
            if sources.links.names.contains(&port.name) {
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
            if sources.known.contains(&key.to_string()) {
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
            if age < YOUNG || sources.known.contains(owner) {
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
                if age < YOUNG_OF_DOCKER || sources.docker_keeps(lease) {
                    self.spared.push(format!("lease {name}: Docker's driver keeps it"));
                    continue;
                }
                [
                    "no container that Docker plugged in has it".to_owned(),
                    "no pool and no endpoint of Docker's driver has it".to_owned(),
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
