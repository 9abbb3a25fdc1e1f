//! D-Bus on the system bus of a booted host, with the clients its users have.

use rig::Machine;

use super::{SECOND, lab, plug};

const OBJECT: &str = "dev.ovs.PortAgent1 /dev/ovs/PortAgent1";

/// In the words of busctl and of gdbus.
fn denied(text: &str) -> bool {
    text.contains("Access denied") || text.contains("Error.AccessDenied")
}

#[test]
fn anyone_may_look_and_only_root_changes_anything() {
    let machine = Machine::boot();
    machine.install("");
    let (_web, _) = plug(&machine, "web");
    machine.wait("the name on the bus", SECOND * 10, "busctl status dev.ovs.PortAgent1");

    let calls = |call: &str| {
        [
            format!("busctl call {OBJECT} dev.ovs.PortAgent1 {call}"),
            format!(
                "gdbus call --system --dest dev.ovs.PortAgent1 --object-path /dev/ovs/PortAgent1 \
             --method dev.ovs.PortAgent1.{call}"
            ),
        ]
    };
    for (call, expected) in [
        ("Ping", "pong"),
        ("ListPorts", "veth-web-eth0"),
        ("Attachments", "veth-web-eth0"),
        ("Status", "ovsbr1"),
    ] {
        for command in calls(call) {
            for output in [machine.try_sh(&command), machine.as_user(&command)] {
                let output = output.success();
                assert!(output.stdout.contains(expected), "{output}");
            }
        }
    }
    let seen = machine.as_user(&format!("busctl introspect {OBJECT}")).success().stdout;
    for member in [".AddPort", ".DelPort", ".PortAdded", ".PortRemoved", ".Healthy", ".Version"] {
        assert!(seen.contains(member), "{member} is not described: {seen}");
    }

    machine.sh("ip netns add hand; ip link add v0 type veth peer name eth0 netns hand");
    let add =
        format!("busctl call {OBJECT} dev.ovs.PortAgent1 AddPort 'sa{{sv}}' v0 1 bridge s ovsbr1");
    let refused = machine.as_user(&add);
    assert!(!refused.ok() && denied(&refused.stderr), "{refused}");
    assert!(!machine.sh("ovs-vsctl list-ports ovsbr1").contains("hand"));
    let port = machine.sh(&add);
    let port = port.trim().trim_start_matches("s ").trim_matches('"');
    assert!(machine.sh("ovs-vsctl list-ports ovsbr1").lines().any(|line| line == port), "{port}");
    for command in [
        format!("busctl call {OBJECT} dev.ovs.PortAgent1 DelPort s {port}"),
        "gdbus call --system --dest dev.ovs.PortAgent1 --object-path /dev/ovs/PortAgent1 \
         --method dev.ovs.PortAgent1.DelPort v0"
            .to_owned(),
    ] {
        let refused = machine.as_user(&command);
        assert!(!refused.ok() && denied(&refused.stderr), "{refused}");
    }
    machine.sh(&format!("busctl call {OBJECT} dev.ovs.PortAgent1 DelPort s v0"));
    assert_eq!(machine.sh("ovs-vsctl list-ports ovsbr1"), "veth-web-eth0\n");
    machine.cni("DEL", "web", &lab());
}

#[test]
fn a_bus_that_refuses_or_is_gone_is_an_error_everyone_sees() {
    let mut machine = Machine::boot();
    let policy = "/etc/dbus-1/system.d/dev.ovs.PortAgent1.conf";
    machine.install("");
    machine.wait("the name on the bus", SECOND * 10, "busctl status dev.ovs.PortAgent1");

    // No policy: the bus does not give the name away.
    machine.sh(&format!(
        "mv {policy} /root/; systemctl reload dbus; systemctl restart ovs-port-agent"
    ));
    machine.wait(
        "the refusal in systemctl status",
        SECOND * 10,
        "systemctl status --no-pager ovs-port-agent | grep 'Status:.*bus: .*does not let us'",
    );
    let journal = machine.journal("ovs-port-agent");
    assert!(journal.contains("install conf/dev.ovs.PortAgent1.conf"), "{journal}");
    // Everything else works meanwhile.
    let (_web, _) = plug(&machine, "web");
    machine.sh("systemctl is-active ovs-port-agent");
    machine.sh(&format!("mv /root/dev.ovs.PortAgent1.conf {policy}; systemctl reload dbus"));
    machine.wait("the name on the bus", SECOND * 10, "busctl status dev.ovs.PortAgent1");
    machine.wait(
        "all well in systemctl status",
        SECOND * 10,
        "systemctl status --no-pager ovs-port-agent | grep 'Status: \"the host is as it should be'",
    );
    machine.cni("DEL", "web", &lab());

    // Somebody else has the name, and keeps it.
    machine.sh("systemctl stop ovs-port-agent");
    machine.sh("systemd-run -q --unit=thief python3 -c 'import dbus, time
bus = dbus.SystemBus()
bus.request_name(\"dev.ovs.PortAgent1\")
time.sleep(600)'");
    machine.wait("the thief", SECOND * 10, "busctl status dev.ovs.PortAgent1");
    machine.sh("systemctl start ovs-port-agent");
    machine.wait(
        "the taken name in systemctl status",
        SECOND * 10,
        "systemctl status --no-pager ovs-port-agent | grep 'Status:.*bus: the name .* is taken'",
    );
    let status = machine.try_sh("ovs-port-agent status");
    assert!(!status.ok() && status.stdout.contains("busctl status dev.ovs.PortAgent1"), "{status}");
    let loud = machine.sh("journalctl -b -o cat -p err -u ovs-port-agent OVS_PART=bus");
    assert!(loud.contains("is taken"), "{loud}");
    machine.sh("systemctl stop thief");
    machine.wait("the name on the bus", SECOND * 10, "busctl status dev.ovs.PortAgent1");

    // A host without D-Bus, as after `apt purge dbus`: bridges, NAT and containers are there.
    machine.sh("systemctl mask dbus.service dbus.socket NetworkManager firewalld");
    machine.reboot();
    machine.sh("systemctl is-active ovs-port-agent ovs-agent-docker; ! systemctl is-active dbus");
    let (web, _) = plug(&machine, "web");
    let _server = machine.network().echo_server();
    web.tcp_echo("10.200.0.1".parse().unwrap(), 1_000_000).unwrap();
    machine.wait(
        "the error in systemctl status",
        SECOND * 10,
        "systemctl status --no-pager ovs-port-agent | grep 'Status:.*bus: the system bus cannot'",
    );
}
