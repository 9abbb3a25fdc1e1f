//! What must hold for a ledger of any bytes and an event of any texts.
#![allow(clippy::unwrap_used, reason = "a law that does not hold must be heard")]

use std::fs;
use std::path::Path;

use super::line::{self, Stamped};
use super::{Action, Event, Filter, Ledger, Sync, Written, segment};
use laws::one_line;

/// Longest input looked at: the laws hold for each line, and a long file is only slow.
const LONGEST: usize = 256 * 1024;

/// The first line holds the texts of an event, with tabs between them; the rest is the ledger that
/// it is appended to.
///
/// A sealed line reads as what was sealed. Any file can be read, verified and written on: none of
/// its bytes is lost by that, and the new line is whole (a boot has one, however often it is told).
pub fn ledger(data: &[u8]) {
    let data = &data[..data.len().min(LONGEST)];
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (first, rest) = data.split_at(at);
    let event = event(&String::from_utf8_lossy(first));
    sealed(&event);

    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("ledger.jsonl");
    let text = rest.strip_prefix(b"\n").unwrap_or(rest);
    fs::write(&path, text).unwrap();
    let ledger = Ledger::new(path.clone(), dir.path().join("spool"), Sync::Agent);
    let ledger = ledger.with_boot("b0a1");
    let lines = read(&ledger);
    assert_eq!(lines, text.split_inclusive(|byte| *byte == b'\n').count());

    assert_eq!(ledger.append(&event).unwrap(), Written::Ledger);
    read(&ledger);
    let last = fs::read(&path).unwrap();
    let last = last.strip_suffix(b"\n").unwrap();
    let last = last.rsplit(|byte| *byte == b'\n').next().unwrap();
    let (last, _) = line::parse(last).unwrap();
    match event.action {
        Action::Rotate | Action::ChainBreak => {}
        // Told once: the newest line may say already that this boot has begun.
        Action::Boot => assert_eq!(last.boot, "b0a1"),
        _ => assert_eq!(last.event, Stamped::now(&event, "b0a1").event),
    }
    kept(text, &path);
}

/// Reads it in every way there is; how many lines it has.
fn read(ledger: &Ledger) -> usize {
    let mut count = 0;
    for entry in ledger.read().unwrap() {
        let entry = entry.unwrap();
        count += 1;
        match &entry.line {
            Ok(line) => {
                assert_eq!(line::Hash::of(&entry.bytes), entry.hash);
                // What a line says can be said again, though not always in the same bytes.
                let again = line::seal(line).unwrap();
                assert_eq!(&line::parse(again.strip_suffix(b"\n").unwrap()).unwrap().0, line);
            }
            Err(damage) => one_line(&crate::error::chain(damage)),
        }
    }
    let report = ledger.verify().unwrap();
    assert_eq!(report.is_sound(), report.breaks == 0 && report.torn == 0);
    assert!(report.lines <= count as u64);
    if let Some(first) = &report.first_break {
        one_line(&crate::error::one_line(first.found.clone()));
    }
    assert!(ledger.open().unwrap().len() as u64 <= report.lines);
    ledger.reached().unwrap();
    let (newest, _) = ledger.tail(3, &Filter::default()).unwrap();
    assert_eq!(newest.len(), count.min(3));
    count
}

/// Every byte of `text` is still in one of the files: nobody's history is dropped.
fn kept(text: &[u8], path: &Path) {
    let torn = segment::beside(path, super::TORN);
    let mut all = Vec::new();
    for (_, sealed) in segment::list(path).unwrap() {
        all.extend(fs::read(sealed).unwrap());
    }
    all.extend(fs::read(path).unwrap());
    if torn.exists() {
        let cut = fs::read(torn).unwrap();
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        assert!(all.starts_with(&text[..whole]));
        assert_eq!(cut.strip_suffix(b"\n").unwrap(), &text[whole..]);
    } else {
        assert!(all.starts_with(text));
    }
}

fn sealed(event: &Event) {
    let stamped = Stamped::now(event, "b0a1");
    let bytes = line::seal(&stamped).unwrap();
    assert!(bytes.len() <= line::MAX_LINE);
    let body = bytes.strip_suffix(b"\n").unwrap();
    assert!(body.iter().all(|byte| (b' '..=b'~').contains(byte)));
    line::unseal(body).unwrap();
    assert_eq!(serde_json::from_slice::<Stamped>(body).unwrap(), stamped);
}

fn event(line: &str) -> Event {
    let mut texts = line.split('\t').map(str::to_owned);
    let actor = texts.next().unwrap_or_default();
    let word = texts.next().unwrap_or_default();
    let action = Action::ALL.into_iter().find(|action| action.as_str() == word);
    Event {
        network: texts.next(),
        container: texts.next(),
        ifname: texts.next(),
        netns: texts.next(),
        bridge: texts.next(),
        port: texts.next(),
        vlan: texts.next(),
        mac: texts.next(),
        addresses: texts
            .next()
            .iter()
            .flat_map(|list| list.split(','))
            .filter_map(|address| address.parse().ok())
            .collect(),
        note: texts.next(),
        ..Event::new(&actor, action.unwrap_or(Action::Attach))
    }
}
