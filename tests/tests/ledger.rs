//! The ledger under processes that are killed, disks that are full or read-only, and a failing
//! fdatasync. File systems are mounted in a mount namespace of the test's own thread.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use shared::ledger::{Action, Error, Event, Ledger, Line, Sync, Written};

const BOOT: &str = "6b0e1f6e-0a52-4b7c-8b5c-5d1f0c9d8e7a";
const PAGE: usize = 4096;

struct Rig {
    dir: tempfile::TempDir,
    size: u64,
}

impl Rig {
    fn new(size: u64) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), size }
    }

    /// A rig whose ledger lives on a tmpfs of `pages` pages that this thread alone can see.
    fn on_tmpfs(pages: usize) -> Self {
        unshare(CloneFlags::CLONE_NEWNS).expect("root, to mount a file system");
        let none = None::<&str>;
        let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, flags, none).unwrap();
        let rig = Self::new(1 << 30);
        fs::create_dir(rig.disk()).unwrap();
        let options = format!("size={}", pages * PAGE);
        mount(Some("tmpfs"), &rig.disk(), Some("tmpfs"), MsFlags::empty(), Some(&*options))
            .unwrap();
        rig
    }

    fn disk(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn path(&self) -> PathBuf {
        self.disk().join("ledger.jsonl")
    }

    fn spool(&self) -> PathBuf {
        self.dir.path().join("run/ledger.spool")
    }

    fn ledger(&self) -> Ledger {
        Ledger::new(self.path(), self.spool(), Sync::Agent)
            .with_rotation(self.size, u64::MAX)
            .with_boot(BOOT)
    }

    fn append(&self, container: &str) -> Written {
        self.ledger().append(&attach(container)).unwrap()
    }

    /// `program` with what makes it a writer of this ledger.
    fn writer(&self, name: &str, count: usize, sync: &str) -> Vec<String> {
        let (path, spool) = (self.path(), self.spool());
        [
            env!("CARGO_BIN_EXE_ledger-writer"),
            path.to_str().unwrap(),
            spool.to_str().unwrap(),
            name,
            &count.to_string(),
            sync,
            &self.size.to_string(),
            BOOT,
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// Runs a writer of `count` lines under strace, which injects `fault`, to its end. What it
    /// called is in the file `trace`.
    fn traced(&self, name: &str, count: usize, sync: &str, fault: &str) -> Output {
        let calls = "trace=openat,flock,pread64,pwrite64,ftruncate,fdatasync,fsync,rename,write";
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", self.trace().to_str().unwrap(), "-e", calls, "-e"]);
        command.arg(format!("inject={fault}")).args(self.writer(name, count, sync));
        // Cargo's library path makes the loader search: more calls to be killed at, none of ours.
        command.env_remove("LD_LIBRARY_PATH").output().expect("strace")
    }

    /// What the last traced writer did to files, in order; what it said is "answer".
    fn calls(&self) -> Vec<String> {
        let trace = fs::read_to_string(self.trace()).unwrap();
        let known = ["pwrite64", "ftruncate", "fdatasync", "fsync", "rename"];
        let call = |line: &str| {
            let (call, arguments) = line.split_once(' ')?.1.trim_start().split_once('(')?;
            if call == "write" && arguments.starts_with("1,") {
                return Some("answer".to_owned());
            }
            known.contains(&call).then(|| call.to_owned())
        };
        trace.lines().filter_map(call).collect()
    }

    fn trace(&self) -> PathBuf {
        self.dir.path().join("trace")
    }

    fn lines(&self) -> Vec<Line> {
        self.ledger().read().unwrap().map(|entry| entry.unwrap().line.unwrap()).collect()
    }

    fn containers(&self) -> Vec<String> {
        self.lines().into_iter().filter_map(|line| line.event.container).collect()
    }

    /// Writes one line as whoever comes next does; the ledger must be sound after it, with no
    /// line twice, and hold all of `wanted`.
    fn assert_healed(&self, wanted: &[String], what: &str) {
        assert_eq!(self.append("healer"), Written::Ledger, "{what}");
        let report = self.ledger().verify().unwrap();
        assert!(report.is_sound() && report.spooled == 0, "{what}: {report:?}");
        let mut count: HashMap<String, usize> = HashMap::new();
        for line in self.lines() {
            if line.event.action == Action::Attach {
                *count.entry(line.event.container.unwrap()).or_default() += 1;
            }
        }
        count.remove("healer");
        let twice: Vec<_> = count.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "{what}: twice in the ledger: {twice:?}");
        let lost: Vec<_> = wanted.iter().filter(|name| !count.contains_key(*name)).collect();
        assert!(lost.is_empty(), "{what}: acknowledged but lost: {lost:?}");
    }
}

fn attach(container: &str) -> Event {
    Event { container: Some(container.to_owned()), ..Event::new("cni", Action::Attach) }
}

/// The names of the lines that a writer's output calls safe.
fn acknowledged(stdout: impl BufRead) -> Vec<String> {
    let lines = stdout.lines().map(Result::unwrap);
    lines.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

/// Takes all pages of a file system. `set_len(0)` gives them back, at once: a removed file keeps
/// its pages for as long as a child that another test is starting holds a copy of the descriptor.
fn fill(disk: &Path) -> File {
    let mut filler = File::create(disk.join("filler")).unwrap();
    while filler.write(&[0; PAGE]).is_ok_and(|count| count > 0) {}
    filler
}

#[test]
fn eight_writers_killed_and_rotated_lose_nothing_they_acknowledged() {
    const WRITERS: usize = 8;
    let rig = Rig::new(30_000);
    let spawn = |name: &str| -> Child {
        let line = rig.writer(name, 100_000, "agent");
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    };
    let kill = |mut child: Child| -> Vec<String> {
        child.kill().unwrap();
        child.wait().unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        // A name cut short by the kill was not said whole.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        acknowledged(whole.as_bytes())
    };
    let mut acks = Vec::new();
    let mut writers: Vec<Child> = (0..WRITERS).map(|slot| spawn(&format!("{slot}"))).collect();
    let begin = Instant::now();
    let mut kills = 0_usize;
    while begin.elapsed() < Duration::from_secs(rig::rounds(8, 600) as u64) {
        thread::sleep(Duration::from_micros(3_000 + (kills as u64 * 7_919) % 20_000));
        let slot = kills % WRITERS;
        let next = spawn(&format!("{slot}-{kills}"));
        acks.extend(kill(std::mem::replace(&mut writers[slot], next)));
        kills += 1;
    }
    for child in writers {
        acks.extend(kill(child));
    }
    rig.assert_healed(&acks, "after all the kills");
    let report = rig.ledger().verify().unwrap();
    assert!(kills > 100 && acks.len() > 1000, "{kills} kills, {} lines", acks.len());
    assert!(report.files > 10, "no rotation worth the name: {report:?}");
}

/// A ledger that is due for rotation, with a torn tail, a line in the spool, and its last line
/// in an earlier boot: one append has everything to do. Also one that is only due for rotation.
fn busy(rig: &Rig, full: bool) -> Vec<String> {
    let earlier = rig.ledger().with_boot("earlier");
    earlier.append(&attach("first")).unwrap();
    earlier.append(&attach("second")).unwrap();
    let mut wanted = vec!["first".to_owned(), "second".to_owned()];
    if full {
        let moved = rig.dir.path().join("moved");
        fs::rename(rig.disk(), &moved).unwrap();
        fs::write(rig.disk(), "").unwrap();
        assert_eq!(rig.append("spooled"), Written::Spool);
        fs::remove_file(rig.disk()).unwrap();
        fs::rename(moved, rig.disk()).unwrap();
        wanted.push("spooled".to_owned());
        let mut file = File::options().append(true).open(rig.path()).unwrap();
        file.write_all(b"{\"seq\":4,").unwrap();
    }
    wanted
}

#[test]
fn a_writer_killed_at_any_system_call_leaves_a_ledger_that_heals() {
    for full in [true, false] {
        for call in ["openat", "flock", "pread64", "pwrite64", "ftruncate", "fdatasync", "rename"] {
            let mut killed = 0;
            for nth in 1.. {
                let rig = Rig::new(500);
                let mut wanted = busy(&rig, full);
                let what = format!("killed at {call} {nth}, full: {full}");
                let fault = format!("{call}:signal=SIGKILL:when={nth}");
                let output = rig.traced("writer", 2, "always", &fault);
                let acks = acknowledged(&*output.stdout);
                let done = acks.len() == 2;
                wanted.extend(acks);
                rig.assert_healed(&wanted, &what);
                if done {
                    assert!(output.status.success(), "{what}: {output:?}");
                    break;
                }
                killed += 1;
            }
            let idle = !full && call == "ftruncate";
            assert!(killed > 0 || idle, "{call} was never called");
        }
    }
}

#[test]
fn a_failed_fdatasync_is_not_tried_again_and_costs_no_line() {
    let rig = Rig::new(1 << 20);
    rig.append("before");
    let output = rig.traced("writer", 1, "always", "fdatasync:error=EIO:when=1");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "writer-0 ledger\n", "{output:?}");
    // The line is taken back, the file set aside, and everything done anew in a new one.
    let anew = ["ftruncate", "rename", "pwrite64", "fdatasync", "fsync", "answer"];
    assert_eq!(rig.calls(), [&["pwrite64", "fdatasync"][..], &anew].concat());
    let lines = rig.lines();
    let rotation = lines.iter().find(|line| line.event.action == Action::Rotate).unwrap();
    assert!(rotation.event.note.as_ref().unwrap().contains("fdatasync"), "{rotation:?}");
    rig.assert_healed(&["before".to_owned(), "writer-0".to_owned()], "after one EIO");

    let output = rig.traced("again", 1, "always", "fdatasync:error=EIO");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "again-0 spool\n", "{output:?}");
    assert!(!rig.containers().contains(&"again-0".to_owned()));
    let files = rig.ledger().verify().unwrap().files;
    rig.traced("more", 20, "always", "fdatasync:error=EIO");
    assert_eq!(rig.ledger().verify().unwrap().files, files, "a dead disk makes no heap of files");
    rig.assert_healed(&["before", "writer-0", "again-0"].map(str::to_owned), "after EIO for ever");
}

#[test]
fn the_agent_forces_to_disk_what_is_new_and_gives_up_on_a_file_that_fails() {
    let rig = Rig::new(1 << 20);
    let output = rig.traced("a", 2, "flush", "rename:error=EIO");
    let said = "a-0 ledger\nflushed [true, true]\na-1 ledger\nflushed [true, true]\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), said, "{output:?}");
    let first = ["pwrite64", "answer", "fdatasync", "fsync", "answer"];
    assert_eq!(rig.calls(), [&first[..], &["pwrite64", "answer", "fdatasync", "answer"]].concat());

    let output = rig.traced("b", 2, "flush", "fdatasync:error=EIO");
    let said = "b-0 ledger\nflushed [false, true]\nb-1 ledger\nflushed [true, true]\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), said, "{output:?}");
    let failed = ["pwrite64", "answer", "fdatasync", "rename", "pwrite64", "answer"];
    assert_eq!(rig.calls(), [&failed[..], &["pwrite64", "answer", "answer"]].concat());
    let lines = rig.lines();
    let rotation = lines.iter().find(|line| line.event.action == Action::Rotate).unwrap();
    assert!(rotation.event.note.as_ref().unwrap().contains("fdatasync"), "{rotation:?}");
    rig.assert_healed(&["a-0", "a-1", "b-0", "b-1"].map(str::to_owned), "after a failed flush");
}

#[test]
fn always_means_on_disk_before_the_answer_and_agent_means_not() {
    for (sync, expected) in [
        (
            "always",
            &["pwrite64", "fdatasync", "fsync", "answer", "pwrite64", "fdatasync", "answer"][..],
        ),
        ("agent", &["pwrite64", "answer", "pwrite64", "answer"]),
    ] {
        let rig = Rig::new(1 << 20);
        // A fault that never happens: the trace alone is wanted.
        let output = rig.traced("writer", 2, sync, "rename:error=EIO");
        assert!(output.status.success(), "{output:?}");
        assert_eq!(rig.calls(), expected, "{sync}");
    }
}

/// An event whose line is `extra` bytes longer than that of `padded(0)`.
fn padded(extra: usize) -> Event {
    let mut left = extra;
    let mut field = || {
        let take = left.min(500);
        left -= take;
        Some("x".repeat(take + 1))
    };
    Event {
        network: field(),
        ifname: field(),
        netns: field(),
        bridge: field(),
        port: field(),
        vlan: field(),
        mac: field(),
        note: field(),
        container: field(),
        ..Event::new("cni", Action::Attach)
    }
}

#[test]
fn a_disk_that_is_full_at_any_byte_of_a_line_glues_nothing_and_loses_nothing() {
    let rig = Rig::on_tmpfs(8);
    let ledger = rig.ledger();
    let len = || usize::try_from(fs::metadata(rig.path()).unwrap().len()).unwrap();
    ledger.append(&padded(0)).unwrap();
    let base = len();
    ledger.append(&attach("late")).unwrap();
    let line = len() - base;
    let (mut spooled, mut written) = (0, 0);
    // `room` bytes are left on the ledger's last page, and no other page is free.
    for room in 0..line + 3 {
        File::create(rig.path()).unwrap();
        let extra = (2 * PAGE - room - base % PAGE) % PAGE;
        ledger.append(&padded(extra)).unwrap();
        assert_eq!((len() + room) % PAGE, 0);
        let before = fs::read(rig.path()).unwrap();
        let filler = fill(&rig.disk());
        let first = ledger.append(&attach("late")).unwrap();
        let after = fs::read(rig.path()).unwrap();
        if first == Written::Spool {
            assert!(room < line, "room for {room} of {line} bytes");
            assert_eq!(after, before, "{room}");
            spooled += 1;
        } else {
            assert!(room >= line, "room for {room} of {line} bytes");
            assert!(after.starts_with(&before) && after.len() == before.len() + line);
            written += 1;
        }
        // Still full: a detach is told, too.
        let detach = Event { action: Action::Detach, ..attach("late") };
        assert_eq!(ledger.append(&detach).unwrap(), Written::Spool);
        filler.set_len(0).unwrap();
        rig.assert_healed(&[], &format!("with room for {room} bytes"));
        let actions: Vec<_> = rig.lines().iter().map(|line| line.event.action).collect();
        let expected =
            [Action::Boot, Action::Attach, Action::Attach, Action::Detach, Action::Attach];
        assert_eq!(actions, expected, "{room}");
    }
    assert_eq!((spooled, written), (line, 3));
}

#[test]
fn a_full_disk_under_both_ledger_and_spool_is_an_error_and_heals() {
    let rig = Rig::on_tmpfs(8);
    let spool = rig.disk().join("spool");
    let ledger = Ledger::new(rig.path(), spool.clone(), Sync::Agent).with_boot(BOOT);
    ledger.append(&attach("before")).unwrap();
    let before = fs::read(rig.path()).unwrap();
    let filler = fill(&rig.disk());
    let mut refused = 0;
    let mut kept = vec!["before".to_owned()];
    // The ledger's last page takes some lines yet.
    for number in 0..40 {
        match ledger.append(&attach(&number.to_string())) {
            Ok(Written::Ledger) => kept.push(number.to_string()),
            Ok(Written::Spool) => panic!("no page is free for the spool"),
            Err(error) => {
                assert!(matches!(error, Error::Unwritten { .. }), "{error:?}");
                refused += 1;
            }
        }
    }
    assert!(refused > 10 && kept.len() > 1);
    assert!(fs::read(rig.path()).unwrap().starts_with(&before));
    assert_eq!(fs::metadata(&spool).unwrap().len(), 0);
    assert!(ledger.verify().unwrap().is_sound());
    filler.set_len(0).unwrap();
    ledger.append(&attach("after")).unwrap();
    kept.push("after".to_owned());
    assert_eq!(rig.containers(), kept);
    assert!(ledger.verify().unwrap().is_sound());
}

#[test]
fn a_read_only_disk_spools_and_can_be_read() {
    let rig = Rig::on_tmpfs(8);
    let remount = |flags| {
        let none = None::<&str>;
        mount(none, &rig.disk(), none, MsFlags::MS_REMOUNT | flags, none).unwrap();
    };
    rig.append("before");
    remount(MsFlags::MS_RDONLY);
    assert_eq!(rig.append("during"), Written::Spool);
    assert_eq!(rig.append("still"), Written::Spool);
    let report = rig.ledger().verify().unwrap();
    assert!(report.is_sound() && report.spooled == 2, "{report:?}");
    assert!(rig.ledger().flush().is_err());
    remount(MsFlags::empty());
    rig.ledger().flush().unwrap();
    assert_eq!(rig.containers(), ["before", "during", "still"]);
    assert!(rig.ledger().verify().unwrap().is_sound());
}
