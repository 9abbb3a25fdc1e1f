//! dockerd or the driver dies in the middle of a call (rows 6, 7 and 8 of docs/faults.md): that
//! costs one container its start, and nothing is left of it.

use std::time::{Duration, Instant};

use rig::{CONVERGED, Dockerd, Recovery, poll};

use crate::{difference, host, nothing_left};

/// What dockerd may wait for a driver that is not there before it says so: it tries again for 30 s
/// at most.
const PATIENCE: Duration = Duration::from_secs(35);

/// The driver clears away what dockerd forgot every 30 s.
const SWEPT: Duration = Duration::from_secs(45);

/// What the driver keeps of endpoints and addresses.
fn kept(host: &rig::Host) -> String {
    let endpoints = host.sh("cat /var/lib/ovs-port-agent/docker/endpoints/* 2>/dev/null || true");
    format!("{endpoints}\n{}", leases(host))
}

/// Waits until endpoints, addresses and the host are as they were.
#[track_caller]
fn given_back(before: &rig::Snapshot, host: &rig::Host, kept_before: &str) {
    let end = Instant::now() + SWEPT;
    loop {
        let (left, now) = (difference(before, host), kept(host));
        if left.is_empty() && now == kept_before {
            return;
        }
        assert!(Instant::now() < end, "not given back: {left}\n{kept_before}\n{now}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn leases(host: &rig::Host) -> String {
    host.sh("find /run/ovs-port-agent/leases -type f -name '10.*' | sort")
}

/// dockerd repeats the call without its body: that is refused, and the next start works.
#[test]
fn a_driver_that_dies_in_a_join_costs_that_start_alone() {
    let (host, driver, docker) = host();
    docker.run("network create -d ovs-agent --ipam-driver ovs-agent shared");
    let stays = docker.start_container("stays", "--network shared");
    // The driver hears its name from dockerd a moment later.
    poll("the container has its name", SWEPT, || {
        let records = host.sh("cat /run/ovs-port-agent/attachments/*.json");
        records.contains("\"name\":\"stays\"").then_some(())
    });
    let before = host.snapshot();
    let held = kept(&host);
    // Join waits for ovsdb-server.
    host.switch().freeze_ovsdb();
    let (output, driver) = std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            docker.output(&format!("run -d --name one --network shared {}", Dockerd::IMAGE))
        });
        poll("an endpoint", CONVERGED, || {
            let endpoints = "/var/lib/ovs-port-agent/docker/endpoints";
            (std::fs::read_dir(endpoints).unwrap().count() == 2).then_some(())
        });
        std::thread::sleep(Duration::from_millis(500));
        driver.kill();
        host.switch().thaw_ovsdb();
        // It takes its dead socket over, and dockerd goes on.
        let driver = host.docker_driver();
        (run.join().unwrap(), driver)
    });
    assert!(!output.ok() && output.stderr.contains("no body"), "{output}");
    assert!(output.took < PATIENCE, "{output}");
    docker.run("rm -f one");
    // By dockerd's DeleteEndpoint or, where that came too early, by the driver's next sweep.
    given_back(&before, &host, &held);
    // The same again.
    docker.start_container("one", "--network shared");
    docker.run("exec one ping -c 1 -W 2 stays");
    docker.run("rm -f one");
    nothing_left(&before, &host);
    drop((stays, driver));
}

/// dockerd waits for a driver that is away, and goes on with the next one as soon as it is there.
#[test]
fn dockerd_is_not_held_up_for_longer_than_its_driver_is_away() {
    let (host, driver, docker) = host();
    docker.run("network create -d ovs-agent web");
    driver.kill();
    let started = Instant::now();
    let output = std::thread::scope(|scope| {
        let run = scope
            .spawn(|| docker.output(&format!("run --rm --network web {} true", Dockerd::IMAGE)));
        std::thread::sleep(Duration::from_secs(2));
        // Others do not wait.
        docker.run(&format!("run --rm --network none {} true", Dockerd::IMAGE));
        assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
        let _driver = host.docker_driver();
        run.join().unwrap()
    });
    assert!(output.ok(), "{output}");
    assert!(output.took < PATIENCE, "{output}");
}

#[test]
fn a_dockerd_killed_after_create_endpoint_leaves_nothing() {
    let (host, driver, docker) = host();
    docker.run("network create -d ovs-agent --ipam-driver ovs-agent shared");
    let before = host.snapshot();
    let held = kept(&host);
    let mut docker = docker;
    let mut reaped = Recovery::of("8 dockerd killed after CreateEndpoint: the endpoint is reaped");
    for round in 0..rig::rounds(1, 5) {
        host.switch().freeze_ovsdb();
        docker = std::thread::scope(|scope| {
            let client = &docker;
            let run = scope.spawn(move || {
                client
                    .output(&format!("create --name c{round} --network shared {}", Dockerd::IMAGE))
            });
            assert!(run.join().unwrap().ok());
            let (answered, answer) = std::sync::mpsc::channel();
            scope.spawn(move || {
                // It may never be told.
                answered.send(client.output(&format!("start c{round}"))).ok();
            });
            poll("an endpoint", CONVERGED, || {
                let endpoints = "/var/lib/ovs-port-agent/docker/endpoints";
                (std::fs::read_dir(endpoints).unwrap().count() == 1).then_some(())
            });
            client.kill_daemon();
            drop(answer);
            host.switch().thaw_ovsdb();
            host.dockerd()
        });
        docker.run(&format!("rm -f c{round}"));
        let begin = Instant::now();
        given_back(&before, &host, &held);
        reaped.took(begin.elapsed());
        docker.start_container("again", "--network shared");
        docker.run("rm -f again");
    }
    assert_eq!(kept(&host), held);
    drop(driver);
}
