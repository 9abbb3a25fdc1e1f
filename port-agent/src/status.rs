//! `status`: one picture of the host, as tables or as JSON.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;
use shared::attachment::Engine;
use shared::config::Config;
use shared::status::{self, Status};

use crate::Failure;
use crate::table::{self, container, printable};

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
        writeln!(out, "PROBLEM {}: {}\n", health.part, printable(&health.detail))?;
    }
    let mut bridges =
        table::new(&["BRIDGE", "MODE", "STATE", "DATAPATH", "MTU", "ADDRESSES", "UPLINK", "PORTS"]);
    for bridge in &status.bridges {
        bridges.add_row([
            cell(&bridge.name),
            cell(&bridge.mode),
            cell(&bridge.state),
            cell(&bridge.datapath),
            bridge.mtu.map_or_else(|| "-".to_owned(), |mtu| mtu.to_string()),
            cell(&bridge.addresses.join(" ")),
            cell(bridge.uplink.as_deref().unwrap_or_default()),
            bridge.ports.to_string(),
        ]);
    }
    writeln!(out, "{}\n", table::text(&bridges))?;
    let mut networks = table::new(&["NETWORK", "VLAN", "GATEWAY PORT", "NAT", "SUBNET", "IN USE"]);
    for network in &status.networks {
        for pool in &network.pools {
            networks.add_row([
                cell(&network.bridge),
                if network.vlan == 0 { "untagged".to_owned() } else { network.vlan.to_string() },
                cell(network.gateway_interface.as_deref().unwrap_or_default()),
                cell(&network.nat),
                pool.subnet.to_string(),
                in_use(pool.used, pool.size),
            ]);
        }
    }
    if !status.networks.is_empty() {
        writeln!(out, "{}\n", table::text(&networks))?;
    }
    if status.attachments.is_empty() {
        writeln!(out, "No containers are plugged in.\n")?;
    } else {
        writeln!(out, "{}\n", attachments(status))?;
    }
    if !status.ports.is_empty() {
        writeln!(out, "{}\n", ports(status))?;
    }
    let mut parts = table::new(&["PART", "STATE", ""]);
    for health in &status.health {
        // What fails was said above.
        let detail = if health.ok { printable(&health.detail) } else { String::new() };
        parts.add_row([printable(&health.part), health.state.clone(), detail]);
    }
    writeln!(out, "{}", table::text(&parts))?;
    if status.bridges.iter().any(|bridge| bridge.state != "up") {
        writeln!(out, "\nNot every bridge is up: \"ovs-port-agent up\" makes and repairs them.")?;
    }
    Ok(())
}

fn attachments(status: &Status) -> String {
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
            container(&attachment.container),
            cell(&attachment.runtime),
            cell(&attachment.network),
            cell(&attachment.ifname),
            cell(&attachment.addresses.join(" ")),
            cell(&attachment.bridge),
            cell(&attachment.vlan),
            cell(&attachment.port),
            cell(&attachment.state),
        ]);
    }
    table::text(&attachments)
}

fn ports(status: &Status) -> String {
    let mut ports =
        table::new(&["PUBLISHED", "PROTOCOL", "CONTAINER", "NETWORK", "LEADS TO", "STATE"]);
    for port in &status.ports {
        let to: Vec<_> = port.to.iter().map(ToString::to_string).collect();
        ports.add_row([
            match port.host_ip {
                Some(ip) => SocketAddr::new(ip, port.host_port).to_string(),
                None => format!("*:{}", port.host_port),
            },
            cell(&port.protocol),
            container(&port.container),
            cell(&port.network),
            cell(&to.join(" ")),
            cell(&port.state),
        ]);
    }
    table::text(&ports)
}

/// What a table says of a value, which may come from anybody.
fn cell(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { printable(text) }
}

/// An IPv6 pool is never worth its number.
fn in_use(used: u64, size: u64) -> String {
    if size > u64::from(u32::MAX) { format!("{used}") } else { format!("{used} of {size}") }
}
