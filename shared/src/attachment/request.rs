//! What a front end asks for, validated.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::record::{Key, Labels, Runtime};
use crate::link::Route;
use crate::mac::Mac;
use crate::name::IfName;
use crate::network::Network;
use crate::ovsdb::Endpoint;
use crate::vlan::PortVlan;

/// One validated request to plug a container in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachRequest {
    /// Which attachment.
    pub key: Key,
    /// Who asks.
    pub runtime: Runtime,
    /// The program that called the front end ("containerd", "podman"), as its process is named.
    pub caller: String,
    /// The container's network namespace.
    pub netns: PathBuf,
    /// The bridge.
    pub bridge: IfName,
    /// The VLANs of the port.
    pub vlan: PortVlan,
    /// MTU in bytes; the bridge's own if `None`.
    pub mtu: Option<u32>,
    /// MAC of the container's interface; derived from its address if `None`.
    pub mac: Option<Mac>,
    /// `ofport_request`.
    pub ofport_request: Option<u16>,
    /// `Interface.type`, as ovs-cni lets one set it; empty for a veth.
    pub interface_type: String,
    /// More `Port.external_ids`, never replacing ours.
    pub external_ids: BTreeMap<String, String>,
    /// More `Interface.external_ids` (`iface-id` of an OVN port).
    pub interface_external_ids: BTreeMap<String, String>,
    /// OVS protected port: no traffic to other protected ports.
    pub isolated: bool,
    /// Where the addresses come from.
    pub addressing: Addressing,
    /// Routes beside the default route.
    pub routes: Vec<Route>,
    /// Names people know the container by.
    pub labels: Labels,
    /// How long to wait for ovs-vswitchd to open the port.
    pub link_deadline: Duration,
    /// The ovsdb-server that the network names, if that is not the host's own.
    pub ovsdb: Option<Endpoint>,
    /// Kept for the front end with the record, unread by the engine (its IPAM delegate, DNS).
    pub front_end: serde_json::Value,
}

/// Where the addresses of an attachment come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addressing {
    /// No addresses: plain L2.
    None,
    /// One address of each subnet of the network, out of our pools.
    Pool {
        /// The network (gateway and NAT are made if missing).
        network: Network,
        /// Requested addresses, at most one for each subnet.
        requested: Vec<IpAddr>,
        /// Whether the container gets a default route through the gateway.
        default_route: bool,
    },
    /// Not known before the interface is there: an IPAM plugin asks a DHCP server through it. The
    /// attach stops short of its end, which is [`super::Engine::finish`].
    Later,
    /// Given by somebody else (Docker, Podman).
    Given {
        /// The addresses.
        addresses: Vec<Address>,
    },
}

/// An address of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Address and prefix length.
    pub address: IpNet,
    /// The gateway of its subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}
