//! Policy routing of named uplinks: traffic of a segment leaves by the uplink the configuration
//! names, even when another interface has the better default route, and else not at all.
//!
//! Two rules per subnet: `from SUBNET lookup main`, default routes left out, so that answers reach
//! other networks of the host; then `from SUBNET lookup TABLE`. The table of an uplink holds
//! copies of that link's own default routes and a last resort that is unreachable.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{DEFAULT_PREFIX_V4, DEFAULT_PREFIX_V6, Error, Segment, is_default, kernel_error};
use crate::config::Uplink;
use crate::link::{InstalledRoute, Netlink, PROTOCOL, Route, Rule};
use crate::name::IfName;

/// Priority of the rules which look at the main table. Below 5210, where Tailscale's begin: a
/// named uplink comes before an exit node.
pub const PRIORITY_MAIN: u32 = 5100;

/// Priority of the rules which look at the uplink's table.
pub const PRIORITY_UPLINK: u32 = 5101;

/// The tables of uplinks are this and a 16-bit hash of the uplink's name.
pub const TABLE_BASE: u32 = 0x6f76_0000;

/// RT_TABLE_MAIN.
const MAIN: u32 = 254;

/// Metric of the last resort: no default route is worse.
const LAST: u32 = u32::MAX;

/// Interfaces to the outside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Uplinks {
    /// Those of IPv4.
    pub(super) ipv4: Vec<IfName>,
    /// Those of IPv6.
    pub(super) ipv6: Vec<IfName>,
}

impl Uplinks {
    /// The uplinks named by segments and, if one of them takes the default, the interfaces which
    /// hold default routes of the main table now.
    pub(super) fn find(netlink: &mut Netlink, segments: &[Segment]) -> Result<Self, Error> {
        let mut found = Self::default();
        for segment in segments {
            let Uplink::Named(uplink) = &segment.uplink else { continue };
            found.ipv4.push(uplink.clone());
            found.ipv6.push(uplink.clone());
        }
        if segments.iter().any(|segment| segment.uplink == Uplink::Default) {
            for route in defaults(netlink)? {
                let Some(index) = route.oif else { continue };
                let link = netlink.link_by_index(index);
                let Some(link) = link.map_err(|s| kernel_error("look up an uplink", s))? else {
                    continue;
                };
                if segments.iter().any(|segment| segment.interface == link.name) {
                    continue;
                }
                match route.route.dst {
                    IpNet::V4(_) => found.ipv4.push(link.name),
                    IpNet::V6(_) => found.ipv6.push(link.name),
                }
            }
        }
        for names in [&mut found.ipv4, &mut found.ipv6] {
            names.sort_unstable();
            names.dedup();
        }
        Ok(found)
    }

    /// Of either family.
    pub(super) fn all(&self) -> impl Iterator<Item = &IfName> {
        self.ipv4.iter().chain(&self.ipv6)
    }
}

/// Makes rules and tables follow the segments and the uplinks' default routes; removes all of ours
/// for no segments. Idempotent, and to be run again when a default route changes. Returns whether
/// anything was changed.
pub fn sync(netlink: &mut Netlink, segments: &[Segment]) -> Result<bool, Error> {
    let rules = netlink.rules().map_err(|s| kernel_error("read policy rules", s))?;
    let names = named(segments);
    // Routes without a rule are what a removal leaves that was killed half way.
    if !segments.is_empty() && names.is_empty() && rules.is_empty() {
        return Ok(false);
    }
    let tables = tables(&names);
    let routes = netlink.routes(None).map_err(|s| kernel_error("read routes", s))?;
    let wanted_rules = wanted_rules(segments, &tables);
    let wanted_routes = wanted_routes(netlink, &tables, &routes)?;
    let ours: Vec<&InstalledRoute> = routes.iter().filter(|route| is_ours(route)).collect();
    let mut changed = false;

    // What must not be used any more goes before anything new leads there; the last resort and
    // the rules that lead to it come before the default routes.
    for rule in rules.iter().filter(|rule| !wanted_rules.contains(rule)) {
        changed |= netlink.delete_rule(rule).map_err(|s| kernel_error("remove a rule", s))?;
    }
    for (route, oif) in &wanted_routes {
        if ours.iter().any(|there| is_same(there, route, *oif)) {
            continue;
        }
        let done = netlink.copy_route(route, *oif);
        done.map_err(|s| kernel_error("write the routes of an uplink", s))?;
        changed = true;
    }
    for rule in wanted_rules.iter().filter(|rule| !rules.contains(rule)) {
        changed |= netlink.add_rule(rule).map_err(|s| kernel_error("add a rule", s))?;
    }
    for there in ours {
        if wanted_routes.iter().any(|(route, oif)| is_same(there, route, *oif)) {
            continue;
        }
        let done = netlink.delete_route(&there.route, there.oif);
        changed |= done.map_err(|s| kernel_error("remove a route of an uplink", s))?;
    }
    Ok(changed)
}

/// The first policy rule the segment lacks.
pub(super) fn missing(netlink: &mut Netlink, segment: &Segment) -> Result<Option<Rule>, Error> {
    let segments = std::slice::from_ref(segment);
    let wanted = wanted_rules(segments, &tables(&named(segments)));
    if wanted.is_empty() {
        return Ok(None);
    }
    let rules = netlink.rules().map_err(|s| kernel_error("read policy rules", s))?;
    Ok(wanted.into_iter().find(|rule| !rules.iter().any(|there| serves(there, rule))))
}

/// The default routes of the main table, unreachable ones left out.
pub(super) fn defaults(netlink: &mut Netlink) -> Result<Vec<InstalledRoute>, Error> {
    let routes = netlink.routes(Some(MAIN)).map_err(|s| kernel_error("read routes", s))?;
    Ok(routes.into_iter().filter(|r| is_default(r.route.dst) && !r.unreachable).collect())
}

fn named(segments: &[Segment]) -> Vec<&IfName> {
    let mut names: Vec<&IfName> = segments
        .iter()
        .filter_map(|segment| match &segment.uplink {
            Uplink::Named(name) => Some(name),
            Uplink::Default => None,
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The table of each uplink: by its name, so that it stays the same; the next one if taken.
fn tables<'a>(names: &[&'a IfName]) -> Vec<(&'a IfName, u32)> {
    let mut tables: Vec<(&IfName, u32)> = Vec::new();
    for name in names {
        let hash = Sha256::digest(name.as_str().as_bytes());
        let mut low = u16::from_be_bytes([hash[0], hash[1]]);
        while tables.iter().any(|(_, table)| *table == TABLE_BASE + u32::from(low)) {
            low = low.wrapping_add(1);
        }
        tables.push((name, TABLE_BASE + u32::from(low)));
    }
    tables
}

/// The same rule; its table may be the next one, if another uplink's name has the same hash.
fn serves(there: &Rule, wanted: &Rule) -> bool {
    (there.from, there.priority, there.suppress_prefixlen)
        == (wanted.from, wanted.priority, wanted.suppress_prefixlen)
}

fn wanted_rules(segments: &[Segment], tables: &[(&IfName, u32)]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for segment in segments {
        let Uplink::Named(name) = &segment.uplink else { continue };
        let Some((_, table)) = tables.iter().find(|(uplink, _)| *uplink == name) else { continue };
        for subnet in &segment.subnets {
            let from = subnet.trunc();
            let defaults =
                if matches!(from, IpNet::V4(_)) { DEFAULT_PREFIX_V4 } else { DEFAULT_PREFIX_V6 };
            let suppress = Some(u32::from(defaults));
            let (table, priority) = (*table, PRIORITY_UPLINK);
            rules.push(Rule { from, priority, table, suppress_prefixlen: None });
            let (table, priority) = (MAIN, PRIORITY_MAIN);
            rules.push(Rule { from, priority, table, suppress_prefixlen: suppress });
        }
    }
    rules
}

fn wanted_routes(
    netlink: &mut Netlink,
    tables: &[(&IfName, u32)],
    routes: &[InstalledRoute],
) -> Result<Vec<(Route, Option<u32>)>, Error> {
    let mut wanted = Vec::new();
    for (name, table) in tables {
        for dst in [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())] {
            let last = Route { table: Some(*table), priority: Some(LAST), ..Route::new(dst, None) };
            wanted.push((last, None));
        }
        // An uplink that is away just now has no routes, and its traffic is unreachable.
        let link = netlink.link(name).map_err(|s| kernel_error("look up an uplink", s))?;
        let Some(index) = link.map(|link| link.index) else { continue };
        let main = |r: &&InstalledRoute| r.route.table.is_none_or(|table| table == MAIN);
        for there in routes.iter().filter(main) {
            if !is_default(there.route.dst) || there.oif != Some(index) {
                continue;
            }
            let route = Route { table: Some(*table), ..there.route.clone() };
            // One of several next hops of equal metric: a second would replace the first.
            let taken = |(other, _): &(Route, Option<u32>)| {
                (other.dst, other.priority, other.table) == (route.dst, route.priority, route.table)
            };
            if !wanted.iter().any(taken) {
                wanted.push((route, there.oif));
            }
        }
    }
    Ok(wanted)
}

fn is_ours(route: &InstalledRoute) -> bool {
    route.protocol == PROTOCOL
        && route.route.table.is_some_and(|table| table >> 16 == TABLE_BASE >> 16)
}

fn is_same(there: &InstalledRoute, route: &Route, oif: Option<u32>) -> bool {
    // The kernel shows unreachable IPv6 routes as routes of lo.
    let unreachable = oif.is_none();
    there.unreachable == unreachable
        && (unreachable || there.oif == oif)
        && (there.route.dst, there.route.gw, there.route.table, there.route.priority)
            == (route.dst, route.gw, route.table, route.priority)
        && (there.route.mtu, there.route.advmss) == (route.mtu, route.advmss)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(texts: &[String]) -> Vec<IfName> {
        let mut names: Vec<IfName> = texts.iter().map(|text| text.parse().unwrap()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    proptest! {
        #[test]
        fn each_uplink_has_a_table_of_its_own(
            texts in prop::collection::vec("[a-z][a-z0-9]{0,14}", 1..300),
        ) {
            let names = names(&texts);
            let tables = tables(&names.iter().collect::<Vec<_>>());
            let mut numbers: Vec<u32> = tables.iter().map(|(_, table)| *table).collect();
            prop_assert!(numbers.iter().all(|table| table >> 16 == TABLE_BASE >> 16));
            numbers.sort_unstable();
            numbers.dedup();
            prop_assert_eq!(numbers.len(), names.len());
        }
    }

    #[test]
    fn the_table_of_an_uplink_stays_the_same() {
        let both = names(&["wlp4s0".to_owned(), "enp2s0".to_owned()]);
        let alone = tables(&[&both[1]]);
        assert_eq!(tables(&[&both[0], &both[1]])[1], alone[0]);
        // Written into the kernel by one process, looked for by another: never to be changed.
        assert_eq!(alone[0].1, 0x6f76_9ba6);
    }

    #[test]
    fn halves_of_the_internet_are_default_routes() {
        for default in ["0.0.0.0/0", "128.0.0.0/1", "::/0", "2000::/3", "3000::/4"] {
            assert!(is_default(default.parse().unwrap()), "{default}");
        }
        for part in ["10.0.0.0/8", "64.0.0.0/2", "fc00::/7"] {
            assert!(!is_default(part.parse().unwrap()), "{part}");
        }
    }
}
