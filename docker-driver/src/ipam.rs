//! The IpamDriver: pools of Docker networks, drawn from the leases that CNI and Podman share.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::address::{Subnet, overlaps};
use shared::attachment::Engine;
use shared::config::Mode;
use shared::error::sentence;
use shared::network::Network;
use shared::network::gateway::Networks;

use crate::error::Error;
use crate::message::{GATEWAY, OfAddress, ReleasePool, RequestPool};
use crate::store::Store;

/// Our address space, as `CreateNetwork` shows it.
pub(crate) const SPACE: &str = "ovs-agent";

/// The same for networks of global scope, which this driver does not have.
const GLOBAL_SPACE: &str = "ovs-agent-global";

/// Option that says what an address is for.
const TYPE: &str = "RequestAddressType";

/// Where networks that name no subnet get theirs, /24 each: beside the NAT bridge's default.
const FRESH: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 201, 0, 0), 16);
const FRESH_PREFIX: u8 = 24;

/// The same for IPv6, /64 each, from the locally assigned prefix of the NAT bridge's default.
const FRESH_V6: Ipv6Net =
    Ipv6Net::new_assert(std::net::Ipv6Addr::new(0xfd6f, 0x7673, 0x6272, 0x100, 0, 0, 0, 0), 56);
const FRESH_V6_PREFIX: u8 = 64;

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
            replay: false,
            serial: 0,
            addresses: BTreeMap::new(),
        }
    }

    fn subnet(&self, range: Option<(IpAddr, IpAddr)>) -> Subnet {
        Subnet { net: self.net, range, gateway: self.gateway }
    }
}

/// The IpamDriver.
#[derive(Debug)]
pub(crate) struct Ipam {
    store: Store<Pool>,
}

impl Ipam {
    pub(crate) fn new(store: Store<Pool>) -> Self {
        Self { store }
    }

    /// Every pool.
    pub(crate) fn pools(&self) -> Result<Vec<Pool>, Error> {
        self.store.all()
    }

    /// Takes the leases of what Docker holds again: they died with the last boot.
    pub(crate) fn restore(&self, engine: &Engine) -> Result<(), Error> {
        for pool in self.store.all()? {
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
        let net = if request.pool.is_empty() {
            fresh(engine, &pools, request.v6)?
        } else {
            subnet("subnet", &request.pool)?
        };
        let range = range(net, &request.sub_pool)?;
        let again = pools.iter().find(|p| p.replay && p.net == net && p.range == range);
        let pool = match again {
            Some(pool) => Pool { replay: false, ..pool.clone() },
            None => self.new_pool(engine, &pools, net, range)?,
        };
        self.store.put(&pool.id, &pool)?;
        self.reserve_host(engine, &pool);
        let mut data = serde_json::Map::new();
        if let Some(gateway) = own_gateway(engine, net) {
            // Dictated: without it Docker would ask for an address of the bridge's own subnet.
            data.insert(GATEWAY.to_owned(), format!("{gateway}/{}", net.prefix_len()).into());
        }
        Ok(json!({"PoolID": pool.id, "Pool": net.to_string(), "Data": data}))
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
        for bridge in &engine.config().bridges {
            for address in bridge.addresses().iter().map(IpNet::addr) {
                if pool.net.contains(&address) && pool.gateway != Some(address) {
                    let owner = format!("host/{}/{address}", bridge.name);
                    let result = engine.pools().acquire(&pool.subnet(None), &owner, Some(address));
                    if let Err(error) = result {
                        tracing::error!(error = %sentence(&error), "the host's address is not kept");
                    }
                }
            }
        }
    }

    pub(crate) fn release_pool(
        &self,
        engine: &Engine,
        request: &ReleasePool,
    ) -> Result<Value, Error> {
        // A file that cannot be read names no leases; they end with the boot.
        if let Some(pool) = self.store.get(&request.pool).unwrap_or_default() {
            for (ip, held) in &pool.addresses {
                engine.pools().release(pool.net, *ip, &held.owner)?;
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
        let owner = format!("docker/{}/{}", pool.id, pool.serial);
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
        Ok(false)
    }

    pub(crate) fn release_address(
        &self,
        engine: &Engine,
        request: &OfAddress,
    ) -> Result<Value, Error> {
        let Some(mut pool) = self.store.get(&request.pool)? else { return Ok(json!({})) };
        let ip = address(&request.address, pool.net)?;
        if let Some(held) = pool.addresses.remove(&ip) {
            engine.pools().release(pool.net, ip, &held.owner)?;
            self.store.put(&pool.id, &pool)?;
        }
        Ok(json!({}))
    }
}

/// The gateway of a NAT bridge's own subnet.
fn own_gateway(engine: &Engine, net: IpNet) -> Option<IpAddr> {
    let own = engine.config().bridges.iter().filter_map(Network::of_nat_bridge);
    own.flat_map(|network| network.subnets).find(|subnet| subnet.net == net)?.gateway
}

/// A subnet nobody uses; another one each time, as dockerd refuses some and asks again.
fn fresh(engine: &Engine, pools: &[Pool], v6: bool) -> Result<IpNet, Error> {
    let mut used: Vec<_> = engine.config().subnets().map(|(_, net)| net).collect();
    used.extend(pools.iter().map(|pool| pool.net));
    for network in Networks::new(engine.config()).all()? {
        used.extend(network.subnets.iter().map(|subnet| subnet.net));
    }
    let candidates: Vec<IpNet> = if v6 {
        FRESH_V6.subnets(FRESH_V6_PREFIX).into_iter().flatten().map(IpNet::V6).collect()
    } else {
        FRESH.subnets(FRESH_PREFIX).into_iter().flatten().map(IpNet::V4).collect()
    };
    candidates.into_iter().find(|net| used.iter().all(|old| !overlaps(*net, *old))).ok_or_else(
        || {
            let all = if v6 { FRESH_V6.to_string() } else { FRESH.to_string() };
            Error::refused(format!("every subnet of {all} is in use"), "name one with --subnet")
        },
    )
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
