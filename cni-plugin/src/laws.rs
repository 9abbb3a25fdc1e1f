//! What must hold for anything a runtime can say: the bodies of fuzz targets (`tests/fuzz`), and of
//! tests over the seeds and every input that once broke a law.
#![allow(clippy::unwrap_used, reason = "a law that does not hold must be heard")]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use serde_json::{Map, Value};
use shared::attachment::record::{Labels, PortExtras};
use shared::attachment::{Addressing, Key, Record, Runtime};
use shared::config::Config;
use shared::link::Route;
use shared::netns::NetnsId;
use shared::publish::{MOST, PortMapping};
use shared::vlan::PortVlan;

use crate::args::Args;
use crate::environment::{Environment, is_identifier};
use crate::error::Error;
use crate::memo::{Delegated, Memo};
use crate::netconf::{Envelope, NetConf};
use crate::network::{Place, Source, ipam_spans, pool_span};
use crate::result::{Handed, read_ipam, read_previous, render};
use crate::version::Version;
use crate::{fields, gc, network, request};

pub use crate::netavark::laws::netavark;

const SANDBOX: &str = "/run/netns/law";

/// The configuration on stdin, which may be an IPAM plugin's result as well.
///
/// What is refused is refused in one line with a code; what is taken asks for nothing that the
/// engine could not do, and for no more than it names; a result reads as what was written, and
/// loses nothing of the one before.
pub fn cni(data: &[u8]) {
    let envelope = match Envelope::parse(data) {
        Ok(envelope) => envelope,
        Err(error) => return refused(&error.into()),
    };
    let raw = &envelope.raw;
    match gc::valid(raw) {
        Ok(valid) => drop(valid),
        Err(error) => refused(&error.into()),
    }
    ipam_spans(raw).iter().for_each(|(first, last)| assert_eq!(first.is_ipv4(), last.is_ipv4()));
    match read_ipam(raw) {
        Ok(handed) => results(&handed, raw),
        Err(error) => refused(&error.into()),
    }
    match read_previous(raw, "eth0", SANDBOX) {
        Ok(previous) => previous.routes.iter().for_each(route),
        Err(error) => refused(&error.into()),
    }
    noted(&envelope);
    let (version, name) = match (envelope.version(), envelope.name()) {
        (Ok(version), Ok(name)) => (version, name),
        (Err(error), _) | (_, Err(error)) => return refused(&error.into()),
    };
    assert!(is_identifier(name));
    let conf = match NetConf::read(&envelope, version, name) {
        Ok(conf) => conf,
        Err(error) => return refused(&error.into()),
    };
    assert_eq!(NetConf::read(&envelope, version, name).as_ref(), Ok(&conf));
    asked(&conf);
    for ovn in [false, true] {
        match network::settle(&conf, ovn, &Config::default()) {
            Ok(place) => placed(&conf, &place),
            Err(error) => refused(&error.into()),
        }
    }
}

/// Variables of a call, a line each; NUL stands for a newline in one. `CNI_ARGS` is judged too.
///
/// What is taken has an id and an interface name that can be parts of names and paths.
pub fn args(data: &[u8]) {
    let variables: Vec<(String, OsString)> = data
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let at = line.iter().position(|byte| *byte == b'=')?;
            let value = line[at + 1..].iter().map(|byte| if *byte == 0 { b'\n' } else { *byte });
            let name = String::from_utf8_lossy(&line[..at]).into_owned();
            Some((name, OsString::from_vec(value.collect())))
        })
        .collect();
    let get = |name: &str| variables.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    match Environment::read(get) {
        Ok(Some(call)) => {
            assert!(call.container.is_empty() || is_identifier(&call.container));
            assert!(call.plugin_dirs().all(|dir| !dir.as_os_str().is_empty()));
            pairs(&call.args);
        }
        Ok(None) => {
            assert!(get("CNI_COMMAND").is_none_or(|command| command.is_empty()));
        }
        Err(error) => refused(&error.into()),
    }
    if let Some(Ok(text)) = get("CNI_ARGS").map(OsString::into_string) {
        pairs(&text);
    }
}

fn pairs(text: &str) {
    match Args::parse(text) {
        Ok(args) => {
            assert_eq!(Args::parse(&format!("{text};;")), Ok(args.clone()));
            assert!(args.ips.iter().all(|ip| ip.to_string().parse() == Ok(*ip)));
        }
        Err(error) => refused(&error.into()),
    }
}

/// An error document is whole, and each of its texts one line.
fn refused(error: &Error) {
    for version in Version::ALL {
        let document = error.document(version);
        assert_eq!(document["cniVersion"], version.as_str());
        assert!(document["code"].as_u64().is_some_and(|code| code > 0));
        laws::one_line(document["msg"].as_str().unwrap());
        let details = document["details"].as_str().unwrap();
        if !details.is_empty() {
            laws::one_line(details);
        }
    }
}

fn asked(conf: &NetConf) {
    assert!(conf.mtu.is_none_or(|mtu| (68..=65535).contains(&mtu)));
    assert!(conf.ofport_request.is_none_or(|port| port > 0));
    assert!(conf.bridge.iter().all(|bridge| bridge.as_str().len() <= 15));
    published(&conf.ports);
    conf.routes.iter().for_each(route);
    for (at, subnet) in conf.subnets.iter().enumerate() {
        assert_eq!(subnet.net, subnet.net.trunc());
        let range = subnet.range.unwrap_or((subnet.net.network(), subnet.net.broadcast()));
        assert!(range.0 <= range.1 && subnet.net.contains(&range.0), "{range:?}");
        assert!(subnet.net.contains(&range.1));
        let others = &conf.subnets[..at];
        assert!(!others.iter().any(|other| crate::subnet::overlaps(&other.net, &subnet.net)));
    }
    assert!(!conf.external_ids.keys().any(|key| key == "owner" || key.is_empty()));
}

/// No more ports than one container may have.
pub(crate) fn published(ports: &[PortMapping]) {
    assert!(ports.len() <= MOST, "{} ports", ports.len());
    assert!(ports.iter().all(|port| port.host_port > 0 && port.container_port > 0));
}

/// A next hop is of the family of what it leads to.
pub(crate) fn route(route: &Route) {
    assert_eq!(route.dst, route.dst.trunc());
    assert!(route.gw.is_none_or(|gw| gw.is_ipv4() == route.dst.addr().is_ipv4()), "{route:?}");
}

fn placed(conf: &NetConf, place: &Place) {
    pools(place);
    match request::addressing(conf, &Args::default(), place) {
        Ok(Addressing::Pool { network, requested, .. }) => {
            assert!(requested.iter().all(|ip| network.subnets.iter().any(|s| s.net.contains(ip))));
        }
        Ok(_) => {}
        Err(error) => refused(&error.into()),
    }
}

/// Every pool lies in its subnet, and its gateway too.
pub(crate) fn pools(place: &Place) {
    if let Source::Pool(network) = &place.source {
        assert!(!network.subnets.is_empty());
    }
    for subnet in place.subnets() {
        let (first, last) = pool_span(subnet);
        assert!(first <= last && subnet.net.contains(&first) && subnet.net.contains(&last));
        assert!(subnet.gateway.is_none_or(|gateway| subnet.net.contains(&gateway)));
    }
}

/// What an IPAM plugin handed out is in the result of every version, and in what CHECK reads of it.
fn results(handed: &Handed, previous: &Map<String, Value>) {
    handed.routes.iter().for_each(route);
    for address in &handed.addresses {
        let v4 = address.address.addr().is_ipv4();
        assert!(address.gateway.is_none_or(|gateway| gateway.is_ipv4() == v4), "{address:?}");
    }
    let record = record(handed);
    for version in Version::ALL {
        let own = render(version, &record, SANDBOX, &handed.dns, None);
        let own = own.as_object().unwrap();
        let again = read_ipam(own).unwrap();
        assert_eq!(again.addresses, handed.addresses);
        assert_eq!(again.dns, handed.dns);
        assert_eq!(again.routes.len(), handed.routes.len());
        if version >= Version::V1_1_0 {
            assert_eq!(again.routes, handed.routes);
        }
        let checked = read_previous(own, "eth0", SANDBOX).unwrap();
        assert_eq!((checked.mac, checked.addresses), (Some(record.mac), handed.addresses.clone()));
        let chained = render(version, &record, SANDBOX, &handed.dns, Some(previous));
        let chained = chained.as_object().unwrap();
        for key in ["interfaces", "ips", "routes"] {
            let count =
                |map| fields::lookup(map, key).and_then(Value::as_array).map_or(0, Vec::len);
            assert_eq!(count(chained), count(previous) + count(own), "{key}");
        }
    }
}

/// What is noted in a record for DEL and GC is read again.
fn noted(envelope: &Envelope) {
    let delegate = envelope
        .ipam_type()
        .map(|kind| Delegated { kind: kind.to_owned(), stdin: envelope.raw.clone() });
    let memo = Memo { delegate, dns: envelope.raw.clone() };
    let mut record = record(&Handed::default());
    record.front_end = memo.to_value();
    let text = serde_json::to_vec(&record).unwrap();
    let record: Record = serde_json::from_slice(&text).unwrap();
    assert_eq!(Memo::of(Some(&record)), memo);
}

fn record(handed: &Handed) -> Record {
    Record {
        key: Key {
            network: "net".to_owned(),
            container: "web".to_owned(),
            ifname: "eth0".parse().unwrap(),
        },
        runtime: Runtime::Cni,
        caller: "law".to_owned(),
        boot_id: String::new(),
        complete: true,
        since: 0,
        uptime: 0,
        netns: SANDBOX.into(),
        netns_id: Some(NetnsId { dev: 4, ino: 1 }),
        bridge: "ovsbr1".parse().unwrap(),
        port: "veth-web-eth0".parse().unwrap(),
        vlan: PortVlan::untagged(),
        isolated: false,
        host_mac: "02:00:00:00:00:01".parse().unwrap(),
        mac: "0a:58:0a:c8:00:02".parse().unwrap(),
        mtu: 1500,
        addresses: handed.addresses.clone(),
        routes: handed.routes.clone(),
        leases: Vec::new(),
        labels: Labels::default(),
        adopted: None,
        extras: PortExtras::default(),
        ovsdb: None,
        front_end: Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use laws::hold_for_seeds;

    use super::*;

    #[test]
    fn the_laws_of_network_configurations_hold() {
        hold_for_seeds("cni", cni);
    }

    #[test]
    fn the_laws_of_variables_hold() {
        hold_for_seeds("args", args);
    }

    #[test]
    fn the_laws_of_podmans_requests_hold() {
        hold_for_seeds("netavark", netavark);
    }
}
