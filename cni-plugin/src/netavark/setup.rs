//! setup: plugs a container in. What an earlier call left is found and put right by the engine,
//! and a failed one leaves nothing: Podman does not call teardown for it.

use std::path::Path;

use serde_json::{Map, Value};
use shared::attachment::record::Labels;
use shared::attachment::{Addressing, AttachRequest, Engine, Key, Runtime};
use shared::config::Config;
use shared::mac::Mac;
use shared::publish::{Holder, PortMapping};

use super::error::Error;
use super::network::{Addresses, PodmanNetwork, addresses_of, identifier, part, typed};
use super::reply;
use crate::addresses::{self, Requested};
use crate::compat::LINK_DEADLINE;
use crate::fields::{self, A_MAC, A_NAME, Fields};
use crate::network::Source;
use crate::{ports, request};

/// Who calls, as the record has it: netavark runs us, but it is Podman's list that counts.
const CALLER: &str = "podman";

/// One validated call: setup as Podman describes it.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) key: Key,
    labels: Labels,
    network: PodmanNetwork,
    ips: Vec<Requested>,
    mac: Option<Mac>,
    pub(super) ports: Vec<PortMapping>,
}

/// Plugs in; returns the answer.
pub(super) fn run(input: &Map<String, Value>, netns: &Path) -> Result<Value, Error> {
    let call = Call::read(input)?;
    let config = super::config()?;
    let request = call.request(&config, netns)?;
    let record = Engine::new(config).attach_published(&request, &call.ports, Holder::Runtime)?;
    Ok(reply::render(&record, &call.network.dns))
}

impl Call {
    pub(super) fn read(input: &Map<String, Value>) -> Result<Self, Error> {
        let mut network = PodmanNetwork::read(part(input, "network")?)?;
        let mut options = Fields::new("network_options", part(input, "network_options")?);
        let ips = addresses_of(&mut options, "static_ips")?;
        let mac = options.parsed("static_mac", A_MAC)?;
        // Those of one container: podman run --network NAME:key=value.
        let own = match options.object("options")? {
            Some(own) => typed(&own.entries().map(|(k, v)| (k.clone(), v.clone())).collect())?,
            None => Map::new(),
        };
        let mut own = Fields::new("network_options.options", &own);
        network.no_default_route =
            own.flag("no_default_route")?.unwrap_or(network.no_default_route);
        own.finish()?;
        let name = Fields::new("", input).text("container_name")?.map(str::to_owned);
        // Every network hears of all ports; an internal one is reached by nobody.
        let mut ports = ports::read(&mut Fields::new("", input), &ports::NETAVARK)?;
        if network.internal {
            ports.clear();
        }
        Ok(Self {
            key: key(input)?,
            labels: Labels { name, ..Labels::default() },
            network,
            ips: ips.into_iter().map(|ip| Requested { ip, length: None }).collect(),
            mac,
            ports,
        })
    }

    pub(super) fn request(&self, config: &Config, netns: &Path) -> Result<AttachRequest, Error> {
        let place = self.network.place(config)?;
        if self.network.addresses != Some(Addresses::None) && place.source == Source::Nobody {
            return Err(Error::NoPool { bridge: place.bridge });
        }
        let requested = addresses::settle(&self.ips, place.subnets())?;
        let gateways: Vec<_> = place.subnets().iter().filter_map(|subnet| subnet.gateway).collect();
        let routes = request::routes(&self.network.routes, &[], &gateways);
        let addressing = match place.source {
            Source::Pool(network) => {
                let default_route = !self.network.no_default_route;
                Addressing::Pool { network, requested, default_route }
            }
            Source::Nobody | Source::Plugin(_) => Addressing::None,
        };
        Ok(AttachRequest {
            key: self.key.clone(),
            runtime: Runtime::Podman,
            caller: CALLER.to_owned(),
            netns: netns.to_owned(),
            bridge: place.bridge,
            vlan: self.network.vlan.clone(),
            mtu: self.network.mtu,
            mac: self.mac,
            ofport_request: None,
            interface_type: String::new(),
            external_ids: Default::default(),
            interface_external_ids: Default::default(),
            isolated: self.network.isolated,
            addressing,
            routes,
            labels: self.labels.clone(),
            link_deadline: LINK_DEADLINE,
            ovsdb: None,
            front_end: Value::Null,
        })
    }
}

/// Which attachment: all that teardown needs.
pub(super) fn key(input: &Map<String, Value>) -> Result<Key, fields::Error> {
    let network = identifier(&mut Fields::new("network", part(input, "network")?), "name")?;
    let container = identifier(&mut Fields::new("", input), "container_id")?;
    let mut options = Fields::new("network_options", part(input, "network_options")?);
    let ifname = options.parsed("interface_name", A_NAME)?.ok_or_else(|| {
        fields::Error::Missing { field: options.path("interface_name"), expected: A_NAME }
    })?;
    Ok(Key { network, container, ifname })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn input() -> Map<String, Value> {
        super::super::tests::setup()
    }

    #[test]
    fn a_call_becomes_one_request() {
        let mut input = input();
        input["network_options"]["static_ips"] = json!(["10.5.0.9"]);
        input["network_options"]["static_mac"] = json!("02:11:22:33:44:55");
        let call = Call::read(&input).unwrap();
        let request = call.request(&Config::default(), Path::new("/run/netns/x")).unwrap();
        assert_eq!(request.key.to_string(), "blue/cf8e7427c57d/eth0");
        assert_eq!((request.runtime, request.caller.as_str()), (Runtime::Podman, "podman"));
        assert_eq!(request.bridge.as_str(), "ovsbr1");
        assert_eq!(request.vlan.to_string(), "30");
        assert_eq!(request.mac, Some("02:11:22:33:44:55".parse().unwrap()));
        assert_eq!(request.labels.name.as_deref(), Some("web"));
        let Addressing::Pool { network, requested, default_route } = request.addressing else {
            panic!("expected a pool");
        };
        assert_eq!(requested, ["10.5.0.9".parse::<std::net::IpAddr>().unwrap()]);
        assert!(default_route && network.gateway && network.nat);
    }

    #[test]
    fn ports_are_read_and_bad_ones_named() {
        let mut input = input();
        input["port_mappings"] = json!([
            {"container_port": 80, "host_ip": "", "host_port": 8080, "protocol": "tcp", "range": 1}
        ]);
        assert_eq!(Call::read(&input).unwrap().ports[0].to_string(), "8080:80/tcp");
        input["port_mappings"][0]["protocol"] = json!("sctp");
        let error = Call::read(&input).unwrap_err().to_string();
        assert_eq!(error, "port_mappings[0].protocol (\"sctp\") is not supported yet");
    }

    #[test]
    fn options_of_one_container_are_known_or_refused() {
        let mut input = input();
        input["network_options"]["options"] = json!({"no_default_route": "1"});
        assert!(Call::read(&input).unwrap().network.no_default_route);
        input["network_options"]["options"] = json!({"vlan": "5"});
        let error = Call::read(&input).unwrap_err().to_string();
        assert_eq!(error, "unknown key network_options.options.vlan (value 5)");
    }

    #[test]
    fn an_address_for_a_network_without_any_is_refused() {
        let mut input = input();
        input["network"]["subnets"] = Value::Null;
        input["network"]["options"] = json!({"addresses": "none", "bridge": "ovsbr1"});
        input["network_options"]["static_ips"] = json!(["10.7.7.7"]);
        let call = Call::read(&input).unwrap();
        let error = call.request(&Config::default(), Path::new("/x")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "address 10.7.7.7 was requested, but this network gives no addresses"
        );
    }

    #[test]
    fn a_pool_that_has_gone_is_said() {
        let mut input = input();
        input["network"]["subnets"] = Value::Null;
        input["network"]["options"] = json!({"addresses": "pool", "vlan": "30"});
        let call = Call::read(&input).unwrap();
        let error = call.request(&Config::default(), Path::new("/x")).unwrap_err();
        assert!(matches!(error, Error::NoPool { .. }), "{error}");
    }

    #[test]
    fn nulls_and_missing_keys_are_the_same() {
        let mut input = input();
        for key in ["ipam_options", "routes", "network_dns_servers", "network_interface"] {
            input["network"].as_object_mut().unwrap().remove(key);
        }
        for key in ["static_ips", "static_mac", "options"] {
            input["network_options"].as_object_mut().unwrap().remove(key);
        }
        input.remove("port_mappings");
        assert!(Call::read(&input).is_ok());
    }
}
