//! The whole of it on a booted Debian 13 host: systemd, D-Bus, NetworkManager, Docker 26, Podman 5.

mod bus;
mod docker;
mod exposure;
mod firewall;
mod hardened;
mod install;
mod machine;
mod managers;
mod reboot;
mod repair;
mod runtimes;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use rig::{Container, Machine};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);

/// The configuration of the host this is made for: a wire that becomes a bridge, and NAT out of
/// another interface.
const CONFIG: &str = r#"
bridge_name = "ovsbr0"
interfaces_path = "/etc/network/interfaces"
include_prefixes = ["veth-", "tap", "veth"]
debounce_ms = 500
managed_block_tag = "ovs-port-agent"
naming_template = "veth-{container}-eth{index}"
enable_rename = true
ledger_path = "/var/lib/ovs-port-agent/ledger.jsonl"

[[bridge]]
name = "ovsbr0"
mode = "direct"
uplink = "enp2s0"
addresses = ["172.16.0.10/24"]
gateway = "172.16.0.1"

[[bridge]]
name = "ovsbr1"
mode = "nat"
addresses = ["10.200.0.1/24", "fd6f:7673:6272:1::1/64"]
uplink = "wlp4s0"
"#;

/// The address NetworkManager gives `wlp4s0`.
const WIRELESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 4, 10));

/// A machine as its user has it before us: `wlp4s0` by NetworkManager, default route included.
fn users_machine() -> Machine {
    let machine = Machine::boot();
    machine.sh(&format!(
        "nmcli connection add type ethernet con-name home ifname wlp4s0 ipv4.method manual \
         ipv4.addresses {WIRELESS}/24 ipv4.gateway 192.168.4.1 ipv4.route-metric 600 \
         ipv6.method manual ipv6.addresses 2001:db8:2::a/64 ipv6.gateway 2001:db8:2::1"
    ));
    // It writes /etc/resolv.conf when it first hears of anything.
    machine.sh("nmcli general reload");
    machine.wait("a default route", SECOND * 20, "ip route show default | grep -q wlp4s0");
    machine
}

/// A network configuration of the CNI plugin: the NAT bridge.
fn lab() -> Value {
    json!({"cniVersion": "1.0.0", "name": "lab", "type": "ovs-agent"})
}

/// Makes a namespace and plugs it in; its first address.
fn plug(machine: &Machine, name: &str) -> (Container, IpAddr) {
    machine.sh(&format!("ip netns add {name}; ip -n {name} link set lo up"));
    let result = machine.cni("ADD", name, &lab());
    let address = result["ips"][0]["address"].as_str().and_then(|text| text.split('/').next());
    let address = address.and_then(|text| text.parse().ok());
    let address = address.unwrap_or_else(|| panic!("no address in {result}"));
    (machine.netns(name, &format!("/run/netns/{name}")), address)
}

/// Seconds since power-on at which a unit was active.
fn active_since(machine: &Machine, unit: &str) -> f64 {
    let text = machine.sh(&format!(
        "systemctl show -P ActiveEnterTimestampMonotonic {unit}; systemctl is-active {unit}"
    ));
    let microseconds: f64 = text.lines().next().unwrap_or_default().parse().unwrap();
    microseconds / 1e6
}
