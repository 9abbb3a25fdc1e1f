//! `attach`, `detach` and `monitor`: interfaces of the host that somebody else made.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgGroup, Args};
use serde::Serialize;
use shared::attachment::{Adoption, Behind, Engine, Facts, HandRequest, Record, Verdict};
use shared::config::Config;
use shared::error::sentence;
use shared::name::IfName;
use shared::vlan::{PortVlan, VlanId};

use crate::Failure;
use crate::table::{self, printable};

/// How long ovs-vswitchd may take to open a port.
pub(crate) const LINK_DEADLINE: Duration = Duration::from_secs(10);

/// Where ip-netns(8) keeps namespaces that have a name.
const NETNS_DIR: &str = "/run/netns";

/// Arguments of `attach`.
#[derive(Debug, Args)]
pub(crate) struct AttachArguments {
    /// The interface: a veth, a tap or another one that carries no address.
    #[arg(value_name = "IFACE")]
    interface: IfName,

    /// The bridge; without it `bridge_name` of the configuration.
    #[arg(long, value_name = "BRIDGE")]
    bridge: Option<IfName>,

    /// Only this VLAN, untagged for the interface (1 to 4094); without it untagged frames only.
    #[arg(long, value_name = "VLAN", value_parser = vlan)]
    vlan: Option<VlanId>,

    /// Network namespace of the other end of a veth, by name or path; IFACE may then be its name
    /// there. Found by itself where it has a name or a process.
    #[arg(long, value_name = "NETNS")]
    netns: Option<PathBuf>,

    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Arguments of `detach`.
#[derive(Debug, Args)]
pub(crate) struct DetachArguments {
    /// The interface, by the name it has or had before.
    #[arg(value_name = "IFACE")]
    interface: IfName,

    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Arguments of `monitor`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").args(["dry_run", "adopt"]).required(true).multiple(true)))]
pub(crate) struct MonitorArguments {
    /// List what would be taken, and why the rest would not; change nothing.
    #[arg(long)]
    dry_run: bool,

    /// Take also what is older than the agent's first start, or was detached by hand.
    #[arg(long)]
    adopt: bool,

    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

/// One interface that is plugged in.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Plugged {
    /// Name before it was plugged in.
    interface: String,
    /// Its name now.
    pub(crate) port: String,
    bridge: String,
    vlan: String,
    container: String,
    ifname: String,
}

impl Plugged {
    pub(crate) fn new(record: &Record) -> Self {
        let interface = record.adopted.as_ref().map_or(&record.port, |adopted| &adopted.name);
        Self {
            interface: interface.to_string(),
            port: record.port.to_string(),
            bridge: record.bridge.to_string(),
            vlan: record.vlan.to_string(),
            container: record.key.container.clone(),
            ifname: record.key.ifname.to_string(),
        }
    }
}

/// One interface that was looked at.
#[derive(Debug, Serialize)]
struct Looked {
    interface: String,
    kind: &'static str,
    /// The container or program behind it.
    behind: String,
    take: bool,
    /// Why not; empty if it is taken.
    why: String,
}

pub(crate) fn attach(
    config: Config,
    arguments: AttachArguments,
    out: &mut impl io::Write,
) -> Result<ExitCode, Failure> {
    let engine = Engine::new(config);
    let request = hand_request(
        engine.config(),
        arguments.interface,
        arguments.bridge,
        arguments.vlan,
        arguments.netns,
        "attach",
    );
    let record = engine.attach_interface(&request).map_err(Failure::new)?;
    tell(&record, "plugged into", arguments.json, out)
}

pub(crate) fn detach(
    config: Config,
    arguments: &DetachArguments,
    out: &mut impl io::Write,
) -> Result<ExitCode, Failure> {
    let record =
        Engine::new(config).detach_interface(&arguments.interface).map_err(Failure::new)?;
    tell(&record, "unplugged from", arguments.json, out)
}

/// A request by hand, here or over D-Bus.
pub(crate) fn hand_request(
    config: &Config,
    interface: IfName,
    bridge: Option<IfName>,
    vlan: Option<VlanId>,
    netns: Option<PathBuf>,
    caller: &str,
) -> HandRequest {
    // A path without a directory is a name.
    let netns = netns.map(|path| {
        if path.components().count() == 1 { PathBuf::from(NETNS_DIR).join(path) } else { path }
    });
    HandRequest {
        interface,
        netns,
        how: Adoption {
            bridge: bridge.unwrap_or_else(|| config.bridge_name.clone()),
            vlan: vlan.map_or_else(PortVlan::untagged, PortVlan::access),
            rename: config.enable_rename,
            caller: caller.to_owned(),
            link_deadline: LINK_DEADLINE,
        },
    }
}

/// How the monitor plugs in what it takes.
pub(crate) fn monitored(config: &Config) -> Adoption {
    Adoption {
        bridge: config.bridge_name.clone(),
        vlan: PortVlan::untagged(),
        rename: config.enable_rename,
        caller: "monitor".to_owned(),
        link_deadline: LINK_DEADLINE,
    }
}

pub(crate) fn monitor(
    config: Config,
    arguments: &MonitorArguments,
    out: &mut impl io::Write,
) -> Result<ExitCode, Failure> {
    let engine = Engine::new(config);
    let looked = engine.look(arguments.adopt).map_err(Failure::new)?;
    if arguments.dry_run {
        list(&looked, arguments.json, out)?;
        return Ok(ExitCode::SUCCESS);
    }
    let free: Vec<_> = looked
        .into_iter()
        .filter(|(_, verdict)| *verdict == Verdict::Free)
        .map(|(facts, _)| facts)
        .collect();
    let results = engine.adopt(&monitored(engine.config()), &free).map_err(Failure::new)?;
    let (mut plugged, mut failed) = (Vec::new(), false);
    for result in results {
        match result {
            Ok(record) => plugged.push(Plugged::new(&record)),
            Err(error) => {
                failed = true;
                tracing::error!("{}", sentence(&error));
            }
        }
    }
    if arguments.json {
        serde_json::to_writer_pretty(&mut *out, &plugged).map_err(io::Error::from)?;
        writeln!(out)?;
    } else if plugged.is_empty() && !failed {
        writeln!(out, "No interface is free: \"ovs-port-agent monitor --dry-run\" says why.")?;
    }
    if !arguments.json {
        for one in &plugged {
            writeln!(out, "{} plugged into {} as {}", one.interface, one.bridge, one.port)?;
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn list(looked: &[(Facts, Verdict)], json: bool, out: &mut impl io::Write) -> io::Result<()> {
    let rows: Vec<_> = looked.iter().map(|(facts, verdict)| Looked::new(facts, verdict)).collect();
    if json {
        serde_json::to_writer_pretty(&mut *out, &rows).map_err(io::Error::from)?;
        return writeln!(out);
    }
    if rows.is_empty() {
        return writeln!(out, "There is no veth, no tap, and nothing that include_prefixes names.");
    }
    let mut table = table::new(&["INTERFACE", "KIND", "BEHIND IT", "TAKEN", "WHY NOT"]);
    for row in rows {
        let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { printable(text) };
        table.add_row([
            printable(&row.interface),
            row.kind.to_owned(),
            dash(&row.behind),
            if row.take { "yes" } else { "no" }.to_owned(),
            dash(&row.why),
        ]);
    }
    writeln!(out, "{}", table::text(&table))
}

impl Looked {
    fn new(facts: &Facts, verdict: &Verdict) -> Self {
        let (kind, behind) = match &facts.behind {
            Behind::Here => ("veth", String::new()),
            Behind::Elsewhere(end) => ("veth", end.container.clone().unwrap_or_default()),
            Behind::Tap(holders) => {
                let mut names: Vec<_> =
                    holders.iter().map(|holder| holder.program.as_str()).collect();
                names.retain(|name| !name.is_empty());
                (if facts.mac.is_some() { "tap" } else { "tun" }, names.join(" "))
            }
            Behind::Other => ("other", String::new()),
        };
        let why = match verdict {
            Verdict::Free => String::new(),
            Verdict::Not(reason) => reason.to_string(),
        };
        let take = *verdict == Verdict::Free;
        Self { interface: facts.name.to_string(), kind, behind, take, why }
    }
}

fn tell(
    record: &Record,
    act: &str,
    json: bool,
    out: &mut impl io::Write,
) -> Result<ExitCode, Failure> {
    let plugged = Plugged::new(record);
    if json {
        serde_json::to_writer_pretty(&mut *out, &plugged).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        let Plugged { interface, port, bridge, vlan, .. } = plugged;
        let named = if port == interface { String::new() } else { format!(" as {port}") };
        writeln!(out, "{interface} {act} {bridge}{named} ({vlan})")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A VLAN of `--vlan`.
fn vlan(text: &str) -> Result<VlanId, String> {
    let number = text.parse::<u64>().ok().filter(|number| *number > 0);
    number
        .and_then(|number| VlanId::try_from(number).ok())
        .ok_or_else(|| "expected a VLAN from 1 to 4094".to_owned())
}
