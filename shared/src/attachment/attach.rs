//! ADD: the walk from a validated request to a network that passes traffic.

use std::time::{Duration, Instant};

use super::detach::Unplugged;
use super::freed::Freed;
use super::pace::Pace;
use super::ports::Withdrawn;
use super::record::{Held, Key, PortExtras, Record};
use super::request::{Address, Addressing, AttachRequest};
use super::{Engine, Error, owner};
use crate::config::Mode;
use crate::ledger::Action;
use crate::link::{self, Inside, Ipv6, Netlink, Route, Veth};
use crate::mac::Mac;
use crate::name::IfName;
use crate::netns::Netns;
use crate::network::gateway::Networks;
use crate::ovsdb::{self, Bridge, Client};
use crate::state;

/// Names tried for one port before giving up: each further one is another hash.
pub(super) const NAME_CHOICES: u32 = 64;

/// Table main (rtnetlink(7), RT_TABLE_MAIN).
const TABLE_MAIN: u32 = 254;

/// MTU where the bridge's own interface cannot be asked.
const DEFAULT_MTU: u32 = 1500;

/// How long ovsdb-server may take for one answer.
pub(super) const OVSDB_DEADLINE: Duration = Duration::from_secs(5);

/// The same while undoing: what it does not answer then, a DEL finishes.
const UNDO_DEADLINE: Duration = Duration::from_secs(2);

impl Engine {
    /// Plugs a container in. Asked again for the same attachment it returns the same record. On an
    /// error nothing is left, or the error says what.
    pub fn attach(&self, request: &AttachRequest) -> Result<Record, Error> {
        let state = self.state();
        state.prepare()?;
        let _lock = state.lock(&lock_key(&request.key))?;
        let netns = Netns::open(&request.netns)?;
        let mut ovsdb = Client::connect(&self.config().ovsdb, OVSDB_DEADLINE)?;
        match self.record(&request.key) {
            Ok(None) => {}
            Ok(Some(found))
                if found.complete
                    && found.netns_id == Some(netns.id())
                    && found.bridge == request.bridge
                    && found.vlan == request.vlan
                    && found.isolated == request.isolated
                    && is_plugged(&mut ovsdb, &found)? =>
            {
                // Killed just before, the first attach has told of a port that was still opening.
                ovsdb.wait_open(&found.port, request.link_deadline)?;
                Netlink::open()?.wait_running(&found.port, request.link_deadline)?;
                return Ok(found);
            }
            // A crash, a restart without DEL, another configuration: start from nothing.
            Ok(Some(found)) => self.start_over(&request.key, Some(&found))?,
            Err(Error::State(state::Error::Garbage { .. })) => {
                self.start_over(&request.key, None)?;
            }
            Err(error) => return Err(error),
        }
        self.walk(request, Place::Inside(&netns), ovsdb)
    }

    /// The walk itself; the caller holds the lock.
    pub(super) fn walk(
        &self,
        request: &AttachRequest,
        place: Place<'_>,
        ovsdb: Client,
    ) -> Result<Record, Error> {
        let pace = Pace::read(&self.state());
        let mut walk = Walk { engine: self, request, place, ovsdb, pace, asked: None };
        walk.run().map_err(|cause| {
            let undo = match walk.asked {
                Some(_) => self.undo(&request.key),
                None => self.give_back(&request.key),
            };
            match undo {
                Ok(()) => cause,
                Err(left) => Error::Left { cause: Box::new(cause), left: Box::new(left) },
            }
        })
    }

    /// Ends an attach begun with [`Addressing::Later`]: `record` is what it returned.
    ///
    /// # Errors
    /// The attachment stays begun: finish it, or [`Engine::abandon`] it.
    pub fn finish(
        &self,
        mut record: Record,
        addresses: Vec<Address>,
        routes: Vec<Route>,
        front_end: serde_json::Value,
    ) -> Result<Record, Error> {
        let _lock = self.state().lock(&lock_key(&record.key))?;
        let netns = Netns::open(&record.netns)?;
        record.addresses = addresses;
        record.routes = routes;
        record.front_end = front_end;
        let mut inside = self.visit(&netns, &record)?;
        inside.configure(&record)?;
        inside.announce()?;
        self.complete(&mut record)?;
        Ok(record)
    }

    /// Removes what an attach begun with [`Addressing::Later`] made. Nothing was attached, so
    /// nothing is noted as detached.
    pub fn abandon(&self, key: &Key) -> Result<(), Error> {
        let _lock = self.state().lock(&lock_key(key))?;
        self.undo(key)
    }

    /// Whether the bridge of `record` is one whose only router is its gateway, which is ours.
    fn behind_nat(&self, record: &Record) -> bool {
        let bridge = self.config().bridge(&record.bridge);
        bridge.is_some_and(|bridge| matches!(bridge.mode, Mode::Nat { .. }))
    }

    /// Opens the container's end of the pair.
    fn visit(&self, netns: &Netns, record: &Record) -> Result<Container, Error> {
        let ifname = &record.key.ifname;
        let ipv6 = Ipv6 {
            addresses: record.addresses.iter().any(|address| address.address.addr().is_ipv6()),
            no_router: self.behind_nat(record),
        };
        let mut inside = Inside::visit_link(netns, ifname, ipv6)?;
        let link = inside.netlink.link(ifname)?.ok_or_else(|| link::Error::Missing {
            what: format!("link {ifname} in the container"),
        })?;
        Ok(Container { inside, index: link.index, mac: record.mac })
    }

    /// The name the template gives the port of `key`, unless it is taken.
    pub(super) fn first_name(&self, key: &Key) -> IfName {
        self.config().naming_template.render(&key.container, index(&key.ifname), 0)
    }

    /// Told first: killed in between, the same ADD or a DEL tells it again, and nothing is plugged
    /// in that history does not know.
    fn complete(&self, record: &mut Record) -> Result<(), Error> {
        self.write_ledger(&record.key, Some(record), Action::Attach, None);
        self.show_unless_agent();
        record.complete = true;
        self.save(record).inspect_err(|_| {
            self.write_ledger(&record.key, Some(record), Action::Detach, None);
            // It shows what is about to be undone.
            drop(self.state().mark_unshown());
        })
    }

    /// Takes back what was prepared: the switch was asked for nothing yet, and an ovsdb-server that
    /// does not answer is not asked again. The pair may be there although the kernel's answer was
    /// lost.
    fn give_back(&self, key: &Key) -> Result<(), Error> {
        if let Some(record) = self.record(key)? {
            self.delete_host_end(&record.port, record.host_mac)?;
        }
        // Of an earlier one that could not be taken back, the address is to be held.
        let ports = self.withdraw(key);
        if ports != Withdrawn::Later {
            self.release(key, None)?;
        }
        self.forget(key, &Unplugged { found: false, ports })
    }

    /// Removes whatever an attach made before it failed.
    fn undo(&self, key: &Key) -> Result<(), Error> {
        let record = self.record(key)?;
        self.start_over(key, record.as_ref())
    }

    pub(super) fn start_over(&self, key: &Key, record: Option<&Record>) -> Result<(), Error> {
        let unplugged = self.unplug(key, record, UNDO_DEADLINE)?;
        if record.is_some_and(|record| record.complete) {
            self.write_ledger(key, record, Action::Detach, None);
            self.show_unless_agent();
        } else {
            self.show_if_behind();
        }
        self.forget(key, &unplugged)
    }
}

/// The lock every act on one attachment holds.
pub(super) fn lock_key(key: &Key) -> String {
    format!("attachment {key}")
}

/// Whether the switch and the kernel still have what the record says.
pub(super) fn is_plugged(ovsdb: &mut Client, record: &Record) -> Result<bool, Error> {
    let Some(port) = ovsdb.port(&record.port)? else { return Ok(false) };
    let ours = owner::key_of(&port).as_ref() == Some(&record.key)
        && port.bridge.as_ref() == Some(&record.bridge)
        && port.vlan.as_ref() == Some(&record.vlan)
        && port.protected == record.isolated
        && port.error.is_none();
    let link = Netlink::open()?.link(&record.port)?;
    Ok(ours && link.is_some_and(|link| link.mac == Some(record.host_mac)))
}

/// Where the container end of the pair is made.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    /// In the container, and configured there.
    Inside(&'a Netns),
    /// Here, under this name and down, for the runtime to move and configure.
    Here(&'a IfName),
}

/// One attach under way.
struct Walk<'a> {
    engine: &'a Engine,
    request: &'a AttachRequest,
    place: Place<'a>,
    ovsdb: Client,
    /// How long the switch took over the last port.
    pace: Pace,
    /// When the switch was asked for the port.
    asked: Option<Instant>,
}

impl<'a> Walk<'a> {
    fn run(&mut self) -> Result<Record, Error> {
        let request = self.request;
        let mut netlink = Netlink::open()?;
        let mut record = self.intent()?;
        self.engine.save(&record)?;
        self.lease(&mut netlink, &mut record)?;
        record.mac = request.mac.unwrap_or_else(|| container_mac(&request.key, &record.addresses));
        let inside = self.plug(&mut netlink, &mut record)?;
        // Told while the switch opens the port; undoing takes it back.
        if request.addressing == Addressing::Later {
            self.engine.save(&record)?;
        } else {
            self.engine.complete(&mut record)?;
        }
        if inside.is_some() {
            netlink.wait_running(&record.port, request.link_deadline)?;
        }
        self.ovsdb.wait_open(&record.port, request.link_deadline)?;
        if let Some(asked) = self.asked {
            self.pace.note(asked.elapsed());
        }
        let Some(mut inside) = inside else { return Ok(record) };
        if record.complete && self.may_be_known_otherwise(&record) {
            inside.announce()?;
        }
        Ok(record)
    }

    /// Whether somebody may know an address of ours by another MAC, or our MAC behind another port.
    /// On a NAT bridge nobody does while every MAC follows from its address.
    fn may_be_known_otherwise(&self, record: &Record) -> bool {
        let nat = self.engine.behind_nat(record);
        let derived = record.addresses.iter().all(|a| Mac::from_ip(a.address.addr()) == record.mac);
        !(nat && derived)
    }

    /// What is about to be done, written down first: a crash leaves its traces findable.
    fn intent(&self) -> Result<Record, Error> {
        let request = self.request;
        let mtu = match request.mtu {
            Some(mtu) => mtu,
            None => link::mtu(&request.bridge)?.unwrap_or(DEFAULT_MTU),
        };
        let port = self.engine.first_name(&request.key);
        Ok(Record {
            key: request.key.clone(),
            runtime: request.runtime,
            caller: request.caller.clone(),
            boot_id: state::boot_id()?,
            complete: false,
            since: state::now(),
            uptime: state::uptime(),
            netns: request.netns.clone(),
            netns_id: match self.place {
                Place::Inside(netns) => Some(netns.id()),
                Place::Here(_) => None,
            },
            bridge: request.bridge.clone(),
            host_mac: owner::host_mac(&request.key, &port),
            port,
            vlan: request.vlan.clone(),
            isolated: request.isolated,
            mac: container_mac(&request.key, &[]),
            mtu,
            addresses: Vec::new(),
            routes: request.routes.clone(),
            leases: Vec::new(),
            labels: request.labels.clone(),
            adopted: None,
            extras: PortExtras {
                interface_type: request.interface_type.clone(),
                ofport_request: request.ofport_request,
                external_ids: request.external_ids.clone(),
                interface_external_ids: request.interface_external_ids.clone(),
            },
            ovsdb: request.ovsdb.clone(),
            front_end: request.front_end.clone(),
        })
    }

    /// Takes the addresses and works out the routes.
    fn lease(&self, netlink: &mut Netlink, record: &mut Record) -> Result<(), Error> {
        match &self.request.addressing {
            Addressing::None | Addressing::Later => {}
            Addressing::Given { addresses } => record.addresses.clone_from(addresses),
            Addressing::Pool { network, requested, default_route } => {
                let vacant = || self.engine.is_vacant(network, Some(&self.request.key));
                Networks::new(self.engine.config()).ensure(network, netlink, vacant)?;
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
    /// switch, and configures the container's end while the switch is at work.
    fn plug(
        &mut self,
        netlink: &mut Netlink,
        record: &mut Record,
    ) -> Result<Option<Container>, Error> {
        let key = &self.request.key;
        let template = &self.engine.config().naming_template;
        for salt in 0..NAME_CHOICES {
            let name = template.render(&key.container, index(&key.ifname), salt);
            if name != record.port {
                // The intent names the first choice; leases are found by their owner.
                record.host_mac = owner::host_mac(key, &name);
                record.port = name;
                self.engine.save(record)?;
            }
            // A device of somebody else must not be plugged in for having our name.
            if self.pace.switch_first() && link::exists(&record.port)? {
                continue;
            }
            let early = if self.pace.switch_first() { Some(self.ask(record)?) } else { None };
            let pair = self.make_pair(netlink, record);
            let sent = match (early, &pair) {
                (Some(sent), _) => sent,
                (None, Ok(Pair::Made)) => self.ask(record)?,
                (None, Ok(Pair::NameTaken)) => continue,
                (None, Err(_)) => return pair.map(|_| None),
            };
            let inside = match pair {
                Ok(Pair::Made) => self.open_end(netlink, record).map(Some),
                Ok(Pair::NameTaken) => Ok(None),
                Err(error) => Err(error),
            };
            // Read whatever became of the pair: an undo must come after it.
            let bridge = match self.ovsdb.read_port(&self.request.bridge, &record.port, &sent) {
                Ok(bridge) => bridge,
                Err(ovsdb::Error::PortExists { .. } | ovsdb::Error::PortHeld { .. }) => {
                    if inside?.is_some() {
                        netlink.delete_veth(&record.port)?;
                    }
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            return match inside? {
                // Somebody took the name just now, and the switch has taken his device for ours.
                None => {
                    self.engine.delete_ports(key, Some(record), UNDO_DEADLINE)?;
                    continue;
                }
                Some(End::Inside(inside)) => self.configure(&bridge, inside, record).map(Some),
                Some(End::Here(peer)) => hand_over(&bridge, peer).map(|()| None),
            };
        }
        Err(Error::NoName { key: key.clone(), tried: NAME_CHOICES })
    }

    /// Asks the switch for the port; the answer is to be read.
    fn ask(&mut self, record: &Record) -> Result<ovsdb::Sent, Error> {
        self.asked = Some(Instant::now());
        let freed = Freed::new(self.engine.state().freed()).noted(&record.port);
        Ok(self.ovsdb.send_port(&self.request.bridge, &record.port_spec(), freed)?)
    }

    fn make_pair(&self, netlink: &mut Netlink, record: &Record) -> Result<Pair, Error> {
        let (peer, netns) = match self.place {
            Place::Inside(netns) => (&self.request.key.ifname, Some(netns)),
            Place::Here(peer) => (peer, None),
        };
        let veth = Veth {
            host: &record.port,
            host_mac: record.host_mac,
            peer,
            netns,
            peer_mac: record.mac,
            mtu: record.mtu,
        };
        match netlink.create_veth(&veth) {
            Ok(()) => Ok(Pair::Made),
            Err(link::Error::Exists { .. }) if netlink.link(&record.port)?.is_some() => {
                Ok(Pair::NameTaken)
            }
            Err(link::Error::Exists { .. }) => Err(Error::InterfaceExists {
                ifname: peer.clone(),
                netns: netns.map_or_else(|| "the host".into(), |_| record.netns.clone()),
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// Quietens the host end and opens the other one, while the switch is at work.
    fn open_end(&self, netlink: &mut Netlink, record: &Record) -> Result<End<'a>, Error> {
        netlink.silence(&record.port)?;
        match self.place {
            Place::Inside(netns) => Ok(End::Inside(self.engine.visit(netns, record)?)),
            Place::Here(peer) => Ok(End::Here(peer)),
        }
    }

    /// Addresses, routes and offloads inside the container, with one visit.
    fn configure(
        &self,
        bridge: &Bridge,
        mut inside: Container,
        record: &mut Record,
    ) -> Result<Container, Error> {
        if bridge.is_userspace() {
            // ovs-vswitchd takes frames as they are: nobody would fill in the checksums.
            inside.inside.set_tx_checksum(&record.key.ifname, false)?;
        }
        if let Addressing::Pool { default_route: true, .. } = self.request.addressing {
            // The container's first network keeps the default route.
            let others = inside.inside.netlink.routes(Some(TABLE_MAIN))?;
            record.routes.retain(|route| {
                route.dst.prefix_len() > 0
                    || self.request.routes.contains(route)
                    || !others.iter().any(|other| other.route.dst == route.dst)
            });
        }
        inside.configure(record)?;
        Ok(inside)
    }
}

/// What became of a pair.
enum Pair {
    Made,
    /// The host has a device of its name.
    NameTaken,
}

/// The container end of a pair.
enum End<'a> {
    Inside(Container),
    /// Here, for the runtime to move.
    Here(&'a IfName),
}

/// What the runtime will not do to the end it moves.
fn hand_over(bridge: &Bridge, peer: &IfName) -> Result<(), Error> {
    if bridge.is_userspace() {
        Inside::visit(&Netns::current()?)?.set_tx_checksum(peer, false)?;
    }
    Ok(())
}

/// The container's end of the pair.
struct Container {
    inside: Inside,
    index: u32,
    mac: Mac,
}

impl Container {
    /// Addresses, routes, up.
    fn configure(&mut self, record: &Record) -> Result<(), Error> {
        let addresses: Vec<_> = record.addresses.iter().map(|address| address.address).collect();
        Ok(self.inside.netlink.configure(self.index, &addresses, &record.routes)?)
    }

    /// Tells the neighbours, now that frames pass: an address may have moved from another MAC.
    fn announce(&mut self) -> Result<(), Error> {
        Ok(self.inside.netlink.announce(self.index, self.mac)?)
    }
}

/// The number at the end of an interface name ("eth0" → 0, "net12" → 12); 0 without one.
pub(super) fn index(ifname: &IfName) -> u32 {
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
