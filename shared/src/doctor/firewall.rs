//! Packet filters between our networks and the outside.

use super::facts::Facts;
use super::{Check, quoted};
use crate::nat::Lack;
use crate::nat::table::{MARK, NAME};
use crate::nat::tagged::TAG;

pub(super) fn table(facts: &Facts) -> Vec<Check> {
    const WHAT: &str = "NAT";
    let mut checks = Vec::new();
    for there in &facts.segments {
        let name = &there.segment.interface;
        if facts.interface(name).is_none() {
            continue;
        }
        checks.push(match &there.lacks {
            // Said by those who know how to mend it.
            Ok(None | Some(Lack::Forwarding(_) | Lack::Uplink(_))) => {
                Check::ok(WHAT, format!("{name} has its rules in the table {NAME}"))
            }
            Ok(Some(lack)) => {
                let says = format!("{name} lacks the {lack}");
                Check::problem(WHAT, says, facts.agent_command("up"))
            }
            Err(why) => Check::unseen(WHAT, why),
        });
    }
    checks
}

/// The FORWARD chains of iptables, which Docker has drop what it does not know.
pub(super) fn forward_chain(facts: &Facts) -> Vec<Check> {
    const WHAT: &str = "FORWARD";
    if facts.segments.is_empty() {
        return Vec::new();
    }
    let untagged = match &facts.untagged {
        Ok(untagged) => untagged,
        Err(why) => return vec![Check::unseen(WHAT, why)],
    };
    let drops = facts.saved.as_ref().map(|saved| saved.forward_drops.join(", "));
    let drops = drops.unwrap_or_default();
    vec![match (untagged.as_slice(), drops.as_str()) {
        ([], "") => Check::ok(WHAT, "iptables drops nothing by default"),
        ([], drops) => {
            Check::ok(WHAT, format!("drops by default ({drops}), and spares what is ours"))
        }
        (lacking, "") => {
            let says =
                format!("our rule is missing from {}: rules there may drop", lacking.join(", "));
            Check::warning(WHAT, says, facts.agent_command("up"))
        }
        (lacking, drops) => {
            let lacking = lacking.join(", ");
            let says =
                format!("drops by default ({drops}), and our rule is missing from {lacking}");
            Check::problem(WHAT, says, facts.agent_command("up"))
        }
    }]
}

/// Firewalls written with nft: an accept in our table does not spare a packet the next one.
pub(super) fn other_chains(facts: &Facts) -> Vec<Check> {
    const WHAT: &str = "other firewalls";
    if facts.segments.is_empty() {
        return Vec::new();
    }
    let ruleset = match &facts.ruleset {
        Some(Ok(ruleset)) => ruleset,
        Some(Err(why)) => return vec![Check::unseen(WHAT, why)],
        None => return vec![Check::unseen(WHAT, "nft is not installed")],
    };
    let mut checks = Vec::new();
    for chain in &ruleset.dropping {
        let place = format!("{} {} {}", chain.family, quoted(&chain.table), quoted(&chain.chain));
        if chain.spares_us {
            let says = format!("the chain {place} drops by default, and spares what is ours");
            checks.push(Check::ok(WHAT, says));
            continue;
        }
        let says = format!("the chain {place} drops what containers send out");
        let mark = format!("meta mark and {MARK:#x} == {MARK:#x}");
        let fix = format!("nft insert rule {place} {mark} accept comment {TAG}");
        checks.push(Check::problem(WHAT, says, fix));
    }
    if checks.is_empty() {
        checks.push(Check::ok(WHAT, "none drops by default"));
    }
    checks
}
