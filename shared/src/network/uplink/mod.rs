//! Moving a host's own addresses and routes from a wired port to the bridge it becomes a port of,
//! in such a way that a host which cannot be reached any more comes back by itself.
//!
//! Everything old is written down first, on disk ([`Journal`], beside the ledger). From then on
//! whoever holds the lock on networks and finds the move neither confirmed nor under way takes it
//! back: the process that was left standing by, the agent, the next `up` or `down`, whichever
//! looks first. Taking back needs no more than the journal and can be begun again at any point.

mod carry;
mod lease;
mod returning;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub(super) use carry::{Moves, plan};
use nix::time::{ClockId, clock_gettime};
pub use returning::{Outcome, confirm, look_after};
pub(super) use returning::{give_back_all, settle, take_back};
use serde::{Deserialize, Serialize};

use super::Error;
use super::done::Done;
use crate::config::Config;
use crate::link::saved::{SavedAddress, SavedRoute};
use crate::mac::Mac;
use crate::name::IfName;
use crate::state;

/// How long a gateway may take to answer through the new path: a switch that learns that a port
/// has come up may keep it shut for some seconds.
pub(super) const GATEWAY_DEADLINE: Duration = Duration::from_secs(10);

/// How long a move may take from its first step to its last, waiting for the gateway included.
pub const MOVE_DEADLINE: Duration = Duration::from_secs(90);

/// A move of uplinks: what was before, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// Boot it was begun in.
    pub boot_id: String,
    /// How far it is.
    #[serde(flatten)]
    pub phase: Phase,
    /// Seconds since the epoch, when it began.
    pub since: u64,
    /// How long it may go unconfirmed, in seconds.
    pub within: u64,
    /// Seconds since boot (CLOCK_BOOTTIME) at which it is taken back unless confirmed.
    pub deadline: u64,
    /// What is moved, or was.
    pub moves: Vec<Move>,
    /// What was moved and confirmed: here to stay, whatever becomes of `moves`.
    pub kept: Vec<Move>,
    /// What `up` had done before, bridge by bridge.
    before: BTreeMap<IfName, Done>,
}

/// How far a move is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "kebab-case")]
pub enum Phase {
    /// Under way, by the process that holds the lock.
    Moving,
    /// Done, the gateway answers, and nobody has confirmed it yet.
    Waiting,
    /// Being taken back.
    Returning {
        /// Why.
        why: String,
    },
    /// Taken back.
    Returned {
        /// Why.
        why: String,
    },
    /// Nothing is open.
    Confirmed,
}

/// One uplink and the bridge it moves to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Boot in which the uplink carried this; addresses and routes end with it.
    boot_id: String,
    /// The bridge.
    pub bridge: IfName,
    /// The wired port.
    pub uplink: IfName,
    /// What it carried.
    pub addresses: Vec<Item<SavedAddress>>,
    /// The routes out of it.
    pub routes: Vec<Item<SavedRoute>>,
    /// It was a port of the bridge already.
    plugged: bool,
    /// The bridge was there already.
    stood: bool,
    /// The MAC of the bridge before it took the uplink's.
    mac: Option<Mac>,
    /// `accept_ra` of the uplink before it was switched off.
    accept_ra: Option<String>,
}

/// Something an uplink carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item<T> {
    /// What.
    #[serde(flatten)]
    pub saved: T,
    /// Whether the bridge gets it; else it is in the way there (the configuration gives another,
    /// the kernel makes its own).
    pub carried: bool,
}

impl Journal {
    fn path(config: &Config) -> PathBuf {
        config.ledger_path.with_file_name("uplink.json")
    }

    /// The journal of this host, if uplinks were ever moved.
    pub fn read(config: &Config) -> Result<Option<Self>, Error> {
        Ok(state::read(&Self::path(config))?)
    }

    /// On the disk when this returns.
    fn write(&self, config: &Config) -> Result<(), Error> {
        Ok(state::write_durably(&Self::path(config), self)?)
    }

    fn remove(config: &Config) -> Result<(), Error> {
        Ok(state::remove(&Self::path(config)).map(drop)?)
    }

    /// Seconds until it is taken back; 0 if that is due.
    pub fn left(&self) -> u64 {
        self.deadline.saturating_sub(uptime())
    }

    /// "enp2s0 to ovsbr0", for people.
    pub fn route(&self) -> String {
        let pairs: Vec<_> =
            self.moves.iter().map(|m| format!("{} to {}", m.uplink, m.bridge)).collect();
        pairs.join(", ")
    }

    /// Whether `config` wants everything that was moved to stay.
    pub fn fits(&self, config: &Config) -> bool {
        self.kept.iter().all(|m| m.is_wanted(config))
    }
}

impl Move {
    pub(super) fn is_wanted(&self, config: &Config) -> bool {
        let mode = config.bridge(&self.bridge).map(|bridge| &bridge.mode);
        matches!(mode, Some(crate::config::Mode::Direct { uplink: Some(uplink), .. })
            if *uplink == self.uplink)
    }
}

/// Seconds since boot, suspended ones too: no clock that somebody sets.
fn uptime() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .ok()
        .and_then(|now| u64::try_from(now.tv_sec()).ok())
        .unwrap_or_default()
}
