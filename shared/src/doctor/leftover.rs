//! What a set-up made by hand left behind, with the command that removes it.
//!
//! Nothing here is proof that nobody needs it any more: the user reads the line and decides. A rule
//! with a comment was most likely written by a program, and counts for less.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::facts::Facts;
use super::iptables::Line;
use super::{Check, Verdict, quoted};
use crate::address::overlaps;
use crate::nat::tagged::TAG;
use crate::network::bridge::is_ours;

const WHAT: &str = "left behind";

/// Lines of iptables that do by hand what our table does now.
pub(super) fn iptables_lines(facts: &Facts) -> Vec<Check> {
    let saved = match &facts.saved {
        Ok(saved) => saved,
        Err(why) => return vec![Check::unseen(WHAT, why)],
    };
    let ours = Ours::of(facts);
    saved.lines.iter().filter_map(|line| ours.judge(line)).collect()
}

/// What is ours of the host.
struct Ours {
    subnets: Vec<IpNet>,
    interfaces: BTreeSet<String>,
    uplinks: BTreeSet<String>,
}

impl Ours {
    fn of(facts: &Facts) -> Self {
        let names = super::interfaces_of(&facts.config, facts);
        Self {
            subnets: subnets(facts),
            interfaces: names.into_iter().map(ToString::to_string).collect(),
            uplinks: facts.uplinks().iter().map(ToString::to_string).collect(),
        }
    }

    fn judge(&self, line: &Line) -> Option<Check> {
        if line.comment() == Some(TAG) {
            return None;
        }
        let verdict = if line.comment().is_some() { Verdict::Note } else { Verdict::Warning };
        let about = |net: &IpNet| {
            net.prefix_len() > 0 && self.subnets.iter().any(|ours| overlaps(*ours, *net))
        };
        let net = |names| line.net(names).as_ref().is_some_and(about);
        let interface = |names, set: &BTreeSet<String>| {
            line.option(names).is_some_and(|name| set.contains(name))
        };
        let (says, verdict) = match (line.table.as_str(), line.chain.as_str(), line.target()) {
            ("nat", "POSTROUTING", "MASQUERADE" | "SNAT") if net(&["-s"]) => {
                ("masquerades a subnet of ours a second time", verdict)
            }
            ("nat", "POSTROUTING", "MASQUERADE" | "SNAT")
                if line.option(&["-s"]).is_none() && interface(&["-o"], &self.uplinks) =>
            {
                ("masquerades all that leaves by our uplink; others may need it", Verdict::Note)
            }
            ("nat", "PREROUTING", "DNAT") => {
                let to = line.option(&["--to-destination"])?;
                let ip = to.rsplit_once(':').map_or(to, |(ip, _)| ip);
                let ip: std::net::IpAddr = ip.trim_matches(['[', ']']).parse().ok()?;
                about(&IpNet::from(ip)).then_some(())?;
                ("sends a port to a container of ours, whoever has that address", Verdict::Note)
            }
            ("filter", "FORWARD", _)
                if net(&["-s", "-d"])
                    || interface(&["-i"], &self.interfaces)
                    || interface(&["-o"], &self.interfaces) =>
            {
                ("lets pass by hand what our table decides", verdict)
            }
            _ => return None,
        };
        let says = format!("\"{}\" {says}", line.text());
        Some(Check::of(WHAT, verdict, says, line.removal()))
    }
}

/// Every subnet of ours.
fn subnets(facts: &Facts) -> Vec<IpNet> {
    let made = facts.segments.iter().flat_map(|there| there.segment.subnets.iter().copied());
    let mut subnets: Vec<_> = facts.config.subnets().map(|(_, net)| net).chain(made).collect();
    subnets.sort_unstable();
    subnets.dedup();
    subnets
}

/// Rules of nft that masquerade our subnets.
pub(super) fn nft_rules(facts: &Facts) -> Vec<Check> {
    let Some(Ok(ruleset)) = &facts.ruleset else { return Vec::new() };
    let subnets = subnets(facts);
    let about =
        |net: &IpNet| net.prefix_len() > 0 && subnets.iter().any(|ours| overlaps(*ours, *net));
    let rules = ruleset.masquerades.iter().filter(|rule| rule.sources.iter().any(about));
    rules
        .map(|rule| {
            let place = format!("{} {} {}", rule.family, quoted(&rule.table), quoted(&rule.chain));
            let says = format!("a rule in {place} masquerades a subnet of ours a second time");
            let fix = format!("nft delete rule {place} handle {}", rule.handle);
            Check::warning(WHAT, says, fix)
        })
        .collect()
}

/// Profiles with which NetworkManager was to make bridges, and never did.
pub(super) fn connections(facts: &Facts) -> Vec<Check> {
    let Some(Ok(manager)) = &facts.manager else { return Vec::new() };
    let profiles = manager.connections.iter().filter(|connection| {
        connection.kind.starts_with("ovs-") && !connection.name.starts_with("dyn-")
    });
    profiles
        .map(|connection| {
            let says = format!(
                "NetworkManager's profile \"{}\" ({}): bridges are ours to make",
                connection.name, connection.kind
            );
            let fix = format!("nmcli connection delete {}", quoted(&connection.uuid));
            Check::warning(WHAT, says, fix)
        })
        .collect()
}

/// Bridges that are in no configuration.
pub(super) fn bridges(facts: &Facts) -> Vec<Check> {
    let (Ok(rows), Ok(ports)) = (&facts.bridges, &facts.ports) else { return Vec::new() };
    let mut checks = Vec::new();
    for row in rows.iter().filter(|row| facts.config.bridge(&row.name).is_none()) {
        let name = &row.name;
        let fix = format!("ovs-vsctl del-br {name}");
        if is_ours(&row.external_ids) {
            let says = format!("bridge {name} was made by an earlier configuration");
            checks.push(Check::warning(WHAT, says, fix));
            continue;
        }
        // Libvirt, OVN and their like sign what they make.
        let signed = row.external_ids.keys().any(|key| key != "bridge-id");
        let on_it =
            |port: &&crate::ovsdb::Port| port.bridge.as_ref() == Some(name) && port.name != *name;
        let count = ports.iter().filter(on_it).count();
        if !signed {
            let says = format!("bridge {name} is in no configuration and nobody's ({count} ports)");
            checks.push(Check::note(WHAT, says, fix));
        }
    }
    checks
}

/// Ports plugged into our bridges by hand.
pub(super) fn ports(facts: &Facts) -> Vec<Check> {
    let Ok(ports) = &facts.ports else { return Vec::new() };
    let mut checks = Vec::new();
    for port in ports {
        let Some(bridge) = port.bridge.as_ref().filter(|name| facts.config.bridge(name).is_some())
        else {
            continue;
        };
        if port.name == *bridge
            || is_ours(&port.external_ids)
            || !port.external_ids.is_empty()
            || port.interface_type == "patch"
            || is_wire(facts, port)
        {
            continue;
        }
        let name = &port.name;
        let fix = format!("ovs-vsctl del-port {bridge} {name}");
        checks.push(match &port.error {
            Some(why) => {
                let says = format!("port {name} of {bridge}, made by hand, leads nowhere: {why}");
                Check::warning(WHAT, says, fix)
            }
            None => {
                let trunk = if port.vlan.is_none() { " and carries every VLAN" } else { "" };
                let says = format!("port {name} was plugged into {bridge} by hand{trunk}");
                Check::note(WHAT, says, fix)
            }
        });
    }
    checks
}

/// Whether a port is the wire the configuration gives its bridge.
fn is_wire(facts: &Facts, port: &crate::ovsdb::Port) -> bool {
    facts.config.bridges.iter().any(|bridge| {
        matches!(&bridge.mode, crate::config::Mode::Direct { uplink: Some(uplink), .. }
            if *uplink == port.name)
    })
}

/// Addresses of our bridges on interfaces that are not ours.
pub(super) fn addresses(facts: &Facts) -> Vec<Check> {
    let Ok(interfaces) = &facts.interfaces else { return Vec::new() };
    let ours = super::interfaces_of(&facts.config, facts);
    let subnets: Vec<_> =
        facts.segments.iter().flat_map(|there| there.segment.subnets.iter().copied()).collect();
    let mut checks = Vec::new();
    for interface in interfaces.iter().filter(|there| !ours.contains(&&there.link.name)) {
        let name = &interface.link.name;
        for address in &interface.addresses {
            if subnets.iter().any(|net| net.contains(&address.addr())) {
                let says = format!("{name} has {address}, in a subnet of ours: the two fight");
                let fix = format!("ip address del {address} dev {name}");
                checks.push(Check::problem(WHAT, says, fix));
            }
        }
    }
    checks
}
