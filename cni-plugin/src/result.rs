//! Results: what ADD prints, in the form of each version, and what an earlier plugin printed.

use ipnet::IpNet;
use serde_json::{Map, Value, json};
use shared::attachment::{Address, Record};
use shared::link::Route;
use shared::mac::Mac;

use crate::fields::{self, Error, Fields, lookup};
use crate::netconf::{read_dns, route};
use crate::version::Version;

/// The result of an attachment: host end first, container end second, as in ovs-cni. Behind
/// another plugin ours is appended to `previous`, and nothing of that is lost.
pub(crate) fn render(
    version: Version,
    record: &Record,
    sandbox: &str,
    dns: &Map<String, Value>,
    previous: Option<&Map<String, Value>>,
) -> Value {
    let mut result = previous.cloned().unwrap_or_default();
    result.retain(|key, _| !key.eq_ignore_ascii_case("cniVersion"));
    result.insert("cniVersion".to_owned(), version.as_str().into());

    let mut interfaces = take_list(&mut result, "interfaces");
    let container = interfaces.len() + 1;
    interfaces.push(interface(version, record, record.port.as_str(), None));
    interfaces.push(interface(version, record, record.key.ifname.as_str(), Some(sandbox)));
    let mut ips = take_list(&mut result, "ips");
    ips.extend(record.addresses.iter().map(|address| ip(version, address, container)));
    let mut routes = take_list(&mut result, "routes");
    routes.extend(record.routes.iter().map(|route| route_entry(version, route)));
    for (key, list) in [("interfaces", interfaces), ("ips", ips), ("routes", routes)] {
        if !list.is_empty() {
            result.insert(key.to_owned(), Value::Array(list));
        }
    }
    if !dns.is_empty() {
        result.retain(|key, _| !key.eq_ignore_ascii_case("dns"));
        result.insert("dns".to_owned(), Value::Object(dns.clone()));
    }
    Value::Object(result)
}

/// Takes the list under `key` out, as [`lookup`] finds it; missing and `null` are empty.
fn take_list(result: &mut Map<String, Value>, key: &str) -> Vec<Value> {
    let list = lookup(result, key).and_then(Value::as_array).cloned();
    result.retain(|name, _| !name.eq_ignore_ascii_case(key));
    list.unwrap_or_default()
}

fn interface(version: Version, record: &Record, name: &str, sandbox: Option<&str>) -> Value {
    let mut entry = Map::new();
    entry.insert("name".to_owned(), name.into());
    let mac = if sandbox.is_some() { record.mac } else { record.host_mac };
    entry.insert("mac".to_owned(), mac.to_string().into());
    if version >= Version::V1_1_0 {
        entry.insert("mtu".to_owned(), record.mtu.into());
    }
    if let Some(sandbox) = sandbox {
        entry.insert("sandbox".to_owned(), sandbox.into());
    }
    Value::Object(entry)
}

fn ip(version: Version, address: &Address, interface: usize) -> Value {
    let mut entry = Map::new();
    if version < Version::V1_0_0 {
        let family = if address.address.addr().is_ipv4() { "4" } else { "6" };
        entry.insert("version".to_owned(), family.into());
    }
    entry.insert("interface".to_owned(), interface.into());
    entry.insert("address".to_owned(), address.address.to_string().into());
    if let Some(gateway) = address.gateway {
        entry.insert("gateway".to_owned(), gateway.to_string().into());
    }
    Value::Object(entry)
}

fn route_entry(version: Version, route: &Route) -> Value {
    let mut entry = Map::new();
    entry.insert("dst".to_owned(), route.dst.to_string().into());
    if let Some(gw) = route.gw {
        entry.insert("gw".to_owned(), gw.to_string().into());
    }
    if version >= Version::V1_1_0 {
        let metrics = [
            ("mtu", route.mtu),
            ("advmss", route.advmss),
            ("priority", route.priority),
            ("table", route.table),
            ("scope", route.scope.map(u32::from)),
        ];
        for (key, value) in metrics {
            if let Some(value) = value {
                entry.insert(key.to_owned(), json!(value));
            }
        }
    }
    Value::Object(entry)
}

/// What an IPAM plugin handed out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Handed {
    /// Addresses with their gateways.
    pub(crate) addresses: Vec<Address>,
    /// Routes.
    pub(crate) routes: Vec<Route>,
    /// `dns`.
    pub(crate) dns: Map<String, Value>,
}

/// Reads the result of an IPAM plugin. Its `interface` indexes, if any, mean nothing here.
pub(crate) fn read_ipam(result: &Map<String, Value>) -> Result<Handed, Error> {
    let mut fields = Fields::new("", result);
    let mut handed = Handed { dns: read_dns(&mut fields)?, ..Handed::default() };
    for (index, item) in fields.list("ips")?.iter().enumerate() {
        handed.addresses.push(address(Fields::of(format!("ips[{index}]"), item)?)?);
    }
    handed.routes = routes(&mut fields)?;
    Ok(handed)
}

fn address(mut entry: Fields<'_>) -> Result<Address, Error> {
    let expected = "an address with prefix length such as 10.10.0.5/24";
    let address: IpNet = entry
        .parsed("address", expected)?
        .ok_or_else(|| Error::Missing { field: entry.path("address"), expected })?;
    let gateway = entry.parsed("gateway", crate::fields::AN_ADDRESS)?;
    fields::same_family(&entry, "gateway", gateway, &address)?;
    Ok(Address { address, gateway })
}

fn routes(fields: &mut Fields<'_>) -> Result<Vec<Route>, Error> {
    let list = fields.list("routes")?;
    list.iter()
        .enumerate()
        .map(|(index, item)| route(&mut Fields::of(format!("routes[{index}]"), item)?))
        .collect()
}

/// What CHECK must find again.
#[derive(Debug)]
pub(crate) struct Previous {
    /// MAC of the interface, which a plugin behind us may have changed.
    pub(crate) mac: Option<Mac>,
    /// Its addresses.
    pub(crate) addresses: Vec<Address>,
    /// The routes that leave through them.
    pub(crate) routes: Vec<Route>,
}

/// The part of `prevResult` that is about `ifname` in `sandbox`.
pub(crate) fn read_previous(
    result: &Map<String, Value>,
    ifname: &str,
    sandbox: &str,
) -> Result<Previous, Error> {
    let mut fields = Fields::new("prevResult", result);
    let mut mac = None;
    let mine: Vec<bool> = fields
        .list("interfaces")?
        .iter()
        .map(|entry| {
            let text = |key| entry.as_object().and_then(|entry| lookup(entry, key)?.as_str());
            let mine = text("name") == Some(ifname) && text("sandbox") == Some(sandbox);
            if mine {
                mac = text("mac").and_then(|mac| mac.parse().ok());
            }
            mine
        })
        .collect();
    let mut addresses = Vec::new();
    for (index, item) in fields.list("ips")?.iter().enumerate() {
        let mut entry = Fields::of(format!("prevResult.ips[{index}]"), item)?;
        let on = entry.get("interface").and_then(Value::as_u64);
        let on = on.and_then(|on| usize::try_from(on).ok()).and_then(|on| mine.get(on));
        // Without an index nobody says whose it is: then it must be ours to be anybody's.
        if on.copied().unwrap_or(mine.iter().filter(|mine| **mine).count() == 1 && on.is_none()) {
            addresses.push(address(entry)?);
        }
    }
    let reachable = |route: &Route| {
        route.gw.is_none_or(|gw| addresses.iter().any(|own| own.address.contains(&gw)))
    };
    let routes = routes(&mut fields)?.into_iter().filter(reachable).collect();
    Ok(Previous { mac, addresses, routes })
}

#[cfg(test)]
mod tests;
