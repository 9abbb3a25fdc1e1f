//! What the kernel was told about packets: forwarding, the reverse path, bridges' packet filter.

use super::Check;
use super::facts::Facts;
use crate::config::Mode;
use crate::name::IfName;

pub(super) fn forwarding(facts: &Facts) -> Vec<Check> {
    const WHAT: &str = "forwarding";
    let mut checks = Vec::new();
    for there in &facts.segments {
        let name = &there.segment.interface;
        // What is not there is said of the bridge.
        if facts.interface(name).is_none() {
            continue;
        }
        checks.push(match &there.forwards {
            Ok(true) => Check::ok(WHAT, format!("{name} forwards")),
            Ok(false) => {
                let says = format!("{name} does not forward: its containers reach nothing else");
                Check::problem(WHAT, says, facts.agent_command("up"))
            }
            Err(why) => Check::unseen(WHAT, why),
        });
    }
    if facts.segments.iter().any(|there| there.segment.masquerade) {
        for uplink in facts.uplinks() {
            let off = |family| facts.setting(family, uplink.as_str(), "forwarding") == Some("0");
            if off("ipv4") {
                let says = format!("{uplink} does not forward: no answer comes back through it");
                checks.push(Check::problem(WHAT, says, facts.agent_command("up")));
            }
        }
    }
    checks
}

/// Strict filtering asks whether the way back leads out where a packet came in. For containers our
/// policy rules answer that; the host's own address on a direct bridge has none.
pub(super) fn rp_filter(facts: &Facts) -> Vec<Check> {
    const WHAT: &str = "rp_filter";
    let value = |name: &str| -> u8 {
        let text = facts.setting("ipv4", name, "rp_filter").unwrap_or_default();
        text.parse().unwrap_or_default()
    };
    let best = facts.defaults.iter().flatten().filter(|route| !route.v6);
    let best = best.min_by_key(|route| route.metric).map(|route| &route.interface);
    let mut checks = Vec::new();
    for bridge in &facts.config.bridges {
        let name = &bridge.name;
        let Mode::Direct { addresses, .. } = &bridge.mode else { continue };
        // The larger of the two counts (ip-sysctl.rst), and 1 is the strict one.
        let strict = value(name.as_str()).max(value("all")) == 1;
        let elsewhere = best.is_some_and(|best| best != name);
        if strict && elsewhere && addresses.iter().any(|address| address.addr().is_ipv4()) {
            let says = format!(
                "{name} drops what comes from beyond its subnet: the way back leads out of {}",
                best.map(IfName::as_str).unwrap_or_default()
            );
            let fix = format!("sysctl -w net/ipv4/conf/{name}/rp_filter=2");
            checks.push(Check::warning(WHAT, says, fix));
        }
    }
    if checks.is_empty() {
        checks.push(Check::ok(WHAT, "stands in nobody's way"));
    }
    checks
}

/// With it the frames of a Linux bridge pass the FORWARD chains; those of Open vSwitch never do.
/// It matters where our wire is a Linux bridge, or hangs on one.
pub(super) fn br_netfilter(facts: &Facts) -> Vec<Check> {
    const WHAT: &str = "br_netfilter";
    let key = "net/bridge/bridge-nf-call-iptables";
    let on = facts.settings.get(key).is_some_and(|value| value == "1");
    if !on {
        return vec![Check::ok(WHAT, "off")];
    }
    let drops = facts.saved.as_ref().is_ok_and(|saved| !saved.forward_drops.is_empty());
    let mut checks = Vec::new();
    for bridge in &facts.config.bridges {
        let Mode::Direct { uplink: Some(uplink), .. } = &bridge.mode else { continue };
        let Some(linux) = linux_bridge(facts, uplink) else { continue };
        if drops {
            let says = format!(
                "frames of {} pass the Linux bridge {linux}, where iptables' FORWARD drops them",
                bridge.name
            );
            checks.push(Check::problem(WHAT, says, format!("sysctl -w {key}=0")));
        }
    }
    if checks.is_empty() {
        checks.push(Check::ok(WHAT, "on, for Linux bridges; our frames pass none that drops"));
    }
    checks
}

/// The Linux bridge behind a wire that is a veth: the other end's master.
fn linux_bridge<'a>(facts: &'a Facts, uplink: &IfName) -> Option<&'a IfName> {
    let wire = facts.interface(uplink)?;
    let all = facts.interfaces.as_ref().ok()?;
    let by_index = |index| all.iter().find(|there| there.link.index == index);
    let peer = by_index(wire.link.peer_index?)?;
    let back = peer.link.peer_index == Some(wire.link.index) && peer.link.kind == "veth";
    let master = by_index(peer.link.master.filter(|_| back)?)?;
    (master.link.kind == "bridge").then_some(&master.link.name)
}
