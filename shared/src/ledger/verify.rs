//! What the ledger as a whole says: whether its chain holds, and what is attached now.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde::Serialize;

use super::line::{Damage, GENESIS, Line};
use super::segment::beside;
use super::{Action, Error, Event, Ledger, TORN, Written, spool};

/// What verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Sound lines.
    pub lines: u64,
    /// Files they are in.
    pub files: usize,
    /// Sequence number of the oldest sound line: above 1 once rotation has deleted segments.
    pub first: Option<u64>,
    /// Sequence number of the newest sound line.
    pub last: Option<u64>,
    /// Places where the chain does not hold.
    pub breaks: u64,
    /// The first of them.
    pub first_break: Option<Break>,
    /// Bytes of an unfinished line at the end. The next append sets them aside.
    pub torn: u64,
    /// Bytes that were set aside by earlier appends.
    pub set_aside: u64,
    /// Lines that wait in the spool.
    pub spooled: u64,
}

/// A place where the chain does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Break {
    /// The file.
    pub file: PathBuf,
    /// Number of the line in the file, from 1.
    pub line: u64,
    /// What should be there.
    pub expected: String,
    /// What is.
    pub found: String,
}

impl Report {
    /// Whether nothing is wrong. Lines in the spool are late, not wrong.
    pub fn is_sound(&self) -> bool {
        self.breaks == 0 && self.torn == 0
    }
}

/// What the line before lets expect of the next one.
enum Before {
    /// Nothing: it is the first.
    Nothing,
    /// It is damaged: nothing is known of what it was.
    Damaged,
    /// It was sound.
    Sound { seq: u64, hash: String },
}

impl Ledger {
    /// Reads every line of every segment and checks bytes, numbers and chain.
    pub fn verify(&self) -> Result<Report, Error> {
        let mut lines = self.read()?;
        let mut report = Report {
            files: lines.files(),
            set_aside: fs::metadata(beside(&self.path, TORN)).map_or(0, |file| file.len()),
            spooled: spool::count(&self.spool)?,
            ..Report::default()
        };
        let mut before = Before::Nothing;
        while let Some(entry) = lines.next() {
            let entry = entry?;
            let fault = match &entry.line {
                Ok(line) => {
                    report.lines += 1;
                    report.first.get_or_insert(line.seq);
                    report.last = Some(line.seq);
                    let fault = misfit(line, &before);
                    before = Before::Sound { seq: line.seq, hash: entry.hash.to_string() };
                    fault
                }
                Err(Damage::Torn) if lines.files() == 1 => {
                    report.torn = entry.len;
                    None
                }
                Err(damage) => {
                    before = Before::Damaged;
                    Some(("a sound line".to_owned(), crate::error::chain(damage)))
                }
            };
            if let (Some((expected, found)), Some((file, line))) = (fault, lines.place()) {
                report.breaks += 1;
                let file = file.to_owned();
                report.first_break.get_or_insert(Break { file, line, expected, found });
            }
        }
        Ok(report)
    }

    /// What is attached now by the word of the ledger: the attach lines of the newest boot
    /// without a detach, by network, container and interface. Damaged lines are passed over.
    pub fn open(&self) -> Result<Vec<Line>, Error> {
        let mut open = BTreeMap::new();
        let mut boot = None;
        for entry in self.read()? {
            let Ok(line) = entry?.line else { continue };
            let Event { network, container, ifname, .. } = line.event.clone();
            match line.event.action {
                Action::Boot => boot = Some(line.boot),
                Action::Attach => drop(open.insert((network, container, ifname), line)),
                Action::Detach | Action::Collect => {
                    drop(open.remove(&(network, container, ifname)))
                }
                Action::Up | Action::Down | Action::ChainBreak | Action::Rotate => {}
            }
        }
        let newest = |line: &Line| boot.as_ref().is_none_or(|boot| *boot == line.boot);
        Ok(open.into_values().filter(newest).collect())
    }

    /// Writes the `boot` line of this boot unless it is there, saying how many attachments the
    /// boots before left open. Reads the whole ledger: not for the attach path, where the first
    /// append of a boot writes that line without the number.
    pub fn boot(&self, actor: &str) -> Result<Option<Written>, Error> {
        if self.newest_boot()?.as_deref() == Some(self.boot_id()?) {
            return Ok(None);
        }
        let left = self.open()?.len();
        let note = (left > 0).then(|| format!("closes {left} attachments of earlier boots"));
        self.append(&Event { note, ..Event::new(actor, Action::Boot) }).map(Some)
    }
}

/// What is wrong with `line` after `before`: what was expected, and what is found.
fn misfit(line: &Line, before: &Before) -> Option<(String, String)> {
    let differ = |what: &str, expected: &str, found: &str| {
        (expected != found).then(|| (format!("{what} {expected}"), format!("{what} {found}")))
    };
    let seq = line.seq.to_string();
    match before {
        Before::Damaged => None,
        Before::Sound { seq: before, hash } => differ("prev", hash, &line.prev)
            .or_else(|| differ("seq", &before.saturating_add(1).to_string(), &seq)),
        // Rotation deletes the oldest segments; what is left then begins with its line.
        Before::Nothing if matches!(line.event.action, Action::Rotate | Action::ChainBreak) => None,
        Before::Nothing => {
            differ("prev", &GENESIS.to_string(), &line.prev).or_else(|| differ("seq", "1", &seq))
        }
    }
}
