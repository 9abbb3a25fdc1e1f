//! `status`: one picture of the host, as tables or as JSON.

use std::io;
use std::process::ExitCode;

use clap::Args;
use shared::attachment::Engine;
use shared::config::Config;
use shared::status::{self, Status};

use crate::{Failure, table};

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    /// Print one JSON object instead of tables.
    #[arg(long)]
    json: bool,
}

/// Exit code 1 says that a part everything hangs on does not work.
pub(crate) fn run(
    config: Config,
    arguments: &StatusArguments,
    out: &mut impl io::Write,
) -> Result<ExitCode, Failure> {
    let status = status::look(&Engine::new(config));
    if arguments.json {
        serde_json::to_writer_pretty(&mut *out, &status).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        print(&status, out)?;
    }
    let well = status.health.iter().all(|health| health.ok);
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(status: &Status, out: &mut impl io::Write) -> io::Result<()> {
    for health in status.health.iter().filter(|health| !health.ok) {
        writeln!(out, "PROBLEM {}: {}\n", health.part, health.detail)?;
    }
    let mut bridges =
        table::new(&["BRIDGE", "MODE", "STATE", "DATAPATH", "MTU", "ADDRESSES", "UPLINK", "PORTS"]);
    for bridge in &status.bridges {
        bridges.add_row([
            bridge.name.clone(),
            bridge.mode.clone(),
            bridge.state.clone(),
            or_dash(&bridge.datapath),
            bridge.mtu.map_or_else(|| "-".to_owned(), |mtu| mtu.to_string()),
            or_dash(&bridge.addresses.join(" ")),
            or_dash(bridge.uplink.as_deref().unwrap_or_default()),
            bridge.ports.to_string(),
        ]);
    }
    writeln!(out, "{}\n", table::text(&bridges))?;
    let mut networks = table::new(&["NETWORK", "VLAN", "GATEWAY PORT", "NAT", "SUBNET", "IN USE"]);
    for network in &status.networks {
        for pool in &network.pools {
            networks.add_row([
                network.bridge.clone(),
                if network.vlan == 0 { "untagged".to_owned() } else { network.vlan.to_string() },
                or_dash(network.gateway_interface.as_deref().unwrap_or_default()),
                network.nat.clone(),
                pool.subnet.to_string(),
                in_use(pool.used, pool.size),
            ]);
        }
    }
    writeln!(out, "{}\n", table::text(&networks))?;
    if status.attachments.is_empty() {
        return writeln!(out, "No containers are plugged in.");
    }
    let mut attachments = table::new(&[
        "CONTAINER",
        "RUNTIME",
        "NETWORK",
        "INTERFACE",
        "ADDRESSES",
        "BRIDGE",
        "VLAN",
        "PORT",
        "STATE",
    ]);
    for attachment in &status.attachments {
        attachments.add_row([
            shorten(&attachment.container),
            attachment.runtime.clone(),
            attachment.network.clone(),
            attachment.ifname.clone(),
            or_dash(&attachment.addresses.join(" ")),
            attachment.bridge.clone(),
            attachment.vlan.clone(),
            attachment.port.clone(),
            attachment.state.clone(),
        ]);
    }
    writeln!(out, "{}", table::text(&attachments))
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// An IPv6 pool is never worth its number.
fn in_use(used: u64, size: u64) -> String {
    if size > u64::from(u32::MAX) { format!("{used}") } else { format!("{used} of {size}") }
}

/// Container ids are known by their first twelve characters.
fn shorten(container: &str) -> String {
    let is_id = container.len() == 64 && container.bytes().all(|b| b.is_ascii_hexdigit());
    if is_id { container[..12].to_owned() } else { container.to_owned() }
}
