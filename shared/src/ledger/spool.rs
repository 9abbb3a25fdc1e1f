//! The spool: where lines wait in /run while the ledger cannot be written.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Instant;

use super::line::{self, Stamped};
use super::segment::{self, Segment};
use super::{Error, io_error};
use crate::file;

/// The locked spool with what waits in it, oldest first.
#[derive(Debug)]
pub(super) struct Spool {
    file: Segment,
    pub(super) waiting: Vec<Stamped>,
}

/// Bytes that wait in the spool `path`.
pub(super) fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Adds one line to the spool `path`.
pub(super) fn push(path: &Path, stamped: &Stamped, deadline: Instant) -> Result<(), Error> {
    let io = |source| io_error("append to", path, source);
    let bytes = line::seal(stamped).map_err(io)?;
    let mut file = Segment::open(path, deadline)?;
    mend(&mut file, path).map_err(io)?;
    file.append(&bytes).map_err(io)
}

impl Spool {
    /// Locks the spool `path` and reads it; `None` if nothing waits.
    pub(super) fn take(path: &Path, deadline: Instant) -> Result<Option<Self>, Error> {
        if size(path) == 0 {
            return Ok(None);
        }
        let io = |source| io_error("read", path, source);
        let mut file = Segment::open(path, deadline)?;
        mend(&mut file, path).map_err(io)?;
        let mut bytes = Vec::new();
        (&*file).read_to_end(&mut bytes).map_err(io)?;
        let mut waiting = Vec::new();
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let parsed = line::unseal(line).and_then(|_| Ok(serde_json::from_slice(line)?));
            match parsed {
                Ok(stamped) => waiting.push(stamped),
                Err(damage) => {
                    let text = line.escape_ascii();
                    tracing::error!(%damage, "a spooled ledger line is damaged and lost: {text}");
                }
            }
        }
        Ok(Some(Self { file, waiting }))
    }

    /// Empties the spool.
    pub(super) fn clear(mut self) -> io::Result<()> {
        self.file.cut(0)
    }
}

/// Cuts off what a killed writer left without a newline: nobody was told that it is safe.
fn mend(file: &mut Segment, path: &Path) -> io::Result<()> {
    match segment::tail(file, file.len)? {
        segment::Tail::Torn { start } => {
            tracing::warn!(file = %path.display(), "cut an unfinished line off the spool");
            file.cut(start)
        }
        _ => Ok(()),
    }
}

/// Lines that wait in the spool `path`.
pub(super) fn count(path: &Path) -> Result<u64, Error> {
    match file::read(path) {
        Ok(bytes) => Ok(bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(io_error("read", path, error)),
    }
}
