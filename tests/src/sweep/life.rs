//! What each verb needs before it, what follows when it was disturbed, and what ends it all.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::LONGEST_CALL;
use super::house::{House, WEB};
use super::point::{self, Disturbance, Point};
use super::requests::{NETWORK, OTHER, body, create, endpoint, ids, join, network, setup};
use super::verb::Verb;
use crate::command::{Command, Output, PATH, poll};
use crate::daemon::Daemon;

/// Where strace writes.
const LOG: &str = "/run/rig/sweep.strace";

/// strace and a process that it follows take their time on a busy machine.
const READY: Duration = Duration::from_secs(15);

/// How long a process may take to end that was told to.
const GRACE: Duration = Duration::from_secs(1);

/// What follows a kill, before the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sequel {
    /// The same verb again.
    Again,
    /// What else a caller may do: see [`other`].
    Other,
}

/// What a verb came to.
struct Done {
    ok: bool,
    /// SIGKILL came in time.
    killed: bool,
    /// It ended itself by a signal.
    aborted: bool,
    /// If it failed: whether it said so in one error.
    clear: bool,
    answer: Value,
    took: Duration,
    /// All that is known, for a person.
    text: String,
}

/// Every system call of the undisturbed verb: of the shorter of two runs, for one of them may have
/// had to wait for Open vSwitch.
pub(super) fn points(house: &House, verb: Verb) -> Vec<Point> {
    let (one, other) = (recorded(house, verb), recorded(house, verb));
    if one.len() < other.len() { one } else { other }
}

fn recorded(house: &House, verb: Verb) -> Vec<Point> {
    let context = prepare(house, verb);
    let done = match verb.method() {
        Some(method) => call(house, method, &body(verb, &context), Some(&[])),
        None => run(house, verb, &context, &[]),
    };
    assert!(done.ok, "{verb}: {}", done.text);
    let points = point::read(LOG, !verb.is_docker());
    end(house, verb, &context);
    points
}

/// Once through all that a verb makes and ends.
pub(super) fn warm_up(house: &House, verb: Verb) {
    let context = prepare(house, verb);
    act(house, verb, &context, None).must();
    end(house, verb, &context);
}

/// One point: the verb disturbed there, what follows, the end, and the invariants. Whether the
/// disturbance was felt.
pub(super) fn live(
    house: &House,
    verb: Verb,
    point: &Point,
    disturbance: Disturbance,
    sequel: Sequel,
) -> bool {
    let context = prepare(house, verb);
    let done = act(house, verb, &context, Some((point, disturbance)));
    match disturbance {
        Disturbance::Kill if verb.is_docker() && !done.ok => {
            // What dockerd 20.10 does a second later.
            let empty = call(house, verb.method().expect("a method"), &Value::Null, None);
            assert!(empty.text.contains("no body"), "without a body: {}", empty.text);
        }
        Disturbance::Error(_) if !done.ok => {
            // Where the answer itself is barred there is none; and who is barred from the way
            // back out of the container ends itself.
            let silent = ["write", "writev", "sendto", "recvfrom", "read"].contains(&&*point.call);
            let barred = point.call == "setns" && done.aborted;
            assert!(done.clear || silent || barred, "no clear error: {}", done.text);
            if verb.undoes_itself() && !barred {
                house.assert_true(0);
            }
        }
        _ => {}
    }
    match (done.ok, sequel) {
        (true, _) => assert_stands(house, verb),
        (false, Sequel::Again) => {
            act(house, verb, &context, None).must();
            assert_stands(house, verb);
        }
        (false, Sequel::Other) => {
            if disturbance == Disturbance::Kill {
                other(house, verb);
            }
        }
    }
    end(house, verb, &context);
    house.assert_true(0);
    house.assert_returned();
    if disturbance == Disturbance::Kill { done.killed } else { !done.ok }
}

/// What must be there when the verb has succeeded.
fn assert_stands(house: &House, verb: Verb) {
    house.assert_true(verb.plugged());
    match verb {
        Verb::Add | Verb::Check => house.assert_traffic(None),
        Verb::Setup => house.assert_traffic(Some("10.30.0.1")),
        _ => {}
    }
}

/// What the verb works on. What it returns is for [`act`] and [`end`].
fn prepare(house: &House, verb: Verb) -> Value {
    let network = || house.docker("NetworkDriver.CreateNetwork", &network(NETWORK));
    let endpoint = || house.docker("NetworkDriver.CreateEndpoint", &endpoint());
    match verb {
        Verb::Add | Verb::Setup | Verb::Create | Verb::Up | Verb::CreateNetwork => Value::Null,
        Verb::Del | Verb::Check | Verb::Gc => act(house, Verb::Add, &Value::Null, None).must(),
        Verb::Collect => {
            act(house, Verb::Add, &Value::Null, None).must();
            house.lose_web();
            // The kernel takes a namespace apart behind our backs.
            poll("the pair outlives its namespace", READY, || {
                let links = house.lab.host.ip("-o link");
                (!links.contains("veth-web")).then_some(Value::Null)
            })
        }
        Verb::Teardown => act(house, Verb::Setup, &Value::Null, None).must(),
        Verb::Down => act(house, Verb::Up, &Value::Null, None).must(),
        Verb::DeleteNetwork | Verb::CreateEndpoint => network(),
        Verb::Join => {
            network();
            endpoint()
        }
        Verb::Leave | Verb::DeleteEndpoint => {
            network();
            endpoint();
            house.docker("NetworkDriver.Join", &join());
            if verb == Verb::DeleteEndpoint {
                house.docker("NetworkDriver.Leave", &ids());
            }
            Value::Null
        }
        Verb::RequestAddress | Verb::ReleaseAddress => {
            let ask = json!({"AddressSpace": "ovs-agent", "Pool": "10.200.0.0/24", "SubPool": "",
                             "Options": {}, "V6": false});
            let pool = house.docker("IpamDriver.RequestPool", &ask)["PoolID"].clone();
            let mut context = json!({"PoolID": pool, "Address": "", "Options": null});
            if verb == Verb::ReleaseAddress {
                let given = house.docker("IpamDriver.RequestAddress", &context);
                let given = given["Address"].as_str().unwrap_or_default();
                context["Address"] = given.split('/').next().into();
            }
            context
        }
    }
}

/// What a caller does that does not repeat the call.
fn other(house: &House, verb: Verb) {
    match verb {
        // The container is wanted again.
        Verb::Del | Verb::Gc => {
            act(house, Verb::Add, &Value::Null, None).must();
            assert_stands(house, Verb::Add);
        }
        Verb::Teardown => {
            act(house, Verb::Setup, &Value::Null, None).must();
            assert_stands(house, Verb::Setup);
        }
        Verb::Down => drop(act(house, Verb::Up, &Value::Null, None).must()),
        // netavark calls nothing: when the namespace has gone as well, gc finds what there is.
        Verb::Setup => {
            house.lose_web();
            poll("gc finds it", READY, || {
                // What was not even written to its end is dead after a minute.
                house.lab.host.sh(
                    "find /run/ovs-port-agent/attachments -name '*.new' -exec touch -d -5min {} +",
                );
                house.lab.host.port_agent().run("gc");
                let (records, _) = house.lab.engine.records().expect("records");
                records.iter().all(|record| record.key.container != WEB).then_some(())
            });
            house.assert_true(0);
            house.new_web();
        }
        // The user tries again, which gives it another id.
        Verb::CreateNetwork => {
            let create = || call(house, "NetworkDriver.CreateNetwork", &network(OTHER), None);
            if !create().ok {
                // It was all made, and only the answer was lost.
                house.docker("NetworkDriver.DeleteNetwork", &json!({"NetworkID": NETWORK}));
                create().must();
            }
            house.docker("NetworkDriver.DeleteNetwork", &json!({"NetworkID": OTHER}));
        }
        // The end comes at once.
        _ => {}
    }
}

/// Ends whatever the verb and its sequel have left alive.
fn end(house: &House, verb: Verb, context: &Value) {
    match verb {
        Verb::Add | Verb::Del | Verb::Check | Verb::Gc => {
            act(house, Verb::Del, &Value::Null, None).must();
        }
        Verb::Setup | Verb::Teardown => drop(act(house, Verb::Teardown, &Value::Null, None).must()),
        Verb::Create => {}
        Verb::RequestAddress | Verb::ReleaseAddress => {
            house.docker("IpamDriver.ReleasePool", &json!({"PoolID": context["PoolID"]}));
        }
        Verb::Up | Verb::Down => drop(act(house, Verb::Down, &Value::Null, None).must()),
        Verb::Collect => {
            act(house, Verb::Collect, &Value::Null, None).must();
            house.new_web();
        }
        _ => {
            for method in ["Leave", "DeleteEndpoint"] {
                house.docker(&format!("NetworkDriver.{method}"), &ids());
            }
            house.docker("NetworkDriver.DeleteNetwork", &json!({"NetworkID": NETWORK}));
        }
    }
}

/// Does the verb, disturbed or not, within its time.
fn act(
    house: &House,
    verb: Verb,
    context: &Value,
    disturbed: Option<(&Point, Disturbance)>,
) -> Done {
    let options = disturbed.map(|(point, disturbance)| point.options(disturbance));
    let done = match verb.method() {
        Some(method) => {
            let options = options.as_ref().map(<[String; 4]>::as_slice);
            call(house, method, &body(verb, context), options)
        }
        None => {
            let none = ["-e".to_owned(), "trace=none".to_owned()];
            run(house, verb, context, options.as_ref().map_or(&none, <[String; 4]>::as_slice))
        }
    };
    assert!(done.took < LONGEST_CALL, "took {:?}: {}", done.took, done.text);
    done
}

/// Runs the verb's process under strace, undisturbed ones too: GC knows its caller by the name of
/// the process above.
fn run(house: &House, verb: Verb, context: &Value, options: &[String]) -> Done {
    let (program, args, stdin) = process(house, verb, context);
    let mut command = Command::new("strace").no_env().env("PATH", PATH);
    if let Some(word) = cni(verb) {
        for (key, value) in [
            ("CNI_COMMAND", word),
            ("CNI_CONTAINERID", WEB),
            ("CNI_NETNS", "/run/netns/web"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin"),
        ] {
            command = command.env(key, value);
        }
    }
    command = command.args(["-f", "-qq", "-o", LOG]).args(options);
    let deadline = LONGEST_CALL * 2;
    let output = command.args([&program]).args(args).stdin(stdin).deadline(deadline).output();
    Done::of(verb, &output)
}

/// The word of CNI for a verb of CNI.
fn cni(verb: Verb) -> Option<&'static str> {
    Some(match verb {
        Verb::Add => "ADD",
        Verb::Del => "DEL",
        Verb::Check => "CHECK",
        Verb::Gc => "GC",
        _ => return None,
    })
}

/// Program, arguments and stdin of a verb.
fn process(house: &House, verb: Verb, context: &Value) -> (PathBuf, Vec<&'static str>, String) {
    let plugin = house.lab.host.plugin().path().to_owned();
    let agent = house.lab.host.port_agent().path().to_owned();
    let mut conf = json!({"cniVersion": "1.1.0", "name": "lab", "type": "ovs-agent"});
    match verb {
        Verb::Check => conf["prevResult"] = context.clone(),
        Verb::Gc => {
            conf["cni.dev/valid-attachments"] =
                json!([{"containerID": "neighbour", "ifname": "eth0"}]);
        }
        _ => {}
    }
    let netns = "/run/netns/web";
    match verb {
        Verb::Setup => (plugin, vec!["setup", netns], setup().to_string()),
        Verb::Teardown => (plugin, vec!["teardown", netns], setup().to_string()),
        Verb::Create => (plugin, vec!["create"], create().to_string()),
        Verb::Up => (agent, vec!["up"], String::new()),
        Verb::Down => (agent, vec!["down"], String::new()),
        Verb::Collect => (agent, vec!["gc"], String::new()),
        _ => (plugin, Vec::new(), conf.to_string()),
    }
}

/// Calls the Docker driver; with options, strace holds on to it meanwhile.
fn call(house: &House, method: &str, body: &Value, options: Option<&[String]>) -> Done {
    house.drive();
    let driver = house.driver.borrow();
    let driver = driver.as_ref().expect("it runs");
    let tracer = options.map(|options| {
        let pid = driver.pid().to_string();
        let args = ["-f", "-qq", "-o", LOG, "-p", &pid];
        let tracer = Daemon::start("strace", Command::new("strace").args(args).args(options));
        // A call that it was waiting in as strace came may be the point: then it is dead already.
        let held = || (traced(&pid) || !driver.alive()).then_some(());
        poll("strace has hold of it", READY, held);
        tracer
    });
    let started = Instant::now();
    let answer = driver.try_call(method, body);
    let took = started.elapsed();
    // Who hung up may still be dying.
    let end = Instant::now() + GRACE;
    while answer.is_none() && driver.alive() && Instant::now() < end {
        std::thread::sleep(GRACE / 50);
    }
    if let Some(tracer) = tracer {
        if tracer.alive() {
            tracer.signal(Signal::SIGTERM);
        }
        let end = Instant::now() + GRACE;
        while tracer.alive() && Instant::now() < end {
            std::thread::sleep(GRACE / 200);
        }
        tracer.kill();
    }
    let error = answer.as_ref().and_then(|answer| answer["Err"].as_str());
    Done {
        ok: answer.is_some() && error.is_none(),
        killed: !driver.alive(),
        aborted: false,
        clear: error.is_some_and(|error| !error.is_empty()),
        text: format!("{method}: {answer:?}"),
        answer: answer.unwrap_or_default(),
        took,
    }
}

/// Whether a process and all its threads are followed.
fn traced(pid: &str) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    tasks.into_iter().flatten().flatten().all(|task| {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        !status.contains("TracerPid:\t0\n")
    })
}

impl Done {
    fn of(verb: Verb, output: &Output) -> Self {
        use std::os::unix::process::ExitStatusExt as _;

        assert!(!output.timed_out, "{output}");
        let answer: Value = serde_json::from_str(output.stdout.trim()).unwrap_or_default();
        let clear = match verb {
            Verb::Up | Verb::Down => {
                output.stderr.lines().filter(|line| line.starts_with("ovs-port-agent: ")).count()
                    == 1
            }
            Verb::Collect => {
                let said = ["PROBLEM", "kept: "].iter().any(|word| output.stdout.contains(word));
                said || output.stderr.starts_with("ovs-port-agent: ")
            }
            Verb::Setup | Verb::Teardown | Verb::Create => answer["error"].is_string(),
            _ => answer["code"].is_u64() && answer["msg"].is_string(),
        };
        assert!(!output.stderr.contains("panicked"), "{output}");
        Self {
            ok: output.ok(),
            killed: output.status.signal() == Some(9),
            aborted: output.status.signal().is_some(),
            clear,
            answer,
            took: output.took,
            text: output.to_string(),
        }
    }

    /// The answer; panics unless it succeeded.
    #[track_caller]
    fn must(self) -> Value {
        assert!(self.ok, "{}", self.text);
        self.answer
    }
}
