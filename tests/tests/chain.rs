//! In a chain with Debian's own plugins.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use rig::{Chain, Host, Uplink, assert_same};
use serde_json::{Value, json};

fn host() -> (Host, Uplink) {
    let host = Host::new();
    let uplink = host.uplink("wlp4s0", 1).addressed(&host).routed(&host, 100);
    host.port_agent().run("up");
    (host, uplink)
}

fn chain(version: &str, next: &Value) -> Chain {
    let plugins = json!([{"type": "ovs-agent"}, next]);
    Chain::new(&json!({"cniVersion": version, "name": "lab", "plugins": plugins}).to_string())
}

#[test]
fn portmap_publishes_a_port() {
    let (host, uplink) = host();
    let before = host.snapshot();
    let web = host.container("web");
    let next = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    let ports = json!([{"hostPort": 8080, "containerPort": 7, "protocol": "tcp"}]);
    let chain = chain("1.0.0", &next).argument("portMappings", ports);
    let result = chain.add(&web);
    let server = web.echo_server();
    uplink.router().tcp_echo_port(uplink.address(), 8080, 1_000_000).unwrap();
    // Ours passes. The CHECK of portmap 1.1.1 looks for its IPv4 rule in ip6tables, and fails.
    if let Err(error) = chain.check(&web, &result) {
        assert!(error.contains("could not check ipv6 dnat"), "{error}");
    }
    drop(server);
    chain.del(&web, &result);
    drop(web);
    // portmap leaves its empty chains, the jumps to them and nothing else.
    let left = before.difference(&host.snapshot());
    assert!(left.lines().all(|line| !line.contains("10.200.") && !line.contains("veth")), "{left}");
}

#[test]
fn bandwidth_slows_a_container_down() {
    let (host, _uplink) = host();
    let (web, db) = (host.container("web"), host.container("db"));
    let before = host.snapshot();
    // 8 Mbit/s towards the container, a burst of 80 kB.
    let next = json!({"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 640_000});
    let slow = chain("1.0.0", &next);
    let result = slow.add(&web);
    let plain =
        Chain::new(r#"{"cniVersion": "1.0.0", "name": "lab", "plugins": [{"type": "ovs-agent"}]}"#);
    let other = plain.add(&db);
    let server = db.echo_server();
    let ip = other["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap();
    let started = Instant::now();
    web.tcp_echo(ip.parse().unwrap(), 1_000_000).unwrap();
    let took = started.elapsed();
    assert!(took > Duration::from_millis(700), "1 MB at 1 MB/s took {took:?}");
    slow.check(&web, &result).unwrap();
    drop(server);
    slow.del(&web, &result);
    plain.del(&db, &other);
    assert_same(&before, &host.snapshot());
}

#[test]
fn tuning_changes_what_it_is_told() {
    let (host, _uplink) = host();
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        let web = host.container("web");
        let before = host.snapshot();
        let next = json!({
            "type": "tuning",
            "sysctl": {"net.ipv4.conf.eth0.arp_ignore": "1"},
            "mac": "02:01:02:03:04:05",
        });
        let chain = chain(version, &next);
        let result = chain.add(&web);
        assert_eq!(web.mac("eth0"), [2, 1, 2, 3, 4, 5]);
        assert_eq!(web.exec("cat /proc/sys/net/ipv4/conf/eth0/arp_ignore").trim(), "1");
        let gateway: IpAddr = "10.200.0.1".parse().unwrap();
        assert!(web.ping(gateway));
        if version != "0.3.1" {
            chain.check(&web, &result).unwrap();
        }
        chain.del(&web, &result);
        assert_same(&before, &host.snapshot());
    }
}
