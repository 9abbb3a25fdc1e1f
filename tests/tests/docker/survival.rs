//! Whatever is restarted or killed: containers keep their network, and nothing is left behind.

use std::time::Duration;

use rig::{Dockerd, Host, INTERNET, poll};

use crate::site::{DATA, SOON, Site, with_both};
use crate::{difference, host, nothing_left};

with_both!(everything_may_be_restarted_or_killed_and_nothing_is_left);

/// Both containers run on the network and talk.
#[track_caller]
fn talk(docker: &Dockerd) {
    let (one, two) = (docker.container("one"), docker.container("two"));
    let to = docker.address("web", "two");
    let _server = two.echo_server();
    one.tcp_echo(to, 100_000).unwrap();
    docker.run("exec one ping -c 1 -W 2 two");
}

fn everything_may_be_restarted_or_killed_and_nothing_is_left(site: &mut Site) {
    let before = site.snapshot();
    site.docker("network create -d ovs-agent web");
    site.docker(
        "network create -d ovs-agent --ipam-driver ovs-agent --subnet 10.200.0.0/24 shared",
    );
    let names = ["one", "two", "three"];
    for (name, network) in names.iter().zip(["web", "web", "shared"]) {
        site.start(name, &format!("--network {network} --restart always"));
    }
    let talk = |site: &Site| {
        let [one, two, three] = names.map(|name| site.container(name));
        let _server = two.echo_server();
        poll("no traffic", SOON, || one.tcp_echo(site.address("web", "two"), DATA).ok());
        site.docker("exec one ping -c 1 -W 2 two");
        for container in [one, three] {
            poll("no way out", SOON, || container.tcp_echo(INTERNET, DATA).ok());
        }
    };
    talk(site);
    site.docker("restart -t 0 one");
    site.docker("kill two");
    site.docker("start two");
    talk(site);
    // The driver dies and comes back: running containers never notice.
    site.without_driver(talk);
    site.docker("restart -t 0 two");
    talk(site);
    site.restart_switch();
    talk(site);
    site.docker("restart -t 0 one");
    talk(site);
    // dockerd ends in good order, and starts its containers again; then it crashes: it will never
    // send a Leave for what it had.
    for crash in [false, true] {
        site.restart_dockerd(crash, &names);
        talk(site);
    }
    site.docker("rm -f one two three");
    site.docker("network rm web shared");
    // A start of the driver clears away what dockerd has forgotten.
    site.without_driver(|_| ());
    site.soon_as_before(&before);
}

#[test]
fn with_live_restore_containers_go_on_while_dockerd_is_away() {
    let host = Host::new();
    host.unified_cgroups();
    host.port_agent().run("up");
    let mut driver = host.docker_driver();
    let mut docker = host.dockerd_live_restore();
    docker.load();
    host.port_agent().run("up");
    let before = host.snapshot();
    docker.run("network create -d ovs-agent web");
    docker.run("network create -d ovs-agent --ipam-driver ovs-agent shared");
    for (name, network) in [("one", "web"), ("two", "web"), ("three", "shared")] {
        docker.start_container(name, &format!("--network {network} --restart always"));
    }
    let pids = |docker: &Dockerd| ["one", "two", "three"].map(|n| docker.inspect(n, ".State.Pid"));
    let (same, there) = (pids(&docker), docker.address("web", "two"));
    let three = docker.address("shared", "three");
    let (one, two) = (docker.container("one"), docker.container("two"));
    for crash in [false, true] {
        if crash {
            docker.kill()
        } else {
            docker.stop()
        }
        let server = two.echo_server();
        one.tcp_echo(there, 1 << 20).unwrap();
        // Its sweep knows nothing of dockerd, and takes nothing away.
        driver.kill();
        driver = host.docker_driver();
        std::thread::sleep(Duration::from_secs(2));
        one.tcp_echo(there, 1 << 20).unwrap();
        drop(server);
        docker = host.dockerd_live_restore();
        assert_eq!(pids(&docker), same, "{}", docker.log());
        talk(&docker);
        // What dockerd holds is not given to anybody else.
        docker.start_container("four", "--network shared");
        assert_ne!(docker.address("shared", "four"), three);
        docker.run("rm -f four");
    }
    docker.run("restart -t 0 one three");
    drop((one, two));
    talk(&docker);
    docker.run("rm -f one two three");
    docker.run("network rm web shared");
    nothing_left(&before, &host);
}

/// The driver alone sees to it: no agent runs. A dockerd whose containers outlive it calls no driver
/// when it starts.
#[test]
fn docker_may_set_its_forward_policy_again() {
    for live in [false, true] {
        let host = Host::new();
        let uplink = host.uplink("wlp4s0", 1).addressed(&host).routed(&host, 100);
        host.unified_cgroups();
        host.port_agent().run("up");
        let driver = host.docker_driver();
        let start = || if live { host.dockerd_live_restore() } else { host.dockerd() };
        let docker = start();
        docker.load();
        docker.run("network create -d ovs-agent web");
        let one = docker.start_container("one", "--network web --restart always");
        let (_, seen) = one.who_answers(INTERNET).unwrap();
        assert_eq!(seen, uplink.address());
        drop(one);
        docker.stop();
        // As after a reload of a firewall and a reboot: our rule is gone, the policy is not.
        host.sh("iptables -F; iptables -X; iptables -P FORWARD DROP");
        let docker = start();
        poll("the container does not run", Duration::from_secs(60), || {
            (docker.inspect("one", ".State.Running") == "true").then_some(())
        });
        let one = docker.container("one");
        poll("traffic is dropped", Duration::from_secs(10), || {
            one.tcp_echo(INTERNET, 100_000).ok()
        });
        let rules = host.sh("iptables -S");
        assert_eq!(rules.matches("--comment ovs-agent").count(), 1, "{rules}{}", driver.log());
        // Whoever flushes it while dockerd runs.
        for attack in
            ["iptables -F; iptables -P FORWARD DROP", "nft flush ruleset; iptables -P FORWARD DROP"]
        {
            host.sh(attack);
            let begin = std::time::Instant::now();
            poll(attack, Duration::from_secs(10), || {
                host.sh("iptables -S").contains("--comment ovs-agent").then_some(())
            });
            assert!(begin.elapsed() < Duration::from_secs(1), "{attack}: {:?}", begin.elapsed());
        }
    }
}

#[test]
fn an_address_whose_release_was_missed_is_given_again() {
    let (host, driver, docker) = host();
    docker.run("network create -d ovs-agent --ipam-driver ovs-agent shared");
    let leases = || host.sh("find /run/ovs-port-agent/leases -type f -name '10.*' | wc -l");
    let before = leases();
    docker.start_container("one", "--network shared");
    assert_ne!(leases(), before);
    driver.kill();
    // dockerd repeats for 15 s each of Leave, DeleteEndpoint and ReleaseAddress, then forgets.
    docker.run("rm -f one");
    host.sh("rm -f /run/ovs-port-agent/attachments/*.json");
    let _driver = host.docker_driver();
    poll("the address stays taken", Duration::from_secs(20), || (leases() == before).then_some(()));
}

#[test]
fn a_network_removed_while_nobody_served_is_removed_later() {
    let (host, driver, docker) = host();
    docker.run("network create -d ovs-agent stays");
    let before = host.snapshot();
    docker.run("network create -d ovs-agent --subnet 10.30.0.0/24 web");
    driver.kill();
    docker.run("network rm web");
    let _driver = host.docker_driver();
    assert_ne!(difference(&before, &host), "", "it is not removed on a hunch");
    poll("the network stays", Duration::from_secs(120), || {
        difference(&before, &host).is_empty().then_some(())
    });
    docker.run("network create -d ovs-agent --subnet 10.30.0.0/24 web");
    docker.run("network rm web stays");
}
