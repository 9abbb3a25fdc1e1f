//! What Podman 5 and netavark do that one does not expect, each seen with the real ones. Here, or:
//!
//! | trap | test |
//! |---|---|
//! | a setup that fails is undone by nobody | `sweep::netavark_setup` |
//! | a plugin that is killed says nothing | `sweep::netavark_setup` |
//! | an answer that nobody reads | `faults::an_answer_that_nobody_reads_undoes_the_setup` |
//! | a namespace that has gone means no teardown | `faults::what_a_crash_leaves_is_collected`, `a_lost_namespace_is_no_obstacle` |
//! | reload is teardown and setup in a namespace that lives | `containers_on_the_pool_talk_and_leave_nothing` |
//! | connect and disconnect are setup and teardown | `networks_come_and_go_on_a_living_container` |
//! | `-p` is shown as published, whoever does it | `tests/ports` |
//! | Docker's API drops options | `callers::dockers_client_says_options_as_labels`, `callers::dockers_compose_runs_the_example` |
//! | an error with any key but `error` | `the_plugin_itself_speaks_as_netavark_expects` |
//! | `dns_enabled` comes as true | `containers_on_the_pool_talk_and_leave_nothing` |
//! | `--ip` reaches a network without addresses | `an_internal_network_and_one_without_addresses` |
//! | an allocator of Podman's own | `a_network_with_subnets_has_a_gateway_and_one_allocator` |

use rig::{Command, Host, INTERNET};

use super::{Scene, address, ip, scene};

/// Whatever lies in the plugin directory shows as a driver: nothing but the link lies there.
#[test]
fn the_directory_of_plugins_has_one_entry() {
    let host = Host::new();
    let checkout = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    Command::new(checkout.join("run"))
        .args(["install"])
        .env("OVS_AGENT_BINARIES", host.plugin().path().parent().unwrap())
        .run();
    assert_eq!(host.sh("ls /usr/local/libexec/netavark").trim(), "ovs-agent");
    // Without its exec bit Podman only says "permission denied".
    assert_eq!(host.sh("stat -Lc %a /usr/local/libexec/netavark/ovs-agent").trim(), "755");
    drop(host);
    let scene = scene();
    let drivers = scene.podman.run("info -f {{.Plugins.Network}}");
    assert_eq!(drivers.trim(), "[bridge macvlan ipvlan ovs-agent]");
}

/// There is no verb for the end of a network: its making must not need one.
#[test]
fn a_network_that_is_created_and_removed_leaves_nothing() {
    let scene = scene();
    let before = scene.host.snapshot();
    scene.create("--subnet 10.30.0.0/24 -o vlan=30 -o mtu=1400 blue");
    scene.create("--interface-name ovsbr0 wire");
    assert!(before.difference(&scene.host.snapshot()).is_empty(), "create made something");
    scene.podman.run("network rm blue wire");
    scene.returned(&before);
}

/// Podman makes the first address of each subnet its gateway, wanted or not; on a wire that may be
/// anybody's.
#[test]
fn podmans_invented_gateway_is_not_believed() {
    let scene = scene();
    let Scene { podman, host, .. } = &scene;
    scene.create("--subnet 10.44.0.0/24 -o bridge=ovsbr0 -o vlan=44 wire");
    assert_eq!(scene.inspect("wire")["subnets"][0]["gateway"], "10.44.0.1", "Podman has changed");
    let one = podman.start("one", "--network wire");
    assert_eq!(one.ip("route show default"), "", "a default route to nobody");
    assert!(!host.ip("-o address").contains("10.44.0.1/"), "the host took the address of a wire");
    // The router that the user names is one.
    scene.create("--subnet 10.45.0.0/24 --gateway 10.45.0.254 -o bridge=ovsbr0 -o vlan=45 routed");
    let two = podman.start("two", "--network routed");
    assert!(two.ip("route show default").contains("via 10.45.0.254"));
    assert!(!host.ip("-o address").contains("10.45.0.254/"));
}

/// The network's own name servers are what setup answers with. Podman lets them outrank those of the
/// container, of which setup is not told.
#[test]
fn name_servers_of_the_network_reach_the_container() {
    let scene = scene();
    scene.create("--dns 10.200.0.53 --dns fd53::1 pool");
    let shown = scene.podman.once("--network pool", "cat /etc/resolv.conf").success().stdout;
    assert!(shown.contains("nameserver 10.200.0.53"), "{shown}");
    assert!(shown.contains("nameserver fd53::1"), "{shown}");
    scene.create("plain");
    let own = scene.podman.once("--network plain --dns 192.0.2.53", "cat /etc/resolv.conf");
    assert_eq!(own.success().stdout.trim(), "nameserver 192.0.2.53");
    let both = scene.podman.once("--network pool --dns 192.0.2.53", "cat /etc/resolv.conf");
    assert_eq!(both.success().stdout, shown);
}

/// `--log-level debug` sets RUST_LOG for the plugin: its log must not get into the answer.
#[test]
fn a_chatty_podman_gets_the_same_answer() {
    let scene = scene();
    let Scene { podman, .. } = &scene;
    podman.output("--log-level=trace network create -d ovs-agent pool").success();
    let run = format!("--log-level=trace run --rm --network pool {} true", podman.rootfs());
    let said = podman.output(&run).success();
    assert!(!said.stderr.contains("invalid json"), "{said}");
}

/// `-o parent=` is an option like any other here, and not one of ours.
#[test]
fn options_of_other_drivers_are_refused_by_name() {
    let scene = scene();
    for (args, says) in [
        ("-o parent=eth0 x", "unknown key options.parent (value \"eth0\")"),
        (
            "-o com.docker.network.bridge.name=br0 x",
            "unknown key options.com.docker.network.bridge.name",
        ),
        ("--label ovs-agent.vlan=x x", "options.vlan is \"x\""),
        ("--ipam-driver foo x", "unsupported ipam driver \"foo\""),
    ] {
        let refused = scene.podman.output(&format!("network create -d ovs-agent {args}"));
        assert!(!refused.ok() && refused.stderr.contains(says), "{args}: {refused}");
    }
    scene.create("pool");
    let own = scene.podman.once("--network pool:vlan=5", "true");
    assert!(!own.ok() && own.stderr.contains("network_options.options.vlan"), "{own}");
    assert_eq!(scene.host.vsctl("list-ports ovsbr1"), "");
}

/// A reload is teardown and setup in a namespace that lives: it also plugs in again what somebody
/// took off the switch.
#[test]
fn a_reload_heals_a_switch_that_was_wiped() {
    let scene = scene();
    let Scene { podman, uplink, host } = &scene;
    scene.create("pool");
    scene.create("--subnet 10.30.0.0/24 -o vlan=30 blue");
    let web = podman
        .start("web", "--network pool:interface_name=eth0 --network blue:interface_name=eth1");
    let addresses = [address(&web, "eth0", 4), address(&web, "eth1", 4)];
    host.vsctl("del-br ovsbr1");
    host.port_agent().run("up");
    podman.run("network reload --all");
    assert_eq!([address(&web, "eth0", 4), address(&web, "eth1", 4)], addresses);
    assert_eq!(web.who_answers(INTERNET).unwrap().1, uplink.address());
    let peer = podman.start("peer", "--network blue");
    let server = web.echo_server();
    peer.tcp_echo(addresses[1], 1_000_000).unwrap();
    drop(server);
}

/// The same container again, in a namespace of its own each time.
#[test]
fn a_restart_moves_into_a_new_namespace() {
    let scene = scene();
    let Scene { podman, uplink, host } = &scene;
    scene.create("pool");
    let before = host.snapshot();
    podman.start("web", "--network pool:ip=10.200.0.50");
    podman.run("restart -t 0 web");
    let web = podman.container("web");
    assert_eq!(address(&web, "eth0", 4), ip("10.200.0.50"));
    assert_eq!(web.who_answers(INTERNET).unwrap().1, uplink.address());
    assert_eq!(host.vsctl("list-ports ovsbr1").lines().count(), 1);
    podman.run("stop -t 0 web");
    assert_eq!(host.vsctl("list-ports ovsbr1"), "", "a stopped container holds no port");
    podman.run("start web");
    assert_eq!(address(&podman.container("web"), "eth0", 4), ip("10.200.0.50"));
    podman.run("rm -f -t 0 web");
    scene.returned(&before);
}

/// Two networks of one pool on one container: two addresses, one default route.
#[test]
fn two_networks_of_one_pool_on_one_container() {
    let scene = scene();
    let Scene { podman, uplink, .. } = &scene;
    scene.create("pool");
    scene.create("again");
    let web = podman.start("web", "--network pool --network again");
    assert_ne!(address(&web, "eth0", 4), address(&web, "eth1", 4));
    let routes = web.ip("-4 route show default");
    assert_eq!(routes.lines().count(), 1, "{routes}");
    assert_eq!(web.who_answers(INTERNET).unwrap().1, uplink.address());
}

/// Podman's own allocator and the pool in one subnet: each address has one holder, whoever gives.
#[test]
fn two_allocators_never_give_one_address() {
    let scene = scene();
    let Scene { podman, .. } = &scene;
    scene.create("--ipam-driver host-local --subnet 10.33.0.0/24 -o vlan=33 theirs");
    let one = podman.start("one", "--network theirs");
    // Now it is a pool of ours too: an allocator beside it is refused, its own members are not.
    let refused = podman.output(
        "network create -d ovs-agent --ipam-driver host-local --subnet 10.33.0.0/25 -o vlan=33 x",
    );
    assert!(!refused.ok() && refused.stderr.contains("overlaps"), "{refused}");
    scene.create("--subnet 10.33.0.0/24 -o vlan=33 ours");
    let two = podman.start("two", "--network ours");
    assert_ne!(address(&one, "eth0", 4), address(&two, "eth0", 4));
    let taken = address(&two, "eth0", 4);
    let said = podman.once(&format!("--network theirs:ip={taken}"), "true");
    assert!(!said.ok() && said.stderr.contains("is held by ours/"), "{said}");
}

/// A plain user, with the real Podman: rootless Podman runs the plugin as root of a namespace.
#[test]
fn rootless_is_told_in_one_sentence() {
    let scene = scene();
    let says = "rootless Podman cannot reach the host's Open vSwitch; run podman as root";
    let create = "network create -d ovs-agent pool";
    let refused = scene.podman.rootless(1000).args(create.split_whitespace()).output();
    assert!(!refused.ok() && refused.stderr.contains(says), "{refused}");
    assert_eq!(refused.stderr.matches("rootless Podman").count(), 1, "{refused}");
}
