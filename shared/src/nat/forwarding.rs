//! Forwarding, switched on only where it is needed, and set back exactly.
//!
//! Whether a packet is forwarded is asked of the interface it comes in by. For IPv4 that is the
//! interface's own setting. For IPv6 it is `force_forwarding` since Linux 6.17; before, one switch
//! for the whole host, which makes it deaf to router advertisements unless `accept_ra` is 2.
//!
//! What is changed is written down first, in `forwarding.json` of the state directory. It dies
//! with the boot, as the settings do.

use std::fs;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use serde::{Deserialize, Serialize};

use super::routing::Uplinks;
use super::{Error, Segment, kernel_error};
use crate::link;
use crate::link::sysctl::{Family, Sysctl};
use crate::name::IfName;
use crate::state::{self, State};

/// Every interface's setting hangs on these two besides its own.
const ALL: &str = "all";
const DEFAULT: &str = "default";

/// How IPv6 forwarding is switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6 {
    /// `force_forwarding` of each interface (Linux 6.17).
    PerInterface,
    /// `net.ipv6.conf.all.forwarding`.
    Everywhere,
}

impl Ipv6 {
    /// What this kernel offers. One that cannot be asked is not made a router altogether.
    pub fn of_this_kernel() -> Self {
        let switch = Path::new("/proc/sys/net/ipv6/conf/all/force_forwarding");
        if switch.try_exists().unwrap_or(true) { Self::PerInterface } else { Self::Everywhere }
    }
}

/// Where forwarding is on because we switched it on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Switched {
    /// Uplinks, for IPv4.
    pub(super) ipv4: Vec<IfName>,
    /// Uplinks, for IPv6.
    pub(super) ipv6: Vec<IfName>,
    /// Every interface, for IPv6.
    pub(super) all_ipv6: bool,
}

impl Switched {
    pub(super) fn is_empty(&self) -> bool {
        self.ipv4.is_empty() && self.ipv6.is_empty() && !self.all_ipv6
    }
}

/// One setting we changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Change {
    /// 4 or 6.
    ip: u8,
    interface: IfName,
    /// The interface's index: another one by that name is not what we changed. 0 for none.
    index: u32,
    key: String,
    before: String,
    after: String,
}

impl Change {
    fn new(ip: u8, interface: &str, key: &str, after: &str) -> Result<Option<Self>, Error> {
        let Ok(interface) = interface.parse::<IfName>() else { return Ok(None) };
        let index = index_of(&interface)?;
        let (key, after) = (key.to_owned(), after.to_owned());
        let mut change = Self { ip, interface, index, key, before: String::new(), after };
        let Some(before) = change.read()? else { return Ok(None) };
        change.before = before;
        Ok(Some(change))
    }

    fn is_same_setting(&self, other: &Self) -> bool {
        (self.ip, &self.interface, self.index, &self.key)
            == (other.ip, &other.interface, other.index, &other.key)
    }

    fn sysctl(&self) -> Sysctl {
        let family = if self.ip == 4 { Family::Ipv4 } else { Family::Ipv6 };
        Sysctl::new(family, &self.interface, &self.key)
    }

    /// The value now; `None` without such an interface, or on a kernel without IPv6.
    fn read(&self) -> Result<Option<String>, Error> {
        match self.sysctl().read() {
            Ok(value) => Ok(Some(value)),
            Err(link::Error::Missing { .. }) => Ok(None),
            Err(source) => Err(kernel_error("read a setting", source)),
        }
    }

    fn write(&self, value: &str) -> Result<bool, Error> {
        match self.sysctl().ensure(value) {
            Ok(changed) => Ok(changed),
            // It vanished meanwhile, its settings with it.
            Err(link::Error::Missing { .. }) => Ok(false),
            Err(source) => Err(kernel_error("switch forwarding", source)),
        }
    }

    /// Sets it back, if it is still what we made of it.
    fn restore(&self) -> Result<bool, Error> {
        if index_of(&self.interface)? != self.index {
            return Ok(false);
        }
        let Some(now) = self.read()? else { return Ok(false) };
        // Equal ones are those which the switch for all would have lost.
        if now != self.after && self.before != self.after {
            return Ok(false);
        }
        // Somebody else (Docker) wants this host to be a router meanwhile.
        let per_interface = self.key == "forwarding" && self.interface.as_str() != ALL;
        if per_interface && self.before == "0" && forwards_all(self.ip)? {
            return Ok(false);
        }
        self.write(&self.before)
    }
}

/// What is to be switched, and what it means for the rules.
#[derive(Debug)]
pub(super) struct Wanted {
    changes: Vec<Change>,
    pub(super) switched: Switched,
}

/// What we have changed so far.
#[derive(Debug)]
pub(super) struct Forwarding {
    state: State,
    path: PathBuf,
    changes: Vec<Change>,
}

impl Forwarding {
    /// Reads what was changed before.
    pub(super) fn recall(state: &State) -> Result<Self, Error> {
        let path = state.dir().join("forwarding.json");
        let changes = state::read(&path)?.unwrap_or_default();
        Ok(Self { state: state.clone(), path, changes })
    }

    /// Compares what the segments need with what is; changes nothing.
    pub(super) fn plan(
        &self,
        segments: &[Segment],
        uplinks: &Uplinks,
        ipv6: Ipv6,
    ) -> Result<Wanted, Error> {
        let has = |v6: bool| {
            let mut subnets = segments.iter().flat_map(|segment| &segment.subnets);
            subnets.any(|subnet| matches!(subnet, IpNet::V6(_)) == v6)
        };
        let gateways = || segments.iter().map(|segment| segment.interface.as_str());
        let mut changes = Vec::new();
        let mut want = |ip, interface: &str, key, after| -> Result<bool, Error> {
            let change = Change::new(ip, interface, key, after)?;
            let found = change.is_some();
            changes.extend(change);
            Ok(found)
        };
        for segment in segments {
            // Every interface has its half of IPv4.
            if !want(4, segment.interface.as_str(), "forwarding", "1")? {
                return Err(Error::Missing { interface: segment.interface.clone() });
            }
            // A container must not configure its host (CVE-2020-13401).
            want(6, segment.interface.as_str(), "accept_ra", "0")?;
        }
        if has(false) {
            for uplink in &uplinks.ipv4 {
                want(4, uplink.as_str(), "forwarding", "1")?;
            }
        }
        match ipv6 {
            Ipv6::PerInterface if has(true) => {
                for interface in gateways().chain(uplinks.ipv6.iter().map(IfName::as_str)) {
                    want(6, interface, "force_forwarding", "1")?;
                }
            }
            Ipv6::Everywhere if has(true) => self.plan_everywhere(segments, &mut changes)?,
            _ => {}
        }

        // Known ones keep what they were before the first time.
        for change in &mut changes {
            if let Some(known) = self.changes.iter().find(|known| known.is_same_setting(change)) {
                change.before.clone_from(&known.before);
            }
        }
        let keeps = |change: &Change| {
            let everywhere = change.ip == 6 && change.key == "forwarding";
            change.before != change.after || everywhere
        };
        changes.retain(keeps);
        let switched = switched(&changes, uplinks)?;
        Ok(Wanted { changes, switched })
    }

    /// The switch for all: interfaces that listen to router advertisements go on listening.
    fn plan_everywhere(
        &self,
        segments: &[Segment],
        changes: &mut Vec<Change>,
    ) -> Result<(), Error> {
        let Some(all) = Change::new(6, ALL, "forwarding", "1")? else { return Ok(()) };
        let known = self.changes.iter().filter(|change| change.ip == 6);
        let known: Vec<&Change> = known.collect();
        let ours = known.iter().any(|change| change.is_same_setting(&all));
        if all.before == "1" && !ours {
            return Ok(());
        }
        for interface in interfaces()? {
            let is_gateway = segments.iter().any(|s| s.interface.as_str() == interface);
            if interface == ALL || is_gateway {
                continue;
            }
            let Some(listens) = Change::new(6, &interface, "accept_ra", "2")? else { continue };
            if listens.before == "1" || known.iter().any(|change| change.is_same_setting(&listens))
            {
                changes.push(listens);
            }
            // Switching all off again would take these along. Afterwards they all look like this,
            // so only what was remembered counts then.
            let routes = Change::new(6, &interface, "forwarding", "1")?;
            let counts = |routes: &Change| {
                if ours {
                    known.iter().any(|change| change.is_same_setting(routes))
                } else {
                    routes.before == "1"
                }
            };
            changes.extend(routes.filter(counts));
        }
        changes.push(all);
        Ok(())
    }

    /// Does it: writes down first, sets back what is not wanted any more.
    pub(super) fn switch(&mut self, wanted: &Wanted) -> Result<bool, Error> {
        let stale: Vec<Change> = self
            .changes
            .iter()
            .filter(|known| !wanted.changes.iter().any(|change| change.is_same_setting(known)))
            .cloned()
            .collect();
        let mut changed = false;
        if stale.is_empty() {
            self.save(&wanted.changes)?;
        } else {
            let both: Vec<Change> = stale.iter().chain(&wanted.changes).cloned().collect();
            self.save(&both)?;
        }
        for change in stale.iter().rev() {
            changed |= change.restore()?;
        }
        for change in &wanted.changes {
            changed |= change.write(&change.after)?;
        }
        self.save(&wanted.changes)?;
        Ok(changed)
    }

    /// Sets everything back.
    pub(super) fn restore(&mut self) -> Result<bool, Error> {
        let mut changed = false;
        for change in self.changes.iter().rev() {
            changed |= change.restore()?;
        }
        // Also what a killed process was about to write.
        state::remove(&self.path)?;
        self.changes.clear();
        Ok(changed)
    }

    fn save(&mut self, changes: &[Change]) -> Result<(), Error> {
        if self.changes == changes {
            return Ok(());
        }
        if changes.is_empty() {
            state::remove(&self.path)?;
        } else {
            self.state.prepare()?;
            state::write(&self.path, &changes)?;
        }
        self.changes = changes.to_vec();
        Ok(())
    }
}

/// Whether the kernel forwards what comes in by the segment's gateway interface.
pub fn is_on(segment: &Segment) -> Result<bool, Error> {
    let on = |ip, interface: &str, key| -> Result<bool, Error> {
        Ok(Change::new(ip, interface, key, "1")?.is_some_and(|setting| setting.before == "1"))
    };
    let name = segment.interface.as_str();
    let has_v6 = segment.subnets.iter().any(|subnet| matches!(subnet, IpNet::V6(_)));
    let v6 = !has_v6 || on(6, name, "force_forwarding")? || on(6, ALL, "forwarding")?;
    Ok(v6 && on(4, name, "forwarding")?)
}

/// Uplinks on which nothing was forwarded before us. Once somebody switches the whole host to
/// forwarding, he wants a router.
fn switched(changes: &[Change], uplinks: &Uplinks) -> Result<Switched, Error> {
    let by_us = |ip: u8, key: &str, name: &IfName| {
        changes
            .iter()
            .any(|c| c.ip == ip && c.key == key && &c.interface == name && c.before == "0")
    };
    let pick = |ip: u8, key: &str, names: &[IfName]| -> Vec<IfName> {
        names.iter().filter(|name| by_us(ip, key, name)).cloned().collect()
    };
    let all_ipv6 = changes.iter().any(|c| {
        c.ip == 6 && c.key == "forwarding" && c.interface.as_str() == ALL && c.before == "0"
    });
    let ipv4 = if forwards_all(4)? { Vec::new() } else { pick(4, "forwarding", &uplinks.ipv4) };
    let ipv6 =
        if forwards_all(6)? { Vec::new() } else { pick(6, "force_forwarding", &uplinks.ipv6) };
    Ok(Switched { ipv4, ipv6, all_ipv6 })
}

fn forwards_all(ip: u8) -> Result<bool, Error> {
    Ok(Change::new(ip, ALL, "forwarding", "1")?.is_some_and(|all| all.before == "1"))
}

/// The index of an interface; 0 for `all`, `default` and what does not exist. Who cannot ask must not
/// take it for gone: it would be switched off.
fn index_of(interface: &IfName) -> Result<u32, Error> {
    match if_nametoindex(interface.as_str()) {
        Ok(index) => Ok(index),
        Err(Errno::ENODEV) => Ok(0),
        Err(errno) => {
            let action = format!("read the index of {interface}");
            let source = link::Error::System { action, source: errno.into() };
            Err(kernel_error("read a setting", source))
        }
    }
}

/// Every interface with IPv6 settings, and `default`, which new ones begin with.
fn interfaces() -> Result<Vec<String>, Error> {
    let path = Path::new("/proc/sys/net/ipv6/conf");
    let failed = |source| Error::List { path: path.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    names.sort_unstable_by_key(|name| (name != DEFAULT, name.clone()));
    Ok(names)
}
