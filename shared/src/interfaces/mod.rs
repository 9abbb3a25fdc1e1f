//! The managed block of `/etc/network/interfaces`: a view of the switch that Proxmox reads.
//!
//! Nothing in it may take effect: no `auto`, no `allow-…`, no `ovs_ports`, and no port that other
//! lines of the file (or of files it sources) could start. docs/interfaces.md shows the text.

mod block;
mod file;
mod foreign;
#[cfg(any(test, feature = "laws"))]
pub(crate) mod laws;
mod stanza;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Fault, Kind};
use crate::name::IfName;
use crate::vlan::PortVlan;

pub use stanza::check_tag;

/// How long [`update`] waits for other writers of the file.
const PATIENCE: Duration = Duration::from_secs(5);

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
    /// The path is a directory, a device or a pipe.
    #[error("{} is not a regular file", path.display())]
    Irregular {
        /// The path, links followed.
        path: PathBuf,
    },
    /// The markers of the block do not pair up: what is ours cannot be told.
    #[error("{}, line {line}: \"{marker}\" {problem}", path.display())]
    Marker {
        /// The file.
        path: PathBuf,
        /// The line of the marker, from 1.
        line: usize,
        /// The marker as we write it.
        marker: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The tag could not be found again in the file, or would be more than a comment.
    #[error(
        "managed_block_tag \"{}\" is not 1 to 64 letters, digits, \"_\", \".\" or \"-\"",
        value.escape_debug()
    )]
    Tag {
        /// What was given.
        value: String,
    },
    /// Somebody else kept writing the file, or kept it locked.
    #[error("{} was being written by another program for more than {} s", path.display(), waited.as_secs_f32())]
    Busy {
        /// The file.
        path: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Io { .. } => Kind::System,
            Self::Irregular { .. } | Self::Marker { .. } | Self::Tag { .. } => Kind::Invalid,
            Self::Busy { .. } => Kind::Busy,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Irregular { .. } => {
                Some("set interfaces_path to the file that ifup reads".to_owned())
            }
            Self::Marker { .. } => Some(
                "delete that line, or restore the pair of BEGIN and END lines around the block"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// Makes the block between `# BEGIN tag` and `# END tag` show exactly `bridges` (less those the
/// file defines elsewhere) and `ports`; everything else in the file stays byte for byte, with mode,
/// owner and extended attributes. No bridges and no ports removes the block. Returns whether the
/// file changed. A missing file is left missing. Waits at most 5 s for other writers.
pub fn update(
    path: &Path,
    tag: &str,
    bridges: &[BridgeStanza],
    ports: &[PortStanza],
) -> Result<bool, Error> {
    check_tag(tag)?;
    let start = Instant::now();
    let Some(target) = file::Target::lock(path, tag, start + PATIENCE)? else { return Ok(false) };
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(current) = target.read()? {
            let Some(text) = block::rewrite(path, &current.text, tag, bridges, ports)? else {
                return Ok(false);
            };
            if target.replace(&current, &text)? {
                return Ok(true);
            }
        } else if !target.exists()? {
            return Ok(false);
        }
        let waited = start.elapsed();
        if waited >= PATIENCE {
            return Err(Error::Busy { path: path.to_owned(), waited });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests;
