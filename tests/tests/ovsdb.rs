//! The OVSDB client against a real ovsdb-server and ovs-vswitchd.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rig::{Frame, Host, Lab, Switch};
use shared::attachment::Picture;
use shared::name::IfName;
use shared::ovsdb::vswitchd::Vswitchd;
use shared::ovsdb::{Bridge, Client, Endpoint, Error, Generation, PortSpec, Uuid, Watch};
use shared::vlan::{PortVlan, VlanId, VlanMode};

const SECOND: Duration = Duration::from_secs(1);

fn client() -> Client {
    Client::connect(&Switch::SOCKET.parse().unwrap(), SECOND * 5).unwrap()
}

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

fn vlan(id: u64) -> VlanId {
    VlanId::try_from(id).unwrap()
}

fn ids<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// An internal port: it needs no device made beforehand.
fn internal(port: &str) -> PortSpec {
    PortSpec {
        name: name(port),
        interface_type: "internal".to_owned(),
        vlan: PortVlan::untagged(),
        ofport_request: None,
        mac: None,
        mtu_request: None,
        protected: false,
        external_ids: ids([("owner", "test"), ("port", port)]),
        interface_external_ids: BTreeMap::new(),
    }
}

fn system(port: &str) -> PortSpec {
    PortSpec { interface_type: String::new(), ..internal(port) }
}

fn bridge(client: &mut Client, bridge: &str) -> Bridge {
    assert!(client.add_bridge(&name(bridge), "netdev", None, &BTreeMap::new()).unwrap());
    client.view(&name(bridge)).unwrap().bridge
}

#[test]
fn a_bridge_is_made_once_seen_and_removed_with_its_ports() {
    let host = Host::new();
    let mut client = client();
    let br = name("br-a.1");
    assert!(matches!(client.view(&br), Err(Error::NoBridge { bridge }) if bridge == "br-a.1"));
    let mac = "02:00:00:00:00:0a".parse().unwrap();
    assert!(client.add_bridge(&br, "netdev", Some(mac), &ids([("owner", "test")])).unwrap());
    assert_eq!(client.wait_open(&br, SECOND * 10).unwrap(), 65534);
    assert!(host.ip("link show br-a.1").contains("02:00:00:00:00:0a"));

    // A bridge that exists is left alone, whatever is asked for.
    host.vsctl("set Bridge br-a.1 fail_mode=secure external_ids:foreign=kept");
    assert!(!client.add_bridge(&br, "system", None, &ids([("owner", "other")])).unwrap());
    let view = client.view(&br).unwrap();
    assert!(view.bridge.is_userspace());
    assert_eq!(view.bridge.fail_mode.as_deref(), Some("secure"));
    assert_eq!(view.bridge.external_ids, ids([("owner", "test"), ("foreign", "kept")]));
    assert!(view.next >= Generation(2) && view.current <= view.next, "{view:?}");

    for mtu in [Some(1400), None] {
        client.set_mtu(&br, mtu).unwrap();
        assert_eq!(client.port(&br).unwrap().unwrap().mtu_request, mtu);
    }

    client.add_port(&view.bridge.name, &internal("p1")).unwrap();
    assert!(client.delete_bridge(&br).unwrap());
    assert!(!client.delete_bridge(&br).unwrap());
    assert!(client.bridges().unwrap().is_empty() && client.ports().unwrap().is_empty());
    assert_eq!(host.vsctl("--columns=name list Interface"), "");
    assert!(matches!(
        client.add_port(&br, &internal("p1")),
        Err(Error::NoBridge { bridge }) if bridge == "br-a.1"
    ));
    assert!(client.port(&name("p1")).unwrap().is_none());
}

#[test]
fn a_name_is_not_taken_before_the_switch_let_go_of_it() {
    let host = Host::new();
    let mut client = client();
    let br = bridge(&mut client, "br0").name;
    client.add_port(&br, &internal("p1")).unwrap();
    let uuid = client.port(&name("p1")).unwrap().unwrap().uuid;
    let add = |client: &mut Client, freed| {
        let sent = client.send_port(&br, &internal("p1"), freed).unwrap();
        client.read_port(&br, &name("p1"), &sent).map(drop)
    };
    host.switch().freeze_vswitchd();
    let freed = client.delete_ports(&[uuid]).unwrap();
    assert!(matches!(add(&mut client, Some(freed)), Err(Error::PortHeld { port }) if port == "p1"));
    assert!(client.port(&name("p1")).unwrap().is_none());
    host.switch().thaw_vswitchd();
    assert!(client.wait_applied(freed, SECOND * 10).unwrap());
    add(&mut client, Some(freed)).unwrap();
    // Noted in a database that is gone.
    let uuid = client.port(&name("p1")).unwrap().unwrap().uuid;
    client.delete_ports(&[uuid]).unwrap();
    add(&mut client, Some(Generation(freed.0 + 1000))).unwrap();
}

#[test]
fn a_port_is_added_opened_found_and_removed() {
    let host = Host::new();
    let mut client = client();
    let br = bridge(&mut client, "br0");
    host.ip("link add v-1.a-b type veth peer name peer");
    let spec = PortSpec {
        ofport_request: Some(77),
        protected: true,
        vlan: PortVlan { mode: VlanMode::Trunk, tag: None, trunks: BTreeSet::from([vlan(7)]) },
        interface_external_ids: ids([("iface-id", "x")]),
        ..system("v-1.a-b")
    };
    client.add_port(&br.name, &spec).unwrap();
    assert_eq!(client.wait_open(&spec.name, SECOND * 10).unwrap(), 77);
    // A second time it is open already.
    assert_eq!(client.wait_open(&spec.name, SECOND * 10).unwrap(), 77);

    let port = client.port(&spec.name).unwrap().unwrap();
    assert_eq!(port.bridge, Some(name("br0")));
    assert_eq!(port.vlan, Some(spec.vlan.clone()));
    assert_eq!((port.ofport, port.ofport_request, port.error), (Some(77), Some(77), None));
    assert!(port.protected && port.ifindex.is_some() && port.interface_type.is_empty());
    assert_eq!(port.external_ids, spec.external_ids);
    assert_eq!(host.vsctl("get Interface v-1.a-b external_ids:iface-id").trim(), "x");

    assert!(matches!(
        client.add_port(&br.name, &spec),
        Err(Error::PortExists { port }) if port == "v-1.a-b"
    ));

    let generation = client.delete_ports(std::slice::from_ref(&port.uuid)).unwrap();
    assert!(client.wait_applied(generation, SECOND * 10).unwrap());
    assert!(client.port(&spec.name).unwrap().is_none());
    let shown = host.sh("ovs-appctl dpif/show");
    assert!(shown.contains("br0") && !shown.contains("v-1.a-b"), "{shown}");
    // Gone already is no error, and neither is nothing at all.
    assert!(client.delete_ports(std::slice::from_ref(&port.uuid)).unwrap() > generation);
    client.delete_ports(&[]).unwrap();
    assert!(matches!(client.wait_open(&spec.name, SECOND), Err(Error::NoPort { .. })));
}

#[test]
fn ports_are_found_by_external_ids_and_removed_from_any_bridge() {
    let host = Host::new();
    let mut client = client();
    let (one, two) = (bridge(&mut client, "br1"), bridge(&mut client, "br2"));
    client.add_port(&one.name, &internal("p1")).unwrap();
    client.add_port(&two.name, &internal("p2")).unwrap();
    let foreign = PortSpec { external_ids: ids([("owner", "other")]), ..internal("p3") };
    client.add_port(&two.name, &foreign).unwrap();
    // Names that cannot be ours, a bond, and a port with no VLAN column.
    host.vsctl("add-port br1 patch-br1-to-br2-long -- set Interface patch-br1-to-br2-long type=patch options:peer=x");
    host.vsctl("add-bond br1 bond0 d1 d2 -- set Port bond0 bond_mode=balance-slb");
    host.vsctl("add-port br1 bare");

    let mut ours = client.ports_with(&ids([("owner", "test")])).unwrap();
    ours.sort_by(|a, b| a.name.cmp(&b.name));
    let found: Vec<_> = ours.iter().map(|p| (p.name.as_str(), p.bridge.clone())).collect();
    assert_eq!(found, [("p1", Some(name("br1"))), ("p2", Some(name("br2")))]);
    assert_eq!(client.ports_with(&ids([("owner", "test"), ("port", "p2")])).unwrap().len(), 1);
    assert!(client.ports_with(&ids([("owner", "nobody")])).unwrap().is_empty());

    let mut all = client.ports().unwrap();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let listed: Vec<_> = all.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(listed, ["bare", "bond0", "br1", "br2", "p1", "p2", "p3"]);
    for port in &all {
        assert_eq!(client.port(&port.name).unwrap().as_ref(), Some(port));
    }
    assert_eq!(all[0].vlan, None);
    assert_eq!(all[4].vlan, Some(PortVlan::untagged()));

    let uuids: Vec<Uuid> = ours.into_iter().map(|p| p.uuid).collect();
    let generation = client.delete_ports(&uuids).unwrap();
    assert!(client.wait_applied(generation, SECOND * 10).unwrap());
    assert!(client.ports_with(&ids([("owner", "test")])).unwrap().is_empty());
    assert_eq!(host.vsctl("list-ports br2").trim(), "p3");
    assert!(!host.vsctl("list-ports br1").contains("p1"));
    // An interface of a bond takes the name as a port would.
    assert!(matches!(client.add_port(&one.name, &system("d1")), Err(Error::PortExists { .. })));
}

#[test]
fn a_port_that_cannot_be_opened_says_why_unless_its_device_comes_at_once() {
    let host = Host::new();
    let mut client = client();
    let br = bridge(&mut client, "br0");
    client.add_port(&br.name, &system("absent")).unwrap();
    let before = Instant::now();
    match client.wait_open(&name("absent"), SECOND * 10) {
        Err(Error::PortError { port, why }) => {
            assert_eq!(port, "absent");
            assert!(why.contains("No such device"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    assert!(before.elapsed() < SECOND * 5, "{:?}", before.elapsed());

    // Added first, made 100 ms later: the error passes.
    client.add_port(&br.name, &system("late")).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            host.ip("link add late type veth peer name late-peer");
        });
        let opened = client.wait_open(&name("late"), SECOND * 10).unwrap();
        assert!(opened > 0);
    });
}

#[test]
fn frozen_and_absent_daemons_cost_the_deadline_and_no_more() {
    let host = Host::new();
    let mut client = client();
    let br = bridge(&mut client, "br0");
    client.wait_open(&br.name, SECOND * 10).unwrap();

    host.switch().freeze_vswitchd();
    client.add_port(&br.name, &internal("p1")).unwrap();
    let before = Instant::now();
    let deadline = Duration::from_millis(300);
    assert!(matches!(
        client.wait_open(&name("p1"), deadline),
        Err(Error::NotOpened { port, .. }) if port == "p1"
    ));
    let port = client.port(&name("p1")).unwrap().unwrap();
    assert_eq!(port.ofport, None);
    let generation = client.delete_ports(&[port.uuid]).unwrap();
    assert!(!client.wait_applied(generation, deadline).unwrap());
    assert!(before.elapsed() < SECOND * 3, "{:?}", before.elapsed());
    host.switch().thaw_vswitchd();
    assert!(client.wait_applied(generation, SECOND * 10).unwrap());

    let endpoint: Endpoint = Switch::SOCKET.parse().unwrap();
    let mut short = Client::connect(&endpoint, deadline).unwrap();
    host.switch().freeze_ovsdb();
    let before = Instant::now();
    assert!(matches!(short.view(&br.name), Err(Error::Timeout { .. })));
    assert!(matches!(short.wait_open(&br.name, deadline), Err(Error::Timeout { .. })));
    // Nobody accepts: once the backlog is full even connecting has to end.
    let mut waiting = Vec::new();
    let full = loop {
        match Client::connect(&endpoint, deadline) {
            Ok(client) => waiting.push(client),
            Err(error) => break error,
        }
        assert!(waiting.len() < 5000, "the backlog never filled");
    };
    assert!(matches!(full, Error::Timeout { .. }), "{full:?}");
    assert!(before.elapsed() < SECOND * 3, "{:?}", before.elapsed());
    drop(waiting);
    host.switch().thaw_ovsdb();
    // Answers that come late are nobody's: the same connection goes on.
    assert_eq!(short.view(&br.name).unwrap().bridge.uuid, br.uuid);

    host.switch().kill_ovsdb();
    assert!(matches!(short.view(&br.name), Err(Error::Broken { .. })));
    assert!(matches!(short.view(&br.name), Err(Error::Broken { .. })));
    assert!(matches!(Client::connect(&endpoint, SECOND), Err(Error::Connect { .. })));
}

#[test]
fn tcp_and_an_inactivity_probe_work_as_well() {
    let host = Host::new();
    host.vsctl("set-manager ptcp:6640:127.0.0.1 -- set Manager . inactivity_probe=1000");
    let endpoint: Endpoint = "tcp:127.0.0.1".parse().unwrap();
    let mut client = rig::poll("no manager listens", SECOND * 10, || {
        Client::connect(&endpoint, SECOND * 5).ok()
    });
    let br = bridge(&mut client, "br0");
    client.wait_open(&br.name, SECOND * 10).unwrap();
    // Silent for longer than the probe allows: the echo has to be answered while waiting.
    let next = client.view(&br.name).unwrap().next;
    assert!(!client.wait_applied(Generation(next.0 + 1), SECOND * 4).unwrap());
    assert_eq!(client.view(&br.name).unwrap().bridge, br);
}

#[test]
fn an_uninitialised_database_is_told() {
    let host = Host::new();
    host.switch().stop_vswitchd();
    let mut client = client();
    host.sh("ovsdb-client -t 10 transact '[\"Open_vSwitch\",{\"op\":\"delete\",\"table\":\"Open_vSwitch\",\"where\":[]}]'");
    let error = client.delete_ports(&[]).unwrap_err();
    assert!(error.to_string().contains("is empty"), "{error}");
}

#[test]
fn vswitchd_is_alive_or_frozen_or_gone() {
    use shared::ovsdb::vswitchd::{Error, alive};

    let host = Host::new();
    let endpoint: Endpoint = Switch::SOCKET.parse().unwrap();
    let version = alive(&endpoint, SECOND * 5).unwrap();
    assert!(host.sh("ovs-vswitchd --version").contains(&version) && version.contains('.'));

    host.switch().freeze_vswitchd();
    let before = Instant::now();
    let frozen = alive(&endpoint, Duration::from_millis(300)).unwrap_err();
    assert!(matches!(frozen, Error::Frozen { .. }), "{frozen}");
    assert!(before.elapsed() < SECOND * 2);
    host.switch().thaw_vswitchd();
    alive(&endpoint, SECOND * 5).unwrap();

    host.switch().kill_vswitchd();
    let gone = alive(&endpoint, SECOND).unwrap_err();
    assert!(matches!(gone, Error::Gone { .. }), "{gone}");
    host.switch().start_vswitchd();
    host.switch().stop_vswitchd();
    let stopped = alive(&endpoint, SECOND).unwrap_err();
    assert!(matches!(stopped, Error::NotRunning { .. }), "{stopped}");
}

#[test]
fn the_datapath_tells_whether_a_frame_of_a_port_arrived() {
    let host = Host::new();
    let mut client = client();
    let br = bridge(&mut client, "br0");
    for (port, peer, bridge_mode) in [("v-1.a", "c1", "standalone"), ("v-2.a", "c2", "secure")] {
        let container = host.container(peer);
        host.ip(&format!("link add {port} type veth peer name eth0 netns {peer}"));
        host.ip(&format!("link set {port} up"));
        container.ip("link set eth0 up");
        host.vsctl(&format!("set Bridge br0 fail_mode={bridge_mode}"));
        let spec = PortSpec { vlan: PortVlan::access(vlan(7)), ..system(port) };
        client.add_port(&br.name, &spec).unwrap();
        let opened = i64::from(client.wait_open(&spec.name, SECOND * 10).unwrap());

        let mut vswitchd = Vswitchd::connect(&Switch::SOCKET.parse().unwrap(), SECOND * 5).unwrap();
        let mut packets = || vswitchd.flow_packets(&spec.name, 0x88b5).unwrap();
        let probe = || {
            container.raw_socket("eth0").send(&Frame {
                to: [0x01, 0x80, 0xc2, 0, 0, 0x0f],
                from: container.mac("eth0"),
                vlan: None,
                ethertype: [0x88, 0xb5],
                payload: Vec::new(),
            });
        };
        assert_eq!(packets(), None);
        for _ in 0..2 {
            let before = packets();
            probe();
            rig::poll("the datapath saw no frame", SECOND * 5, || {
                (packets() > before).then_some(())
            });
        }

        // The trap this is for: the same name made anew, a row that looks healthy, a dead port.
        let before = packets();
        host.ip(&format!("link del {port}"));
        host.ip(&format!("link add {port} type veth peer name eth0 netns {peer}"));
        host.ip(&format!("link set {port} up"));
        container.ip("link set eth0 up");
        for _ in 0..3 {
            probe();
        }
        std::thread::sleep(SECOND / 2);
        let row = client.port(&spec.name).unwrap().unwrap();
        assert_eq!((row.ofport, row.error), (opened.into(), None));
        assert_eq!(packets(), before);
    }
}

/// Whatever changes, and however much at once, what a watch was told is what a look finds.
#[test]
fn a_watch_knows_what_a_look_finds() {
    let lab = Lab::new();
    let (web, db) = (lab.host.container("web"), lab.host.container("db"));
    lab.attach(&web);
    let mut watch = Watch::open(&Switch::SOCKET.parse().unwrap()).unwrap();
    let mut same = |what: &str| {
        let found = lab.engine.picture().unwrap();
        rig::poll(what, SECOND * 10, || {
            watch.drain().unwrap();
            (Picture::of(&watch) == found).then_some(())
        });
        found
    };
    assert_eq!(same("at first").ports.len(), 1);
    lab.attach(&db);
    assert_eq!(same("one more").ports.len(), 2);
    let vsctl = |args: &str| drop(lab.host.sh(&format!("ovs-vsctl --no-wait {args}")));
    let ours = "external_ids='{owner=ovs-agent,ovs-agent-network=n,ovs-agent-container=c,\
                ovs-agent-ifname=eth0}'";
    for (what, change) in [
        ("a tag", "set Port veth-web-eth0 tag=7 vlan_mode=access".to_owned()),
        ("trunks", "set Port veth-web-eth0 tag=[] vlan_mode=trunk trunks=3,5".to_owned()),
        (
            "no VLAN columns",
            "clear Port veth-web-eth0 tag -- clear Port veth-web-eth0 trunks -- \
          clear Port veth-web-eth0 vlan_mode"
                .to_owned(),
        ),
        ("another owner", "set Port veth-web-eth0 external_ids:owner=somebody".to_owned()),
        ("a bridge", "add-br br9".to_owned()),
        ("a name that is none of the system's", "add-port br9 patch-br-int-to-br-ex".to_owned()),
        ("a port by hand", format!("add-port br9 p0 tag=3 -- set Port p0 {ours}")),
        (
            "another bridge",
            "-- --id=@p get Port p0 -- remove Bridge br9 ports @p -- \
          add Bridge ovsbr1 ports @p"
                .to_owned(),
        ),
        ("a bridge gone with its ports", "del-br br9".to_owned()),
        ("a port gone", "del-port p0".to_owned()),
    ] {
        vsctl(&change);
        same(what);
    }
    // More than is read in a row.
    for tens in 0..20 {
        let ports = (0..50).map(|n| {
            format!("-- add-port ovsbr1 s{tens}-{n} tag=5 -- set Port s{tens}-{n} {ours}")
        });
        vsctl(&ports.collect::<Vec<_>>().join(" "));
    }
    assert_eq!(same("a storm").ports.len(), 1001);
    lab.host.switch().erase_database();
    assert!(
        rig::poll("the end is heard", SECOND * 10, || watch.drain().err())
            .to_string()
            .contains("broke")
    );
}
