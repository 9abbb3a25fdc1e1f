//! containerd: `ctr run --cni`, and its CRI service as a kubelet speaks it.

mod cri;

use std::net::IpAddr;

use cri::{Containerd, Pod};
use rig::{Host, INTERNET, Uplink, assert_same};

/// What a test works with. Fields drop in this order, so do not take it apart.
struct Scene {
    containerd: Containerd,
    uplink: Uplink,
    host: Host,
}

fn scene() -> Scene {
    let host = Host::new();
    let uplink = host.uplink("wlp4s0", 1).addressed(&host).routed(&host, 100);
    host.install_plugin();
    host.port_agent().run("up");
    Scene { containerd: Containerd::start(&host), uplink, host }
}

#[test]
fn ctr_runs_a_container() {
    let scene = scene();
    let Scene { containerd, host, uplink } = &scene;
    let before = host.snapshot();
    let ping = containerd.once("web", "ping -c 1 -W 2 10.200.0.1");
    assert!(ping.ok(), "{ping}");
    // Port 13 tells the caller's address; busybox hangs up when the server does.
    let call = containerd.once("web", &format!("nc -w 5 {INTERNET} 13"));
    assert!(call.stdout.contains(&uplink.address().to_string()), "{call}");
    assert_same(&before, &host.snapshot());
}

#[test]
fn pods_talk_and_leave_nothing() {
    let scene = scene();
    let Scene { containerd, host, uplink } = &scene;
    assert!(containerd.network_ready());
    let before = host.snapshot();
    let web = containerd.run_pod(Pod { name: "web", uid: "uid-web" }).unwrap();
    let db = containerd.run_pod(Pod { name: "db", uid: "uid-db" }).unwrap();
    let addresses = |id: &str| -> Vec<IpAddr> {
        let texts = containerd.pod_addresses(id).unwrap();
        texts.iter().map(|text| text.parse().unwrap()).collect()
    };
    assert_eq!(addresses(&web).len(), 2, "an IPv4 and an IPv6 address");
    let pod = containerd.pod(&web);
    let server = containerd.pod(&db).echo_server();
    for address in addresses(&db) {
        pod.tcp_echo(address, 1_000_000).unwrap();
    }
    let (_, seen) = pod.who_answers(INTERNET).unwrap();
    assert_eq!(seen, uplink.address());
    let status = host.port_agent().run("status");
    assert!(addresses(&web).iter().all(|ip| status.contains(&ip.to_string())), "{status}");
    drop((server, pod));
    for id in [&web, &db] {
        containerd.stop_pod(id).unwrap();
        containerd.stop_pod(id).unwrap();
        containerd.remove_pod(id).unwrap();
    }
    assert_same(&before, &host.snapshot());
}

#[test]
fn a_pod_without_a_switch_is_refused_and_told_why() {
    let scene = scene();
    let Scene { containerd, host, .. } = &scene;
    host.switch().stop_ovsdb();
    let refusal = containerd.run_pod(Pod { name: "web", uid: "uid-web" }).unwrap_err();
    assert!(refusal.message.contains("db.sock"), "{refusal:?}");
    host.switch().start_ovsdb();
    let id = containerd.run_pod(Pod { name: "web", uid: "uid-again" }).unwrap();
    assert!(containerd.pod(&id).ping("10.200.0.1".parse().unwrap()));
}
