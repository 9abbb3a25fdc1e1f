//! One container interface plugged into one bridge, from request to record.

mod adopt;
mod attach;
mod check;
mod collect;
mod detach;
mod free;
mod freed;
pub mod garbage;
mod left;
mod look;
pub mod owner;
mod pace;
mod plug;
mod ports;
pub mod record;
pub mod request;
mod restore;
mod show;
mod sweep;

use std::net::IpAddr;
use std::path::PathBuf;

pub use adopt::{Adoption, HandRequest, Vanished};
pub use check::CheckRequest;
pub use collect::{Collected, GcRequest};
pub use free::{Behind, Facts, Reason, Verdict, free};
pub use plug::peer_name;
pub use ports::Withdrawn;
pub use record::{Adopted, Key, Record, Runtime};
pub use request::{Address, Addressing, AttachRequest};
pub use restore::Restored;
pub use show::{Picture, PluggedPort};

use crate::address::{self, Pools, Subnet};
use crate::config::Config;
use crate::error::{Fault, Kind, chain};
use crate::ledger::{Action, Event, Ledger, Written};
use crate::name::IfName;
use crate::ovsdb::{self, Client, vswitchd};
use crate::state::{self, State};
use crate::{link, lock, netns, network, publish};

/// The engine of one host.
#[derive(Debug)]
pub struct Engine {
    config: Config,
}

/// What STATUS asks about: would an attach succeed now?
#[derive(Debug, Clone)]
pub struct Readiness {
    /// The bridge an attach would use.
    pub bridge: IfName,
    /// The pools it would draw from.
    pub subnets: Vec<Subnet>,
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
    /// Every name the template can give is taken.
    #[error("no free port name for {key} among the {tried} that the naming template gives")]
    NoName {
        /// Which attachment.
        key: Key,
        /// How many were tried.
        tried: u32,
    },
    /// The container has an interface of that name.
    #[error("interface {ifname} exists already in {}", netns.display())]
    InterfaceExists {
        /// Its name.
        ifname: IfName,
        /// The container's namespace.
        netns: PathBuf,
    },
    /// A prefix length that the family does not have.
    #[error("/{length} is not a prefix length for {ip}")]
    PrefixLength {
        /// The address.
        ip: IpAddr,
        /// The length.
        length: u8,
    },
    /// CHECK found it otherwise than it was made.
    #[error("{key}: {what} is {found}, expected {expected}")]
    Differs {
        /// Which attachment.
        key: Key,
        /// The aspect: "the bridge of port veth-web-eth0".
        what: String,
        /// What was found.
        found: String,
        /// What was made.
        expected: String,
    },
    /// CHECK sent frames that never reached the switch.
    #[error("{key}: port {port} passes no frames, though its row in Open vSwitch looks right")]
    NoFrames {
        /// Which attachment.
        key: Key,
        /// Its port.
        port: IfName,
    },
    /// DEL could not remove everything.
    #[error("{key} is not fully unplugged: {what}")]
    Remains {
        /// Which attachment.
        key: Key,
        /// What stays, and why.
        what: String,
    },
    /// GC could not look a second time.
    #[error("nothing is removed: {why}")]
    Unseen {
        /// Which source cannot be read, and why; with a hint.
        why: String,
    },
    /// No interface of that name to plug in or out.
    #[error("there is no interface {interface} on this host")]
    NoInterface {
        /// Its name.
        interface: IfName,
    },
    /// It is not plugged in.
    #[error("interface {interface} is not plugged in")]
    NotPlugged {
        /// Its name.
        interface: IfName,
    },
    /// The interface is in use.
    #[error("interface {interface} cannot be plugged in: {reason}")]
    InUse {
        /// Its name.
        interface: IfName,
        /// By whom or what.
        reason: Reason,
    },
    /// The interface is another one, or another's, since it was looked at.
    #[error("interface {interface} has changed while it was being plugged in: {what}")]
    Changed {
        /// Its name.
        interface: IfName,
        /// What is different.
        what: &'static str,
    },
    /// The other end is not in the namespace named.
    #[error("the other end of {interface} is not in {}", netns.display())]
    NotThere {
        /// The interface.
        interface: IfName,
        /// The namespace.
        netns: PathBuf,
    },
    /// It was plugged in by a runtime, not by hand and not by the monitor.
    #[error("{port} was plugged in by {runtime} for {key}")]
    Foreign {
        /// The interface.
        port: IfName,
        /// Who plugged it in.
        runtime: Runtime,
        /// For which attachment.
        key: Key,
    },
    /// An attach failed, and so did its undoing.
    #[error("{}; and then {}", chain(cause), chain(left))]
    Left {
        /// Why the attach failed.
        cause: Box<Self>,
        /// What could not be undone.
        left: Box<Self>,
    },
    /// The namespace.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// The kernel.
    #[error(transparent)]
    Link(#[from] link::Error),
    /// Open vSwitch.
    #[error(transparent)]
    Ovsdb(#[from] ovsdb::Error),
    /// ovs-vswitchd.
    #[error(transparent)]
    Vswitchd(#[from] vswitchd::Error),
    /// The address pools.
    #[error(transparent)]
    Address(#[from] address::Error),
    /// The network.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// Published ports.
    #[error(transparent)]
    Publish(#[from] publish::Error),
    /// A lock.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// The state directory.
    #[error(transparent)]
    State(#[from] state::Error),
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Unknown { .. } | Self::Differs { .. } | Self::NoFrames { .. } => Kind::Broken,
            Self::NoName { .. } => Kind::Exhausted,
            Self::InterfaceExists { .. } | Self::InUse { .. } | Self::Foreign { .. } => {
                Kind::Conflict
            }
            Self::NoInterface { .. } | Self::NotPlugged { .. } | Self::NotThere { .. } => {
                Kind::Missing
            }
            Self::Changed { .. } => Kind::Busy,
            Self::PrefixLength { .. } => Kind::Invalid,
            Self::Remains { .. } | Self::Unseen { .. } => Kind::Busy,
            Self::Left { cause, .. } => cause.kind(),
            Self::Netns(error) => error.kind(),
            Self::Link(error) => error.kind(),
            Self::Ovsdb(error) => error.kind(),
            Self::Vswitchd(error) => error.kind(),
            Self::Address(error) => error.kind(),
            Self::Network(error) => error.kind(),
            Self::Publish(error) => error.kind(),
            Self::Lock(error) => error.kind(),
            Self::State(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { .. } | Self::Differs { .. } | Self::NoFrames { .. } => {
                Some("restart the container, so that it is plugged in anew".to_owned())
            }
            Self::NoName { .. } => {
                Some("leave {container} more room in naming_template".to_owned())
            }
            Self::InterfaceExists { .. } => {
                Some("remove it, or ask for another interface name".to_owned())
            }
            Self::Remains { .. } => Some("the same DEL finishes it once that is mended".to_owned()),
            Self::Left { cause, .. } => cause.hint(),
            Self::Netns(error) => error.hint(),
            Self::Link(error) => error.hint(),
            Self::Ovsdb(error) => error.hint(),
            Self::Vswitchd(error) => error.hint(),
            Self::Address(error) => error.hint(),
            Self::Network(error) => error.hint(),
            Self::Publish(error) => error.hint(),
            Self::Lock(error) => error.hint(),
            Self::State(error) => error.hint(),
            Self::NoInterface { .. } => Some("name one that \"ip link\" shows".to_owned()),
            Self::InUse { interface, reason } => in_use(interface, reason),
            Self::NotThere { .. } => {
                Some("name the namespace it is in, or none: it is found by itself".to_owned())
            }
            Self::Foreign { .. } => Some("stop the container instead".to_owned()),
            Self::Changed { .. } => Some("look at it, then try again".to_owned()),
            Self::NotPlugged { .. } => Some("see \"ovs-port-agent status\" for what is".to_owned()),
            Self::PrefixLength { .. } | Self::Unseen { .. } => None,
        }
    }
}

/// How an interface becomes free.
fn in_use(interface: &IfName, reason: &Reason) -> Option<String> {
    match reason {
        Reason::Address => Some(format!("remove its addresses: ip address flush dev {interface}")),
        Reason::Route => Some(format!("remove its routes: ip route flush dev {interface}")),
        Reason::Member { .. } => Some(format!("take it out: ip link set {interface} nomaster")),
        Reason::Port { bridge } if interface.as_str() != bridge => {
            Some(format!("take it out: ovs-vsctl del-port {bridge} {interface}"))
        }
        _ => None,
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

    /// Where this boot's records are.
    pub fn state(&self) -> State {
        State::new(self.config.state_dir.clone())
    }

    /// The address pools.
    pub fn pools(&self) -> Pools {
        Pools::new(self.state().leases())
    }

    /// The ledger.
    pub fn ledger(&self) -> Ledger {
        let config = &self.config;
        Ledger::new(config.ledger_path.clone(), self.state().spool(), config.ledger_sync)
    }

    /// The record of an attachment.
    pub fn record(&self, key: &Key) -> Result<Option<Record>, Error> {
        Ok(state::read(&self.record_path(key))?)
    }

    /// The same; `None` also where the file says nothing that is understood. One that cannot be read
    /// just now is an error: it may say whose the interface is.
    pub(super) fn record_if_sound(&self, key: &Key) -> Result<Option<Record>, Error> {
        match self.record(key) {
            Err(Error::State(state::Error::Garbage { .. })) => Ok(None),
            read => read,
        }
    }

    /// Every record that can be read; of the others, why not.
    pub fn records(&self) -> Result<(Vec<Record>, Vec<state::Error>), Error> {
        let (mut records, mut unreadable) = (Vec::new(), Vec::new());
        for path in state::files(&self.state().attachments())? {
            match state::read(&path) {
                Ok(record) => records.extend(record),
                Err(error) => unreadable.push(error),
            }
        }
        Ok((records, unreadable))
    }

    /// Whether an attach would succeed: ovsdb-server and ovs-vswitchd answer, the bridge exists,
    /// each pool has an address left.
    pub fn ready(&self, question: &Readiness) -> Result<(), Error> {
        Client::connect(&self.config.ovsdb, attach::OVSDB_DEADLINE)?.view(&question.bridge)?;
        vswitchd::alive(&self.config.ovsdb, vswitchd::DEADLINE)?;
        let pools = self.pools();
        for subnet in &question.subnets {
            pools.room(subnet)?;
        }
        Ok(())
    }

    fn save(&self, record: &Record) -> Result<(), Error> {
        Ok(state::write(&self.record_path(&record.key), record)?)
    }

    fn record_path(&self, key: &Key) -> PathBuf {
        self.state().attachments().join(key.file_name())
    }

    /// Writes one line of history. A ledger that cannot be written never stops a container.
    fn write_ledger(&self, key: &Key, record: Option<&Record>, action: Action, note: Option<&str>) {
        let actor = record.map_or(Runtime::Host, |record| record.runtime);
        let mut event = Event::new(actor.as_str(), action);
        event.network = Some(key.network.clone());
        event.container = Some(key.container.clone());
        event.ifname = Some(key.ifname.to_string());
        event.note = note.map(str::to_owned);
        if let Some(record) = record {
            event.netns = Some(record.netns.display().to_string());
            event.bridge = Some(record.bridge.to_string());
            event.port = Some(record.port.to_string());
            event.vlan = Some(record.vlan.to_string());
            event.mac = Some(record.mac.to_string());
            event.addresses = record.addresses.iter().map(|address| address.address).collect();
        }
        match self.ledger().append(&event) {
            // A spooled line has been reported by the ledger itself.
            Ok(Written::Ledger | Written::Spool) => {}
            Err(error) => tracing::error!(
                error = %crate::error::sentence(&error),
                "neither the ledger nor its spool can be written"
            ),
        }
    }
}
