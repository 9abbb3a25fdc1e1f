//! Routes of a container and of the host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::object::{Attribute, Object, RTM_NEWROUTE, attributes};
use super::socket::{Request, Verb};
use super::{Error, Netlink, PROTOCOL};

/// Table main (RT_TABLE_MAIN).
const MAIN: u32 = 254;

/// Metric of an IPv6 route that was given none (IP6_RT_PRIO_USER).
const IPV6_PRIORITY: u32 = 1024;

/// linux/rtnetlink.h.
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;

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
            found.extend(objects.iter().filter_map(read).flatten());
        }
        found.retain(|installed| table.is_none_or(|t| t == installed.route.table.unwrap_or(MAIN)));
        Ok(found)
    }

    /// Adds or replaces a route of ours ([`PROTOCOL`]) out of `oif`, or an unreachable one without.
    pub fn replace_route(&mut self, route: &Route, oif: Option<u32>) -> Result<(), Error> {
        self.ask(replace(route, oif, false)).map(drop)
    }

    /// [`Self::replace_route`] for a route that the kernel has already taken in another table: its
    /// next hop counts as reachable, although no subnet of the link may contain it (RTNH_F_ONLINK).
    pub fn copy_route(&mut self, route: &Route, oif: Option<u32>) -> Result<(), Error> {
        let onlink = oif.is_some() && route.gw.is_some();
        self.ask(replace(route, oif, onlink)).map(drop)
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

/// `0.0.0.0` or `::`, for an address family of a header.
pub(super) fn unspecified(family: u8) -> Option<IpAddr> {
    match AddressFamily::from(family) {
        AddressFamily::Inet => Some(Ipv4Addr::UNSPECIFIED.into()),
        AddressFamily::Inet6 => Some(Ipv6Addr::UNSPECIFIED.into()),
        _ => None,
    }
}

/// The routes the kernel describes, one for each next hop; none for types we do not use.
fn read(object: &Object) -> Option<Vec<InstalledRoute>> {
    // struct rtmsg: family, two prefix lengths, TOS, table, protocol, scope, type, flags.
    let (header, attributes) = object.split::<12>(RTM_NEWROUTE)?;
    let [family, dst_len, _, _, table, protocol, scope, kind, f, g, h, i] = *header;
    let unreachable = match RouteType::from(kind) {
        RouteType::Unicast => false,
        RouteType::Unreachable => true,
        _ => return None,
    };
    if u32::from_ne_bytes([f, g, h, i]) & RouteFlags::Cloned.bits() != 0 {
        return None;
    }
    let mut dst = unspecified(family)?;
    let mut table = u32::from(table);
    let mut single = Hop::default();
    let (mut hops, mut priority, mut mtu, mut advmss) = (Vec::new(), None, None, None);
    for attribute in attributes {
        match attribute.kind {
            RTA_DST => dst = attribute.ip()?,
            RTA_TABLE => table = attribute.number()?,
            RTA_PRIORITY => priority = attribute.number(),
            RTA_METRICS => {
                for metric in attribute.nested() {
                    match metric.kind {
                        RTAX_MTU => mtu = metric.number(),
                        RTAX_ADVMSS => advmss = metric.number(),
                        _ => {}
                    }
                }
            }
            RTA_MULTIPATH => hops = several(attribute.value),
            _ => single.read(attribute),
        }
    }
    let dst = IpNet::new(dst, dst_len).ok()?;
    if hops.is_empty() {
        hops.push(single);
    }
    let given = if dst.addr().is_ipv6() { IPV6_PRIORITY } else { 0 };
    let installed = hops.into_iter().map(|hop| InstalledRoute {
        route: Route {
            dst,
            gw: hop.gw,
            mtu,
            advmss,
            priority: priority.filter(|p| *p != given),
            table: Some(table).filter(|t| *t != MAIN),
            scope: Some(scope).filter(|s| *s != u8::from(natural_scope(dst, hop.gw, unreachable))),
        },
        // IPv6 hangs its unreachable routes on lo.
        oif: hop.oif.filter(|_| !unreachable),
        protocol,
        unreachable,
    });
    Some(installed.collect())
}

/// Where a route leads.
#[derive(Default)]
struct Hop {
    oif: Option<u32>,
    gw: Option<IpAddr>,
}

impl Hop {
    fn read(&mut self, attribute: Attribute<'_>) {
        match attribute.kind {
            RTA_OIF => self.oif = attribute.number(),
            RTA_GATEWAY => self.gw = attribute.ip(),
            // struct rtvia: two bytes of address family, then the address.
            RTA_VIA => {
                let value = attribute.value.get(2..).unwrap_or_default();
                self.gw = Attribute { value, ..attribute }.ip();
            }
            _ => {}
        }
    }
}

/// The next hops of RTA_MULTIPATH: each a `struct rtnexthop` (length, flags, hops, index) with
/// attributes behind it.
fn several(mut rest: &[u8]) -> Vec<Hop> {
    let mut hops = Vec::new();
    while let Some((header, _)) = rest.split_first_chunk::<8>() {
        let [a, b, _, _, i, j, k, l] = *header;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let Some(inner) = rest.get(8..length) else { break };
        let mut hop = Hop { oif: Some(u32::from_ne_bytes([i, j, k, l])), gw: None };
        attributes(inner).for_each(|attribute| hop.read(attribute));
        hops.push(hop);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    hops
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable as _;
    use proptest::prelude::*;

    use super::*;

    fn net() -> impl Strategy<Value = IpNet> {
        let v4 = (any::<Ipv4Addr>(), 0..=32_u8).prop_map(|(ip, len)| IpNet::new(ip.into(), len));
        let v6 = (any::<Ipv6Addr>(), 0..=128_u8).prop_map(|(ip, len)| IpNet::new(ip.into(), len));
        prop_oneof![v4, v6].prop_map(|net| net.unwrap().trunc())
    }

    fn object(message: &RouteMessage) -> Object {
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        Object { kind: RTM_NEWROUTE, bytes }
    }

    proptest! {
        #[test]
        fn a_route_reads_back_as_it_was_asked_for(
            dst in net(),
            v4_gw: Option<Ipv4Addr>,
            v6_gw: Option<Ipv6Addr>,
            mtu: Option<u32>,
            advmss: Option<u32>,
            priority in proptest::option::of(1_u32..1000),
            table in proptest::option::of(255_u32..),
            oif in 1_u32..1000,
        ) {
            let gw = match dst {
                IpNet::V4(_) => v4_gw.map(IpAddr::V4).or(v6_gw.map(IpAddr::V6)),
                IpNet::V6(_) => v6_gw.map(IpAddr::V6),
            };
            let route = Route { dst, gw, mtu, advmss, priority, table, scope: None };
            let found = read(&object(&message(&route, Some(oif), false))).unwrap();
            let installed =
                InstalledRoute { route, oif: Some(oif), protocol: PROTOCOL, unreachable: false };
            prop_assert_eq!(found, [installed]);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            drop(several(&bytes));
            drop(read(&Object { kind: RTM_NEWROUTE, bytes }));
        }
    }
}
