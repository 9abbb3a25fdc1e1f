//! Everything that says what is plugged in, read at once.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;

use crate::address::{Lease, UNREADABLE};
use crate::attachment::Engine;
use crate::attachment::attach::OVSDB_DEADLINE;
use crate::attachment::owner;
use crate::attachment::record::{Record, Runtime};
use crate::error::{Fault, sentence};
use crate::file;
use crate::link::{Link, Netlink};
use crate::mac::Mac;
use crate::name::IfName;
use crate::network::Network;
use crate::network::gateway::Networks;
use crate::ovsdb::{Client, Port};
use crate::publish::Publication;
use crate::state;

/// What the sources say.
pub(super) struct Sources {
    pub boot: String,
    /// Seconds since boot.
    pub uptime: u64,
    pub records: Vec<Record>,
    pub ports: Vec<Port>,
    pub links: Links,
    /// What records and ports say they are of.
    pub known: HashSet<String>,
    /// Addresses of the containers that Docker plugged in: their leases are named after a pool.
    pub of_docker: HashSet<IpAddr>,
    pub leases: Vec<(IpNet, Lease)>,
    pub networks: Vec<Network>,
    pub publications: Vec<Publication>,
    pub docker: Docker,
}

/// What tells one link from another.
pub(super) struct Links {
    pub names: HashSet<IfName>,
    macs: HashSet<Mac>,
    indices: HashSet<u32>,
}

/// What Docker's driver keeps, as far as it must be spared.
pub(super) struct Docker {
    pub networks: Vec<Network>,
    /// Its pools and endpoints, as text: owners of leases are looked for in it. `None`: it keeps
    /// them elsewhere, or nowhere.
    pub leases: Option<String>,
}

/// The part of a Docker network's file that says where it lives.
#[derive(Deserialize)]
struct DockerNetwork {
    place: Network,
}

impl Engine {
    /// Reads everything; what is lost in part is named in `unreadable`.
    pub(super) fn sources(&self, unreadable: &mut Vec<String>) -> Result<Sources, String> {
        fn said<T, E: Fault>(result: Result<T, E>) -> Result<T, String> {
            result.map_err(|error| sentence(&error))
        }
        let state = self.state();
        let (records, lost) = said(self.records())?;
        unreadable.extend(lost.iter().map(|error| sentence(error)));
        let mut publications = Vec::new();
        for path in said(state::files(&state.ports()))? {
            match state::read(&path) {
                Ok(publication) => publications.extend::<Option<Publication>>(publication),
                Err(error) => unreadable.push(sentence(&error)),
            }
        }
        let mut leases = said(self.pools().leases())?;
        leases.retain(|(subnet, lease)| {
            if lease.owner == UNREADABLE {
                unreadable.push(format!("the lease of {} in {subnet} cannot be read", lease.ip));
            }
            lease.owner != UNREADABLE
        });
        let mut ovsdb = said(Client::connect(&self.config().ovsdb, OVSDB_DEADLINE))?;
        let ports = said(ovsdb.ports())?;
        let recorded = records.iter().map(|record| record.key.to_string());
        let plugged = ports.iter().filter_map(owner::key_of).map(|key| key.to_string());
        let known = recorded.chain(plugged).collect();
        let docker = records.iter().filter(|record| record.runtime == Runtime::Docker);
        let of_docker =
            docker.flat_map(|r| r.addresses.iter().map(|held| held.address.addr())).collect();
        Ok(Sources {
            boot: said(state::boot_id())?,
            uptime: state::uptime(),
            records,
            ports,
            links: said(Netlink::open().and_then(|mut netlink| netlink.links())).map(Links::of)?,
            known,
            of_docker,
            leases,
            networks: said(Networks::new(self.config()).all())?,
            publications,
            docker: Docker::read(&self.config().ledger_path.with_file_name("docker"))
                .map_err(|error| format!("cannot read what Docker's driver keeps: {error}"))?,
        })
    }
}

impl Sources {
    /// Whether anybody of Docker's may be using a lease. A driver that keeps what it has elsewhere
    /// (`--state`) may.
    pub(super) fn docker_keeps(&self, lease: &Lease) -> bool {
        let kept = self.docker.leases.as_ref();
        kept.is_none_or(|text| text.contains(&format!("\"{}\"", lease.owner)))
            || self.of_docker.contains(&lease.ip)
    }
}

impl Docker {
    fn read(dir: &Path) -> io::Result<Self> {
        let texts = |room: &str| -> io::Result<Vec<String>> {
            let dir: PathBuf = dir.join(room);
            let entries = match fs::read_dir(&dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                entries => entries?,
            };
            let json = |path: &PathBuf| path.extension().is_some_and(|end| end == "json");
            let paths: Vec<_> =
                entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
            let text =
                |path: &PathBuf| String::from_utf8(file::read(path)?).map_err(io::Error::other);
            paths.iter().filter(|path| json(path)).map(text).collect()
        };
        let kept = texts("pools")?.concat() + &texts("endpoints")?.concat();
        let leases = fs::exists(dir.join("pools"))?.then_some(kept);
        let mut docker = Self { networks: Vec::new(), leases };
        for text in texts("networks")? {
            docker.networks.push(serde_json::from_str::<DockerNetwork>(&text)?.place);
        }
        Ok(docker)
    }
}

impl Links {
    fn of(links: Vec<Link>) -> Self {
        Self {
            macs: links.iter().filter_map(|link| link.mac).collect(),
            indices: links.iter().map(|link| link.index).collect(),
            names: links.into_iter().map(|link| link.name).collect(),
        }
    }

    /// Whether the interface of a record is there, under whatever name it has now.
    pub(super) fn has_host_end(&self, record: &Record) -> bool {
        self.names.contains(&record.port)
            || match &record.adopted {
                Some(adopted) => self.indices.contains(&adopted.index),
                None => self.macs.contains(&record.host_mac),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(owner: &str, ip: &str) -> Lease {
        Lease { ip: ip.parse().unwrap(), owner: owner.to_owned(), since: 0 }
    }

    /// Only a lease that nobody knows of is nobody's.
    #[test]
    fn dockers_leases_are_kept_by_pools_endpoints_containers_and_doubt() {
        let state = tempfile::tempdir().unwrap();
        let mut sources = Sources {
            boot: String::new(),
            uptime: 10_000,
            records: Vec::new(),
            ports: Vec::new(),
            links: Links::of(Vec::new()),
            known: HashSet::new(),
            of_docker: HashSet::from(["10.0.0.4".parse().unwrap()]),
            leases: Vec::new(),
            networks: Vec::new(),
            publications: Vec::new(),
            docker: Docker::read(state.path()).unwrap(),
        };
        let nobodys = lease("docker/ovs-1/9", "10.0.0.9");
        assert!(sources.docker_keeps(&nobodys), "its driver keeps what it has elsewhere");
        for (room, text) in
            [("pools", "[\"docker/ovs-1/2\"]"), ("endpoints", "[\"docker/ovs-1/3\"]")]
        {
            fs::create_dir(state.path().join(room)).unwrap();
            fs::write(state.path().join(room).join("a.json"), text).unwrap();
        }
        sources.docker = Docker::read(state.path()).unwrap();
        assert!(!sources.docker_keeps(&nobodys));
        for kept in [
            lease("docker/ovs-1/2", "10.0.0.2"),
            lease("docker/ovs-1/3", "10.0.0.3"),
            lease("docker/ovs-1/5", "10.0.0.4"),
        ] {
            assert!(sources.docker_keeps(&kept), "{kept:?}");
        }
    }
}
