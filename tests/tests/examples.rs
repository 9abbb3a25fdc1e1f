//! Every file in `conf/` and `examples/`, run as it stands.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rig::{Chain, Container, Host, INTERNET, Uplink};
use serde_json::{Value, json};

/// Files that run nothing by themselves, and where they are run instead.
const ELSEWHERE: [(&str, &str); 15] = [
    ("conf/50-ovs-agent.conflist", "podman.rs and containerd.rs"),
    ("conf/70-ovs-agent.link", "booted/managers.rs"),
    ("conf/70-ovs-agent.network", "booted/managers.rs"),
    ("conf/70-ovs-agent.rules", "booted/managers.rs"),
    ("conf/90-ovs-agent.conf", "booted/managers.rs"),
    ("conf/dev.ovs.PortAgent1.conf", "bus.rs"),
    ("conf/ovs-port-agent.service", "booted/install.rs"),
    ("conf/ovs-agent-docker.service", "booted/docker.rs"),
    ("examples/README.md", "read by people"),
    ("examples/docker/compose.yaml", "docker/compose.rs"),
    ("examples/podman/blue.network", "netavark/callers.rs"),
    ("examples/podman/compose.yaml", "netavark/callers.rs"),
    ("examples/podman/island.network", "netavark/callers.rs"),
    ("examples/podman/pool.network", "netavark/callers.rs"),
    ("examples/podman/web.container", "netavark/callers.rs"),
];

/// Files that a test below runs.
const HERE: [&str; 8] = [
    "conf/config.toml",
    "examples/cni/from-ovs-cni.conflist",
    "examples/cni/host-local.conflist",
    "examples/cni/lan.conflist",
    "examples/cni/published.conflist",
    "examples/cni/team.conflist",
    "examples/cni/vlan.conflist",
    "examples/kubernetes/attachment.yaml",
];

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn files(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            let name = path.strip_prefix(checkout()).unwrap();
            found.push(name.display().to_string());
        }
    }
}

#[test]
fn no_file_is_forgotten() {
    let mut found = Vec::new();
    for dir in ["conf", "examples"] {
        files(&checkout().join(dir), &mut found);
    }
    found.sort();
    let mut known: Vec<_> = ELSEWHERE.iter().map(|(file, _)| *file).chain(HERE).collect();
    known.sort_unstable();
    assert_eq!(found, known, "each file is run by a test or says why not");
}

/// A host that is up; `enp2s0` is on the LAN of `ovsbr0`, whose router is 172.16.0.1.
fn host() -> (Host, Uplink) {
    let host = Host::new();
    let uplink = host.uplink("wlp4s0", 1).addressed(&host).routed(&host, 100);
    host.port_agent().run("up");
    (host, uplink)
}

fn example(host: &Host, file: &str) -> Chain {
    Chain::new(&host.shipped(file))
}

fn address(result: &Value, index: usize) -> IpAddr {
    let text = result["ips"][index]["address"].as_str().unwrap();
    text.split('/').next().unwrap().parse().unwrap()
}

fn gone(host: &Host, chain: &Chain, attached: &[(&Container, &Value)]) {
    for (container, result) in attached {
        chain.check(container, result).unwrap();
        chain.del(container, result);
    }
    for bridge in ["ovsbr0", "ovsbr1"] {
        let ports = host.vsctl(&format!("list-ports {bridge}"));
        assert!(!ports.contains("veth"), "left on {bridge}: {ports}");
    }
}

#[test]
fn the_configuration_is_the_default() {
    let host = Host::new();
    let agent = host.port_agent();
    agent.run("up");
    let without = host.snapshot();
    host.config(&host.shipped("conf/config.toml"));
    let mut with = host.snapshot();
    agent.run("up");
    let after = host.snapshot();
    rig::assert_same(&with, &after);
    fs::remove_dir_all("/etc/ovs-port-agent").unwrap();
    with = host.snapshot();
    rig::assert_same(&without, &with);
}

#[test]
fn published() {
    let (host, uplink) = host();
    let web = host.container("web");
    let ports = json!([{"hostPort": 8080, "containerPort": 7, "protocol": "tcp"}]);
    let rate = json!({"ingressRate": 80_000_000, "ingressBurst": 8_000_000});
    let chain = example(&host, "examples/cni/published.conflist")
        .argument("portMappings", ports)
        .argument("bandwidth", rate)
        .argument("ips", json!(["10.200.0.55/24"]));
    let result = chain.add(&web);
    assert_eq!(address(&result, 0).to_string(), "10.200.0.55");
    let server = web.echo_server();
    uplink.router().tcp_echo_port(uplink.address(), 8080, 100_000).unwrap();
    web.tcp_echo(INTERNET, 100_000).unwrap();
    drop(server);
    // No CHECK: that of portmap 1.1.1 looks for its IPv4 rule in ip6tables (see chain.rs).
    chain.del(&web, &result);
    assert_eq!(host.vsctl("list-ports ovsbr1"), "");
    assert!(uplink.router().connect(uplink.address(), 8080).is_err(), "still published");
}

#[test]
fn lan() {
    let (host, _uplink) = host();
    host.sh("ip link add enp2s0 type veth peer name peer; ip link set enp2s0 up");
    host.sh("ovs-vsctl add-port ovsbr0 enp2s0");
    let router = host.container("router");
    host.sh("ip link set peer netns router");
    router.exec(
        "ethtool -K peer tx off; ip link set peer up; ip address add 172.16.0.1/24 dev peer; \
         ip address add 203.0.113.1/32 dev lo",
    );
    let server = router.echo_server();
    let web = host.container("web");
    let chain = example(&host, "examples/cni/lan.conflist");
    let result = chain.add(&web);
    assert_eq!(address(&result, 0).to_string(), "172.16.0.100");
    // On the LAN itself: the router sees the container's own address.
    let (_, seen) = web.who_answers(INTERNET).unwrap();
    assert_eq!(seen, address(&result, 0));
    drop(server);
    gone(&host, &chain, &[(&web, &result)]);
}

#[test]
fn vlan() {
    let (host, _uplink) = host();
    let chain = example(&host, "examples/cni/vlan.conflist");
    let (web, db) = (host.container("web"), host.container("db"));
    let (one, two) = (chain.add(&web), chain.add(&db));
    let server = db.echo_server();
    for index in [0, 1] {
        web.tcp_echo(address(&two, index), 100_000).unwrap();
    }
    assert_eq!(host.sh("ovs-vsctl --bare --columns=tag find Port tag=20").lines().count(), 3);
    assert!(web.ip("route show default").trim().is_empty(), "an island has no way out");
    drop(server);
    gone(&host, &chain, &[(&web, &one), (&db, &two)]);
}

#[test]
fn team() {
    let (host, uplink) = host();
    let chain = example(&host, "examples/cni/team.conflist");
    let (web, db) = (host.container("web"), host.container("db"));
    let (one, two) = (chain.add(&web), chain.add(&db));
    assert_eq!(address(&one, 0).to_string(), "10.30.0.100");
    let server = db.echo_server();
    for index in [0, 1] {
        assert!(!web.ping(address(&two, index)), "isolated from each other");
    }
    for internet in [INTERNET, rig::INTERNET6] {
        web.tcp_echo(internet, 100_000).unwrap();
    }
    let (_, seen) = db.who_answers(INTERNET).unwrap();
    assert_eq!(seen, uplink.address());
    drop(server);
    gone(&host, &chain, &[(&web, &one), (&db, &two)]);
}

#[test]
fn host_local() {
    let (host, _uplink) = host();
    let chain = example(&host, "examples/cni/host-local.conflist");
    let (web, db) = (host.container("web"), host.container("db"));
    let (one, two) = (chain.add(&web), chain.add(&db));
    let server = db.echo_server();
    web.tcp_echo(address(&two, 0), 100_000).unwrap();
    drop(server);
    gone(&host, &chain, &[(&web, &one), (&db, &two)]);
    let leases = host.sh("ls /var/lib/cni/networks/host-local | grep ^10 || true");
    assert_eq!(leases, "", "host-local was not told of the end");
}

#[test]
fn from_ovs_cni() {
    let (host, _uplink) = host();
    let chain = example(&host, "examples/cni/from-ovs-cni.conflist");
    let web = host.container("web");
    let result = chain.add(&web);
    assert_eq!(address(&result, 0).to_string(), "10.100.0.2");
    assert!(web.ip("link show dev eth0").contains("mtu 1400"));
    assert_eq!(host.sh("ovs-vsctl --bare --columns=tag find Port tag=100").trim(), "100");
    gone(&host, &chain, &[(&web, &result)]);
}

#[test]
fn kubernetes_attachment() {
    let (host, _uplink) = host();
    let text = host.shipped("examples/kubernetes/attachment.yaml");
    let (_, config) = text.split_once("config: |\n").unwrap();
    let mut plugin: Value = serde_json::from_str(config).unwrap();
    let (name, version) = (plugin["name"].take(), plugin["cniVersion"].take());
    let list = json!({"name": name, "cniVersion": version, "plugins": [plugin]});
    let chain = Chain::new(&list.to_string());
    let (web, db) = (host.container("web"), host.container("db"));
    let (one, two) = (chain.add(&web), chain.add(&db));
    assert!(web.ping(address(&two, 0)));
    gone(&host, &chain, &[(&web, &one), (&db, &two)]);
}
