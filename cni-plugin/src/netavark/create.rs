//! create: looks at a new network and writes down what was settled. Nothing is made: Podman never
//! tells when a network goes.

use serde_json::{Map, Value, json};
use shared::attachment;
use shared::config::Config;
use shared::network::gateway::Networks;

use super::error::Error;
use super::network::{Addresses, PodmanNetwork, options};
use crate::network::{self, Place, Source};

/// Returns the network, edited.
pub(super) fn run(raw: &Map<String, Value>, config: &Config) -> Result<Value, Error> {
    let asked = PodmanNetwork::read(raw)?;
    let choice = choice(&asked)?;
    let settled = PodmanNetwork { addresses: Some(choice), ..asked.clone() };
    let place = settled.place(config)?;
    let addresses = refuse(&asked, choice, &place, config)?;
    edit(raw, addresses, &place, &asked)
}

/// Who hands out the addresses, as it was asked for.
fn choice(asked: &PodmanNetwork) -> Result<Addresses, Error> {
    let by_driver = match asked.driver.as_deref() {
        None => None,
        Some("none") => Some(Addresses::None),
        Some("host-local") => Some(Addresses::Podman),
        Some(driver) => return Err(Error::IpamDriver { driver: driver.to_owned() }),
    };
    let choice = by_driver.or(asked.addresses).unwrap_or(Addresses::Pool);
    if let Some(option) = asked.addresses
        && option != choice
    {
        return Err(Error::Field(crate::fields::Error::Value {
            field: "options.addresses".to_owned(),
            value: option.as_str().to_owned(),
            expected: format!("{}, as in --ipam-driver, or only one of them", choice.as_str()),
        }));
    }
    match (choice, asked.subnets.first()) {
        (Addresses::None, Some(subnet)) => Err(Error::Unused { subnet: subnet.net }),
        (Addresses::Podman, None) => Err(Error::NoSubnet),
        _ => Ok(choice),
    }
}

/// Refuses now what could never be set up, and two who would hand out the same addresses.
fn refuse(
    asked: &PodmanNetwork,
    choice: Addresses,
    place: &Place,
    config: &Config,
) -> Result<Addresses, Error> {
    let Source::Pool(network) = &place.source else {
        return match asked.addresses {
            Some(Addresses::Pool) => Err(Error::NoPool { bridge: place.bridge.clone() }),
            _ => Ok(Addresses::None),
        };
    };
    if asked.internal && asked.subnets.is_empty() {
        return Err(Error::InternalPool { bridge: place.bridge.clone() });
    }
    let engine = |error: shared::network::Error| attachment::Error::from(error);
    let networks = Networks::new(config);
    if choice == Addresses::Podman {
        let spans: Vec<_> = network.subnets.iter().map(network::pool_span).collect();
        network::refuse_overlap(&spans, &networks.all().map_err(engine)?)?;
    }
    networks.admit(network).map_err(engine)?;
    Ok(choice)
}

fn edit(
    raw: &Map<String, Value>,
    addresses: Addresses,
    place: &Place,
    asked: &PodmanNetwork,
) -> Result<Value, Error> {
    let mut network = raw.clone();
    let mut options = options(raw)?;
    options.insert("addresses".to_owned(), addresses.as_str().into());
    if let Some(Value::Array(subnets)) = network.get_mut("subnets")
        && !subnets.is_empty()
        && let Source::Pool(settled) = &place.source
    {
        let mut gateways = Vec::new();
        for (subnet, settled) in subnets.iter_mut().zip(&settled.subnets) {
            if let (Some(subnet), Some(gateway)) = (subnet.as_object_mut(), settled.gateway) {
                subnet.insert("gateway".to_owned(), gateway.to_string().into());
                gateways.push(gateway.to_string());
            }
        }
        let text = if gateways.is_empty() { "none".to_owned() } else { gateways.join(",") };
        options.insert("gateway".to_owned(), text.into());
    }
    if !asked.dns.is_empty() {
        // Podman refuses `--dns` beside a `dns_enabled` that is off; setup answers with them.
        network.remove("network_dns_servers");
        let servers: Vec<_> = asked.dns.iter().map(ToString::to_string).collect();
        options.insert("dns".to_owned(), servers.join(",").into());
    }
    network.insert("options".to_owned(), Value::Object(options));
    network.insert("network_interface".to_owned(), place.bridge.as_str().into());
    network.insert("ipam_options".to_owned(), json!({"driver": addresses.driver()}));
    // aardvark-dns does not serve the networks of plugins.
    network.insert("dns_enabled".to_owned(), false.into());
    Ok(Value::Object(network))
}
