//! A network: bridge + VLAN + subnets + optional gateway + NAT.

use serde::{Deserialize, Serialize};

use crate::address::Subnet;
use crate::name::IfName;
use crate::vlan::VlanId;

/// An L2 domain of a bridge, with what lives on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The bridge.
    pub bridge: IfName,
    /// The VLAN; 0 is the bridge's untagged domain.
    pub vlan: VlanId,
    /// Its subnets.
    pub subnets: Vec<Subnet>,
    /// Whether the host is the gateway: an internal port carries the gateway addresses.
    pub gateway: bool,
    /// Whether its traffic is masqueraded.
    pub nat: bool,
}
