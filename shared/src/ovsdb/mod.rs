//! A small OVSDB client (RFC 7047), synchronous, with a deadline on every wait.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Fault, Kind};
use crate::mac::Mac;
use crate::name::IfName;
use crate::vlan::PortVlan;

/// Where an ovsdb-server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `unix:/path` or a bare path.
    Unix(PathBuf),
    /// `tcp:host:port`.
    Tcp(String),
}

/// What went wrong between us and OVSDB.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens.
    #[error("cannot reach ovsdb-server at {endpoint}")]
    Connect {
        /// Where.
        endpoint: String,
        /// The system's answer.
        source: io::Error,
    },
    /// No answer in time. What was asked may have been done: read back.
    #[error("ovsdb-server at {endpoint} did not answer within {} s", deadline.as_secs_f32())]
    Timeout {
        /// Where.
        endpoint: String,
        /// How long was waited.
        deadline: Duration,
    },
    /// The connection broke, or what came was no JSON-RPC.
    #[error("the connection to ovsdb-server at {endpoint} broke: {why}")]
    Broken {
        /// Where.
        endpoint: String,
        /// What was seen.
        why: String,
    },
    /// An operation of a transaction failed (RFC 7047 section 3.1 and 5.2).
    #[error("ovsdb refused to {action}: {error}: {details}")]
    Refused {
        /// What was asked.
        action: String,
        /// The `error` member.
        error: String,
        /// The `details` member.
        details: String,
    },
    /// The named bridge has no row.
    #[error("bridge \"{bridge}\" does not exist in Open vSwitch")]
    NoBridge {
        /// The bridge asked for.
        bridge: String,
    },
    /// A port of that name exists.
    #[error("port \"{port}\" exists already in Open vSwitch")]
    PortExists {
        /// The port.
        port: String,
    },
    /// ovs-vswitchd could not open the port (`Interface.error`).
    #[error("ovs-vswitchd cannot open port \"{port}\": {why}")]
    PortError {
        /// The port.
        port: String,
        /// `Interface.error`.
        why: String,
    },
    /// ovs-vswitchd did not open the port in time.
    #[error("ovs-vswitchd did not open port \"{port}\" within {} s", deadline.as_secs_f32())]
    NotOpened {
        /// The port.
        port: String,
        /// How long was waited.
        deadline: Duration,
    },
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Broken { .. }
            | Self::NotOpened { .. } => Kind::Unavailable,
            Self::Refused { .. } | Self::PortError { .. } => Kind::System,
            Self::NoBridge { .. } => Kind::Missing,
            Self::PortExists { .. } => Kind::Conflict,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Connect { .. } | Self::Timeout { .. } | Self::Broken { .. } => {
                Some("start Open vSwitch (systemctl start openvswitch-switch)".to_owned())
            }
            Self::NotOpened { .. } => {
                Some("see whether ovs-vswitchd runs (systemctl status ovs-vswitchd)".to_owned())
            }
            Self::NoBridge { bridge } => Some(format!(
                "run \"ovs-port-agent up\", or make it with \"ovs-vsctl add-br {bridge}\""
            )),
            Self::Refused { .. } | Self::PortExists { .. } | Self::PortError { .. } => None,
        }
    }
}

/// A row's `_uuid`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uuid(pub String);

/// A count ovs-vswitchd catches up with: `Open_vSwitch.next_cfg` when something was changed. What
/// was changed has reached the switch once `cur_cfg` is at least this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// What one attach needs to know beforehand, in one round trip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeView {
    /// The bridge's row.
    pub bridge: Bridge,
    /// `Open_vSwitch.next_cfg`.
    pub next: Generation,
    /// `Open_vSwitch.cur_cfg`.
    pub current: Generation,
}

/// A row of table Bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Its `_uuid`.
    pub uuid: Uuid,
    /// Its name.
    pub name: IfName,
    /// `datapath_type`: "", "system" or "netdev".
    pub datapath_type: String,
    /// `external_ids`.
    pub external_ids: BTreeMap<String, String>,
    /// `fail_mode`.
    pub fail_mode: Option<String>,
    /// Its ports.
    pub ports: Vec<Uuid>,
}

impl Bridge {
    /// Whether frames pass through ovs-vswitchd itself (checksum offload must be off).
    pub fn is_userspace(&self) -> bool {
        self.datapath_type == "netdev"
    }
}

/// A port as it is to be: one row of Port and one of Interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// Name of the port and of its interface.
    pub name: IfName,
    /// `Interface.type`: "" for a system device, "internal".
    pub interface_type: String,
    /// `vlan_mode`, `tag`, `trunks`.
    pub vlan: PortVlan,
    /// `ofport_request`, 1 to 65279.
    pub ofport_request: Option<u16>,
    /// `Interface.mac` (internal ports only).
    pub mac: Option<Mac>,
    /// `Interface.mtu_request` (internal ports only).
    pub mtu_request: Option<u32>,
    /// `Port.protected`.
    pub protected: bool,
    /// `Port.external_ids`.
    pub external_ids: BTreeMap<String, String>,
    /// `Interface.external_ids`.
    pub interface_external_ids: BTreeMap<String, String>,
}

/// A row of Port joined with its Interface and its bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// `Port._uuid`.
    pub uuid: Uuid,
    /// Its name.
    pub name: IfName,
    /// Name of the bridge that lists it.
    pub bridge: Option<IfName>,
    /// VLAN columns; `None` if the row has none at all (trunks everything).
    pub vlan: Option<PortVlan>,
    /// `Port.protected`.
    pub protected: bool,
    /// `Port.external_ids`.
    pub external_ids: BTreeMap<String, String>,
    /// `Interface.type`.
    pub interface_type: String,
    /// `Interface.ofport`; -1 if it could not be opened.
    pub ofport: Option<i64>,
    /// `Interface.ifindex`.
    pub ifindex: Option<u32>,
    /// `Interface.error`.
    pub error: Option<String>,
    /// `Interface.ofport_request`.
    pub ofport_request: Option<u16>,
}

/// A connection to ovsdb-server.
#[derive(Debug)]
pub struct Client {
    _stream: (),
}

impl Client {
    /// Connects. Every later call waits at most `deadline` for its answer.
    pub fn connect(endpoint: &Endpoint, deadline: Duration) -> Result<Self, Error> {
        todo!()
    }

    /// The bridge and the generations, in one round trip; [`Error::NoBridge`] without it.
    pub fn view(&mut self, bridge: &IfName) -> Result<BridgeView, Error> {
        todo!()
    }

    /// Every bridge.
    pub fn bridges(&mut self) -> Result<Vec<Bridge>, Error> {
        todo!()
    }

    /// `Open_vSwitch.datapath_types`.
    pub fn datapath_types(&mut self) -> Result<Vec<String>, Error> {
        todo!()
    }

    /// Makes a bridge with its local port; false if a bridge of that name exists (left as it is).
    pub fn add_bridge(
        &mut self,
        name: &IfName,
        datapath_type: &str,
        mac: Option<Mac>,
        external_ids: &BTreeMap<String, String>,
    ) -> Result<bool, Error> {
        todo!()
    }

    /// Removes a bridge and its ports; false if there is none.
    pub fn delete_bridge(&mut self, name: &IfName) -> Result<bool, Error> {
        todo!()
    }

    /// Merges keys into `Bridge.external_ids`, or removes keys whose value is `None`.
    pub fn set_bridge_external_ids(
        &mut self,
        name: &IfName,
        ids: &BTreeMap<String, Option<String>>,
    ) -> Result<(), Error> {
        todo!()
    }

    /// Adds a port in ONE transaction: guard that `bridge` is still the row seen and that no port
    /// of that name exists, insert Interface and Port, mutate the bridge.
    pub fn add_port(&mut self, bridge: &Bridge, port: &PortSpec) -> Result<(), Error> {
        todo!()
    }

    /// Waits until ovs-vswitchd has opened the port; returns its OpenFlow number.
    pub fn wait_open(&mut self, port: &IfName, deadline: Duration) -> Result<u16, Error> {
        todo!()
    }

    /// Corrects the VLAN columns, `protected` and merges `external_ids` of an existing port.
    pub fn update_port(&mut self, uuid: &Uuid, port: &PortSpec) -> Result<(), Error> {
        todo!()
    }

    /// The port of that name.
    pub fn port(&mut self, name: &IfName) -> Result<Option<Port>, Error> {
        todo!()
    }

    /// The ports whose `external_ids` include all of `ids`: how ours are found.
    pub fn ports_with(&mut self, ids: &BTreeMap<String, String>) -> Result<Vec<Port>, Error> {
        todo!()
    }

    /// Every port of the switch. For `status` and GC, never on the attach path.
    pub fn ports(&mut self) -> Result<Vec<Port>, Error> {
        todo!()
    }

    /// Removes ports by row, wherever they hang, in one transaction that also asks ovs-vswitchd to
    /// catch up; returns the generation at which they are gone from the switch.
    pub fn delete_ports(&mut self, ports: &[Uuid]) -> Result<Generation, Error> {
        todo!()
    }

    /// Waits until ovs-vswitchd has reached `generation`; false if it did not in time.
    pub fn wait_applied(
        &mut self,
        generation: Generation,
        deadline: Duration,
    ) -> Result<bool, Error> {
        todo!()
    }
}
