//! NetworkManager, systemd-networkd and udev keep their hands off our interfaces, and
//! NetworkManager shows them.

use rig::{INTERNET, Machine, poll};

use super::{CONFIG, SECOND, lab, plug, users_machine};

/// Waits until `nmcli connection show` lists these ports and no others, each once.
#[track_caller]
fn wait_shown(machine: &Machine, ports: &[&str]) {
    let mut wanted: Vec<_> = ports.iter().map(|port| format!("dyn-{port}")).collect();
    wanted.sort();
    let look = "nmcli -g NAME connection show | grep ^dyn- | sort || true";
    let mut seen = String::new();
    let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        poll("NetworkManager shows the ports", SECOND * 10, || {
            seen = machine.sh(look);
            seen.lines().eq(wanted.iter().map(String::as_str)).then_some(())
        });
    }));
    assert!(waited.is_ok(), "expected {wanted:?}, nmcli shows {seen:?}");
}

#[test]
fn network_manager_shows_each_port_and_keeps_its_hands_off() {
    let machine = users_machine();
    machine.install(&format!("network_manager = \"mirror\"\n{CONFIG}"));
    wait_shown(&machine, &[]);
    let (web, _) = plug(&machine, "web");
    let _db = plug(&machine, "db");
    let both = ["veth-web-eth0", "veth-db-eth0"];
    wait_shown(&machine, &both);
    let shown = machine.sh("cat /run/NetworkManager/system-connections/dyn-veth-web-eth0.*");
    for line in ["interface-name=veth-web-eth0", "autoconnect=false", "lab/web/eth0 on ovsbr1"] {
        assert!(shown.contains(line), "no {line} in {shown}");
    }
    // Nothing of it is on disk.
    machine.sh("! ls /etc/NetworkManager/system-connections | grep dyn-");

    // It manages none of our interfaces, before and after a restart that asks it anew.
    let hands_off = || {
        for device in ["ovsbr0", "ovsbr1", "veth-web-eth0", "veth-db-eth0"] {
            let state = machine.sh(&format!("nmcli -g GENERAL.STATE device show {device}"));
            assert!(state.contains("unmanaged"), "{device}: {state}");
        }
        let addresses = machine.sh("ip -o -4 address show");
        assert!(addresses.contains("172.16.0.10/24") && addresses.contains("10.200.0.1/24"));
        web.tcp_echo(INTERNET, 1_000_000).unwrap();
    };
    hands_off();
    machine.sh("systemctl restart NetworkManager");
    machine.wait("wlp4s0 again", SECOND * 20, "ip route show default | grep -q wlp4s0");
    poll("a way out", SECOND * 15, || web.tcp_echo(INTERNET, 1000).ok());
    hands_off();
    wait_shown(&machine, &both);

    // A new life of the agent knows its own, and what went meanwhile.
    machine.sh("systemctl kill -s KILL ovs-port-agent");
    machine.cni("DEL", "db", &lab());
    machine.wait(
        "the agent again",
        SECOND * 10,
        "ovs-port-agent status >/dev/null && \
                 systemctl is-active ovs-port-agent",
    );
    wait_shown(&machine, &both[..1]);
    machine.sh("systemctl restart ovs-port-agent");
    wait_shown(&machine, &both[..1]);

    // NetworkManager away: an error that says so, and all is well once it is back.
    machine.sh("systemctl stop NetworkManager");
    machine.cni("DEL", "web", &lab());
    machine.wait(
        "the error",
        SECOND * 10,
        "systemctl status --no-pager ovs-port-agent | \
                 grep 'Status:.*networkmanager: NetworkManager is not shown'",
    );
    machine.sh("systemctl start NetworkManager");
    wait_shown(&machine, &[]);
    machine.wait(
        "all well",
        SECOND * 10,
        "systemctl status --no-pager ovs-port-agent | \
                 grep 'Status: \"the host is as it should be'",
    );
    let _web = machine.cni("ADD", "web", &lab());
    wait_shown(&machine, &both[..1]);
    machine.sh("systemctl stop ovs-port-agent");
    wait_shown(&machine, &[]);
}

#[test]
fn udev_and_networkd_keep_their_hands_off() {
    let machine = Machine::boot();
    // A host whose administrator left everything to networkd.
    machine.sh("systemctl stop NetworkManager
         mount -o remount,rw /sys; mount -o remount,rw /sys/devices
         systemctl -q unmask systemd-udevd.service systemd-udevd-kernel.socket \
             systemd-udevd-control.socket
         systemctl start systemd-udevd
         printf '[Match]\\nName=*\\n[Network]\\nAddress=10.99.99.99/32\\n' \
             >/etc/systemd/network/99-everything.network
         systemctl start systemd-networkd");
    machine.install("");
    let (web, _) = plug(&machine, "web");
    machine.sh("udevadm trigger --subsystem-match=net --action=add; udevadm settle");
    for link in ["veth-web-eth0", "ovsbr0", "ovsbr1"] {
        machine.wait(
            &format!("networkd leaves {link} alone"),
            SECOND * 10,
            &format!("networkctl list --no-pager --no-legend {link} | grep -w unmanaged"),
        );
        let properties = machine.sh(&format!("udevadm info /sys/class/net/{link}"));
        for property in [
            "OVS_AGENT=1",
            "NM_UNMANAGED=1",
            "ID_NET_LINK_FILE=/etc/systemd/network/70-ovs-agent.link",
        ] {
            assert!(properties.contains(property), "{link} without {property}: {properties}");
        }
    }
    machine.wait(
        "the catch-all",
        SECOND * 10,
        "ip -o -4 address show enp2s0 | grep -F 10.99.99.99",
    );
    assert!(!machine.sh("ip -o -4 address show ovsbr1").contains("10.99.99.99"));
    // The MAC address that was recorded is still the host end's.
    let recorded = machine.sh("ovs-vsctl get Interface veth-web-eth0 mac_in_use");
    let actual = machine.sh("cat /sys/class/net/veth-web-eth0/address");
    assert_eq!(recorded.trim().trim_matches('"'), actual.trim());
    web.tcp_echo("10.200.0.1".parse().unwrap(), 1000).unwrap_err();
    let _server = machine.network().echo_server();
    web.tcp_echo("10.200.0.1".parse().unwrap(), 1_000_000).unwrap();
    machine.cni("DEL", "web", &lab());
}

/// The checks of the doctor about `what`: verdict, what is said, the command that puts it right.
fn checks(machine: &Machine, what: &str) -> Vec<(String, String, String)> {
    let output = machine.try_sh("ovs-port-agent doctor --json").stdout;
    let report: serde_json::Value = serde_json::from_str(&output).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let all = report["checks"].as_array().unwrap().iter();
    all.filter(|check| check["what"] == what)
        .map(|check| (text(&check["verdict"]), text(&check["says"]), text(&check["fix"])))
        .collect()
}

/// Runs what the doctor prints, until it has nothing more to say; what it said.
#[track_caller]
fn heal(machine: &Machine, what: &str) -> Vec<String> {
    let mut said = Vec::new();
    for _ in 0..8 {
        let found = checks(machine, what);
        let Some((verdict, says, fix)) = found.into_iter().find(|(verdict, ..)| verdict != "ok")
        else {
            return said;
        };
        assert!(!fix.is_empty(), "{verdict}: {says}: no command");
        let done = machine.try_sh(&fix);
        assert!(done.ok(), "{says}: {done}");
        said.push(format!("{verdict}: {says}"));
    }
    panic!("{what} does not get well: {said:?}");
}

#[test]
fn the_doctor_puts_network_manager_right() {
    let machine = users_machine();
    // The user's own file about NetworkManager, without ours.
    machine.install("");
    machine.sh("rm /etc/NetworkManager/conf.d/90-ovs-agent.conf; systemctl restart NetworkManager");
    machine.wait("wlp4s0 again", SECOND * 20, "ip route show default | grep -q wlp4s0");
    let (web, _) = plug(&machine, "web");
    // Somebody gave it an interface of ours.
    machine.sh("nmcli device set veth-web-eth0 managed yes");
    machine.wait(
        "it is in its hands",
        SECOND * 10,
        "! nmcli -g GENERAL.STATE device show veth-web-eth0 | grep -q unmanaged",
    );
    let said = heal(&machine, "NetworkManager");
    assert!(said.iter().any(|line| line.contains("manages veth-web-eth0")), "{said:?}");
    machine.sh("nmcli -g GENERAL.STATE device show veth-web-eth0 | grep -q unmanaged");
    web.tcp_echo(INTERNET, 100_000).unwrap();
    // What one meets on such hosts: profiles that never made a bridge.
    machine.sh("nmcli connection add type ovs-bridge con-name mybr ifname mybr0
                nmcli connection add type ovs-port con-name mybr-p ifname mybr0 master mybr0
                nmcli connection add type ovs-interface con-name mybr-i ifname mybr0 \
                    slave-type ovs-port master mybr-p ipv4.method manual ipv4.addresses 10.77.0.1/24");
    let said = heal(&machine, "left behind");
    assert!(said.iter().any(|line| line.contains("mybr")), "{said:?}");
    assert!(!machine.sh("nmcli -g NAME connection show").contains("mybr"));
    web.tcp_echo(INTERNET, 100_000).unwrap();
}

#[test]
fn the_doctor_puts_firewalld_right() {
    let machine = users_machine();
    machine.install("");
    assert_eq!(checks(&machine, "firewalld")[0].1, "does not run");
    machine.sh("systemctl start firewalld");
    let (web, _) = plug(&machine, "web");
    let said = heal(&machine, "firewalld");
    assert!(said.iter().any(|line| line.starts_with("problem: rejects")), "{said:?}");
    let _server = machine.network().echo_server();
    poll("a way out", SECOND * 15, || web.tcp_echo(INTERNET, 100_000).ok());
    web.tcp_echo("10.200.0.1".parse().unwrap(), 100_000).unwrap();
    // What was said holds after a restart of both, and nothing else of the doctor's is wrong.
    machine.sh("systemctl restart firewalld ovs-port-agent");
    poll("a way out", SECOND * 15, || web.tcp_echo(INTERNET, 100_000).ok());
    assert!(heal(&machine, "firewalld").is_empty());
    for what in ["NAT", "FORWARD", "forwarding", "other firewalls"] {
        let found = checks(&machine, what);
        assert!(found.iter().all(|(verdict, ..)| verdict == "ok"), "{what}: {found:?}");
    }
}
