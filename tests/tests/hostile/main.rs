//! A hostile neighbour: links planted where we write, other users at our files and sockets, and
//! peers that send without end, slowly or nonsense.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod links;
mod peers;
mod rights;

use std::time::Duration;

use rig::{Daemon, Host};
use serde_json::{Value, json};

/// Far above what it takes; a machine under load is slow.
const SOON: Duration = Duration::from_secs(20);

fn start(host: &Host) -> Daemon {
    let agent = Daemon::start("ovs-port-agent", host.port_agent().command("run"));
    agent.ready(SOON, || agent.log().contains("the host is up"));
    agent
}

/// A network on the NAT bridge, with a published port while an agent runs.
fn lab(port: Option<u16>) -> Value {
    let mut conf = json!({ "cniVersion": "1.0.0", "name": "lab", "type": "ovs-agent" });
    if let Some(port) = port {
        let mapping = json!({ "hostPort": port, "containerPort": 80, "protocol": "tcp" });
        conf["runtimeConfig"] = json!({ "portMappings": [mapping] });
    }
    conf
}

fn pool(net: &str) -> Value {
    json!({ "Pool": net, "SubPool": "", "Options": null, "V6": false })
}
