//! `/etc/ovs-port-agent/config.toml`.

use std::path::PathBuf;

use ipnet::IpNet;
use std::net::IpAddr;

use crate::ledger;
use crate::name::{IfName, Template};
use crate::ovsdb::Endpoint;

/// Where the configuration is looked for.
pub const DEFAULT_PATH: &str = "/etc/ovs-port-agent/config.toml";

/// What the host should look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The bridge the monitor attaches to: the direct bridge unless `[[bridge]]` says otherwise.
    pub bridge_name: IfName,
    /// File with the managed block.
    pub interfaces_path: PathBuf,
    /// Prefixes of the interfaces the monitor takes.
    pub include_prefixes: Vec<String>,
    /// How long the monitor waits for a storm to end, in milliseconds.
    pub debounce_ms: u64,
    /// Tag of the managed block.
    pub managed_block_tag: String,
    /// Template of port names.
    pub naming_template: Template,
    /// Whether the monitor renames.
    pub enable_rename: bool,
    /// The ledger.
    pub ledger_path: PathBuf,
    /// When ledger lines are forced to disk.
    pub ledger_sync: ledger::Sync,
    /// Where ovsdb-server listens.
    pub ovsdb: Endpoint,
    /// Leases, records and locks; a tmpfs, so that a reboot leaks nothing.
    pub state_dir: PathBuf,
    /// The bridges.
    pub bridges: Vec<Bridge>,
}

/// One `[[bridge]]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Its name.
    pub name: IfName,
    /// MTU in bytes of its local port; the kernel's default if `None`.
    pub mtu: Option<u32>,
    /// "system" or "netdev"; chosen for the host if `None`. An existing bridge keeps its own.
    pub datapath_type: Option<String>,
    /// What it is for.
    pub mode: Mode,
}

/// What a bridge is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// On the wire: containers belong to the real network.
    Direct {
        /// The wired port, if any.
        uplink: Option<IfName>,
        /// Addresses of the host on this bridge.
        addresses: Vec<IpNet>,
        /// Default gateway of the host through this bridge.
        gateway: Option<IpAddr>,
    },
    /// Internal, masqueraded.
    Nat {
        /// The host's addresses on this bridge: the gateways of its subnets.
        addresses: Vec<IpNet>,
        /// Where traffic leaves.
        uplink: Uplink,
    },
}

/// Where NATed traffic leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uplink {
    /// Whichever interface the main table chooses.
    Default,
    /// This one, even when another has the better default route; else unreachable.
    Named(IfName),
}
