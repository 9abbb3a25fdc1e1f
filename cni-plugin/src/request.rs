//! One validated request to the engine, out of everything a call says.

use std::net::IpAddr;

use shared::attachment::{Addressing, AttachRequest, Runtime};
use shared::link::Route;

use crate::addresses::{self, Requested};
use crate::args::Args;
use crate::call::Call;
use crate::environment::caller;
use crate::error::Error;
use crate::netconf::NetConf;
use crate::network::{Place, Source};

/// Where the addresses of this attachment come from. Those of an IPAM plugin come later: some
/// need the interface to find them.
pub(crate) fn addressing(
    conf: &NetConf,
    args: &Args,
    place: &Place,
) -> Result<Addressing, addresses::Error> {
    let mut wanted: Vec<Requested> = conf.requested.clone();
    wanted.extend(&args.ips);
    Ok(match &place.source {
        Source::Plugin(_) => Addressing::Later,
        Source::Nobody => {
            addresses::settle(&wanted, &[])?;
            Addressing::None
        }
        Source::Pool(network) => Addressing::Pool {
            requested: addresses::settle(&wanted, &network.subnets)?,
            network: network.clone(),
            default_route: true,
        },
    })
}

/// The routes of the configuration and those an IPAM plugin handed out, each with its next hop.
pub(crate) fn routes(own: &[Route], handed: &[Route], gateways: &[IpAddr]) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    for route in own.iter().chain(handed) {
        let route = with_gateway(route, gateways);
        if !routes.contains(&route) {
            routes.push(route);
        }
    }
    routes
}

/// Recorded for a caller whose name cannot be seen; no GC speaks for it.
const NAMELESS: &str = "unknown";

/// The whole request; `front_end` is the note to keep with the record.
pub(crate) fn build(call: &Call<'_>, front_end: serde_json::Value) -> Result<AttachRequest, Error> {
    let Call { environment, conf, args, place, .. } = call;
    let addressing = addressing(conf, args, place)?;
    let gateways: Vec<_> = place.subnets().iter().filter_map(|subnet| subnet.gateway).collect();
    let routes = match &addressing {
        Addressing::Later => Vec::new(),
        _ => routes(&conf.routes, &[], &gateways),
    };
    let ovn_port = args.ovn_port.as_ref().or(conf.ovn_port.as_ref());
    Ok(AttachRequest {
        key: call.key()?,
        runtime: Runtime::Cni,
        caller: caller().map_err(Error::Caller)?.unwrap_or_else(|| NAMELESS.to_owned()),
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
        ovsdb: conf.compat.ovsdb.clone(),
        front_end,
    })
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
