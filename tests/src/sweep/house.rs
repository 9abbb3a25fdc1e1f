//! The host of a sweep: things of others that must stay as they are, a neighbour that must not
//! notice, and the invariants.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use shared::attachment::{Engine, owner};
use shared::config::Config;
use shared::ledger::{Action, Event};

use super::verb::Verb;
use crate::container::Container;
use crate::docker_driver::DockerDriver;
use crate::host::Host;
use crate::lab::Lab;
use crate::snapshot::Snapshot;
use crate::traffic::EchoServer;
use crate::uplink::Uplink;

/// Longest until the host is as it should be (I6).
const CONVERGED: Duration = Duration::from_secs(10);

/// Where the Docker driver keeps what it knows.
const DOCKER: &str = "/var/lib/ovs-port-agent/docker";

/// What others have on the host, of every kind that ours could be mistaken for.
const OTHERS: &str = "
    ovs-vsctl add-br theirs -- set Bridge theirs datapath_type=netdev \
        -- add-port theirs theirs-in -- set Interface theirs-in type=internal
    ip link add theirs-a type veth peer name theirs-b
    ip address add 192.0.2.1/24 dev theirs-a
    ip link set theirs-a up
    ip link set theirs-b up
    nft 'add table inet theirs; add chain inet theirs in { type filter hook input priority 0; };
        add rule inet theirs in tcp dport 9 drop'
    iptables-nft -A FORWARD -s 192.0.2.0/24 -j ACCEPT
    ip6tables-nft -A FORWARD -s 2001:db8:77::/64 -j ACCEPT
    ip rule add priority 777 from 192.0.2.0/24 lookup 77
    ip route add 192.0.2.128/25 dev theirs-a table 77";

/// Everything that `up` can make.
const FULL: &str = r#"
[[bridge]]
name = "ovsbr0"
mode = "direct"
uplink = "enp2s0"
addresses = ["198.18.1.10/24"]
gateway = "198.18.1.1"

[[bridge]]
name = "ovsbr1"
mode = "nat"
addresses = ["10.200.0.1/24", "fd00:200::1/64"]
uplink = "wlp4s0"
mtu = 1400
"#;

/// The container of a sweep.
pub(super) const WEB: &str = "web";

// Fields drop in this order: the host last.
#[derive(Debug)]
pub(super) struct House {
    pub(super) driver: RefCell<Option<DockerDriver>>,
    web: RefCell<Option<Container>>,
    neighbour: Option<Neighbour>,
    before: Snapshot,
    _uplinks: [Uplink; 2],
    pub(super) lab: Lab,
}

/// A container that is plugged in all the time.
#[derive(Debug)]
struct Neighbour {
    address: IpAddr,
    _server: EchoServer,
    _container: Container,
}

impl House {
    pub(super) fn new(verb: Verb) -> Self {
        let host = Host::new();
        let wired = host.uplink("enp2s0", 1);
        host.ip("link set enp2s0 down");
        let wifi = host.uplink("wlp4s0", 2).addressed(&host).routed(&host, 600);
        host.sh(OTHERS);
        host.switch().wait_open("theirs-in");
        host.config(FULL);
        let path = Path::new(shared::config::DEFAULT_PATH);
        let config = Config::load(path, Path::new(shared::config::SYSFS)).expect("a configuration");
        let lab = Lab { host, engine: Engine::new(config) };
        let web = lab.host.container(WEB);
        let mut this = Self {
            driver: RefCell::default(),
            web: RefCell::new(Some(web)),
            neighbour: None,
            before: lab.snapshot(),
            _uplinks: [wired, wifi],
            lab,
        };
        if verb.needs_bridges() {
            this.lab.host.port_agent().run("up");
            this.neighbour = Some(Neighbour::new(&this.lab));
        }
        if verb.is_docker() {
            this.drive();
        }
        // Directories, and the gateway of a VLAN's first container, come and stay.
        super::life::warm_up(&this, verb);
        this.before = this.picture();
        this
    }

    /// The Docker driver, started unless it runs.
    pub(super) fn drive(&self) {
        let mut driver = self.driver.borrow_mut();
        if !driver.as_ref().is_some_and(DockerDriver::alive) {
            *driver = Some(self.lab.host.docker_driver());
        }
    }

    /// Calls the Docker driver; panics unless the answer is free of an error.
    #[track_caller]
    pub(super) fn docker(&self, method: &str, body: &serde_json::Value) -> serde_json::Value {
        self.drive();
        self.driver.borrow().as_ref().expect("it runs").ok(method, body)
    }

    /// The container's namespace goes, as after a crash.
    pub(super) fn lose_web(&self) {
        self.web.borrow_mut().take().expect("a container").remove();
    }

    /// The container's namespace is there again, unless it never went.
    pub(super) fn new_web(&self) {
        self.web.borrow_mut().get_or_insert_with(|| self.lab.host.container(WEB));
    }

    /// The container reaches the neighbour, or its gateway where it is in a network of its own.
    pub(super) fn assert_traffic(&self, gateway: Option<&str>) {
        let web = self.web.borrow();
        let (web, neighbour) = (web.as_ref().expect("a container"), self.neighbour.as_ref());
        match gateway {
            Some(gateway) => {
                let ping = ["-n", "-q", "-c", "1", "-W", "2", gateway];
                assert!(web.command("ping").args(ping).output().ok(), "{gateway} is silent");
            }
            None => {
                let address = neighbour.expect("a neighbour").address;
                let echo = web.tcp_echo(address, 10_000);
                echo.unwrap_or_else(|error| panic!("no traffic to {address}: {error}"));
            }
        }
    }

    /// What there is of attachments, when `plugged` of them live beside the neighbour: the records,
    /// the switch and the replayed ledger tell the same (I4), nobody shares an address (I2), and
    /// nothing else of ours is there (I1).
    pub(super) fn assert_true(&self, plugged: usize) {
        let engine = &self.lab.engine;
        let expected = plugged + usize::from(self.neighbour.is_some());
        let (records, unreadable) = engine.records().expect("records");
        assert!(unreadable.is_empty(), "{unreadable:?}");
        let keys: BTreeSet<_> = records.iter().map(|record| record.key.to_string()).collect();
        assert_eq!(keys.len(), expected, "records: {keys:?}");
        assert!(records.iter().all(|record| record.complete), "an intent is left: {records:?}");
        let ports = self.lab.ovsdb().ports_with(&owner::ours()).expect("ovsdb answers");
        let ports: BTreeSet<_> =
            ports.iter().filter_map(owner::key_of).map(|key| key.to_string()).collect();
        assert_eq!(ports, keys, "the switch's ports, and the records");
        let ledger = engine.ledger();
        let mut report = ledger.verify().expect("the ledger");
        if report.spooled > 0 {
            // Late, not lost: they come with the next line.
            ledger.append(&Event::new("rig", Action::Up)).expect("a line");
            report = ledger.verify().expect("the ledger");
        }
        assert!(report.is_sound() && report.spooled == 0, "{report:?}");
        let word = |text: &Option<String>| text.clone().unwrap_or_default();
        let told = ledger.open().expect("the ledger").into_iter().map(|line| line.event);
        let told: BTreeSet<_> = told
            .map(|e| format!("{}/{}/{}", word(&e.network), word(&e.container), word(&e.ifname)))
            .collect();
        assert_eq!(told, keys, "the replayed ledger, and the records");
        let mut held = BTreeSet::new();
        for record in &records {
            for lease in &record.leases {
                assert!(held.insert((lease.subnet, lease.ip)), "{} has two owners", lease.ip);
            }
        }
        let leases = engine.pools().leases().expect("leases");
        for (subnet, lease) in &leases {
            let owned = records.iter().any(|record| {
                record.key.to_string() == lease.owner
                    && record.leases.iter().any(|h| (h.subnet, h.ip) == (*subnet, lease.ip))
            });
            // dockerd asks for an address long before it plugs in.
            let docker = lease.owner.starts_with("docker/");
            assert!(owned || docker, "{lease:?} has no attachment");
        }
        assert!(leases.len() >= held.len(), "{held:?} are held, but leased are {leases:?}");
    }

    /// Everything is as it was before (I1, I3), within ten seconds (I6).
    pub(super) fn assert_returned(&self) {
        let end = Instant::now() + CONVERGED;
        loop {
            let difference = self.before.difference(&self.picture());
            if difference.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "the host is not as it was:\n{difference}");
        }
    }

    fn picture(&self) -> Snapshot {
        self.lab.snapshot().with_tree(DOCKER)
    }
}

impl Neighbour {
    fn new(lab: &Lab) -> Self {
        let container = lab.host.container("neighbour");
        let record = lab.attach(&container);
        let server = container.echo_server();
        let address = record.addresses[0].address.addr();
        Self { address, _server: server, _container: container }
    }
}
