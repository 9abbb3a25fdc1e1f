//! What must hold for anything that can be sent to the plugin's socket: the body of a fuzz target
//! (`tests/fuzz`), and of a test over its seeds and every input that once broke a law.
#![allow(clippy::unwrap_used, reason = "a law that does not hold must be heard")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use laws::one_line;
use serde_json::Value;
use shared::attachment::Engine;
use shared::config::Config;
use shared::error::sentence;
use shared::publish::MOST;

use crate::driver::Driver;
use crate::error::Error;
use crate::message::{GATEWAY, OfAddress, OfEndpoint};
use crate::options::ports;

/// Most calls looked at in one input.
const CALLS: usize = 24;

/// Calls with an empty line between them: a method, and its body from the next line on, where `pool-1`
/// stands for the id of the first pool made.
///
/// Whatever came before, a call is answered by an object or refused in one line; no address is given
/// twice, none outside its pool, and none is left held once every pool is given back.
pub fn docker(data: &[u8]) {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let config = Config {
        state_dir: dir.path().join("run"),
        ovsdb: shared::ovsdb::Endpoint::Unix(dir.path().join("db.sock")),
        ..Config::default()
    };
    let engine = Engine::new(config.clone());
    let driver = Driver::open(Engine::new(config), &dir.path().join("docker")).unwrap();
    let mut pools = BTreeMap::new();
    let mut ids: Vec<String> = Vec::new();
    let text = String::from_utf8_lossy(data);
    for call in text.split("\n\n").take(CALLS) {
        let (method, body) = call.split_once('\n').unwrap_or((call, ""));
        let method = method.trim();
        let mut body = body.to_owned();
        for (number, id) in ids.iter().enumerate() {
            body = body.replace(&format!("pool-{}", number + 1), id);
        }
        let answer = match method {
            // What they do to the host is not the parser's; what they ask for is.
            "NetworkDriver.CreateNetwork" => driver.planned(body.as_bytes()),
            "NetworkDriver.Join"
            | "NetworkDriver.Leave"
            | "NetworkDriver.DeleteEndpoint"
            | "NetworkDriver.ProgramExternalConnectivity"
            | "NetworkDriver.RevokeExternalConnectivity" => endpoint(body.as_bytes()),
            "NetworkDriver.DeleteNetwork" | "Plugin.Activate" => continue,
            _ => match driver.call(method, body.as_bytes()) {
                Some(answer) => answer,
                None => continue,
            },
        };
        match answer {
            Ok(answer) => {
                assert!(answer.is_object(), "{answer}");
                if method == "IpamDriver.RequestPool" {
                    ids.push(answer["PoolID"].as_str().unwrap().to_owned());
                }
                noted(method, &body, &answer, &mut pools);
            }
            Err(error) => one_line(&sentence(&error)),
        }
    }
    for id in pools.keys() {
        let body = serde_json::json!({"PoolID": id}).to_string();
        driver.call("IpamDriver.ReleasePool", body.as_bytes()).unwrap().unwrap();
    }
    assert_eq!(engine.pools().leases().unwrap(), []);
}

fn endpoint(body: &[u8]) -> Result<Value, Error> {
    let request: OfEndpoint = crate::driver::read(body)?;
    let ports = ports(&request.options)?;
    assert!(ports.len() <= MOST && ports.iter().all(|port| port.container_port > 0));
    Ok(serde_json::json!({}))
}

/// A pool of Docker's: its subnet, and what was given out of it.
type Given = (IpNet, Vec<IpAddr>);

fn noted(method: &str, body: &str, answer: &Value, pools: &mut BTreeMap<String, Given>) {
    let text = |key: &str| answer[key].as_str().unwrap().to_owned();
    match method {
        "IpamDriver.RequestPool" => {
            let net = text("Pool").parse().unwrap();
            pools.insert(text("PoolID"), (net, Vec::new()));
        }
        "IpamDriver.RequestAddress" => {
            let request: OfAddress = serde_json::from_str(body).unwrap();
            let (net, given) = pools.get_mut(&request.pool).unwrap();
            let address: IpNet = text("Address").parse().unwrap();
            assert!(net.prefix_len() == 0 || net.contains(&address.addr()), "{address}");
            let kind = request.options.get("RequestAddressType").and_then(Value::as_str);
            if kind != Some(GATEWAY) {
                assert!(!given.contains(&address.addr()), "{address} is given twice");
                given.push(address.addr());
            }
        }
        "IpamDriver.ReleaseAddress" => {
            let request: OfAddress = serde_json::from_str(body).unwrap();
            let bare = request.address.split('/').next().unwrap();
            if let (Some((_, given)), Ok(ip)) =
                (pools.get_mut(&request.pool), bare.parse::<IpAddr>())
            {
                given.retain(|other| *other != ip);
            }
        }
        "IpamDriver.ReleasePool" => {
            let request: BTreeMap<String, Value> = serde_json::from_str(body).unwrap();
            pools.remove(request["PoolID"].as_str().unwrap());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_laws_of_dockers_calls_hold() {
        laws::hold_for_seeds("docker", docker);
    }
}
