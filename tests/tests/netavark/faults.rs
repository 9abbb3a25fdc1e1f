//! What netavark never undoes: an answer nobody read, and a namespace that has gone. Setups that fail
//! and that are killed are in the crash sweep (`rig::sweep`).

use std::time::Duration;

use rig::{Command, Lab, Output, poll};
use serde_json::{Value, json};

use super::{Scene, address, scene};

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

/// setup or teardown as netavark calls it.
fn call(lab: &Lab, verb: &str) -> Output {
    let plugin = Command::new(lab.host.plugin().path());
    plugin.args([verb, "/run/netns/web"]).stdin(input("web").to_string()).output()
}

/// A host with a container whose VLAN has been used before: its gateway stays.
fn lab() -> (Lab, rig::Container) {
    let lab = Lab::new();
    let web = lab.host.container("web");
    (lab, web)
}

/// Nobody can read the answer: then nothing is plugged in.
#[test]
fn an_answer_that_nobody_reads_undoes_the_setup() {
    let (lab, web) = lab();
    call(&lab, "setup").success();
    call(&lab, "teardown").success();
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
