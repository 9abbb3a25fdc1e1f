//! The ledger: an append-only, hash-chained history of every act, one JSON object a line.
//!
//! Any number of processes write it. The lock is the file's own (flock(2)): it needs no other
//! file that could be missing or full, and the kernel releases it when its holder dies. A line is
//! one write, undone if it comes out short, so that no line is ever glued to another.

mod flush;
#[cfg(any(test, feature = "laws"))]
pub(crate) mod laws;
mod line;
mod reader;
mod segment;
mod spool;
#[cfg(test)]
mod tests;
mod verify;

pub use line::{Damage, Hash, Line, MAX_ADDRESSES, MAX_FIELD, MAX_LINE, NoMoment, Time};
pub use reader::{Entry, Filter, Follower, Reader};
pub use verify::{Break, Report};

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use self::flush::Flushed;
use self::line::{Chain, GENESIS, Stamped};
use self::segment::{Segment, Tail, beside};
use self::spool::Spool;
use crate::error::{Fault, Kind};
use crate::{file, state};

/// Suffix of the file beside the ledger that keeps what was cut off a torn tail.
pub const TORN: &str = "torn";

/// Size in bytes at which the ledger is rotated: some 35 000 lines.
pub const SEGMENT_SIZE: u64 = 16 << 20;

/// Bytes of sealed segments that are kept at least; a rotation deletes the oldest ones beyond.
/// Bytes, not files: a disk that fails makes many short ones, which must not push out history.
pub const KEPT: u64 = 8 * SEGMENT_SIZE;

/// Longest wait for another writer. A line takes microseconds, with `Sync::Always` one
/// fdatasync; whoever holds the lock for this long is stopped or its disk is.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Longest wait for the spool, which is in memory.
const SPOOL_WAIT: Duration = Duration::from_secs(1);

/// Files one append may try: one damaged, one full, one whose fdatasync fails, a fresh one.
const ROUNDS: usize = 4;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// First line of a boot: whatever earlier boots left open is closed.
    Boot,
    /// A container was plugged in.
    Attach,
    /// A container was unplugged.
    Detach,
    /// GC removed something that nobody else removed.
    Collect,
    /// `up`, or a network made on first use.
    Up,
    /// `down`.
    Down,
    /// The chain was broken in an earlier segment; a new one starts here.
    ChainBreak,
    /// First line after a rotation.
    Rotate,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Boot,
        Self::Attach,
        Self::Detach,
        Self::Collect,
        Self::Up,
        Self::Down,
        Self::ChainBreak,
        Self::Rotate,
    ];

    /// Its word in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Attach => "attach",
            Self::Detach => "detach",
            Self::Collect => "collect",
            Self::Up => "up",
            Self::Down => "down",
            Self::ChainBreak => "chain-break",
            Self::Rotate => "rotate",
        }
    }
}

/// What a writer tells the ledger; sequence, time, boot id and chain are the ledger's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Who acts: "cni", "docker", "podman", "port-agent".
    pub actor: String,
    /// What was done.
    pub action: Action,
    /// Network name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Container id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Interface name in the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
    /// Namespace path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// Bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// Port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// VLAN as [`crate::vlan::PortVlan`] prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<String>,
    /// MAC of the container's interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpNet>,
    /// Anything worth a word: why GC removed it, what was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Event {
    /// An event with nothing but actor and action.
    pub fn new(actor: &str, action: Action) -> Self {
        Self {
            actor: actor.to_owned(),
            action,
            network: None,
            container: None,
            ifname: None,
            netns: None,
            bridge: None,
            port: None,
            vlan: None,
            mac: None,
            addresses: Vec::new(),
            note: None,
        }
    }
}

/// When a line is forced to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sync {
    /// By the agent within a second, off the attach path.
    #[default]
    Agent,
    /// fdatasync before the attach returns.
    Always,
}

/// Where an appended line went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Into the ledger.
    Ledger,
    /// Into the spool in /run: the ledger cannot be written now.
    Spool,
}

/// Why the ledger could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be used.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// "append to", "read", "rotate" …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Somebody held the ledger's lock for too long.
    #[error(transparent)]
    Lock(#[from] crate::lock::Error),
    /// The line is nowhere: the spool refused it after the ledger did.
    #[error("neither the ledger nor its spool takes a line ({ledger})")]
    Unwritten {
        /// What the ledger said, with its causes.
        ledger: String,
        /// What the spool said.
        source: Box<Self>,
    },
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Io { .. } | Self::Unwritten { .. } => Kind::System,
            Self::Lock(lock) => lock.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, path, .. } => hint(source, path),
            Self::Lock(lock) => lock.hint(),
            Self::Unwritten { source, .. } => source.hint(),
        }
    }
}

fn hint(source: &io::Error, path: &Path) -> Option<String> {
    let path = path.display();
    match source.kind() {
        io::ErrorKind::StorageFull => Some(format!("free space on the file system of {path}")),
        io::ErrorKind::ReadOnlyFilesystem => {
            Some(format!("remount the file system of {path} read-write"))
        }
        io::ErrorKind::PermissionDenied => Some(format!("run as root, or see who owns {path}")),
        _ => None,
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io { action, path: path.to_owned(), source }
}

/// The ledger of a host.
#[derive(Debug, Clone)]
pub struct Ledger {
    path: PathBuf,
    spool: PathBuf,
    sync: Sync,
    /// `None`: the machine's.
    boot: Option<String>,
    size: u64,
    kept: u64,
    flushed: Arc<Mutex<Flushed>>,
}

impl Ledger {
    /// The ledger at `path`, spooling to the file `spool` while `path` cannot be written.
    pub fn new(path: PathBuf, spool: PathBuf, sync: Sync) -> Self {
        let flushed = Arc::default();
        Self { path, spool, sync, boot: None, size: SEGMENT_SIZE, kept: KEPT, flushed }
    }

    /// The same ledger written under another boot id than the machine's.
    #[must_use]
    pub fn with_boot(self, boot: &str) -> Self {
        Self { boot: Some(boot.to_owned()), ..self }
    }

    /// The same ledger, rotated at `size` bytes, with at least `kept` bytes of sealed segments.
    #[must_use]
    pub fn with_rotation(self, size: u64, kept: u64) -> Self {
        Self { size: size.max(1), kept, ..self }
    }

    /// Appends one line. Whatever is in the spool goes first. An unwritable ledger spools; an
    /// error means that neither took the line.
    pub fn append(&self, event: &Event) -> Result<Written, Error> {
        let stamped = Stamped::now(event, self.boot_id()?);
        let Err(error) = self.write(Some(&stamped), None) else { return Ok(Written::Ledger) };
        let ledger = crate::error::chain(&error);
        spool::push(&self.spool, &stamped, Instant::now() + SPOOL_WAIT)
            .map_err(|source| Error::Unwritten { ledger, source: Box::new(source) })?;
        let waiting = self.spool.display();
        let error = crate::error::sentence(&error);
        tracing::error!("the ledger cannot be written, its lines wait in {waiting}: {error}");
        Ok(Written::Spool)
    }

    /// Whether lines wait in the spool until the disk takes them.
    pub fn waits(&self) -> bool {
        spool::size(&self.spool) > 0
    }

    /// Sequence number of the newest line, 0 without one, read off the end of the file; and how
    /// many lines wait in the spool.
    pub fn reached(&self) -> Result<(u64, u64), Error> {
        let io = |source| io_error("read", &self.path, source);
        let seq = match file::open(&self.path) {
            Ok(file) => {
                let len = file.metadata().map_err(io)?.len();
                match segment::tail(&file, len).map_err(io)? {
                    Tail::Whole { seq, .. } | Tail::Damaged { seq, .. } => seq,
                    Tail::Empty | Tail::Torn { .. } => 0,
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(io(error)),
        };
        Ok((seq, spool::count(&self.spool)?))
    }

    /// Writes the spool and `own`, or nothing at all. `note` is for the first line of a new file.
    fn write(&self, own: Option<&Stamped>, mut note: Option<String>) -> Result<(), Error> {
        let current = self.boot_id()?;
        let deadline = Instant::now() + LOCK_WAIT;
        let io = |action, source| io_error(action, &self.path, source);
        let mut refusal = None;
        for _ in 0..ROUNDS {
            let mut file = Segment::open(&self.path, deadline)?;
            let mut tail = segment::tail(&file, file.len).map_err(|e| io("read", e))?;
            if let Tail::Torn { start } = tail {
                let aside = beside(&self.path, TORN);
                tracing::warn!(aside = %aside.display(), "the ledger ends in an unfinished line");
                file.quarantine(start, &aside).map_err(|e| io("mend the tail of", e))?;
                tail = segment::tail(&file, file.len).map_err(|e| io("read", e))?;
            }
            let mut chain = match tail {
                Tail::Whole { seq, boot, hash } => Chain::new(seq, hash, Some(boot)),
                Tail::Empty => {
                    let actor = own.map_or("port-agent", |own| &own.event.actor);
                    self.begin(actor, current, note.take())?
                }
                Tail::Torn { .. } | Tail::Damaged { .. } => {
                    let sealed = file.seal(&self.path, self.kept)?;
                    tracing::error!(file = %sealed.display(), "damaged ledger set aside");
                    continue;
                }
            };
            let spool = self.spooled();
            if file.len >= self.size && spool.is_none() {
                file.seal(&self.path, self.kept)?;
                continue;
            }
            let waiting = spool.as_ref().map_or(&[][..], |spool| &spool.waiting);
            // Whoever moved the spool before us may have died before emptying it. What it wrote
            // is at the end of this file: each spooled line, perhaps a boot line with it, its own.
            let moved = match waiting {
                [] => Vec::new(),
                _ => segment::recent(&file, file.len, waiting.len() * 2 + 64)
                    .map_err(|e| io("read", e))?,
            };
            for stamped in waiting {
                if !moved.iter().any(|line| stamped.is_told_by(line)) {
                    chain.push(stamped, true, current).map_err(|e| io("append to", e))?;
                }
            }
            if let Some(own) = own {
                chain.push(own, false, current).map_err(|e| io("append to", e))?;
            }
            let before = file.len;
            if !chain.bytes().is_empty() {
                file.append(chain.bytes()).map_err(|e| io("append to", e))?;
            }
            if let Err(source) = self.force(&file, before == 0) {
                note = Some(sync_note(&self.path, &source));
                refusal = Some(io("sync", source));
                file.cut(before).map_err(|e| io("cut", e))?;
                if before == 0 {
                    // Not even a new file can be forced to disk: leave none behind.
                    fs::remove_file(&self.path).map_err(|e| io("remove", e))?;
                    break;
                }
                file.seal(&self.path, self.kept)?;
                continue;
            }
            if let Some(Err(error)) = spool.map(Spool::clear) {
                tracing::warn!(spool = %self.spool.display(), %error, "cannot empty the spool");
            }
            return Ok(());
        }
        let unfit = || io("append to", io::Error::other("every new file turns out unfit"));
        Err(refusal.unwrap_or_else(unfit))
    }

    /// The lines that wait in the spool. One that cannot be read now is left for a later append:
    /// it must not keep a sound ledger from being written.
    fn spooled(&self) -> Option<Spool> {
        Spool::take(&self.spool, Instant::now() + SPOOL_WAIT).unwrap_or_else(|error| {
            let error = crate::error::sentence(&error);
            tracing::error!("the ledger's spool stays where it is: {error}");
            None
        })
    }

    /// The chain for an empty file: of a new ledger, or continued from the newest segment.
    fn begin(&self, actor: &str, boot: &str, note: Option<String>) -> Result<Chain, Error> {
        for (_, sealed) in segment::list(&self.path)?.into_iter().rev() {
            let io = |source| io_error("read", &sealed, source);
            let file = file::open(&sealed).map_err(io)?;
            let len = file.metadata().map_err(io)?.len();
            let (mut chain, action, note) = match segment::tail(&file, len).map_err(io)? {
                Tail::Empty => continue,
                Tail::Whole { seq, boot, hash } => {
                    (Chain::new(seq, hash, Some(boot)), Action::Rotate, note)
                }
                Tail::Damaged { seq, hash, damage } => {
                    let damage = crate::error::chain(&damage);
                    let note = format!("last line of {} {damage}", sealed.display());
                    (Chain::new(seq, hash, None), Action::ChainBreak, Some(note))
                }
                Tail::Torn { start } => {
                    let note = format!("{} ends in an unfinished line", sealed.display());
                    let hash = segment::hash_from(&file, start, len).map_err(io)?;
                    (Chain::new(0, hash, None), Action::ChainBreak, Some(note))
                }
            };
            let event = Event { note, ..Event::new(actor, action) };
            chain.push(&Stamped::now(&event, boot), false, boot).map_err(io)?;
            return Ok(chain);
        }
        Ok(Chain::new(0, GENESIS, None))
    }

    /// Forces `file`, and its name if it is `new`, to disk if the ledger is to be so.
    fn force(&self, file: &fs::File, new: bool) -> io::Result<()> {
        match self.sync {
            Sync::Agent => Ok(()),
            Sync::Always if new => {
                file.sync_data()?;
                segment::sync_directory(&self.path)
            }
            Sync::Always => file.sync_data(),
        }
    }

    /// Boot id of the newest line, if that is in the current file and sound.
    fn newest_boot(&self) -> Result<Option<String>, Error> {
        let deadline = Instant::now() + LOCK_WAIT;
        let Some(file) = Segment::open_to_read(&self.path, deadline)? else { return Ok(None) };
        match segment::tail(&file, file.len) {
            Ok(Tail::Whole { boot, .. }) => Ok(Some(boot)),
            Ok(_) => Ok(None),
            Err(source) => Err(io_error("read", &self.path, source)),
        }
    }

    fn boot_id(&self) -> Result<&str, Error> {
        match &self.boot {
            Some(boot) => Ok(boot),
            None => state::boot().map_err(|e| io_error("read", Path::new(state::BOOT_ID), e)),
        }
    }
}

fn sync_note(path: &Path, error: &io::Error) -> String {
    format!("fdatasync of {} failed: {error}; its newest lines may be lost", path.display())
}
