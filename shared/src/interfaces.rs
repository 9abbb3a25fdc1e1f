//! The managed block of `/etc/network/interfaces`: a view of the switch that Proxmox reads.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Fault, Kind};
use crate::name::IfName;
use crate::vlan::PortVlan;

/// A bridge to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeStanza {
    /// Its name.
    pub name: IfName,
}

/// A port to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortStanza {
    /// Its name.
    pub name: IfName,
    /// Its bridge.
    pub bridge: IfName,
    /// Its VLANs.
    pub vlan: PortVlan,
}

/// Why the file was not written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read or replaced.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// "read", "replace" …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Somebody held the lock for too long.
    #[error(transparent)]
    Lock(#[from] crate::lock::Error),
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Io { .. } => Kind::System,
            Self::Lock(lock) => lock.kind(),
        }
    }
}

/// Makes the block between `# BEGIN tag` and `# END tag` show exactly `bridges` (less those the
/// file defines elsewhere) and `ports`; everything else in the file stays byte for byte, with mode
/// and owner. No bridges and no ports removes the block. Returns whether the file changed. A
/// missing file is left missing.
pub fn update(
    path: &Path,
    tag: &str,
    bridges: &[BridgeStanza],
    ports: &[PortStanza],
) -> Result<bool, Error> {
    todo!()
}
