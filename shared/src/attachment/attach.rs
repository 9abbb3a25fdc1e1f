//! ADD: the walk from a validated request to a network that passes traffic.

use std::time::Duration;

use super::freed::Freed;
use super::record::{Held, Key, Record};
use super::request::{Address, Addressing, AttachRequest};
use super::{Engine, Error, owner};
use crate::ledger::Action;
use crate::link::{self, Inside, Netlink, Route, Veth};
use crate::mac::Mac;
use crate::name::IfName;
use crate::netns::Netns;
use crate::network::gateway::Networks;
use crate::ovsdb::{self, BridgeView, Client, PortSpec};
use crate::state;

/// Names tried for one port before giving up: each further one is another hash.
const NAME_CHOICES: u32 = 64;

/// MTU where the bridge's own interface cannot be asked.
const DEFAULT_MTU: u32 = 1500;

/// How long ovsdb-server may take for one answer.
pub(super) const OVSDB_DEADLINE: Duration = Duration::from_secs(5);

impl Engine {
    /// Plugs a container in. Asked again for the same attachment it returns the same record. On an
    /// error nothing is left, or the error says what.
    pub fn attach(&self, request: &AttachRequest) -> Result<Record, Error> {
        let state = self.state();
        state.prepare()?;
        let _lock = state.lock(&lock_key(&request.key))?;
        let netns = Netns::open(&request.netns)?;
        let mut ovsdb = Client::connect(&self.config().ovsdb, OVSDB_DEADLINE)?;
        if let Some(found) = self.record(&request.key)? {
            if found.complete && found.netns_id == netns.id() && is_plugged(&mut ovsdb, &found)? {
                return Ok(found);
            }
            // A crash, or a restart without DEL: start from nothing.
            self.unplug(&request.key, Some(&found))?;
        }
        let view = ovsdb.view(&request.bridge)?;
        let result = Walk { engine: self, request, netns, ovsdb, view }.run();
        result.map_err(|cause| match self.undo(&request.key) {
            Ok(()) => cause,
            Err(left) => Error::Left { cause: Box::new(cause), left: Box::new(left) },
        })
    }

    /// Removes whatever an attach made before it failed.
    fn undo(&self, key: &Key) -> Result<(), Error> {
        let record = self.record(key)?;
        self.unplug(key, record.as_ref()).map(drop)
    }
}

/// The lock every act on one attachment holds.
pub(super) fn lock_key(key: &Key) -> String {
    format!("attachment {key}")
}

/// Whether the switch and the kernel still have what the record says.
fn is_plugged(ovsdb: &mut Client, record: &Record) -> Result<bool, Error> {
    let Some(port) = ovsdb.port(&record.port)? else { return Ok(false) };
    let ours = owner::key_of(&port).as_ref() == Some(&record.key) && port.error.is_none();
    let link = Netlink::open()?.link(&record.port)?;
    Ok(ours && link.is_some_and(|link| link.mac == Some(record.host_mac)))
}

/// One attach under way.
struct Walk<'a> {
    engine: &'a Engine,
    request: &'a AttachRequest,
    netns: Netns,
    ovsdb: Client,
    view: BridgeView,
}

impl Walk<'_> {
    fn run(mut self) -> Result<Record, Error> {
        let request = self.request;
        let mut netlink = Netlink::open()?;
        let mut record = self.intent(&mut netlink)?;
        self.engine.save(&record)?;
        self.lease(&mut netlink, &mut record)?;
        record.mac = request.mac.unwrap_or_else(|| container_mac(&request.key, &record.addresses));
        self.plug(&mut netlink, &mut record)?;
        let mut inside = self.configure(&record)?;
        record.ofport = Some(self.ovsdb.wait_open(&record.port, request.link_deadline)?);
        inside.announce()?;
        record.complete = true;
        self.engine.save(&record)?;
        self.engine.write_ledger(&record.key, Some(&record), Action::Attach, None);
        self.engine.show_unless_agent();
        Ok(record)
    }

    /// What is about to be done, written down first: a crash leaves its traces findable.
    fn intent(&self, netlink: &mut Netlink) -> Result<Record, Error> {
        let request = self.request;
        let mtu = match request.mtu {
            Some(mtu) => mtu,
            None => netlink.link(&request.bridge)?.map_or(DEFAULT_MTU, |link| link.mtu),
        };
        let port = self.engine.config().naming_template.render(
            &request.key.container,
            index(&request.key.ifname),
            0,
        );
        Ok(Record {
            key: request.key.clone(),
            runtime: request.runtime,
            caller: request.caller.clone(),
            boot_id: state::boot_id()?,
            complete: false,
            since: state::now(),
            netns: request.netns.clone(),
            netns_id: self.netns.id(),
            bridge: request.bridge.clone(),
            host_mac: owner::host_mac(&request.key, &port),
            port,
            vlan: request.vlan.clone(),
            mac: container_mac(&request.key, &[]),
            mtu,
            ofport: None,
            addresses: Vec::new(),
            routes: request.routes.clone(),
            leases: Vec::new(),
            labels: request.labels.clone(),
            front_end: request.front_end.clone(),
        })
    }

    /// Takes the addresses and works out the routes.
    fn lease(&self, netlink: &mut Netlink, record: &mut Record) -> Result<(), Error> {
        match &self.request.addressing {
            Addressing::None => {}
            Addressing::Given { addresses } => record.addresses.clone_from(addresses),
            Addressing::Pool { network, requested, default_route } => {
                Networks::new(self.engine.config()).ensure(network, netlink)?;
                let pools = self.engine.pools();
                let owner = self.request.key.to_string();
                for subnet in &network.subnets {
                    let wanted = requested.iter().copied().find(|ip| subnet.net.contains(ip));
                    let lease = pools.acquire(subnet, &owner, wanted)?;
                    record.leases.push(Held { subnet: subnet.net, ip: lease.ip });
                    let length = subnet.net.prefix_len();
                    record.addresses.push(Address {
                        address: ipnet::IpNet::new(lease.ip, length)
                            .map_err(|_| Error::PrefixLength { ip: lease.ip, length })?,
                        gateway: subnet.gateway,
                    });
                    if let (true, Some(gateway)) = (*default_route, subnet.gateway) {
                        add_default_route(&mut record.routes, gateway);
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes the pair and its port under the first name that is free in the kernel and in the
    /// switch.
    fn plug(&mut self, netlink: &mut Netlink, record: &mut Record) -> Result<(), Error> {
        let key = &self.request.key;
        let freed = Freed::new(self.engine.state().freed());
        let template = &self.engine.config().naming_template;
        for salt in 0..NAME_CHOICES {
            let name = template.render(&key.container, index(&key.ifname), salt);
            if freed.is_held(&name, self.view.next, self.view.current) {
                continue;
            }
            record.host_mac = owner::host_mac(key, &name);
            record.port = name;
            self.engine.save(record)?;
            let veth = Veth {
                host: &record.port,
                host_mac: record.host_mac,
                peer: &key.ifname,
                netns: Some(&self.netns),
                peer_mac: record.mac,
                mtu: record.mtu,
            };
            let host_end = match netlink.create_veth(&veth) {
                Ok(index) => index,
                Err(link::Error::Exists { .. }) if netlink.link(&record.port)?.is_some() => {
                    continue;
                }
                Err(link::Error::Exists { .. }) => {
                    return Err(Error::InterfaceExists {
                        ifname: key.ifname.clone(),
                        netns: record.netns.clone(),
                    });
                }
                Err(error) => return Err(error.into()),
            };
            match self.ovsdb.add_port(&self.view.bridge, &self.port(record)) {
                Ok(()) => return Ok(()),
                Err(ovsdb::Error::PortExists { .. }) => netlink.delete_link(host_end)?,
                Err(error) => return Err(error.into()),
            };
        }
        Err(Error::NoName { key: key.clone(), tried: NAME_CHOICES })
    }

    /// Addresses, routes and offloads inside the container, with one visit.
    fn configure(&self, record: &Record) -> Result<Container, Error> {
        let ifname = &record.key.ifname;
        let addresses: Vec<_> = record.addresses.iter().map(|address| address.address).collect();
        let mut inside = if addresses.iter().any(|address| address.addr().is_ipv6()) {
            Inside::visit_for_ipv6(&self.netns, ifname)?
        } else {
            Inside::visit(&self.netns)?
        };
        if self.view.bridge.is_userspace() {
            // ovs-vswitchd takes frames as they are: nobody would fill in the checksums.
            inside.set_tx_checksum(ifname, false)?;
        }
        let link = inside.netlink.link(ifname)?.ok_or_else(|| link::Error::Missing {
            what: format!("link {ifname} in the container"),
        })?;
        inside.netlink.configure(link.index, &addresses, &record.routes)?;
        Ok(Container { netlink: inside.netlink, index: link.index, mac: record.mac })
    }

    fn port(&self, record: &Record) -> PortSpec {
        let request = self.request;
        let mut external_ids = request.external_ids.clone();
        external_ids.extend(owner::external_ids(
            &record.key,
            record.runtime,
            &record.caller,
            &record.boot_id,
            &record.labels,
            record.mac,
        ));
        PortSpec {
            name: record.port.clone(),
            interface_type: request.interface_type.clone(),
            vlan: record.vlan.clone(),
            ofport_request: request.ofport_request,
            mac: None,
            mtu_request: None,
            protected: request.isolated,
            external_ids,
            interface_external_ids: request.interface_external_ids.clone(),
        }
    }
}

/// The configured end of the pair.
struct Container {
    netlink: Netlink,
    index: u32,
    mac: Mac,
}

impl Container {
    /// Tells the neighbours, now that frames pass: an address may have moved from another MAC.
    fn announce(&mut self) -> Result<(), Error> {
        Ok(self.netlink.announce(self.index, self.mac)?)
    }
}

/// The number at the end of an interface name ("eth0" → 0, "net12" → 12); 0 without one.
fn index(ifname: &IfName) -> u32 {
    let digits = ifname.as_str().trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.parse().unwrap_or(0)
}

/// The MAC of an interface: of its first address, else of its identity.
fn container_mac(key: &Key, addresses: &[Address]) -> Mac {
    match addresses.first() {
        Some(first) => Mac::from_ip(first.address.addr()),
        None => Mac::from_hash(key.to_string().as_bytes()),
    }
}

/// Adds a default route through `gateway` unless the request brought one of that family.
fn add_default_route(routes: &mut Vec<Route>, gateway: std::net::IpAddr) {
    let everything = match gateway {
        std::net::IpAddr::V4(_) => ipnet::IpNet::V4(ipnet::Ipv4Net::default()),
        std::net::IpAddr::V6(_) => ipnet::IpNet::V6(ipnet::Ipv6Net::default()),
    };
    if !routes.iter().any(|route| route.dst == everything) {
        routes.push(Route::new(everything, Some(gateway)));
    }
}
