//! What dockerd sends, as far as it is used. Field names as libnetwork's remote API has them.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// `com.docker.network.generic`: the `-o` options of `docker network create`.
pub(crate) const GENERIC: &str = "com.docker.network.generic";
/// `--internal`.
pub(crate) const INTERNAL: &str = "com.docker.network.internal";
/// `-p`.
pub(crate) const PORT_MAP: &str = "com.docker.network.portmap";
/// In an option of `RequestAddress`, and in `Data` of a pool.
pub(crate) const GATEWAY: &str = "com.docker.network.gateway";
/// What Docker itself puts among the options begins so.
pub(crate) const DOCKERS_OWN: &str = "com.docker.network.";

/// Go writes an empty list or map as null.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

pub(crate) type Options = BTreeMap<String, Value>;

#[derive(Debug, Default, Deserialize)]
pub(crate) struct CreateNetwork {
    #[serde(rename = "NetworkID")]
    pub(crate) network: String,
    #[serde(rename = "Options", default, deserialize_with = "nullable")]
    pub(crate) options: Options,
    #[serde(rename = "IPv4Data", default, deserialize_with = "nullable")]
    pub(crate) ipv4: Vec<AddressData>,
    #[serde(rename = "IPv6Data", default, deserialize_with = "nullable")]
    pub(crate) ipv6: Vec<AddressData>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct AddressData {
    #[serde(deserialize_with = "nullable")]
    pub(crate) address_space: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) pool: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) gateway: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct OfNetwork {
    #[serde(rename = "NetworkID")]
    pub(crate) network: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct CreateEndpoint {
    #[serde(rename = "NetworkID")]
    pub(crate) network: String,
    #[serde(rename = "EndpointID")]
    pub(crate) endpoint: String,
    #[serde(rename = "Interface", default, deserialize_with = "nullable")]
    pub(crate) interface: Interface,
    #[serde(rename = "Options", default, deserialize_with = "nullable")]
    pub(crate) options: Options,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Interface {
    #[serde(rename = "Address", deserialize_with = "nullable")]
    pub(crate) address: String,
    #[serde(rename = "AddressIPv6", deserialize_with = "nullable")]
    pub(crate) address_ipv6: String,
    #[serde(rename = "MacAddress", deserialize_with = "nullable")]
    pub(crate) mac: String,
}

/// `Join`, `Leave`, `DeleteEndpoint`, `EndpointOperInfo` and both about external connectivity.
#[derive(Debug, Deserialize)]
pub(crate) struct OfEndpoint {
    #[serde(rename = "NetworkID")]
    pub(crate) network: String,
    #[serde(rename = "EndpointID")]
    pub(crate) endpoint: String,
    #[serde(rename = "SandboxKey", default, deserialize_with = "nullable")]
    pub(crate) sandbox: String,
    #[serde(rename = "Options", default, deserialize_with = "nullable")]
    pub(crate) options: Options,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct RequestPool {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) pool: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) sub_pool: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) options: Options,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) v6: bool,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ReleasePool {
    #[serde(rename = "PoolID")]
    pub(crate) pool: String,
}

/// `RequestAddress` and `ReleaseAddress`.
#[derive(Debug, Deserialize)]
pub(crate) struct OfAddress {
    #[serde(rename = "PoolID")]
    pub(crate) pool: String,
    #[serde(rename = "Address", default, deserialize_with = "nullable")]
    pub(crate) address: String,
    #[serde(rename = "Options", default, deserialize_with = "nullable")]
    pub(crate) options: Options,
}
