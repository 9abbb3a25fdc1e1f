//! Open vSwitch: its daemons, the datapath, our bridges, uplinks and ports, and their MTU.

use std::collections::BTreeMap;

use super::facts::Facts;
use super::{Check, quoted};
use crate::attachment::{Record, owner};
use crate::config::{self, Mode, Uplink};
use crate::name::IfName;
use crate::network::bridge::{is_ours, role_of};
use crate::network::wire::ROLE_UPLINK;
use crate::ovsdb::Port;

pub(super) fn daemons(facts: &Facts) -> Vec<Check> {
    let (ovsdb, vswitchd) = ("ovsdb-server", "ovs-vswitchd");
    if !facts.installed {
        let fix = "apt-get install -y openvswitch-switch";
        return vec![Check::problem(ovsdb, "Open vSwitch is not installed", fix)];
    }
    let verb = |verb: &str, unit: &str| {
        if facts.systemd {
            format!("systemctl {verb} {unit}")
        } else {
            // The init script has one name for both daemons.
            format!("service openvswitch-switch {verb}")
        }
    };
    let mut checks = vec![match &facts.bridges {
        Ok(rows) => {
            let says = format!("answers at {}, {} bridges", facts.config.ovsdb, rows.len());
            Check::ok(ovsdb, says)
        }
        Err(why) if why.contains("did not answer") => {
            Check::problem(ovsdb, why, verb("restart", "ovsdb-server"))
        }
        Err(why) => Check::problem(ovsdb, why, verb("start", "openvswitch-switch")),
    }];
    checks.push(match &facts.vswitchd {
        Ok(version) => Check::ok(vswitchd, format!("answers: {version}")),
        Err(why) if why.contains("did not answer") => {
            Check::problem(vswitchd, why, verb("restart", "ovs-vswitchd"))
        }
        Err(why) => Check::problem(vswitchd, why, verb("start", "openvswitch-switch")),
    });
    checks
}

pub(super) fn datapath(facts: &Facts) -> Vec<Check> {
    const WHAT: &str = "datapath";
    let kernel = match &facts.kernel_datapath {
        Ok(kernel) => *kernel,
        Err(why) => return vec![Check::unseen(WHAT, why)],
    };
    let Ok(rows) = &facts.bridges else { return Vec::new() };
    let mut checks = Vec::new();
    for row in rows.iter().filter(|row| facts.config.bridge(&row.name).is_some()) {
        let name = &row.name;
        let set = |kind: &str| format!("ovs-vsctl set Bridge {name} datapath_type={kind}");
        if row.is_userspace() && kernel {
            let says = format!("{name} passes frames in userspace although the kernel could");
            // Every port is opened anew.
            checks.push(Check::note(WHAT, says, set("system")));
        } else if !row.is_userspace() && !kernel {
            let says = format!("{name} wants the kernel's datapath, and this kernel has none");
            let fix = format!("{} && {}", set("netdev"), facts.agent_command("up"));
            checks.push(Check::problem(WHAT, says, fix));
        } else {
            let kind = if kernel { "the kernel's" } else { "userspace: the kernel has none" };
            checks.push(Check::ok(WHAT, format!("{name}: {kind}")));
        }
    }
    checks
}

pub(super) fn bridges(facts: &Facts) -> Vec<Check> {
    const WHAT: &str = "bridge";
    let Ok(rows) = &facts.bridges else { return Vec::new() };
    let up = || facts.agent_command("up");
    let mut checks = Vec::new();
    for bridge in &facts.config.bridges {
        let name = &bridge.name;
        if !rows.iter().any(|row| row.name == *name) {
            checks.push(Check::problem(WHAT, format!("{name} does not exist"), up()));
            continue;
        }
        let Some(interface) = facts.interface(name) else {
            let says = format!("{name} is in the database, but ovs-vswitchd has not made it");
            checks.push(Check::problem(WHAT, says, up()));
            continue;
        };
        let lost: Vec<_> = bridge
            .addresses()
            .iter()
            .filter(|address| !interface.addresses.contains(address))
            .map(ToString::to_string)
            .collect();
        if !interface.link.up {
            checks.push(Check::problem(WHAT, format!("{name} is down"), up()));
        } else if !lost.is_empty() {
            let says = format!("{name} has lost {}", lost.join(", "));
            checks.push(Check::problem(WHAT, says, up()));
        } else {
            checks.push(Check::ok(WHAT, format!("{name} is up, with its addresses")));
        }
    }
    checks
}

pub(super) fn uplinks(facts: &Facts) -> Vec<Check> {
    let direct = facts.config.bridges.iter().filter_map(|bridge| match &bridge.mode {
        Mode::Direct { uplink: Some(uplink), .. } => wired(facts, bridge, uplink),
        _ => None,
    });
    let mut checks: Vec<_> = direct.collect();
    for bridge in &facts.config.bridges {
        let Mode::Nat { uplink, .. } = &bridge.mode else { continue };
        checks.push(way_out(facts, bridge, uplink));
    }
    checks
}

const UPLINK: &str = "uplink";

fn wired(facts: &Facts, bridge: &config::Bridge, uplink: &IfName) -> Option<Check> {
    let name = &bridge.name;
    let Some(interface) = facts.interface(uplink) else {
        let says = format!("{uplink}, the wire of {name}, does not exist");
        let fix =
            format!("${{EDITOR:-editor}} {}", quoted(&facts.config_path.display().to_string()));
        return Some(Check::problem(UPLINK, says, fix));
    };
    let plugged = facts
        .ports
        .as_ref()
        .ok()?
        .iter()
        .any(|port| port.name == *uplink && port.bridge.as_ref() == Some(name));
    Some(if !plugged {
        let says = format!("{uplink} is not plugged into {name}");
        Check::problem(UPLINK, says, facts.agent_command("up"))
    } else if !interface.link.up {
        let says = format!("{uplink}, the wire of {name}, is down");
        Check::problem(UPLINK, says, format!("ip link set {uplink} up"))
    } else if !interface.link.running {
        let says = format!("{uplink}, the wire of {name}, has no carrier: see to the cable");
        Check::warning(UPLINK, says, format!("ip link show {uplink}"))
    } else {
        Check::ok(UPLINK, format!("{uplink} is plugged into {name} and has a carrier"))
    })
}

fn way_out(facts: &Facts, bridge: &config::Bridge, uplink: &Uplink) -> Check {
    let name = &bridge.name;
    let defaults = match &facts.defaults {
        Ok(defaults) => defaults,
        Err(why) => return Check::unseen(UPLINK, why),
    };
    // Subnets of IPv6 are worth having without a way out, too.
    let v6 = bridge.addresses().iter().all(|address| address.addr().is_ipv6());
    let family = if v6 { "IPv6" } else { "IPv4" };
    let mut defaults = defaults.iter().filter(|route| route.v6 == v6);
    match uplink {
        Uplink::Default => match defaults.min_by_key(|route| route.metric) {
            Some(best) => {
                Check::ok(UPLINK, format!("{name} leaves by {}, as the host does", best.interface))
            }
            None => {
                let says = format!("{name} has no way out: the host has no {family} default route");
                Check::warning(UPLINK, says, route(facts, None))
            }
        },
        Uplink::Named(wire) => match facts.interface(wire) {
            None => {
                let says = format!("{wire}, by which {name} leaves, does not exist");
                let file = quoted(&facts.config_path.display().to_string());
                Check::problem(UPLINK, says, format!("${{EDITOR:-editor}} {file}"))
            }
            Some(interface) if !interface.link.up => {
                let says = format!("{wire}, by which {name} leaves, is down");
                Check::problem(UPLINK, says, format!("ip link set {wire} up"))
            }
            Some(_) if !defaults.any(|route| route.interface == *wire) => {
                let says =
                    format!("{name} has no way out: no {family} default route leads out of {wire}");
                Check::warning(UPLINK, says, route(facts, Some(wire)))
            }
            Some(_) => Check::ok(UPLINK, format!("{name} leaves by {wire}")),
        },
    }
}

/// The command that brings a default route; which gateway, only the user knows.
fn route(facts: &Facts, interface: Option<&IfName>) -> String {
    match interface {
        Some(name) if facts.manager.is_some() => format!("nmcli device connect {name}"),
        Some(name) => format!("ip route add default dev {name} via ROUTER"),
        None => "ip route add default via ROUTER".to_owned(),
    }
}

pub(super) fn ports(facts: &Facts) -> Vec<Check> {
    const WHAT: &str = "ports";
    let Ok(rows) = &facts.ports else { return Vec::new() };
    let mut checks = Vec::new();
    let ours: BTreeMap<_, _> =
        rows.iter().filter(|port| is_ours(&port.external_ids)).map(|p| (&p.name, p)).collect();
    for port in ours.values() {
        let Some(why) = &port.error else { continue };
        let says = format!("{} cannot be opened: {why}", port.name);
        let fix = if owner::key_of(port).is_some() {
            facts.agent_command("gc")
        } else {
            facts.agent_command("up")
        };
        checks.push(Check::warning(WHAT, says, fix));
    }
    let here = |record: &&Record| record.complete && record.is_of(&facts.config.ovsdb);
    for record in facts.records.iter().filter(here) {
        if !ours.contains_key(&record.port) {
            let name = record.labels.name.as_ref().unwrap_or(&record.key.container);
            let says = format!("{}, the port of {name}, is gone from the switch", record.port);
            checks.push(Check::problem(WHAT, says, facts.agent_command("up")));
        }
    }
    if checks.is_empty() {
        checks.push(Check::ok(WHAT, format!("{} attached, all opened", facts.records.len())));
    }
    checks
}

pub(super) fn mtu(facts: &Facts) -> Vec<Check> {
    const WHAT: &str = "MTU";
    let Ok(rows) = &facts.ports else { return Vec::new() };
    let mut checks = Vec::new();
    for bridge in &facts.config.bridges {
        let Some(own) = facts.interface(&bridge.name) else { continue };
        let (name, mtu) = (&bridge.name, own.link.mtu);
        if let Some(wanted) = bridge.mtu.filter(|wanted| *wanted != mtu) {
            let says = format!("{name} has {mtu}, the configuration wants {wanted}");
            checks.push(Check::problem(WHAT, says, facts.agent_command("up")));
            continue;
        }
        for uplink in ways(facts, bridge) {
            let Some(wire) = facts.interface(&uplink).map(|there| there.link.mtu) else { continue };
            if wire < mtu {
                let says = format!(
                    "{name} has {mtu}, its uplink {uplink} {wire}: what is larger gets lost or slow"
                );
                let fix = format!("ovs-vsctl set Interface {name} mtu_request={wire}");
                checks.push(Check::warning(WHAT, says, fix));
            }
        }
        let on_it = |port: &&Port| port.bridge.as_ref() == Some(name) && port.name != *name;
        for port in rows.iter().filter(on_it).filter(|port| is_ours(&port.external_ids)) {
            let Some(there) = facts.interface(&port.name).map(|there| there.link.mtu) else {
                continue;
            };
            if there > mtu && role_of(&port.external_ids) != Some(ROLE_UPLINK) {
                let says = format!("port {} has {there}, its bridge {name} {mtu}", port.name);
                checks.push(Check::warning(WHAT, says, shrink(facts, port, mtu)));
            }
        }
    }
    if checks.is_empty() {
        checks.push(Check::ok(WHAT, "bridges, uplinks and ports agree"));
    }
    checks
}

/// The interfaces a bridge's traffic leaves by.
fn ways(facts: &Facts, bridge: &config::Bridge) -> Vec<IfName> {
    match &bridge.mode {
        Mode::Direct { uplink, .. } => uplink.iter().cloned().collect(),
        Mode::Nat { uplink: Uplink::Named(name), .. } => vec![name.clone()],
        Mode::Nat { uplink: Uplink::Default, .. } => {
            let best = facts.defaults.iter().flatten().min_by_key(|route| route.metric);
            best.map(|route| route.interface.clone()).into_iter().collect()
        }
    }
}

/// Both ends of the veth, if we know where the other one is.
fn shrink(facts: &Facts, port: &Port, mtu: u32) -> String {
    let host = format!("ip link set {} mtu {mtu}", port.name);
    match facts.records.iter().find(|record| record.port == port.name) {
        Some(record) => {
            let netns = quoted(&record.netns.display().to_string());
            let ifname = &record.key.ifname;
            format!("nsenter --net={netns} ip link set {ifname} mtu {mtu} && {host}")
        }
        None => host,
    }
}
