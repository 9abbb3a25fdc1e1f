//! Looks at the interfaces of the host: what `free` decides upon.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::attach::OVSDB_DEADLINE;
use super::free::{self, Behind, Elsewhere, Facts, Holder, Verdict};
use super::left::Marks;
use super::{Engine, Error, owner};
use crate::link::{HOST_END_GROUP, InstalledRoute, Link, Netlink};
use crate::name::IfName;
use crate::netns::{Netns, NetnsId};
use crate::ovsdb::Client;
use crate::state;

/// Where ip-netns(8) and the runtimes keep their namespaces.
const NETNS_DIRS: [&str; 2] = ["/run/netns", "/run/docker/netns"];

/// What a tap is opened through, below a `/dev` that may be another mount namespace's.
const TUN_DEVICE: &str = "net/tun";

/// linux/if_arp.h by way of the kernel's name: what a veth and a tun call themselves.
const VETH: &str = "veth";
const TUN: &str = "tun";

impl Engine {
    /// Every veth, tun and interface that `include_prefixes` names, and whether the monitor may
    /// take it. Changes nothing. `adopt` says that older ones count as well.
    pub fn look(&self, adopt: bool) -> Result<Vec<(Facts, Verdict)>, Error> {
        let mut netlink = Netlink::open()?;
        let links = netlink.links()?;
        let of_interest =
            |link: &Link| [VETH, TUN].contains(&link.kind.as_str()) || self.includes(&link.name);
        let mut looks = self.glance(&links, of_interest, adopt)?;
        if looks.iter().all(|facts| free::free(facts) != Verdict::Free) {
            return Ok(looks.into_iter().map(judged).collect());
        }
        // What costs more is looked up only for what is still free.
        let addressed = netlink.addressed()?;
        let routed = routed(&netlink.routes(None)?);
        let mut behind = BehindAll::default();
        for facts in looks.iter_mut().filter(|facts| free::free(facts) == Verdict::Free) {
            facts.addressed = addressed.contains(&facts.index);
            facts.routed = routed.contains(&facts.index);
            let link = links.iter().find(|link| link.index == facts.index);
            if let (Some(link), Verdict::Free) = (link, free::free(facts)) {
                facts.behind = behind.find(&mut netlink, link)?;
            }
        }
        Ok(looks.into_iter().map(judged).collect())
    }

    /// Everything known of one interface of this host, whatever its name; `None` without it.
    pub(super) fn look_at(&self, link: &Link, netlink: &mut Netlink) -> Result<Facts, Error> {
        let mut facts =
            self.glance(std::slice::from_ref(link), |_| true, true)?.pop().ok_or_else(|| {
                crate::link::Error::Missing { what: format!("interface {}", link.name) }
            })?;
        facts.addressed = netlink.addressed()?.contains(&link.index);
        facts.routed = routed(&netlink.routes(None)?).contains(&link.index);
        facts.behind = BehindAll::default().find(netlink, link)?;
        if let Some(master) = link.master {
            facts.master = Some(match netlink.link_by_index(master)? {
                Some(master) => master.name.to_string(),
                None => format!("link {master}"),
            });
        }
        Ok(facts)
    }

    /// Whether `include_prefixes` names it.
    pub(super) fn includes(&self, name: &IfName) -> bool {
        self.config().include_prefixes.iter().any(|prefix| name.as_str().starts_with(prefix))
    }

    /// What the links themselves, the switch and our own records say.
    fn glance(
        &self,
        links: &[Link],
        of_interest: impl Fn(&Link) -> bool,
        adopt: bool,
    ) -> Result<Vec<Facts>, Error> {
        let boot = state::boot_id()?;
        let mut ports = BTreeMap::new();
        for port in Client::connect(&self.config().ovsdb, OVSDB_DEADLINE)?.ports()? {
            // A row of an earlier boot is of an interface that was gone before this one came.
            let stale = owner::key_of(&port).is_some_and(|key| {
                owner::boot_of(&port).is_some_and(|made_in| made_in != boot)
                    && matches!(self.record(&key), Ok(None))
            });
            if !stale {
                let bridge = port.bridge.as_ref().map_or("?", IfName::as_str).to_owned();
                let ours = owner::key_of(&port).is_some();
                ports.insert(port.name, (bridge, ours));
            }
        }
        let marks = if adopt { Marks::default() } else { self.marks()? };
        let names: HashMap<u32, &IfName> =
            links.iter().map(|link| (link.index, &link.name)).collect();
        Ok(links
            .iter()
            .filter(|link| of_interest(link))
            .map(|link| Facts {
                index: link.index,
                name: link.name.clone(),
                mac: link.mac,
                included: self.includes(&link.name),
                behind: match link.kind.as_str() {
                    VETH if link.peer_netns.is_none() => Behind::Here,
                    VETH => Behind::Elsewhere(Elsewhere::default()),
                    TUN if link.tap && link.carrier => Behind::Tap(vec![Holder::unknown()]),
                    TUN => Behind::Tap(Vec::new()),
                    _ => Behind::Other,
                },
                ours: link.group == HOST_END_GROUP
                    || ports.get(&link.name).is_some_and(|(_, ours)| *ours),
                switch: ports.get(&link.name).map(|(bridge, _)| bridge.clone()),
                master: link.master.map(|master| {
                    names.get(&master).map_or_else(|| format!("link {master}"), |n| n.to_string())
                }),
                addressed: false,
                routed: false,
                left: marks.of(link.index),
            })
            .collect())
    }
}

fn judged(facts: Facts) -> (Facts, Verdict) {
    let verdict = free::free(&facts);
    (facts, verdict)
}

/// The links that routes lead through, those for link-local and multicast addresses left out: the
/// kernel makes them for every link that is up.
fn routed(routes: &[InstalledRoute]) -> BTreeSet<u32> {
    let own = |net: &IpNet| match net {
        IpNet::V4(_) => false,
        IpNet::V6(net) => net.addr().is_unicast_link_local() || net.addr().is_multicast(),
    };
    routes.iter().filter(|found| !own(&found.route.dst)).filter_map(|found| found.oif).collect()
}

/// What is behind interfaces, read from `/proc` and `/run/netns` once for all of them.
#[derive(Default)]
struct BehindAll {
    namespaces: Option<HashMap<i32, Namespace>>,
    holders: Option<Holders>,
}

/// One namespace beside ours.
#[derive(Debug, Clone)]
struct Namespace {
    path: PathBuf,
    name: Option<String>,
    whose: Option<free::Whose>,
}

impl BehindAll {
    fn find(&mut self, netlink: &mut Netlink, link: &Link) -> Result<Behind, Error> {
        Ok(match (link.kind.as_str(), link.peer_netns) {
            (VETH, None) => Behind::Here,
            (VETH, Some(number)) => {
                if self.namespaces.is_none() {
                    self.namespaces = Some(namespaces(netlink)?);
                }
                let all = self.namespaces.iter().flatten();
                let found = all.into_iter().find(|(known, _)| **known == number);
                Behind::Elsewhere(
                    found.map_or_else(Elsewhere::default, |(_, place)| other_end(place, link)),
                )
            }
            (TUN, _) if link.tap && link.carrier => {
                Behind::Tap(self.holders.get_or_insert_with(Holders::look).of(&link.name))
            }
            (TUN, _) => Behind::Tap(Vec::new()),
            _ => Behind::Other,
        })
    }
}

/// The other end of a veth, as far as its namespace can be entered.
fn other_end(place: &Namespace, link: &Link) -> Elsewhere {
    let peer = Netns::open(&place.path).ok().and_then(|netns| {
        let mut inside = netns.enter(Netlink::open).ok()?.ok()?;
        inside.link_by_index(link.peer_index?).ok()?
    });
    let peer = peer.filter(|peer| peer.peer_index == Some(link.index));
    Elsewhere {
        netns: Some(place.path.clone()),
        container: place.name.clone(),
        ifname: peer.as_ref().map(|peer| peer.name.clone()),
        mac: peer.and_then(|peer| peer.mac),
        whose: place.whose,
    }
}

/// The namespaces that this one has a number for: those with a name, and those of a process.
fn namespaces(netlink: &mut Netlink) -> Result<HashMap<i32, Namespace>, Error> {
    let mut found: HashMap<i32, Namespace> = HashMap::new();
    let mut by_id: HashMap<NetnsId, i32> = HashMap::new();
    for dir in NETNS_DIRS {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            // One that vanishes meanwhile, or was never mounted, is nobody's place.
            let Ok(netns) = Netns::open(&path) else { continue };
            if let Some(number) = netlink.netns_number(&netns)? {
                let whose = free::whose_netns(dir, &name);
                by_id.insert(netns.id(), number);
                found.insert(number, Namespace { path, name: Some(name), whose });
            }
        }
    }
    let own = Netns::current()?.id();
    let mut seen = BTreeSet::from([(own.dev, own.ino)]);
    for process in processes() {
        let path = process.join("ns/net");
        let Ok(netns) = Netns::open(&path) else { continue };
        let id = netns.id();
        if !seen.insert((id.dev, id.ino)) {
            continue;
        }
        let number = match by_id.get(&id) {
            Some(number) => Some(*number),
            None => netlink.netns_number(&netns)?,
        };
        let Some(number) = number else { continue };
        let (program, cgroup) = identity(&process);
        let place = found.entry(number).or_insert(Namespace { path, name: None, whose: None });
        place.whose = place.whose.or_else(|| free::whose(&program, &cgroup));
        if place.name.is_none() {
            place.name = free::container(&cgroup);
        }
    }
    Ok(found)
}

/// Who holds which tap open.
#[derive(Default)]
struct Holders {
    seen: BTreeMap<String, BTreeSet<Holder>>,
    /// Whether some process does not show what it holds: one of another user, to an agent without
    /// CAP_DAC_READ_SEARCH.
    hidden: bool,
    /// Whether one of those is somebody's who plugs in his taps himself.
    stranger: bool,
}

impl Holders {
    /// `iff:` in the fdinfo of each open `/dev/net/tun` (proc_pid_fdinfo(5)).
    fn look() -> Self {
        let mut this = Self::default();
        for process in processes() {
            let fds = match fs::read_dir(process.join("fd")) {
                Ok(fds) => fds,
                Err(error) => {
                    if error.kind() == io::ErrorKind::PermissionDenied {
                        let (program, cgroup) = identity(&process);
                        this.hidden = true;
                        this.stranger |= free::whose(&program, &cgroup).is_some();
                    }
                    continue;
                }
            };
            for fd in fds.flatten() {
                if fs::read_link(fd.path()).is_ok_and(|target| target.ends_with(TUN_DEVICE))
                    && let Ok(info) =
                        fs::read_to_string(process.join("fdinfo").join(fd.file_name()))
                    && let Some(name) = info.lines().find_map(|line| line.strip_prefix("iff:\t"))
                {
                    let (program, cgroup) = identity(&process);
                    let whose = free::whose(&program, &cgroup);
                    let holders = this.seen.entry(name.trim().to_owned()).or_default();
                    holders.insert(Holder { program, whose });
                }
            }
        }
        this
    }

    /// Who holds a tap of which the kernel says that it is held. If none is seen, it is one of those
    /// that hide it; as long as none of them is a stranger, it does not matter which.
    fn of(&self, name: &IfName) -> Vec<Holder> {
        match self.seen.get(name.as_str()) {
            Some(seen) => seen.iter().cloned().collect(),
            None if self.hidden && !self.stranger => vec![Holder::unknown()],
            None => Vec::new(),
        }
    }
}

/// `/proc/PID` of every process.
fn processes() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_pid = |name: &std::ffi::OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    entries.filter(move |entry| is_pid(&entry.file_name())).map(|entry| entry.path())
}

/// A process's name and its cgroups; empty once it is gone.
fn identity(process: &Path) -> (String, String) {
    let read = |file| fs::read_to_string(process.join(file)).unwrap_or_default();
    (read("comm").trim().to_owned(), read("cgroup"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Route;

    #[test]
    fn only_routes_that_somebody_gave_count() {
        let route = |dst: &str, oif| InstalledRoute {
            route: Route::new(dst.parse().unwrap(), None),
            oif,
            protocol: 2,
            unreachable: false,
        };
        let routes = [
            route("fe80::/64", Some(1)),
            route("ff00::/8", Some(2)),
            route("10.0.0.0/8", Some(3)),
            route("fd00::/8", Some(4)),
            route("192.0.2.1/32", Some(3)),
            route("10.9.0.0/16", None),
        ];
        assert_eq!(routed(&routes), BTreeSet::from([3, 4]));
    }

    #[test]
    fn a_hidden_holder_is_nobody_unless_a_stranger_hides() {
        let (seen, unseen): (IfName, IfName) = ("tap1".parse().unwrap(), "tap2".parse().unwrap());
        let vm = Holder { program: "qemu".to_owned(), whose: None };
        let mut holders = Holders::default();
        holders.seen.insert("tap1".to_owned(), BTreeSet::from([vm.clone()]));
        assert_eq!(holders.of(&unseen), []);
        holders.hidden = true;
        assert_eq!(holders.of(&seen), vec![vm.clone()]);
        assert_eq!(holders.of(&unseen), [Holder::unknown()]);
        holders.stranger = true;
        assert_eq!(holders.of(&seen), [vm]);
        assert_eq!(holders.of(&unseen), []);
    }
}
