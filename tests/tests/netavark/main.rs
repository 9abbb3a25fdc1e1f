//! Podman 5.4 with netavark 1.14, of Debian 13: the plugin as its network driver.

mod callers;
mod faults;
mod traps;

use std::net::IpAddr;
use std::time::Duration;

use rig::{Command, Container, Host, INTERNET, Podman, Snapshot, Uplink, assert_soon_same, poll};
use serde_json::{Value, json};

/// Where Podman finds the plugin.
const PLUGIN: &str = "/usr/local/libexec/netavark/ovs-agent";

/// What a test works with. Fields drop in this order, so do not take it apart.
struct Scene {
    podman: Podman,
    uplink: Uplink,
    host: Host,
}

fn scene() -> Scene {
    let host = Host::new();
    let podman = host.podman5();
    let uplink = host.uplink("wlp4s0", 1).addressed(&host).routed(&host, 100);
    host.port_agent().run("up");
    Scene { podman, uplink, host }
}

impl Scene {
    /// `podman network create`; panics unless it succeeds without a word of warning.
    fn create(&self, args: &str) {
        let done = self.podman.output(&format!("network create -d ovs-agent {args}")).success();
        assert_eq!(done.stderr, "");
    }

    fn inspect(&self, network: &str) -> Value {
        let all = self.podman.run(&format!("network inspect {network}"));
        serde_json::from_str::<Value>(&all).unwrap()[0].clone()
    }

    /// What Podman says of a container on a network.
    fn seen(&self, container: &str, network: &str) -> Value {
        let all = self.podman.run(&format!("inspect {container}"));
        serde_json::from_str::<Value>(&all).unwrap()[0]["NetworkSettings"]["Networks"][network]
            .clone()
    }

    /// The plugin called as netavark calls it.
    fn plugin(&self, verb: &str, input: &Value) -> rig::Output {
        let args = [PLUGIN, verb, "/run/netns/gone"];
        let args = if verb == "info" { &args[..2] } else { &args[..] };
        self.podman.command(args[0]).args(&args[1..]).stdin(input.to_string()).output()
    }

    fn returned(&self, before: &Snapshot) {
        assert_soon_same(before, Duration::from_secs(5), || self.host.snapshot());
    }
}

/// Address of a container's interface, of the family asked for.
fn address(container: &Container, ifname: &str, family: u8) -> IpAddr {
    let text = container.ip(&format!("-o -{family} address show dev {ifname} scope global"));
    let word = text.split_whitespace().nth(3).unwrap_or_else(|| panic!("no address: {text}"));
    word.split('/').next().unwrap().parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn containers_on_the_pool_talk_and_leave_nothing() {
    let scene = scene();
    let Scene { podman, uplink, host } = &scene;
    assert_eq!(podman.version(), (5, 4));
    let plugins = podman.run("info -f {{.Plugins.Network}}");
    assert!(plugins.contains("ovs-agent"), "{plugins}");
    scene.create("pool");
    let network = scene.inspect("pool");
    assert_eq!(network["dns_enabled"], false, "{network}");
    assert_eq!(network["network_interface"], "ovsbr1");
    let before = host.snapshot();
    let (web, db) = (podman.start("web", "--network pool"), podman.start("db", "--network pool"));
    let server = db.echo_server();
    for family in [4, 6] {
        web.tcp_echo(address(&db, "eth0", family), 1_000_000).unwrap();
    }
    assert_eq!(web.who_answers(INTERNET).unwrap().1, uplink.address());
    let shown = scene.seen("web", "pool");
    assert_eq!(shown["IPAddress"], address(&web, "eth0", 4).to_string());
    assert_eq!(shown["Gateway"], "10.200.0.1");
    let status: Value = serde_json::from_str(&host.port_agent().run("status --json")).unwrap();
    let attachments = status["attachments"].as_array().unwrap();
    assert!(
        attachments.iter().any(|one| one["container"] == "web" && one["runtime"] == "podman"),
        "{status}"
    );
    // reload is teardown and setup in a namespace that lives, with the addresses there were.
    let (v4, v6, mac) = (address(&web, "eth0", 4), address(&web, "eth0", 6), web.mac("eth0"));
    podman.run("network reload web");
    let after = (address(&web, "eth0", 4), address(&web, "eth0", 6), web.mac("eth0"));
    assert_eq!(after, (v4, v6, mac));
    web.tcp_echo(address(&db, "eth0", 4), 1_000_000).unwrap();
    drop(server);
    podman.run("rm -f -t 0 web db");
    scene.returned(&before);
}

#[test]
fn a_network_with_subnets_has_a_gateway_and_one_allocator() {
    let scene = scene();
    let Scene { podman, uplink, host } = &scene;
    scene.create("--subnet 10.30.0.0/24 --subnet fd30::/64 -o vlan=30 -o mtu=1400 blue");
    let network = scene.inspect("blue");
    assert_eq!(network["options"]["gateway"], "10.30.0.1,fd30::1", "{network}");
    let one = podman.start("one", "--network blue:ip=10.30.0.77,ip=fd30::77,mac=02:11:22:33:44:55");
    assert_eq!(address(&one, "eth0", 4), ip("10.30.0.77"));
    assert_eq!(address(&one, "eth0", 6), ip("fd30::77"));
    assert_eq!(one.mac("eth0"), [2, 0x11, 0x22, 0x33, 0x44, 0x55]);
    assert!(one.ip("link show dev eth0").contains("mtu 1400"));
    assert_eq!(one.who_answers(INTERNET).unwrap().1, uplink.address());
    // A CNI container in the same VLAN and subnet draws from the same pool.
    let cni = host.container("cni");
    let conf = json!({"cniVersion": "1.0.0", "name": "blue-cni", "type": "ovs-agent",
        "bridge": "ovsbr1", "vlan": 30, "subnets": ["10.30.0.0/24", "fd30::/64"]});
    host.plugin().add(&cni, &conf).success();
    let two = podman.start("two", "--network blue");
    let server = cni.echo_server();
    let all = [&one, &cni, &two].map(|container| address(container, "eth0", 4));
    assert!(all[0] != all[1] && all[1] != all[2], "{all:?}");
    two.tcp_echo(all[1], 1_000_000).unwrap();
    drop(server);
    let ports = host.vsctl("list-ports ovsbr1");
    let taken = podman.once(&format!("--network blue:ip={}", all[1]), "true");
    assert!(!taken.ok() && taken.stderr.contains("is held by blue-cni/cni/eth0"), "{taken}");
    let outside = podman.once("--network blue:ip=10.31.0.5", "true");
    assert!(!outside.ok() && outside.stderr.contains("10.31.0.5 is in no subnet"), "{outside}");
    assert_eq!(host.vsctl("list-ports ovsbr1"), ports, "a refused setup left a port");
    // Podman's own allocator is let in where nobody else gives, and its choice is written down.
    let refused = podman
        .output("network create -d ovs-agent --ipam-driver host-local --subnet 10.200.0.0/24 x");
    assert!(!refused.ok() && refused.stderr.contains("overlaps the pool"), "{refused}");
    scene.create("--ipam-driver host-local --subnet 10.33.0.0/24 -o vlan=33 green");
    let three = podman.start("three", "--network green");
    let leased = address(&three, "eth0", 4);
    let lease = format!("/run/ovs-port-agent/leases/10.33.0.0-24/{leased}");
    assert!(std::path::Path::new(&lease).exists(), "no {lease}");
    let outside = podman.once("--network green:ip=10.34.0.5", "true");
    assert!(!outside.ok() && outside.stderr.contains("10.34.0.5"), "{outside}");
}

#[test]
fn an_internal_network_and_one_without_addresses() {
    let scene = scene();
    let Scene { podman, host, .. } = &scene;
    scene.create("--internal --subnet 10.40.0.0/24 -o vlan=40 island");
    let (one, two) =
        (podman.start("one", "--network island"), podman.start("two", "--network island"));
    let server = two.echo_server();
    one.tcp_echo(address(&two, "eth0", 4), 100_000).unwrap();
    drop(server);
    assert_eq!(one.ip("route show default"), "");
    assert!(!host.ip("-o link").contains("ovsbr1.40"), "an internal network has no gateway");

    scene.create("--ipam-driver none --interface-name ovsbr0 -o trunk=10,20-21 plain");
    assert_eq!(scene.inspect("plain")["network_interface"], "ovsbr0");
    let three = podman.start("three", "--network plain");
    assert_eq!(three.ip("-o -4 address show dev eth0"), "");
    let port = host.vsctl("list-ports ovsbr0");
    assert_eq!(host.vsctl(&format!("get Port {} trunks", port.trim())).trim(), "[10, 20, 21]");
    let refused = podman.once("--network plain:ip=10.7.7.7", "true");
    assert!(!refused.ok() && refused.stderr.contains("gives no addresses"), "{refused}");
    assert_eq!(host.vsctl("list-ports ovsbr0"), port);
}

#[test]
fn networks_come_and_go_on_a_living_container() {
    let scene = scene();
    let Scene { podman, uplink, host } = &scene;
    scene.create("pool");
    scene.create("--subnet 10.30.0.0/24 -o vlan=30 blue");
    let peer = podman.start("peer", "--network blue");
    let before = host.snapshot();
    let web = podman.start("web", "--network pool");
    podman.run("network connect blue web");
    let server = peer.echo_server();
    web.tcp_echo(address(&peer, "eth0", 4), 100_000).unwrap();
    let routes = web.ip("-4 route show default");
    assert!(routes.contains("10.200.0.1") && routes.lines().count() == 1, "{routes}");
    assert_eq!(web.who_answers(INTERNET).unwrap().1, uplink.address());
    podman.run("network disconnect blue web");
    assert!(!web.ip("-o link").contains("eth1"), "{}", web.ip("-o link"));
    podman.run("rm -f -t 0 web");
    scene.returned(&before);
    // Both from the start, the default route where it is wanted.
    let both = podman.start(
        "both",
        "--network blue:interface_name=eth0,no_default_route=1 --network pool:interface_name=eth1",
    );
    let routes = both.ip("-4 route show default");
    assert!(routes.contains("dev eth1") && routes.lines().count() == 1, "{routes}");
    drop(server);
}

#[test]
fn what_cannot_be_is_said_in_one_sentence_and_leaves_nothing() {
    let scene = scene();
    let Scene { podman, host, .. } = &scene;
    for (args, says) in [
        ("-o brigde=br0 x", "unknown key options.brigde (value \"br0\"); did you mean \"bridge\"?"),
        ("-o vlan=5000 x", "options.vlan is 5000, expected a whole number from 0 to 4094"),
        ("--label ovs-agent.mtu=x x", "options.mtu is \"x\""),
        ("--subnet 10.200.0.128/25 -o vlan=9 x", "overlaps 10.200.0.0/24 of ovsbr1"),
        ("--internal x", "add --subnet"),
        ("--ipam-driver dhcp x", "ipam driver \"dhcp\" is not offered"),
    ] {
        let refused = podman.output(&format!("network create -d ovs-agent {args}"));
        assert!(!refused.ok() && refused.stderr.contains(says), "{args}: {refused}");
        assert!(!refused.stderr.contains("unknown field"), "{refused}");
    }
    scene.create("pool");
    scene.create("-o bridge=nobr0 lost");
    let before = host.snapshot();
    let ports = podman.once("--network pool -p 8080:80", "true");
    assert!(!ports.ok() && ports.stderr.contains("a running ovs-port-agent"), "{ports}");
    let lost = podman.once("--network pool --network lost", "true");
    assert!(!lost.ok() && lost.stderr.contains("nobr0"), "{lost}");
    scene.returned(&before);
    // With the switch away nothing is made, and nothing waits for long.
    host.switch().stop_vswitchd();
    let silent = podman.once("--network pool", "true");
    assert!(!silent.ok() && silent.stderr.contains("vswitchd"), "{silent}");
    host.switch().start_vswitchd();
    scene.returned(&before);
}

#[test]
fn a_lost_namespace_is_no_obstacle() {
    let scene = scene();
    let Scene { podman, host, .. } = &scene;
    scene.create("pool");
    let before = host.snapshot();
    let web = podman.start("web", "--network pool");
    let id = podman.run("inspect -f {{.Id}} web").trim().to_owned();
    let path = podman.run("inspect -f {{.NetworkSettings.SandboxKey}} web");
    let first = address(&web, "eth0", 4);
    // A crash: the process and its namespace are gone, and nobody was told.
    podman.run("kill web");
    host.sh(&format!("umount -l {0} 2>/dev/null || true; rm -f {0}", path.trim()));
    drop(web);
    // Podman cleans up behind the container's end, in a process of its own; a start that overtakes
    // it is sent to the namespace that has gone.
    poll("Podman did not clean up", Duration::from_secs(20), || {
        let state = podman.run("inspect -f {{.State.Status}}:{{.NetworkSettings.SandboxKey}} web");
        (state.trim() == "exited:").then_some(())
    });
    podman.output("start web").success();
    let again = podman.container("web");
    assert_eq!(host.vsctl("list-ports ovsbr1").lines().count(), 1, "the old port is still there");
    assert_eq!(address(&again, "eth0", 4).is_ipv4(), first.is_ipv4());
    // teardown as netavark 2.1 calls it: with a path that leads nowhere. Twice is as good.
    let input = json!({
        "container_id": id, "container_name": "web", "port_mappings": null,
        "network": {"name": "pool", "options": {"no such": "option"}},
        "network_options": {"interface_name": "eth0"},
    });
    for _ in 0..2 {
        let done = scene.plugin("teardown", &input).success();
        assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("", ""));
    }
    podman.run("rm -f -t 0 web");
    scene.returned(&before);
}

#[test]
fn the_plugin_itself_speaks_as_netavark_expects() {
    let scene = scene();
    let info = scene.plugin("info", &json!({})).success();
    let info: Value = serde_json::from_str(&info.stdout).unwrap();
    assert_eq!(info["api_version"], "1.0.0");
    let input = json!({"name": "x", "id": "1", "driver": "ovs-agent"});
    // Where any user may run it.
    let copy = "/run/plugin";
    scene.host.sh(&format!("install -m 755 {} {copy}", scene.host.plugin().path().display()));
    let rootless = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", copy, "create"])
        .stdin(input.to_string())
        .output();
    let error: Value = serde_json::from_str(&rootless.stdout).unwrap();
    assert!(!rootless.ok() && rootless.stderr.is_empty(), "{rootless}");
    assert_eq!(
        error,
        json!({"error": "rootless Podman cannot reach the host's Open vSwitch; run podman as root (sudo podman …)"})
    );
    for (verb, stdin) in [("create", "no JSON"), ("setup", "[]"), ("teardown", "{}")] {
        let args = [verb, "/run/netns/gone"];
        let said = scene.podman.command(PLUGIN).args(args).stdin(stdin).output();
        let error: Value = serde_json::from_str(&said.stdout).unwrap();
        assert!(!said.ok() && error["error"].is_string(), "{said}");
        assert_eq!(error.as_object().unwrap().len(), 1, "Podman refuses other keys: {said}");
    }
}

/// docs/podman.md begins with a session; the image is the only thing a test machine lacks.
#[test]
fn the_session_of_the_page_works_as_printed() {
    let scene = scene();
    let page = scene.host.shipped("docs/podman.md");
    let session = page.split("```sh\n").nth(1).and_then(|text| text.split("```").next()).unwrap();
    let image = "docker.io/library/busybox";
    assert!(session.contains(image), "{session}");
    let session = session.replace(image, &scene.podman.rootfs());
    let program = scene.host.port_agent().path().display().to_string();
    let output = scene.podman.session(&session.replace("ovs-port-agent", &program));
    assert_eq!(output.matches(" 0% packet loss").count(), 2, "{output}");
    assert!(output.contains("10.30.0.50"), "{output}");
    assert!(scene.podman.run("network ls").lines().count() <= 2);
    // The gateway of VLAN 30 is kept until "down", which refuses where containers are plugged in.
    assert_eq!(scene.host.vsctl("list-ports ovsbr1").trim(), "ovsbr1.30");
    scene.host.port_agent().run("down");
    assert_eq!(scene.host.vsctl("list-br"), "");
}
