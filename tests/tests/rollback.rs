//! ADD that fails: one error that says why, and nothing is left.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use rig::{Container, Lab};
use shared::address;
use shared::attachment::{Addressing, AttachRequest, Error};
use shared::config::Config;
use shared::error::Fault;
use shared::link::Route;
use shared::ovsdb;

fn lab() -> (Lab, Container) {
    let lab = Lab::new();
    // A pool that has given an address looks different from one that never has.
    let first = lab.host.container("first");
    lab.attach(&first);
    lab.detach("first");
    first.remove();
    let web = lab.host.container("web");
    (lab, web)
}

/// Attaches, which must fail and leave the host as it was; returns the error.
#[track_caller]
fn fails(lab: &Lab, what: &str, request: &AttachRequest) -> Error {
    let before = lab.snapshot();
    let error = lab.engine.attach(request).expect_err(what);
    assert_eq!(lab.traces(), [""; 0], "{what}");
    lab.assert_returned(&before, what);
    error
}

fn asking_for(lab: &Lab, container: &str, ip: &str) -> AttachRequest {
    let mut request = lab.request(container);
    let Addressing::Pool { requested, .. } = &mut request.addressing else { panic!("pool") };
    requested.push(ip.parse().unwrap());
    request
}

#[test]
fn what_is_missing_or_in_the_way() {
    let (lab, web) = lab();

    let mut request = lab.request("web");
    request.bridge = "nowhere".parse().unwrap();
    let error = fails(&lab, "no bridge", &request);
    assert!(matches!(error, Error::Ovsdb(ovsdb::Error::NoBridge { .. })), "{error}");

    let error = fails(&lab, "no namespace", &lab.request("nobody"));
    assert!(error.to_string().contains("/run/netns/nobody"), "{error}");

    web.ip("link add eth0 type veth peer name p");
    let inside = web.ip("-d link");
    let error = fails(&lab, "interface exists", &lab.request("web"));
    assert!(matches!(error, Error::InterfaceExists { .. }), "{error}");
    assert_eq!(web.ip("-d link"), inside);
    web.ip("link delete eth0");

    let mut request = lab.request("web");
    request.interface_type = "gre".to_owned();
    let error = fails(&lab, "a port that cannot be opened", &request);
    assert!(error.to_string().contains("veth-web-eth0"), "{error}");

    let mut request = lab.request("web");
    request.mtu = Some(70_000);
    let error = fails(&lab, "an MTU no veth has", &request);
    assert!(error.to_string().contains("veth-web-eth0"), "{error}");

    let mut request = lab.request("web");
    let group = "224.0.0.1".parse().unwrap();
    request.routes.push(Route::new("192.0.2.0/24".parse().unwrap(), Some(group)));
    let error = fails(&lab, "a route through a group", &request);
    assert!(error.to_string().contains("192.0.2.0/24"), "{error}");

    lab.check(&lab.attach(&web)).unwrap();
}

#[test]
fn addresses_that_cannot_be_had() {
    let (lab, _web) = lab();
    let other = lab.host.container("other");
    let held: IpAddr = lab.attach(&other).addresses[0].address.addr();
    let error = lab.engine.attach(&asking_for(&lab, "web", &held.to_string())).unwrap_err();
    let Error::Address(address::Error::Taken { ip, owner }) = &error else { panic!("{error}") };
    assert_eq!((*ip, owner.as_str()), (held, "lab/other/eth0"));
    lab.detach("other");
    assert_eq!(lab.traces(), [""; 0]);

    let error = fails(&lab, "the gateway's address", &asking_for(&lab, "web", "10.200.0.1"));
    assert!(matches!(error, Error::Address(address::Error::NotInPool { .. })), "{error}");
}

#[test]
fn every_name_taken() {
    let (lab, web) = lab();
    let template = &lab.engine.config().naming_template;
    let names: Vec<_> = (0..64).map(|salt| template.render("web", 0, salt)).collect();
    let batch: String = names.iter().map(|name| format!("link add {name} type bridge\n")).collect();
    lab.host.write("/run/rig/names", &batch);
    lab.host.ip("-batch /run/rig/names");
    let error = fails(&lab, "every name is an interface", &lab.request("web"));
    assert!(matches!(error, Error::NoName { .. }), "{error}");

    lab.host.ip(&format!("link delete {}", names[63]));
    assert_eq!(lab.attach(&web).port, names[63]);
    lab.detach("web");

    // Names that only the switch knows.
    for name in &names[..63] {
        lab.host.ip(&format!("link delete {name}"));
    }
    lab.host.switch().freeze_vswitchd();
    for name in &names {
        lab.host.vsctl(&format!("--no-wait add-port ovsbr0 {name}"));
    }
    let error = fails(&lab, "every name is a port", &lab.request("web"));
    assert!(matches!(error, Error::NoName { .. }), "{error}");
}

#[test]
fn open_vswitch_dead_or_frozen() {
    let (lab, web) = lab();
    let switch = lab.host.switch();
    let mut request = lab.request("web");
    request.link_deadline = Duration::from_millis(300);
    let timed = |what: &str, limit: u64| {
        let start = Instant::now();
        let error = lab.engine.attach(&request).expect_err(what);
        assert!(start.elapsed() < Duration::from_secs(limit), "{what}: {:?}", start.elapsed());
        error
    };

    switch.freeze_vswitchd();
    let error = timed("ovs-vswitchd frozen", 2);
    assert!(matches!(error, Error::Ovsdb(ovsdb::Error::NotOpened { .. })), "{error}");
    assert!(error.hint().unwrap().contains("ovs-vswitchd"));
    assert_eq!(lab.traces(), [""; 0]);
    switch.thaw_vswitchd();

    switch.kill_vswitchd();
    let error = timed("ovs-vswitchd dead", 2);
    assert!(matches!(error, Error::Ovsdb(ovsdb::Error::NotOpened { .. })), "{error}");
    assert_eq!(lab.traces(), [""; 0]);
    switch.start_vswitchd();

    switch.stop_ovsdb();
    let error = timed("ovsdb-server down", 2);
    assert!(matches!(error, Error::Ovsdb(ovsdb::Error::Connect { .. })), "{error}");
    switch.start_ovsdb();
    assert_eq!(lab.traces(), [""; 0]);

    switch.freeze_ovsdb();
    let error = timed("ovsdb-server frozen", 8);
    let Error::Left { cause, .. } = &error else { panic!("{error}") };
    assert!(matches!(**cause, Error::Ovsdb(ovsdb::Error::Timeout { .. })), "{error}");
    // It may do what it was asked for yet: the record stays, and the runtime's DEL finds it.
    switch.thaw_ovsdb();
    lab.detach("web");
    assert_eq!(lab.traces(), [""; 0]);

    lab.check(&lab.attach(&web)).unwrap();
}

/// ovsdb-server freezes in the middle of an ADD: whatever was committed is found again.
#[test]
fn ovsdb_server_gone_in_the_middle() {
    let (lab, web) = lab();
    let switch = lab.host.switch();
    let mut request = lab.request("web");
    request.link_deadline = Duration::from_secs(1);
    // ADD waits for the port to be opened: it is in the middle then.
    switch.freeze_vswitchd();
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            rig::poll("the port", Duration::from_secs(5), || {
                lab.traces().iter().any(|trace| trace.starts_with("port ")).then_some(())
            });
            switch.kill_ovsdb();
        });
        lab.engine.attach(&request).unwrap_err()
    });
    let Error::Left { cause, left } = &error else { panic!("{error}") };
    assert!(matches!(**cause, Error::Ovsdb(_)) && matches!(**left, Error::Remains { .. }));
    assert!(lab.engine.pools().leases().unwrap().is_empty());
    switch.start_ovsdb();
    switch.thaw_vswitchd();
    // The same ADD finds what is left and starts over.
    request.link_deadline = Duration::from_secs(20);
    let record = lab.attach_as(&request);
    lab.check(&record).unwrap();
    assert!(web.ping("10.200.0.1".parse().unwrap()));
    lab.detach("web");
    assert_eq!(lab.traces(), [""; 0]);
}

#[test]
fn a_ledger_that_cannot_be_written_stops_nobody() {
    let config = Config { ledger_path: "/proc/nowhere/ledger.jsonl".into(), ..Config::default() };
    let lab = Lab::of(config);
    let web = lab.host.container("web");
    let record = lab.attach(&web);
    lab.check(&record).unwrap();
    lab.detach("web");
    let spool = std::fs::read_to_string(lab.engine.state().spool()).unwrap();
    assert_eq!(spool.matches("\"web\"").count(), 2, "{spool}");
}

#[test]
fn an_interfaces_file_that_cannot_be_written_stops_nobody() {
    let lab = Lab::new();
    let web = lab.host.container("web");
    lab.host.sh("mount -t tmpfs -o ro none /etc/network");
    lab.check(&lab.attach(&web)).unwrap();
    lab.detach("web");
    assert_eq!(lab.traces(), [""; 0]);
}

#[test]
fn a_state_directory_that_cannot_be_written() {
    let (lab, web) = lab();
    let record = lab.attach(&web);
    let db = lab.host.container("db");
    lab.host.sh("mount -o bind /run/ovs-port-agent /run/ovs-port-agent");
    lab.host.sh("mount -o remount,bind,ro /run/ovs-port-agent");
    let before = lab.snapshot();
    let error = lab.engine.attach(&lab.request("db")).unwrap_err();
    assert!(error.to_string().contains("/run/ovs-port-agent"), "{error}");
    lab.assert_returned(&before, "ADD with a read-only state directory");
    assert!(!db.ip("-o link").contains("eth0"));
    lab.check(&record).unwrap();
    lab.host.sh("umount /run/ovs-port-agent");
    lab.detach("web");
    assert_eq!(lab.traces(), [""; 0]);
}

#[test]
fn a_state_directory_that_is_full() {
    let (lab, web) = lab();
    lab.host.sh("mount -t tmpfs -o size=64k,mode=755 none /run/ovs-port-agent");
    lab.check(&lab.attach(&web)).unwrap();
    lab.detach("web");
    lab.host.try_sh("cat /dev/zero > /run/ovs-port-agent/filler");
    let error = fails(&lab, "state directory full", &lab.request("web"));
    assert!(error.to_string().contains("/run/ovs-port-agent"), "{error}");
    lab.host.sh("rm /run/ovs-port-agent/filler");
    // DEL works on a full disk too.
    let record = lab.attach(&web);
    lab.host.try_sh("cat /dev/zero > /run/ovs-port-agent/filler");
    lab.detach("web");
    assert_eq!(lab.traces(), [""; 0], "{}", record.port);
}
