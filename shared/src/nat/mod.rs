//! NAT, the guard of the host and the isolation of networks: one nftables table of ours, the
//! policy routes of named uplinks, per-interface forwarding, and the one tagged rule elsewhere.

use ipnet::IpNet;

use crate::config::Uplink;
use crate::error::{Fault, Kind};
use crate::name::IfName;
use crate::state::State;

/// One network as nftables and routing see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The interface that carries its gateway addresses.
    pub interface: IfName,
    /// Its subnets.
    pub subnets: Vec<IpNet>,
    /// Whether its traffic is masqueraded.
    pub masquerade: bool,
    /// Where its traffic leaves.
    pub uplink: Uplink,
}

/// Why NAT is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match *self {}
    }
}

/// Makes tables, routes and forwarding serve exactly these segments. True if anything changed.
pub fn apply(_state: &State, _segments: &[Segment]) -> Result<bool, Error> {
    Ok(false)
}

/// Removes all of it. True if anything was there.
pub fn remove(_state: &State) -> Result<bool, Error> {
    Ok(false)
}

/// What is missing of one segment, in words; `None` if nothing.
pub fn missing(_segment: &Segment) -> Result<Option<String>, Error> {
    Ok(None)
}
