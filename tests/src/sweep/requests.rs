//! What Podman and dockerd send.

use serde_json::{Value, json};

use super::house::WEB;
use super::verb::Verb;

pub(super) const NETWORK: &str = "1111111111111111111111111111111111111111111111111111111111111111";
pub(super) const OTHER: &str = "2222222222222222222222222222222222222222222222222222222222222222";
const ENDPOINT: &str = "3333333333333333333333333333333333333333333333333333333333333333";

/// A Podman network in a VLAN of its own.
fn blue() -> Value {
    json!({
        "name": "blue", "id": "b014d0898020", "driver": "ovs-agent", "internal": false,
        "ipv6_enabled": false, "dns_enabled": false, "network_interface": "ovsbr1",
        "options": {"vlan": "30", "addresses": "pool", "gateway": "10.30.0.1"},
        "ipam_options": {"driver": "none"}, "subnets": [{"subnet": "10.30.0.0/24"}],
    })
}

/// The same as Podman sends it to be looked at.
pub(super) fn create() -> Value {
    let mut network = blue();
    network["options"] = json!({"vlan": "30"});
    network["ipam_options"] = json!({});
    network
}

/// What netavark sends for a container on it.
pub(super) fn setup() -> Value {
    json!({
        "container_id": WEB, "container_name": WEB, "port_mappings": null, "network": blue(),
        "network_options": {"interface_name": "eth0", "static_ips": null},
    })
}

pub(super) fn network(id: &str) -> Value {
    json!({
        "NetworkID": id,
        "Options": {"com.docker.network.enable_ipv6": false, "com.docker.network.generic": {}},
        "IPv4Data": [
            {"AddressSpace": "LocalDefault", "Pool": "10.30.0.0/24", "Gateway": "10.30.0.1/24"}
        ],
        "IPv6Data": [],
    })
}

pub(super) fn endpoint() -> Value {
    json!({
        "NetworkID": NETWORK,
        "EndpointID": ENDPOINT,
        "Interface": {"Address": "10.30.0.2/24", "AddressIPv6": "", "MacAddress": ""},
        "Options": {
            "com.docker.network.endpoint.exposedports": [], "com.docker.network.portmap": [],
        },
    })
}

pub(super) fn join() -> Value {
    json!({
        "NetworkID": NETWORK,
        "EndpointID": ENDPOINT,
        "SandboxKey": "/var/run/docker/netns/0123456789ab",
        "Options": {
            "com.docker.network.endpoint.exposedports": [], "com.docker.network.portmap": [],
        },
    })
}

pub(super) fn ids() -> Value {
    json!({"NetworkID": NETWORK, "EndpointID": ENDPOINT})
}

/// The body of a call to the Docker driver.
pub(super) fn body(verb: Verb, context: &Value) -> Value {
    match verb {
        Verb::CreateNetwork => network(NETWORK),
        Verb::DeleteNetwork => json!({"NetworkID": NETWORK}),
        Verb::CreateEndpoint => endpoint(),
        Verb::Join => join(),
        Verb::RequestAddress | Verb::ReleaseAddress => context.clone(),
        _ => ids(),
    }
}
