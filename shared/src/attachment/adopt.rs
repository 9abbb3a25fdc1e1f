//! Interfaces that somebody else made, plugged in as they are: by hand, over D-Bus, or by the
//! monitor. What was found is given back.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::attach::{NAME_CHOICES, OVSDB_DEADLINE, index, is_plugged, lock_key};
use super::free::{self, Behind, Elsewhere, Facts, Left, Reason};
use super::freed::{Freed, is_held};
use super::record::{Adopted, Key, Labels, PortExtras, Record, Runtime};
use super::{Engine, Error, owner};
use crate::error::sentence;
use crate::ledger::Action;
use crate::link::{self, HOST_END_GROUP, Inside, Link, Netlink};
use crate::lock::Lock;
use crate::name::IfName;
use crate::netns::Netns;
use crate::ovsdb::{BridgeView, Client, Generation};
use crate::state;
use crate::vlan::PortVlan;

/// Ports in one transaction: few enough for one lock file each, enough for a storm.
const BATCH: usize = 64;

/// How long ovs-vswitchd may take to close a port whose interface is given back.
const LET_GO: Duration = Duration::from_secs(3);

/// How interfaces are to be plugged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adoption {
    /// The bridge.
    pub bridge: IfName,
    /// The VLANs of the ports.
    pub vlan: PortVlan,
    /// Whether veths are renamed by the naming template; a tap keeps the name its owner knows.
    pub rename: bool,
    /// Who asks: "attach", "monitor".
    pub caller: String,
    /// How long to wait for ovs-vswitchd to open the ports.
    pub link_deadline: Duration,
}

/// One interface to be plugged in by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandRequest {
    /// Its name; with `netns` also the name of its other end there.
    pub interface: IfName,
    /// The namespace that its other end is in; found by itself if `None`.
    pub netns: Option<PathBuf>,
    /// How.
    pub how: Adoption,
}

/// What [`Engine::detach_vanished`] did.
#[derive(Debug, Default)]
pub struct Vanished {
    /// Detached, because the interface is gone or has another name.
    pub detached: Vec<Record>,
    /// What could not be detached.
    pub failed: Vec<Error>,
}

/// One interface on its way into the switch. Its attachment is locked.
struct Begun {
    record: Record,
    _lock: Lock,
}

impl Engine {
    /// Plugs interfaces of the host in as `look` found them. In batches: one transaction each.
    ///
    /// # Errors
    /// The outer one says why none could even be begun; the inner ones, in order, why this one was
    /// not plugged in. It is then as it was.
    pub fn adopt(
        &self,
        how: &Adoption,
        interfaces: &[Facts],
    ) -> Result<Vec<Result<Record, Error>>, Error> {
        self.state().prepare()?;
        let mut results = Vec::with_capacity(interfaces.len());
        for batch in interfaces.chunks(BATCH) {
            results.extend(self.adopt_batch(how, batch)?);
        }
        if results.iter().any(Result::is_ok) {
            self.show_unless_agent();
        }
        Ok(results)
    }

    /// Plugs one interface in by name. Asked again it returns the same record.
    pub fn attach_interface(&self, request: &HandRequest) -> Result<Record, Error> {
        let mut netlink = Netlink::open()?;
        let link = match self.adopted(&request.interface, &mut netlink)? {
            Some(found) => netlink.link(&found.port)?,
            None => None,
        };
        let link = match link {
            Some(link) => link,
            None => host_end(request, &mut netlink)?,
        };
        if let Some(found) = self.adopted(&link.name, &mut netlink)? {
            let same = found.bridge == request.how.bridge && found.vlan == request.how.vlan;
            let is_it = found.adopted.as_ref().is_some_and(|adopted| adopted.index == link.index);
            let mut ovsdb = Client::connect(&self.config().ovsdb, OVSDB_DEADLINE)?;
            if same && is_it && found.complete && is_plugged(&mut ovsdb, &found)? {
                return Ok(found);
            }
            // Another bridge or VLAN, half plugged in, or gone and another of that name there: from
            // the beginning.
            self.detach(&found.key)?;
        }
        let link = netlink.link_by_index(link.index)?.unwrap_or(link);
        let mut facts = self.look_at(&link, &mut netlink)?;
        let reason = match free::taken(&facts) {
            Some(reason) => Some(reason),
            None if facts.mac.is_none() => Some(Reason::NoEthernet),
            None => None,
        };
        if let Some(reason) = reason {
            return Err(Error::InUse { interface: link.name, reason });
        }
        if let Some(netns) = &request.netns {
            facts.behind = Behind::Elsewhere(named_end(netns, &link, facts.behind)?);
        }
        let mut results = self.adopt(&request.how, std::slice::from_ref(&facts))?;
        let record = results
            .pop()
            .unwrap_or(Err(Error::NoInterface { interface: request.interface.clone() }))?;
        self.mark(link.index, None)?;
        Ok(record)
    }

    /// Unplugs an interface that was plugged in by hand or by the monitor, under the name it has
    /// or had, and gives it back as it was. The monitor does not take it again.
    pub fn detach_interface(&self, interface: &IfName) -> Result<Record, Error> {
        let Some(record) = self.adopted(interface, &mut Netlink::open()?)? else {
            let foreign = self.records()?.0.into_iter().find(|record| record.port == *interface);
            return Err(match foreign {
                Some(Record { runtime, key, port, .. }) => Error::Foreign { port, runtime, key },
                None => Error::NotPlugged { interface: interface.clone() },
            });
        };
        if let Some(adopted) = record.adopted.as_ref().filter(|a| self.includes(&a.name)) {
            // First, or the monitor is quicker.
            self.mark(adopted.index, Some(Left::Detached))?;
        }
        self.detach(&record.key)?;
        Ok(record)
    }

    /// Unplugs what was plugged in and is gone, or has been renamed by its owner, or was never
    /// plugged in to the end.
    pub fn detach_vanished(&self) -> Result<Vanished, Error> {
        let mut netlink = Netlink::open()?;
        let links = netlink.links()?;
        let mut vanished = Vanished::default();
        for record in self.records()?.0 {
            let Some(adopted) = &record.adopted else { continue };
            // One that nobody is plugging in any more is given back: the next look takes it.
            let is_it = |link: &Link| {
                link.index == adopted.index && link.name == record.port && record.complete
            };
            if links.iter().any(is_it)
                || (!record.complete && self.state().is_locked(&lock_key(&record.key))?)
            {
                continue;
            }
            // Since that look it may have been renamed by us, or another have taken its place.
            let gone = |netlink: &mut Netlink| {
                Ok(!netlink.link_by_index(adopted.index)?.as_ref().is_some_and(is_it))
            };
            match self.detach_lost(&record, gone) {
                Ok(true) => vanished.detached.push(record),
                Ok(false) => {}
                Err(error) => vanished.failed.push(error),
            }
        }
        Ok(vanished)
    }

    /// The adopted interface of that name, or the only one that had it before, where no other has it
    /// now.
    fn adopted(&self, name: &IfName, netlink: &mut Netlink) -> Result<Option<Record>, Error> {
        let (all, _unreadable) = self.records()?;
        let mut adopted: Vec<_> = all.into_iter().filter(|r| r.adopted.is_some()).collect();
        if let Some(at) = adopted.iter().position(|record| record.port == *name) {
            return Ok(Some(adopted.swap_remove(at)));
        }
        if netlink.link(name)?.is_some() {
            return Ok(None);
        }
        adopted.retain(|record| record.adopted.as_ref().is_some_and(|had| had.name == *name));
        let mut alive = Vec::new();
        for record in &adopted {
            if is_alive(record, netlink)? {
                alive.push(record.clone());
            }
        }
        match alive.len() {
            0 => Ok(adopted.pop()),
            1 => Ok(alive.pop()),
            _ => Ok(None),
        }
    }

    fn adopt_batch(
        &self,
        how: &Adoption,
        interfaces: &[Facts],
    ) -> Result<Vec<Result<Record, Error>>, Error> {
        let mut ovsdb = Client::connect(&self.config().ovsdb, OVSDB_DEADLINE)?;
        let view = ovsdb.view(&how.bridge)?;
        let mut netlink = Netlink::open()?;
        let mut begun: Vec<Result<Begun, Error>> = Vec::with_capacity(interfaces.len());
        for facts in interfaces {
            begun.push(self.begin(how, facts, &view, &mut ovsdb, &mut netlink));
        }
        let specs: Vec<_> = begun.iter().flatten().map(|one| one.record.port_spec()).collect();
        // All in one; if the switch refuses that, one by one, so that one cannot spoil the rest.
        let together = ovsdb.add_ports(&view.bridge.name, &specs.iter().collect::<Vec<_>>());
        let until = Instant::now() + how.link_deadline;
        let mut results = Vec::with_capacity(begun.len());
        for one in begun {
            results.push(one.and_then(|one| {
                let added = match &together {
                    Ok(()) => Ok(()),
                    Err(_) => ovsdb.add_port(&view.bridge.name, &one.record.port_spec()).map(drop),
                };
                let left = until.saturating_duration_since(Instant::now());
                added
                    .and_then(|()| ovsdb.wait_open(&one.record.port, left))
                    .map_err(Error::from)
                    .and_then(|_| self.settle(&one.record))
                    .map_err(|cause| self.undone(cause, &one.record))
            }));
        }
        Ok(results)
    }

    /// Everything before the switch: the intent, then the interface itself.
    fn begin(
        &self,
        how: &Adoption,
        facts: &Facts,
        view: &BridgeView,
        ovsdb: &mut Client,
        netlink: &mut Netlink,
    ) -> Result<Begun, Error> {
        let mut key = key(how, facts);
        let mut lock = self.state().lock(&lock_key(&key))?;
        let link = unchanged(facts, netlink)?;
        let mut found = self.record_if_sound(&key)?;
        let mut is_anothers = |found: &Option<Record>| match found {
            Some(Record { adopted: Some(adopted), .. }) if adopted.index == facts.index => {
                Ok(false)
            }
            Some(record) => is_alive(record, netlink),
            None => Ok(false),
        };
        if is_anothers(&found)? {
            // Plugged in under another name, it has left its own to this one.
            key.container = format!("{}-{}", key.container, facts.index);
            lock = self.state().lock(&lock_key(&key))?;
            found = self.record_if_sound(&key)?;
        }
        let taken = is_anothers(&found)?;
        match found {
            Some(found) if found.adopted.is_none() || taken => {
                let (runtime, key) = (found.runtime, found.key);
                return Err(Error::Foreign { port: found.port, runtime, key });
            }
            // What a crash left, or an interface of that container that is gone. The row of an
            // earlier boot has no record, and is removed as well.
            found => self.start_over(&key, found.as_ref())?,
        }
        let mut record = Record {
            runtime: Runtime::Host,
            caller: how.caller.clone(),
            boot_id: state::boot_id()?,
            complete: false,
            since: state::now(),
            uptime: state::uptime(),
            netns: facts.end().and_then(|end| end.netns.clone()).unwrap_or_default(),
            netns_id: None,
            bridge: how.bridge.clone(),
            port: link.name.clone(),
            vlan: how.vlan.clone(),
            isolated: false,
            host_mac: facts.mac.ok_or_else(|| in_use(facts, Reason::NoEthernet))?,
            mac: facts
                .end()
                .and_then(|end| end.mac)
                .or(facts.mac)
                .ok_or_else(|| in_use(facts, Reason::NoEthernet))?,
            mtu: link.mtu,
            addresses: Vec::new(),
            routes: Vec::new(),
            leases: Vec::new(),
            labels: Labels::default(),
            extras: PortExtras::default(),
            adopted: Some(Adopted {
                name: link.name.clone(),
                index: link.index,
                group: link.group,
                up: link.up,
            }),
            ovsdb: None,
            front_end: serde_json::Value::Null,
            key,
        };
        self.save(&record)?;
        let done = self
            .name(how, facts, ovsdb, netlink, &mut record)
            .and_then(|()| prepare(facts, view, netlink, &record));
        match done {
            Ok(()) => Ok(Begun { record, _lock: lock }),
            Err(cause) => Err(self.undone(cause, &record)),
        }
    }

    /// Gives the interface the name of its port, or waits until the switch has forgotten the last
    /// port of its name.
    fn name(
        &self,
        how: &Adoption,
        facts: &Facts,
        ovsdb: &mut Client,
        netlink: &mut Netlink,
        record: &mut Record,
    ) -> Result<(), Error> {
        let freed = Freed::new(self.state().freed());
        let is_veth = matches!(facts.behind, Behind::Here | Behind::Elsewhere(_));
        if !(how.rename && is_veth) {
            if let Some(next) = held(&record.port, how, &freed, ovsdb)? {
                ovsdb.wait_applied(next, how.link_deadline)?;
            }
            return Ok(());
        }
        let template = &self.config().naming_template;
        for salt in 0..NAME_CHOICES {
            let name = template.render(&record.key.container, index(&record.key.ifname), salt);
            if name == facts.name {
                return Ok(());
            }
            if held(&name, how, &freed, ovsdb)?.is_some() || ovsdb.port(&name)?.is_some() {
                continue;
            }
            match netlink.rename(facts.index, &name) {
                Ok(()) => {
                    record.port = name;
                    return self.save(record);
                }
                Err(link::Error::Exists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::NoName { key: record.key.clone(), tried: NAME_CHOICES })
    }

    /// The end of it: told, recorded.
    fn settle(&self, record: &Record) -> Result<Record, Error> {
        let mut record = record.clone();
        record.complete = true;
        self.write_ledger(&record.key, Some(&record), Action::Attach, None);
        self.save(&record).inspect_err(|_| {
            self.write_ledger(&record.key, Some(&record), Action::Detach, None);
        })?;
        Ok(record)
    }

    /// Takes back what was begun; the caller holds the lock.
    fn undone(&self, cause: Error, record: &Record) -> Error {
        match self.start_over(&record.key, Some(record)) {
            Ok(()) => cause,
            Err(left) => Error::Left { cause: Box::new(cause), left: Box::new(left) },
        }
    }

    /// Takes an adopted interface out of the switch, and makes it what it was. True if there was
    /// anything to do.
    pub(super) fn give_back_interface(
        &self,
        record: &Record,
        adopted: &Adopted,
    ) -> Result<bool, Error> {
        let mut remains = Vec::new();
        let mut netlink = Netlink::open()?;
        let link = netlink.link_by_index(adopted.index)?;
        let found = self.take_out(record, link.is_some()).unwrap_or_else(|error| {
            remains.push(format!("its port: {}", sentence(&error)));
            false
        });
        let given = link.map_or(Ok(()), |link| give_back(&mut netlink, &link, record, adopted));
        match given {
            // Gone is given back, meanwhile as well.
            Ok(()) | Err(Error::Link(link::Error::Missing { .. })) => {}
            Err(error) => {
                remains.push(format!("its interface {}: {}", record.port, sentence(&error)));
            }
        }
        if remains.is_empty() {
            Ok(found || record.complete)
        } else {
            let (key, what) = (record.key.clone(), remains.join("; "));
            Err(Error::Remains { key, what })
        }
    }
}

impl Engine {
    /// Removes the port; true if there was one. Where the interface lives on, ovs-vswitchd has
    /// let go of it afterwards: it puts the flags back that it found.
    fn take_out(&self, record: &Record, lives: bool) -> Result<bool, Error> {
        let mut ovsdb = Client::connect(&self.config().ovsdb, OVSDB_DEADLINE)?;
        let ports = ovsdb.ports_with(&owner::identity(&record.key))?;
        let rows: Vec<_> = ports.iter().map(|port| port.uuid.clone()).collect();
        let generation = ovsdb.delete_ports(&rows)?;
        let names = ports.into_iter().map(|port| port.name).chain([record.port.clone()]);
        self.free_names(
            &names.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>(),
            generation,
        );
        if lives && !rows.is_empty() && !ovsdb.wait_applied(generation, LET_GO)? {
            tracing::warn!(port = %record.port, "ovs-vswitchd has not let go of it in time");
        }
        Ok(!rows.is_empty())
    }
}

impl Facts {
    /// The other end of a veth that is in another namespace.
    pub fn end(&self) -> Option<&Elsewhere> {
        match &self.behind {
            Behind::Elsewhere(end) => Some(end),
            _ => None,
        }
    }
}

/// If the switch may still hold an old port of that name: until when.
fn held(
    name: &IfName,
    how: &Adoption,
    freed: &Freed,
    ovsdb: &mut Client,
) -> Result<Option<Generation>, Error> {
    let Some(noted) = freed.noted(name) else { return Ok(None) };
    // As it is now: what was begun before may have freed it a moment ago.
    let view = ovsdb.view(&how.bridge)?;
    Ok(is_held(noted, view.next, view.current).then_some(view.next))
}

/// Whether the interface that was adopted is there yet, whatever it is called.
fn is_alive(record: &Record, netlink: &mut Netlink) -> Result<bool, Error> {
    match &record.adopted {
        Some(adopted) => Ok(netlink.link_by_index(adopted.index)?.is_some()),
        None => Ok(false),
    }
}

/// Which attachment an interface becomes: the container's own interface where it is known, else
/// the name it has here.
fn key(how: &Adoption, facts: &Facts) -> Key {
    let known = facts.end().and_then(|end| Some((end.container.clone()?, end.ifname.clone()?)));
    let (container, ifname) = known.unwrap_or_else(|| (facts.name.to_string(), facts.name.clone()));
    Key { network: how.bridge.to_string(), container, ifname }
}

/// The link itself, if it is still the one that was looked at and still nobody's.
fn unchanged(facts: &Facts, netlink: &mut Netlink) -> Result<Link, Error> {
    let changed = |what| Error::Changed { interface: facts.name.clone(), what };
    let link = netlink.link_by_index(facts.index)?.ok_or_else(|| changed("it is gone"))?;
    if link.name != facts.name {
        return Err(changed("it has another name"));
    }
    if link.mac != facts.mac {
        return Err(changed("it has another MAC"));
    }
    if link.master.is_some() {
        return Err(changed("it is a member of something"));
    }
    if !netlink.addresses(link.index)?.iter().all(|net| match net {
        ipnet::IpNet::V4(_) => false,
        ipnet::IpNet::V6(net) => net.addr().is_unicast_link_local(),
    }) {
        return Err(changed("it has an address"));
    }
    Ok(link)
}

/// The interface as a port: up, its group, the host's own stack quiet on it, and checksums that
/// somebody computes.
fn prepare(
    facts: &Facts,
    view: &BridgeView,
    netlink: &mut Netlink,
    record: &Record,
) -> Result<(), Error> {
    netlink.set_group(facts.index, HOST_END_GROUP)?;
    netlink.silence(&record.port)?;
    netlink.set_up(facts.index, true)?;
    if view.bridge.is_userspace() {
        match facts.end() {
            Some(Elsewhere { netns: Some(netns), ifname: Some(ifname), .. }) => {
                Inside::visit(&Netns::open(netns)?)?.set_tx_checksum(ifname, false)?;
            }
            Some(_) => tracing::warn!(
                port = %record.port,
                "its other end is in a namespace without name or process: checksum offload stays \
                 on there, and TCP may not pass the userspace datapath"
            ),
            None => {}
        }
    }
    Ok(())
}

fn give_back(
    netlink: &mut Netlink,
    link: &Link,
    record: &Record,
    adopted: &Adopted,
) -> Result<(), Error> {
    // Whoever changed its group or MAC has made it his.
    if link.mac == Some(record.host_mac) && link.group == HOST_END_GROUP {
        netlink.set_group(link.index, adopted.group)?;
        netlink.unsilence(&link.name)?;
        if !adopted.up {
            netlink.set_up(link.index, false)?;
        }
    }
    if link.name == record.port && link.name != adopted.name {
        rename_back(netlink, adopted)?;
    }
    Ok(())
}

/// A name that somebody has taken meanwhile is his.
fn rename_back(netlink: &mut Netlink, adopted: &Adopted) -> Result<(), Error> {
    match netlink.rename(adopted.index, &adopted.name) {
        Ok(()) | Err(link::Error::Exists { .. } | link::Error::Missing { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn in_use(facts: &Facts, reason: Reason) -> Error {
    Error::InUse { interface: facts.name.clone(), reason }
}

/// The interface that a request by hand names, on this host.
fn host_end(request: &HandRequest, netlink: &mut Netlink) -> Result<Link, Error> {
    if let Some(link) = netlink.link(&request.interface)? {
        return Ok(link);
    }
    let missing = || Error::NoInterface { interface: request.interface.clone() };
    // "eth0 of web" is as good a name for the pair as its name here.
    let netns = Netns::open(request.netns.as_deref().ok_or_else(missing)?)?;
    let inside = netns.enter(Netlink::open)??.link(&request.interface)?.ok_or_else(missing)?;
    let here = netlink.link_by_index(inside.peer_index.ok_or_else(missing)?)?;
    here.filter(|link| link.kind == "veth" && link.peer_index == Some(inside.index))
        .ok_or_else(missing)
}

/// The other end where the request says it is.
fn named_end(netns: &std::path::Path, link: &Link, found: Behind) -> Result<Elsewhere, Error> {
    let there = Netns::open(netns)?;
    let peer = match link.peer_index {
        Some(peer) if link.peer_netns.is_some() => {
            there.enter(Netlink::open)??.link_by_index(peer)?
        }
        _ => None,
    };
    let peer = peer
        .filter(|peer| peer.peer_index == Some(link.index))
        .ok_or_else(|| Error::NotThere { interface: link.name.clone(), netns: netns.to_owned() })?;
    let named = netns.file_name().map(|name| name.to_string_lossy().into_owned());
    let known = match found {
        Behind::Elsewhere(end) => end,
        _ => Elsewhere::default(),
    };
    Ok(Elsewhere {
        netns: Some(netns.to_owned()),
        container: known.container.or(named.filter(|name| name != "net")),
        ifname: Some(peer.name),
        mac: peer.mac,
        whose: known.whose,
    })
}
