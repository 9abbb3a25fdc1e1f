//! Routes of a container and of the host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
    RouteProtocol, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::socket::{Request, Verb};
use super::{Error, Netlink, PROTOCOL};

/// Table main (RT_TABLE_MAIN).
const MAIN: u32 = 254;

/// Metric of an IPv6 route that was given none (IP6_RT_PRIO_USER).
const IPV6_PRIORITY: u32 = 1024;

/// A route of a container or of the host.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Route {
    /// Destination; `0.0.0.0/0` and `::/0` are the defaults.
    pub dst: IpNet,
    /// Next hop; `None` is on-link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// Route MTU (RTAX_MTU).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// RTAX_ADVMSS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// RTA_PRIORITY.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Routing table; main if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// rtm_scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

impl Route {
    /// A plain route without metrics.
    pub fn new(dst: IpNet, gw: Option<IpAddr>) -> Self {
        Self { dst, gw, mtu: None, advmss: None, priority: None, table: None, scope: None }
    }
}

/// What a route of [`Netlink::routes`] says besides [`Route`]: which device, whose. What the
/// kernel filled in by itself (table main, the natural scope, metric 0 or 1024) reads as `None`,
/// so that a route read back equals the route asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledRoute {
    /// Destination, next hop and metrics.
    pub route: Route,
    /// Output device; `None` for an unreachable route.
    pub oif: Option<u32>,
    /// `rtm_protocol`.
    pub protocol: u8,
    /// RTN_UNREACHABLE.
    pub unreachable: bool,
}

impl Netlink {
    /// The unicast and unreachable routes of both families; of `table` only, if given. A route
    /// with several next hops is listed once for each.
    pub fn routes(&mut self, table: Option<u32>) -> Result<Vec<InstalledRoute>, Error> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.attributes.extend(table.map(RouteAttribute::Table));
            let objects = self.dump("routes", &RouteNetlinkMessage::GetRoute(message))?;
            found.extend(objects.into_iter().flat_map(read));
        }
        found.retain(|installed| table.is_none_or(|t| t == installed.route.table.unwrap_or(MAIN)));
        Ok(found)
    }

    /// Adds or replaces a route of ours ([`PROTOCOL`]) out of `oif`, or an unreachable one without.
    pub fn replace_route(&mut self, route: &Route, oif: Option<u32>) -> Result<(), Error> {
        self.ask(replace(route, oif, false)).map(drop)
    }

    /// Removes a route of ours; false if it was not there.
    pub fn delete_route(&mut self, route: &Route, oif: Option<u32>) -> Result<bool, Error> {
        let mut message = message(route, oif, false);
        if route.scope.is_none() {
            // RT_SCOPE_NOWHERE: whatever the scope.
            message.header.scope = RouteScope::NoWhere;
        }
        let answer = self.ask(Request {
            verb: Verb::Delete,
            subject: subject(route),
            flags: 0,
            message: RouteNetlinkMessage::DelRoute(message),
        });
        match answer {
            Ok(_) => Ok(true),
            Err(Error::Missing { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// AF_INET or AF_INET6.
pub(super) fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// The request which adds a route or replaces the one with the same destination and metric.
/// `onlink` takes a next hop for reachable that no subnet of the link contains.
pub(super) fn replace(route: &Route, oif: Option<u32>, onlink: bool) -> Request {
    Request {
        verb: Verb::Create,
        subject: subject(route),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        message: RouteNetlinkMessage::NewRoute(message(route, oif, onlink)),
    }
}

fn subject(route: &Route) -> String {
    match route.gw {
        Some(gw) => format!("route {} via {gw}", route.dst),
        None => format!("route {}", route.dst),
    }
}

fn message(route: &Route, oif: Option<u32>, onlink: bool) -> RouteMessage {
    let table = route.table.unwrap_or(MAIN);
    let header = RouteHeader {
        address_family: family(route.dst.addr()),
        destination_prefix_length: route.dst.prefix_len(),
        // Tables above 255 travel in RTA_TABLE alone; RT_TABLE_UNSPEC says so.
        table: u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC),
        protocol: RouteProtocol::Other(PROTOCOL),
        scope: match route.scope {
            Some(scope) => scope.into(),
            None => natural_scope(route.dst, route.gw, oif.is_none()),
        },
        kind: if oif.is_some() { RouteType::Unicast } else { RouteType::Unreachable },
        flags: if onlink { RouteFlags::Onlink } else { RouteFlags::empty() },
        ..RouteHeader::default()
    };

    let mut attributes = vec![RouteAttribute::Table(table)];
    if route.dst.prefix_len() > 0 {
        attributes.push(RouteAttribute::Destination(route.dst.network().into()));
    }
    attributes.extend(oif.map(RouteAttribute::Oif));
    match (route.dst, route.gw) {
        (IpNet::V4(_), Some(IpAddr::V6(gw))) => {
            attributes.push(RouteAttribute::Via(RouteVia::Inet6(gw)));
        }
        (_, Some(gw)) => attributes.push(RouteAttribute::Gateway(gw.into())),
        (_, None) => {}
    }
    attributes.extend(route.priority.map(RouteAttribute::Priority));
    let metrics: Vec<_> = route
        .mtu
        .map(RouteMetric::Mtu)
        .into_iter()
        .chain(route.advmss.map(RouteMetric::Advmss))
        .collect();
    if !metrics.is_empty() {
        attributes.push(RouteAttribute::Metrics(metrics));
    }
    let mut message = RouteMessage::default();
    message.header = header;
    message.attributes = attributes;
    message
}

/// The scope ip(8) gives a route: link without a next hop, else universe; IPv6 knows none.
fn natural_scope(dst: IpNet, gw: Option<IpAddr>, unreachable: bool) -> RouteScope {
    match (dst, gw) {
        (IpNet::V4(_), None) if !unreachable => RouteScope::Link,
        _ => RouteScope::Universe,
    }
}

/// The routes the kernel describes, one for each next hop; none for types we do not use.
fn read(object: RouteNetlinkMessage) -> Vec<InstalledRoute> {
    let RouteNetlinkMessage::NewRoute(message) = object else { return Vec::new() };
    let header = &message.header;
    let unreachable = header.kind == RouteType::Unreachable;
    if !unreachable && header.kind != RouteType::Unicast
        || header.flags.contains(RouteFlags::Cloned)
    {
        return Vec::new();
    }
    let everywhere = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return Vec::new(),
    };
    let mut dst = everywhere;
    let mut table = u32::from(header.table);
    let mut first = Hop::default();
    let (mut hops, mut priority, mut mtu, mut advmss) = (Vec::new(), None, None, None);
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => dst = ip(&address).unwrap_or(dst),
            RouteAttribute::Table(number) => table = number,
            RouteAttribute::Priority(number) => priority = Some(number),
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    match metric {
                        RouteMetric::Mtu(bytes) => mtu = Some(bytes),
                        RouteMetric::Advmss(bytes) => advmss = Some(bytes),
                        _ => {}
                    }
                }
            }
            RouteAttribute::MultiPath(several) => {
                for hop in several {
                    let mut next = Hop { oif: Some(hop.interface_index), gw: None };
                    hop.attributes.iter().for_each(|a| next.read(a));
                    hops.push(next);
                }
            }
            other => first.read(&other),
        }
    }
    let Ok(dst) = IpNet::new(dst, header.destination_prefix_length) else { return Vec::new() };
    if hops.is_empty() {
        hops.push(first);
    }
    let given = if dst.addr().is_ipv6() { Some(IPV6_PRIORITY) } else { Some(0) };
    hops.into_iter()
        .map(|hop| InstalledRoute {
            route: Route {
                dst,
                gw: hop.gw,
                mtu,
                advmss,
                priority: priority.filter(|_| priority != given),
                table: Some(table).filter(|t| *t != MAIN),
                scope: Some(header.scope)
                    .filter(|scope| *scope != natural_scope(dst, hop.gw, unreachable))
                    .map(u8::from),
            },
            // IPv6 hangs its unreachable routes on lo.
            oif: hop.oif.filter(|_| !unreachable),
            protocol: header.protocol.into(),
            unreachable,
        })
        .collect()
}

/// Where a route leads.
#[derive(Default)]
struct Hop {
    oif: Option<u32>,
    gw: Option<IpAddr>,
}

impl Hop {
    fn read(&mut self, attribute: &RouteAttribute) {
        match attribute {
            RouteAttribute::Oif(index) => self.oif = Some(*index),
            RouteAttribute::Gateway(address) => self.gw = ip(address),
            RouteAttribute::Via(RouteVia::Inet6(address)) => self.gw = Some((*address).into()),
            RouteAttribute::Via(RouteVia::Inet(address)) => self.gw = Some((*address).into()),
            _ => {}
        }
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}
