//! Rows 4, 5 and 6: the agent is frozen, absent, or dead with its socket left behind.

use std::os::unix::net::UnixListener;
use std::time::Duration;

use nix::sys::signal::Signal;
use rig::{Recovery, rounds};

use super::*;

/// What a call may take that waits for an agent which does not answer (row 4).
const FROZEN: Duration = Duration::from_secs(3);

fn port(host_port: u16) -> Value {
    json!([{ "hostPort": host_port, "containerPort": rig::ECHO_PORT, "protocol": "tcp" }])
}

/// Frozen at its work, wherever that is: it may hold whatever the agent ever holds.
#[test]
fn a_frozen_agent_holds_up_nobody_who_needs_it_not() {
    let site = Site::with_agent();
    let web = site.host.container("web");
    let (mut adds, mut dels) =
        (Recovery::of("4 agent frozen: ADD"), Recovery::of("4 agent frozen: DEL"));
    for round in 0..rounds(12, 300) {
        // Something to repair, and a moment of the repair.
        match round % 3 {
            0 => drop(site.host.try_sh("ip address flush dev ovsbr1")),
            1 => drop(site.host.vsctl("--no-wait add-port ovsbr1 strange -- del-port strange")),
            _ => {}
        }
        std::thread::sleep(Duration::from_millis((round as u64 * 37) % 400));
        site.agent().signal(Signal::SIGSTOP);
        let add = site.add(&web, &lab());
        assert!(add.ok() && add.output.took < FROZEN, "round {round}: {}", add.output);
        let del = site.del(&web, &lab());
        assert!(del.ok() && del.output.took < FROZEN, "round {round}: {}", del.output);
        site.agent().signal(Signal::SIGCONT);
        adds.took(add.output.took);
        dels.took(del.output.took);
    }
    site.assert_heals("after the last thaw", &web);
}

#[test]
fn a_frozen_agent_publishes_nothing_and_that_is_said_in_three_seconds() {
    let site = Site::with_agent();
    let (web, late) = (site.host.container("web"), site.host.container("late"));
    site.add(&web, &publishing(&port(8001))).success();
    site.agent().signal(Signal::SIGSTOP);
    let reply = site.add(&late, &publishing(&port(8002)));
    assert!(reply.output.took < FROZEN, "{}", reply.output);
    let error = reply.failure();
    assert_eq!(error["code"], 11, "{error}");
    let text = said(&error);
    assert!(
        text.contains("ovs-port-agent did not answer") && text.contains("journalctl"),
        "{text}"
    );
    // Nothing is half done: the port is not held, the address is free, the ledger is even.
    site.assert_whole("a refused ADD", &[&web]);
    // DEL of what is published is done, and what the agent has to do for it waits on disk.
    let reply = site.del(&web, &publishing(&port(8001)));
    assert!(reply.ok() && reply.output.took < FROZEN, "{}", reply.output);
    site.agent().signal(Signal::SIGCONT);
    let mut thawed = Recovery::of("4 agent thawed: a withdrawn port is free");
    thawed.until("the port of DEL is free", || std::net::TcpListener::bind("0.0.0.0:8001").ok());
    site.assert_clean("after the thaw");
    site.add(&late, &publishing(&port(8002))).success();
    site.assert_whole("the same ADD", &[&late]);
    site.del(&late, &publishing(&port(8002))).success();
    site.assert_clean("the same DEL");
}

/// While the agent is frozen nobody can take an old rule back: what it leads to must not become
/// somebody else.
#[test]
fn an_address_that_a_port_still_leads_to_is_given_to_nobody() {
    let site = Site::with_agent();
    let wire = site.host.uplink("eth0", 1).addressed(&site.host).routed(&site.host, 100);
    let (web, next) = (site.host.container("web"), site.host.container("next"));
    let old = address(&site.add(&web, &publishing(&port(8001))).success());
    site.agent().signal(Signal::SIGSTOP);
    site.del(&web, &publishing(&port(8001))).success();
    // Somebody asks for that very address.
    let mut same = lab();
    same["args"] = json!({ "cni": { "ips": [old.to_string()] } });
    let reply = site.add(&next, &same);
    let server = next.echo_server();
    assert!(said(&reply.failure()).contains("is held by lab/web/eth0"));
    let gc = site.host.port_agent().run("gc");
    assert!(!gc.contains(" removed "), "{gc}");
    assert!(said(&site.add(&next, &same).failure()).contains("is held by lab/web/eth0"));
    site.agent().signal(Signal::SIGCONT);
    poll("the address is free", CONVERGED, || site.add(&next, &same).ok().then_some(()));
    assert!(wire.router().tcp_echo_port(wire.address(), 8001, 1000).is_err());
    drop(server);
    site.del(&next, &same).success();
}

#[test]
fn an_absent_agent_finds_what_was_done_without_it() {
    let mut site = Site::with_agent();
    let (web, db) = (site.host.container("web"), site.host.container("db"));
    site.add(&web, &publishing(&port(8001))).success();
    let mut recovery = Recovery::of("5 agent absent: what happened meanwhile is settled");
    for round in 0..rounds(2, 20) {
        site.agent().kill();
        site.del(&web, &publishing(&port(8001))).success();
        site.add(&db, &lab()).success();
        site.assert_whole("while it is absent", &[&db]);
        let error = site.add(&web, &publishing(&port(8001))).failure();
        assert!(said(&error).contains("published ports need a running ovs-port-agent"), "{error}");
        let begin = std::time::Instant::now();
        site.agent = Some(start(&site.host));
        site.assert_whole(&format!("round {round}, it is back"), &[&db]);
        recovery.took(begin.elapsed());
        site.del(&db, &lab()).success();
        site.add(&web, &publishing(&port(8001))).success();
    }
    site.del(&web, &publishing(&port(8001))).success();
    site.assert_clean("after all");
}

/// What stands at the agent's and the driver's addresses is dead, or nothing of theirs at all.
#[test]
fn a_socket_that_was_left_behind_is_taken_over() {
    let mut site = Site::with_agent();
    let web = site.host.container("web");
    site.agent().kill();
    let control = "/run/ovs-port-agent/control.sock";
    let unnamed = "/run/ovs-port-agent/control.new";
    // Killed before it was renamed; a listener that died; a file.
    for path in [unnamed, control] {
        std::fs::remove_file(path).ok();
        drop(UnixListener::bind(path).unwrap());
    }
    site.add(&web, &lab()).success();
    site.del(&web, &lab()).success();
    site.agent = Some(start(&site.host));
    site.add(&web, &publishing(&port(8001))).success();
    site.del(&web, &publishing(&port(8001))).success();
    site.agent().kill();
    std::fs::remove_file(control).ok();
    std::fs::write(control, "not a socket").unwrap();
    site.add(&web, &lab()).success();
    site.del(&web, &lab()).success();
    let error = site.add(&web, &publishing(&port(8001))).failure();
    assert!(said(&error).contains("ovs-port-agent"), "{error}");
    site.agent = Some(start(&site.host));
    site.assert_clean("sockets left behind");

    // The Docker driver's, which dockerd connects to.
    let driver = site.host.docker_driver();
    driver.kill();
    let driver = site.host.docker_driver();
    assert_eq!(driver.post("Plugin.Activate", "").0, 200);
    driver.kill();
    std::fs::remove_file(rig::DockerDriver::SOCKET).unwrap();
    drop(UnixListener::bind(rig::DockerDriver::SOCKET).unwrap());
    let driver = site.host.docker_driver();
    assert_eq!(driver.post("Plugin.Activate", "").0, 200);
    driver.stop();
}
