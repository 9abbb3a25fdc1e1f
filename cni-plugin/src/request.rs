//! One validated request to the engine, out of everything a call says.

use std::net::IpAddr;

use shared::attachment::{Address, Addressing, AttachRequest, Key, Runtime};
use shared::link::Route;
use shared::network::Network;

use crate::addresses::{self, Requested};
use crate::args::Args;
use crate::environment::{Environment, caller};
use crate::netconf::NetConf;
use crate::network::{Place, Source};
use crate::result::Handed;

/// Where the addresses of this attachment come from. What an IPAM plugin `handed` out is given.
pub(crate) fn addressing(
    conf: &NetConf,
    args: &Args,
    place: &Place,
    handed: Option<&Handed>,
) -> Result<Addressing, addresses::Error> {
    if let Some(handed) = handed {
        return Ok(Addressing::Given { addresses: handed.addresses.clone() });
    }
    let mut wanted: Vec<Requested> = conf.requested.clone();
    wanted.extend(&args.ips);
    let requested = addresses::settle(&wanted, place.subnets())?;
    Ok(match &place.source {
        Source::Pool(network) => {
            Addressing::Pool { network: network.clone(), requested, default_route: true }
        }
        Source::Nobody | Source::Plugin(_) => Addressing::None,
    })
}

/// The whole request; `front_end` is the note to keep with the record.
pub(crate) fn build(
    conf: &NetConf,
    args: &Args,
    environment: &Environment,
    key: Key,
    place: &Place,
    addressing: Addressing,
    handed_routes: &[Route],
    front_end: serde_json::Value,
) -> AttachRequest {
    let gateways = gateways(&addressing);
    let mut routes: Vec<Route> = Vec::new();
    for route in conf.routes.iter().chain(handed_routes) {
        let route = with_gateway(route, &gateways);
        if !routes.contains(&route) {
            routes.push(route);
        }
    }
    let ovn_port = args.ovn_port.as_ref().or(conf.ovn_port.as_ref());
    AttachRequest {
        key,
        runtime: Runtime::Cni,
        caller: caller(),
        netns: environment.netns_path().unwrap_or_default(),
        bridge: place.bridge.clone(),
        vlan: conf.vlan.clone(),
        mtu: conf.mtu,
        mac: conf.runtime_mac.or(args.mac).or(conf.mac),
        ofport_request: conf.ofport_request,
        interface_type: conf.compat.interface_type.clone(),
        external_ids: conf.external_ids.clone(),
        interface_external_ids: ovn_port
            .map(|port| ("iface-id".to_owned(), port.clone()))
            .into_iter()
            .collect(),
        isolated: conf.isolated,
        addressing,
        routes,
        labels: args.labels.clone(),
        link_deadline: conf.compat.link_deadline,
        front_end,
    }
}

fn gateways(addressing: &Addressing) -> Vec<IpAddr> {
    match addressing {
        Addressing::None => Vec::new(),
        Addressing::Pool { network: Network { subnets, .. }, .. } => {
            subnets.iter().filter_map(|subnet| subnet.gateway).collect()
        }
        Addressing::Given { addresses } => {
            addresses.iter().filter_map(|Address { gateway, .. }| *gateway).collect()
        }
    }
}

/// A route without next hop leaves through the first gateway of its family (CNI 1.1.0, "routes"),
/// unless it says that its destination is on the link (`RT_SCOPE_LINK`, rtnetlink(7)).
fn with_gateway(route: &Route, gateways: &[IpAddr]) -> Route {
    const SCOPE_LINK: u8 = 253;
    let mut route = route.clone();
    if route.gw.is_none() && route.scope.is_none_or(|scope| scope < SCOPE_LINK) {
        let v4 = route.dst.addr().is_ipv4();
        route.gw = gateways.iter().copied().find(|gateway| gateway.is_ipv4() == v4);
    }
    route
}
