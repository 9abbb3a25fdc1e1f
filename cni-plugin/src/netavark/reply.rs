//! The answer to setup.

use std::net::IpAddr;

use serde_json::{Value, json};
use shared::attachment::Record;

/// One interface under the name that was asked for: on reload Podman sends back what it got here.
pub(super) fn render(record: &Record, dns: &[IpAddr]) -> Value {
    let subnets: Vec<Value> = record
        .addresses
        .iter()
        .map(|address| match address.gateway {
            Some(gateway) => json!({"ipnet": address.address, "gateway": gateway}),
            None => json!({"ipnet": address.address}),
        })
        .collect();
    let mut interface = json!({"mac_address": record.mac.to_string()});
    if !subnets.is_empty() {
        interface["subnets"] = Value::Array(subnets);
    }
    json!({
        "interfaces": {record.key.ifname.as_str(): interface},
        "dns_server_ips": dns,
        "dns_search_domains": [],
    })
}
