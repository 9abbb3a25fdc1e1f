//! Work inside a container's namespace, with one visit.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::NLM_F_REPLACE;

use super::offload::Offloads;
use super::socket::Request;
use super::sysctl::{Family, Sysctl};
use super::{Error, Netlink, Route, address, device, route};
use crate::name::IfName;
use crate::netns::{Netns, NetnsId};

/// Index of `lo`: the first device of every namespace.
const LOOPBACK: u32 = 1;

/// What a container's link is to be for IPv6.
#[derive(Debug, Clone, Copy)]
pub struct Ipv6 {
    /// It gets addresses: runtimes switch IPv6 off in the namespaces they make.
    pub addresses: bool,
    /// No router speaks on its network: it asks for none (each such question would reach every
    /// port of the bridge, for as long as the container lives), and whoever pretends to be one is
    /// not listened to (CVE-2020-10749).
    pub no_router: bool,
}

/// Sockets inside a container's namespace: they stay bound to it after the one visit that opened
/// them.
#[derive(Debug)]
pub struct Inside {
    /// The rtnetlink socket of the namespace.
    pub netlink: Netlink,
    /// Which namespace.
    pub id: NetnsId,
    offloads: Offloads,
}

impl Inside {
    /// Visits the namespace and opens the sockets.
    pub fn visit(netns: &Netns) -> Result<Self, Error> {
        Self::visit_and(netns, || Ok(()))
    }

    /// As [`Self::visit`], and makes `link`, which is down, ready for what it is to be.
    /// [`Error::Missing`] if it shall have IPv6 addresses and the kernel has no IPv6 at all.
    pub fn visit_link(netns: &Netns, link: &IfName, ipv6: Ipv6) -> Result<Self, Error> {
        let conf = |key| Sysctl::new(Family::Ipv6, link, key);
        Self::visit_and(netns, || {
            if ipv6.addresses {
                conf("disable_ipv6").ensure("0")?;
                // What makes Netlink::announce say something about IPv6.
                nice_to_have(conf("ndisc_notify").write("1"))?;
            }
            if ipv6.no_router {
                nice_to_have(conf("accept_ra").write("0"))?;
            }
            Ok(())
        })
    }

    fn visit_and(
        netns: &Netns,
        prepare: impl FnOnce() -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let (netlink, offloads) = netns.enter(|| {
            prepare()?;
            Ok::<_, Error>((Netlink::open()?, Offloads::open()?))
        })??;
        Ok(Self { netlink, id: netns.id(), offloads })
    }

    /// Whether the device leaves transmit checksums to somebody else.
    pub fn tx_checksum(&self, name: &IfName) -> Result<bool, Error> {
        self.offloads.tx_checksum(name)
    }

    /// Switches transmit checksum offload of a device, and verifies it.
    pub fn set_tx_checksum(&self, name: &IfName, on: bool) -> Result<(), Error> {
        self.offloads.set_tx_checksum(name, on)
    }
}

/// A setting that this kernel does not have, or that is read-only here, is done without.
fn nice_to_have(set: Result<(), Error>) -> Result<(), Error> {
    match set {
        Ok(()) | Err(Error::System { .. } | Error::Missing { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

impl Netlink {
    /// In one send: lo up, addresses (IPv6 without DAD), MTU untouched, the link up, routes. Doing
    /// it again changes nothing. A next hop that neither an address nor an on-link route covers is
    /// taken to be on the link (`onlink` of ip(8)).
    pub fn configure(
        &mut self,
        index: u32,
        addresses: &[IpNet],
        routes: &[Route],
    ) -> Result<(), Error> {
        let requests = requests(index, addresses, routes);
        for answer in self.exchange(requests)? {
            drop(answer?);
        }
        Ok(())
    }
}

fn requests(index: u32, addresses: &[IpNet], routes: &[Route]) -> Vec<Request> {
    let mut requests = vec![device::raise(LOOPBACK, true)];
    requests.extend(addresses.iter().map(|a| address::add(index, *a, NLM_F_REPLACE)));
    requests.push(device::raise(index, true));
    // A next hop may be reached through an on-link route of the same list.
    let (direct, via): (Vec<&Route>, Vec<&Route>) = routes.iter().partition(|r| r.gw.is_none());
    let near = |gw: IpAddr| {
        matches!(gw, IpAddr::V6(ip) if ip.is_unicast_link_local())
            || addresses.iter().chain(direct.iter().map(|r| &r.dst)).any(|net| net.contains(&gw))
    };
    requests.extend(direct.iter().map(|r| route::replace(r, Some(index), false)));
    requests.extend(
        via.iter().map(|r| route::replace(r, Some(index), r.gw.is_some_and(|gw| !near(gw)))),
    );
    requests
}
