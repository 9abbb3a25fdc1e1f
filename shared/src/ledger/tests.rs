use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::line::{parse, seal, unseal};
use super::*;

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
    let boot = fs::read_to_string(BOOT_ID).unwrap();
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
    let ledger = rig.ledger().with_rotation(2000, 2);
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
