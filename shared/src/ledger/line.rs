//! One line of the ledger: what it holds, its bytes, its check and its place in the chain.
//!
//! A line is one JSON object in printable ASCII. It ends with its own `check`, the first 8 hex
//! digits of the SHA-256 of everything before `,"check"`: the chain alone would not notice damage
//! to the newest line, which no later line has sealed yet.

use std::fmt;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::ser::{CharEscape, Formatter};
use sha2::{Digest as _, Sha256};

use super::{Action, Event};
use crate::hex;

/// Longest text in one field, in bytes. Container ids and paths of runtimes stay far below it.
pub const MAX_FIELD: usize = 512;

/// Most addresses in one line.
pub const MAX_ADDRESSES: usize = 64;

/// Longest line in bytes, newline included: every field at its cap and every byte of it escaped.
pub const MAX_LINE: usize = 64 * 1024;

/// `prev` of the first line of a new ledger.
pub(super) const GENESIS: Hash = Hash([0; 32]);

/// Bytes of `,"check":"xxxxxxxx"}`.
const SEAL_LEN: usize = 20;

/// The SHA-256 of a line's bytes without its newline; prints as lower-case hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hash([u8; 32]);

impl Hash {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl From<Sha256> for Hash {
    fn from(hash: Sha256) -> Self {
        Self(hash.finalize().into())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

/// A moment in UTC with microseconds, written as RFC 3339 (`2026-11-23T20:38:14.123456Z`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(SystemTime);

impl Time {
    /// Now, by the wall clock. A clock before 1970 reads as 1970.
    pub fn now() -> Self {
        Self::from(SystemTime::now())
    }

    /// The moment a user means: a time in UTC (`2026-11-23T20:38:14Z`), a date (its first
    /// moment), or how long before `self` it was (`90s`, `2h`, `3days`).
    pub fn moment(self, text: &str) -> Result<Self, NoMoment> {
        if let Ok(age) = humantime::parse_duration(text) {
            return Ok(Self::from(self.0.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH)));
        }
        let midnight = || format!("{text}T00:00:00Z").parse();
        text.parse().or_else(|_| midnight()).map_err(|_| NoMoment(text.to_owned()))
    }
}

/// A text that names no moment.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a time in UTC such as 2026-11-23T20:38:14Z, nor an age such as 2h")]
pub struct NoMoment(String);

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Self {
        // RFC 3339 ends with the year 9999.
        const LAST: u64 = 253_402_300_799;
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seconds = since.as_secs().min(LAST);
        let micros = Duration::from_micros(u64::from(since.subsec_micros()));
        Self(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + micros)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_micros(self.0).fmt(f)
    }
}

impl std::str::FromStr for Time {
    type Err = humantime::TimestampError;

    /// Accepts `2026-11-23T20:38:14.123456Z`, a space instead of the `T`, and no `Z`; always UTC.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        humantime::parse_rfc3339_weak(text).map(Self::from)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// An event with its moment: what the spool holds, and what a line is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamped {
    pub(super) time: Time,
    pub(super) boot: String,
    pub(super) mono: u64,
    #[serde(flatten)]
    pub(super) event: Event,
}

impl Stamped {
    /// Stamps a copy of `event`, its fields cut to their caps.
    pub(super) fn now(event: &Event, boot: &str) -> Self {
        let mono = clock_gettime(ClockId::CLOCK_BOOTTIME)
            .map_or(0, |time| Duration::from(time).as_micros().try_into().unwrap_or(u64::MAX));
        Self { time: Time::now(), boot: boot.to_owned(), mono, event: capped(event) }
    }

    /// Whether `line` tells this very event.
    pub(super) fn is_told_by(&self, line: &Line) -> bool {
        (self.time, self.mono, &self.boot, &self.event)
            == (line.time, line.mono, &line.boot, &line.event)
    }
}

/// One line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Number of the line since the ledger began, from 1, without gaps.
    pub seq: u64,
    /// When it happened.
    pub time: Time,
    /// The boot it happened in (`/proc/sys/kernel/random/boot_id`).
    pub boot: String,
    /// Microseconds since that boot (`CLOCK_BOOTTIME`): true also when the wall clock jumps.
    pub mono: u64,
    /// Written late, out of the spool.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub spooled: bool,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
    /// SHA-256 of the line before this one, as 64 hex digits.
    pub prev: String,
}

/// What is wrong with the bytes of a line.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// No newline at its end.
    #[error("ends without a newline")]
    Torn,
    /// Longer than any writer makes them.
    #[error("longer than {MAX_LINE} bytes")]
    Long,
    /// Bytes that no writer makes.
    #[error("holds bytes that are not printable ASCII")]
    Bytes,
    /// No check at its end.
    #[error("does not end with its check")]
    Unsealed,
    /// The check belongs to other bytes.
    #[error("check is {found}, its bytes give {expected}")]
    Check {
        /// What the line says.
        found: String,
        /// What its bytes give.
        expected: String,
    },
    /// Not the JSON of a line.
    #[error("is not a ledger line")]
    Json(#[from] serde_json::Error),
}

/// The bytes of `value` as one sealed line, newline included.
pub(super) fn seal(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(640);
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, Ascii))?;
    bytes.pop(); // The closing brace: the check goes before it.
    let check = short(Hash::of(&bytes));
    writeln!(bytes, r#","check":"{check}"}}"#)?;
    if bytes.len() > MAX_LINE {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "line is too long"));
    }
    Ok(bytes)
}

/// The hash of the line `bytes` (without newline), once its check holds.
pub(super) fn unseal(bytes: &[u8]) -> Result<Hash, Damage> {
    if bytes.len() >= MAX_LINE {
        return Err(Damage::Long);
    }
    if !bytes.iter().all(|byte| (b' '..=b'~').contains(byte)) {
        return Err(Damage::Bytes);
    }
    let (body, tail) = bytes
        .len()
        .checked_sub(SEAL_LEN)
        .and_then(|middle| bytes.split_at_checked(middle))
        .ok_or(Damage::Unsealed)?;
    let found = tail
        .strip_prefix(br#","check":""#)
        .and_then(|rest| rest.strip_suffix(br#""}"#))
        .ok_or(Damage::Unsealed)?;
    let mut hasher = Sha256::new_with_prefix(body);
    let expected = short(Hash(hasher.clone().finalize().into()));
    if found != expected.as_bytes() {
        return Err(Damage::Check { found: String::from_utf8_lossy(found).into_owned(), expected });
    }
    hasher.update(tail);
    Ok(Hash(hasher.finalize().into()))
}

/// The line in `bytes` (without newline), with its hash.
pub(super) fn parse(bytes: &[u8]) -> Result<(Line, Hash), Damage> {
    let hash = unseal(bytes)?;
    Ok((serde_json::from_slice(bytes)?, hash))
}

fn short(hash: Hash) -> String {
    let mut text = hash.to_string();
    text.truncate(8);
    text
}

/// `event` with every text cut to [`MAX_FIELD`] bytes and [`MAX_ADDRESSES`] addresses.
fn capped(event: &Event) -> Event {
    let text = |field: &Option<String>| field.as_deref().map(cut);
    let addresses: &[IpNet] = &event.addresses;
    Event {
        actor: cut(&event.actor),
        action: event.action,
        network: text(&event.network),
        container: text(&event.container),
        ifname: text(&event.ifname),
        netns: text(&event.netns),
        bridge: text(&event.bridge),
        port: text(&event.port),
        vlan: text(&event.vlan),
        mac: text(&event.mac),
        addresses: addresses[..addresses.len().min(MAX_ADDRESSES)].to_vec(),
        note: text(&event.note),
    }
}

fn cut(text: &str) -> String {
    if text.len() <= MAX_FIELD {
        return text.to_owned();
    }
    let limit = MAX_FIELD - '…'.len_utf8();
    let end = (0..=limit).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &text[..end])
}

/// JSON in printable ASCII: a terminal shows a line without being steered by it, and no reader
/// has to guess an encoding.
struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(|c: char| !(' '..='~').contains(&c)) {
            writer.write_all(&rest.as_bytes()[..at])?;
            let mut chars = rest[at..].chars();
            for unit in chars.next().into_iter().flat_map(|c| {
                let mut units = [0; 2];
                let count = c.encode_utf16(&mut units).len();
                units.into_iter().take(count)
            }) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = chars.as_str();
        }
        writer.write_all(rest.as_bytes())
    }

    fn write_char_escape<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        char_escape: CharEscape,
    ) -> io::Result<()> {
        serde_json::ser::CompactFormatter.write_char_escape(writer, char_escape)
    }
}

/// Lines under construction: one buffer that continues a chain.
pub(super) struct Chain {
    seq: u64,
    prev: Hash,
    /// Boot of the newest line.
    boot: Option<String>,
    bytes: Vec<u8>,
}

impl Chain {
    pub(super) fn new(seq: u64, prev: Hash, boot: Option<String>) -> Self {
        Self { seq, prev, boot, bytes: Vec::new() }
    }

    /// Adds `stamped`, and before it a `boot` line if it is the first of the boot `current`.
    pub(super) fn push(
        &mut self,
        stamped: &Stamped,
        spooled: bool,
        current: &str,
    ) -> io::Result<()> {
        let begins = stamped.boot == current && self.boot.as_deref() != Some(current);
        match stamped.event.action {
            Action::Rotate | Action::ChainBreak => return self.add(stamped, spooled),
            Action::Boot if !begins => return Ok(()),
            Action::Boot => {}
            _ if begins => {
                let event = Event::new(&stamped.event.actor, Action::Boot);
                self.add(&Stamped { event, ..stamped.clone() }, false)?;
            }
            _ => {}
        }
        self.boot = Some(stamped.boot.clone());
        self.add(stamped, spooled)
    }

    fn add(&mut self, stamped: &Stamped, spooled: bool) -> io::Result<()> {
        let Stamped { time, boot, mono, event } = stamped.clone();
        let seq = self.seq + 1;
        let line = Line { seq, time, boot, mono, spooled, event, prev: self.prev.to_string() };
        let bytes = seal(&line)?;
        self.prev = Hash::of(&bytes[..bytes.len() - 1]);
        self.seq = seq;
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
