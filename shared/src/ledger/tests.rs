use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::line::{parse, seal, unseal};
use super::*;

const SPOOL: &str = "ledger.spool";

struct Rig {
    dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("lib/ledger.jsonl")
    }

    fn spool(&self) -> PathBuf {
        self.dir.path().join("run").join(SPOOL)
    }

    fn ledger(&self) -> Ledger {
        Ledger::new(self.path(), self.spool(), Sync::Agent).with_boot("boot-a")
    }

    /// The lines of the current file, each checked against the hash of the one before it.
    fn lines(&self) -> Vec<Line> {
        lines(&self.path())
    }

    /// Makes the ledger unwritable, for root too: its directory becomes a file.
    fn block(&self) {
        let dir = self.dir.path().join("lib");
        if dir.exists() {
            fs::rename(&dir, self.dir.path().join("moved")).unwrap();
        }
        fs::write(dir, "").unwrap();
    }

    fn unblock(&self) {
        let dir = self.dir.path().join("lib");
        fs::remove_file(&dir).unwrap();
        let moved = self.dir.path().join("moved");
        if moved.exists() {
            fs::rename(moved, dir).unwrap();
        }
    }
}

fn lines(path: &Path) -> Vec<Line> {
    let bytes = fs::read(path).unwrap();
    let text = bytes.strip_suffix(b"\n").unwrap();
    let mut before: Option<Hash> = None;
    text.split(|byte| *byte == b'\n')
        .map(|bytes| {
            let (line, hash) = parse(bytes).unwrap();
            if let Some(before) = before.replace(hash) {
                assert_eq!(line.prev, before.to_string());
            }
            line
        })
        .collect()
}

fn attach(container: &str) -> Event {
    Event {
        network: Some("lan".to_owned()),
        container: Some(container.to_owned()),
        ifname: Some("eth0".to_owned()),
        addresses: vec!["10.200.0.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()],
        ..Event::new("cni", Action::Attach)
    }
}

fn containers(lines: &[Line]) -> Vec<&str> {
    lines.iter().filter_map(|line| line.event.container.as_deref()).collect()
}

#[test]
fn a_new_ledger_begins_with_its_boot_and_zeros() {
    let rig = Rig::new();
    assert_eq!(rig.ledger().append(&attach("a")).unwrap(), Written::Ledger);
    assert_eq!(rig.ledger().append(&attach("b")).unwrap(), Written::Ledger);
    let lines = rig.lines();
    assert_eq!(lines[0].prev, "0".repeat(64));
    assert_eq!(lines[0].event, Event::new("cni", Action::Boot));
    assert_eq!(lines[1].event, attach("a"));
    assert_eq!(lines.iter().map(|line| line.seq).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(lines.iter().all(|line| line.boot == "boot-a" && !line.spooled && line.mono > 0));
    assert!(!rig.spool().exists());
}

#[test]
fn the_machine_has_a_boot_id() {
    let rig = Rig::new();
    Ledger::new(rig.path(), rig.spool(), Sync::Always).append(&attach("a")).unwrap();
    let boot = fs::read_to_string(state::BOOT_ID).unwrap();
    assert!(rig.lines().iter().all(|line| line.boot == boot.trim()));
}

#[test]
fn another_boot_begins_with_a_boot_line() {
    let rig = Rig::new();
    rig.ledger().append(&attach("a")).unwrap();
    let next = rig.ledger().with_boot("boot-b");
    next.append(&attach("b")).unwrap();
    next.append(&attach("c")).unwrap();
    let lines = rig.lines();
    let actions: Vec<_> = lines.iter().map(|line| line.event.action).collect();
    assert_eq!(
        actions,
        [Action::Boot, Action::Attach, Action::Boot, Action::Attach, Action::Attach]
    );
    assert_eq!(lines[2].boot, "boot-b");
}

#[test]
fn an_unwritable_ledger_spools_and_catches_up_in_order() {
    let rig = Rig::new();
    let ledger = rig.ledger();
    ledger.append(&attach("a")).unwrap();
    rig.block();
    assert_eq!(ledger.append(&attach("b")).unwrap(), Written::Spool);
    assert_eq!(ledger.append(&attach("c")).unwrap(), Written::Spool);
    rig.unblock();
    assert_eq!(ledger.append(&attach("d")).unwrap(), Written::Ledger);
    let lines = rig.lines();
    assert_eq!(containers(&lines), ["a", "b", "c", "d"]);
    let late: Vec<_> = lines.iter().map(|line| line.spooled).collect();
    assert_eq!(late, [false, false, true, true, false]);
    assert!(lines.is_sorted_by_key(|line| line.time));
    assert_eq!(fs::metadata(rig.spool()).unwrap().len(), 0);
}

#[test]
fn flush_empties_the_spool() {
    let rig = Rig::new();
    rig.block();
    rig.ledger().append(&attach("a")).unwrap();
    rig.unblock();
    rig.ledger().flush().unwrap();
    assert_eq!(containers(&rig.lines()), ["a"]);
}

#[test]
fn a_mover_that_died_before_it_emptied_the_spool_moves_nothing_twice() {
    let rig = Rig::new();
    rig.block();
    for container in ["a", "b"] {
        rig.ledger().append(&attach(container)).unwrap();
    }
    let spooled = fs::read(rig.spool()).unwrap();
    rig.unblock();
    rig.ledger().append(&attach("c")).unwrap();
    fs::write(rig.spool(), spooled).unwrap();
    rig.ledger().append(&attach("d")).unwrap();
    assert_eq!(containers(&rig.lines()), ["a", "b", "c", "d"]);
}

#[test]
fn neither_ledger_nor_spool_is_an_error_that_says_both() {
    let rig = Rig::new();
    rig.block();
    fs::write(rig.dir.path().join("run"), "").unwrap();
    let error = rig.ledger().append(&attach("a")).unwrap_err();
    let text = crate::error::chain(&error);
    assert!(text.contains("ledger.jsonl") && text.contains(SPOOL), "{text}");
}

#[test]
fn a_torn_tail_is_set_aside() {
    let rig = Rig::new();
    rig.ledger().append(&attach("a")).unwrap();
    let mut bytes = fs::read(rig.path()).unwrap();
    bytes.extend_from_slice(b"{\"seq\":9,\"ti");
    fs::write(rig.path(), bytes).unwrap();
    rig.ledger().append(&attach("b")).unwrap();
    assert_eq!(containers(&rig.lines()), ["a", "b"]);
    assert_eq!(fs::read(beside(&rig.path(), TORN)).unwrap(), b"{\"seq\":9,\"ti\n");
}

#[test]
fn a_damaged_tail_is_kept_and_a_new_file_goes_on() {
    let rig = Rig::new();
    for container in ["a", "b"] {
        rig.ledger().append(&attach(container)).unwrap();
    }
    let mut bytes = fs::read(rig.path()).unwrap();
    let at = bytes.len() - 200;
    bytes[at] ^= 1;
    fs::write(rig.path(), &bytes).unwrap();
    rig.ledger().append(&attach("c")).unwrap();
    assert_eq!(fs::read(beside(&rig.path(), "1")).unwrap(), bytes);
    let lines = rig.lines();
    assert_eq!(lines[0].event.action, Action::ChainBreak);
    assert_eq!(lines[0].seq, 4);
    let last = bytes[..bytes.len() - 1].rsplit(|byte| *byte == b'\n').next().unwrap();
    assert_eq!(lines[0].prev, Hash::of(last).to_string());
    assert_eq!(containers(&lines), ["c"]);
}

#[test]
fn rotation_keeps_the_chain_and_the_newest_segments() {
    let rig = Rig::new();
    let ledger = rig.ledger().with_rotation(2000, 4000);
    for number in 0..40 {
        ledger.append(&attach(&number.to_string())).unwrap();
    }
    let sealed = segment::list(&rig.path()).unwrap();
    assert_eq!(sealed.len(), 2);
    assert!(sealed[0].0 > 2, "the first ones are deleted");
    let mut all = lines(&sealed[0].1);
    for path in [&sealed[1].1, &rig.path()] {
        let next = lines(path);
        assert_eq!(next[0].event.action, Action::Rotate);
        assert_eq!(next[0].seq, all.last().unwrap().seq + 1);
        all.extend(next);
    }
    assert_eq!(containers(&all).last(), Some(&"39"));
}

#[test]
fn a_rotation_that_died_after_its_rename_is_finished_by_the_next_writer() {
    let rig = Rig::new();
    rig.ledger().append(&attach("a")).unwrap();
    fs::rename(rig.path(), beside(&rig.path(), "1")).unwrap();
    rig.ledger().append(&attach("b")).unwrap();
    let lines = rig.lines();
    assert_eq!(lines[0].event.action, Action::Rotate);
    assert_eq!(containers(&lines), ["b"]);
    assert_eq!(lines[0].seq, 3);
}

#[test]
fn only_own_names_are_segments() {
    let rig = Rig::new();
    rig.ledger().append(&attach("a")).unwrap();
    for name in ["ledger.jsonl.01", "ledger.jsonl.x", "ledger.jsonl.0", "other.jsonl.3"] {
        fs::write(rig.path().with_file_name(name), "").unwrap();
    }
    assert_eq!(segment::list(&rig.path()).unwrap(), []);
}

#[test]
fn a_held_lock_spools() {
    let rig = Rig::new();
    rig.ledger().append(&attach("a")).unwrap();
    let held = Segment::open(&rig.path(), Instant::now()).unwrap();
    assert_eq!(rig.ledger().append(&attach("b")).unwrap(), Written::Spool);
    drop(held);
    assert_eq!(rig.ledger().append(&attach("c")).unwrap(), Written::Ledger);
    assert_eq!(containers(&rig.lines()), ["a", "b", "c"]);
}

#[test]
fn a_fifo_or_a_link_is_no_ledger() {
    let rig = Rig::new();
    fs::create_dir(rig.dir.path().join("lib")).unwrap();
    nix::unistd::mkfifo(&rig.path(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(rig.ledger().append(&attach("a")).unwrap(), Written::Spool);
    fs::remove_file(rig.path()).unwrap();
    let elsewhere = rig.dir.path().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, rig.path()).unwrap();
    assert_eq!(rig.ledger().append(&attach("b")).unwrap(), Written::Spool);
    assert!(!elsewhere.exists());
}

#[test]
fn the_longest_event_fits_in_a_line() {
    let rig = Rig::new();
    let long = |text: &str| Some(text.repeat(MAX_FIELD));
    for text in ["\u{1}", "\u{80}", "\u{10ffff}", "\"", "x"] {
        let event = Event {
            actor: text.repeat(MAX_FIELD),
            network: long(text),
            container: long(text),
            ifname: long(text),
            netns: long(text),
            bridge: long(text),
            port: long(text),
            vlan: long(text),
            mac: long(text),
            addresses: vec!["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128".parse().unwrap(); 999],
            note: long(text),
            ..attach("a")
        };
        assert_eq!(rig.ledger().append(&event).unwrap(), Written::Ledger);
    }
    let lines = rig.lines();
    assert_eq!(lines.len(), 6);
    assert!(lines[1..].iter().all(|line| line.event.addresses.len() == MAX_ADDRESSES));
    assert!(lines[1..].iter().all(|line| line.event.note.as_ref().unwrap().len() <= MAX_FIELD));
}

fn text() -> impl Strategy<Value = Option<String>> {
    proptest::option::of(any::<String>())
}

prop_compose! {
    fn event()(
        fields in (text(), text(), text(), text(), text()),
        more in (text(), text(), text(), text()),
        actor in any::<String>(),
        addresses in proptest::collection::vec((any::<std::net::IpAddr>(), 0_u8..=32), 0..4),
    ) -> Event {
        let (network, container, ifname, netns, bridge) = fields;
        let (port, vlan, mac, note) = more;
        let addresses = addresses.into_iter().map(|(ip, len)| IpNet::new(ip, len).unwrap());
        Event {
            actor, action: Action::Attach, network, container, ifname, netns, bridge, port, vlan,
            mac, addresses: addresses.collect(), note,
        }
    }
}

proptest! {
    #[test]
    fn a_line_says_what_was_written(event in event()) {
        let stamped = Stamped::now(&event, "boot-a");
        let mut chain = Chain::new(6, GENESIS, Some("boot-a".to_owned()));
        chain.push(&stamped, false, "boot-a").unwrap();
        let bytes = chain.bytes().strip_suffix(b"\n").unwrap();
        prop_assert!(bytes.iter().all(|byte| (b' '..=b'~').contains(byte)));
        let (line, hash) = parse(bytes).unwrap();
        prop_assert_eq!(hash, Hash::of(bytes));
        prop_assert_eq!(line.seq, 7);
        prop_assert!(stamped.is_told_by(&line));
        let uncut = |text: &String| text.len() <= MAX_FIELD;
        if event.note.iter().chain(&event.container).all(uncut) {
            prop_assert_eq!(line.event.note, event.note);
            prop_assert_eq!(line.event.container, event.container);
        }
    }

    #[test]
    fn a_seal_holds_for_no_other_bytes(at in any::<prop::sample::Index>(), with in any::<u8>()) {
        let bytes = seal(&Stamped::now(&attach("a"), "boot-a")).unwrap();
        let mut line = bytes.strip_suffix(b"\n").unwrap().to_vec();
        let at = at.index(line.len());
        let same = line[at] == with;
        line[at] = with;
        prop_assert_eq!(unseal(&line).is_ok(), same);
    }

    #[test]
    fn time_survives_its_text(micros in 0_u64..253_402_300_800_000_000) {
        let time = Time::from(std::time::SystemTime::UNIX_EPOCH + Duration::from_micros(micros));
        prop_assert_eq!(time.to_string().parse::<Time>().unwrap(), time);
    }
}

#[test]
fn time_is_rfc_3339_in_utc() {
    let epoch = std::time::SystemTime::UNIX_EPOCH;
    let time = Time::from(epoch + Duration::new(1_795_466_294, 123_456_789));
    assert_eq!(time.to_string(), "2026-11-23T20:38:14.123456Z");
    assert_eq!(
        Time::from(epoch - Duration::from_secs(1)).to_string(),
        "1970-01-01T00:00:00.000000Z"
    );
    let far = epoch + Duration::from_secs(400_000_000_000);
    assert!(Time::from(far).to_string().starts_with("9999-12-31T23:59:59"));
}

#[test]
fn a_user_names_a_moment_by_time_date_or_age() {
    let now: Time = "2026-11-23T20:38:14.5Z".parse().unwrap();
    for (text, moment) in [
        ("2026-11-23T20:38:14Z", "2026-11-23T20:38:14Z"),
        ("2026-11-23 20:38:14", "2026-11-23T20:38:14Z"),
        ("2026-11-20", "2026-11-20T00:00:00Z"),
        ("2h", "2026-11-23T18:38:14.5Z"),
        ("1day 1m", "2026-11-22T20:37:14.5Z"),
        ("999years", "1970-01-01T00:00:00Z"),
    ] {
        assert_eq!(now.moment(text), Ok(moment.parse().unwrap()), "{text}");
    }
    for text in ["", "yesterday", "2026-13-01", "2026-11-23T20:38:14+02:00", "-2h"] {
        assert!(now.moment(text).is_err(), "{text}");
    }
}

#[test]
fn actions_are_called_what_the_ledger_calls_them() {
    for action in Action::ALL {
        assert_eq!(serde_json::to_value(action).unwrap(), action.as_str());
    }
}

/// A ledger of three files, with a spooled line and two boots.
fn history(rig: &Rig) -> Ledger {
    let first = rig.ledger().with_rotation(700, 1 << 20);
    for container in ["a", "b", "c"] {
        first.append(&attach(container)).unwrap();
    }
    let ledger = first.with_boot("boot-b");
    rig.block();
    ledger.append(&attach("d")).unwrap();
    rig.unblock();
    ledger.append(&attach("e")).unwrap();
    ledger.append(&Event { action: Action::Detach, ..attach("d") }).unwrap();
    ledger.append(&attach("f")).unwrap();
    ledger
}

#[test]
fn a_reader_gives_every_line_in_order() {
    let rig = Rig::new();
    let ledger = history(&rig);
    let lines: Vec<_> = ledger.read().unwrap().map(|entry| entry.unwrap().line.unwrap()).collect();
    assert_eq!(containers(&lines), ["a", "b", "c", "d", "e", "d", "f"]);
    assert!(lines.iter().enumerate().all(|(index, line)| line.seq == index as u64 + 1));
    let report = ledger.verify().unwrap();
    assert!(report.is_sound() && report.first_break.is_none());
    assert_eq!(report.lines, lines.len() as u64);
    assert_eq!((report.first, report.last), (Some(1), Some(report.lines)));
    assert_eq!(report.files, 1 + segment::list(&rig.path()).unwrap().len());
    assert!(report.files > 2);
}

#[test]
fn a_ledger_that_is_not_there_is_empty() {
    let rig = Rig::new();
    assert_eq!(rig.ledger().verify().unwrap(), Report::default());
    assert!(rig.ledger().open().unwrap().is_empty());
    assert!(rig.ledger().tail(10, &Filter::default()).unwrap().0.is_empty());
    assert!(!rig.path().exists());
}

#[test]
fn filters_agree_in_every_field() {
    let rig = Rig::new();
    let ledger = history(&rig);
    let shown = |filter: &Filter| {
        let (entries, _) = ledger.tail(99, filter).unwrap();
        let lines: Vec<_> = entries.into_iter().map(|entry| entry.line.unwrap()).collect();
        containers(&lines).join("")
    };
    let text = |text: &str| Some(text.to_owned());
    let every = Filter::default();
    assert_eq!(shown(&every), "abcdedf");
    assert_eq!(shown(&Filter { container: text("d"), ..every.clone() }), "dd");
    assert_eq!(shown(&Filter { action: Some(Action::Detach), ..every.clone() }), "d");
    assert_eq!(shown(&Filter { boot: text("boot-a"), ..every.clone() }), "abc");
    assert_eq!(shown(&Filter { network: text("lan"), ..every.clone() }), "abcdedf");
    assert_eq!(shown(&Filter { network: text("la"), ..every.clone() }), "");
    assert_eq!(shown(&Filter { bridge: text("ovsbr0"), ..every.clone() }), "");
    assert_eq!(shown(&Filter { port: text("p"), ..every.clone() }), "");
    assert_eq!(shown(&Filter { actor: text("docker"), ..every.clone() }), "");
    assert_eq!(
        shown(&Filter { actor: text("cni"), boot: text("boot-b"), ..every.clone() }),
        "dedf"
    );
    let third = ledger.read().unwrap().nth(2).unwrap().unwrap().line.unwrap().time;
    assert_eq!(shown(&Filter { until: Some(third), ..every.clone() }), "ab");
    assert_eq!(shown(&Filter { since: Some(third), ..every }), "bcdedf");
}

#[test]
fn tail_gives_the_newest_and_follows_through_rotations() {
    let rig = Rig::new();
    let ledger = history(&rig);
    let (entries, mut follower) = ledger.tail(2, &Filter::default()).unwrap();
    let lines: Vec<_> = entries.into_iter().map(|entry| entry.line.unwrap()).collect();
    assert_eq!(containers(&lines), ["d", "f"]);
    assert!(follower.poll().unwrap().is_empty());
    let mut last = lines[1].seq;
    for round in 0..6 {
        for number in 0..round {
            ledger.append(&attach(&format!("{round}-{number}"))).unwrap();
        }
        for entry in follower.poll().unwrap() {
            last += 1;
            assert_eq!(entry.line.unwrap().seq, last);
        }
        assert_eq!(ledger.verify().unwrap().last, Some(last));
    }
}

#[test]
fn what_is_open_is_what_was_attached_in_this_boot_and_not_detached() {
    let rig = Rig::new();
    let ledger = history(&rig);
    assert_eq!(containers(&ledger.open().unwrap()), ["e", "f"]);
    let next = ledger.with_boot("boot-c");
    assert_eq!(next.boot("port-agent").unwrap(), Some(Written::Ledger));
    assert_eq!(next.boot("port-agent").unwrap(), None);
    assert!(next.open().unwrap().is_empty());
    let (entries, _) = next.tail(1, &Filter::default()).unwrap();
    let line = entries[0].line.as_ref().unwrap();
    assert_eq!(line.event.note.as_deref(), Some("closes 2 attachments of earlier boots"));
    next.append(&attach("g")).unwrap();
    assert_eq!(containers(&next.open().unwrap()), ["g"]);
}

#[test]
fn verify_finds_every_flipped_bit_and_append_truncates_nothing() {
    let rig = Rig::new();
    for container in ["a", "b"] {
        rig.ledger().append(&attach(container)).unwrap();
    }
    let sound = fs::read(rig.path()).unwrap();
    for at in 0..sound.len() {
        for bit in 0..8 {
            let mut bytes = sound.clone();
            bytes[at] ^= 1 << bit;
            fs::write(rig.path(), &bytes).unwrap();
            let report = rig.ledger().verify().unwrap();
            assert!(!report.is_sound(), "byte {at} bit {bit}");
            if bit != 0 {
                continue;
            }
            rig.ledger().append(&attach("c")).unwrap();
            let mut kept = Vec::new();
            for path in [beside(&rig.path(), "1"), rig.path()] {
                kept.extend(fs::read(path).unwrap_or_default());
            }
            if at == sound.len() - 1 {
                // The newline of the newest line: it looks torn, and is set aside.
                let aside = fs::read(beside(&rig.path(), TORN)).unwrap();
                kept.truncate(bytes.iter().rposition(|byte| *byte == b'\n').unwrap() + 1);
                kept.extend(&aside[..aside.len() - 1]);
            } else {
                assert!(rig.ledger().verify().unwrap().breaks > 0, "byte {at}");
            }
            assert!(kept.starts_with(&bytes), "byte {at}");
            let (entries, _) = rig.ledger().tail(1, &Filter::default()).unwrap();
            assert_eq!(entries[0].line.as_ref().unwrap().event, attach("c"));
            fs::remove_dir_all(rig.dir.path().join("lib")).unwrap();
            fs::create_dir(rig.dir.path().join("lib")).unwrap();
        }
    }
}

#[test]
fn a_tail_cut_anywhere_costs_no_whole_line() {
    let rig = Rig::new();
    for container in ["a", "b"] {
        rig.ledger().append(&attach(container)).unwrap();
    }
    let sound = fs::read(rig.path()).unwrap();
    for len in 0..=sound.len() {
        fs::write(rig.path(), &sound[..len]).unwrap();
        let whole = sound[..len].iter().filter(|byte| **byte == b'\n').count();
        let report = rig.ledger().verify().unwrap();
        assert_eq!((report.lines, report.breaks), (whole as u64, 0));
        assert_eq!(report.is_sound(), len == 0 || sound[len - 1] == b'\n');
        rig.ledger().append(&attach("c")).unwrap();
        let report = rig.ledger().verify().unwrap();
        assert!(report.is_sound(), "cut at {len}: {report:?}");
        assert!(report.lines > whole as u64);
        assert_eq!(containers(&rig.lines()).last(), Some(&"c"));
    }
}

#[test]
fn verify_misses_no_line_that_was_taken_out() {
    let rig = Rig::new();
    for container in ["a", "b", "c"] {
        rig.ledger().append(&attach(container)).unwrap();
    }
    let sound = fs::read_to_string(rig.path()).unwrap();
    let lines: Vec<_> = sound.lines().collect();
    // The newest line is the one whose absence no chain can show.
    for without in 0..lines.len() - 1 {
        let mut rest = lines.clone();
        rest.remove(without);
        fs::write(rig.path(), rest.join("\n") + "\n").unwrap();
        let found = rig.ledger().verify().unwrap().first_break.unwrap();
        assert_eq!((found.file, found.line), (rig.path(), without as u64 + 1));
    }
}

#[test]
fn verify_follows_the_chain_across_files() {
    let rig = Rig::new();
    let ledger = history(&rig);
    let sealed = segment::list(&rig.path()).unwrap();
    let second = sealed[1].1.clone();
    let moved = rig.dir.path().join("moved");
    fs::rename(&second, &moved).unwrap();
    let report = ledger.verify().unwrap();
    assert_eq!(report.first_break.unwrap().line, 1);
    fs::rename(&moved, &second).unwrap();
    assert!(ledger.verify().unwrap().is_sound());
    // What rotation does is no break.
    fs::remove_file(&sealed[0].1).unwrap();
    assert!(ledger.verify().unwrap().is_sound());
}
