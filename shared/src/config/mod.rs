//! `/etc/ovs-port-agent/config.toml`.

mod check;
#[cfg(any(test, feature = "laws"))]
pub(crate) mod laws;
mod raw;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use self::raw::Source;
use crate::error::{Fault, Kind};
use crate::ledger;
use crate::name::{IfName, Template};
use crate::ovsdb::Endpoint;
use crate::vlan::VlanId;

/// Where the configuration is looked for.
pub const DEFAULT_PATH: &str = "/etc/ovs-port-agent/config.toml";

/// Where the kernel shows its devices.
pub const SYSFS: &str = "/sys";

/// Name of the direct bridge without configuration.
const DIRECT: &str = "ovsbr0";

/// Name of the NAT bridge without configuration.
const NAT: &str = "ovsbr1";

/// Address of the NAT bridge without configuration.
const NAT_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 200, 0, 1), 24);

/// The same for IPv6, from a locally assigned prefix (RFC 4193).
const NAT_V6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd6f, 0x7673, 0x6272, 1, 0, 0, 0, 1), 64);

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
    /// First and last VLAN that Docker networks of their own are given.
    pub docker_vlans: (VlanId, VlanId),
    /// Where the agent serves metrics, if anywhere.
    pub metrics: Option<Listen>,
    /// Whether NetworkManager is shown the ports.
    pub network_manager: NetworkManager,
    /// Whether the agent keeps its nftables table from others, where the kernel can.
    pub protect_rules: bool,
    /// The bridges.
    pub bridges: Vec<Bridge>,
}

/// What NetworkManager is to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NetworkManager {
    /// Nothing: our interfaces are none of its business.
    #[default]
    Ignore,
    /// Each attached port, as a connection in its memory that it never brings up.
    Mirror,
}

/// Where something is served on this host alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A unix socket.
    Unix(PathBuf),
    /// A loopback address.
    Loopback(SocketAddr),
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Uplink {
    /// Whichever interface the main table chooses.
    Default,
    /// This one, even when another has the better default route; else unreachable.
    Named(IfName),
}

/// Why there is no configuration to work by.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file asked for does not exist.
    #[error("there is no configuration file {}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file says something impossible.
    #[error("{}:{line}:{column}: {subject}: {problem}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// `key = value`, or the section.
        subject: String,
        /// What is wrong, or what was expected.
        problem: String,
        /// The way out.
        hint: String,
    },
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Missing { .. } => Kind::Missing,
            Self::Read { .. } => Kind::System,
            Self::Invalid { .. } => Kind::Invalid,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Missing { .. } => {
                format!("name a file that exists, or none: {DEFAULT_PATH} may be absent")
            }
            Self::Read { path, .. } => {
                format!("see that {} is a UTF-8 text file that root can read", path.display())
            }
            Self::Invalid { hint, .. } => hint.clone(),
        })
    }
}

impl Config {
    /// Reads the file at `path`; without a file at [`DEFAULT_PATH`], the defaults. `sysfs` is
    /// [`SYSFS`], or what stands for it in a test.
    pub fn load(path: &Path, sysfs: &Path) -> Result<Self, Error> {
        Self::load_unless_absent(path, Path::new(DEFAULT_PATH), sysfs)
    }

    /// [`Self::load`], with the path that may be absent.
    fn load_unless_absent(path: &Path, usual: &Path, sysfs: &Path) -> Result<Self, Error> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path, sysfs),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if path == usual {
                    Ok(Self::default())
                } else {
                    Err(Error::Missing { path: path.to_owned() })
                }
            }
            Err(source) => Err(Error::Read { path: path.to_owned(), source }),
        }
    }

    /// Reads a configuration from `text`; `file` is what errors call it.
    pub fn parse(text: &str, file: &Path, sysfs: &Path) -> Result<Self, Error> {
        let source = Source { file, text };
        check::config(&source.read()?, source, sysfs)
    }

    /// The bridge of this name.
    pub fn bridge(&self, name: &IfName) -> Option<&Bridge> {
        self.bridges.iter().find(|bridge| bridge.name == *name)
    }

    /// The first NAT bridge: where a container goes whose network names none.
    pub fn nat_bridge(&self) -> Option<&Bridge> {
        self.bridges.iter().find(|bridge| matches!(bridge.mode, Mode::Nat { .. }))
    }

    /// The direct bridge that `bridge_name` names, or else the first.
    pub fn direct_bridge(&self) -> Option<&Bridge> {
        let direct = |bridge: &&Bridge| matches!(bridge.mode, Mode::Direct { .. });
        self.bridge(&self.bridge_name).filter(direct).or_else(|| self.bridges.iter().find(direct))
    }

    /// Every subnet the host has an address in, with its bridge.
    pub fn subnets(&self) -> impl Iterator<Item = (&Bridge, IpNet)> {
        self.bridges
            .iter()
            .flat_map(|bridge| bridge.addresses().iter().map(move |net| (bridge, net.trunc())))
    }
}

impl Bridge {
    /// The host's addresses on this bridge.
    pub fn addresses(&self) -> &[IpNet] {
        match &self.mode {
            Mode::Direct { addresses, .. } | Mode::Nat { addresses, .. } => addresses,
        }
    }
}

impl Default for Config {
    /// A direct and a NAT bridge; no physical interface is touched.
    fn default() -> Self {
        let bridge =
            |name, mode| Bridge { name: IfName::known(name), mtu: None, datapath_type: None, mode };
        Self {
            bridge_name: IfName::known(DIRECT),
            interfaces_path: "/etc/network/interfaces".into(),
            include_prefixes: ["veth-", "tap", "veth"].map(str::to_owned).into(),
            debounce_ms: 500,
            managed_block_tag: "ovs-port-agent".to_owned(),
            naming_template: Template::default(),
            enable_rename: true,
            ledger_path: "/var/lib/ovs-port-agent/ledger.jsonl".into(),
            ledger_sync: ledger::Sync::default(),
            ovsdb: Endpoint::default(),
            state_dir: "/run/ovs-port-agent".into(),
            docker_vlans: (VlanId::known(3000), VlanId::known(3999)),
            metrics: None,
            network_manager: NetworkManager::default(),
            protect_rules: true,
            bridges: vec![
                bridge(DIRECT, Mode::Direct { uplink: None, addresses: Vec::new(), gateway: None }),
                bridge(
                    NAT,
                    Mode::Nat {
                        addresses: vec![NAT_V4.into(), NAT_V6.into()],
                        uplink: Uplink::Default,
                    },
                ),
            ],
        }
    }
}

#[cfg(test)]
mod tests;
