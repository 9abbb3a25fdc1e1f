//! Many at once: no address twice, one attachment for one key, whoever calls in whatever order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rig::lab::key;
use rig::{Command, Lab, poll};
use shared::address::{self, Subnet};
use shared::attachment::{Addressing, AttachRequest, Error, Record};
use shared::network::Network;
use shared::ovsdb::Client;
use shared::vlan::PortVlan;

/// Calls under way at once.
const AT_ONCE: usize = 16;

/// Does `work` for each number below `count`, [`AT_ONCE`] at a time; the results in order.
fn in_parallel<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let mut results = BTreeMap::new();
    std::thread::scope(|scope| {
        let worker = || {
            let mut done = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return done;
                }
                done.push((number, work(number)));
            }
        };
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            results.extend(worker.join().unwrap());
        }
    });
    results.into_values().collect()
}

/// The `number`th attachment to a pool of 200: several of them share a namespace.
fn crowd(lab: &Lab, number: usize) -> AttachRequest {
    let mut request = lab.request(&format!("crowd{}", number % 4));
    request.key.container = format!("c{number}");
    request.key.ifname = format!("eth{number}").parse().unwrap();
    let Addressing::Pool { network, .. } = &request.addressing else { panic!("pool") };
    let net = network.subnets[0].net;
    let last = |last: &str| last.parse().unwrap();
    let subnet = Subnet {
        net,
        range: Some((last("10.200.0.11"), last("10.200.0.210"))),
        gateway: network.subnets[0].gateway,
    };
    request.addressing = Addressing::Pool {
        network: Network { subnets: vec![subnet], ..network.clone() },
        requested: Vec::new(),
        default_route: false,
    };
    request
}

fn address(record: &Record) -> IpAddr {
    record.addresses[0].address.addr()
}

#[test]
fn two_hundred_at_once_and_one_too_many() {
    let lab = Lab::new();
    let _containers = [0, 1, 2, 3].map(|n| lab.host.container(&format!("crowd{n}")));
    let engine = &lab.engine;
    let requests: Vec<_> = (0..200).map(|number| crowd(&lab, number)).collect();
    let records = in_parallel(200, |number| engine.attach(&requests[number]).unwrap());
    let given: BTreeSet<_> = records.iter().map(address).collect();
    assert_eq!(given.len(), 200, "an address was given twice");
    let ports: BTreeSet<_> = records.iter().map(|record| &record.port).collect();
    assert_eq!(ports.len(), 200);
    let on_bridge = lab.host.vsctl("list-ports ovsbr1");
    assert!(ports.iter().all(|port| on_bridge.lines().any(|line| line == port.as_str())));

    let one_more = crowd(&lab, 200);
    let error = engine.attach(&one_more).unwrap_err();
    let Error::Address(address::Error::Exhausted { .. }) = &error else { panic!("{error}") };
    let said = error.to_string();
    assert!(said.contains("10.200.0.0/24") && said.contains("lab/… 200"), "{said}");
    assert!(engine.record(&one_more.key).unwrap().is_none());

    // The one that is freed is the only one to be had.
    engine.detach(&records[77].key).unwrap();
    assert_eq!(address(&engine.attach(&one_more).unwrap()), address(&records[77]));
    engine.detach(&one_more.key).unwrap();

    in_parallel(200, |number| engine.detach(&records[number].key).unwrap());
    assert_eq!(lab.traces(), [""; 0]);
    // Freed last, given last.
    let order: Vec<_> =
        (0..3).map(|number| address(&engine.attach(&crowd(&lab, number)).unwrap())).collect();
    assert!(!order.contains(&address(&records[199])));
}

#[test]
fn freed_addresses_are_given_last() {
    let lab = Lab::new();
    let _containers = [0, 1, 2, 3].map(|n| lab.host.container(&format!("crowd{n}")));
    let attach = |number| lab.attach_as(&crowd(&lab, number));
    let first = attach(0);
    lab.engine.detach(&first.key).unwrap();
    let mut later = BTreeSet::new();
    for number in 1..40 {
        later.insert(address(&attach(number)));
    }
    assert_eq!(later.len(), 39);
    assert!(!later.contains(&address(&first)), "{} was given again at once", address(&first));
}

#[test]
fn the_same_add_many_times_at_once() {
    let lab = Lab::new();
    let web = lab.host.container("web");
    let request = lab.request("web");
    let engine = &lab.engine;
    let records = in_parallel(AT_ONCE, |_| engine.attach(&request).unwrap());
    assert!(records.iter().all(|record| *record == records[0]));
    let before = lab.traces();
    assert_eq!(before.len(), 3 + 2 * records[0].leases.len(), "{before:?}");
    // And once more, later.
    assert_eq!(lab.attach(&web), records[0]);
    assert_eq!(lab.traces(), before);
    lab.check(&records[0]).unwrap();
    lab.detach("web");
    assert_eq!(lab.traces(), [""; 0]);
}

#[test]
fn the_same_add_from_another_namespace_or_bridge_or_vlan() {
    let lab = Lab::new();
    let web = lab.host.container("web");
    let old = lab.attach(&web);
    // The container was started again without a DEL.
    web.remove();
    let web = lab.host.container("web");
    let new = lab.attach(&web);
    assert_ne!(new.netns_id, old.netns_id);
    lab.check(&new).unwrap();
    let mut request = lab.plain("web", PortVlan::access(30.try_into().unwrap()));
    lab.check(&lab.attach_as(&request)).unwrap();
    request.bridge = "ovsbr0".parse().unwrap();
    let moved = lab.attach_as(&request);
    lab.check(&moved).unwrap();
    assert_eq!(moved.bridge.as_str(), "ovsbr0");
    let ports = lab.traces().into_iter().filter(|trace| trace.starts_with("port ")).count();
    assert_eq!(ports, 1);
    lab.detach("web");
    assert_eq!(lab.traces(), [""; 0]);
}

/// ADDs and DELs of one key from threads and from processes: whatever the order, what the last
/// one leaves is whole.
#[test]
fn adds_and_dels_of_one_key() {
    let lab = Lab::new();
    let web = lab.host.container("web");
    let request = lab.request("web");
    let engine = &lab.engine;
    let failures = in_parallel(160, |number| match number % 8 {
        0 | 2 | 4 => engine.attach(&request).err().map(|error| error.to_string()),
        1 | 3 | 5 => engine.detach(&key("web")).err().map(|error| error.to_string()),
        other => {
            let verb = if other == 6 { "attach" } else { "detach" };
            let act = Command::new(env!("CARGO_BIN_EXE_one-act")).args([verb, "web"]).output();
            (!act.ok()).then(|| act.to_string())
        }
    });
    let failures: Vec<_> = failures.into_iter().flatten().collect();
    assert_eq!(failures, [""; 0]);
    match engine.record(&key("web")).unwrap() {
        Some(record) => {
            lab.check(&record).unwrap();
            assert_eq!(lab.traces().len(), 3 + 2 * record.leases.len());
        }
        None => assert_eq!(lab.traces(), [""; 0]),
    }
    let record = lab.attach(&web);
    lab.check(&record).unwrap();
    lab.detach("web");
    assert_eq!(lab.traces(), [""; 0]);
    assert!(engine.ledger().verify().unwrap().is_sound());
    assert_eq!(engine.ledger().open().unwrap(), []);
}

/// Many containers come and go at once, each in its own order, and no port of theirs is dead.
#[test]
fn many_keys_come_and_go() {
    let lab = Lab::new();
    let containers: Vec<_> = (0..8).map(|n| lab.host.container(&format!("c{n}"))).collect();
    let engine = &lab.engine;
    let requests: Vec<_> = containers.iter().map(|c| lab.request(c.name())).collect();
    std::thread::scope(|scope| {
        for request in &requests {
            scope.spawn(move || {
                for _ in 0..10 {
                    let record = engine.attach(request).unwrap();
                    let check = shared::attachment::CheckRequest {
                        key: record.key.clone(),
                        netns: record.netns.clone(),
                        mac: None,
                        addresses: record.addresses.clone(),
                        routes: record.routes.clone(),
                    };
                    engine.check(&check).unwrap();
                    engine.detach(&record.key).unwrap();
                }
            });
        }
    });
    assert_eq!(lab.traces(), [""; 0]);
    let mut ovsdb = Client::connect(&engine.config().ovsdb, Duration::from_secs(5)).unwrap();
    assert_eq!(ovsdb.ports_with(&shared::attachment::owner::ours()).unwrap(), []);
}

/// The same while both daemons are killed and started again: calls fail, nothing is mixed up, and
/// in the end nothing is left.
#[test]
fn many_keys_while_open_vswitch_dies_again_and_again() {
    let lab = Lab::new();
    let before = lab.snapshot();
    let containers: Vec<_> = (0..6).map(|n| lab.host.container(&format!("c{n}"))).collect();
    let requests: Vec<_> = containers
        .iter()
        .map(|c| AttachRequest { link_deadline: Duration::from_secs(1), ..lab.request(c.name()) })
        .collect();
    let (engine, switch) = (&lab.engine, lab.host.switch());
    let (held, attached) = (Mutex::new(BTreeSet::new()), AtomicUsize::new(0));
    let (held, attached) = (&held, &attached);
    let running = AtomicUsize::new(requests.len());
    std::thread::scope(|scope| {
        for request in &requests {
            let running = &running;
            scope.spawn(move || {
                for _ in 0..8 {
                    if let Ok(record) = engine.attach(request) {
                        attached.fetch_add(1, Ordering::Relaxed);
                        let given = address(&record);
                        assert!(held.lock().unwrap().insert(given), "{given} was given twice");
                        std::thread::sleep(Duration::from_millis(20));
                        held.lock().unwrap().remove(&given);
                    }
                    poll("DEL", Duration::from_secs(20), || engine.detach(&request.key).ok());
                }
                running.fetch_sub(1, Ordering::SeqCst);
            });
        }
        for round in 0.. {
            if running.load(Ordering::SeqCst) == 0 || round == 20 {
                break;
            }
            std::thread::sleep(Duration::from_millis(150));
            if round % 2 == 0 {
                switch.kill_ovsdb();
                std::thread::sleep(Duration::from_millis(20));
                switch.start_ovsdb();
            } else {
                switch.kill_vswitchd();
                switch.start_vswitchd();
            }
        }
    });
    let attached = attached.load(Ordering::Relaxed);
    println!("{attached} of 48 ADDs went through");
    assert!(attached > 0);
    assert_eq!(lab.traces(), [""; 0]);
    assert!(engine.ledger().verify().unwrap().is_sound());
    assert_eq!(engine.ledger().open().unwrap(), []);
    for container in containers {
        container.remove();
    }
    // The last DEL may have found ovsdb-server dead when it came to the managed block.
    engine.show().unwrap();
    lab.assert_returned(&before, "after all");
}
