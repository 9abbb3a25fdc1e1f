//! `ovs-port-agent gc` and the agent's collector: what a crash left behind goes on proof from two
//! sides, and nothing else does.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rig::{Container, Daemon, Host, assert_same, assert_soon_same, poll};
use serde_json::{Value, json};

/// Far above what it takes; a machine under load is slow.
const SOON: Duration = Duration::from_secs(40);

const ATTACHMENTS: &str = "/run/ovs-port-agent/attachments";
const LEASES: &str = "/run/ovs-port-agent/leases";

fn lab() -> Value {
    json!({ "cniVersion": "1.0.0", "name": "lab", "type": "ovs-agent" })
}

fn add(host: &Host, name: &str) -> Container {
    let container = host.container(name);
    host.plugin().add(&container, &lab()).success();
    container
}

fn record(name: &str) -> PathBuf {
    let files = shared::state::files(ATTACHMENTS.as_ref()).unwrap();
    let text = format!("\"container\":\"{name}\"");
    files.into_iter().find(|file| fs::read_to_string(file).unwrap().contains(&text)).unwrap()
}

/// What an old crash left is old. In place: a lease is one file with two names.
fn age() {
    fn files(dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
    }
    for file in [ATTACHMENTS, LEASES].iter().flat_map(|dir| files(Path::new(dir))) {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        if let Some((head, tail)) = text.split_once("\"since\":") {
            let tail = tail.trim_start_matches(|c: char| c.is_ascii_digit());
            fs::write(&file, format!("{head}\"since\":0{tail}")).unwrap();
        }
    }
}

/// A host on which every kind of thing was left behind, beside a container that lives.
fn wreck(host: &Host) -> (Container, Vec<(&'static str, String)>) {
    let live = add(host, "live");
    // A container that died with its namespace, and nobody said DEL.
    let dead = add(host, "dead");
    host.ip("link delete veth-dead-eth0");
    dead.remove();
    // A wiped record: the port is left, and its address.
    let lost = add(host, "lost");
    fs::remove_file(record("lost")).unwrap();
    host.ip("link delete veth-lost-eth0");
    lost.remove();
    // An address alone.
    let lease = add(host, "lease");
    fs::remove_file(record("lease")).unwrap();
    host.ip("link delete veth-lease-eth0");
    host.vsctl("del-port veth-lease-eth0");
    lease.remove();
    // A gateway of a network that is gone.
    host.vsctl(
        "add-port ovsbr1 ovsbr1.77 tag=77 -- set Interface ovsbr1.77 type=internal -- set Port \
         ovsbr1.77 external_ids:owner=ovs-agent external_ids:ovs-agent-role=gateway",
    );
    age();
    let left = vec![
        ("attachment", "lab/dead/eth0".to_owned()),
        ("port", "veth-lost-eth0".to_owned()),
        ("lease", "of lab/lease/eth0".to_owned()),
        ("gateway", "ovsbr1.77".to_owned()),
    ];
    (live, left)
}

fn found(output: &str) -> Vec<(String, String, String)> {
    let report: Value = serde_json::from_str(output).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let pieces = report["found"].as_array().unwrap().iter();
    pieces
        .map(|p| {
            assert_eq!(p["proof"].as_array().unwrap().len(), 2, "{p}");
            (text(&p["kind"]), text(&p["name"]), text(&p["outcome"]))
        })
        .collect()
}

#[test]
fn what_a_crash_left_behind_goes_and_what_lives_stays() {
    let host = Host::new();
    let agent = host.port_agent();
    agent.run("up");
    assert!(agent.run("gc").contains("Nothing was left behind."));
    let (live, left) = wreck(&host);
    let before = host.snapshot();
    let dry = agent.run("gc --dry-run --json");
    let all = found(&dry);
    for (kind, name) in &left {
        let is_it = |piece: &&(String, String, String)| piece.0 == *kind && piece.1.ends_with(name);
        let piece = all.iter().find(is_it).unwrap_or_else(|| panic!("{kind} {name}: {dry}"));
        assert_eq!(piece.2, "would be removed");
    }
    assert!(!dry.contains("live"), "{dry}");
    assert_same(&before, &host.snapshot());

    let said = agent.run("gc");
    for (kind, name) in &left {
        let line = said.lines().find(|line| line.starts_with(kind) && line.contains(name));
        let line = line.unwrap_or_else(|| panic!("{kind} {name}:\n{said}"));
        assert!(line.contains("removed") && line.contains("there is no") || *kind == "gateway");
    }
    assert!(live.ping("10.200.0.1".parse().unwrap()));
    host.plugin().del(&live, &lab()).success();
    let again = agent.run("gc");
    assert!(again.contains("Nothing was left behind."), "{again}");
    assert_eq!(host.vsctl("list-ports ovsbr1").trim(), "");
    let files = format!("find {LEASES} {ATTACHMENTS} -type f ! -name .order");
    assert_eq!(host.sh(&files).trim(), "");
    let history = agent.run("ledger show --action collect");
    assert!(history.contains("left behind, removed: "), "{history}");
    agent.run("ledger verify");
}

#[test]
fn an_unreadable_source_removes_nothing() {
    let host = Host::new();
    let agent = host.port_agent();
    agent.run("up");
    let (live, left) = wreck(&host);
    let before = host.snapshot();
    let refused = |words: &str| {
        let output = agent.output("gc");
        assert!(!output.ok() && output.stdout.contains("nothing is removed"), "{output}");
        assert!(output.stdout.contains(words), "{words}: {output}");
    };
    let file = record("live");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, "{").unwrap();
    refused("does not hold what it should");
    fs::write(&file, &text).unwrap();
    assert_same(&before, &host.snapshot());

    fs::create_dir_all("/var/lib/ovs-port-agent/docker/networks").unwrap();
    fs::write("/var/lib/ovs-port-agent/docker/networks/a.json", "{").unwrap();
    refused("Docker's driver");
    fs::remove_dir_all("/var/lib/ovs-port-agent/docker").unwrap();
    assert_same(&before, &host.snapshot());

    host.switch().stop_ovsdb();
    refused("ovsdb-server");
    host.switch().start_ovsdb();
    assert_soon_same(&before, SOON, || host.snapshot());
    // The address alone is one of each family.
    assert_eq!(found(&agent.run("gc --json")).len(), left.len() + 1);
    assert!(live.ping("10.200.0.1".parse().unwrap()));
}

#[test]
fn what_may_live_is_spared() {
    let host = Host::new();
    let agent = host.port_agent();
    agent.run("up");
    // Its host end is gone, its namespace is not: its runtime will say DEL.
    let cut = add(&host, "cut");
    host.ip("link delete veth-cut-eth0");
    // Nobody knows it, but its interface is there.
    let known = add(&host, "known");
    fs::remove_file(record("known")).unwrap();
    age();
    // Docker's addresses, which no record of ours has.
    let pools = shared::address::Pools::new("/run/ovs-port-agent/leases".into());
    let subnet = shared::address::Subnet {
        net: "10.200.0.0/24".parse().unwrap(),
        range: None,
        gateway: None,
    };
    pools.acquire(&subnet, "docker/pool/1", None).unwrap();
    // Their pools are lost, and a container or an endpoint has them: they were given to others.
    let plugged = pools.acquire(&subnet, "docker/lost/1", None).unwrap().ip;
    pools.acquire(&subnet, "docker/lost/2", None).unwrap();
    let web = add(&host, "web");
    let text = fs::read_to_string(record("web")).unwrap();
    let mut of_docker: Value = serde_json::from_str(&text).unwrap();
    of_docker["runtime"] = "docker".into();
    of_docker["addresses"][0]["address"] = format!("{plugged}/24").into();
    fs::write(record("web"), of_docker.to_string()).unwrap();
    pools.acquire(&subnet, "host/ovsbr1/10.200.0.9", None).unwrap();
    age();
    let before = host.snapshot();
    // Where Docker's driver keeps its pools nobody knows.
    let said = agent.run("gc");
    assert!(said.contains("Nothing was left behind."), "{said}");
    host.write("/var/lib/ovs-port-agent/docker/pools/a.json", "{\"owner\":\"docker/pool/1\"}");
    let endpoint = "{\"leases\":[\"docker/lost/2\"]}";
    host.write("/var/lib/ovs-port-agent/docker/endpoints/e.json", endpoint);
    let said = agent.run("gc");
    assert!(said.contains("Nothing was left behind."), "{said}");
    for spared in ["its namespace", "veth-known-eth0 is there", "Docker's driver keeps it"] {
        assert!(said.contains(spared), "{spared}:\n{said}");
    }
    assert_same(&before, &host.snapshot());
    drop((cut, known, web));
}

#[test]
fn the_agent_collects_by_itself() {
    let host = Host::new();
    host.port_agent().run("up");
    let agent = Daemon::start("ovs-port-agent", host.port_agent().command("run"));
    agent.ready(SOON, || agent.log().contains("the host is up"));
    let (live, left) = wreck(&host);
    poll("everything left behind is gone", SOON, || {
        left.iter().all(|(_, name)| agent.log().contains(name)).then_some(())
    });
    assert!(live.ping("10.200.0.1".parse().unwrap()));
    assert_eq!(host.vsctl("list-ports ovsbr1").trim(), "veth-live-eth0");
    let holders = host.sh(&format!("cat $(find {LEASES} -type f ! -name .order)"));
    assert_eq!(holders.matches("lab/live/eth0").count(), holders.matches("owner").count());
}

/// As after a reboot: another boot id, and nothing of the old one but what conf.db keeps.
#[test]
fn nothing_of_an_earlier_boot_remains() {
    let host = Host::new();
    let agent = host.port_agent();
    agent.run("up");
    let _live = add(&host, "live");
    let own = json!({
        "cniVersion": "1.0.0", "name": "own", "type": "ovs-agent", "bridge": "ovsbr1", "vlan": 30,
        "subnets": [{ "subnet": "10.30.0.0/24", "gateway": "10.30.0.1" }],
    });
    let red = host.container("red");
    host.plugin().add(&red, &own).success();
    // Interfaces, /run and the boot id: what a reboot takes away.
    host.ip("link delete veth-live-eth0");
    host.ip("link delete veth-red-eth0");
    for port in ["veth-live-eth0", "veth-red-eth0"] {
        host.vsctl(&format!("set Port {port} external_ids:ovs-agent-boot=0"));
    }
    host.sh("cp -a /run/ovs-port-agent/attachments /run/rig/kept; rm -rf /run/ovs-port-agent");
    agent.run("up");
    assert_eq!(host.vsctl("list-ports ovsbr1").trim(), "");
    assert!(agent.run("gc").contains("Nothing was left behind."));

    // A state directory that survives a boot: its records are of no use either.
    host.sh("sed -i -E 's/\"boot_id\":\"[^\"]*\"/\"boot_id\":\"0\"/' /run/rig/kept/*.json; \
         cp -a /run/rig/kept/*.json /run/ovs-port-agent/attachments/");
    agent.run("up");
    assert!(shared::state::files(ATTACHMENTS.as_ref()).unwrap().is_empty());
}

/// What GC found is looked at again before it goes; who cannot look does not say that somebody else is
/// at work on it.
#[test]
fn a_second_look_that_fails_is_an_error() {
    let lab = rig::Lab::new();
    let web = lab.host.container("web");
    let port = lab.attach(&web).port;
    web.remove();
    poll("the pair is gone", SOON, || {
        (!lab.host.ip("-o link").contains(port.as_str())).then_some(())
    });
    let found = lab.engine.survey();
    let [piece] = &found.pieces[..] else { panic!("{found:?}") };
    lab.host.switch().stop_ovsdb();
    let clear = || lab.engine.clear(vec![piece.clone()]).pop().unwrap().1;
    let error = clear().unwrap_err().to_string();
    assert!(error.starts_with("nothing is removed: ") && error.contains("ovsdb-server"), "{error}");
    lab.host.switch().start_ovsdb();
    assert!(clear().unwrap());
    assert_eq!(lab.traces(), [""; 0]);
}

/// More than go after one second look; one of them is another's just then.
#[test]
fn many_go_at_once_and_what_is_in_use_stays() {
    const DEAD: usize = 50;
    let lab = rig::Lab::new();
    for number in 0..DEAD {
        let container = lab.host.container(&format!("dead{number}"));
        lab.attach(&container);
        container.remove();
    }
    let found = poll("all pairs are gone", SOON, || {
        let pieces = lab.engine.survey().pieces;
        (pieces.len() == DEAD).then_some(pieces)
    });
    let held = lab.engine.state().lock("attachment lab/dead40/eth0").unwrap();
    for (piece, outcome) in lab.engine.clear(found) {
        assert_eq!(outcome.unwrap(), piece.name != "lab/dead40/eth0", "{}", piece.name);
    }
    drop(held);
    let [piece] = &lab.engine.survey().pieces[..] else { panic!("one is left") };
    assert!(lab.engine.clear(vec![piece.clone()]).pop().unwrap().1.unwrap());
    assert_eq!(lab.traces(), [""; 0]);
}
