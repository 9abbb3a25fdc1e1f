//! What is kept of an attachment in `/run/ovs-port-agent/attachments`: how DEL, CHECK, GC and
//! `status` know it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::owner;
use super::request::Address;
pub use crate::key::Key;
use crate::link::Route;
use crate::mac::Mac;
use crate::name::IfName;
use crate::netns::NetnsId;
use crate::ovsdb::{Endpoint, PortSpec};
use crate::vlan::PortVlan;

/// Who asked for an attachment; GC obeys that runtime's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runtime {
    /// A CNI runtime.
    Cni,
    /// Docker.
    Docker,
    /// Podman through netavark.
    Podman,
    /// `ovs-port-agent attach`, or its monitor.
    #[serde(rename = "port-agent")]
    Host,
}

impl Runtime {
    /// The name in records, in `external_ids` and in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cni => "cni",
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Host => "port-agent",
        }
    }

    /// The reverse of [`Runtime::as_str`].
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Cni, Self::Docker, Self::Podman, Self::Host]
            .into_iter()
            .find(|runtime| runtime.as_str() == name)
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names people know a container by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    /// Container or pod name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Network name, where the key has an id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Kubernetes namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Kubernetes pod UID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
}

/// A lease of ours that an attachment holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The pool.
    pub subnet: IpNet,
    /// The address.
    pub ip: std::net::IpAddr,
}

/// What an interface of the host was like before we plugged it in: detaching gives it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// Its name.
    pub name: IfName,
    /// Its index, which no rename changes.
    pub index: u32,
    /// Its interface group.
    pub group: u32,
    /// Whether it was up.
    pub up: bool,
}

/// What a request wants of its port beside bridge, VLANs and isolation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortExtras {
    /// `Interface.type`; empty for a veth.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub interface_type: String,
    /// `ofport_request`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ofport_request: Option<u16>,
    /// `Port.external_ids` that are not ours.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub external_ids: BTreeMap<String, String>,
    /// `Interface.external_ids`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub interface_external_ids: BTreeMap<String, String>,
}

impl PortExtras {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Which attachment.
    pub key: Key,
    /// Who asked for it.
    pub runtime: Runtime,
    /// The program behind it ("containerd", "podman"): GC by one leaves the other's alone.
    pub caller: String,
    /// Boot it was made in (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// Whether the attach has finished; an unfinished one is an intent.
    pub complete: bool,
    /// Seconds since the epoch, for people.
    pub since: u64,
    /// Seconds since boot, for what depends on its age ([`crate::state::uptime`]).
    #[serde(default)]
    pub uptime: u64,
    /// Path of the container's namespace.
    pub netns: PathBuf,
    /// Which namespace that was; `None` where the runtime made it after us and moved the interface
    /// there itself ([`Engine::plug`](super::Engine::plug)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_id: Option<NetnsId>,
    /// The bridge.
    pub bridge: IfName,
    /// The port: name of the host end.
    pub port: IfName,
    /// VLANs of the port.
    pub vlan: PortVlan,
    /// Whether it is an OVS protected port.
    pub isolated: bool,
    /// MAC of the host end.
    pub host_mac: Mac,
    /// MAC of the container's interface.
    pub mac: Mac,
    /// MTU in bytes.
    pub mtu: u32,
    /// Addresses.
    pub addresses: Vec<Address>,
    /// Routes in the container.
    pub routes: Vec<Route>,
    /// Leases of ours.
    pub leases: Vec<Held>,
    /// Names people know it by.
    pub labels: Labels,
    /// An interface of the host that somebody else made; `None` if the pair is ours. `netns` is
    /// then where the other end was seen, and empty for a tap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<Adopted>,
    /// What else its row says: with the rest of the record, all that is needed to plug it in again.
    #[serde(default, skip_serializing_if = "PortExtras::is_empty")]
    pub extras: PortExtras,
    /// The ovsdb-server of its port, if that is not the host's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ovsdb: Option<Endpoint>,
    /// Kept for the front end.
    #[serde(default)]
    pub front_end: serde_json::Value,
}

impl Record {
    /// Whether its port is in the switch of this ovsdb-server.
    pub fn is_of(&self, ovsdb: &Endpoint) -> bool {
        self.ovsdb.as_ref().is_none_or(|own| own.is_same(ovsdb))
    }

    /// What people know the container by: its name, or its id.
    pub fn name(&self) -> String {
        match (&self.labels.namespace, &self.labels.name) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
            (None, Some(name)) => name.clone(),
            _ => self.key.container.clone(),
        }
    }

    /// The port as it is to be.
    pub(super) fn port_spec(&self) -> PortSpec {
        let mut external_ids = self.extras.external_ids.clone();
        external_ids.extend(owner::external_ids(
            &self.key,
            self.runtime,
            &self.caller,
            &self.boot_id,
            &self.labels,
            self.mac,
        ));
        external_ids.extend(self.adopted.as_ref().map(owner::adopted));
        PortSpec {
            name: self.port.clone(),
            interface_type: self.extras.interface_type.clone(),
            vlan: self.vlan.clone(),
            ofport_request: self.extras.ofport_request,
            mac: None,
            mtu_request: None,
            protected: self.isolated,
            external_ids,
            interface_external_ids: self.extras.interface_external_ids.clone(),
        }
    }
}
