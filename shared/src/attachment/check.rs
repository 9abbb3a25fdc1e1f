//! CHECK: is the attachment as it was made, in every place that knows of it, and do frames pass?

use std::fmt::Display;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::attach::OVSDB_DEADLINE;
use super::record::{Key, Record};
use super::{Address, Engine, Error, owner};
use crate::link::{HOST_END_GROUP, Link, Netlink, Route, probe};
use crate::mac::Mac;
use crate::nat;
use crate::netns::Netns;
use crate::network::gateway::Networks;
use crate::ovsdb::Client;
use crate::ovsdb::vswitchd::{self, Vswitchd};

/// How long a frame may take from the container into the switch's counters.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);

/// What CHECK expects to find, beside the record.
#[derive(Debug, Clone)]
pub struct CheckRequest {
    /// Which attachment.
    pub key: Key,
    /// The namespace it must be in.
    pub netns: PathBuf,
    /// The MAC that a plugin behind us may have given it; the recorded one if `None`.
    pub mac: Option<Mac>,
    /// Addresses that must still be on the interface (those of the previous result).
    pub addresses: Vec<Address>,
    /// Routes that must still exist.
    pub routes: Vec<Route>,
}

impl Engine {
    /// Whether the attachment is as it was made and passes frames.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Differs`] with the first difference, [`Error::NoFrames`], or
    /// whatever keeps CHECK from looking.
    pub fn check(&self, request: &CheckRequest) -> Result<(), Error> {
        let key = &request.key;
        let record = self
            .record(key)?
            .filter(|record| record.complete)
            .ok_or_else(|| Error::Unknown { key: key.clone() })?;
        let netns = Netns::open(&request.netns)?;
        let difference = Difference(key);
        let (found, made_in) = (Some(netns.id()), record.netns_id);
        difference.none("the network namespace", &found, &made_in, |id| {
            id.map_or_else(|| "unknown".to_owned(), |id| format!("inode {}", id.ino))
        })?;
        let host = Netlink::open()?
            .link(&record.port)?
            .ok_or_else(|| difference.missing(&format!("host interface {}", record.port)))?;
        let index = check_container(&difference, &netns, &record, request, &host)?;
        self.check_port(&difference, &record, &host)?;
        self.check_nat(&difference, &record)?;
        self.check_frames(&netns, index, &record)
    }

    fn check_port(&self, say: &Difference<'_>, record: &Record, host: &Link) -> Result<(), Error> {
        let name = &record.port;
        let what = |aspect: &str| format!("{aspect} of {name}");
        say.same(
            &what("the MAC"),
            &host.mac.as_ref().map(ToString::to_string),
            &Some(record.host_mac.to_string()),
        )?;
        say.same(&what("the interface group"), &Some(host.group), &Some(HOST_END_GROUP))?;
        say.same(&what("the MTU"), &Some(host.mtu), &Some(record.mtu))?;
        say.same(&what("the link state"), &Some(updown(host.up)), &Some("up"))?;
        let mut ovsdb = Client::connect(&self.config().ovsdb, OVSDB_DEADLINE)?;
        let port = ovsdb
            .port(name)?
            .ok_or_else(|| say.missing(&format!("port {name} in Open vSwitch")))?;
        say.same(&what("the owner"), &owner::key_of(&port), &Some(record.key.clone()))?;
        say.same(&what("the bridge"), &port.bridge, &Some(record.bridge.clone()))?;
        say.same(&what("the VLAN"), &port.vlan, &Some(record.vlan.clone()))?;
        say.same(&what("the isolation"), &Some(port.protected), &Some(record.isolated))?;
        say.same(&what("the error"), &port.error, &None::<String>)?;
        if port.ofport.is_none_or(|number| number <= 0) {
            return Err(say.missing(&what("the OpenFlow port")));
        }
        say.same(&what("the interface index in Open vSwitch"), &port.ifindex, &Some(host.index))
    }

    /// The gateway and NAT of the network an address of ours belongs to.
    fn check_nat(&self, say: &Difference<'_>, record: &Record) -> Result<(), Error> {
        let networks = Networks::new(self.config());
        for network in networks.all()? {
            let ours = network.bridge == record.bridge
                && network.vlan == record.vlan.domain()
                && network.subnets.iter().any(|s| record.leases.iter().any(|l| l.subnet == s.net));
            if ours && network.gateway {
                let missing = nat::missing(&networks.segment(&network))
                    .map_err(crate::network::Error::from)?;
                if let Some(what) = missing {
                    return Err(say.missing(&what.to_string()));
                }
            }
        }
        Ok(())
    }

    /// Sends frames that the switch drops (a reserved multicast address) until its datapath has
    /// counted one from our port. A row may look right while nothing passes.
    fn check_frames(&self, netns: &Netns, index: u32, record: &Record) -> Result<(), Error> {
        let mut switch = Vswitchd::connect(&self.config().ovsdb, vswitchd::DEADLINE)?;
        // An earlier CHECK's flow lives for some seconds: what counts is that the number changes.
        let mut before = switch.flow_packets(&record.port, probe::ETHERTYPE)?;
        let start = Instant::now();
        let mut pause = Duration::from_millis(1);
        while start.elapsed() < PROBE_DEADLINE {
            probe::send(netns, index, Mac::NEAREST_BRIDGE)?;
            std::thread::sleep(pause);
            let now = switch.flow_packets(&record.port, probe::ETHERTYPE)?;
            if now.is_some() && now != before {
                return Ok(());
            }
            before = now;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
        Err(Error::NoFrames { key: record.key.clone(), port: record.port.clone() })
    }
}

fn check_container(
    say: &Difference<'_>,
    netns: &Netns,
    record: &Record,
    request: &CheckRequest,
    host: &Link,
) -> Result<u32, Error> {
    let ifname = &record.key.ifname;
    let mut inside = netns.enter(Netlink::open)??;
    let link = inside
        .link(ifname)?
        .ok_or_else(|| say.missing(&format!("interface {ifname} in the container")))?;
    let what = |aspect: &str| format!("{aspect} of {ifname}");
    say.same(&what("the MAC"), &link.mac, &Some(request.mac.unwrap_or(record.mac)))?;
    say.same(&what("the MTU"), &Some(link.mtu), &Some(record.mtu))?;
    say.same(&what("the link state"), &Some(updown(link.up)), &Some("up"))?;
    say.same(&what("the peer's index"), &link.peer_index, &Some(host.index))?;
    say.same(&format!("the peer's index of {}", record.port), &host.peer_index, &Some(link.index))?;
    let addresses = inside.addresses(link.index)?;
    for wanted in &request.addresses {
        if !addresses.contains(&wanted.address) {
            return Err(say.missing(&format!("address {} on {ifname}", wanted.address)));
        }
    }
    let routes = inside.routes(None)?;
    for wanted in &request.routes {
        let there = routes.iter().any(|found| {
            found.route.dst == wanted.dst && (wanted.gw.is_none() || found.route.gw == wanted.gw)
        });
        if !there {
            return Err(say.missing(&format!("the route to {} in the container", wanted.dst)));
        }
    }
    Ok(link.index)
}

fn updown(up: bool) -> &'static str {
    if up { "up" } else { "down" }
}

/// Says what differs, in one form for all.
struct Difference<'a>(&'a Key);

impl Difference<'_> {
    fn none<T: PartialEq>(
        &self,
        what: &str,
        found: &T,
        expected: &T,
        show: impl Fn(&T) -> String,
    ) -> Result<(), Error> {
        if found == expected {
            return Ok(());
        }
        Err(Error::Differs {
            key: self.0.clone(),
            what: what.to_owned(),
            found: show(found),
            expected: show(expected),
        })
    }

    fn same<T: PartialEq + Display>(
        &self,
        what: &str,
        found: &Option<T>,
        expected: &Option<T>,
    ) -> Result<(), Error> {
        self.none(what, found, expected, |value| {
            value.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)
        })
    }

    fn missing(&self, what: &str) -> Error {
        Error::Differs {
            key: self.0.clone(),
            what: what.to_owned(),
            found: "missing".to_owned(),
            expected: "there".to_owned(),
        }
    }
}
