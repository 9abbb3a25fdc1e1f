//! The engine on a private host, called directly: what a front end would ask for, and what an
//! attachment leaves behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use shared::attachment::record::Labels;
use shared::attachment::{
    Addressing, AttachRequest, CheckRequest, Engine, Error, Key, Record, Runtime, owner,
};
use shared::config::Config;
use shared::network::{self, Network};
use shared::ovsdb::Client;
use shared::vlan::PortVlan;

use crate::container::Container;
use crate::host::Host;
use crate::snapshot::Snapshot;

/// How long ovs-vswitchd may take to open a port; the machine may be busy with other tests.
const LINK_DEADLINE: Duration = Duration::from_secs(20);

/// How long ovs-vswitchd may take to follow the database, and to come back after a restart.
const RETURN_DEADLINE: Duration = Duration::from_secs(5);

/// The caller of every attachment made here, unless a test says otherwise.
pub const CALLER: &str = "rig";

/// The network of every attachment made here, unless a test says otherwise.
pub const NETWORK: &str = "lab";

/// A private host that `up` has prepared, and the engine on it.
#[derive(Debug)]
pub struct Lab {
    /// The host.
    pub host: Host,
    /// Its engine.
    pub engine: Engine,
}

impl Lab {
    /// The two bridges that come without a configuration file.
    pub fn new() -> Self {
        Self::of(Config::default())
    }

    /// A host prepared by `config`.
    pub fn of(config: Config) -> Self {
        let host = Host::new();
        network::host::up(&config).unwrap_or_else(|error| panic!("up: {error}"));
        let engine = Engine::new(config);
        engine.show().unwrap_or_else(|error| panic!("the managed block: {error}"));
        Self { host, engine }
    }

    /// "eth0" of a container on the NAT bridge, with addresses of its pools.
    pub fn request(&self, container: &str) -> AttachRequest {
        request(&self.engine, container)
    }

    /// The same without addresses, in the VLANs given.
    pub fn plain(&self, container: &str, vlan: PortVlan) -> AttachRequest {
        AttachRequest { vlan, addressing: Addressing::None, ..self.request(container) }
    }

    /// Plugs a container in; panics unless that succeeds.
    #[track_caller]
    pub fn attach(&self, container: &Container) -> Record {
        self.attach_as(&self.request(container.name()))
    }

    /// Plugs in as asked; panics unless that succeeds.
    #[track_caller]
    pub fn attach_as(&self, request: &AttachRequest) -> Record {
        match self.engine.attach(request) {
            Ok(record) => record,
            Err(error) => panic!("attach {}: {error}", request.key),
        }
    }

    /// Unplugs a container; panics unless that succeeds.
    #[track_caller]
    pub fn detach(&self, container: &str) {
        if let Err(error) = self.engine.detach(&key(container)) {
            panic!("detach {container}: {error}");
        }
    }

    /// CHECK of an attachment as its runtime asks for it: with the result of its ADD.
    pub fn check(&self, record: &Record) -> Result<(), Error> {
        self.engine.check(&CheckRequest {
            key: record.key.clone(),
            netns: record.netns.clone(),
            mac: None,
            addresses: record.addresses.clone(),
            routes: record.routes.clone(),
        })
    }

    /// A connection to its ovsdb-server.
    pub fn ovsdb(&self) -> Client {
        Client::connect(&self.engine.config().ovsdb, Duration::from_secs(5))
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// What attachments have left anywhere, a line each; empty if nothing.
    pub fn traces(&self) -> Vec<String> {
        let mut traces = Vec::new();
        for port in self.ovsdb().ports_with(&owner::ours()).expect("ovsdb answers") {
            if owner::key_of(&port).is_some() {
                traces.push(format!("port {}", port.name));
            }
        }
        for entry in fs::read_dir("/sys/class/net").expect("/sys/class/net").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let group = fs::read_to_string(entry.path().join("netdev_group")).unwrap_or_default();
            if group.trim() == shared::link::HOST_END_GROUP.to_string() {
                traces.push(format!("interface {name}"));
            }
        }
        let state = self.engine.state();
        for dir in [state.attachments(), state.leases()] {
            files(&dir, &mut traces);
        }
        traces.sort();
        traces
    }

    /// What the host looks like now.
    pub fn snapshot(&self) -> Snapshot {
        self.host.snapshot()
    }

    /// Panics unless the host looks again as it did; ovs-vswitchd takes its time after an act.
    #[track_caller]
    pub fn assert_returned(&self, before: &Snapshot, what: &str) {
        let end = Instant::now() + RETURN_DEADLINE;
        loop {
            let difference = before.difference(&self.snapshot());
            if difference.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "{what}: the host is not as it was:\n{difference}");
        }
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

/// "eth0" of a container.
pub fn key(container: &str) -> Key {
    Key {
        network: NETWORK.to_owned(),
        container: container.to_owned(),
        ifname: "eth0".parse().expect("a name"),
    }
}

/// "eth0" of the container at `/run/netns`, on the NAT bridge, with addresses of its pools.
pub fn request(engine: &Engine, container: &str) -> AttachRequest {
    let bridge = engine.config().nat_bridge().expect("a NAT bridge");
    AttachRequest {
        key: key(container),
        runtime: Runtime::Cni,
        caller: CALLER.to_owned(),
        netns: Path::new("/run/netns").join(container),
        bridge: bridge.name.clone(),
        vlan: PortVlan::untagged(),
        mtu: None,
        mac: None,
        ofport_request: None,
        interface_type: String::new(),
        external_ids: Default::default(),
        interface_external_ids: Default::default(),
        isolated: false,
        addressing: Addressing::Pool {
            network: Network::of_nat_bridge(bridge).expect("a NAT bridge"),
            requested: Vec::new(),
            default_route: true,
        },
        routes: Vec::new(),
        labels: Labels::default(),
        link_deadline: LINK_DEADLINE,
        ovsdb: None,
        front_end: serde_json::Value::Null,
    }
}

/// The files of records and leases; the order in which a pool gives its addresses is no trace.
fn files(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path: PathBuf = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if path.file_name().is_none_or(|name| name != ".order") {
            found.push(format!("file {}", path.display()));
        }
    }
}
