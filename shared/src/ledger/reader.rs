//! Reading the ledger: all lines oldest first, the newest few, and those still to come.
//!
//! Readers hold the writers' lock only while they list and open the files; what they read after
//! that is a fixed picture, without a line half written.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Take};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use sha2::{Digest as _, Sha256};

use super::line::{self, Damage, Hash, Line, MAX_LINE, Time};
use super::segment::{self, Segment};
use super::{Action, Error, LOCK_WAIT, Ledger, io_error};
use crate::file;

/// A line as it stands in a file.
#[derive(Debug)]
pub struct Entry {
    /// Its bytes without the newline; of one that is far too long, the first [`MAX_LINE`].
    pub bytes: Vec<u8>,
    /// What they say.
    pub line: Result<Line, Damage>,
    /// How many they are.
    pub len: u64,
    /// Their SHA-256.
    pub hash: Hash,
}

impl Entry {
    fn new(mut bytes: Vec<u8>) -> Self {
        let whole = bytes.pop_if(|byte| *byte == b'\n').is_some();
        let len = bytes.len() as u64;
        let parsed = if whole { line::parse(&bytes) } else { Err(Damage::Torn) };
        match parsed {
            Ok((line, hash)) => Self { bytes, line: Ok(line), len, hash },
            Err(damage) => Self { hash: Hash::of(&bytes), bytes, line: Err(damage), len },
        }
    }
}

/// Which lines to show; every given field must agree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Begin of the container id.
    pub container: Option<String>,
    /// Network.
    pub network: Option<String>,
    /// Bridge.
    pub bridge: Option<String>,
    /// Port.
    pub port: Option<String>,
    /// What was done.
    pub action: Option<Action>,
    /// Who did it.
    pub actor: Option<String>,
    /// Not before.
    pub since: Option<Time>,
    /// Not after.
    pub until: Option<Time>,
    /// Begin of the boot id.
    pub boot: Option<String>,
}

impl Filter {
    /// Whether `line` is to be shown.
    pub fn admits(&self, line: &Line) -> bool {
        let equal =
            |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        let event = &line.event;
        let container = event.container.as_deref().unwrap_or_default();
        self.container.as_deref().is_none_or(|begin| container.starts_with(begin))
            && self.boot.as_deref().is_none_or(|begin| line.boot.starts_with(begin))
            && self.actor.as_ref().is_none_or(|actor| *actor == event.actor)
            && self.action.is_none_or(|action| action == event.action)
            && self.since.is_none_or(|since| since <= line.time)
            && self.until.is_none_or(|until| line.time <= until)
            && equal(&self.network, &event.network)
            && equal(&self.bridge, &event.bridge)
            && equal(&self.port, &event.port)
    }
}

/// The lines of the ledger as they were when it was opened, oldest first.
#[derive(Debug)]
pub struct Reader {
    current: Option<Opened>,
    rest: VecDeque<Opened>,
}

#[derive(Debug)]
struct Opened {
    path: PathBuf,
    lines: BufReader<Take<File>>,
    number: u64,
}

impl Opened {
    fn new(path: PathBuf, file: File, len: u64) -> Self {
        Self { path, lines: BufReader::with_capacity(1 << 16, file.take(len)), number: 0 }
    }

    fn next(&mut self) -> Option<Result<Entry, Error>> {
        match self.line() {
            Ok(None) => None,
            Ok(Some(entry)) => {
                self.number += 1;
                Some(Ok(entry))
            }
            Err(source) => Some(Err(io_error("read", &self.path, source))),
        }
    }
}

impl Opened {
    /// The next line. Of one that is longer than any writer makes them, only the beginning is kept:
    /// it may be all of the file.
    fn line(&mut self) -> io::Result<Option<Entry>> {
        let mut bytes = Vec::new();
        let kept = (&mut self.lines).take(MAX_LINE as u64).read_until(b'\n', &mut bytes)?;
        if kept < MAX_LINE || bytes.ends_with(b"\n") {
            return Ok((kept > 0).then(|| Entry::new(bytes)));
        }
        let mut hash = Sha256::new_with_prefix(&bytes);
        let mut len = bytes.len();
        let mut whole = false;
        while !whole {
            let more = self.lines.fill_buf()?;
            let Some(end) =
                more.iter().position(|byte| *byte == b'\n').or(more.len().checked_sub(1))
            else {
                break;
            };
            whole = more[end] == b'\n';
            hash.update(&more[..end + usize::from(!whole)]);
            len += end + usize::from(!whole);
            self.lines.consume(end + 1);
        }
        let damage = if whole { Damage::Long } else { Damage::Torn };
        Ok(Some(Entry { bytes, line: Err(damage), len: len as u64, hash: Hash::from(hash) }))
    }
}

impl Reader {
    /// File and number (from 1) of the line that `next` gave last.
    pub fn place(&self) -> Option<(&Path, u64)> {
        self.current.as_ref().map(|opened| (opened.path.as_path(), opened.number))
    }

    /// Files that are left to read, the current one included.
    pub fn files(&self) -> usize {
        self.rest.len() + usize::from(self.current.is_some())
    }
}

impl Iterator for Reader {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(found) = self.current.as_mut().and_then(Opened::next) {
                return Some(found);
            }
            self.current = Some(self.rest.pop_front()?);
        }
    }
}

/// The lines that are added from some moment on.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    /// The file being read, and how far.
    at: Option<(File, u64)>,
}

impl Follower {
    /// The lines added since the last call. Never waits.
    pub fn poll(&mut self) -> Result<Vec<Entry>, Error> {
        let path = self.path.clone();
        let io = |source| io_error("read", &path, source);
        let mut entries = Vec::new();
        loop {
            if self.at.is_none() {
                self.at = open(&path)?.map(|file| (file, 0));
            }
            let Some((file, offset)) = &mut self.at else { return Ok(entries) };
            // In this order: once a file has lost its name, nobody adds to it.
            let ours = file.metadata().map_err(io)?;
            let written = segment::is_at(&ours, &path).map_err(io)?;
            let len = file.metadata().map_err(io)?.len();
            // A writer may take back a line whose fdatasync failed.
            let begin = (*offset).min(len);
            let mut bytes =
                vec![0; usize::try_from(len - begin).map_err(|e| io(io::Error::other(e)))?];
            file.read_exact_at(&mut bytes, begin).map_err(io)?;
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let lines = bytes[..whole].split_inclusive(|byte| *byte == b'\n');
            entries.extend(lines.map(|line| Entry::new(line.to_vec())));
            *offset = begin + whole as u64;
            if written {
                return Ok(entries);
            }
            self.at = self.after(ours.ino())?.map(|file| (file, 0));
        }
    }

    /// The file after the sealed segment with inode `ino`; the oldest one if that is gone.
    fn after(&self, ino: u64) -> Result<Option<File>, Error> {
        // Opened before the others are listed: should it be sealed meanwhile, it is among them.
        let mut next = open(&self.path)?;
        for (_, sealed) in segment::list(&self.path)?.into_iter().rev() {
            let Some(file) = open(&sealed)? else { continue };
            let there = file.metadata().map_err(|source| io_error("read", &sealed, source))?;
            if there.ino() == ino {
                break;
            }
            next = Some(file);
        }
        Ok(next)
    }
}

/// Opens a file that may be gone.
fn open(path: &Path) -> Result<Option<File>, Error> {
    match file::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io_error("read", path, source)),
    }
}

impl Ledger {
    /// Opens the ledger to read all of it. A ledger without files reads as empty.
    pub fn read(&self) -> Result<Reader, Error> {
        Ok(Reader { current: None, rest: self.opened()?.into() })
    }

    /// The last `count` lines that `filter` admits, oldest first, and what comes after them.
    /// Damaged lines count too. Reads no older file than it has to.
    pub fn tail(&self, count: usize, filter: &Filter) -> Result<(Vec<Entry>, Follower), Error> {
        let mut files = self.opened()?;
        let at = match files.last() {
            Some(newest) if newest.path == self.path => {
                let taken = newest.lines.get_ref();
                let again = taken.get_ref().try_clone();
                Some((again.map_err(|e| io_error("read", &self.path, e))?, taken.limit()))
            }
            _ => None,
        };
        let mut entries: VecDeque<Entry> = VecDeque::new();
        while let Some(mut opened) = files.pop()
            && entries.len() < count
        {
            let wanted = count - entries.len();
            let mut found = VecDeque::new();
            while let Some(entry) = opened.next() {
                let entry = entry?;
                if entry.line.as_ref().is_ok_and(|line| !filter.admits(line)) {
                    continue;
                }
                found.push_back(entry);
                if found.len() > wanted {
                    found.pop_front();
                }
            }
            found.append(&mut entries);
            entries = found;
        }
        Ok((entries.into(), Follower { path: self.path.clone(), at }))
    }

    /// All files as they are now, oldest first.
    fn opened(&self) -> Result<Vec<Opened>, Error> {
        let current = match Segment::open_to_read(&self.path, Instant::now() + LOCK_WAIT) {
            Err(Error::Lock(busy)) => {
                // A stopped writer must not hide the history; its line may then look torn.
                tracing::warn!(%busy, "reading the ledger without its lock");
                Some(file::open(&self.path).map_err(|e| io_error("read", &self.path, e))?)
            }
            Err(error) => return Err(error),
            Ok(None) => None,
            Ok(Some(locked)) => {
                let files = self.sealed()?;
                let file = locked.try_clone().map_err(|e| io_error("read", &self.path, e))?;
                return Ok(with(files, &self.path, file, locked.len));
            }
        };
        let files = self.sealed()?;
        let Some(file) = current else { return Ok(files) };
        let len = file.metadata().map_err(|e| io_error("read", &self.path, e))?.len();
        Ok(with(files, &self.path, file, len))
    }

    fn sealed(&self) -> Result<Vec<Opened>, Error> {
        let sealed = segment::list(&self.path)?.into_iter();
        sealed
            .map(|(_, path)| {
                let file = file::open(&path).map_err(|e| io_error("read", &path, e))?;
                let len = file.metadata().map_err(|e| io_error("read", &path, e))?.len();
                Ok(Opened::new(path, file, len))
            })
            .collect()
    }
}

fn with(mut files: Vec<Opened>, path: &Path, file: File, len: u64) -> Vec<Opened> {
    files.push(Opened::new(path.to_owned(), file, len));
    files
}
