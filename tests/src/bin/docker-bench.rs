//! The bench of the Docker driver: `docker run --rm … true` on our network, on a network of Docker's
//! bridge driver and on none, in turn, on one private host, in one run. What counts is the share of
//! the network: what a run takes beyond one without network, ours over Docker's.
//!
//! `docker-bench [--rounds N] [--check]`: with `--check` a ratio over its budget is an error.

use std::process::ExitCode;
use std::time::Duration;

use rig::{Daemon, DockerDriver, Dockerd, Host};

/// Our share of a run over that of Docker's bridge.
const BUDGET: f64 = 1.0;

const NETWORKS: [(&str, &str); 3] =
    [("ours", "--network web"), ("Docker's bridge", "--network plain"), ("none", "--network none")];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let check = words.iter().any(|word| word == "--check");
    let rounds = words
        .iter()
        .position(|word| word == "--rounds")
        .map_or(60, |at| words[at + 1].parse().expect("a number of rounds"));
    // A thread of its own: the host unshares namespaces, and `main` keeps the machine's.
    let ratio = std::thread::spawn(move || run(rounds)).join().expect("the bench panicked");
    if check && ratio > BUDGET { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Measures everything; returns the ratio of both shares.
fn run(rounds: usize) -> f64 {
    let host = Host::new();
    let (_agent, _driver, docker) = up(&host);
    for (_, network) in NETWORKS {
        time(&docker, network);
    }
    let mut times = [const { Vec::new() }; NETWORKS.len()];
    for round in 0..rounds {
        for turn in 0..NETWORKS.len() {
            // Another one goes first each round.
            let which = (round + turn) % NETWORKS.len();
            times[which].push(time(&docker, NETWORKS[which].1));
        }
    }
    println!("{rounds} rounds of docker run --rm … true in turn; milliseconds, median (p90)\n");
    let summaries = times.each_ref().map(|times| summary(times));
    let none = summaries[2].0;
    for ((name, _), (median, p90)) in NETWORKS.iter().zip(summaries) {
        println!("{name:<18}{median:>10.1} ({p90:.1}){:>12.1}", median - none);
    }
    let ratio = (summaries[0].0 - none) / (summaries[1].0 - none);
    println!("\nshare of the network, ours over Docker's bridge: {ratio:.2}, budget {BUDGET:.1}");
    ratio
}

/// As installed: agent, driver, dockerd, and both kinds of network.
fn up(host: &Host) -> (Daemon, DockerDriver, Dockerd) {
    host.unified_cgroups();
    let port_agent = host.port_agent();
    port_agent.run("up");
    let agent = Daemon::start("port-agent", port_agent.command("run").deadline(Duration::MAX));
    let driver = host.docker_driver();
    let docker = host.dockerd();
    docker.load();
    docker.run("network create -d ovs-agent web");
    docker.run("network create plain");
    (agent, driver, docker)
}

fn time(docker: &Dockerd, network: &str) -> Duration {
    let output = docker.output(&format!("run --rm {network} {} true", Dockerd::IMAGE));
    assert!(output.ok(), "{output}");
    output.took
}

/// Median and 90th percentile in milliseconds.
fn summary(times: &[Duration]) -> (f64, f64) {
    let mut millis: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    millis.sort_by(f64::total_cmp);
    let at = |part: usize| millis[millis.len() * part / 100];
    (at(50), at(90))
}
