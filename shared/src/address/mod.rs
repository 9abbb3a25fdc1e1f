//! Address pools: which addresses a subnet gives out, and who holds them.

mod order;
mod pool;
mod range;

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use self::pool::Pool;
use self::range::Range;
pub use self::range::overlaps;
use crate::error::{Fault, Kind};
use crate::lock;

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

/// Whom a lease file belongs to that cannot be read: it counts as taken and is never freed.
pub const UNREADABLE: &str = "(unreadable)";

/// One address held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The address.
    pub ip: IpAddr,
    /// The holder's key ([`Owner`]).
    pub owner: String,
    /// Seconds since boot when it was taken ([`crate::state::uptime`]).
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
    /// The owner holds another address of this subnet.
    #[error("{owner} cannot be given {requested}: it holds {ip} of {subnet}")]
    Holds {
        /// The owner.
        owner: String,
        /// What it holds.
        ip: IpAddr,
        /// What it asked for.
        requested: IpAddr,
        /// The subnet.
        subnet: IpNet,
    },
    /// The range of a subnet is none.
    #[error("range {first}-{last} is not part of {subnet}, lowest address first")]
    Range {
        /// Where it begins.
        first: IpAddr,
        /// Where it ends.
        last: IpAddr,
        /// The subnet.
        subnet: IpNet,
    },
    /// Another call for the same owner did not end.
    #[error("cannot lock the owner's leases")]
    Lock {
        /// Why.
        source: lock::Error,
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
            Self::Taken { .. } | Self::Holds { .. } => Kind::Conflict,
            Self::NotInPool { .. } | Self::Range { .. } => Kind::Invalid,
            Self::Lock { source } => source.kind(),
            Self::Io { .. } => Kind::System,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Exhausted { .. } => {
                "remove containers that are no longer needed, or give the network a larger subnet or range".to_owned()
            }
            Self::Taken { owner, .. } if owner == UNREADABLE => {
                "look at the lease file of this address, and remove it if nobody uses the address".to_owned()
            }
            Self::Taken { .. } => "ask for another address, or for none in particular".to_owned(),
            Self::NotInPool { subnet, .. } => format!("ask for a free host address of {subnet}"),
            Self::Holds { ip, .. } => format!("ask for {ip}, or unplug the container first"),
            Self::Range { subnet, .. } => format!("give two addresses of {subnet}"),
            Self::Lock { source } => return source.hint(),
            Self::Io { path, .. } => {
                format!("see that root can write to {}", path.display())
            }
        })
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
    /// longest ago in use. Asking again as the same owner returns the address already held,
    /// whoever asks how often at once.
    pub fn acquire(
        &self,
        subnet: &Subnet,
        owner: &Owner,
        requested: Option<IpAddr>,
    ) -> Result<Lease, Error> {
        let range = Range::of(subnet)?;
        if let Some(ip) = requested {
            range.admit(ip)?;
        }
        let pool = Pool::make(&self.dir, subnet.net)?;
        let _lock = pool.lock(owner)?;
        match (pool.held_by(owner)?, requested) {
            (Some(Lease { ip, .. }), Some(requested)) if ip != requested => {
                Err(Error::Holds { owner: owner.to_owned(), ip, requested, subnet: pool.net() })
            }
            (Some(lease), _) => Ok(lease),
            (None, Some(ip)) => pool.take_this(ip, owner),
            (None, None) => pool.take_next(&range, owner),
        }
    }

    /// Frees one address if `owner` holds it; false if not.
    pub fn release(&self, subnet: IpNet, ip: IpAddr, owner: &Owner) -> Result<bool, Error> {
        let Some(pool) = Pool::open(&self.dir, subnet)? else {
            return Ok(false);
        };
        let _lock = pool.lock(owner)?;
        pool.release(ip, owner)
    }

    /// Frees whatever `owner` holds in any pool; for a DEL without a record.
    pub fn release_all(&self, owner: &Owner) -> Result<Vec<Lease>, Error> {
        let mut freed = Vec::new();
        for pool in Pool::all(&self.dir)? {
            let _lock = pool.lock(owner)?;
            if let Some(lease) = pool.held_by(owner)?
                && pool.release(lease.ip, owner)?
            {
                freed.push(lease);
            }
        }
        Ok(freed)
    }

    /// The leases of every pool, with their subnets. One that cannot be read belongs to
    /// [`UNREADABLE`].
    pub fn leases(&self) -> Result<Vec<(IpNet, Lease)>, Error> {
        let mut leases = Vec::new();
        for pool in Pool::all(&self.dir)? {
            leases.extend(pool.leases()?.into_iter().map(|lease| (pool.net(), lease)));
        }
        Ok(leases)
    }

    /// Whether an address is left; [`Error::Exhausted`] if not.
    pub fn room(&self, subnet: &Subnet) -> Result<(), Error> {
        let range = Range::of(subnet)?;
        match Pool::open(&self.dir, subnet.net)? {
            Some(pool) if pool.used(&range)? >= range.size() => Err(pool.exhausted(&range)?),
            _ => Ok(()),
        }
    }

    /// The use of one pool.
    pub fn usage(&self, subnet: &Subnet) -> Result<Usage, Error> {
        let range = Range::of(subnet)?;
        let used = match Pool::open(&self.dir, subnet.net)? {
            Some(pool) => pool.used(&range)?,
            None => 0,
        };
        Ok(Usage { subnet: subnet.net.trunc(), used, size: range.size() })
    }
}

#[cfg(test)]
mod tests;
