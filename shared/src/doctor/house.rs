//! Our own house: configuration, agent, D-Bus, rights, ledger.

use super::facts::{BUS_NAME, Facts, FileFact};
use super::{Check, quoted};

pub(super) fn configuration(facts: &Facts) -> Vec<Check> {
    const WHAT: &str = "configuration";
    let path = facts.config_path.display();
    vec![match &facts.config_trouble {
        Some(trouble) => {
            let line = trouble.line.map(|line| format!("+{line} ")).unwrap_or_default();
            let file = quoted(&path.to_string());
            let says = format!("{}; the rest is judged as if there were none", trouble.says);
            Check::problem(WHAT, says, format!("${{EDITOR:-editor}} {line}{file}"))
        }
        None if facts.config_path.exists() => Check::ok(WHAT, format!("{path} can be used")),
        None => Check::ok(WHAT, format!("there is no {path}: the two usual bridges")),
    }]
}

pub(super) fn agent(facts: &Facts) -> Vec<Check> {
    const WHAT: &str = "agent";
    vec![match &facts.agent {
        Ok(true) => Check::ok(WHAT, "runs"),
        Ok(false) => {
            let says = "does not run: what gets lost is not repaired, and nothing comes back \
                        after a reboot";
            let fix = if facts.systemd {
                "systemctl enable --now ovs-port-agent".to_owned()
            } else {
                format!("setsid {} >/dev/null 2>&1 </dev/null &", facts.agent_command("run"))
            };
            Check::warning(WHAT, says, fix)
        }
        Err(why) => Check::unseen(WHAT, why),
    }]
}

pub(super) fn bus(facts: &Facts) -> Vec<Check> {
    const WHAT: &str = "D-Bus";
    let bus = &facts.bus;
    if !bus.runs {
        let note = "there is no system bus: the agent serves everything but D-Bus";
        return vec![Check::ok(WHAT, note)];
    }
    let mut checks = Vec::new();
    match &bus.policy {
        Some(path) => checks.push(Check::ok(WHAT, format!("policy {}", path.display()))),
        None => {
            let says = format!("no policy for {BUS_NAME}: the bus refuses the name to everybody");
            let path = format!("/etc/dbus-1/system.d/{BUS_NAME}.conf");
            let load = "busctl call org.freedesktop.DBus /org/freedesktop/DBus \
                        org.freedesktop.DBus ReloadConfig";
            let fix = format!("ovs-port-agent dbus-policy >{path} && {load}");
            checks.push(Check::problem(WHAT, says, fix));
        }
    }
    match (&bus.owned, &facts.agent) {
        (Some(Ok(true)), _) => checks.push(Check::ok(WHAT, format!("{BUS_NAME} is served"))),
        (Some(Ok(false)), Ok(true)) => {
            let says = format!("the agent runs, but nobody has the name {BUS_NAME}");
            let fix = if facts.systemd {
                "systemctl restart ovs-port-agent"
            } else {
                "pkill -x ovs-port-agent; ovs-port-agent run"
            };
            checks.push(Check::problem(WHAT, says, fix));
        }
        // Without an agent nobody can have the name, and that is said already.
        (Some(Ok(false)), _) | (None, _) => {}
        (Some(Err(why)), _) => checks.push(Check::unseen(WHAT, why)),
    }
    checks
}

pub(super) fn rights(facts: &Facts) -> Vec<Check> {
    const WHAT: &str = "rights";
    let mut checks: Vec<_> = facts.files.iter().filter_map(|file| wrong(WHAT, file)).collect();
    if checks.is_empty() {
        let count = facts.files.len();
        checks.push(Check::ok(WHAT, format!("root's alone: {count} files, sockets, directories")));
    }
    checks
}

fn wrong(what: &'static str, file: &FileFact) -> Option<Check> {
    let (path, word) = (file.path.display(), quoted(&file.path.display().to_string()));
    if file.link {
        let says = format!("{path} is a symbolic link, which somebody may point elsewhere");
        return Some(Check::warning(what, says, format!("rm {word}")));
    }
    if file.uid != 0 {
        let says = format!("{path} belongs to user {}, who may change it", file.uid);
        return Some(Check::problem(what, says, format!("chown root: {word}")));
    }
    let open = file.mode & if file.private { 0o077 } else { 0o022 };
    if open == 0 {
        return None;
    }
    let (rights, says) = if file.private {
        ("go=", format!("{path} is open to others than root (mode {:04o})", file.mode))
    } else {
        ("go-w", format!("{path} can be written by others than root (mode {:04o})", file.mode))
    };
    Some(Check::problem(what, says, format!("chmod {rights} {word}")))
}

pub(super) fn ledger(facts: &Facts) -> Vec<Check> {
    const WHAT: &str = "ledger";
    let report = match &facts.ledger {
        Ok(report) => report,
        Err(why) => return vec![Check::unseen(WHAT, why)],
    };
    let mut checks = Vec::new();
    let path = quoted(&facts.config.ledger_path.display().to_string());
    if let Some(broken) = &report.first_break {
        let says = format!(
            "the chain is broken in {} places, first in {} line {}: expected {}, found {}",
            report.breaks,
            broken.file.display(),
            broken.line,
            broken.expected,
            broken.found
        );
        // Nothing can make a broken chain whole again; a new one begins with the next line.
        let aside = format!("{path}.broken-$(date +%s)");
        let fix = format!(
            "mkdir -m 700 {aside} && mv {path} $(ls -d {path}.[0-9]* {path}.torn 2>/dev/null) {aside}"
        );
        checks.push(Check::problem(WHAT, says, fix));
    }
    if report.torn > 0 {
        let says = format!("the last {} bytes are an unfinished line", report.torn);
        // The next line sets it aside, and `up` writes one.
        checks.push(Check::warning(WHAT, says, facts.agent_command("up")));
    }
    if report.spooled > 0 && facts.agent != Ok(true) {
        let says = format!("{} lines wait in the spool, which a reboot loses", report.spooled);
        checks.push(Check::warning(WHAT, says, facts.agent_command("up")));
    }
    if checks.is_empty() {
        checks.push(Check::ok(WHAT, format!("the chain holds over {} lines", report.lines)));
    }
    checks
}
