//! What there is to draw: uplinks, bridges, their VLANs, and who is plugged in where.

use std::collections::BTreeMap;

use shared::status::{AttachmentStatus, BridgeStatus, Status};

use crate::table::{container, printable};

/// The host. Every text in it is printable, and means nothing to a terminal.
#[derive(Debug, Default)]
pub(super) struct Picture {
    /// Its name.
    pub(super) host: String,
    /// The ways to the outside.
    pub(super) uplinks: Vec<Uplink>,
    /// The bridges.
    pub(super) bridges: Vec<Bridge>,
}

/// A way to the outside.
#[derive(Debug)]
pub(super) struct Uplink {
    /// The interface.
    pub(super) name: String,
    /// "carrier", "no carrier", "down", "missing".
    pub(super) state: String,
    /// Its addresses.
    pub(super) addresses: Vec<String>,
}

/// A bridge.
#[derive(Debug)]
pub(super) struct Bridge {
    /// Its name.
    pub(super) name: String,
    /// "direct" or "nat".
    pub(super) mode: String,
    /// "up", "down" or "missing".
    pub(super) state: String,
    /// "system" or "netdev".
    pub(super) datapath: String,
    /// MTU in bytes.
    pub(super) mtu: Option<u32>,
    /// Its addresses.
    pub(super) addresses: Vec<String>,
    /// Which of [`Picture::uplinks`] it hangs on.
    pub(super) uplinks: Vec<usize>,
    /// Its VLANs.
    pub(super) lanes: Vec<Lane>,
}

/// A VLAN of a bridge.
#[derive(Debug)]
pub(super) struct Lane {
    /// "untagged", "VLAN 5", "trunk 5,7".
    pub(super) name: String,
    /// What the host does for it: subnets, gateway, NAT.
    pub(super) notes: Vec<String>,
    /// Who is plugged in.
    pub(super) plugs: Vec<Plug>,
}

/// An interface of a container.
#[derive(Debug)]
pub(super) struct Plug {
    /// The container.
    pub(super) container: String,
    /// "cni", "docker", "podman", "port-agent".
    pub(super) runtime: String,
    /// Its interface.
    pub(super) ifname: String,
    /// Its addresses.
    pub(super) addresses: Vec<String>,
    /// Its port.
    pub(super) port: String,
    /// What is wrong with it; `None` if nothing.
    pub(super) trouble: Option<String>,
}

impl Picture {
    /// Draws `status` of the host called `host`.
    pub(super) fn of(host: &str, status: &Status) -> Self {
        let mut uplinks = Vec::new();
        for uplink in &status.uplinks {
            uplinks.push(Uplink {
                name: printable(&uplink.name),
                state: uplink.state.clone(),
                addresses: uplink.addresses.clone(),
            });
        }
        let bridges = status.bridges.iter().map(|bridge| {
            let at = |name: &String| status.uplinks.iter().position(|uplink| uplink.name == *name);
            Bridge {
                name: printable(&bridge.name),
                mode: bridge.mode.clone(),
                state: bridge.state.clone(),
                datapath: bridge.datapath.clone(),
                mtu: bridge.mtu,
                addresses: bridge.addresses.clone(),
                uplinks: bridge.ways.iter().filter_map(at).collect(),
                lanes: lanes(bridge, status),
            }
        });
        Self { host: printable(host), bridges: bridges.collect(), uplinks }
    }

    /// The runtimes that have something plugged in.
    pub(super) fn runtimes(&self) -> Vec<&str> {
        let plugs = self.bridges.iter().flat_map(|bridge| &bridge.lanes).flat_map(|l| &l.plugs);
        let mut runtimes: Vec<_> = plugs.map(|plug| plug.runtime.as_str()).collect();
        runtimes.sort_unstable();
        runtimes.dedup();
        runtimes
    }
}

/// The VLANs of a bridge that are in use: by a network of ours or by somebody plugged in.
fn lanes(bridge: &BridgeStatus, status: &Status) -> Vec<Lane> {
    let mut lanes: BTreeMap<(u16, String), Lane> = BTreeMap::new();
    for network in status.networks.iter().filter(|network| network.bridge == bridge.name) {
        let name = named(network.vlan, "");
        let lane = lanes.entry((network.vlan, name.clone())).or_insert_with(|| Lane::new(name));
        for pool in &network.pools {
            let size = match u32::try_from(pool.size) {
                Ok(size) => format!("{} of {size} in use", pool.used),
                // An IPv6 pool is never worth its number.
                Err(_) => format!("{} in use", pool.used),
            };
            lane.notes.push(format!("{} ({size})", pool.subnet));
        }
        if let Some(gateway) = &network.gateway_interface {
            lane.notes.push(format!("gateway {}", printable(gateway)));
        }
        lane.notes.push(printable(&network.nat));
    }
    let mut plugs: Vec<_> =
        status.attachments.iter().filter(|plug| plug.bridge == bridge.name).collect();
    plugs.sort_by_key(|plug| (&plug.runtime, &plug.container, &plug.ifname));
    for plug in plugs {
        let vlan = plug.vlan.parse().unwrap_or_default();
        let name = named(vlan, &plug.vlan);
        // Trunks come last.
        let order = if vlan == 0 && name != UNTAGGED { u16::MAX } else { vlan };
        let lane = lanes.entry((order, name.clone())).or_insert_with(|| Lane::new(name));
        lane.plugs.push(Plug::of(plug));
    }
    lanes.into_values().collect()
}

const UNTAGGED: &str = "untagged";

fn named(vlan: u16, text: &str) -> String {
    match (vlan, text) {
        (0, "" | UNTAGGED) => UNTAGGED.to_owned(),
        (0, other) => printable(other),
        (vlan, _) => format!("VLAN {vlan}"),
    }
}

impl Lane {
    fn new(name: String) -> Self {
        Self { name, notes: Vec::new(), plugs: Vec::new() }
    }
}

impl Plug {
    fn of(status: &AttachmentStatus) -> Self {
        Self {
            container: container(&status.container),
            runtime: printable(&status.runtime),
            ifname: printable(&status.ifname),
            addresses: status.addresses.clone(),
            port: printable(&status.port),
            trouble: (status.state != "ok").then(|| printable(&status.state)),
        }
    }
}
