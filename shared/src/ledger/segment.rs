//! The ledger's files: the one being written, `ledger.jsonl`, and the sealed segments before it,
//! `ledger.jsonl.1`, `.2`, … with the highest number the newest.
//!
//! Numbers only grow, so that a rotation is one rename: no crash can leave it half done.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::Deserialize;

use super::line::{self, Damage, Hash, Line, MAX_LINE};
use super::{Error, io_error};
use crate::file;

/// Bytes read from the end of a file to find its last line: a few usual lines.
const TAIL: u64 = 4096;

/// A file opened and locked, and still the one of that name.
#[derive(Debug)]
pub(super) struct Segment {
    file: Flock<File>,
    /// Bytes in it when it was locked, plus what was appended since.
    pub(super) len: u64,
}

impl Deref for Segment {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

/// How a file ends.
#[derive(Debug)]
pub(super) enum Tail {
    /// It is empty.
    Empty,
    /// With a sound line.
    Whole { seq: u64, boot: String, hash: Hash },
    /// Bytes without a newline start here: a writer died, or the power went.
    Torn { start: u64 },
    /// With a line that no writer wrote so.
    Damaged {
        /// Number of the damaged line, as far as the lines before it tell; 0 if they do not.
        seq: u64,
        hash: Hash,
        damage: Damage,
    },
}

#[derive(Deserialize)]
struct Head {
    seq: u64,
    boot: String,
}

impl Segment {
    /// Opens `path` for writing and locks it, making it and its directories if missing.
    pub(super) fn open(path: &Path, deadline: Instant) -> Result<Self, Error> {
        let open =
            || file::options().read(true).write(true).create(true).truncate(false).open(path);
        Self::lock(path, deadline, FlockArg::LockExclusiveNonblock, || match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // One that is there may be anybody's: the configuration names it.
                DirBuilder::new().recursive(true).mode(0o700).create(directory(path))?;
                open()
            }
            other => other,
        })
    }

    /// Opens `path` for reading and locks out writers; `None` if there is no such file.
    pub(super) fn open_to_read(path: &Path, deadline: Instant) -> Result<Option<Self>, Error> {
        let open = || file::options().read(true).open(path);
        match Self::lock(path, deadline, FlockArg::LockSharedNonblock, open) {
            Ok(segment) => Ok(Some(segment)),
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn lock(
        path: &Path,
        deadline: Instant,
        kind: FlockArg,
        open: impl Fn() -> io::Result<File>,
    ) -> Result<Self, Error> {
        let io = |source| io_error("open", path, file::plain(source));
        let begin = Instant::now();
        let mut pause = Duration::from_micros(50);
        let mut opened = open().map_err(io)?;
        loop {
            match Flock::lock(opened, kind) {
                Ok(locked) => {
                    // While we waited, a rotation may have renamed the file under us.
                    let ours = locked.metadata().map_err(io)?;
                    if !ours.is_file() {
                        let text = "expected a regular file";
                        return Err(io(io::Error::new(io::ErrorKind::InvalidInput, text)));
                    }
                    if is_at(&ours, path).map_err(io)? {
                        return Ok(Self { file: locked, len: ours.len() });
                    }
                    opened = open().map_err(io)?;
                }
                Err((same, Errno::EWOULDBLOCK | Errno::EINTR)) => {
                    opened = same;
                    let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                        let what = path.display().to_string();
                        return Err(
                            crate::lock::Error::Busy { what, waited: begin.elapsed() }.into()
                        );
                    };
                    thread::sleep(pause.min(left));
                    pause = (pause * 2).min(Duration::from_millis(5));
                }
                Err((_, errno)) => return Err(io(errno.into())),
            }
        }
    }

    /// Appends `bytes` whole or not at all, in one write.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = loop {
            match self.write_at(bytes, self.len) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        match written {
            Ok(count) if count == bytes.len() => {
                self.len += count as u64;
                Ok(())
            }
            Ok(_) => {
                self.set_len(self.len)?;
                Err(Errno::ENOSPC.into())
            }
            Err(error) => {
                self.set_len(self.len)?;
                Err(error)
            }
        }
    }

    /// Cuts the file back to `len` bytes.
    pub(super) fn cut(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)?;
        self.len = len;
        Ok(())
    }

    /// Moves the bytes from `start` on to the end of `aside`, so that the file ends with a line.
    pub(super) fn quarantine(&mut self, start: u64, aside: &Path) -> io::Result<()> {
        let mut bytes = read_range(self, start, self.len)?;
        bytes.push(b'\n');
        let aside = file::options().append(true).create(true).open(aside);
        aside.map_err(file::plain)?.write_all(&bytes)?;
        self.cut(start)
    }

    /// Seals the file: gives it the next segment number, and deletes the oldest segments as long
    /// as the others hold `kept` bytes. Nobody can write it after, since writers compare names
    /// once they hold its lock.
    pub(super) fn seal(self, path: &Path, kept: u64) -> Result<PathBuf, Error> {
        let sealed = list(path)?;
        let number = sealed.last().map_or(0, |(number, _)| *number) + 1;
        let target = numbered(path, number);
        fs::rename(path, &target).map_err(|source| io_error("rotate", path, source))?;
        let size = |path: &PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.len());
        let mut left = self.len + sealed.iter().map(|(_, path)| size(path)).sum::<u64>();
        for (_, oldest) in &sealed {
            left -= size(oldest).min(left);
            if left < kept {
                break;
            }
            if let Err(error) = fs::remove_file(oldest) {
                tracing::warn!(file = %oldest.display(), %error, "old ledger segment stays");
            }
        }
        Ok(target)
    }
}

/// Whether `path` still names the file that `ours` describes.
pub(super) fn is_at(ours: &fs::Metadata, path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// `ledger.jsonl.<number>`.
fn numbered(path: &Path, number: u64) -> PathBuf {
    beside(path, &number.to_string())
}

/// `path` with `.suffix` behind its whole name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// The sealed segments of the ledger `path` with their numbers, oldest first.
pub(super) fn list(path: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let parent = directory(path);
    let entries = match fs::read_dir(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|source| io_error("list", parent, source))?,
    };
    let name = path.file_name().unwrap_or_default();
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| io_error("list", parent, source))?;
        if let Some(number) = number_of(name, &entry.file_name()) {
            found.push((number, numbered(path, number)));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn number_of(ledger: &OsStr, name: &OsStr) -> Option<u64> {
    let digits = name.as_bytes().strip_prefix(ledger.as_bytes())?.strip_prefix(b".")?;
    let text = str::from_utf8(digits).ok()?;
    // Only names that `numbered` gives: no sign, no leading zero.
    text.parse().ok().filter(|number: &u64| *number > 0 && number.to_string() == text)
}

/// Reads how the first `len` bytes of `file` end.
pub(super) fn tail(file: &File, len: u64) -> io::Result<Tail> {
    if len == 0 {
        return Ok(Tail::Empty);
    }
    let mut bytes = Vec::new();
    for window in [TAIL, MAX_LINE as u64 + 1] {
        let start = len.saturating_sub(window);
        bytes = read_range(file, start, len)?;
        let newline = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte == b'\n');
        let Some(body) = bytes.strip_suffix(b"\n") else {
            match newline(&bytes) {
                Some(at) => return Ok(Tail::Torn { start: start + at as u64 + 1 }),
                None if start == 0 => return Ok(Tail::Torn { start }),
                None => continue,
            }
        };
        match newline(body) {
            Some(at) => return Ok(judge(file, len, &body[at + 1..])),
            None if start == 0 => return Ok(judge(file, len, body)),
            None => {}
        }
    }
    Ok(Tail::Damaged { seq: 0, hash: Hash::of(&bytes), damage: Damage::Long })
}

fn judge(file: &File, len: u64, last: &[u8]) -> Tail {
    let head = |bytes: &[u8]| -> Result<(Head, Hash), Damage> {
        let hash = line::unseal(bytes)?;
        Ok((serde_json::from_slice(bytes)?, hash))
    };
    match head(last) {
        Ok((Head { seq, boot }, hash)) => Tail::Whole { seq, boot, hash },
        Err(damage) => {
            let near = read_range(file, len.saturating_sub(MAX_LINE as u64), len);
            let seq = near.ok().and_then(|bytes| {
                let mut after = 0;
                bytes.strip_suffix(b"\n")?.rsplit(|byte| *byte == b'\n').find_map(|line| {
                    let found = head(line).ok().map(|(head, _)| head.seq + after);
                    after += 1;
                    found
                })
            });
            Tail::Damaged { seq: seq.unwrap_or(0), hash: Hash::of(last), damage }
        }
    }
}

/// At least the last `count` sound lines of `file`, unless it holds fewer. Not for the usual path.
pub(super) fn recent(file: &File, len: u64, count: usize) -> io::Result<Vec<Line>> {
    let mut window = MAX_LINE as u64;
    loop {
        let start = len.saturating_sub(window);
        let bytes = read_range(file, start, len)?;
        let lines: Vec<Line> = bytes
            .split(|byte| *byte == b'\n')
            .filter_map(|line| line::parse(line).ok().map(|(line, _)| line))
            .collect();
        if start == 0 || lines.len() >= count {
            return Ok(lines);
        }
        window *= 4;
    }
}

/// The hash of the bytes `start..end`, of which no more than a line's worth counts.
pub(super) fn hash_from(file: &File, start: u64, end: u64) -> io::Result<Hash> {
    read_range(file, start, end.min(start + MAX_LINE as u64)).map(|bytes| Hash::of(&bytes))
}

/// The bytes `start..end` of `file`.
fn read_range(file: &File, start: u64, end: u64) -> io::Result<Vec<u8>> {
    let len = usize::try_from(end - start).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, start)?;
    Ok(bytes)
}

/// Forces the directory entry of `path` to disk.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory(path))?.sync_all()
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
