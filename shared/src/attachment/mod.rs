//! One container interface plugged into one bridge, from request to record.

pub mod record;
pub mod request;

use std::collections::BTreeSet;
use std::path::PathBuf;

pub use record::{Key, Record, Runtime};
pub use request::{Address, Addressing, AttachRequest};

use crate::address::Subnet;
use crate::config::Config;
use crate::error::{Fault, Kind};
use crate::link::Route;
use crate::name::IfName;

/// The engine of one host.
#[derive(Debug)]
pub struct Engine {
    config: Config,
}

/// What CHECK expects to find, beside the record.
#[derive(Debug, Clone)]
pub struct CheckRequest {
    /// Which attachment.
    pub key: Key,
    /// The namespace it must be in.
    pub netns: PathBuf,
    /// Addresses that must still be on the interface (those of the previous result).
    pub addresses: Vec<Address>,
    /// Routes that must still exist.
    pub routes: Vec<Route>,
}

/// What STATUS asks about: would an attach succeed now?
#[derive(Debug, Clone)]
pub struct Readiness {
    /// The bridge an attach would use.
    pub bridge: IfName,
    /// The pools it would draw from.
    pub subnets: Vec<Subnet>,
}

/// What GC did.
#[derive(Debug, Clone, Default)]
pub struct Collected {
    /// Attachments removed.
    pub removed: Vec<Record>,
    /// Attachments of others, or not provably dead, with the reason each was kept.
    pub kept: Vec<(Record, String)>,
    /// What could not be removed, one sentence each.
    pub failed: Vec<String>,
}

/// What an attachment can fail with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing is known of it.
    #[error("attachment {key} is not known")]
    Unknown {
        /// Which.
        key: Key,
    },
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Unknown { .. } => Kind::Missing,
        }
    }
}

impl Engine {
    /// An engine that works by `config`.
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    /// What the host should look like.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Plugs a container in. On an error nothing is left, or the error says what.
    pub fn attach(&self, request: &AttachRequest) -> Result<Record, Error> {
        todo!()
    }

    /// Unplugs. Needs neither namespace nor bridge; success when there is nothing (more) to do.
    /// Returns the record there was.
    pub fn detach(&self, key: &Key) -> Result<Option<Record>, Error> {
        todo!()
    }

    /// The record of an attachment.
    pub fn record(&self, key: &Key) -> Result<Option<Record>, Error> {
        todo!()
    }

    /// Whether the attachment is as it was made and passes frames.
    pub fn check(&self, request: &CheckRequest) -> Result<(), Error> {
        todo!()
    }

    /// Removes the attachments of `runtime` on `network` that are not in `valid` (container id,
    /// interface name); only reports those of other runtimes.
    pub fn collect(
        &self,
        runtime: Runtime,
        network: &str,
        valid: &BTreeSet<(String, IfName)>,
    ) -> Result<Collected, Error> {
        todo!()
    }

    /// Whether an attach would succeed: ovsdb-server and ovs-vswitchd answer, the bridge exists,
    /// each pool has an address left.
    pub fn ready(&self, question: &Readiness) -> Result<(), Error> {
        todo!()
    }
}
