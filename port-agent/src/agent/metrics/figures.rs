//! The figures: names and units after the conventions of Prometheus (base units, `_total` for what
//! only grows, labels for what is counted apart).

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use shared::status::{self, Status};

use crate::Failure;
use crate::agent::Agent;

/// A figure with a fraction; counts fit exactly up to 2^53.
type Number = Gauge<f64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Plugs {
    bridge: String,
    runtime: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Pool {
    bridge: String,
    vlan: String,
    subnet: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Bridge {
    bridge: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Uplink {
    uplink: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Part {
    part: String,
}

/// Everything, as text. Blocks: it looks at the host.
pub(super) fn text(agent: &Agent) -> Result<String, Failure> {
    let start = Instant::now();
    let status = status::look(&agent.engine);
    let mut registry = Registry::default();
    let mut ours = Figures(registry.sub_registry_with_prefix("ovs_agent"));
    ours.build();
    ours.switch(&status);
    ours.pools(&status);
    ours.health(&status, agent);
    match agent.engine.ledger().reached() {
        Ok((seq, spooled)) => {
            ours.number("ledger_sequence", "Number of the newest line of the ledger", seq as f64);
            let help = "Lines that wait until the ledger can be written";
            ours.number("ledger_spooled_lines", help, spooled as f64);
        }
        Err(error) => tracing::debug!(%error, "the ledger is left out of the metrics"),
    }
    let repairs = agent.repairs.load(Ordering::Relaxed);
    let help = "Repairs of something that was lost on the host";
    ours.0.register("repairs", help, ConstCounter::new(repairs));
    let took = Number::default();
    took.set(start.elapsed().as_secs_f64());
    let help = "Time it took to look at the host for this answer";
    ours.0.register_with_unit("scrape_duration", help, Unit::Seconds, took);
    process(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry)
        .map_err(|error| Failure::Work(format!("the metrics cannot be written: {error}")))?;
    Ok(text)
}

struct Figures<'a>(&'a mut Registry);

impl Figures<'_> {
    fn build(&mut self) {
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        self.0.register("build", "The agent", version);
    }

    fn number(&mut self, name: &str, help: &str, value: f64) {
        let gauge = Number::default();
        gauge.set(value);
        self.0.register(name, help, gauge);
    }

    fn switch(&mut self, status: &Status) {
        let attached = Family::<Plugs, Gauge>::default();
        let troubled = Family::<Plugs, Gauge>::default();
        for plug in &status.attachments {
            let labels = Plugs { bridge: plug.bridge.clone(), runtime: plug.runtime.clone() };
            attached.get_or_create(&labels).inc();
            // Zero is said, too: an alarm needs something to compare with.
            troubled.get_or_create(&labels).inc_by(i64::from(plug.state != "ok"));
        }
        self.0.register("attachments", "Interfaces of containers that are plugged in", attached);
        let help = "Those of them whose port is missing, failed or elsewhere";
        self.0.register("attachments_troubled", help, troubled);
        let ports = Family::<Bridge, Gauge>::default();
        let up = Family::<Bridge, Gauge>::default();
        for bridge in &status.bridges {
            let labels = Bridge { bridge: bridge.name.clone() };
            ports.get_or_create(&labels).set(i64::try_from(bridge.ports).unwrap_or(i64::MAX));
            up.get_or_create(&labels).set(i64::from(bridge.state == "up"));
        }
        let help = "Ports of a bridge, its own and its uplink left out";
        self.0.register("bridge_ports", help, ports);
        self.0.register("bridge_up", "Whether a bridge is up", up);
        let carrier = Family::<Uplink, Gauge>::default();
        for uplink in &status.uplinks {
            let labels = Uplink { uplink: uplink.name.clone() };
            carrier.get_or_create(&labels).set(i64::from(uplink.state == "carrier"));
        }
        self.0.register("uplink_carrier", "Whether an uplink is up and has a carrier", carrier);
    }

    fn pools(&mut self, status: &Status) {
        let size = Family::<Pool, Number>::default();
        let used = Family::<Pool, Number>::default();
        for network in &status.networks {
            for pool in &network.pools {
                let labels = Pool {
                    bridge: network.bridge.clone(),
                    vlan: network.vlan.to_string(),
                    subnet: pool.subnet.to_string(),
                };
                size.get_or_create(&labels).set(pool.size as f64);
                used.get_or_create(&labels).set(pool.used as f64);
            }
        }
        self.0.register("pool_addresses", "Addresses a pool can give out", size);
        self.0.register("pool_addresses_used", "Addresses of a pool that are held", used);
    }

    /// Each part of the host and of the agent: 1 works, 0 does not; what is off is left out.
    fn health(&mut self, status: &Status, agent: &Agent) {
        let mut parts = BTreeMap::new();
        for health in status.health.iter().filter(|health| health.state != "off") {
            let works = parts.entry(health.part.clone()).or_insert(true);
            *works &= health.ok;
        }
        for (part, trouble) in agent.health.parts() {
            parts.insert(part, trouble.is_none());
        }
        let up = Family::<Part, Gauge>::default();
        for (part, works) in parts {
            up.get_or_create(&Part { part }).set(i64::from(works));
        }
        self.0.register("part_up", "Whether a part of the host or of the agent works", up);
    }
}

/// What every exporter says of itself, under the names all of them use.
fn process(registry: &mut Registry) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // proc_pid_stat(5); the name in parentheses may hold anything.
    let fields: Vec<u64> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().map(|n| n.parse().unwrap_or(0)).collect())
        .unwrap_or_default();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or_default();
    let mut say = |name: &str, help: &str, value: f64| {
        let gauge = Number::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    };
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    let page = u64::try_from(page.unwrap_or(4096)).unwrap_or(4096);
    let resident = field(24).saturating_mul(page);
    say("process_resident_memory_bytes", "Memory of the agent in RAM", resident as f64);
    let open = fs::read_dir("/proc/self/fd").map(Iterator::count).unwrap_or_default();
    say("process_open_fds", "File descriptors the agent has open", open as f64);
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
    let ticks = u64::try_from(ticks.unwrap_or(100)).unwrap_or(100).max(1);
    let seconds = (field(14) + field(15)) as f64 / ticks as f64;
    let help = "Processor time of the agent, user and system";
    registry.register_with_unit("process_cpu", help, Unit::Seconds, ConstCounter::new(seconds));
}
