//! `subnets`: the address pools a network configuration brings along.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use crate::fields::{A_SUBNET, AN_ADDRESS, Error, Fields, shown};

/// What `gateway` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gateway {
    /// Nothing: the first address where the host is the gateway, else none.
    Unsaid,
    /// `"none"`: there is none, and no default route.
    Absent,
    /// This one.
    At(IpAddr),
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnSubnet {
    /// The subnet, host bits zero.
    pub(crate) net: IpNet,
    /// First and last address to give out.
    pub(crate) range: Option<(IpAddr, IpAddr)>,
    /// Its gateway.
    pub(crate) gateway: Gateway,
    /// Whether the host masquerades it; `None` leaves it to the kind of bridge.
    pub(crate) nat: Option<bool>,
}

/// Reads the list; an entry is an object or just the subnet as text.
pub(crate) fn read(fields: &mut Fields<'_>) -> Result<Vec<OwnSubnet>, Error> {
    let path = fields.path("subnets");
    let mut subnets: Vec<OwnSubnet> = Vec::new();
    for (index, item) in fields.list("subnets")?.iter().enumerate() {
        let at = format!("{path}[{index}]");
        let subnet = match item {
            Value::String(text) => {
                OwnSubnet { net: net(&at, text)?, range: None, gateway: Gateway::Unsaid, nat: None }
            }
            other => entry(Fields::of(at.clone(), other)?)?,
        };
        if let Some(other) = subnets.iter().find(|other| overlaps(&other.net, &subnet.net)) {
            return Err(Error::Value {
                field: at,
                value: shown(item),
                expected: format!("no overlap with {}", other.net),
            });
        }
        subnets.push(subnet);
    }
    Ok(subnets)
}

/// Whether two subnets share an address.
pub(crate) fn overlaps(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

fn entry(mut fields: Fields<'_>) -> Result<OwnSubnet, Error> {
    let Some(text) = fields.text("subnet")? else {
        return Err(Error::Missing { field: fields.path("subnet"), expected: A_SUBNET });
    };
    let net = net(&fields.path("subnet"), text)?;
    let range = range(&mut fields, &net)?;
    let gateway = match fields.text("gateway")? {
        None => Gateway::Unsaid,
        Some("none") => Gateway::Absent,
        Some(text) => Gateway::At(inside(&fields, "gateway", text, &net)?),
    };
    let nat = fields.flag("nat")?;
    fields.finish()?;
    Ok(OwnSubnet { net, range, gateway, nat })
}

/// A subnet as text, found at `at`.
pub(crate) fn net(at: &str, text: &str) -> Result<IpNet, Error> {
    let wrong = |expected: String| Error::Value {
        field: at.to_owned(),
        value: shown(&Value::from(text)),
        expected,
    };
    let net: IpNet = text.parse().map_err(|_| wrong(A_SUBNET.to_owned()))?;
    if net != net.trunc() {
        return Err(wrong(format!("host bits zero, as in {}", net.trunc())));
    }
    Ok(net)
}

/// `"10.1.0.10-10.1.0.20"` or `{"start": …, "end": …}`.
fn range(fields: &mut Fields<'_>, net: &IpNet) -> Result<Option<(IpAddr, IpAddr)>, Error> {
    let Some(value) = fields.get("range") else { return Ok(None) };
    let wrong = || {
        let example = "two addresses as in \"10.1.0.10-10.1.0.20\", the first not above the last";
        fields.wrong("range", value, example)
    };
    let (first, last) = match value {
        Value::String(text) => {
            let (first, last) = text.split_once('-').ok_or_else(wrong)?;
            let (first, last) = (first.trim(), last.trim());
            (inside(fields, "range", first, net)?, inside(fields, "range", last, net)?)
        }
        other => {
            let mut ends = Fields::of(fields.path("range"), other)?;
            let first = ends.text("start")?.ok_or_else(wrong)?;
            let last = ends.text("end")?.ok_or_else(wrong)?;
            let both = (inside(&ends, "start", first, net)?, inside(&ends, "end", last, net)?);
            ends.finish()?;
            both
        }
    };
    if first > last {
        return Err(wrong());
    }
    Ok(Some((first, last)))
}

fn inside(fields: &Fields<'_>, key: &str, text: &str, net: &IpNet) -> Result<IpAddr, Error> {
    let value = Value::from(text);
    let ip: IpAddr = text.parse().map_err(|_| fields.wrong(key, &value, AN_ADDRESS))?;
    if !net.contains(&ip) {
        return Err(fields.wrong(key, &value, format_args!("an address of {net}")));
    }
    Ok(ip)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn subnets(value: &Value) -> Result<Vec<OwnSubnet>, Error> {
        read(&mut Fields::of("", &json!({ "subnets": value })).unwrap())
    }

    #[test]
    fn an_entry_is_a_text_or_an_object() {
        let read = subnets(&json!([
            "10.1.0.0/24",
            {"subnet": "10.2.0.0/24", "range": "10.2.0.10 - 10.2.0.20", "gateway": "10.2.0.254"},
            {"subnet": "fd01::/64", "range": {"start": "fd01::10", "end": "fd01::ff"},
             "gateway": "none", "nat": false},
        ]))
        .unwrap();
        assert_eq!(read[0].net, "10.1.0.0/24".parse().unwrap());
        assert_eq!(read[0].gateway, Gateway::Unsaid);
        assert_eq!(
            read[1].range,
            Some(("10.2.0.10".parse().unwrap(), "10.2.0.20".parse().unwrap()))
        );
        assert_eq!(read[1].gateway, Gateway::At("10.2.0.254".parse().unwrap()));
        assert_eq!((read[2].gateway, read[2].nat), (Gateway::Absent, Some(false)));
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (bad, text) in [
            (
                json!(["10.1.0.1/24"]),
                "subnets[0] is \"10.1.0.1/24\", expected host bits zero, as in 10.1.0.0/24",
            ),
            (
                json!(["10.1.0.0"]),
                "subnets[0] is \"10.1.0.0\", expected a subnet such as 10.10.0.0/24",
            ),
            (json!([7]), "subnets[0] is 7, expected an object"),
            (json!([{}]), "subnets[0].subnet is missing, expected a subnet such as 10.10.0.0/24"),
            (
                json!(["10.0.0.0/8", "10.1.0.0/24"]),
                "subnets[1] is \"10.1.0.0/24\", expected no overlap with 10.0.0.0/8",
            ),
            (
                json!([{"subnet": "10.1.0.0/24", "gateway": "10.2.0.1"}]),
                "subnets[0].gateway is \"10.2.0.1\", expected an address of 10.1.0.0/24",
            ),
            (
                json!([{"subnet": "10.1.0.0/24", "range": "10.1.0.9"}]),
                "subnets[0].range is \"10.1.0.9\", expected two addresses as in \"10.1.0.10-10.1.0.20\", the first not above the last",
            ),
            (
                json!([{"subnet": "10.1.0.0/24", "range": "10.1.0.9-10.1.0.8"}]),
                "subnets[0].range is \"10.1.0.9-10.1.0.8\", expected two addresses as in \"10.1.0.10-10.1.0.20\", the first not above the last",
            ),
            (
                json!([{"subnet": "10.1.0.0/24", "range": "10.1.0.9-10.2.0.8"}]),
                "subnets[0].range is \"10.2.0.8\", expected an address of 10.1.0.0/24",
            ),
        ] {
            assert_eq!(subnets(&bad).unwrap_err().to_string(), text);
        }
        let error = subnets(&json!([{"subnet": "10.1.0.0/24", "gatway": "10.1.0.1"}])).unwrap_err();
        assert!(matches!(error, Error::Unknown { similar: Some("gateway"), .. }), "{error}");
    }
}
