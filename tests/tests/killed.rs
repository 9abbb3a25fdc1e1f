//! Processes killed at work: whatever call an ADD or a DEL died before, the next DEL leaves nothing
//! and the next ADD works.

use std::collections::BTreeMap;
use std::fs;

use rig::lab::key;
use rig::{Command, Lab};

/// The calls that change or reveal something outside the process, by which process state is cut
/// into pieces.
const CALLS: &str = "openat,write,pwrite64,rename,linkat,unlinkat,unlink,mkdir,mkdirat,fcntl,\
     setns,sendto,sendmsg,connect,fdatasync,fsync,ftruncate,ioctl";

/// Runs `one-act` under strace; with a fault, SIGKILL comes before that call is made.
fn act(verb: &str, container: &str, fault: Option<(&str, usize)>) -> rig::Output {
    let log = format!("/run/rig/{verb}.strace");
    let mut command = Command::new("strace").args(["-f", "-qq", "-o", &log, "-e"]);
    command = match fault {
        None => command.args([format!("trace={CALLS}")]),
        Some((call, number)) => command.args([
            format!("trace={call}"),
            "-e".to_owned(),
            format!("inject={call}:signal=KILL:when={number}"),
        ]),
    };
    command.args([env!("CARGO_BIN_EXE_one-act"), verb, container]).output()
}

/// How often an undisturbed act makes each call, those of the program's start aside.
fn calls(verb: &str, container: &str) -> BTreeMap<String, (usize, usize)> {
    act(verb, container, None).success();
    let log = fs::read_to_string(format!("/run/rig/{verb}.strace")).unwrap();
    let mut calls: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let mut started = false;
    for line in log.lines() {
        // What comes before the state directory is the loader's.
        started |= line.contains("/run/ovs-port-agent");
        let call = line.split_whitespace().nth(1).and_then(|rest| rest.split('(').next());
        let Some(call) = call.filter(|call| CALLS.contains(call)) else { continue };
        let (skipped, counted) = calls.entry(call.to_owned()).or_default();
        *(if started { counted } else { skipped }) += 1;
    }
    calls.retain(|_, (_, counted)| *counted > 0);
    assert!(calls.contains_key("sendto") && calls.contains_key("openat"), "{log}");
    calls
}

/// Every point at which an act can die, as a call and its number.
fn points(verb: &str, container: &str) -> Vec<(String, usize)> {
    let calls = calls(verb, container);
    let every = calls.iter().flat_map(|(call, (skipped, counted))| {
        (skipped + 1..=skipped + counted).map(|number| (call.clone(), number))
    });
    every.collect()
}

/// What comes after the process that was killed.
#[derive(Clone, Copy, PartialEq)]
enum Sequel {
    /// DEL, as a runtime does when ADD or DEL has failed.
    Del,
    /// ADD, as a runtime does that knows nothing of it; then DEL.
    Add,
}

/// Kills an act at each of its calls: what follows works, and then nothing is left.
fn killed(verb: &str, sequel: Sequel) {
    let lab = Lab::new();
    let web = lab.host.container("web");
    let before = lab.snapshot();
    // The first of all makes directories.
    lab.attach(&web);
    lab.detach("web");
    if verb == "detach" {
        lab.attach(&web);
    }
    let points = points(verb, "web");
    lab.detach("web");
    let mut died = 0;
    for (call, number) in &points {
        let at = format!("{verb} killed before {call} number {number}");
        if verb == "detach" {
            lab.attach(&web);
        }
        died += usize::from(!act(verb, "web", Some((call, *number))).ok());
        if sequel == Sequel::Add {
            let record = lab.attach(&web);
            lab.check(&record).unwrap_or_else(|error| panic!("{at}, ADD: {error}"));
            let told = lab.engine.ledger().open().unwrap();
            assert_eq!(told.len(), 1, "{at}, ADD: the ledger does not know");
        }
        lab.engine.detach(&key("web")).unwrap_or_else(|e| panic!("{at}, DEL: {e}"));
        assert_eq!(lab.traces(), [""; 0], "{at}, DEL");
    }
    // Waiting takes more or fewer calls each time.
    println!("{verb}: {died} of {} died", points.len());
    assert!(died * 10 >= points.len() * 9, "{died} of {} died", points.len());
    lab.assert_returned(&before, "after all");
    // Dying writers break no chain, and what they did is told: nothing is open at the end.
    let ledger = lab.engine.ledger();
    let report = ledger.verify().unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(ledger.open().unwrap(), []);
}

#[test]
fn add_then_del() {
    killed("attach", Sequel::Del);
}

#[test]
fn add_then_add() {
    killed("attach", Sequel::Add);
}

#[test]
fn del_then_del() {
    killed("detach", Sequel::Del);
}

#[test]
fn del_then_add() {
    killed("detach", Sequel::Add);
}
