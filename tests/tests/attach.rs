//! The engine on a private host: what ADD and DEL do, without a front end.

use std::time::Duration;

use rig::{Container, Host, assert_same};
use shared::attachment::record::Labels;
use shared::attachment::{Addressing, AttachRequest, Engine, Key, Runtime};
use shared::config::Config;
use shared::network::{self, Network};
use shared::vlan::PortVlan;

/// An engine on a host that `up` has prepared.
fn engine() -> Engine {
    let config = Config::default();
    network::host::up(&config).unwrap();
    Engine::new(config)
}

fn request(engine: &Engine, container: &Container) -> AttachRequest {
    let bridge = engine.config().nat_bridge().unwrap();
    AttachRequest {
        key: Key {
            network: "lab".to_owned(),
            container: container.name().to_owned(),
            ifname: "eth0".parse().unwrap(),
        },
        runtime: Runtime::Cni,
        caller: "test".to_owned(),
        netns: container.path(),
        bridge: bridge.name.clone(),
        vlan: PortVlan::untagged(),
        mtu: None,
        mac: None,
        ofport_request: None,
        interface_type: String::new(),
        external_ids: Default::default(),
        interface_external_ids: Default::default(),
        isolated: false,
        addressing: Addressing::Pool {
            network: Network::of_nat_bridge(bridge).unwrap(),
            requested: Vec::new(),
            default_route: true,
        },
        routes: Vec::new(),
        labels: Labels::default(),
        link_deadline: Duration::from_secs(5),
        front_end: serde_json::Value::Null,
    }
}

#[test]
fn two_containers_talk_and_nothing_is_left() {
    let host = Host::new();
    let engine = engine();
    engine.show().unwrap();
    let before = host.snapshot();
    let (web, db) = (host.container("web"), host.container("db"));
    let one = engine.attach(&request(&engine, &web)).unwrap();
    let two = engine.attach(&request(&engine, &db)).unwrap();
    assert_eq!(one.port.as_str(), "veth-web-eth0");
    assert_ne!(one.addresses, two.addresses);
    for address in &two.addresses {
        let _server = db.echo_server();
        assert!(web.ping(address.address.addr()), "{}", address.address);
        web.tcp_echo(address.address.addr(), 1 << 20).unwrap();
    }
    for record in [&one, &two] {
        engine.detach(&record.key).unwrap();
    }
    web.remove();
    db.remove();
    assert_same(&before, &host.snapshot());
}
