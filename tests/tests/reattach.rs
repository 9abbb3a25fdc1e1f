//! ADD again under a name that was just freed: the dead-port trap, and the way around it.

use std::time::Duration;

use rig::{Container, Lab, poll};
use shared::attachment::{Engine, Error, Record};
use shared::config::Config;

/// Whether frames pass from the container to its gateway.
fn passes(web: &Container) -> bool {
    web.ping("10.200.0.1".parse().unwrap())
}

/// Waits until ovs-vswitchd has caught up with the database.
fn settle(lab: &Lab) {
    let view = |lab: &Lab| lab.ovsdb().view(&"ovsbr1".parse().unwrap()).unwrap();
    poll("ovs-vswitchd catches up", Duration::from_secs(10), || {
        let view = view(lab);
        (view.current >= view.next).then_some(())
    });
}

#[test]
fn fifty_times_in_a_row() {
    let lab = Lab::new();
    let web = lab.host.container("web");
    let _server = lab.host.echo_server();
    for turn in 0..50 {
        let record = lab.attach(&web);
        lab.check(&record).unwrap_or_else(|error| panic!("turn {turn}: {error}"));
        let gateway = "10.200.0.1".parse().unwrap();
        web.tcp_echo(gateway, 1000).unwrap_or_else(|error| panic!("turn {turn}: {error}"));
        lab.detach("web");
    }
    assert_eq!(lab.traces(), [""; 0]);
}

/// A network may name an ovsdb-server of its own: its ports are in no switch of the agent's.
#[test]
fn a_port_of_another_switch_is_not_plugged_into_this_one() {
    let lab = Lab::new();
    let web = lab.host.container("web");
    let record = lab.attach(&web);
    let file = lab.host.sh("ls /run/ovs-port-agent/attachments/*.json");
    let text = std::fs::read_to_string(file.trim()).unwrap();
    let mut elsewhere: serde_json::Value = serde_json::from_str(&text).unwrap();
    elsewhere["ovsdb"] = "unix:/run/another/db.sock".into();
    lab.host.vsctl(&format!("del-port {}", record.port));
    std::fs::write(file.trim(), elsewhere.to_string()).unwrap();
    let restored = lab.engine.restore().unwrap();
    assert!(restored.plugged.is_empty() && restored.failed.is_empty(), "{restored:?}");
    let status = lab.host.port_agent().run("status");
    assert!(!status.contains("port missing"), "{status}");
    std::fs::write(file.trim(), text).unwrap();
    assert_eq!(lab.engine.restore().unwrap().plugged, std::slice::from_ref(&record.key));
    assert!(passes(&web));
    // Whoever unplugs it asks the server that has it.
    elsewhere["ovsdb"] = serde_json::to_value(&lab.engine.config().ovsdb).unwrap();
    std::fs::write(file.trim(), elsewhere.to_string()).unwrap();
    let nowhere = "unix:/run/another/db.sock".parse().unwrap();
    let agents = Engine::new(Config { ovsdb: nowhere, ..lab.engine.config().clone() });
    agents.detach(&record.key).unwrap();
    assert_eq!(lab.host.vsctl("list-ports ovsbr1").trim(), "");
}

/// DEL and ADD while ovs-vswitchd sees neither, then both at once.
fn behind_its_back(lab: &Lab, before: impl FnOnce(), between: impl FnOnce()) -> Record {
    let switch = lab.host.switch();
    switch.freeze_vswitchd();
    before();
    lab.detach("web");
    between();
    let mut request = lab.request("web");
    request.link_deadline = Duration::from_secs(10);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The port must be in the database before ovs-vswitchd looks again.
            poll("the new port", Duration::from_secs(5), || {
                lab.traces().iter().any(|trace| trace.starts_with("port ")).then_some(())
            });
            switch.thaw_vswitchd();
        });
        lab.attach_as(&request)
    })
}

#[test]
fn while_ovs_vswitchd_did_not_look() {
    let lab = Lab::new();
    let web = lab.host.container("web");
    for _ in 0..5 {
        let record = lab.attach(&web);
        let again = behind_its_back(&lab, || (), || ());
        assert_ne!(again.port, record.port, "a name that the switch still holds");
        lab.check(&again).unwrap();
        assert!(passes(&web));
        lab.detach("web");
        settle(&lab);
    }
    // Once the switch has caught up, the first choice is free again.
    assert_eq!(lab.attach(&web).port.as_str(), "veth-web-eth0");
}

#[test]
fn the_trap_is_real() {
    let lab = Lab::new();
    let web = lab.host.container("web");
    let record = lab.attach(&web);
    // The same without the note of freed names.
    let forget = || std::fs::remove_file(lab.engine.state().freed()).unwrap();
    let again = behind_its_back(&lab, || (), forget);
    assert_eq!(again.port, record.port);
    assert!(!passes(&web), "the switch copes with a name used again: the guard has no purpose");
    assert!(matches!(lab.check(&again), Err(Error::NoFrames { .. })));
}

#[test]
fn a_port_that_others_removed_is_held_too() {
    let lab = Lab::new();
    let web = lab.host.container("web");
    let record = lab.attach(&web);
    let remove = || drop(lab.host.vsctl(&format!("--no-wait del-port {}", record.port)));
    let again = behind_its_back(&lab, remove, || ());
    assert_ne!(again.port, record.port);
    assert!(passes(&web));
}
