//! The ledger: an append-only, hash-chained history of every act, one JSON object a line.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::{Fault, Kind};

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// First line of a boot: whatever earlier boots left open is closed.
    Boot,
    /// A container was plugged in.
    Attach,
    /// A container was unplugged.
    Detach,
    /// GC removed something that nobody else removed.
    Collect,
    /// `up`, or a network made on first use.
    Up,
    /// `down`.
    Down,
    /// The chain was broken in an earlier segment; a new one starts here.
    ChainBreak,
    /// First line after a rotation.
    Rotate,
}

/// What a writer tells the ledger; sequence, time, boot id and chain are the ledger's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Who acts: "cni", "docker", "podman", "port-agent".
    pub actor: String,
    /// What was done.
    pub action: Action,
    /// Network name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Container id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Interface name in the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
    /// Namespace path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// Bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// Port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// VLAN as [`crate::vlan::PortVlan`] prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<String>,
    /// MAC of the container's interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpNet>,
    /// Anything worth a word: why GC removed it, what was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Event {
    /// An event with nothing but actor and action.
    pub fn new(actor: &str, action: Action) -> Self {
        Self {
            actor: actor.to_owned(),
            action,
            network: None,
            container: None,
            ifname: None,
            netns: None,
            bridge: None,
            port: None,
            vlan: None,
            mac: None,
            addresses: Vec::new(),
            note: None,
        }
    }
}

/// When a line is forced to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sync {
    /// By the agent within a second, off the attach path.
    #[default]
    Agent,
    /// fdatasync before the attach returns.
    Always,
}

/// Where an appended line went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Into the ledger.
    Ledger,
    /// Into the spool in /run: the ledger cannot be written now.
    Spool,
}

/// Why the ledger could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be used.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// "append to", "read", "rotate" …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Somebody held the ledger's lock for too long.
    #[error(transparent)]
    Lock(#[from] crate::lock::Error),
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Io { .. } => Kind::System,
            Self::Lock(lock) => lock.kind(),
        }
    }
}

/// The ledger of a host.
#[derive(Debug, Clone)]
pub struct Ledger {
    path: PathBuf,
    spool: PathBuf,
    sync: Sync,
}

impl Ledger {
    /// The ledger at `path`, spooling to the file `spool` while `path` cannot be written.
    pub fn new(path: PathBuf, spool: PathBuf, sync: Sync) -> Self {
        Self { path, spool, sync }
    }

    /// Appends one line. Whatever is in the spool goes first. An unwritable ledger spools; an
    /// error means that neither took the line.
    pub fn append(&self, event: &Event) -> Result<Written, Error> {
        todo!()
    }
}

#[allow(unused)]
fn _keep(_: IpAddr) {}
