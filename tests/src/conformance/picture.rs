//! What a host and a container look like, as far as a plugin may change it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use crate::container::Container;
use crate::host::Host;

/// Lines of what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Picture(BTreeSet<String>);

impl Picture {
    /// The host: links, addresses, routes, packet filters, claims. A bridge's carrier and its
    /// derived MAC move by themselves, so of links only the names.
    pub(super) fn of_host(host: &Host, claims: &[String]) -> Self {
        let mut script = "ip -o link | cut -d: -f2 | cut -d@ -f1
            ip -o -4 address | awk '{print $2, $3, $4}'
            ip -4 route show table all | sed 's/ linkdown//; s/ dead//'
            nft list ruleset 2>/dev/null | sed 's/counter packets [0-9]* bytes [0-9]*/counter/'
            "
        .to_owned();
        for dir in claims {
            script.push_str(&format!(
                "find {dir} -type f ! -name '.*' ! -name 'l*' 2>/dev/null || true\n"
            ));
        }
        Self::lines(&host.sh(&script))
    }

    /// A container: links, addresses, routes. The link-local address comes with time.
    pub(super) fn of_container(container: &Container) -> Self {
        Self::lines(&container.exec(
            "ip -o link | sed 's/@[^:]*:/:/; s/ state [A-Z]*//'
             ip -o address | grep -v ' fe80:' | awk '{print $2, $3, $4}'
             ip -4 route show table all",
        ))
    }

    fn lines(text: &str) -> Self {
        Self(
            text.lines()
                .map(|line| line.trim().to_owned())
                .filter(|line| !line.is_empty())
                .collect(),
        )
    }

    /// What came and what went since `before`; empty if nothing.
    pub(super) fn since(&self, before: &Self) -> String {
        let came = self.0.difference(&before.0).map(|line| format!("+ {line}"));
        let went = before.0.difference(&self.0).map(|line| format!("- {line}"));
        came.chain(went).collect::<Vec<_>>().join("; ")
    }
}

/// Addresses in a result.
pub(super) fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().into_iter().flatten();
    let texts = ips.filter_map(|ip| ip["address"].as_str()?.split('/').next());
    texts.filter_map(|text| text.parse().ok()).collect()
}

/// What of a result is not there in the container; empty if all is.
pub(super) fn missing(container: &Container, ifname: &str, result: &Value) -> Vec<String> {
    let mut missing = Vec::new();
    let shown = container
        .try_exec(&format!("ip -o link show dev {ifname}; ip -o address show dev {ifname}"));
    if !shown.ok() {
        return vec![format!("no interface {ifname}")];
    }
    let text = shown.stdout.to_lowercase();
    if !text.contains(",up") && !text.contains("<up") {
        missing.push(format!("{ifname} is not up"));
    }
    let interfaces = result["interfaces"].as_array().into_iter().flatten();
    for interface in interfaces.filter(|one| one["name"] == ifname) {
        let mac = interface["mac"].as_str().unwrap_or_default().to_lowercase();
        if !text.contains(&mac) {
            missing.push(format!("the MAC address {mac}"));
        }
    }
    for ip in result["ips"].as_array().into_iter().flatten() {
        let address = ip["address"].as_str().unwrap_or_default();
        if !text.contains(&format!(" {address} ")) {
            missing.push(format!("the address {address}"));
        }
    }
    for route in result["routes"].as_array().into_iter().flatten() {
        let dst = route["dst"].as_str().unwrap_or_default();
        let family = if dst.contains(':') { "-6" } else { "-4" };
        if container.ip(&format!("{family} route show {dst}")).trim().is_empty() {
            missing.push(format!("the route {dst}"));
        }
    }
    missing
}
