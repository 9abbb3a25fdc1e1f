//! The direct bridge: a wired port is plugged in, or refused before anything is changed.

use std::net::IpAddr;
use std::time::Duration;

use rig::{Daemon, Host, assert_same, poll};
use serde_json::json;

const CONFIG: &str = r#"
[[bridge]]
name = "ovsbr1"
mode = "nat"
addresses = ["10.200.0.1/24"]

[[bridge]]
name = "ovsbr0"
mode = "direct"
uplink = "enp2s0"
addresses = ["198.18.1.10/24"]
gateway = "198.18.1.1"
"#;

#[test]
fn a_container_and_the_host_are_on_the_lan_of_the_uplink() {
    let host = Host::new();
    let wire = host.uplink("enp2s0", 1);
    let mac = std::fs::read_to_string("/sys/class/net/enp2s0/address").unwrap();
    host.config(CONFIG);
    host.port_agent().run("up");
    // The LAN knows the host by the MAC of its wired port.
    let bridge = std::fs::read_to_string("/sys/class/net/ovsbr0/address").unwrap();
    assert_eq!(bridge, mac);
    let route = host.ip("-4 route show default");
    assert!(route.starts_with("default via 198.18.1.1 dev ovsbr0 proto"), "{route}");
    assert!(route.contains("metric 220"), "{route}");
    assert!(host.try_sh("ping -n -q -c 3 -i 0.2 -W 1 203.0.113.1").ok(), "the host goes out");

    let web = host.container("web");
    let conf = json!({
        "cniVersion": "1.0.0", "name": "lan", "type": "ovs-agent", "bridge": "ovsbr0",
        "subnets": [{
            "subnet": "198.18.1.0/24", "gateway": "198.18.1.1",
            "range": { "start": "198.18.1.100", "end": "198.18.1.110" },
        }],
    });
    let reply = host.plugin().add(&web, &conf);
    if reply.ok() {
        assert!(web.ping(wire.gateway()));
        web.tcp_echo(wire.gateway(), 1_000_000).unwrap();
    } else {
        panic!("{}", reply.output);
    }
}

#[test]
fn what_cannot_be_plugged_in_is_refused_and_nothing_is_changed() {
    let host = Host::new();
    let agent = host.port_agent();
    host.config(CONFIG);
    let refused = |words: &[&str]| {
        let before = host.snapshot();
        let output = agent.output("up");
        assert!(!output.ok(), "{output}");
        assert_eq!(output.stderr.trim().lines().count(), 1, "{output}");
        for word in words {
            assert!(output.stderr.contains(word), "{word} is not said: {output}");
        }
        assert_same(&before, &host.snapshot());
    };
    refused(&["uplink enp2s0 of bridge ovsbr0 does not exist", "correct uplink"]);

    let _wire = host.uplink("enp2s0", 1);
    host.ip("address add 198.18.1.2/24 dev enp2s0");
    refused(&["carries 198.18.1.2/24", "up --move-uplink"]);
    host.ip("address del 198.18.1.2/24 dev enp2s0");

    host.ip("link add br-lan type bridge");
    host.ip("link set enp2s0 master br-lan");
    refused(&["uplink enp2s0 of bridge ovsbr0 belongs to br-lan", "take enp2s0 out"]);
    host.ip("link set enp2s0 nomaster");

    host.bridge("hand");
    host.vsctl("add-port hand enp2s0");
    refused(&["belongs to bridge hand", "take enp2s0 out"]);
    host.vsctl("del-port hand enp2s0");

    // The kernel would replace it: same destination, same metric.
    host.ip("link set enp2s0 up");
    let other = host.uplink("eth9", 9).addressed(&host).routed(&host, 220);
    refused(&["default route via 198.18.1.1", "metric 220", "eth9", "another metric"]);
    host.ip(&format!("-4 route del default via {} dev eth9 metric 220", other.gateway()));

    // And now it goes, also with an uplink that is plugged in by hand already.
    host.bridge("ovsbr0");
    host.vsctl("add-port ovsbr0 enp2s0");
    let before = host.snapshot();
    agent.run("up");
    agent.run("down");
    assert_same(&before, &host.snapshot());
    assert_eq!(host.vsctl("list-ports ovsbr0").trim(), "enp2s0");
}

#[test]
fn a_lowered_uplink_is_lowered_again_unless_somebody_uses_it() {
    let host = Host::new();
    let agent = host.port_agent();
    let _wire = host.uplink("enp2s0", 1);
    host.ip("link set enp2s0 down");
    host.config(CONFIG);
    let state = || host.ip("-o link show enp2s0").contains(",UP");
    agent.run("up");
    assert!(state());
    agent.run("down");
    assert!(!state());
    agent.run("up");
    host.vsctl("del-port ovsbr0 enp2s0");
    host.ip("address add 192.0.2.9/24 dev enp2s0");
    agent.run("down");
    assert!(state(), "it carries an address of somebody now");
}

/// A dock that is pulled out, or was never there when the host booted.
#[test]
fn an_uplink_that_is_gone_takes_nothing_from_the_other_bridges() {
    let soon = Duration::from_secs(10);
    let host = Host::new();
    host.config(CONFIG);
    let agent = Daemon::start("ovs-port-agent", host.port_agent().command("run"));
    let missing = "uplink enp2s0 of bridge ovsbr0 does not exist";
    agent.ready(soon, || agent.log().contains(missing));

    let web = host.container("web");
    let conf =
        json!({ "cniVersion": "1.0.0", "name": "lab", "type": "ovs-agent", "bridge": "ovsbr1" });
    host.plugin().add(&web, &conf).success();
    let gateway: IpAddr = "10.200.0.1".parse().unwrap();
    let is_kept = |when: &str| {
        host.ip("address flush dev ovsbr1");
        poll(&format!("{when}: the gateway is back"), soon, || web.ping(gateway).then_some(()));
        host.vsctl("del-port veth-web-eth0");
        poll(&format!("{when}: the port is back"), soon, || web.ping(gateway).then_some(()));
    };
    is_kept("without the uplink");
    let status = host.port_agent().output("status");
    assert!(status.stdout.contains(missing), "{status}");

    let _wire = host.uplink("enp2s0", 1);
    let plugged = || host.try_sh("ovs-vsctl iface-to-br enp2s0").stdout.trim() == "ovsbr0";
    poll("the uplink is plugged in", soon, || plugged().then_some(()));
    poll("all is well", soon, || agent.log().contains("works again").then_some(()));
    host.ip("link del enp2s0");
    poll("it is missed", soon, || (agent.log().matches(missing).count() > 1).then_some(()));
    is_kept("the uplink pulled out");
}
