//! The network configuration on stdin: raw JSON in, one validated [`NetConf`] out.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};
use shared::attachment::owner::RESERVED_PREFIX;
use shared::link::Route;
use shared::mac::Mac;
use shared::name::IfName;
use shared::publish::PortMapping;
use shared::vlan::PortVlan;

use crate::addresses::Requested;
use crate::compat;
use crate::environment::is_identifier;
use crate::fields::{self, A_MAC, A_NAME, A_SUBNET, AN_ADDRESS, Error, Fields, lookup, shown};
use crate::ports;
use crate::subnet::{self, OwnSubnet};
use crate::version::Version;

/// The smallest MTU of IPv4 (RFC 791) and the largest frame of a veth, in bytes.
pub(crate) const MTU: std::ops::RangeInclusive<u64> = 68..=65535;

/// `ofport_request` (ovs-vswitchd.conf.db(5)).
const OFPORT: std::ops::RangeInclusive<u64> = 1..=65279;

/// Keys that runtimes put beside the user's own, or that belong to the list around a plugin.
const INJECTED: [&str; 11] = [
    "cniVersion",
    "cniVersions",
    "type",
    "args",
    "capabilities",
    "runtimeConfig",
    "prevResult",
    "cni.dev/valid-attachments",
    "cni.dev/attachments",
    "disableCheck",
    "disableGC",
];

/// Why stdin holds no usable envelope.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvelopeError {
    /// It is no JSON.
    #[error("the network configuration on stdin is no JSON")]
    Json {
        /// Where it stops making sense.
        source: serde_json::Error,
    },
    /// It is JSON, but no object.
    #[error("the network configuration on stdin is {value}, expected a JSON object")]
    NoObject {
        /// What it is.
        value: String,
    },
    /// It has no name.
    #[error("missing network name")]
    NoName,
    /// Its name is none.
    #[error(
        "network name {value} is invalid, expected letters, digits, \"_\", \".\" or \"-\", a letter or digit first"
    )]
    Name {
        /// What was given.
        value: String,
    },
    /// A version we do not speak.
    #[error("incompatible CNI versions")]
    Version {
        /// What was asked for.
        wanted: String,
    },
}

/// What can be read of a configuration without judging it: enough for DEL.
#[derive(Debug, Clone)]
pub(crate) struct Envelope {
    /// stdin as it came.
    pub(crate) raw: Map<String, Value>,
}

impl Envelope {
    /// Parses stdin.
    pub(crate) fn parse(stdin: &[u8]) -> Result<Self, EnvelopeError> {
        match serde_json::from_slice(stdin) {
            Ok(Value::Object(raw)) => Ok(Self { raw }),
            Ok(other) => Err(EnvelopeError::NoObject { value: shown(&other) }),
            Err(source) => Err(EnvelopeError::Json { source }),
        }
    }

    /// `cniVersion`; absent means 0.1.0, which is too old for us.
    pub(crate) fn version(&self) -> Result<Version, EnvelopeError> {
        let wanted = match lookup(&self.raw, "cniVersion") {
            Some(Value::String(text)) if !text.is_empty() => text.as_str(),
            Some(Value::String(_)) | None => "0.1.0",
            Some(_) => "no string",
        };
        Version::from_text(wanted)
            .ok_or_else(|| EnvelopeError::Version { wanted: wanted.to_owned() })
    }

    /// `name`.
    pub(crate) fn name(&self) -> Result<&str, EnvelopeError> {
        match lookup(&self.raw, "name") {
            None => Err(EnvelopeError::NoName),
            Some(Value::String(name)) if name.is_empty() => Err(EnvelopeError::NoName),
            Some(Value::String(name)) if is_identifier(name) => Ok(name),
            Some(other) => Err(EnvelopeError::Name { value: shown(other) }),
        }
    }

    /// `ipam.type` if there is one that can be read.
    pub(crate) fn ipam_type(&self) -> Option<&str> {
        lookup(lookup(&self.raw, "ipam")?.as_object()?, "type")?
            .as_str()
            .filter(|kind| !kind.is_empty())
    }

    /// Merges ovs-cni's flat file into what is left open.
    pub(crate) fn merge_flat_file(&mut self) -> Result<(), compat::FlatFileError> {
        compat::merge_flat_file(&mut self.raw)
    }
}

/// Who hands out addresses, by `ipam`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ipam {
    /// No `ipam`: our own pools.
    Absent,
    /// `"ipam": {}`: nobody.
    Nobody,
    /// An IPAM plugin of that type.
    Plugin(String),
}

/// A validated network configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetConf {
    /// `cniVersion`.
    pub(crate) version: Version,
    /// `name`.
    pub(crate) name: String,
    /// `bridge`.
    pub(crate) bridge: Option<IfName>,
    /// `vlan`, `vlan_mode`, `trunk`.
    pub(crate) vlan: PortVlan,
    /// `mtu` in bytes.
    pub(crate) mtu: Option<u32>,
    /// `runtimeConfig.mac`, else `args.cni.mac`: they outrank `CNI_ARGS`.
    pub(crate) runtime_mac: Option<Mac>,
    /// `mac`: outranked by all others.
    pub(crate) mac: Option<Mac>,
    /// `ofport_request`.
    pub(crate) ofport_request: Option<u16>,
    /// `external_ids`.
    pub(crate) external_ids: BTreeMap<String, String>,
    /// `isolated`.
    pub(crate) isolated: bool,
    /// `subnets`.
    pub(crate) subnets: Vec<OwnSubnet>,
    /// `routes`.
    pub(crate) routes: Vec<Route>,
    /// `runtimeConfig.dns`, else `dns`, in the form of a result; empty if neither says anything.
    pub(crate) dns: Map<String, Value>,
    /// `ipam`.
    pub(crate) ipam: Ipam,
    /// `runtimeConfig.ips` and `args.cni.ips`.
    pub(crate) requested: Vec<Requested>,
    /// `runtimeConfig.portMappings`.
    pub(crate) ports: Vec<PortMapping>,
    /// `args.cni.ovnPort`; `CNI_ARGS` outranks it, as in ovs-cni.
    pub(crate) ovn_port: Option<String>,
    /// The keys of ovs-cni.
    pub(crate) compat: compat::Keys,
}

impl NetConf {
    /// Validates every key.
    pub(crate) fn read(envelope: &Envelope, version: Version, name: &str) -> Result<Self, Error> {
        let mut fields = Fields::new("", &envelope.raw);
        fields.get("name");
        let compat = compat::keys(&mut fields)?;
        let ipam = ipam(&mut fields)?;
        let runtime = Runtime::read(&mut fields, &ipam)?;
        let args = CniArgs::read(&mut fields)?;
        let mut requested = runtime.ips;
        requested.extend(args.ips);
        let mut dns = runtime.dns;
        let own_dns = read_dns(&mut fields)?;
        if dns.is_empty() {
            dns = own_dns;
        }
        let config = Self {
            version,
            name: name.to_owned(),
            bridge: fields.parsed("bridge", A_NAME)?,
            vlan: crate::vlan::read(&mut fields)?,
            mtu: number_or_zero(&mut fields, "mtu", &MTU)?,
            runtime_mac: runtime.mac.or(args.mac),
            mac: fields.parsed("mac", A_MAC)?,
            ofport_request: number_or_zero(&mut fields, "ofport_request", &OFPORT)?,
            external_ids: external_ids(&mut fields)?,
            isolated: fields.flag("isolated")?.unwrap_or(false),
            subnets: subnet::read(&mut fields)?,
            routes: routes(&mut fields)?,
            dns,
            ipam,
            requested,
            ports: runtime.ports,
            ovn_port: args.ovn_port,
            compat,
        };
        // Multus writes pciBusID beside deviceID.
        fields.get("pciBusID");
        for key in INJECTED {
            fields.get(key);
        }
        if !config.subnets.is_empty() && config.ipam != Ipam::Absent {
            return Err(Error::Value {
                field: "subnets".to_owned(),
                value: "given".to_owned(),
                expected: "either subnets or ipam".to_owned(),
            });
        }
        fields.finish()?;
        Ok(config)
    }
}

/// A number where 0 means "not given", as in Go.
pub(crate) fn number_or_zero<T: TryFrom<u64>>(
    fields: &mut Fields<'_>,
    key: &'static str,
    range: &std::ops::RangeInclusive<u64>,
) -> Result<Option<T>, Error> {
    if fields.get(key).and_then(Value::as_u64) == Some(0) {
        return Ok(None);
    }
    Ok(fields.number(key, range)?.and_then(|number| T::try_from(number).ok()))
}

fn ipam(fields: &mut Fields<'_>) -> Result<Ipam, Error> {
    let Some(mut ipam) = fields.object("ipam")? else { return Ok(Ipam::Absent) };
    match ipam.text("type")? {
        Some(kind) => Ok(Ipam::Plugin(kind.to_owned())),
        None if ipam.entries().all(|(key, _)| key.eq_ignore_ascii_case("type")) => Ok(Ipam::Nobody),
        None => Err(Error::Missing {
            field: ipam.path("type"),
            expected: "an IPAM plugin such as host-local, or an empty ipam for no addresses",
        }),
    }
}

fn external_ids(fields: &mut Fields<'_>) -> Result<BTreeMap<String, String>, Error> {
    let Some(ids) = fields.object("external_ids")? else { return Ok(BTreeMap::new()) };
    let mut map = BTreeMap::new();
    for (key, value) in ids.entries() {
        if key.starts_with(RESERVED_PREFIX) || key == "owner" || key.is_empty() {
            let expected = format!(
                "a key other than \"owner\" and those that begin with \"{RESERVED_PREFIX}\""
            );
            return Err(ids.wrong(key, value, expected));
        }
        let text = value.as_str().ok_or_else(|| ids.wrong(key, value, "a string"))?;
        map.insert(key.clone(), text.to_owned());
    }
    Ok(map)
}

/// `routes` of a configuration.
fn routes(fields: &mut Fields<'_>) -> Result<Vec<Route>, Error> {
    let path = fields.path("routes");
    let mut routes = Vec::new();
    for (index, item) in fields.list("routes")?.iter().enumerate() {
        let mut entry = Fields::of(format!("{path}[{index}]"), item)?;
        routes.push(route(&mut entry)?);
        entry.finish()?;
    }
    Ok(routes)
}

/// One route, of a configuration or of a result.
pub(crate) fn route(entry: &mut Fields<'_>) -> Result<Route, Error> {
    let dst: IpNet = entry
        .parsed("dst", "a destination such as 0.0.0.0/0")?
        .ok_or_else(|| Error::Missing { field: entry.path("dst"), expected: A_SUBNET })?;
    let gw: Option<IpAddr> = entry.parsed("gw", AN_ADDRESS)?;
    fields::same_family(entry, "gw", gw, &dst)?;
    let small = |entry: &mut Fields<'_>, key| {
        Ok(entry.number(key, &(0..=u64::from(u32::MAX)))?.and_then(|n| u32::try_from(n).ok()))
    };
    Ok(Route {
        dst: dst.trunc(),
        gw,
        mtu: small(entry, "mtu")?.filter(|mtu| *mtu > 0),
        advmss: small(entry, "advmss")?.filter(|advmss| *advmss > 0),
        priority: small(entry, "priority")?,
        table: small(entry, "table")?,
        scope: entry.number("scope", &(0..=255))?.and_then(|n| u8::try_from(n).ok()),
    })
}

/// `dns` of a configuration or a result, with the keys of a result.
pub(crate) fn read_dns(fields: &mut Fields<'_>) -> Result<Map<String, Value>, Error> {
    let mut dns = Map::new();
    let Some(mut given) = fields.object("dns")? else { return Ok(dns) };
    let nameservers = given.texts("nameservers")?;
    insert_list(&mut dns, "nameservers", &nameservers);
    if let Some(domain) = given.text("domain")? {
        dns.insert("domain".to_owned(), domain.into());
    }
    insert_list(&mut dns, "search", &given.texts("search")?);
    insert_list(&mut dns, "options", &given.texts("options")?);
    Ok(dns)
}

fn insert_list(dns: &mut Map<String, Value>, key: &str, list: &[&str]) {
    if !list.is_empty() {
        dns.insert(key.to_owned(), json!(list));
    }
}

/// `runtimeConfig`: what the runtime fills in for capabilities.
struct Runtime {
    mac: Option<Mac>,
    ips: Vec<Requested>,
    ports: Vec<PortMapping>,
    dns: Map<String, Value>,
}

impl Runtime {
    fn read(fields: &mut Fields<'_>, ipam: &Ipam) -> Result<Self, Error> {
        let mut runtime = Self { mac: None, ips: Vec::new(), ports: Vec::new(), dns: Map::new() };
        let Some(mut given) = fields.object("runtimeConfig")? else { return Ok(runtime) };
        for (key, hint) in [
            ("bandwidth", "chain the bandwidth plugin behind ovs-agent, and declare it there"),
            ("deviceID", "leave deviceID out to get a veth; hardware offload is not offered"),
        ] {
            if let Some(value) = given.get(key)
                && says_something(value)
            {
                return Err(Error::Unsupported {
                    field: given.path(key),
                    value: shown(value),
                    hint,
                });
            }
        }
        if let Some(ranges) = given.get("ipRanges")
            && says_something(ranges)
            && !matches!(ipam, Ipam::Plugin(_))
        {
            return Err(Error::Unsupported {
                field: given.path("ipRanges"),
                value: shown(ranges),
                hint: "say the ranges in subnets, or delegate to an ipam plugin that takes them",
            });
        }
        runtime.mac = given.parsed("mac", A_MAC)?;
        runtime.ips = requested(&mut given)?;
        runtime.ports = ports::read(&mut given, &ports::CNI)?;
        if let Some(mut dns) = given.object("dns")? {
            insert_list(&mut runtime.dns, "nameservers", &dns.texts("servers")?);
            insert_list(&mut runtime.dns, "search", &dns.texts("searches")?);
            insert_list(&mut runtime.dns, "options", &dns.texts("options")?);
        }
        Ok(runtime)
    }
}

/// Whether a capability asks for anything: all its leaves empty or zero is nothing.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => list.iter().any(says_something),
        Value::Object(map) => map.values().any(says_something),
    }
}

/// `args.cni`: what a user or Multus hands over in the configuration itself.
#[derive(Default)]
struct CniArgs {
    mac: Option<Mac>,
    ips: Vec<Requested>,
    ovn_port: Option<String>,
}

impl CniArgs {
    fn read(fields: &mut Fields<'_>) -> Result<Self, Error> {
        let Some(mut args) = fields.object("args")? else { return Ok(Self::default()) };
        let Some(mut cni) = args.object("cni")? else { return Ok(Self::default()) };
        Ok(Self {
            mac: cni.parsed("mac", A_MAC)?,
            ips: requested(&mut cni)?,
            ovn_port: cni.text("ovnPort")?.map(str::to_owned),
        })
    }
}

fn requested(fields: &mut Fields<'_>) -> Result<Vec<Requested>, Error> {
    let texts = fields.texts("ips")?;
    texts
        .into_iter()
        .map(|text| {
            text.parse().map_err(|()| {
                let value = Value::from(text);
                fields.wrong("ips", &value, "IP addresses, with or without a prefix length")
            })
        })
        .collect::<Result<_, fields::Error>>()
}

#[cfg(test)]
mod tests;
