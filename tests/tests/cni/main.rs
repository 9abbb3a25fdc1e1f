//! The CNI plugin as runtimes call it: the real binary against a private Open vSwitch.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on must fail, loudly"
)]

mod addresses;
mod collection;
mod delegation;
mod health;
mod lifecycle;
mod ovs_cni;
mod page;
mod protocol;

use std::net::IpAddr;

use rig::Host;
use serde_json::{Value, json};

/// A host after `ovs-port-agent up`, with the two bridges it makes unasked.
fn host() -> Host {
    let host = Host::new();
    host.port_agent().run("up");
    host
}

/// A configuration of network "net" with these keys added.
fn conf(more: Value) -> Value {
    versioned("1.0.0", more)
}

/// The same in another version of the specification.
fn versioned(version: &str, more: Value) -> Value {
    let mut conf = json!({"cniVersion": version, "name": "net", "type": "ovs-agent"});
    let Value::Object(more) = more else { panic!("{more} is no object") };
    conf.as_object_mut().unwrap().extend(more);
    conf
}

/// What libcni sends with CHECK and DEL: the configuration and the result of ADD.
fn after(conf: &Value, result: &Value) -> Value {
    let mut conf = conf.clone();
    conf["prevResult"] = result.clone();
    conf
}

/// Address number `index` of a result.
fn ip(result: &Value, index: usize) -> IpAddr {
    let text = result["ips"][index]["address"].as_str().unwrap_or_else(|| {
        panic!("no address {index} in {result}");
    });
    text.split('/').next().unwrap().parse().unwrap()
}

/// Name of the port of a result.
fn port(result: &Value) -> String {
    result["interfaces"][0]["name"].as_str().unwrap().to_owned()
}

/// One column of the row of `port`, as ovs-vsctl shows it.
fn column(host: &Host, table: &str, port: &str, column: &str) -> String {
    host.vsctl(&format!("get {table} {port} {column}")).trim().to_owned()
}
