//! What the agent tells Prometheus, over a unix socket and a loopback port.

use std::fs;

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rig::{Command, Daemon, Host, poll};
use serde_json::json;

const SOCKET: &str = "/run/ovs-port-agent/metrics.sock";

/// Far above what it takes; a machine under load is slow.
const SOON: Duration = Duration::from_secs(10);

/// Reads the metrics as Prometheus does, strictly, and prints `name{labels} value` sorted.
const READER: &str = "import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read
for family in read(sys.stdin.read()):
    assert family.documentation, family
    for s in family.samples:
        labels = ','.join(f'{k}={v}' for k, v in sorted(s.labels.items()))
        print(f'{s.name}{{{labels}}} {s.value:g}')
";

fn start(host: &Host) -> Daemon {
    let agent = Daemon::start("ovs-port-agent", host.port_agent().command("run"));
    agent.ready(SOON, || agent.log().contains("the host is up"));
    agent
}

/// Status line with headers, and body.
fn ask(mut stream: impl std::io::Read + std::io::Write, request: &str) -> (String, String) {
    stream
        .write_all(format!("{request}\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text}"));
    (head.to_owned(), body.to_owned())
}

fn scrape() -> (String, String) {
    ask(UnixStream::connect(SOCKET).unwrap(), "GET /metrics HTTP/1.1")
}

/// The samples, a line each.
fn samples() -> Vec<String> {
    let (head, body) = scrape();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    let read = Command::new("python3").args(["-c", READER]).stdin(body.clone()).output();
    assert!(read.ok(), "no OpenMetrics: {read}\n{body}");
    read.stdout.lines().map(str::to_owned).collect()
}

/// The value of a sample.
#[track_caller]
fn value(samples: &[String], name: &str) -> f64 {
    let found = samples.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {name} in {samples:#?}")).parse().unwrap()
}

#[test]
fn figures_follow_the_host() {
    let host = Host::new();
    let _wire = host.uplink("eth0", 1).addressed(&host).routed(&host, 100);
    host.config(&format!(
        "metrics_listen = \"unix:{SOCKET}\"\n[[bridge]]\nname = \"ovsbr1\"\nmode = \"nat\"\n\
         addresses = [\"10.200.0.1/24\"]\n"
    ));
    let _agent = start(&host);
    poll("the socket is there", SOON, || UnixStream::connect(SOCKET).ok());
    assert_eq!(fs::metadata(SOCKET).unwrap().permissions().mode() & 0o777, 0o600);
    let now = samples();
    assert_eq!(value(&now, "ovs_agent_bridge_up{bridge=ovsbr1}"), 1.0);
    assert_eq!(value(&now, "ovs_agent_bridge_ports{bridge=ovsbr1}"), 0.0);
    assert_eq!(value(&now, "ovs_agent_uplink_carrier{uplink=eth0}"), 1.0);
    let pool = "{bridge=ovsbr1,subnet=10.200.0.0/24,vlan=0}";
    assert_eq!(value(&now, &format!("ovs_agent_pool_addresses{pool}")), 253.0);
    assert_eq!(value(&now, &format!("ovs_agent_pool_addresses_used{pool}")), 0.0);
    for part in ["ovsdb-server", "ovs-vswitchd", "agent", "keeper", "metrics", "report"] {
        assert_eq!(value(&now, &format!("ovs_agent_part_up{{part={part}}}")), 1.0, "{part}");
    }
    assert_eq!(value(&now, "ovs_agent_repairs_total{}"), 0.0);
    assert_eq!(value(&now, "ovs_agent_ledger_spooled_lines{}"), 0.0);
    let lines = value(&now, "ovs_agent_ledger_sequence{}");
    assert!(value(&now, "process_resident_memory_bytes{}") > 1e6);
    assert!(value(&now, "process_open_fds{}") > 3.0);
    assert!(value(&now, "ovs_agent_scrape_duration_seconds{}") < 5.0);
    assert!(now.iter().any(|line| line.starts_with("ovs_agent_build_info{version=")), "{now:#?}");

    let web = host.container("web");
    let conf = json!({ "cniVersion": "1.0.0", "name": "lab", "type": "ovs-agent" });
    host.plugin().add(&web, &conf).success();
    host.ip("address flush dev ovsbr1");
    poll("the repair is counted", SOON, || {
        (value(&samples(), "ovs_agent_repairs_total{}") > 0.0).then_some(())
    });
    let now = samples();
    let plug = "{bridge=ovsbr1,runtime=cni}";
    assert_eq!(value(&now, &format!("ovs_agent_attachments{plug}")), 1.0);
    assert_eq!(value(&now, &format!("ovs_agent_attachments_troubled{plug}")), 0.0);
    assert_eq!(value(&now, "ovs_agent_bridge_ports{bridge=ovsbr1}"), 1.0);
    assert_eq!(value(&now, &format!("ovs_agent_pool_addresses_used{pool}")), 1.0);
    assert!(value(&now, "ovs_agent_ledger_sequence{}") > lines);

    host.switch().stop_ovsdb();
    let now = samples();
    assert_eq!(value(&now, "ovs_agent_part_up{part=ovsdb-server}"), 0.0);
    host.switch().start_ovsdb();
}

#[test]
fn names_from_outside_stay_within_their_label() {
    let host = Host::new();
    host.config(&format!("metrics_listen = \"unix:{SOCKET}\"\n"));
    let _agent = start(&host);
    poll("the socket is there", SOON, || UnixStream::connect(SOCKET).ok());
    let web = host.container("web");
    let conf = json!({ "cniVersion": "1.0.0", "name": "lab", "type": "ovs-agent" });
    host.plugin().add(&web, &conf).success();
    let records = fs::read_dir("/run/ovs-port-agent/attachments").unwrap();
    let path = records.flatten().next().unwrap().path();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"web\"", "\"a\\\"} 7\\nevil 1\"")).unwrap();
    let now = samples();
    assert!(!now.iter().any(|line| line.starts_with("evil")), "{now:#?}");
}

#[test]
fn other_questions_get_short_answers() {
    let host = Host::new();
    host.config("metrics_listen = \"127.0.0.1:9479\"\n");
    let agent = start(&host);
    let connect = || TcpStream::connect("127.0.0.1:9479");
    poll("the port is served", SOON, || connect().ok());
    let (head, body) = ask(connect().unwrap(), "GET /metrics HTTP/1.1");
    assert!(head.contains(" 200 ") && body.ends_with("# EOF\n"), "{head}\n{body}");
    let (head, _) = ask(connect().unwrap(), "GET / HTTP/1.1");
    assert!(head.contains(" 404 "), "{head}");
    let (head, _) = ask(connect().unwrap(), "POST /metrics HTTP/1.1");
    assert!(head.contains(" 405 "), "{head}");
    // Who connects and says nothing keeps nobody else waiting, up to a number.
    let _silent: Vec<_> = (0..4).map(|_| connect().unwrap()).collect();
    let (head, _) = ask(connect().unwrap(), "GET /metrics HTTP/1.1");
    assert!(head.contains(" 200 "), "{head}");
    let listening = host.sh("ss -Hltn sport = :9479");
    assert!(listening.contains("127.0.0.1:9479") && !listening.contains("0.0.0.0:9479"));
    agent.terminate(SOON);
    assert!(connect().is_err());
}

#[test]
fn a_place_that_is_taken_is_said_and_tried_again() {
    let host = Host::new();
    host.config("metrics_listen = \"127.0.0.1:9479\"\n");
    let taken = std::net::TcpListener::bind("127.0.0.1:9479").unwrap();
    let _agent = start(&host);
    let status = || host.port_agent().output("status");
    poll("status says so", SOON, || {
        status()
            .stdout
            .contains("PROBLEM agent: metrics: cannot serve metrics at 127.0.0.1:9479")
            .then_some(())
    });
    assert!(!status().ok());
    drop(taken);
    poll("it serves", SOON, || TcpStream::connect("127.0.0.1:9479").ok());
    poll("status says so", SOON, || {
        let text = status().stdout;
        let mut lines = text.lines().filter(|line| line.starts_with("agent: metrics"));
        lines.any(|line| line.trim_end().ends_with("works")).then_some(())
    });
}

#[test]
fn without_the_key_nothing_listens() {
    let host = Host::new();
    let _agent = start(&host);
    assert!(UnixStream::connect(SOCKET).is_err());
    assert_eq!(host.sh("ss -Hltn").trim(), "");
}
