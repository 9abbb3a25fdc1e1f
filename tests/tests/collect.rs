//! GC: what its runtime no longer lists goes, live or not; what others made is only reported. And
//! what an earlier boot left in the switch.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use rig::lab::{CALLER, NETWORK, key};
use rig::{Lab, assert_same, poll};
use shared::attachment::{AttachRequest, Collected, GcRequest, Record, Runtime};

/// A host with containers "a", "b" and "c" of [`CALLER`], one of another program, one of Docker,
/// one of another network.
struct House {
    lab: Lab,
    records: Vec<Record>,
}

const NAMES: [&str; 6] = ["a", "b", "c", "podman", "docker", "elsewhere"];

impl House {
    fn new() -> Self {
        let lab = Lab::new();
        let records = NAMES.map(|name| {
            let request = lab.request(name);
            // The namespaces stay when the handles go.
            let container = lab.host.container(name);
            let record = lab.attach_as(&match name {
                "podman" => AttachRequest { caller: "podman".to_owned(), ..request },
                "docker" => AttachRequest { runtime: Runtime::Docker, ..request },
                "elsewhere" => {
                    let mut request = request;
                    request.key.network = "elsewhere".to_owned();
                    request
                }
                _ => request,
            });
            (container, record)
        });
        let records = records.map(|(container, record)| {
            std::mem::forget(container);
            record
        });
        Self { lab, records: records.into() }
    }

    /// GC with only these containers listed.
    fn collect(&self, valid: &[&str]) -> Collected {
        self.lab.engine.collect(&gc(valid)).unwrap()
    }

    /// The containers that are plugged in, whole.
    fn healthy(&self) -> Vec<&str> {
        let healthy = |record: &&Record| self.lab.check(record).is_ok();
        self.records.iter().filter(healthy).map(|r| r.key.container.as_str()).collect()
    }
}

fn gc(valid: &[&str]) -> GcRequest {
    GcRequest {
        runtime: Runtime::Cni,
        caller: CALLER.to_owned(),
        network: NETWORK.to_owned(),
        valid: valid.iter().map(|name| (name.to_string(), "eth0".parse().unwrap())).collect(),
    }
}

fn removed(collected: &Collected) -> Vec<&str> {
    let mut names: Vec<_> =
        collected.removed.iter().map(|(key, _)| key.container.as_str()).collect();
    names.sort_unstable();
    names
}

fn kept(collected: &Collected) -> Vec<&str> {
    let mut names: Vec<_> = collected.kept.iter().map(|(key, _)| key.container.as_str()).collect();
    names.sort_unstable();
    names
}

#[test]
fn the_unlisted_of_this_runtime_go_live_or_not() {
    let house = House::new();
    // "b" lives on, the namespace of "c" is gone.
    house.lab.host.ip("netns delete c");
    let collected = house.collect(&["a"]);
    assert_eq!(removed(&collected), ["b", "c"]);
    assert!(collected.removed.iter().all(|(_, record)| record.is_some()));
    assert_eq!(kept(&collected), ["docker", "podman"]);
    let why = &collected.kept[0].1;
    assert!(why.contains("made by ") && why.contains("not by rig"), "{why}");
    assert_eq!(collected.failed, [""; 0]);
    assert_eq!(house.healthy(), ["a", "podman", "docker", "elsewhere"]);
    // Nothing to do any more.
    let again = house.collect(&["a"]);
    assert_eq!((removed(&again), kept(&again)), (vec![], vec!["docker", "podman"]));
    // A runtime that lists nothing: all of its own, none of others.
    assert_eq!(removed(&house.collect(&[])), ["a"]);
    assert_eq!(house.healthy(), ["podman", "docker", "elsewhere"]);
}

#[test]
fn with_the_records_gone() {
    let house = House::new();
    let state = house.lab.engine.state();
    fs::remove_dir_all(state.attachments()).unwrap();
    let collected = house.collect(&["a"]);
    assert_eq!(removed(&collected), ["b", "c"]);
    assert_eq!(kept(&collected), ["docker", "podman"]);
    let left: BTreeSet<_> = house.lab.traces().into_iter().collect();
    for record in &house.records {
        let gone = ["b", "c"].contains(&record.key.container.as_str());
        for trace in [format!("port {}", record.port), format!("interface {}", record.port)] {
            assert_eq!(left.contains(&trace), !gone, "{trace}");
        }
    }
    let held = house.lab.engine.pools().leases().unwrap();
    assert_eq!(held.len(), 2 * 4, "{held:?}");
}

#[test]
fn with_a_record_that_cannot_be_read() {
    let house = House::new();
    let files = shared::state::files(&house.lab.engine.state().attachments()).unwrap();
    for file in files {
        if fs::read_to_string(&file).unwrap().contains("\"container\":\"b\"") {
            fs::write(file, "{").unwrap();
        }
    }
    // Its port says whose it is.
    let collected = house.collect(&["a"]);
    assert_eq!(removed(&collected), ["b", "c"]);
    assert_eq!(collected.failed.len(), 1, "{:?}", collected.failed);
    assert_eq!(house.healthy(), ["a", "podman", "docker", "elsewhere"]);
}

#[test]
fn without_both_sources_nothing_is_removed() {
    let house = House::new();
    let before = house.lab.snapshot();
    let dir = house.lab.engine.state().attachments();
    let aside = dir.with_file_name("aside");
    fs::rename(&dir, &aside).unwrap();
    fs::write(&dir, "").unwrap();
    let error = house.lab.engine.collect(&gc(&[])).unwrap_err();
    assert!(error.to_string().contains("attachments"), "{error}");
    fs::remove_file(&dir).unwrap();
    fs::rename(&aside, &dir).unwrap();
    assert_same(&before, &house.lab.snapshot());

    house.lab.host.switch().stop_ovsdb();
    let error = house.lab.engine.collect(&gc(&[])).unwrap_err();
    assert!(error.to_string().contains("ovsdb-server"), "{error}");
    house.lab.host.switch().start_ovsdb();
    house.lab.assert_returned(&before, "GC without ovsdb-server");
    // ovs-vswitchd takes a second to come back, and describes its ports anew then.
    poll("all are healthy again", Duration::from_secs(10), || {
        (house.healthy() == NAMES).then_some(())
    });
}

#[test]
fn ports_of_an_earlier_boot_go_unless_something_speaks_for_them() {
    let lab = Lab::new();
    let before = lab.snapshot();
    let names = ["gone", "recorded", "device", "current", "foreign"];
    let ports = names.map(|name| {
        let container = lab.host.container(name);
        let port = lab.attach(&container).port.to_string();
        (container, port)
    });
    let port = |name: &str| {
        let found = ports.iter().find(|(container, _)| container.name() == name);
        found.map(|(_, port)| port.clone()).unwrap()
    };
    let forget = |name: &str| {
        for file in shared::state::files(&lab.engine.state().attachments()).unwrap() {
            if fs::read_to_string(&file).unwrap().contains(&format!("\"container\":\"{name}\"")) {
                fs::remove_file(file).unwrap();
            }
        }
    };
    // As after a reboot: another boot id, no record, no device, each but for what its name says.
    for name in names {
        let port = port(name);
        match name {
            "current" => {}
            "foreign" => drop(lab.host.vsctl(&format!("clear Port {port} external_ids"))),
            _ => drop(lab.host.vsctl(&format!("set Port {port} external_ids:ovs-agent-boot=old"))),
        }
        if name != "recorded" {
            forget(name);
        }
        if name != "device" {
            lab.host.ip(&format!("link delete {port}"));
        }
    }
    assert_eq!(lab.engine.sweep_old_boots().unwrap(), 1);
    let on_bridge = lab.host.vsctl("list-ports ovsbr1");
    for name in names {
        let there = on_bridge.lines().any(|line| line == port(name));
        assert_eq!(there, name != "gone", "{name}");
    }
    assert_eq!(lab.engine.sweep_old_boots().unwrap(), 0);

    // A record that cannot be read speaks for its port too.
    let record = shared::state::files(&lab.engine.state().attachments()).unwrap().remove(0);
    fs::write(record, "{").unwrap();
    assert_eq!(lab.engine.sweep_old_boots().unwrap(), 0);

    lab.host.vsctl(&format!("del-port {}", port("foreign")));
    for name in names {
        lab.engine.detach(&key(name)).unwrap();
    }
    for (container, _) in ports {
        container.remove();
    }
    assert_eq!(lab.traces(), [""; 0]);
    lab.assert_returned(&before, "the sweep");
}

#[test]
fn a_swept_name_can_be_used_at_once() {
    let lab = Lab::new();
    let web = lab.host.container("web");
    let record = lab.attach(&web);
    fs::remove_dir_all(lab.engine.state().dir()).unwrap();
    lab.host.ip(&format!("link delete {}", record.port));
    lab.host.vsctl(&format!("set Port {} external_ids:ovs-agent-boot=old", record.port));
    shared::network::host::up(lab.engine.config()).unwrap();
    assert_eq!(lab.engine.sweep_old_boots().unwrap(), 1);
    let record = lab.attach(&web);
    lab.check(&record).unwrap();
    assert!(web.ping("10.200.0.1".parse().unwrap()));
}

#[test]
fn unplugging_all_asks_first() {
    let house = House::new();
    let error = house.lab.engine.unplug_all(false).unwrap_err();
    assert!(error.to_string().starts_with("6 containers are plugged in"), "{error}");
    assert_eq!(house.healthy(), NAMES);
    assert_eq!(house.lab.engine.unplug_all(true).unwrap(), 6);
    assert_eq!(house.lab.traces(), [""; 0]);
}

/// The managed block, which no agent writes here, cannot be written when the container goes: whoever
/// acts next makes up for it, though it finds nothing else to do.
#[test]
fn a_block_that_could_not_be_written_is_written_by_the_next_act() {
    let house = House::new();
    let shown = |name: &str| {
        let block = fs::read_to_string("/etc/network/interfaces").unwrap();
        block.contains(&format!("iface veth-{name}-eth0 "))
    };
    let unwritten = |name: &str| {
        assert!(shown(name));
        house.lab.host.sh("mount --bind /etc/network /etc/network
            mount -o remount,bind,ro /etc/network");
        house.lab.engine.detach(&key(name)).unwrap();
        house.lab.host.sh("umount /etc/network");
        assert!(shown(name), "the file could be written");
    };
    unwritten("a");
    assert_eq!(removed(&house.collect(&["b", "c"])), [""; 0]);
    assert!(!shown("a"), "GC did not make up for it");
    unwritten("b");
    house.lab.engine.detach(&key("b")).unwrap();
    assert!(!shown("b"), "DEL did not make up for it");
}
