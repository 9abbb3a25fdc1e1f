//! Everything the agent does, under its hardened unit.

use rig::{INTERNET, Machine, poll};

use super::{CONFIG, SECOND, WIRELESS, lab, plug, users_machine};

const OBJECT: &str = "dev.ovs.PortAgent1 /dev/ovs/PortAgent1 dev.ovs.PortAgent1";

/// What the journal has of this boot with these fields, as "message" lines.
fn journal(machine: &Machine, fields: &str) -> String {
    machine.sh(&format!("journalctl -b --no-pager -o cat {fields}"))
}

#[test]
fn every_part_works_under_the_hardened_unit() {
    let machine = users_machine();
    machine.install(&format!(
        "network_manager = \"mirror\"\nmetrics_listen = \"unix:/run/ovs-port-agent/metrics.sock\"\n{CONFIG}"
    ));
    let image = machine.docker_image();
    for unit in ["ovs-port-agent", "ovs-agent-docker"] {
        let said = machine.sh(&format!("systemd-analyze security --no-pager {unit} | tail -n 1"));
        let exposure = said.split_whitespace().find_map(|word| word.parse::<f64>().ok());
        assert!(exposure.is_some_and(|exposure| exposure <= 3.0), "{unit}: {said}");
    }

    // The monitor takes a veth of nobody's; a tap that nobody holds and a member of a bridge stay where they are.
    machine.sh("ip netns add lxc
         ip link add vethQ1W2E3 type veth peer name eth0 netns lxc
         ip -n lxc address add 172.16.0.77/24 dev eth0; ip -n lxc link set eth0 up
         ip link add vethbusy type veth peer name eth1 netns lxc
         ip link add br9 type bridge; ip link set vethbusy master br9
         ip tuntap add tap-idle mode tap");
    machine.wait(
        "the monitor's port",
        SECOND * 10,
        "ovs-vsctl list-ports ovsbr0 | grep -x veth-lxc-eth0",
    );
    let lxc = machine.netns("lxc", "/run/netns/lxc");
    poll("the LAN", SECOND * 10, || lxc.ping(machine.wired().address(1)).then_some(()));
    lxc.tcp_echo(machine.wired().address(1), 1_000_000).unwrap();
    let looks = machine.sh("ovs-port-agent monitor --dry-run");
    for (interface, why) in [("vethbusy", "member of br9"), ("tap-idle", "no process")] {
        let line = looks.lines().find(|line| line.starts_with(interface));
        assert!(line.is_some_and(|line| line.contains(why)), "{interface}: {looks}");
    }

    // Ports are published, conflicts are said.
    machine.sh("docker network create -d ovs-agent net");
    machine.sh(&format!("docker run -d --name shop --network net -p 8080:7 -p 80:7 {image}"));
    let shop = machine.docker_container("shop");
    let _server = shop.echo_server();
    let peer = machine.wireless().router();
    for port in [8080, 80] {
        peer.tcp_echo_port(WIRELESS, port, 100_000).unwrap();
        machine.network().tcp_echo_port("127.0.0.1".parse().unwrap(), port, 100_000).unwrap();
    }
    shop.tcp_echo(INTERNET, 100_000).unwrap();

    // D-Bus changes things, the mirror and the metrics show them.
    machine.sh("ip netns add hand; ip link add v0 type veth peer name eth0 netns hand");
    machine.wait("the name on the bus", SECOND * 10, &format!("busctl call {OBJECT} Ping"));
    machine.sh(&format!("busctl call {OBJECT} AddPort 'sa{{sv}}' v0 1 bridge s ovsbr1"));
    machine.wait(
        "the mirror",
        SECOND * 10,
        "nmcli -g NAME connection show | grep dyn-veth-hand-eth0",
    );
    let scraped = scrape(&machine);
    for line in [
        "ovs_agent_attachments{bridge=\"ovsbr0\",runtime=\"port-agent\"} 1",
        "ovs_agent_part_up{part=\"monitor\"} 1",
    ] {
        assert!(scraped.contains(line), "no {line} in {scraped}");
    }
    machine.sh(&format!("busctl call {OBJECT} DelPort s v0"));
    machine.wait(
        "the mirror without it",
        SECOND * 10,
        "! nmcli -g NAME connection show | grep dyn-veth-hand-eth0",
    );

    // What a crash leaves behind is found, by the command and by the agent itself.
    drop(plug(&machine, "dead"));
    machine.sh("ip netns del dead");
    machine.wait("its veth is gone", SECOND * 5, "! ip link show veth-dead-eth0 2>/dev/null");
    let found = machine.sh("ovs-port-agent gc --dry-run");
    assert!(found.contains("dead/eth0"), "{found}");
    machine.wait(
        "collected",
        SECOND * 30,
        "! ovs-vsctl list-ports ovsbr1 | grep -q dead && \
         ! ls /run/ovs-port-agent/attachments | grep -q dead",
    );

    // The journal has container and port as fields of their own.
    let (_web, _) = plug(&machine, "web");
    machine.wait(
        "the journal",
        SECOND * 10,
        "journalctl -b -o cat OVS_CONTAINER=web OVS_PORT=veth-web-eth0 | grep -q 'plugged in'",
    );
    machine.cni("DEL", "web", &lab());
    machine.wait(
        "the journal",
        SECOND * 10,
        "journalctl -b -o cat OVS_CONTAINER=web OVS_PORT=veth-web-eth0 | grep -q unplugged",
    );
    let web = journal(&machine, "OVS_CONTAINER=web");
    assert!(web.lines().all(|line| line.contains("web")) && web.contains("plugged in"), "{web}");
    let json = machine.sh("journalctl -b -o json -n 1 OVS_PORT=veth-web-eth0");
    let entry: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!(entry["_SYSTEMD_UNIT"], "ovs-port-agent.service", "{entry}");
    assert_eq!(entry["SYSLOG_IDENTIFIER"], "ovs-port-agent", "{entry}");
    assert_eq!(entry["OVS_BRIDGE"], "ovsbr1", "{entry}");
    let taken = journal(&machine, "OVS_CONTAINER=lxc");
    assert!(taken.contains("plugged vethQ1W2E3 into ovsbr0"), "{taken}");

    // Nothing was forbidden to it, and all is well.
    let status = machine.sh("systemctl status --no-pager ovs-port-agent");
    assert!(status.contains("Status: \"the host is as it should be\""), "{status}");
    let said = machine.journal("ovs-port-agent");
    for word in ["Operation not permitted", "Permission denied", "panicked", "Read-only"] {
        assert!(!said.contains(word), "{said}");
    }
    drop(lxc);
    machine.sh("ip netns del lxc");
    machine.wait("gone", SECOND * 10, "! ovs-vsctl list-ports ovsbr0 | grep -q veth-lxc");
}

/// What Prometheus sees.
fn scrape(machine: &Machine) -> String {
    machine.sh("python3 - <<'END'
import socket, sys
to = socket.socket(socket.AF_UNIX)
to.connect('/run/ovs-port-agent/metrics.sock')
to.sendall(b'GET /metrics HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n')
while text := to.recv(65536):
    sys.stdout.write(text.decode())
END")
}

#[test]
fn an_uplink_moves_under_the_hardened_unit_and_back() {
    let mut machine = users_machine();
    machine.sh("nmcli connection add type ethernet con-name wire ifname enp2s0 \
         ipv4.method manual ipv4.addresses 172.16.0.10/24 ipv6.method disabled");
    machine.wait("its address", SECOND * 20, "ip -o address show enp2s0 | grep -q 172.16.0.10");
    let config = CONFIG.replace("addresses = [\"172.16.0.10/24\"]\ngateway = \"172.16.0.1\"\n", "");
    machine.install(&config.replace("uplink = \"enp2s0\"\n", ""));
    machine.write("/etc/ovs-port-agent/config.toml", &config);
    let refused = machine.try_sh("ovs-port-agent up");
    assert!(!refused.ok() && refused.stderr.contains("--move-uplink"), "{refused}");
    machine.sh("ovs-port-agent up --move-uplink");
    machine.sh("ovs-port-agent up --confirm");
    let moved = |machine: &Machine| {
        let addresses = machine.sh("ip -o -4 address show");
        addresses.lines().any(|line| line.contains("ovsbr0") && line.contains("172.16.0.10/24"))
            && !addresses.contains(" enp2s0 ")
    };
    assert!(moved(&machine), "{}", machine.sh("ip -o -4 address show"));
    assert!(machine.network().ping(machine.wired().address(1)));
    // The agent holds what was moved, and so does the next boot.
    machine.sh("ip address flush dev ovsbr0");
    poll("the address is back", SECOND * 10, || moved(&machine).then_some(()));
    machine.reboot();
    poll("moved after a boot", SECOND * 20, || moved(&machine).then_some(()));
    poll("the LAN", SECOND * 10, || {
        machine.network().ping(machine.wired().address(1)).then_some(())
    });
    machine.sh("systemctl stop ovs-port-agent; ovs-port-agent down");
    let addresses = machine.sh("ip -o -4 address show enp2s0");
    assert!(addresses.contains("172.16.0.10/24"), "{addresses}");
}
