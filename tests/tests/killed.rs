//! Processes killed at work: whatever call an ADD or a DEL died before, the next DEL leaves nothing
//! and the next ADD works.

use std::collections::BTreeMap;
use std::fs;

use rig::{Command, Container, Lab};

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

/// Every `step`th point of an act, from `first`.
fn points(verb: &str, container: &str, first: usize, step: usize) -> Vec<(String, usize)> {
    let calls = calls(verb, container);
    let every = calls.iter().flat_map(|(call, (skipped, counted))| {
        (skipped + 1..=skipped + counted).map(|number| (call.clone(), number))
    });
    every.skip(first).step_by(step).collect()
}

fn lab() -> (Lab, Container) {
    let lab = Lab::new();
    let web = lab.host.container("web");
    (lab, web)
}

/// Kills ADDs: a DEL then leaves nothing; every other time an ADD comes first, and works.
fn killed_adds(first: usize, step: usize) {
    let (lab, web) = lab();
    let before = lab.snapshot();
    // The first of all makes directories.
    lab.attach(&web);
    lab.detach("web");
    let points = points("attach", "web", first, step);
    lab.detach("web");
    let mut killed = 0;
    for (turn, (call, number)) in points.iter().enumerate() {
        let at = format!("ADD killed before {call} number {number}");
        let output = act("attach", "web", Some((call, *number)));
        killed += usize::from(!output.ok());
        if turn % 2 == 1 {
            let record = lab.attach(&web);
            lab.check(&record).unwrap_or_else(|error| panic!("{at}, ADD again: {error}"));
        }
        lab.engine.detach(&rig::lab::key("web")).unwrap_or_else(|e| panic!("{at}, DEL: {e}"));
        assert_eq!(lab.traces(), [""; 0], "{at}, then DEL");
    }
    println!("{killed} of {} ADDs died", points.len());
    assert!(killed * 10 >= points.len() * 9, "{killed} of {} ADDs died", points.len());
    lab.assert_returned(&before, "after all");
    assert_ledger(&lab);
}

/// Kills DELs: the next DEL finishes, and an ADD after it works.
fn killed_dels(first: usize, step: usize) {
    let (lab, web) = lab();
    let before = lab.snapshot();
    lab.attach(&web);
    let points = points("detach", "web", first, step);
    let mut killed = 0;
    for (turn, (call, number)) in points.iter().enumerate() {
        let at = format!("DEL killed before {call} number {number}");
        let record = lab.attach(&web);
        lab.check(&record).unwrap_or_else(|error| panic!("{at}, ADD before: {error}"));
        killed += usize::from(!act("detach", "web", Some((call, *number))).ok());
        if turn % 2 == 1 {
            let record = lab.attach(&web);
            lab.check(&record).unwrap_or_else(|error| panic!("{at}, ADD: {error}"));
        }
        lab.engine.detach(&rig::lab::key("web")).unwrap_or_else(|e| panic!("{at}, DEL: {e}"));
        assert_eq!(lab.traces(), [""; 0], "{at}, then DEL");
    }
    println!("{killed} of {} DELs died", points.len());
    assert!(killed * 10 >= points.len() * 9, "{killed} of {} DELs died", points.len());
    lab.assert_returned(&before, "after all");
    assert_ledger(&lab);
}

/// Dying writers break no chain, and what they did is told: nothing is open at the end.
fn assert_ledger(lab: &Lab) {
    let ledger = lab.engine.ledger();
    let report = ledger.verify().unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(ledger.open().unwrap(), []);
}

#[test]
fn adds() {
    killed_adds(0, 1);
}

#[test]
fn dels() {
    killed_dels(0, 1);
}
