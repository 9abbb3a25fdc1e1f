//! `ovs-port-agent run`: keeps the managed block, the ledger and the host itself; and the same
//! block without an agent.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use rig::{Container, Daemon, Host, Uplink, poll};
use serde_json::{Value, json};

const FILE: &str = "/etc/network/interfaces";
const LEDGER: &str = "/var/lib/ovs-port-agent/ledger.jsonl";
const SPOOL: &str = "/run/ovs-port-agent/ledger.spool";

/// Far above what it takes; a machine under load is slow.
const SOON: Duration = Duration::from_secs(10);

fn lab() -> Value {
    json!({ "cniVersion": "1.0.0", "name": "lab", "type": "ovs-agent" })
}

fn interfaces() -> String {
    fs::read_to_string(FILE).unwrap()
}

fn shows(port: &str) -> bool {
    interfaces().contains(&format!("iface {port} inet manual"))
}

fn start(host: &Host) -> Daemon {
    let agent = Daemon::start("ovs-port-agent", host.port_agent().command("run"));
    agent.ready(SOON, || agent.log().contains("the host is up"));
    agent
}

fn add(host: &Host, name: &str) -> Container {
    let container = host.container(name);
    host.plugin().add(&container, &lab()).success();
    container
}

/// DEL ends while the agent still waits for the kernel; what comes at once after it finds nothing.
#[test]
fn a_container_that_comes_back_at_once_has_its_network() {
    let host = Host::new();
    let _agent = start(&host);
    let peer = add(&host, "peer");
    let _server = peer.echo_server();
    let address = peer.ip("-o -4 address show dev eth0");
    let address = address.split_whitespace().nth(3).unwrap().split('/').next().unwrap();
    let web = host.container("web");
    for round in 0..20 {
        let result = host.plugin().add(&web, &lab()).success();
        let port = result["interfaces"][0]["name"].as_str().unwrap();
        let listed = || fs::exists(format!("/sys/class/net/{port}")).unwrap();
        web.tcp_echo(address.parse().unwrap(), 50_000)
            .unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert!(listed(), "{result}");
        host.plugin().del(&web, &lab()).success();
        assert!(!listed(), "round {round}");
        if round % 2 == 0 {
            assert!(!host.try_sh(&format!("ip link show {port}")).ok(), "round {round}");
            assert!(!web.ip("-o link").contains("eth0"), "round {round}");
        }
    }
}

#[test]
fn without_an_agent_the_block_is_written_by_each_call() {
    let host = Host::new();
    host.port_agent().run("up");
    let web = add(&host, "web");
    assert!(shows("veth-web-eth0"), "{}", interfaces());
    host.plugin().del(&web, &lab()).success();
    assert!(!shows("veth-web-eth0"), "{}", interfaces());
}

#[test]
fn the_agent_follows_the_switch_and_leaves_the_rest_of_the_file_alone() {
    let host = Host::new();
    host.config("debounce_ms = 300\n");
    let user = "# mine\nauto lo\niface lo inet loopback\n\n\n  # odd   blanks\t\nauto eth9\n\
                iface eth9 inet manual\n";
    fs::write(FILE, user).unwrap();
    let agent = start(&host);
    let web = add(&host, "web");
    let db = add(&host, "db");
    poll("the ports are shown", SOON, || {
        (shows("veth-web-eth0") && shows("veth-db-eth0")).then_some(())
    });
    assert!(interfaces().starts_with(user), "{}", interfaces());
    // Edited by hand while the agent runs, on both sides of the block.
    let edited = format!("# before\n{}# after\n", interfaces());
    fs::write(FILE, &edited).unwrap();
    host.plugin().del(&web, &lab()).success();
    poll("one port is shown", SOON, || (!shows("veth-web-eth0")).then_some(()));
    let now = interfaces();
    assert!(now.starts_with("# before\n# mine\n") && now.ends_with("# after\n"), "{now}");
    assert!(now.contains(user.trim_end()) && shows("veth-db-eth0"), "{now}");

    // A second agent would write against the first.
    let second = host.port_agent().output("run");
    assert!(!second.ok() && second.stderr.contains("runs already; stop it first"), "{second}");

    // Killed, it leaves the front end to write by itself.
    agent.kill();
    host.plugin().del(&db, &lab()).success();
    assert!(!shows("veth-db-eth0"), "{}", interfaces());
    let _again = start(&host);
}

#[test]
fn a_storm_of_changes_ends_right() {
    let host = Host::new();
    host.config("debounce_ms = 200\n");
    let _agent = start(&host);
    // Two hundred rows as ADD writes them, without devices: the block is about rows. Few enough
    // calls that the collector, which would find no device, is not yet there.
    let mut script = String::new();
    for tens in 0..20 {
        script.push_str("ovs-vsctl --no-wait");
        for n in tens * 10..(tens + 1) * 10 {
            script.push_str(&format!(
                " -- add-port ovsbr1 p{n} tag=5 -- set Port p{n} \
                 external_ids='{{owner=ovs-agent,ovs-agent-network=n,ovs-agent-container=c{n},\
                 ovs-agent-ifname=eth0}}'"
            ));
        }
        script.push_str("\novs-vsctl --no-wait");
        for n in (tens * 10..(tens + 1) * 10).step_by(2) {
            script.push_str(&format!(" -- del-port p{n}"));
        }
        script.push('\n');
    }
    host.sh(&script);
    poll("the odd half is shown", SOON, || {
        let text = interfaces();
        let shown = text.matches("iface p").count();
        (shown == 100 && (0..200).all(|n| text.contains(&format!("iface p{n} ")) == (n % 2 == 1)))
            .then_some(())
    });
}

#[test]
fn the_block_is_right_after_five_hundred_changes_in_a_second_and_a_rewrite() {
    let host = Host::new();
    let debounce = Duration::from_millis(500);
    let _agent = start(&host);
    // Ten transactions of fifty rows each, one right after the other.
    let ids = |n: usize| {
        format!(
            "external_ids='{{owner=ovs-agent,ovs-agent-network=n,ovs-agent-container=c{n},ovs-agent-ifname=eth0}}'"
        )
    };
    let mut script = String::new();
    for tens in 0..10 {
        script.push_str("ovs-vsctl --no-wait");
        for n in tens * 50..(tens + 1) * 50 {
            script.push_str(&format!(" -- add-port ovsbr1 p{n} tag=5 -- set Port p{n} {}", ids(n)));
        }
        script.push('\n');
    }
    host.sh(&script);
    let shown = || interfaces().matches("iface p").count();
    let end = std::time::Instant::now();
    poll("all of them are shown", SOON, || (shown() == 500).then_some(()));
    // Said of an idle machine it is the debounce itself; this one has other tests to run.
    assert!(end.elapsed() < debounce + Duration::from_secs(5), "{:?}", end.elapsed());
    // Proxmox writes a file of its own beside this one and puts it in its place; whatever it makes
    // of our block, it is right again within the debounce, though nothing changes in the switch.
    let user = "auto lo\niface lo inet loopback\n\nauto vmbr0\niface vmbr0 inet manual\n";
    host.sh("cp -p /etc/network/interfaces /etc/network/interfaces.new");
    host.write("/etc/network/interfaces.new", user);
    host.sh("mv /etc/network/interfaces.new /etc/network/interfaces");
    let rewritten = std::time::Instant::now();
    poll("the block is back", SOON, || (shown() == 500).then_some(()));
    println!("the block is back {:?} after the rewrite", rewritten.elapsed());
    assert!(rewritten.elapsed() < debounce + Duration::from_secs(2), "{:?}", rewritten.elapsed());
    host.sh("ovs-vsctl --no-wait del-port p7");
    poll("the block follows", SOON, || (shown() == 499).then_some(()));
    let now = interfaces();
    assert!(now.starts_with(user) && !now.contains("iface p7 "), "{now}");
    assert_eq!(now.matches("# BEGIN ovs-port-agent").count(), 1, "{now}");
}

#[test]
fn whoever_writes_the_file_anew_finds_the_block_in_it() {
    let host = Host::new();
    host.config("debounce_ms = 200\n");
    let agent = start(&host);
    let _web = add(&host, "web");
    poll("the port is shown", SOON, || shows("veth-web-eth0").then_some(()));
    let right = interfaces();
    let user = right.split("# BEGIN").next().unwrap().to_owned();
    let back = |what: &str| {
        poll(what, SOON, || {
            let now = interfaces();
            (now.starts_with(&user) && shows("veth-web-eth0") && !shows("veth-old-eth0"))
                .then_some(())
        });
    };
    // In place, by an editor; cut out; the whole file.
    fs::write(FILE, right.replace("veth-web-eth0", "veth-old-eth0")).unwrap();
    back("after a change within the block");
    fs::write(FILE, &user).unwrap();
    back("after it was cut out");
    // A file that is gone is nobody's to make; the next one is.
    fs::remove_file(FILE).unwrap();
    fs::write(FILE, &user).unwrap();
    back("after it was removed");
    // The directory itself is another one.
    host.sh("mv /etc/network /etc/network.old && mkdir /etc/network");
    fs::write(FILE, &right).unwrap();
    assert!(agent.alive());
    let db = add(&host, "db");
    poll("the next port", SOON, || shows("veth-db-eth0").then_some(()));
    host.plugin().del(&db, &lab()).success();
}

/// In twenty seconds. Its own look at the host, every thirty, has twenty waits for an answer in it,
/// twice as many on a busy machine; two ticks of half a second alone would be eighty.
const WAKE_UPS: u64 = 60;

/// A debug build; `./run bench idle --check` has the limit of 20 MiB and 500 ports.
const RESIDENT_KIB: u64 = 40 * 1024;

#[test]
fn the_agent_sleeps_while_nothing_happens() {
    let lab = rig::Lab::new();
    let many = lab.host.container("many");
    let plain = lab.plain(many.name(), shared::vlan::PortVlan::untagged());
    for n in 0..100 {
        let mut request = plain.clone();
        request.key.ifname = format!("e{n}").parse().unwrap();
        drop(lab.attach_as(&request));
    }
    let agent = start(&lab.host);
    poll("all ports are shown", SOON, || {
        (interfaces().matches("iface veth").count() == 100).then_some(())
    });
    // Whatever belongs to the start is over, idle threads included.
    std::thread::sleep(Duration::from_secs(12));
    let taken = rig::idle::watch(agent.pid(), Duration::from_secs(20));
    println!("{taken:?}");
    assert!(taken.sleeps <= WAKE_UPS, "{taken:?}");
    assert!(taken.resident < RESIDENT_KIB, "{taken:?}");
    assert!(taken.processor < Duration::from_millis(500), "{taken:?}");
}

#[test]
fn the_agent_survives_its_switch_and_repairs_the_host() {
    let host = Host::new();
    let agent = start(&host);
    let web = add(&host, "web");
    let gateway = "10.200.0.1".parse().unwrap();
    assert!(web.ping(gateway));
    host.switch().restart_ovsdb();
    let db = add(&host, "db");
    poll("shown after ovsdb-server came back", SOON, || shows("veth-db-eth0").then_some(()));
    host.switch().restart_vswitchd();
    poll("the gateway answers after ovs-vswitchd came back", SOON * 2, || {
        (web.ping(gateway) && db.ping(gateway)).then_some(())
    });
    // Somebody flushes the gateway's address, and another the rules.
    host.ip("address flush dev ovsbr1");
    poll("the address is back", SOON, || web.ping(gateway).then_some(()));
    host.ip("link set ovsbr1 down");
    poll("the bridge is up again", SOON, || web.ping(gateway).then_some(()));
    assert!(agent.log().contains("10.200.0.1/24 added"), "it says what it did:\n{}", agent.log());
    assert!(agent.alive());
}

/// It is in no picture of the agent's that its container was ever plugged in.
#[test]
fn a_port_lost_before_the_agent_saw_it_is_back_with_the_next_patrol() {
    let host = Host::new();
    let agent = start(&host);
    agent.signal(Signal::SIGSTOP);
    let web = add(&host, "web");
    host.vsctl("del-port veth-web-eth0");
    agent.signal(Signal::SIGCONT);
    let gateway = "10.200.0.1".parse().unwrap();
    poll("the port is plugged in again", SOON * 5, || web.ping(gateway).then_some(()));
}

#[test]
fn a_container_whose_bridge_is_gone_keeps_the_agent_from_nothing() {
    let host = Host::new();
    host.vsctl("add-br brx -- set Bridge brx datapath_type=netdev");
    let mut conf = lab();
    (conf["bridge"], conf["ipam"]) = (json!("brx"), json!({}));
    let lost = host.container("lost");
    host.plugin().add(&lost, &conf).success();
    host.vsctl("del-br brx");
    host.port_agent().run("up");
    let agent = start(&host);
    let web = add(&host, "web");
    poll("shown", SOON, || shows("veth-web-eth0").then_some(()));
    // What makes it whole again: the bridge is back.
    host.vsctl("add-br brx -- set Bridge brx datapath_type=netdev");
    poll("plugged in again", SOON * 5, || {
        host.vsctl("list-ports brx").contains("veth-lost-eth0").then_some(())
    });
    assert!(web.ping("10.200.0.1".parse().unwrap()) && agent.alive());
}

#[test]
fn a_part_that_failed_once_and_works_is_well() {
    let host = Host::new();
    host.port_agent().run("up");
    host.sh("mkdir -p /run/ovs-port-agent/agent.json/in-the-way");
    let agent = start(&host);
    poll("it fails", SOON, || agent.log().contains("agent.json").then_some(()));
    host.sh("rm -r /run/ovs-port-agent/agent.json");
    poll("it is well again", SOON * 2, || {
        let report = host.try_sh("cat /run/ovs-port-agent/agent.json").stdout;
        let report: Value = serde_json::from_str(&report).ok()?;
        report["parts"]["report"].is_null().then_some(())
    });
}

/// The schema allows it, 802.1Q does not; Neutron parks ports there.
#[test]
fn a_foreign_port_on_vlan_4095_blinds_nobody() {
    let host = Host::new();
    host.port_agent().run("up");
    host.vsctl("add-port ovsbr0 dead tag=4095 -- set Interface dead type=internal");
    host.vsctl("add-port ovsbr0 both trunks=7,4095 -- set Interface both type=internal");
    let _agent = start(&host);
    let web = add(&host, "web");
    poll("shown", SOON, || shows("veth-web-eth0").then_some(()));
    let gateway = "10.200.0.1".parse().unwrap();
    host.vsctl("del-port veth-web-eth0");
    poll("the lost port is plugged in again", SOON, || web.ping(gateway).then_some(()));
    assert!(host.port_agent().run("status").contains("veth-web-eth0"));
    host.port_agent().run("gc");
    assert_eq!(host.vsctl("get Port dead tag").trim(), "4095");
}

#[test]
fn a_default_route_that_comes_late_carries_the_traffic() {
    let host = Host::new();
    let wifi: Uplink = host.uplink("wlp4s0", 2).addressed(&host);
    host.config(
        "[[bridge]]\nname = \"ovsbr1\"\nmode = \"nat\"\naddresses = [\"10.200.0.1/24\"]\n\
         uplink = \"wlp4s0\"\n",
    );
    let _agent = start(&host);
    let web = add(&host, "web");
    let out = || web.who_answers(rig::INTERNET).is_ok_and(|(_, seen)| seen == wifi.address());
    assert!(!out(), "no way out yet");
    // What DHCP does some seconds after boot.
    host.ip(&format!("route add default via {} dev wlp4s0 metric 600", wifi.gateway()));
    poll("the traffic leaves through the uplink", SOON, || out().then_some(()));
}

#[test]
fn what_waits_in_the_spool_is_written_when_the_disk_is_back() {
    let host = Host::new();
    let _agent = start(&host);
    // No directory can be made where a file stands.
    host.sh("rm -rf /var/lib/ovs-port-agent && echo > /var/lib/ovs-port-agent");
    let web = host.container("web");
    let output = host.plugin().add(&web, &lab()).output;
    assert!(output.ok(), "an unwritable ledger never stops a container: {output}");
    assert!(fs::read_to_string(SPOOL).unwrap().contains("\"web\""));
    host.sh("rm /var/lib/ovs-port-agent");
    poll("the line is in the ledger", SOON, || {
        fs::read_to_string(LEDGER).is_ok_and(|text| text.contains("\"web\"")).then_some(())
    });
    host.port_agent().run("ledger verify");
}

#[test]
fn an_unwritable_interfaces_file_never_stops_a_container() {
    let host = Host::new();
    host.sh("rm /etc/network/interfaces && mkdir /etc/network/interfaces");
    let agent = host.port_agent();
    let up = agent.output("up");
    assert!(up.ok() && up.stderr.contains("the managed block is out of date"), "{up}");
    let web = host.container("web");
    let output = host.plugin().add(&web, &lab()).output;
    assert!(output.ok() && output.stderr.contains("managed block"), "{output}");
    assert!(web.ping("10.200.0.1".parse().unwrap()));
    let sync = agent.output("sync");
    assert!(!sync.ok() && sync.stderr.contains("is not a regular file"), "{sync}");
    assert!(host.plugin().del(&web, &lab()).ok());
    assert!(agent.output("down").ok());
}

#[test]
fn sync_writes_the_block_anew() {
    let host = Host::new();
    let agent = host.port_agent();
    agent.run("up");
    let _web = add(&host, "web");
    let right = interfaces();
    fs::write(FILE, "auto lo\niface lo inet loopback\n").unwrap();
    assert!(agent.run("sync").contains("/etc/network/interfaces     managed block rewritten"));
    assert_eq!(interfaces(), right);
    assert!(agent.run("sync").contains("as it was"));
}

#[test]
fn a_terminated_agent_ends_at_once_and_gives_up_its_claim() {
    let host = Host::new();
    let agent = start(&host);
    agent.signal(Signal::SIGTERM);
    poll("it ended", Duration::from_secs(2), || (!agent.alive()).then_some(()));
    let _next = start(&host);
}
