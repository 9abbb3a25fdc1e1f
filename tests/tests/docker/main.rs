//! Networks of a real dockerd on the Docker driver.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod addresses;
mod apart;
mod compose;
mod crash;
mod day;
mod endpoints;
mod faults;
mod names;
mod ports;
mod site;
mod survival;

use rig::{DockerDriver, Dockerd, Host, Snapshot};

/// Brings a host up, with a driver and a dockerd that has an image.
fn up(host: &Host) -> (DockerDriver, Dockerd) {
    host.unified_cgroups();
    host.port_agent().run("up");
    let driver = host.docker_driver();
    let docker = host.dockerd();
    docker.load();
    // As at every boot: Docker's chain is there now, and our rule moves into it.
    host.port_agent().run("up");
    (driver, docker)
}

/// The same on a host without uplink.
fn host() -> (Host, DockerDriver, Dockerd) {
    let host = Host::new();
    let (driver, docker) = up(&host);
    (host, driver, docker)
}

/// What is different from before; where our table stands among others' is not.
fn difference(before: &Snapshot, host: &Host) -> String {
    let text = before.difference(&host.snapshot());
    text.lines().filter(|line| !line.ends_with("same lines in another order")).collect()
}

#[track_caller]
fn nothing_left(before: &Snapshot, host: &Host) {
    let difference = difference(before, host);
    assert!(difference.is_empty(), "the host is not as it was: {difference}");
}
