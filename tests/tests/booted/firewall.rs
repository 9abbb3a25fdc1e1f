//! How long a published port is lost when others write the firewall anew, as a LAN peer sees it.

use std::net::SocketAddr;
use std::time::Duration;

use rig::{Machine, Probe};

use super::{CONFIG, SECOND, WIRELESS, users_machine};

/// What the promise is: back within a second.
const LIMIT: Duration = SECOND;

/// Where firewalld itself is in the way, which takes its time on a busy machine.
const FIREWALLD: Duration = Duration::from_secs(5);

/// Rounds of each event; `./run bench firewall` asks for more.
fn rounds() -> usize {
    std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// Before and after an event: who is not interrupted by it is seen to be there.
const QUIET: Duration = Duration::from_millis(300);

/// What happens later in its wake (dockerd hears of firewalld's reload, and writes its rules again).
const WAKE: Duration = Duration::from_millis(1500);

/// While it reloads, firewalld drops what is new by itself, unless its own configuration says else.
const OPEN: &str = "sed -i 's/^ReloadPolicy=.*/ReloadPolicy=ACCEPT/' /etc/firewalld/firewalld.conf
                    systemctl restart firewalld";

const CLOSED: &str = "firewalld's reload";
const FLUSH: &str = "nft flush ruleset";

/// What is prepared once, what happens.
const EVENTS: [(&str, &str, &str); 4] = [
    (FLUSH, "", FLUSH),
    ("Docker's restart", "", "systemctl restart docker"),
    (CLOSED, "", "firewall-cmd --reload"),
    ("the same, left open", OPEN, "firewall-cmd --reload"),
];

#[test]
fn a_published_port_outlives_a_flush_where_tables_are_protected() {
    for (event, outages) in measure("") {
        // The one rule of ours among Docker's is not protected: where Docker writes its own anew
        // it goes for a moment.
        let gone = match event {
            FLUSH => Duration::ZERO,
            CLOSED => FIREWALLD,
            _ => LIMIT,
        };
        assert!(outages.iter().all(|outage| *outage <= gone), "{event}: {outages:?}");
    }
}

#[test]
fn a_published_port_is_back_within_a_second_elsewhere() {
    for (event, outages) in measure("protect_rules = false\n") {
        let gone = if event == CLOSED { FIREWALLD } else { LIMIT };
        assert!(outages.iter().all(|outage| *outage < gone), "{event}: {outages:?}");
    }
}

/// Each event with its outages, sorted.
fn measure(config: &str) -> Vec<(&'static str, Vec<Duration>)> {
    let machine = users_machine();
    // Its containers outlive a restart: what is lost is lost by the rules.
    machine.write("/etc/docker/daemon.json", "{\"live-restore\": true}");
    machine.install(&format!("{config}{CONFIG}"));
    machine.sh("systemctl start firewalld; systemctl restart docker");
    let image = machine.docker_image();
    machine.sh(&format!(
        "docker network create -d ovs-agent web; docker run -d --name web --network web -p 8080:7 {image}"
    ));
    let web = machine.docker_container("web");
    let _server = web.echo_server();
    let peer = machine.wireless().router();
    peer.tcp_echo_port(WIRELESS, 8080, 100_000).unwrap();
    let mut all = Vec::new();
    println!("\n{:<24}{:>10}{:>10}{:>10}", "", "median", "worst", "tries");
    for (event, before, script) in EVENTS {
        machine.sh(before);
        std::thread::sleep(WAKE);
        let mut tries = 0;
        let mut outages: Vec<_> = (0..rounds())
            .map(|_| {
                let (outage, count) = outage(&machine, script);
                tries += count;
                outage
            })
            .collect();
        outages.sort();
        let (median, worst) = (outages[outages.len() / 2], outages[outages.len() - 1]);
        println!("{event:<24}{:>10}{:>10}{tries:>10}", median.as_millis(), worst.as_millis());
        all.push((event, outages));
    }
    peer.tcp_echo_port(WIRELESS, 8080, 100_000).unwrap();
    all
}

fn outage(machine: &Machine, script: &str) -> (Duration, usize) {
    let probe = Probe::start(machine.wireless().router(), SocketAddr::new(WIRELESS, 8080));
    std::thread::sleep(QUIET);
    machine.sh(&format!("systemctl reset-failed; {script}"));
    std::thread::sleep(WAKE);
    probe.end()
}
