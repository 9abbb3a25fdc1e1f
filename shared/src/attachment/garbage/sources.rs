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
    /// Its pools, as text: owners of leases are looked for in it. `None`: they are not here.
    pub pools: Option<String>,
    /// Its endpoints, as text: addresses are looked for in it.
    pub endpoints: String,
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
        let Docker { pools, endpoints, .. } = &self.docker;
        pools.as_ref().is_none_or(|pools| pools.contains(&format!("\"{}\"", lease.owner)))
            || endpoints.contains(&format!("\"{}/", lease.ip))
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
        let pools = fs::exists(dir.join("pools"))?.then(|| texts("pools")).transpose()?;
        let mut docker = Self {
            pools: pools.map(|texts| texts.concat()),
            endpoints: texts("endpoints")?.concat(),
            networks: Vec::new(),
        };
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
