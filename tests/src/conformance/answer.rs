//! What the specification says of an answer's form.

use std::net::IpAddr;

use serde_json::Value;

use super::profile::Kind;

/// What is wrong with a result; empty if nothing.
pub(super) fn result(
    document: &Value,
    version: &str,
    kind: Kind,
    ifname: &str,
    netns: &str,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let Some(object) = document.as_object() else {
        return vec![format!("the result is {document}, expected an object")];
    };
    if document["cniVersion"] != version {
        wrong.push(format!("cniVersion is {}, expected {version:?}", document["cniVersion"]));
    }
    let interfaces = list(document, "interfaces", &mut wrong);
    match kind {
        Kind::Ipam if object.contains_key("interfaces") => {
            wrong.push("an IPAM plugin answers with interfaces".to_owned());
        }
        Kind::Ipam => {}
        Kind::Interface | Kind::Loopback => {
            if !interfaces.iter().any(|one| one["name"] == ifname && one["sandbox"] == netns) {
                wrong.push(format!("no interface {ifname} with the sandbox {netns}"));
            }
        }
    }
    for interface in interfaces {
        if interface["name"].as_str().is_none_or(str::is_empty) {
            wrong.push(format!("an interface without a name: {interface}"));
        }
        if let Some(mac) = interface.get("mac")
            && !mac.as_str().is_some_and(is_mac)
        {
            wrong.push(format!("mac is {mac}, expected a MAC address"));
        }
    }
    for ip in list(document, "ips", &mut wrong) {
        address(ip, version, kind, interfaces, &mut wrong);
    }
    for route in list(document, "routes", &mut wrong) {
        if !route["dst"].as_str().is_some_and(is_cidr) {
            wrong.push(format!("dst is {}, expected CIDR notation", route["dst"]));
        }
        if let Some(gw) = route.get("gw")
            && !gw.as_str().is_some_and(is_address)
        {
            wrong.push(format!("gw is {gw}, expected an IP address"));
        }
    }
    if let Some(dns) = object.get("dns")
        && !dns.is_object()
    {
        wrong.push(format!("dns is {dns}, expected an object"));
    }
    wrong
}

fn address(ip: &Value, version: &str, kind: Kind, interfaces: &[Value], wrong: &mut Vec<String>) {
    let text = ip["address"].as_str().unwrap_or_default();
    if !is_cidr(text) {
        wrong.push(format!("address is {}, expected CIDR notation", ip["address"]));
    }
    if let Some(gateway) = ip.get("gateway")
        && !gateway.as_str().is_some_and(is_address)
    {
        wrong.push(format!("gateway is {gateway}, expected an IP address"));
    }
    // Until 0.4.0 each address says its family; 1.0.0 dropped that.
    let family = if text.contains(':') { "6" } else { "4" };
    match (version, ip.get("version")) {
        ("0.3.0" | "0.3.1" | "0.4.0", Some(said)) if said == family => {}
        ("0.3.0" | "0.3.1" | "0.4.0", said) => {
            wrong.push(format!("version of an address is {said:?}, expected {family:?}"));
        }
        (_, Some(said)) => wrong.push(format!("an address with version {said} in {version}")),
        (_, None) => {}
    }
    match (kind, ip.get("interface")) {
        (Kind::Ipam, Some(index)) => {
            wrong.push(format!("an IPAM plugin answers with interface {index}"));
        }
        (Kind::Ipam | Kind::Loopback, _) => {}
        (Kind::Interface, index) => {
            let index = index.and_then(Value::as_u64).and_then(|index| usize::try_from(index).ok());
            if index.and_then(|index| interfaces.get(index)).is_none() {
                wrong.push(format!(
                    "interface of {text} is {:?}, expected an index",
                    ip.get("interface")
                ));
            }
        }
    }
}

/// What is wrong with an answer to VERSION; empty if nothing.
pub(super) fn versions(document: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    if !document["cniVersion"].is_string() {
        wrong.push("no cniVersion".to_owned());
    }
    let all = document["supportedVersions"].as_array();
    if all.is_none_or(|all| all.is_empty() || !all.iter().all(Value::is_string)) {
        wrong.push(format!("supportedVersions is {}", document["supportedVersions"]));
    }
    wrong
}

/// What is wrong with an error document; empty if nothing.
pub(super) fn error(
    document: &Value,
    codes: &[u64],
    names: &[String],
    keys: &[String],
) -> Vec<String> {
    let mut wrong = Vec::new();
    match document["code"].as_u64() {
        Some(code) if codes.is_empty() || codes.contains(&code) => {}
        _ => wrong.push(format!("code is {}, expected one of {codes:?}", document["code"])),
    }
    if document["msg"].as_str().is_none_or(str::is_empty) {
        wrong.push(format!("msg is {}, expected a message", document["msg"]));
    }
    let said = format!("{} {}", document["msg"], document["details"]);
    wrong.extend(
        names
            .iter()
            .filter(|name| !said.contains(*name))
            .map(|name| format!("the message does not name {name}: {said}")),
    );
    let absent = keys.iter().filter(|key| document.get(key).is_none());
    wrong.extend(absent.map(|key| format!("no {key} in the error: {document}")));
    wrong
}

fn list<'a>(document: &'a Value, key: &str, wrong: &mut Vec<String>) -> &'a [Value] {
    match document.get(key) {
        None | Some(Value::Null) => &[],
        Some(Value::Array(list)) => list,
        Some(other) => {
            wrong.push(format!("{key} is {other}, expected a list"));
            &[]
        }
    }
}

fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

fn is_cidr(text: &str) -> bool {
    text.split_once('/').is_some_and(|(ip, length)| {
        ip.parse::<IpAddr>().is_ok_and(|ip| {
            let most = if ip.is_ipv4() { 32 } else { 128 };
            length.parse::<u8>().is_ok_and(|length| length <= most)
        })
    })
}

fn is_mac(text: &str) -> bool {
    let mut bytes = text.split(':');
    text.split(':').count() == 6
        && bytes.all(|byte| byte.len() == 2 && u8::from_str_radix(byte, 16).is_ok())
}
