//! The NetworkDriver: what each call of dockerd does. Every one can be repeated, and removing what
//! is not there succeeds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::attachment::record::Labels;
use shared::attachment::{
    Address, Addressing, AttachRequest, Engine, Key, Readiness, Record, Runtime, peer_name,
};
use shared::error::sentence;
use shared::mac::Mac;
use shared::name::IfName;
use shared::network::Network;
use shared::network::gateway::Networks;
use shared::state;
use shared::vlan::{PortVlan, VlanId};

use crate::api::Named;
use crate::error::Error;
use crate::ipam::Ipam;
use crate::message::{CreateEndpoint, CreateNetwork, OfEndpoint, OfNetwork};
use crate::network::{DockerNetwork, Surroundings, plan};
use crate::options::{endpoint_mtu, ports};
use crate::store::{Lasts, Store};

/// The program behind every attachment of Docker's.
const CALLER: &str = "dockerd";

/// What Docker names the interface in the container after; it counts them itself.
const PREFIX: &str = "eth";

/// How long ovs-vswitchd may take to open a port.
const LINK_DEADLINE: Duration = Duration::from_secs(8);

/// How long an endpoint may wait for its Join, in seconds: dockerd sends it at once.
const UNJOINED: u64 = 3600;

/// How long dockerd may take from an endpoint's Leave to its ReleaseAddress, which names nothing but
/// the address: given back by us and given to another meanwhile, it would be taken from that one.
pub(crate) const LEAVING: Duration = Duration::from_secs(6);

/// How long dockerd must not have listed a network that is then removed: longer than a CreateNetwork
/// may take, so that more than one answer of it says so.
const ABSENT: Duration = Duration::from_secs(45);

/// An endpoint, from `CreateEndpoint` to `DeleteEndpoint`. dockerd sends neither again after its
/// own restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Endpoint {
    id: String,
    network: String,
    addresses: Vec<IpNet>,
    /// The leases of those that are of our pools, by their owners.
    #[serde(default)]
    leases: Vec<String>,
    mac: Mac,
    mtu: Option<u32>,
    boot_id: String,
    /// Seconds since that boot.
    since: u64,
    joined: bool,
}

/// The driver of one host.
#[derive(Debug)]
pub(crate) struct Driver {
    engine: Engine,
    networks: Store<DockerNetwork>,
    endpoints: Store<Endpoint>,
    ipam: Ipam,
    /// dockerd has started since: its rules may lack ours.
    fresh_dockerd: AtomicBool,
    /// Networks that dockerd no longer lists, since when.
    absent: Mutex<BTreeMap<String, Instant>>,
    /// Endpoints that no container can be using any more, since when.
    leaving: Mutex<BTreeMap<String, Instant>>,
}

impl Driver {
    /// The driver with what it kept in `dir`.
    pub(crate) fn open(engine: Engine, dir: &Path) -> Result<Self, Error> {
        let this = Self {
            engine,
            networks: Store::open(dir.join("networks"), Lasts::ForEverTwice)?,
            endpoints: Store::open(dir.join("endpoints"), Lasts::ThisBoot)?,
            ipam: Ipam::new(Store::open(dir.join("pools"), Lasts::ForEver)?),
            fresh_dockerd: AtomicBool::new(false),
            absent: Mutex::default(),
            leaving: Mutex::default(),
        };
        // We were killed while making it: dockerd repeats that call without its body, and fails.
        for mut network in this.networks.all()?.into_iter().filter(|network| network.unfinished) {
            network.removed = true;
            this.networks.put(&network.id, &network)?;
        }
        Ok(this)
    }

    /// Answers one call. `None` if there is no such method.
    pub(crate) fn call(&self, method: &str, body: &[u8]) -> Option<Result<Value, Error>> {
        let (engine, ipam) = (&self.engine, &self.ipam);
        Some(match method {
            "Plugin.Activate" => self.activate(),
            "NetworkDriver.GetCapabilities" => {
                Ok(json!({"Scope": "local", "ConnectivityScope": "local"}))
            }
            "NetworkDriver.CreateNetwork" => read(body).and_then(|r| self.create_network(&r)),
            "NetworkDriver.DeleteNetwork" => read(body).and_then(|r| self.delete_network(&r)),
            "NetworkDriver.CreateEndpoint" => read(body).and_then(|r| self.create_endpoint(&r)),
            "NetworkDriver.EndpointOperInfo" => {
                read(body).map(|_: OfEndpoint| json!({"Value": {}}))
            }
            "NetworkDriver.Join" => read(body).and_then(|r| self.join(&r)),
            "NetworkDriver.Leave" => read(body).and_then(|r| self.leave(&r)),
            "NetworkDriver.DeleteEndpoint" => read(body).and_then(|r| self.delete_endpoint(&r)),
            "NetworkDriver.ProgramExternalConnectivity" => {
                read(body).and_then(|r| self.open_outside(&r))
            }
            "NetworkDriver.RevokeExternalConnectivity" => {
                read(body).map(|r| self.close_outside(&r))
            }
            // Of swarm, which a driver of local scope is not part of.
            "NetworkDriver.DiscoverNew" | "NetworkDriver.DiscoverDelete" => Ok(json!({})),
            "IpamDriver.GetCapabilities" => {
                Ok(json!({"RequiresMACAddress": false, "RequiresRequestReplay": true}))
            }
            "IpamDriver.GetDefaultAddressSpaces" => Ok(Ipam::address_spaces()),
            "IpamDriver.RequestPool" => read(body).and_then(|r| ipam.request_pool(engine, &r)),
            "IpamDriver.ReleasePool" => read(body).and_then(|r| ipam.release_pool(engine, &r)),
            "IpamDriver.RequestAddress" => {
                read(body).and_then(|r| ipam.request_address(engine, &r))
            }
            "IpamDriver.ReleaseAddress" => {
                read(body).and_then(|r| ipam.release_address(engine, &r))
            }
            _ => return None,
        })
    }

    /// What undoes a call that succeeded after dockerd was told it had failed: dockerd will not.
    pub(crate) fn undoing(method: &str) -> Option<&'static str> {
        match method {
            "NetworkDriver.CreateNetwork" => Some("NetworkDriver.DeleteNetwork"),
            "NetworkDriver.CreateEndpoint" => Some("NetworkDriver.DeleteEndpoint"),
            _ => None,
        }
    }

    fn activate(&self) -> Result<Value, Error> {
        self.ipam.expect_replay()?;
        self.fresh_dockerd.store(true, Ordering::Relaxed);
        Ok(json!({"Implements": ["NetworkDriver", "IpamDriver"]}))
    }

    fn create_network(&self, request: &CreateNetwork) -> Result<Value, Error> {
        match self.networks.get(&request.network)? {
            Some(network) if !network.removed && !network.unfinished => return Ok(json!({})),
            // An earlier try that failed, and could not take everything back.
            Some(network) => self.remove_network(network)?,
            None => {}
        }
        // What was removed and is not all gone yet would be in the way.
        if let Err(error) = self.sweep_networks() {
            tracing::warn!(error = %sentence(&error), "a removed network is not all gone");
        }
        let mut network = self.plan(request)?;
        self.engine
            .ready(&Readiness { bridge: network.place.bridge.clone(), subnets: Vec::new() })?;
        // A file that could not be forced to the disk is there all the same.
        let written = self.networks.put(&network.id, &network);
        let made = written.and_then(|()| self.ensure(&network)).and_then(|()| {
            network.unfinished = false;
            self.networks.put(&network.id, &network)
        });
        if let Err(error) = made {
            if let Err(left) = self.remove_network(network) {
                tracing::error!(error = %sentence(&left), "a refused network is not all gone");
            }
            return Err(error);
        }
        self.pass_forward();
        Ok(json!({}))
    }

    fn plan(&self, request: &CreateNetwork) -> Result<DockerNetwork, Error> {
        let networks = Networks::new(self.engine.config());
        let (made, others) = (networks.made()?, self.networks.all()?);
        let around = Surroundings {
            config: self.engine.config(),
            made: &made,
            others: &others,
            pools: &self.ipam.pools()?,
        };
        plan(request, &around)
    }

    /// A CreateNetwork that makes nothing on the host.
    #[cfg(any(test, feature = "laws"))]
    pub(crate) fn planned(&self, body: &[u8]) -> Result<Value, Error> {
        let request: CreateNetwork = read(body)?;
        let network = DockerNetwork { unfinished: false, ..self.plan(&request)? };
        self.networks.put(&network.id, &network)?;
        Ok(json!({}))
    }

    /// Makes what a network needs on the host; quick where it is there.
    fn ensure(&self, network: &DockerNetwork) -> Result<(), Error> {
        if network.place.subnets.is_empty() {
            return Ok(());
        }
        Ok(self.engine.ensure_network(&network.place, network.mtu)?)
    }

    /// Whether the host leads any network of Docker's on.
    pub(crate) fn forwards(&self) -> bool {
        let all = self.networks.all().unwrap_or_default();
        all.iter().any(|network| network.place.gateway && !network.removed)
    }

    /// Where the engine keeps its state.
    pub(crate) fn state(&self) -> state::State {
        self.engine.state()
    }

    /// Docker drops what it does not know when forwarding: our one rule in its chain.
    pub(crate) fn pass_forward(&self) {
        self.fresh_dockerd.store(false, Ordering::Relaxed);
        if let Err(error) = self.engine.let_through() {
            tracing::error!(error = %sentence(&error), "Docker's rules may drop our traffic");
        }
    }

    fn delete_network(&self, request: &OfNetwork) -> Result<Value, Error> {
        for endpoint in self.endpoints.all()? {
            if endpoint.network == request.network {
                self.remove_endpoint(&endpoint.network, &endpoint.id)?;
            }
        }
        if let Some(network) = self.networks.get(&request.network)? {
            self.remove_network(network)?;
        }
        Ok(json!({}))
    }

    fn remove_network(&self, mut network: DockerNetwork) -> Result<(), Error> {
        network.removed = true;
        self.networks.put(&network.id, &network)?;
        let others = self.networks.all()?;
        let shared = |net: IpNet| {
            others.iter().filter(|other| other.id != network.id && !other.removed).any(|other| {
                other.place.bridge == network.place.bridge
                    && other.place.vlan == network.place.vlan
                    && other.place.subnets.iter().any(|subnet| subnet.net == net)
            })
        };
        let mut place: Network = network.place.clone();
        place.subnets.retain(|subnet| !shared(subnet.net));
        if place.subnets.is_empty() || self.engine.forget_network(&place)? {
            self.networks.remove(&network.id)?;
        }
        Ok(())
    }

    fn network(&self, id: &str) -> Result<DockerNetwork, Error> {
        let found = self.networks.get(id)?.filter(|network| !network.removed);
        found.ok_or_else(|| Error::Unknown { what: "network", id: id.to_owned() })
    }

    fn create_endpoint(&self, request: &CreateEndpoint) -> Result<Value, Error> {
        let network = self.network(&request.network)?;
        // What cannot be published is said before anything is done; the rest follows the Join.
        ports(&request.options)?;
        let mtu = endpoint_mtu(&request.options)?.or(network.mtu);
        let mut addresses = Vec::new();
        for text in [&request.interface.address, &request.interface.address_ipv6] {
            if !text.is_empty() {
                let address: IpNet = text.parse().map_err(|_| {
                    Error::field("Address", text, "is no address with a length", "name another")
                })?;
                addresses.push(address);
            }
        }
        let given = &request.interface.mac;
        let mac = if given.is_empty() {
            // An address handed on keeps its MAC, so no neighbour cache goes stale.
            let first = addresses.first();
            first.map_or_else(
                || Mac::from_hash(request.endpoint.as_bytes()),
                |address| Mac::from_ip(address.addr()),
            )
        } else {
            given.parse().map_err(|_| {
                let problem = "is no unicast MAC address";
                Error::field("--mac-address", given, problem, "write it as 02:00:5e:10:00:01")
            })?
        };
        let endpoint = Endpoint {
            id: request.endpoint.clone(),
            network: request.network.clone(),
            leases: self.ipam.owners(&addresses)?,
            addresses,
            mac,
            mtu,
            boot_id: state::boot_id()?,
            since: state::uptime(),
            joined: false,
        };
        self.endpoints.put(&endpoint.id, &endpoint)?;
        // Only what Docker left open may be in the answer.
        let interface =
            if given.is_empty() { json!({"MacAddress": mac.to_string()}) } else { json!({}) };
        Ok(json!({"Interface": interface}))
    }

    fn join(&self, request: &OfEndpoint) -> Result<Value, Error> {
        let network = self.network(&request.network)?;
        let mut endpoint = self
            .endpoints
            .get(&request.endpoint)?
            .ok_or_else(|| Error::Unknown { what: "endpoint", id: request.endpoint.clone() })?;
        self.ensure(&network)?;
        let key = key(&request.network, &request.endpoint);
        self.engine.plug(&attach_request(&network, &endpoint, &key, &request.sandbox))?;
        endpoint.joined = true;
        if let Err(error) = self.endpoints.put(&endpoint.id, &endpoint) {
            self.engine.detach(&key)?;
            return Err(error);
        }
        let gateway = |v4: bool| {
            let mut addresses = endpoint.addresses.iter().map(IpNet::addr);
            addresses.find(|ip| ip.is_ipv4() == v4).and_then(|ip| network.gateway_of(ip))
        };
        let mut reply = json!({
            "InterfaceName": {"SrcName": peer_name(&key).to_string(), "DstPrefix": PREFIX},
        });
        for (name, gateway) in [("Gateway", gateway(true)), ("GatewayIPv6", gateway(false))] {
            if let Some(gateway) = gateway {
                reply[name] = gateway.to_string().into();
            }
        }
        // Without it, Docker adds a second interface with a way out of its own.
        if gateway(true).is_none() && !network.internal {
            reply["DisableGatewayService"] = true.into();
        }
        Ok(reply)
    }

    fn leave(&self, request: &OfEndpoint) -> Result<Value, Error> {
        self.engine.detach(&key(&request.network, &request.endpoint))?;
        Ok(json!({}))
    }

    fn delete_endpoint(&self, request: &OfEndpoint) -> Result<Value, Error> {
        self.remove_endpoint(&request.network, &request.endpoint)?;
        Ok(json!({}))
    }

    fn remove_endpoint(&self, network: &str, endpoint: &str) -> Result<(), Error> {
        self.engine.detach(&key(network, endpoint))?;
        self.endpoints.remove(endpoint)?;
        Ok(())
    }

    /// Comes after the Join of the endpoint that is the container's way out. An error ends the start
    /// of the container.
    fn open_outside(&self, request: &OfEndpoint) -> Result<Value, Error> {
        self.engine
            .publish(&key(&request.network, &request.endpoint), &ports(&request.options)?)?;
        if self.fresh_dockerd.load(Ordering::Relaxed) {
            self.pass_forward();
        }
        Ok(json!({}))
    }

    /// A Leave does the same: Docker 29 forgets the Revoke after a live-restore.
    fn close_outside(&self, request: &OfEndpoint) -> Value {
        self.engine.withdraw(&key(&request.network, &request.endpoint));
        json!({})
    }

    /// Puts back the leases that a reboot took; returns the networks, for
    /// [`Self::restore_network`].
    pub(crate) fn restore(&self) -> Result<Vec<String>, Error> {
        self.engine.state().prepare()?;
        self.ipam.restore(&self.engine)?;
        Ok(self.networks.all()?.into_iter().map(|network| network.id).collect())
    }

    /// Puts back the gateway and the NAT of a network. No CreateNetwork or DeleteNetwork may come
    /// between.
    pub(crate) fn restore_network(&self, id: &str) -> Result<(), Error> {
        match self.networks.get(id)?.filter(|network| !network.removed) {
            Some(network) => self.ensure(&network),
            None => Ok(()),
        }
    }

    /// Whether there is anything that dockerd could tell more about.
    pub(crate) fn used(&self) -> Result<bool, Error> {
        Ok(!self.networks.all()?.is_empty() || !self.records()?.is_empty())
    }

    /// Removes networks that dockerd has forgotten: it does not repeat a DeleteNetwork that found
    /// nobody, nor undo a CreateNetwork whose answer was lost. `listed` are all that it has.
    ///
    /// That this is the dockerd they were made for is only certain if it has listed them before, or
    /// lists another of ours now; that it has not just begun to make them, after a while.
    pub(crate) fn forget_networks_but(&self, listed: &BTreeSet<String>) -> Result<(), Error> {
        let all = self.networks.all()?;
        let ours = all.iter().any(|network| listed.contains(&network.id));
        let endpoints = self.endpoints.all()?;
        for mut network in all {
            let mut absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
            if listed.contains(&network.id) || network.removed || network.unfinished {
                absent.remove(&network.id);
                if !network.seen && !network.removed && !network.unfinished {
                    network.seen = true;
                    self.networks.put(&network.id, &network)?;
                }
                continue;
            }
            let since = *absent.entry(network.id.clone()).or_insert_with(Instant::now);
            drop(absent);
            let used = endpoints.iter().any(|endpoint| endpoint.network == network.id);
            if since.elapsed() > ABSENT && (network.seen || ours) && !used {
                tracing::info!(network = %network.short(), "removed: Docker has it no more");
                self.remove_network(network)?;
            }
        }
        Ok(())
    }

    /// Notes what people call the containers that are plugged in. True if each has a name now.
    pub(crate) fn name(&self, all: &[Named]) -> Result<bool, Error> {
        for named in all {
            let labels = Labels {
                name: Some(named.container.clone()),
                network: Some(named.network_name.clone()),
                ..Labels::default()
            };
            self.engine.label(&key(&named.network, &named.endpoint), &labels)?;
        }
        Ok(self.records()?.iter().all(|record| record.labels.name.is_some()))
    }

    fn records(&self) -> Result<Vec<Record>, Error> {
        let (mut records, _unreadable) = self.engine.records()?;
        records.retain(|record| record.runtime == Runtime::Docker);
        Ok(records)
    }

    /// Clears away what dockerd has forgotten: it never sends a Leave for a container that died
    /// with it, nor anything again that failed. True if there is something to look at again after
    /// [`LEAVING`].
    pub(crate) fn sweep(&self) -> Result<bool, Error> {
        if self.fresh_dockerd.load(Ordering::Relaxed) {
            self.pass_forward();
        }
        let (lost, failed) = self.engine.unplug_lost(Runtime::Docker)?;
        for error in failed {
            tracing::warn!(error = %sentence(&error), "a lost endpoint cannot be unplugged yet");
        }
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.endpoints.all()?;
        leaving.retain(|id, _| all.iter().any(|endpoint| endpoint.id == *id));
        for endpoint in &all {
            if let Err(error) = self.bury(endpoint, &lost, &mut leaving) {
                tracing::warn!(error = %sentence(&error), "a dead endpoint is not all gone");
            }
        }
        let again = !leaving.is_empty();
        drop(leaving);
        let endpoints = self.endpoints.all()?;
        let in_use: Vec<_> =
            endpoints.iter().flat_map(|endpoint| &endpoint.addresses).copied().collect();
        self.ipam.collect(&self.engine, &in_use)?;
        Ok(again)
    }

    /// Removes an endpoint that no container can be using any more, once it has been so for
    /// [`LEAVING`].
    fn bury(
        &self,
        endpoint: &Endpoint,
        lost: &[Key],
        leaving: &mut BTreeMap<String, Instant>,
    ) -> Result<(), Error> {
        let key = key(&endpoint.network, &endpoint.id);
        let of_old_boot = endpoint.boot_id != state::boot_id()?;
        let dead = of_old_boot
            || (endpoint.joined && (lost.contains(&key) || self.engine.record(&key)?.is_none()))
            || (!endpoint.joined && state::uptime().saturating_sub(endpoint.since) > UNJOINED);
        if !dead {
            leaving.remove(&endpoint.id);
            return Ok(());
        }
        let since = leaving.entry(endpoint.id.clone()).or_insert_with(Instant::now);
        if !of_old_boot && since.elapsed() < LEAVING {
            return Ok(());
        }
        self.engine.detach(&key)?;
        // Who forgot the endpoint forgot its addresses.
        let forgotten = || self.endpoints.remove(&endpoint.id);
        self.ipam.reclaim(&self.engine, &endpoint.leases, forgotten)?;
        leaving.remove(&endpoint.id);
        Ok(())
    }

    /// Takes away what is left of removed networks. No CreateNetwork or DeleteNetwork may come
    /// between.
    pub(crate) fn sweep_networks(&self) -> Result<(), Error> {
        for network in self.networks.all()?.into_iter().filter(|network| network.removed) {
            self.remove_network(network)?;
        }
        Ok(())
    }
}

/// Which attachment an endpoint is. Docker numbers the interface itself, later.
fn key(network: &str, endpoint: &str) -> Key {
    let short = network.chars().take(12).collect();
    Key { network: short, container: endpoint.to_owned(), ifname: IfName::known("eth0") }
}

fn attach_request(
    network: &DockerNetwork,
    endpoint: &Endpoint,
    key: &Key,
    sandbox: &str,
) -> AttachRequest {
    let place = &network.place;
    let gateway = |ip: IpAddr| network.gateway_of(ip);
    let addresses = endpoint
        .addresses
        .iter()
        .map(|address| Address { address: *address, gateway: gateway(address.addr()) })
        .collect();
    let vlan = match place.vlan {
        VlanId::UNTAGGED => PortVlan::untagged(),
        vlan => PortVlan::access(vlan),
    };
    AttachRequest {
        key: key.clone(),
        runtime: Runtime::Docker,
        caller: CALLER.to_owned(),
        netns: sandbox.into(),
        bridge: place.bridge.clone(),
        vlan,
        mtu: endpoint.mtu,
        mac: Some(endpoint.mac),
        ofport_request: None,
        interface_type: String::new(),
        external_ids: BTreeMap::from([("docker-network".to_owned(), network.id.clone())]),
        interface_external_ids: BTreeMap::new(),
        isolated: false,
        addressing: Addressing::Given { addresses },
        routes: Vec::new(),
        labels: Labels::default(),
        link_deadline: LINK_DEADLINE,
        ovsdb: None,
        front_end: Value::Null,
    }
}

/// Reads a request. An empty body is never one.
pub(crate) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Error::Empty);
    }
    serde_json::from_slice(body).map_err(|source| Error::Malformed { source })
}
