//! The IpamDriver: pools of Docker networks, drawn from the leases that CNI and Podman share.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::address::{Subnet, overlaps};
use shared::attachment::Engine;
use shared::config::Mode;
use shared::error::sentence;
use shared::network::Network;

use crate::error::Error;
use crate::message::{GATEWAY, OfAddress, ReleasePool, RequestPool};
use crate::store::Store;

/// Our address space, as `CreateNetwork` shows it.
pub(crate) const SPACE: &str = "ovs-agent";

/// The same for networks of global scope, which this driver does not have.
const GLOBAL_SPACE: &str = "ovs-agent-global";

/// How the owners of Docker's leases begin; the pool follows.
const OWNER: &str = "docker/";

/// Option that says what an address is for.
const TYPE: &str = "RequestAddressType";

/// What a pool of IPv4 is called that joins the NAT bridge's own network because its user named no
/// subnet. dockerd refuses a subnet that it did not ask for and the host has a route to, as it has
/// to this one; it never looks at 0.0.0.0/0, the pool of its null IPAM.
pub(crate) const UNNAMED: &str = "0.0.0.0/0";

/// One pool, as Docker asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pool {
    pub(crate) id: String,
    pub(crate) net: IpNet,
    /// `--ip-range`.
    pub(crate) range: Option<(IpAddr, IpAddr)>,
    pub(crate) gateway: Option<IpAddr>,
    /// The gateway was named by the user or by the configuration, not chosen here.
    pub(crate) gateway_named: bool,
    /// No subnet was named: the pool is that of the NAT bridge.
    #[serde(default)]
    unnamed: bool,
    /// dockerd has started anew and will ask for this pool again.
    replay: bool,
    /// Number of the next lease.
    serial: u64,
    addresses: BTreeMap<IpAddr, Held>,
}

/// One address of a pool that Docker holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    /// Owner of the lease.
    owner: String,
    /// dockerd has started anew and may ask for this address again.
    replay: bool,
}

impl Pool {
    pub(crate) fn new(id: String, net: IpNet) -> Self {
        Self {
            id,
            net,
            range: None,
            gateway: None,
            gateway_named: false,
            unnamed: false,
            replay: false,
            serial: 0,
            addresses: BTreeMap::new(),
        }
    }

    fn subnet(&self, range: Option<(IpAddr, IpAddr)>) -> Subnet {
        Subnet { net: self.net, range, gateway: self.gateway }
    }

    /// Owner of the next lease.
    fn next_owner(&self) -> String {
        format!("{OWNER}{}/{}", self.id, self.serial)
    }
}

/// The IpamDriver.
#[derive(Debug)]
pub(crate) struct Ipam {
    store: Store<Pool>,
    /// Held while a pool is read, changed and written: the sweep does so beside dockerd's calls.
    turn: Mutex<()>,
}

impl Ipam {
    pub(crate) fn new(store: Store<Pool>) -> Self {
        Self { store, turn: Mutex::default() }
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every pool.
    pub(crate) fn pools(&self) -> Result<Vec<Pool>, Error> {
        self.store.all()
    }

    /// Takes the leases of what Docker holds again: they died with the last boot.
    pub(crate) fn restore(&self, engine: &Engine) -> Result<(), Error> {
        let _turn = self.turn();
        for pool in self.store.all()? {
            // Killed in a RequestAddress, we hold one more than is written down: the next one would
            // be told that it has an address already.
            if let Err(error) = engine.pools().release_all(&pool.next_owner()) {
                tracing::error!(error = %sentence(&error), "an address nobody has stays taken");
            }
            self.reserve_host(engine, &pool);
            for (ip, held) in &pool.addresses {
                let subnet = pool.subnet(None);
                if let Err(error) = engine.pools().acquire(&subnet, &held.owner, Some(*ip)) {
                    tracing::error!(error = %sentence(&error), "an address of Docker is not ours");
                }
            }
        }
        Ok(())
    }

    /// dockerd has started: it will ask again for what it knows.
    pub(crate) fn expect_replay(&self) -> Result<(), Error> {
        let _turn = self.turn();
        for mut pool in self.store.all()? {
            pool.replay = true;
            pool.addresses.values_mut().for_each(|held| held.replay = true);
            self.store.put(&pool.id, &pool)?;
        }
        Ok(())
    }

    pub(crate) fn address_spaces() -> Value {
        json!({"LocalDefaultAddressSpace": SPACE, "GlobalDefaultAddressSpace": GLOBAL_SPACE})
    }

    pub(crate) fn request_pool(
        &self,
        engine: &Engine,
        request: &RequestPool,
    ) -> Result<Value, Error> {
        let _turn = self.turn();
        if let Some((name, value)) = request.options.iter().next() {
            let problem = "is an option that this driver does not have";
            let value = value.as_str().unwrap_or_default();
            return Err(Error::field(
                &format!("--ipam-opt {name}"),
                value,
                problem,
                "leave it out",
            ));
        }
        let pools = self.store.all()?;
        // dockerd asks after its start for the pool it was given, not for what its user wrote.
        let unnamed = request.pool.is_empty() || request.pool == UNNAMED;
        let net = if unnamed {
            bridge_subnet(engine, request.v6)?
        } else {
            subnet("subnet", &request.pool)?
        };
        let range = range(net, &request.sub_pool)?;
        let same = |pool: &&Pool| pool.net == net && pool.range == range && pool.unnamed == unnamed;
        let again = pools.iter().find(|pool| pool.replay && same(pool));
        let pool = match again {
            Some(pool) => Pool { replay: false, ..pool.clone() },
            None => Pool { unnamed, ..self.new_pool(engine, &pools, net, range)? },
        };
        self.store.put(&pool.id, &pool)?;
        self.reserve_host(engine, &pool);
        let mut data = serde_json::Map::new();
        if let Some(gateway) = own_gateway(engine, net) {
            // Dictated: without it Docker would ask for an address of the bridge's own subnet.
            data.insert(GATEWAY.to_owned(), format!("{gateway}/{}", net.prefix_len()).into());
        }
        let shown = if unnamed && !request.v6 { UNNAMED.to_owned() } else { net.to_string() };
        Ok(json!({"PoolID": pool.id, "Pool": shown, "Data": data}))
    }

    fn new_pool(
        &self,
        engine: &Engine,
        pools: &[Pool],
        net: IpNet,
        range: Option<(IpAddr, IpAddr)>,
    ) -> Result<Pool, Error> {
        let bridges = engine.config().subnets().map(|(bridge, old)| (bridge.name.to_string(), old));
        let docker = pools.iter().map(|pool| ("another pool of Docker".to_owned(), pool.net));
        for (whose, old) in bridges.chain(docker) {
            if overlaps(net, old) && net != old {
                let problem = format!("overlaps {old} of {whose}");
                let hint = "choose another subnet";
                return Err(Error::field("subnet", &net.to_string(), &problem, hint));
            }
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let mut pool = Pool { range, ..Pool::new(format!("ovs-{now:x}"), net) };
        if let Some(gateway) = own_gateway(engine, net) {
            (pool.gateway, pool.gateway_named) = (Some(gateway), true);
        }
        Ok(pool)
    }

    /// The host's own addresses in a subnet are nobody else's.
    fn reserve_host(&self, engine: &Engine, pool: &Pool) {
        for (address, owner) in host_leases(engine, pool.net) {
            if pool.gateway == Some(address) {
                continue;
            }
            if let Err(error) = engine.pools().acquire(&pool.subnet(None), &owner, Some(address)) {
                tracing::error!(error = %sentence(&error), "the host's address is not kept");
            }
        }
    }

    pub(crate) fn release_pool(
        &self,
        engine: &Engine,
        request: &ReleasePool,
    ) -> Result<Value, Error> {
        let _turn = self.turn();
        if let Some(pool) = self.store.get(&request.pool)? {
            for (ip, held) in &pool.addresses {
                engine.pools().release(pool.net, *ip, &held.owner)?;
            }
            // Killed in a RequestAddress, we hold one more than is written down.
            engine.pools().release_all(&pool.next_owner())?;
            if !self.store.all()?.iter().any(|other| other.net == pool.net && other.id != pool.id) {
                for (ip, owner) in host_leases(engine, pool.net) {
                    engine.pools().release(pool.net, ip, &owner)?;
                }
            }
        }
        self.store.remove(&request.pool)?;
        Ok(json!({}))
    }

    pub(crate) fn request_address(
        &self,
        engine: &Engine,
        request: &OfAddress,
    ) -> Result<Value, Error> {
        let _turn = self.turn();
        let mut pool = self
            .store
            .get(&request.pool)?
            .ok_or_else(|| Error::Unknown { what: "address pool", id: request.pool.clone() })?;
        let wanted = match request.address.as_str() {
            "" => None,
            text => Some(address(text, pool.net)?),
        };
        let is_gateway = request.options.get(TYPE).and_then(Value::as_str) == Some(GATEWAY);
        let ip = if is_gateway {
            self.gateway(engine, &mut pool, wanted)?
        } else {
            self.lease(engine, &mut pool, wanted)?
        };
        Ok(json!({"Address": format!("{ip}/{}", pool.net.prefix_len()), "Data": {}}))
    }

    fn gateway(
        &self,
        engine: &Engine,
        pool: &mut Pool,
        wanted: Option<IpAddr>,
    ) -> Result<IpAddr, Error> {
        if let Some(gateway) = pool.gateway {
            return match wanted {
                Some(other) if other != gateway => Err(Error::field(
                    "gateway",
                    &other.to_string(),
                    &format!("is not that of {}, {gateway}", pool.net),
                    "leave --gateway out",
                )),
                _ => Ok(gateway),
            };
        }
        let router = engine.config().bridges.iter().find_map(|bridge| match bridge.mode {
            Mode::Direct { gateway, .. } => gateway.filter(|ip| pool.net.contains(ip)),
            Mode::Nat { .. } => None,
        });
        pool.gateway_named = wanted.is_some() || router.is_some();
        let gateway =
            wanted.or(router).or_else(|| pool.net.hosts().find(|ip| *ip != pool.net.network()));
        let gateway = gateway.ok_or_else(|| {
            let problem = "has no room for a gateway";
            Error::field("subnet", &pool.net.to_string(), problem, "name a larger subnet")
        })?;
        let leases = engine.pools().leases()?;
        if let Some((_, lease)) = leases.iter().find(|(_, lease)| lease.ip == gateway) {
            let problem = format!("is held by {}", lease.owner);
            let hint = "name another with --gateway";
            return Err(Error::field("gateway", &gateway.to_string(), &problem, hint));
        }
        pool.gateway = Some(gateway);
        self.store.put(&pool.id, pool)?;
        Ok(gateway)
    }

    fn lease(
        &self,
        engine: &Engine,
        pool: &mut Pool,
        wanted: Option<IpAddr>,
    ) -> Result<IpAddr, Error> {
        if let Some(ip) = wanted
            && self.replayed(pool, ip)?
        {
            return Ok(ip);
        }
        let owner = pool.next_owner();
        // What is asked for by name may lie outside the range: Docker allows it everywhere.
        let subnet = pool.subnet(if wanted.is_some() { None } else { pool.range });
        let ip = engine.pools().acquire(&subnet, &owner, wanted)?.ip;
        pool.serial += 1;
        pool.addresses.insert(ip, Held { owner: owner.clone(), replay: false });
        if let Err(error) = self.store.put(&pool.id, pool) {
            engine.pools().release(pool.net, ip, &owner)?;
            return Err(error);
        }
        Ok(ip)
    }

    /// Whether dockerd asks after its start for an address it held before.
    fn replayed(&self, pool: &mut Pool, ip: IpAddr) -> Result<bool, Error> {
        if let Some(held) = pool.addresses.get_mut(&ip) {
            let again = std::mem::take(&mut held.replay);
            if again {
                self.store.put(&pool.id, pool)?;
            }
            return Ok(again);
        }
        // Of two pools of one subnet it asks in any order: each is the other's by now.
        for mut other in self.store.all()? {
            let given = other.addresses.get(&ip).filter(|held| held.replay);
            if other.net == pool.net
                && let Some(given) = given
            {
                let held = Held { replay: false, ..given.clone() };
                pool.addresses.insert(ip, held);
                self.store.put(&pool.id, pool)?;
                other.addresses.remove(&ip);
                self.store.put(&other.id, &other)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) fn release_address(
        &self,
        engine: &Engine,
        request: &OfAddress,
    ) -> Result<Value, Error> {
        let _turn = self.turn();
        let Some(mut pool) = self.store.get(&request.pool)? else { return Ok(json!({})) };
        let ip = address(&request.address, pool.net)?;
        self.release(engine, &mut pool, ip)?;
        Ok(json!({}))
    }

    /// The owners of the leases of these addresses, as far as they are of our pools.
    pub(crate) fn owners(&self, addresses: &[IpNet]) -> Result<Vec<String>, Error> {
        let _turn = self.turn();
        let pools = self.store.all()?;
        let held = |address: &IpNet| {
            let ip = address.addr();
            pools.iter().filter_map(move |pool| Some(pool.addresses.get(&ip)?.owner.clone()))
        };
        Ok(addresses.iter().flat_map(held).collect())
    }

    /// Takes back the leases of an endpoint, if `forgotten` has just removed that: no address comes
    /// or goes between. An address alone says too little: dockerd may have released it and asked for
    /// it again since.
    pub(crate) fn reclaim(
        &self,
        engine: &Engine,
        owners: &[String],
        forgotten: impl FnOnce() -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let _turn = self.turn();
        if !forgotten()? {
            return Ok(());
        }
        for mut pool in self.store.all()? {
            let held = pool.addresses.iter().filter(|(_, held)| owners.contains(&held.owner));
            for ip in held.map(|(ip, _)| *ip).collect::<Vec<_>>() {
                self.release(engine, &mut pool, ip)?;
            }
        }
        Ok(())
    }

    /// Takes back what pools that are lost had given, but for what endpoints still have.
    pub(crate) fn collect(&self, engine: &Engine, in_use: &[IpNet]) -> Result<(), Error> {
        let _turn = self.turn();
        let pools = self.store.all()?;
        // An attachment of a network that is called "docker" may have such an owner too.
        let attached: Vec<_> = engine.records()?.0.iter().map(|r| r.key.to_string()).collect();
        for (net, lease) in engine.pools().leases()? {
            let Some(id) = pool_of(&lease.owner) else { continue };
            let held = |pool: &Pool| pool.addresses.values().any(|held| held.owner == lease.owner);
            let used = in_use.iter().any(|address| address.addr() == lease.ip)
                || attached.contains(&lease.owner)
                || pools.iter().any(held);
            if !used && !pools.iter().any(|pool| pool.id == id) {
                tracing::warn!(ip = %lease.ip, "given back: its pool is lost and nobody has it");
                engine.pools().release(net, lease.ip, &lease.owner)?;
            }
        }
        Ok(())
    }

    fn release(&self, engine: &Engine, pool: &mut Pool, ip: IpAddr) -> Result<(), Error> {
        if let Some(held) = pool.addresses.remove(&ip) {
            engine.pools().release(pool.net, ip, &held.owner)?;
            self.store.put(&pool.id, pool)?;
        }
        Ok(())
    }
}

/// The pool whose lease has this owner; `None` if it is none of ours.
fn pool_of(owner: &str) -> Option<&str> {
    let (id, serial) = owner.strip_prefix(OWNER)?.split_once('/')?;
    let hex = id.strip_prefix("ovs-")?;
    let ours = u128::from_str_radix(hex, 16).is_ok() && serial.parse::<u64>().is_ok();
    ours.then_some(id)
}

/// The addresses of the host in a subnet, and who holds their leases.
fn host_leases(engine: &Engine, net: IpNet) -> Vec<(IpAddr, String)> {
    let bridges = engine.config().bridges.iter();
    let all = bridges.flat_map(|bridge| {
        let owner = |ip: IpAddr| (ip, format!("host/{}/{ip}", bridge.name));
        bridge.addresses().iter().map(IpNet::addr).filter(|ip| net.contains(ip)).map(owner)
    });
    all.collect()
}

/// The gateway of a NAT bridge's own subnet.
fn own_gateway(engine: &Engine, net: IpNet) -> Option<IpAddr> {
    let own = engine.config().bridges.iter().filter_map(Network::of_nat_bridge);
    own.flat_map(|network| network.subnets).find(|subnet| subnet.net == net)?.gateway
}

/// The subnet of the NAT bridge that networks without one of their own join.
fn bridge_subnet(engine: &Engine, v6: bool) -> Result<IpNet, Error> {
    let bridge = engine.config().nat_bridge().ok_or_else(|| {
        let hint =
            "name a subnet with --subnet, or add a bridge with mode = \"nat\" to config.toml";
        Error::refused("no NAT bridge is configured whose addresses could be given out", hint)
    })?;
    let own = Network::of_nat_bridge(bridge).map(|network| network.subnets).unwrap_or_default();
    let of_family = |subnet: &&Subnet| subnet.net.addr().is_ipv6() == v6;
    own.iter().find(of_family).map(|subnet| subnet.net).ok_or_else(|| {
        let family = if v6 { "IPv6" } else { "IPv4" };
        let hint = "name a subnet with --subnet, or add an address to the bridge in config.toml";
        Error::refused(format!("{} has no {family} subnet to join", bridge.name), hint)
    })
}

fn subnet(field: &str, text: &str) -> Result<IpNet, Error> {
    text.parse::<IpNet>().map(|net| net.trunc()).map_err(|_| {
        let hint = "write it as 10.30.0.0/24";
        Error::field(field, text, "is no subnet", hint)
    })
}

fn range(net: IpNet, text: &str) -> Result<Option<(IpAddr, IpAddr)>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let part = subnet("ip-range", text)?;
    if !net.contains(&part) {
        let problem = format!("is not part of {net}");
        return Err(Error::field("ip-range", text, &problem, "name a part of the subnet"));
    }
    Ok(Some((part.network(), part.broadcast())))
}

fn address(text: &str, net: IpNet) -> Result<IpAddr, Error> {
    let bare = text.split('/').next().unwrap_or_default();
    bare.parse().ok().filter(|ip| net.contains(ip)).ok_or_else(|| {
        let problem = format!("is no address of {net}");
        Error::field("address", text, &problem, "name one of the subnet")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_leases_of_pools_have_a_pool() {
        assert_eq!(pool_of("docker/ovs-18ec44c202aefadd/7"), Some("ovs-18ec44c202aefadd"));
        for other in [
            "docker/web/eth0",
            "docker/ovs-18ec44c202aefadd/eth0",
            "docker/ovs-web/0",
            "lab/ovs-18ec44c202aefadd/0",
            "host/ovsbr1/10.200.0.1",
            "docker/ovs-18ec44c202aefadd",
        ] {
            assert_eq!(pool_of(other), None, "{other}");
        }
    }
}
