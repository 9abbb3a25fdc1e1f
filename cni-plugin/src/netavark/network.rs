//! A network as Podman describes it: raw JSON in, one validated [`PodmanNetwork`] out.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};
use shared::config::Config;
use shared::link::Route;
use shared::name::IfName;
use shared::vlan::PortVlan;

use super::error::Error;
use crate::environment::is_identifier;
use crate::fields::{self, A_NAME, A_SUBNET, AN_ADDRESS, Fields, lookup};
use crate::netconf::{MTU, number_or_zero};
use crate::network::{self, Place, Source};
use crate::subnet::{Gateway, OwnSubnet, net, overlaps};

/// A label with this prefix is the other spelling of an option: the API that is compatible with
/// Docker's drops the options of drivers it does not know, and passes labels on.
const LABEL_PREFIX: &str = "ovs-agent.";

/// Who hands out the addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Addresses {
    /// The host's pools.
    Pool,
    /// Podman (`--ipam-driver host-local`); the pool writes down what it chose.
    Podman,
    /// Nobody.
    None,
}

impl Addresses {
    const ALL: [Self; 3] = [Self::Pool, Self::Podman, Self::None];

    /// The value of the option.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Podman => "podman",
            Self::None => "none",
        }
    }

    /// The IPAM driver that makes Podman do its part.
    pub(super) fn driver(self) -> &'static str {
        match self {
            Self::Podman => "host-local",
            Self::Pool | Self::None => "none",
        }
    }
}

/// A validated network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodmanNetwork {
    /// `name`.
    pub(super) name: String,
    /// Option `bridge`, or `--interface-name`.
    pub(super) bridge: Option<IfName>,
    /// Options `vlan`, `vlan_mode`, `trunk`.
    pub(super) vlan: PortVlan,
    /// Option `mtu` in bytes.
    pub(super) mtu: Option<u32>,
    /// Option `isolated`.
    pub(super) isolated: bool,
    /// Option `no_default_route`.
    pub(super) no_default_route: bool,
    /// Option `addresses`.
    pub(super) addresses: Option<Addresses>,
    /// `--ipam-driver`.
    pub(super) driver: Option<String>,
    /// `--internal`.
    pub(super) internal: bool,
    /// `--subnet` with `--gateway` and `--ip-range`.
    pub(super) subnets: Vec<OwnSubnet>,
    /// `--route`.
    pub(super) routes: Vec<Route>,
    /// Option `dns`, or `--dns`.
    pub(super) dns: Vec<IpAddr>,
}

impl PodmanNetwork {
    /// Validates what means something to us. Other keys are Podman's own, and come and go with
    /// its versions; options are ours, and none is passed over.
    pub(super) fn read(raw: &Map<String, Value>) -> Result<Self, Error> {
        let mut top = Fields::new("", raw);
        let name = identifier(&mut top, "name")?;
        let internal = top.flag("internal")?.unwrap_or(false);
        let given = typed(&options(raw)?)?;
        let mut options = Fields::new("options", &given);
        let vlan = crate::vlan::read(&mut options)?;
        let nat = options.flag("nat")?;
        let gateways = gateways(&mut options)?;
        let named: Option<IfName> = top.parsed("network_interface", A_NAME)?;
        let bridge: Option<IfName> = options.parsed("bridge", A_NAME)?;
        if let (Some(bridge), Some(named)) = (&bridge, &named)
            && bridge != named
        {
            let value = Value::from(bridge.as_str());
            let expected = format!("{named}, as in --interface-name, or only one of them");
            return Err(options.wrong("bridge", &value, expected).into());
        }
        let addresses = match options.text("addresses")? {
            None => None,
            Some(text) => {
                let known = Addresses::ALL.into_iter().find(|known| known.as_str() == text);
                let wrong = || options.wrong("addresses", &text.into(), "pool, podman or none");
                Some(known.ok_or_else(wrong)?)
            }
        };
        let network = Self {
            name,
            bridge: bridge.or(named),
            vlan,
            mtu: number_or_zero(&mut options, "mtu", &MTU)?,
            isolated: options.flag("isolated")?.unwrap_or(false),
            no_default_route: options.flag("no_default_route")?.unwrap_or(false),
            addresses,
            driver: driver(&mut top)?,
            internal,
            subnets: subnets(&mut top, internal, nat, gateways.as_deref())?,
            routes: routes(&mut top)?,
            dns: match list(&mut options, "dns")? {
                Some(servers) => servers,
                None => addresses_of(&mut top, "network_dns_servers")?,
            },
        };
        options.finish()?;
        for (key, given) in [("nat", nat.is_some()), ("gateway", gateways.is_some())] {
            if given && network.subnets.is_empty() {
                return Err(Error::Field(fields::Error::Value {
                    field: format!("options.{key}"),
                    value: "given".to_owned(),
                    expected: "--subnet beside it".to_owned(),
                }));
            }
        }
        Ok(network)
    }

    /// The bridge and who gives the addresses there.
    pub(super) fn place(&self, config: &Config) -> Result<Place, Error> {
        let bridge = match &self.bridge {
            Some(bridge) => bridge.clone(),
            None => config.nat_bridge().ok_or(network::Error::NoBridge)?.name.clone(),
        };
        let source = match self.addresses {
            Some(Addresses::None) => Source::Nobody,
            _ => network::pool(&self.subnets, &self.vlan, &bridge, config.bridge(&bridge))?,
        };
        Ok(Place { bridge, source })
    }
}

/// Options of a network: those of its labels, outranked by those of `-o`.
pub(super) fn options(raw: &Map<String, Value>) -> Result<Map<String, Value>, fields::Error> {
    let mut top = Fields::new("", raw);
    let mut options = Map::new();
    if let Some(labels) = top.object("labels")? {
        for (key, value) in labels.entries() {
            if let Some(option) = key.strip_prefix(LABEL_PREFIX) {
                options.insert(option.to_owned(), value.clone());
            }
        }
    }
    if let Some(own) = top.object("options")? {
        options.extend(own.entries().map(|(key, value)| (key.clone(), value.clone())));
    }
    Ok(options)
}

/// Options are texts; this gives them the types that the readers of a configuration know.
pub(super) fn typed(options: &Map<String, Value>) -> Result<Map<String, Value>, fields::Error> {
    let mut typed = Map::new();
    for (key, value) in options {
        let text = match value {
            Value::String(text) => text.trim(),
            other => return Err(Fields::new("options", options).wrong(key, other, "a string")),
        };
        let value = match (key.as_str(), text) {
            ("vlan" | "mtu", text) => text.parse::<u64>().map_or_else(|_| json!(text), Value::from),
            ("nat" | "isolated" | "no_default_route", "true" | "1") => json!(true),
            ("nat" | "isolated" | "no_default_route", "false" | "0") => json!(false),
            ("trunk", text) => trunk(text).ok_or_else(|| {
                Fields::new("options", options).wrong(key, value, "VLANs such as 10,20-30")
            })?,
            _ => json!(text),
        };
        typed.insert(key.clone(), value);
    }
    // In a CNI configuration vlan is ignored beside trunk, as ovs-cni has it; here it is new.
    if typed.contains_key("vlan") && typed.contains_key("trunk") && !typed.contains_key("vlan_mode")
    {
        return Err(fields::Error::Missing {
            field: "options.vlan_mode".to_owned(),
            expected: "native-untagged or native-tagged beside vlan and trunk",
        });
    }
    Ok(typed)
}

/// "10,20-30" as the list that a CNI configuration has.
fn trunk(text: &str) -> Option<Value> {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    text.split(',')
        .map(|part| match part.split_once('-') {
            None => Some(json!({"id": number(part)?})),
            Some((min, max)) => Some(json!({"minID": number(min)?, "maxID": number(max)?})),
        })
        .collect::<Option<Vec<_>>>()
        .map(Value::Array)
}

/// Option `gateway`: "none" or addresses. `create` writes down here what it settled, since Podman
/// itself makes the first address of each subnet the gateway, wanted or not.
fn gateways(options: &mut Fields<'_>) -> Result<Option<Vec<IpAddr>>, fields::Error> {
    let Some(text) = options.text("gateway")? else { return Ok(None) };
    if text == "none" {
        return Ok(Some(Vec::new()));
    }
    split(text)
        .map(Some)
        .ok_or_else(|| options.wrong("gateway", &text.into(), "none, or IP addresses with commas"))
}

/// An option of addresses with commas.
fn list(options: &mut Fields<'_>, key: &'static str) -> Result<Option<Vec<IpAddr>>, fields::Error> {
    let Some(text) = options.text(key)? else { return Ok(None) };
    let wrong = || options.wrong(key, &text.into(), "IP addresses with commas");
    split(text).map(Some).ok_or_else(wrong)
}

fn split(text: &str) -> Option<Vec<IpAddr>> {
    text.split(',').map(|part| part.trim().parse().ok()).collect()
}

fn driver(top: &mut Fields<'_>) -> Result<Option<String>, fields::Error> {
    let Some(mut ipam) = top.object("ipam_options")? else { return Ok(None) };
    Ok(ipam.text("driver")?.map(str::to_owned))
}

/// `subnets`. `gateways` outranks what Podman says of a gateway.
fn subnets(
    top: &mut Fields<'_>,
    internal: bool,
    nat: Option<bool>,
    gateways: Option<&[IpAddr]>,
) -> Result<Vec<OwnSubnet>, fields::Error> {
    let mut subnets: Vec<OwnSubnet> = Vec::new();
    for (index, item) in top.list("subnets")?.iter().enumerate() {
        let at = format!("subnets[{index}]");
        let mut entry = Fields::of(at.clone(), item)?;
        let Some(text) = entry.text("subnet")? else {
            return Err(fields::Error::Missing { field: entry.path("subnet"), expected: A_SUBNET });
        };
        let net = net(&entry.path("subnet"), text)?;
        if let Some(other) = subnets.iter().find(|other| overlaps(&other.net, &net)) {
            let expected = format!("no overlap with {}", other.net);
            return Err(entry.wrong("subnet", &text.into(), expected));
        }
        let own = inside(&mut entry, "gateway", &net)?;
        let gateway = match gateways {
            _ if internal => Gateway::Absent,
            None => own.map_or(Gateway::Unsaid, Gateway::At),
            Some(settled) => settled
                .iter()
                .find(|ip| net.contains(*ip))
                .map_or(Gateway::Absent, |ip| Gateway::At(*ip)),
        };
        subnets.push(OwnSubnet { range: range(&mut entry, &net)?, net, gateway, nat });
    }
    if let Some(lost) = gateways
        .unwrap_or_default()
        .iter()
        .find(|ip| !subnets.is_empty() && !subnets.iter().any(|subnet| subnet.net.contains(*ip)))
    {
        return Err(fields::Error::Value {
            field: "options.gateway".to_owned(),
            value: lost.to_string(),
            expected: "an address of the subnets".to_owned(),
        });
    }
    Ok(subnets)
}

/// `lease_range`: `--ip-range`. Podman leaves an end out that is the subnet's own.
fn range(entry: &mut Fields<'_>, net: &IpNet) -> Result<Option<(IpAddr, IpAddr)>, fields::Error> {
    let Some(mut range) = entry.object("lease_range")? else { return Ok(None) };
    let first = inside(&mut range, "start_ip", net)?;
    let last = inside(&mut range, "end_ip", net)?;
    if first.is_none() && last.is_none() {
        return Ok(None);
    }
    let (first, last) = (first.unwrap_or(net.network()), last.unwrap_or(net.broadcast()));
    if first > last {
        let expected = format!("an address not above the end of the range, {last}");
        return Err(range.wrong("start_ip", &first.to_string().into(), expected));
    }
    Ok(Some((first, last)))
}

fn inside(
    fields: &mut Fields<'_>,
    key: &'static str,
    net: &IpNet,
) -> Result<Option<IpAddr>, fields::Error> {
    let ip: Option<IpAddr> = fields.parsed(key, AN_ADDRESS)?;
    match ip {
        Some(ip) if !net.contains(&ip) => {
            Err(fields.wrong(key, &ip.to_string().into(), format_args!("an address of {net}")))
        }
        ip => Ok(ip),
    }
}

/// `routes`: destination, gateway, metric.
fn routes(top: &mut Fields<'_>) -> Result<Vec<Route>, fields::Error> {
    let mut routes = Vec::new();
    for (index, item) in top.list("routes")?.iter().enumerate() {
        let mut entry = Fields::of(format!("routes[{index}]"), item)?;
        let Some(dst) = entry.parsed::<IpNet>("destination", A_SUBNET)? else {
            let field = entry.path("destination");
            return Err(fields::Error::Missing { field, expected: A_SUBNET });
        };
        let gateway = entry.parsed("gateway", AN_ADDRESS)?;
        fields::same_family(&entry, "gateway", gateway, &dst)?;
        let mut route = Route::new(dst.trunc(), gateway);
        let metric = entry.number("metric", &(0..=u64::from(u32::MAX)))?;
        route.priority = metric.and_then(|metric| u32::try_from(metric).ok());
        routes.push(route);
    }
    Ok(routes)
}

/// A list of addresses.
pub(super) fn addresses_of(
    fields: &mut Fields<'_>,
    key: &'static str,
) -> Result<Vec<IpAddr>, fields::Error> {
    let texts = fields.texts(key)?;
    let parse = |text: &str| text.parse().map_err(|_| fields.wrong(key, &text.into(), AN_ADDRESS));
    texts.into_iter().map(parse).collect()
}

/// A name as Podman makes them: part of a key of ours, and of file names.
pub(super) fn identifier(
    fields: &mut Fields<'_>,
    key: &'static str,
) -> Result<String, fields::Error> {
    let expected = "letters, digits, \"_\", \".\" or \"-\", a letter or digit first";
    match fields.text(key)? {
        Some(text) if is_identifier(text) => Ok(text.to_owned()),
        Some(text) => Err(fields.wrong(key, &text.into(), expected)),
        None => Err(fields::Error::Missing { field: fields.path(key), expected }),
    }
}

/// The object under `key`, which must be there.
pub(super) fn part<'a>(
    input: &'a Map<String, Value>,
    key: &'static str,
) -> Result<&'a Map<String, Value>, fields::Error> {
    lookup(input, key).and_then(Value::as_object).ok_or(fields::Error::Missing {
        field: key.to_owned(),
        expected: "an object, as netavark sends it",
    })
}
