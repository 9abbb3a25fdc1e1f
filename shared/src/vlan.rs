//! VLANs as a port of a bridge carries them.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// An 802.1Q VLAN id, 0 to 4094; 0 stands for untagged frames, as in Open vSwitch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct VlanId(u16);

/// A number that is no VLAN id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{value} is not a VLAN id from 0 to 4094")]
pub struct VlanError {
    /// What was given.
    pub value: u64,
}

impl VlanId {
    /// The untagged domain of a bridge.
    pub const UNTAGGED: Self = Self(0);

    /// A number that stands in this program.
    pub(crate) const fn known(number: u16) -> Self {
        assert!(number <= 4094);
        Self(number)
    }

    /// The number itself.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u64> for VlanId {
    type Error = VlanError;

    fn try_from(value: u64) -> Result<Self, VlanError> {
        match u16::try_from(value) {
            Ok(id) if id <= 4094 => Ok(Self(id)),
            _ => Err(VlanError { value }),
        }
    }
}

impl From<VlanId> for u64 {
    fn from(id: VlanId) -> Self {
        Self::from(id.0)
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// `Port.vlan_mode` of the Open_vSwitch schema (ovs-vswitchd.conf.db(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VlanMode {
    /// One VLAN, untagged on the wire.
    Access,
    /// The listed VLANs, tagged on the wire.
    Trunk,
    /// As trunk, and the native VLAN tagged.
    NativeTagged,
    /// As trunk, and the native VLAN untagged.
    NativeUntagged,
    /// QinQ: the port's tag around whatever the container sends.
    Dot1qTunnel,
}

impl VlanMode {
    /// The name in OVSDB and in configurations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Trunk => "trunk",
            Self::NativeTagged => "native-tagged",
            Self::NativeUntagged => "native-untagged",
            Self::Dot1qTunnel => "dot1q-tunnel",
        }
    }
}

/// The VLANs of one port: exactly the columns `vlan_mode`, `tag` and `trunks` of its row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortVlan {
    /// How tags are treated.
    pub mode: VlanMode,
    /// The access or native VLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<VlanId>,
    /// The VLANs a trunk carries. Empty means every VLAN to Open vSwitch.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub trunks: BTreeSet<VlanId>,
}

impl PortVlan {
    /// Untagged frames only. A port without any VLAN column would trunk every VLAN of the bridge.
    pub fn untagged() -> Self {
        Self { mode: VlanMode::Trunk, tag: None, trunks: BTreeSet::from([VlanId::UNTAGGED]) }
    }

    /// Every VLAN of the bridge, as an uplink carries them.
    pub fn all() -> Self {
        Self { mode: VlanMode::Trunk, tag: None, trunks: BTreeSet::new() }
    }

    /// An access port.
    pub fn access(tag: VlanId) -> Self {
        Self { mode: VlanMode::Access, tag: Some(tag), trunks: BTreeSet::new() }
    }

    /// The VLAN whose untagged frames reach the container: the L2 domain its addresses live in.
    pub fn domain(&self) -> VlanId {
        self.tag.unwrap_or(VlanId::UNTAGGED)
    }
}

impl fmt::Display for PortVlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trunks = || self.trunks.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        match (self.mode, self.tag) {
            (VlanMode::Trunk, None) if self.trunks.iter().eq([&VlanId::UNTAGGED]) => {
                f.write_str("untagged")
            }
            (VlanMode::Access, Some(tag)) => write!(f, "{tag}"),
            (VlanMode::Trunk, None) if self.trunks.is_empty() => f.write_str("trunk all"),
            (VlanMode::Trunk, None) => write!(f, "trunk {}", trunks()),
            (mode, Some(tag)) if self.trunks.is_empty() => write!(f, "{} {tag}", mode.as_str()),
            (mode, Some(tag)) => write!(f, "{} {tag} trunk {}", mode.as_str(), trunks()),
            (mode, None) => write!(f, "{} {}", mode.as_str(), trunks()),
        }
    }
}
