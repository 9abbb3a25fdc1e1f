//! CHECK: finds each thing that is not as it was made, by name, and passes a healthy attachment.

use std::time::{Duration, Instant};

use rig::{Container, Lab, poll};
use shared::attachment::{AttachRequest, Error, Record};
use shared::link::HOST_END_GROUP;
use shared::vlan::PortVlan;

/// Attaches, sees CHECK pass, wrecks, and returns what CHECK says then.
#[track_caller]
fn finding(lab: &Lab, web: &Container, vlan: PortVlan, wreck: impl FnOnce(&Record)) -> Error {
    let mut request = lab.request(web.name());
    request.vlan = vlan;
    let record = lab.attach_as(&request);
    lab.check(&record).unwrap_or_else(|error| panic!("healthy: {error}"));
    wreck(&record);
    let found = lab.check(&record);
    lab.detach(web.name());
    assert_eq!(lab.traces(), [""; 0]);
    found.expect_err("CHECK found nothing")
}

/// That CHECK names `aspect` (its `{}` is the port, under any of its names), and what it is now
/// and was.
#[track_caller]
fn differs(error: &Error, aspect: &str, now: &str, made: &str) {
    let Error::Differs { what, found, expected, .. } = error else { panic!("{error}") };
    let what = match aspect.strip_suffix("{}") {
        Some(start) if what.starts_with(&format!("{start}veth-")) => aspect,
        _ => what,
    };
    assert_eq!((what, found.as_str(), expected.as_str()), (aspect, now, made));
}

fn lab() -> (Lab, Container) {
    let lab = Lab::new();
    let web = lab.host.container("web");
    (lab, web)
}

#[test]
fn a_healthy_attachment_passes_and_quickly() {
    let (lab, _web) = lab();
    let vlans = [
        PortVlan::untagged(),
        PortVlan::all(),
        PortVlan::access(30.try_into().unwrap()),
        PortVlan { trunks: [30, 40].map(|id| id.try_into().unwrap()).into(), ..PortVlan::all() },
    ];
    for vlan in vlans {
        let record = lab.attach_as(&lab.plain("web", vlan.clone()));
        let mut best = Duration::MAX;
        for _ in 0..5 {
            let start = Instant::now();
            lab.check(&record).unwrap_or_else(|error| panic!("{vlan}: {error}"));
            best = best.min(start.elapsed());
        }
        println!("CHECK of a port that is {vlan}: {best:?}");
        assert!(best < Duration::from_millis(300), "{vlan}: {best:?}");
        lab.detach("web");
    }
}

#[test]
fn what_changed_in_the_switch() {
    let (lab, web) = lab();
    lab.host.bridge("other");
    let vsctl = |args: &str| lab.host.vsctl(args);
    let untagged = PortVlan::untagged;

    let error = finding(&lab, &web, untagged(), |r| {
        let id = vsctl(&format!("get Port {} _uuid", r.port));
        let id = id.trim();
        vsctl(&format!("remove Bridge ovsbr1 ports {id} -- add Bridge other ports {id}"));
    });
    differs(&error, "the bridge of {}", "other", "ovsbr1");

    let error = finding(&lab, &web, PortVlan::access(30.try_into().unwrap()), |r| {
        vsctl(&format!("set Port {} tag=40", r.port));
    });
    differs(&error, "the VLAN of {}", "40", "30");

    let error = finding(&lab, &web, untagged(), |r| {
        vsctl(&format!("set Port {} trunks=0,30", r.port));
    });
    differs(&error, "the VLAN of {}", "trunk 0,30", "untagged");

    let error = finding(&lab, &web, untagged(), |r| {
        vsctl(&format!("clear Port {} trunks vlan_mode", r.port));
    });
    differs(&error, "the VLAN of {}", "none", "untagged");

    let record = lab.attach_as(&AttachRequest { isolated: true, ..lab.request("web") });
    lab.check(&record).unwrap();
    vsctl(&format!("set Port {} protected=false", record.port));
    differs(&lab.check(&record).unwrap_err(), "the isolation of {}", "false", "true");
    lab.detach("web");

    let record = lab.attach(&web);
    vsctl(&format!("set Port {} external_ids:ovs-agent-container=db", record.port));
    let error = lab.check(&record).unwrap_err();
    differs(&error, "the owner of {}", "lab/db/eth0", "lab/web/eth0");
}

#[test]
fn what_changed_on_the_host() {
    let (lab, web) = lab();
    let ip = |args: &str| lab.host.ip(args);
    let untagged = PortVlan::untagged;

    let error = finding(&lab, &web, untagged(), |r| drop(ip(&format!("link delete {}", r.port))));
    differs(&error, "host interface {}", "missing", "there");

    let mut made = String::new();
    let error = finding(&lab, &web, untagged(), |r| {
        made = r.host_mac.to_string();
        ip(&format!("link set {} address 02:00:00:00:00:01", r.port));
    });
    differs(&error, "the MAC of {}", "02:00:00:00:00:01", &made);

    let error =
        finding(&lab, &web, untagged(), |r| drop(ip(&format!("link set {} mtu 1400", r.port))));
    differs(&error, "the MTU of {}", "1400", "1500");

    let error = finding(&lab, &web, untagged(), |r| drop(ip(&format!("link set {} down", r.port))));
    differs(&error, "the link state of {}", "down", "up");
}

#[test]
fn what_changed_in_the_container() {
    let (lab, web) = lab();
    let untagged = PortVlan::untagged;
    let mut made = String::new();

    let error = finding(&lab, &web, untagged(), |r| {
        made = r.addresses[0].address.to_string();
        web.ip(&format!("address delete {made} dev eth0"));
    });
    differs(&error, &format!("address {made} on eth0"), "missing", "there");

    let error = finding(&lab, &web, untagged(), |_| drop(web.ip("route delete default")));
    differs(&error, "the route to 0.0.0.0/0 in the container", "missing", "there");

    let error = finding(&lab, &web, untagged(), |_| drop(web.ip("-6 route delete default")));
    differs(&error, "the route to ::/0 in the container", "missing", "there");

    let error = finding(&lab, &web, untagged(), |_| drop(web.ip("link set eth0 mtu 1400")));
    differs(&error, "the MTU of eth0", "1400", "1500");

    let error = finding(&lab, &web, untagged(), |r| {
        made = r.mac.to_string();
        web.ip("link set eth0 address 02:00:00:00:00:01");
    });
    differs(&error, "the MAC of eth0", "02:00:00:00:00:01", &made);

    let error = finding(&lab, &web, untagged(), |_| drop(web.ip("link set eth0 down")));
    differs(&error, "the link state of eth0", "down", "up");

    let error = finding(&lab, &web, untagged(), |_| {
        web.ip("link set eth0 down");
        web.ip("link set eth0 name lan0");
    });
    differs(&error, "interface eth0 in the container", "missing", "there");
}

#[test]
fn what_is_missing_of_nat() {
    let (lab, web) = lab();
    let untagged = PortVlan::untagged;
    let again = || drop(shared::network::host::up(lab.engine.config()).unwrap());

    let error = finding(&lab, &web, untagged(), |_| {
        lab.host.sh(&format!("nft delete table inet {}", shared::nat::table::NAME));
    });
    assert!(error.to_string().contains("nftables rule"), "{error}");
    again();

    // The setting that IPv6 hangs on depends on the kernel: all that there are.
    let off = ["ipv4/conf/ovsbr1/forwarding", "ipv6/conf/*/f*forwarding"];
    for settings in off {
        let error = finding(&lab, &web, untagged(), |_| {
            lab.host.sh(&format!("for f in /proc/sys/net/{settings}; do echo 0 > $f; done"));
        });
        differs(&error, "forwarding on ovsbr1", "missing", "there");
        again();
    }
}

#[test]
fn another_namespace_under_the_same_path() {
    let (lab, web) = lab();
    let record = lab.attach(&web);
    web.remove();
    let next = lab.host.container("web");
    let error = lab.check(&record).unwrap_err();
    let Error::Differs { what, .. } = &error else { panic!("{error}") };
    assert_eq!(what, "the network namespace");
    lab.detach(next.name());
}

#[test]
fn what_was_never_attached_or_never_finished() {
    let (lab, web) = lab();
    let record = lab.attach(&web);
    let path = shared::state::files(&lab.engine.state().attachments()).unwrap().remove(0);
    shared::state::write(&path, &Record { complete: false, ..record.clone() }).unwrap();
    assert!(matches!(lab.check(&record), Err(Error::Unknown { .. })));
    lab.detach("web");
    assert!(matches!(lab.check(&record), Err(Error::Unknown { .. })));
}

#[test]
fn a_frozen_a_stopped_and_a_restarted_ovs_vswitchd() {
    let (lab, web) = lab();
    let record = lab.attach(&web);
    let switch = lab.host.switch();
    switch.freeze_vswitchd();
    let start = Instant::now();
    let error = lab.check(&record).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert!(error.to_string().contains("ovs-vswitchd did not answer"), "{error}");
    switch.thaw_vswitchd();
    lab.check(&record).unwrap();
    switch.stop_vswitchd();
    let error = lab.check(&record).unwrap_err();
    assert!(matches!(error, Error::Vswitchd(_)), "{error}");
    switch.start_vswitchd();
    // It gives the ports numbers anew, the same ones, and says so a moment later.
    poll("a healthy port after a restart", Duration::from_secs(5), || lab.check(&record).ok());
    switch.freeze_ovsdb();
    let error = lab.check(&record).unwrap_err();
    assert!(error.to_string().contains("ovsdb-server at"), "{error}");
    switch.thaw_ovsdb();
    lab.check(&record).unwrap();
}

/// Deletes the pair under a port and makes it again, alike to the last attribute.
fn replace_pair(lab: &Lab, web: &Container, record: &Record) {
    let name = &record.port;
    lab.host.ip(&format!("link delete {name}"));
    lab.host.ip(&format!(
        "link add {name} address {} mtu {} group {HOST_END_GROUP} type veth \
         peer name eth0 address {} mtu {} netns {}",
        record.host_mac,
        record.mtu,
        record.mac,
        record.mtu,
        web.name(),
    ));
    lab.host.ip(&format!("link set {name} up"));
    web.ip("link set eth0 up");
    for address in &record.addresses {
        web.ip(&format!("address add {} dev eth0 nodad", address.address));
    }
    for address in &record.addresses {
        web.ip(&format!("route add default via {}", address.gateway.unwrap()));
    }
}

#[test]
fn a_port_that_looks_right_and_passes_nothing() {
    let (lab, web) = lab();
    let record = lab.attach(&web);
    lab.check(&record).unwrap();
    let row = || {
        let port = lab.ovsdb().port(&record.port).unwrap().unwrap();
        (port.bridge, port.vlan, port.error, port.ofport)
    };
    let before = row();
    replace_pair(&lab, &web, &record);
    // ovs-vswitchd sees the new device and describes it as if all were well.
    let index = std::fs::read_to_string(format!("/sys/class/net/{}/ifindex", record.port)).unwrap();
    poll("ovs-vswitchd takes the new device for the old", Duration::from_secs(5), || {
        let port = lab.ovsdb().port(&record.port).unwrap().unwrap();
        (port.ifindex.map(|i| i.to_string()).as_deref() == Some(index.trim())).then_some(())
    });
    assert_eq!(row(), before);
    assert!(!web.ping("10.200.0.1".parse().unwrap()), "frames pass: this proves nothing");
    let error = lab.check(&record).unwrap_err();
    assert!(matches!(error, Error::NoFrames { .. }), "{error}");
    // Plugged in anew, it works.
    lab.detach("web");
    let record = lab.attach(&web);
    lab.check(&record).unwrap();
    assert!(web.ping("10.200.0.1".parse().unwrap()));
}
