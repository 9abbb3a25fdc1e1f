//! DEL: from the record, or without one from `external_ids`; collects errors and goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use super::attach::{OVSDB_DEADLINE, lock_key};
use super::freed::Freed;
use super::ports::Withdrawn;
use super::record::{Key, Record};
use super::{Engine, Error, owner};
use crate::control;
use crate::error::sentence;
use crate::ledger::Action;
use crate::link::{self, HOST_END_GROUP, Link, Netlink, Unlink};
use crate::mac::Mac;
use crate::name::IfName;
use crate::netns::{self, Netns};
use crate::ovsdb::{Client, Generation};
use crate::state;

/// How long an agent may take to put a host end out of sight; later we remove it ourselves.
const UNLINK_DEADLINE: Duration = Duration::from_millis(250);

/// What was there of an attachment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unplugged {
    /// Whether anything was.
    pub(super) found: bool,
    /// Its published ports.
    pub(super) ports: Withdrawn,
}

impl Engine {
    /// Unplugs. Needs neither namespace nor bridge nor configuration of the attachment; succeeds
    /// when there is nothing (more) to do. Returns the record there was.
    ///
    /// # Errors
    /// [`Error::Remains`] says what could not be removed. The record then stays, so that the same
    /// call or GC can finish.
    pub fn detach(&self, key: &Key) -> Result<Option<Record>, Error> {
        let state = self.state();
        state.prepare()?;
        let _lock = state.lock(&lock_key(key))?;
        self.detach_locked(key)
    }

    /// The same; the caller holds the lock.
    pub(super) fn detach_locked(&self, key: &Key) -> Result<Option<Record>, Error> {
        // A record that says nothing must not keep the container plugged in.
        let record = self.record_if_sound(key)?;
        let recorded = self.record_path(key).exists();
        let unplugged = self.unplug(key, record.as_ref(), OVSDB_DEADLINE)?;
        if recorded || unplugged.found {
            // The record last: killed in between, the next DEL tells it again.
            self.write_ledger(key, record.as_ref(), Action::Detach, None);
            self.show_unless_agent();
        } else {
            self.show_if_behind();
        }
        self.forget(key, &unplugged)?;
        Ok(record)
    }

    /// Unplugs what `seen` is the record of if it still is, and if it is `lost` yet now that nobody
    /// else is at work on it. False if not.
    pub(super) fn detach_lost(
        &self,
        seen: &Record,
        lost: impl FnOnce(&mut Netlink) -> Result<bool, Error>,
    ) -> Result<bool, Error> {
        let state = self.state();
        state.prepare()?;
        let _lock = state.lock(&lock_key(&seen.key))?;
        let still = self.record(&seen.key)?.as_ref() == Some(seen) && lost(&mut Netlink::open()?)?;
        if still {
            self.detach_locked(&seen.key)?;
        }
        Ok(still)
    }

    /// Removes the record, if there is one.
    pub(super) fn forget(&self, key: &Key, unplugged: &Unplugged) -> Result<(), Error> {
        state::remove(&self.record_path(key))?;
        if unplugged.ports != Withdrawn::Later {
            // Published after `unplug` began.
            self.withdraw(key);
        }
        Ok(())
    }

    /// Removes port, link and leases of one attachment; the caller holds its lock.
    pub(super) fn unplug(
        &self,
        key: &Key,
        record: Option<&Record>,
        deadline: Duration,
    ) -> Result<Unplugged, Error> {
        if let Some((record, adopted)) = record.and_then(|r| Some((r, r.adopted.as_ref()?))) {
            let found = self.give_back_interface(record, adopted)?;
            return Ok(Unplugged { found, ports: Withdrawn::Nothing });
        }
        // Before its address can be another container's.
        let ports = self.withdraw(key);
        let mut found = ports != Withdrawn::Nothing;
        let mut remains = Vec::new();
        let mut names = BTreeMap::new();
        // An address is free once nothing can use it any more.
        let mut gone = true;
        if let Some(record) = record {
            names.insert(record.port.clone(), record.host_mac);
        }
        match self.delete_ports(key, record, deadline) {
            Ok(ports) => {
                for port in ports {
                    let mac = owner::host_mac(key, &port);
                    names.insert(port, mac);
                }
            }
            Err(error) => {
                // Without a record only the switch knows which interface it was.
                gone = record.is_some();
                remains.push(format!("its port: {}", sentence(&error)));
            }
        }
        let known = !names.is_empty();
        if record.is_none() {
            // Record and row may both be lost; the first choice of the template never is, and its
            // MAC proves whose it is.
            let name = self.first_name(key);
            let mac = owner::host_mac(key, &name);
            names.insert(name, mac);
        }
        let mut deleted = false;
        for (name, mac) in &names {
            match self.delete_host_end(name, *mac) {
                Ok(found) => deleted |= found,
                Err(error) => {
                    gone = false;
                    remains.push(format!("its interface {name}: {}", sentence(&error)));
                }
            }
        }
        if let Some(record) = record.filter(|record| record.complete && !deleted)
            && let Err(error) = delete_container_end(record)
        {
            gone = false;
            remains.push(format!(
                "{} in {}: {}",
                key.ifname,
                record.netns.display(),
                sentence(&error)
            ));
        }
        let mut freed = 0;
        // What a rule leads to yet, the agent frees when it has taken the rule back.
        if gone && ports != Withdrawn::Later {
            match self.release(key, record) {
                Ok(count) => freed = count,
                Err(error) => remains.push(format!("its addresses: {}", sentence(&error))),
            }
        }
        if !remains.is_empty() {
            return Err(Error::Remains { key: key.clone(), what: remains.join("; ") });
        }
        found |= freed > 0 || known || deleted;
        Ok(Unplugged { found, ports })
    }

    /// Removes the ports that say they belong to `key`; returns their names.
    pub(super) fn delete_ports(
        &self,
        key: &Key,
        record: Option<&Record>,
        deadline: Duration,
    ) -> Result<Vec<IfName>, Error> {
        let server = record.and_then(|record| record.ovsdb.as_ref());
        let mut ovsdb = Client::connect(server.unwrap_or(&self.config().ovsdb), deadline)?;
        let ports = ovsdb.ports_with(&owner::identity(key))?;
        let mut names: Vec<_> = ports.iter().map(|port| port.name.clone()).collect();
        // Somebody else removed it: ovs-vswitchd may not know that yet.
        names.extend(record.map(|record| record.port.clone()).filter(|name| !names.contains(name)));
        if !names.is_empty() {
            let rows: Vec<_> = ports.into_iter().map(|port| port.uuid).collect();
            self.free_names(&names, ovsdb.delete_ports(&rows)?);
        }
        Ok(names)
    }

    /// Notes which port names are gone from the switch at `generation`.
    pub(super) fn free_names(&self, names: &[IfName], generation: Generation) {
        let freed = Freed::new(self.state().freed());
        for name in names {
            if let Err(error) = freed.note(name, generation) {
                tracing::warn!(port = %name, %error, "cannot note that the port name was freed");
            }
        }
    }

    /// Frees the leases; returns how many.
    pub(super) fn release(&self, key: &Key, record: Option<&Record>) -> Result<usize, Error> {
        let (pools, owner) = (self.pools(), key.to_string());
        match record {
            Some(record) if record.complete => {
                let mut count = 0;
                for held in &record.leases {
                    count += usize::from(pools.release(held.subnet, held.ip, &owner)?);
                }
                Ok(count)
            }
            // Without a finished record nobody knows which: look through the pools.
            _ => Ok(pools.release_all(&owner)?.len()),
        }
    }

    /// Deletes the host end, and with it its peer, wherever a rename took it, if it is provably the
    /// one we made: a veth in our group with the MAC derived from attachment and name.
    pub(super) fn delete_host_end(&self, name: &IfName, mac: Mac) -> Result<bool, Error> {
        let ours = |link: &Link| {
            link.kind == "veth" && link.group == HOST_END_GROUP && link.mac == Some(mac)
        };
        let mut netlink = Netlink::open()?;
        let found = match netlink.link(name)?.filter(ours) {
            Some(link) => Some(link),
            None => netlink.links()?.into_iter().find(ours),
        };
        let Some(Link { name, index, .. }) = found else { return Ok(false) };
        // An agent waits in our place until the kernel is done with it.
        let unlink = Unlink { name, index, mac };
        let asked = control::ask(&self.state(), "unlink", &unlink, UNLINK_DEADLINE);
        if !asked.unwrap_or(false) || link::exists(&unlink.name)? {
            netlink.delete_link(index)?;
        }
        Ok(true)
    }
}

/// Deletes the container end where the host end was moved away: only in the very namespace of a
/// finished record, and only with the recorded MAC.
fn delete_container_end(record: &Record) -> Result<(), Error> {
    let netns = match Netns::open(&record.netns) {
        Err(netns::Error::Missing { .. } | netns::Error::NotANamespace { .. }) => return Ok(()),
        netns => netns?,
    };
    if Some(netns.id()) != record.netns_id {
        return Ok(());
    }
    let mut inside = netns.enter(Netlink::open)??;
    if let Some(link) = inside.link(&record.key.ifname)?
        && link.kind == "veth"
        && link.mac == Some(record.mac)
    {
        inside.delete_link(link.index)?;
    }
    Ok(())
}
