//! What netavark never undoes: a setup that failed, one that was killed, an answer nobody read, and
//! a namespace that has gone.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use rig::{Command, Lab, Output, poll};
use serde_json::{Value, json};

use super::{Scene, address, scene};

/// The calls that change or reveal something outside the process.
const CALLS: &str = "openat,write,pwrite64,rename,linkat,unlinkat,unlink,mkdir,mkdirat,fcntl,\
     setns,sendto,sendmsg,recvfrom,recvmsg,connect,fsync,ftruncate,ioctl";

/// What is sent for a container on a VLAN with a subnet of its own.
fn input(container: &str) -> Value {
    json!({
        "container_id": container, "container_name": container, "port_mappings": null,
        "network": {
            "name": "blue", "id": "b014d0898020", "driver": "ovs-agent", "internal": false,
            "ipv6_enabled": false, "dns_enabled": false, "network_interface": "ovsbr1",
            "options": {"vlan": "30", "addresses": "pool", "gateway": "10.30.0.1"},
            "ipam_options": {"driver": "none"}, "subnets": [{"subnet": "10.30.0.0/24"}],
        },
        "network_options": {"interface_name": "eth0", "static_ips": null},
    })
}

/// setup or teardown as netavark calls it, under strace; `fault` is what happens to which call.
fn call(lab: &Lab, verb: &str, fault: Option<(&str, usize, &str)>) -> Output {
    let log = format!("/run/rig/{verb}.strace");
    let mut command = Command::new("strace").args(["-f", "-qq", "-o", &log, "-e"]);
    command = match fault {
        None => command.args([format!("trace={CALLS}")]),
        Some((call, number, what)) => command.args([
            format!("trace={call}"),
            "-e".to_owned(),
            format!("inject={call}:{what}:when={number}"),
        ]),
    };
    let program = lab.host.plugin().path().to_owned();
    command.args([&program]).args([verb, "/run/netns/web"]).stdin(input("web").to_string()).output()
}

/// Every call of an undisturbed setup as its name and number, those of the program's start aside.
fn points(lab: &Lab) -> Vec<(String, usize)> {
    call(lab, "setup", None).success();
    call(lab, "teardown", None).success();
    let log = fs::read_to_string("/run/rig/setup.strace").unwrap();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut started, mut points) = (false, Vec::new());
    for line in log.lines() {
        // What comes before the configuration is the loader's.
        started |= line.contains("/etc/ovs-port-agent") || line.contains("/run/ovs-port-agent");
        let name = line.split_whitespace().nth(1).and_then(|rest| rest.split('(').next());
        let Some(name) = name.filter(|name| CALLS.split(',').any(|known| known == *name)) else {
            continue;
        };
        let count = counts.entry(name).or_default();
        *count += 1;
        // Files are opened a hundred times: a few of them stand for all.
        let many = ["openat", "fcntl"].contains(&name);
        if started && (!many || count.is_multiple_of(5)) {
            points.push((name.to_owned(), *count));
        }
    }
    assert!(points.len() > 40, "{log}");
    points
}

/// A host with a container whose VLAN has been used before: its gateway stays.
fn lab() -> (Lab, rig::Container) {
    let lab = Lab::new();
    let web = lab.host.container("web");
    (lab, web)
}

#[test]
fn a_setup_that_fails_undoes_itself() {
    let (lab, web) = lab();
    let points = points(&lab);
    let before = lab.snapshot();
    let mut failed = 0;
    for (name, number) in &points {
        let at = format!("{name} number {number} fails");
        let done = call(&lab, "setup", Some((name, *number, "error=EIO")));
        if name == "setns" && done.status.code().is_none() {
            // The way back from the container is barred: it ends itself rather than go on in there.
            call(&lab, "teardown", None).success();
            continue;
        }
        if done.ok() {
            // Something that may fail: a log line, a second try. Then it is plugged in, in truth.
            let reply: Value =
                serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{at}: {e}"));
            assert!(reply["interfaces"]["eth0"]["mac_address"].is_string(), "{at}: {reply}");
            assert!(web.ping("10.30.0.1".parse().unwrap()), "{at}, and the gateway is silent");
            call(&lab, "teardown", None).success();
        } else {
            failed += 1;
            let reply: Value = serde_json::from_str(&done.stdout).unwrap_or_default();
            // Where the answer itself could not be written there is none.
            assert!(reply["error"].is_string() || name == "write", "{at}: {done}");
        }
        assert_eq!(lab.traces(), [""; 0], "{at}: {done}");
        assert!(!web.ip("-o link").contains("eth0"), "{at}: {done}");
    }
    println!("{failed} of {} failed", points.len());
    assert!(failed * 4 > points.len(), "{failed} of {} failed", points.len());
    // What could not be written into the ledger at once waited here.
    lab.host.sh("find /run/ovs-port-agent/ledger.spool -empty -delete || true");
    lab.assert_returned(&before, "after all");
    assert_eq!(lab.engine.ledger().open().unwrap(), []);
}

/// A killed plugin says nothing, and Podman calls nothing: when the container's namespace has gone
/// as well, gc finds by the intent what there is.
#[test]
fn a_setup_that_is_killed_is_collected() {
    let (lab, web) = lab();
    let points: Vec<_> = points(&lab)
        .into_iter()
        .filter(|(name, _)| ["sendto", "sendmsg", "linkat", "rename"].contains(&name.as_str()))
        .collect();
    drop(web);
    let before = lab.snapshot();
    let agent = lab.host.port_agent();
    let mut left = 0;
    for (name, number) in &points {
        let at = format!("killed before {name} number {number}");
        let web = lab.host.container("web");
        let done = call(&lab, "setup", Some((name, *number, "signal=KILL")));
        if done.ok() {
            // Waiting takes more or fewer calls each time.
            call(&lab, "teardown", None).success();
            continue;
        }
        // Its namespace lives, so that nothing is proved yet.
        let traces = lab.traces();
        let said = agent.run("gc");
        assert_eq!(lab.traces(), traces, "{at}: {said}");
        web.remove();
        left += usize::from(!traces.is_empty());
        // The kernel takes a namespace apart behind our backs.
        poll(&at, Duration::from_secs(10), || {
            // What was not even written to its end is dead after a minute.
            lab.host
                .sh("find /run/ovs-port-agent/attachments -name '*.new' -exec touch -d -5min {} +");
            agent.run("gc");
            lab.traces().is_empty().then_some(())
        });
    }
    assert!(left * 2 > points.len(), "{left} of {} left something", points.len());
    lab.host.sh("find /run/ovs-port-agent/ledger.spool -empty -delete || true");
    lab.assert_returned(&before, "after all");
    assert_eq!(lab.engine.ledger().open().unwrap(), []);
}

/// Nobody can read the answer: then nothing is plugged in.
#[test]
fn an_answer_that_nobody_reads_undoes_the_setup() {
    let (lab, web) = lab();
    call(&lab, "setup", None).success();
    call(&lab, "teardown", None).success();
    let before = lab.snapshot();
    let plugin = lab.host.plugin().path().display().to_string();
    let script = format!("{plugin} setup /run/netns/web >/dev/full");
    let done = Command::new("sh").args(["-c", &script]).stdin(input("web").to_string()).output();
    assert!(!done.ok() && done.stderr.contains("cannot write the answer"), "{done}");
    assert_eq!(lab.traces(), [""; 0]);
    assert!(!web.ip("-o link").contains("eth0"));
    lab.assert_returned(&before, "after the answer was lost");
}

/// Podman and its monitor die with the container, as in a crash: no teardown will ever be called.
#[test]
fn what_a_crash_leaves_is_collected() {
    let scene = scene();
    let Scene { podman, host, .. } = &scene;
    scene.create("pool");
    let agent = host.port_agent();
    let db = podman.start("db", "--network pool");
    let before = host.snapshot();
    let said = |args: &str| agent.run(args);
    let web = podman.start("web", "--network pool:ip=10.200.0.50");
    let inspect = |what: &str| podman.run(&format!("inspect -f {{{{{what}}}}} web"));
    let path = inspect(".NetworkSettings.SandboxKey").trim().to_owned();
    let (monitor, pid) = (inspect(".State.ConmonPid"), inspect(".State.Pid"));
    // What is not seen is not dead: the path is gone, the namespace lives.
    let hidden = format!("umount -l {path}; mv {path} {path}.hidden");
    host.sh(&hidden);
    assert_eq!(said("gc").trim(), "Nothing was left behind.");
    let server = db.echo_server();
    web.tcp_echo(address(&db, "eth0", 4), 100_000).unwrap();
    drop(web);
    host.sh(&format!("kill -9 {} {}", monitor.trim(), pid.trim()));
    let line = poll("the kernel keeps the pair", Duration::from_secs(10), || {
        let said = said("gc --dry-run");
        said.contains("would be removed").then_some(said)
    });
    assert!(line.contains("(web)") && line.contains(&format!("{path} has gone")), "{line}");
    assert_eq!(host.vsctl("list-ports ovsbr1").lines().count(), 2, "a rehearsal changed something");
    assert!(said("gc").contains("(web)  removed"));
    assert_eq!(said("gc").trim(), "Nothing was left behind.");
    host.sh(&format!("rm -f {path}.hidden"));
    scene.returned(&before);
    // Its address is free again, and who lives was left alone.
    let other = podman.start("other", "--network pool:ip=10.200.0.50");
    other.tcp_echo(address(&db, "eth0", 4), 100_000).unwrap();
    drop(server);
}
