//! The agent's part of [`Sync::Agent`](super::Sync): what others wrote is forced to disk.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::segment::{self, Segment};
use super::{Error, LOCK_WAIT, Ledger, io_error, spool, sync_note};
use crate::file;

/// Pause after a failed fdatasync; twice as long each time it fails again, up to [`LONGEST`].
const PAUSE: Duration = Duration::from_secs(60);

/// Longest such pause: a disk that stays broken must not make a new file every minute for ever.
const LONGEST: Duration = Duration::from_secs(3600);

/// What a ledger and its clones know of the disk.
#[derive(Debug, Default)]
pub(super) struct Flushed {
    /// Inode and length of the files as they were forced to disk.
    on_disk: Vec<(u64, u64)>,
    /// After a failure: when to try again, and how long the pause was.
    pause: Option<(Instant, Duration)>,
}

impl Ledger {
    /// Moves the spool into the ledger and forces the ledger to disk; to be called about once a
    /// second, on one `Ledger` that is kept: it remembers what is on disk already, and then costs
    /// the disk nothing.
    ///
    /// A failed fdatasync is never tried again on the same file, since the kernel may answer
    /// success for pages it has dropped: the file is sealed and the next one says why. The error
    /// is returned once; then calls do nothing but move the spool for a minute or more.
    pub fn flush(&self) -> Result<(), Error> {
        if spool::size(&self.spool) > 0 {
            self.write(None, None)?;
        }
        let mut flushed = self.flushed.lock().unwrap_or_else(PoisonError::into_inner);
        if flushed.pause.is_some_and(|(until, _)| Instant::now() < until) {
            return Ok(());
        }
        let newest = segment::list(&self.path)?.pop().map(|(_, sealed)| sealed);
        let mut on_disk = Vec::new();
        for path in newest.iter().chain([&self.path]) {
            let io = |source| io_error("sync", path, source);
            let opened = match file::open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(io)?,
            };
            let ours = opened.metadata().map_err(io)?;
            // Its length before the sync: what comes after may not be part of it.
            let mark = (ours.ino(), ours.len());
            if !flushed.on_disk.contains(&mark)
                && let Err(source) = opened.sync_data()
            {
                let pause = flushed.pause.map_or(PAUSE, |(_, pause)| (pause * 2).min(LONGEST));
                flushed.pause = Some((Instant::now() + pause, pause));
                self.begin_anew(&ours, &sync_note(path, &source))?;
                return Err(io(source));
            }
            on_disk.push(mark);
        }
        let known = |mark: &(u64, u64)| flushed.on_disk.iter().any(|(ino, _)| *ino == mark.0);
        if !on_disk.iter().all(known) {
            segment::sync_directory(&self.path)
                .map_err(|source| io_error("sync the directory of", &self.path, source))?;
        }
        *flushed = Flushed { on_disk, pause: None };
        Ok(())
    }

    /// Seals the current file if it is `ours`, and starts the next one with `note`.
    fn begin_anew(&self, ours: &fs::Metadata, note: &str) -> Result<(), Error> {
        let current = Segment::open(&self.path, Instant::now() + LOCK_WAIT)?;
        let path: &Path = &self.path;
        if segment::is_at(ours, path).map_err(|source| io_error("rotate", path, source))? {
            current.seal(path, self.kept)?;
            self.write(None, Some(note.to_owned()))?;
        }
        Ok(())
    }
}
