//! The doctor: looks at everything this host's networks hang on, and at what a set-up made by hand
//! left behind; each finding comes with the very command that puts it right.
//!
//! [`facts`] looks, running `nft`, `iptables-save`, `nmcli` and the like with a deadline where they
//! exist; the checks are functions of what was seen. Never on the attach path; changes nothing.

pub mod facts;
mod firewall;
mod house;
mod iptables;
mod kernel;
mod leftover;
mod managers;
mod ruleset;
mod switch;
mod tool;

use serde::Serialize;

use crate::config::Config;
use crate::name::IfName;
pub use facts::Facts;

/// How bad it is; the worst one is the exit code of `doctor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Worth knowing; may well be meant so.
    Note,
    /// Works, but not as well or as safely as it should, or not for long.
    Warning,
    /// Something does not work.
    Problem,
}

impl Verdict {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at: "ovsdb-server", "forwarding", "left behind".
    pub what: &'static str,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was seen, lower case, no full stop.
    pub says: String,
    /// The shell command that puts it right, if one can be named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Check {
    fn ok(what: &'static str, says: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Ok, says: says.into(), fix: None }
    }

    fn of(
        what: &'static str,
        verdict: Verdict,
        says: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { what, verdict, says: says.into(), fix: Some(fix.into()) }
    }

    fn problem(what: &'static str, says: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::of(what, Verdict::Problem, says, fix)
    }

    fn warning(what: &'static str, says: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::of(what, Verdict::Warning, says, fix)
    }

    fn note(what: &'static str, says: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::of(what, Verdict::Note, says, fix)
    }

    /// What could not be looked at is no proof of anything, and no reason to be silent.
    fn unseen(what: &'static str, why: &str) -> Self {
        let says = format!("cannot be looked at: {why}");
        Self { what, verdict: Verdict::Warning, says, fix: None }
    }
}

/// Everything, in the order in which things depend on each other.
pub fn examine(facts: &Facts) -> Vec<Check> {
    let mut checks = Vec::new();
    for room in [
        house::configuration,
        switch::daemons,
        switch::datapath,
        switch::bridges,
        switch::uplinks,
        switch::ports,
        switch::mtu,
        kernel::forwarding,
        kernel::rp_filter,
        kernel::br_netfilter,
        firewall::table,
        firewall::forward_chain,
        firewall::other_chains,
        managers::firewalld,
        managers::network_manager,
        house::agent,
        house::bus,
        house::rights,
        house::ledger,
        leftover::iptables_lines,
        leftover::nft_rules,
        leftover::connections,
        leftover::bridges,
        leftover::ports,
        leftover::addresses,
    ] {
        checks.extend(room(facts));
    }
    checks
}

/// The worst verdict among them.
pub fn worst(checks: &[Check]) -> Verdict {
    checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Ok)
}

/// The interfaces of the host that are ours: bridges, and gateway ports of VLANs.
fn interfaces_of<'a>(config: &'a Config, facts: &'a Facts) -> Vec<&'a IfName> {
    let mut names: Vec<_> = config.bridges.iter().map(|bridge| &bridge.name).collect();
    names.extend(facts.segments.iter().map(|segment| &segment.segment.interface));
    names.sort_unstable();
    names.dedup();
    names
}

/// One word of a shell command.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:,=@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
