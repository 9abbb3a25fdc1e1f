//! `ovs-port-agent status` calls containers and networks as Docker does.

use std::time::Duration;

use rig::{Host, poll};
use serde_json::Value;

use crate::host;

/// Containers of Docker and their networks, as `status` shows them.
fn shown(host: &Host) -> Vec<(String, String)> {
    let status = host.port_agent().run("status --json");
    let status: Value = serde_json::from_str(&status).unwrap();
    let mut shown: Vec<_> = status["attachments"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|attachment| attachment["runtime"] == "docker")
        .map(|attachment| {
            let text = |field: &str| attachment[field].as_str().unwrap().to_owned();
            (text("container"), text("network"))
        })
        .collect();
    shown.sort();
    shown
}

#[track_caller]
fn becomes(host: &Host, seconds: u64, expected: &[(&str, &str)]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|(name, network)| ((*name).to_owned(), (*network).to_owned()))
        .collect();
    poll(&format!("status does not show {expected:?}"), Duration::from_secs(seconds), || {
        (shown(host) == expected).then_some(())
    });
}

#[test]
fn status_shows_the_names_that_docker_shows() {
    let (host, driver, docker) = host();
    docker.run("network create -d ovs-agent web");
    docker.run("network create -d ovs-agent --internal db");
    docker.start_container("one", "--network web");
    becomes(&host, 5, &[("one", "web")]);
    docker.start_container("two", "--network web");
    docker.run("network connect db two");
    becomes(&host, 5, &[("one", "web"), ("two", "db"), ("two", "web")]);
    let table = host.port_agent().run("status");
    assert!(table.lines().any(|line| line.contains("two") && line.contains("db")), "{table}");
    // Started while no driver listened to dockerd, named when one does again; renamed meanwhile.
    docker.run("rename one uno");
    driver.kill();
    let _driver = host.docker_driver();
    becomes(&host, 5, &[("two", "db"), ("two", "web"), ("uno", "web")]);
    docker.run("rm -f uno two");
    becomes(&host, 5, &[]);
}

#[test]
fn without_the_api_of_docker_everything_works_but_names() {
    let (host, driver, docker) = host();
    host.sh("mv /run/docker.sock /run/elsewhere.sock");
    host.sh("ln -s /run/elsewhere.sock /run/docker.sock");
    docker.run("network create -d ovs-agent web");
    host.sh("rm /run/docker.sock; touch /run/docker.sock");
    let start = "-H unix:///run/elsewhere.sock run -d --name one --network web localhost/rig:1";
    host.sh(&format!("/usr/bin/docker {start}"));
    poll("the driver says nothing of it", Duration::from_secs(5), || {
        let log = driver.log();
        let said = log.contains("containers are shown by their ids: dockerd cannot be asked at");
        said.then_some(())
    });
    assert_eq!(shown(&host).len(), 1);
    host.sh("rm /run/docker.sock; ln -s /run/elsewhere.sock /run/docker.sock");
    becomes(&host, 40, &[("one", "web")]);
}
