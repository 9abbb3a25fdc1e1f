//! What netavark never undoes: a setup that failed, one that was killed, an answer nobody read, and
//! a namespace that has gone.

use std::collections::BTreeMap;
use std::fs;

use rig::{Command, Lab, Output};
use serde_json::{Value, json};

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
        if started {
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
