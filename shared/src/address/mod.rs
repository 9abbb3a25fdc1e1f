//! Address pools: which addresses a subnet gives out, and who holds them.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::{Fault, Kind};

/// What a network says of one of its subnets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The subnet, host bits zero.
    pub net: IpNet,
    /// First and last address to give out; the whole subnet if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<(IpAddr, IpAddr)>,
    /// The gateway; never given out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// Who holds a lease: the key of an attachment, as one line of text.
pub type Owner = str;

/// One address held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The address.
    pub ip: IpAddr,
    /// The holder's key ([`Owner`]).
    pub owner: String,
    /// Seconds since the epoch.
    pub since: u64,
}

/// How full a pool is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// The subnet.
    pub subnet: IpNet,
    /// Addresses held.
    pub used: u64,
    /// Addresses it can give out, capped at `u64::MAX`.
    pub size: u64,
}

/// Why no address was given.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// None is left.
    #[error("no free address in {subnet} ({range}): held by {holders}")]
    Exhausted {
        /// The subnet.
        subnet: IpNet,
        /// First-last.
        range: String,
        /// Who holds how many, the largest first.
        holders: String,
    },
    /// A requested address is held.
    #[error("address {ip} is held by {owner}")]
    Taken {
        /// The address.
        ip: IpAddr,
        /// Its holder.
        owner: String,
    },
    /// A requested address cannot be given by this pool.
    #[error("address {ip} cannot be given out of {subnet}: {why}")]
    NotInPool {
        /// The address.
        ip: IpAddr,
        /// The subnet.
        subnet: IpNet,
        /// "outside the subnet", "the gateway", "the network address" …
        why: &'static str,
    },
    /// The files of the pool cannot be used.
    #[error("cannot use the address pool at {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Exhausted { .. } => Kind::Exhausted,
            Self::Taken { .. } => Kind::Conflict,
            Self::NotInPool { .. } => Kind::Invalid,
            Self::Io { .. } => Kind::System,
        }
    }
}

/// All pools of the host: a directory per subnet under `/run/ovs-port-agent/leases`.
#[derive(Debug, Clone)]
pub struct Pools {
    dir: PathBuf,
}

impl Pools {
    /// The pools kept in `dir` (made on first use, mode 0700).
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Gives `owner` an address of `subnet`: `requested` if given, else one that was never or
    /// longest ago in use. Asking again as the same owner returns the address already held.
    pub fn acquire(
        &self,
        subnet: &Subnet,
        owner: &Owner,
        requested: Option<IpAddr>,
    ) -> Result<Lease, Error> {
        todo!()
    }

    /// Frees one address if `owner` holds it; false if not.
    pub fn release(&self, subnet: IpNet, ip: IpAddr, owner: &Owner) -> Result<bool, Error> {
        todo!()
    }

    /// Frees whatever `owner` holds in any pool; for a DEL without a record.
    pub fn release_all(&self, owner: &Owner) -> Result<Vec<Lease>, Error> {
        todo!()
    }

    /// The leases of every pool, with their subnets.
    pub fn leases(&self) -> Result<Vec<(IpNet, Lease)>, Error> {
        todo!()
    }

    /// The use of one pool.
    pub fn usage(&self, subnet: &Subnet) -> Result<Usage, Error> {
        todo!()
    }
}
