//! Published ports in our table: maps from what a packet is sent to on the host to what it is sent
//! on to, and the rules that look there. Ports come and go as elements, the rules stay.
//!
//! Only what comes in where the host forwards is sent on. The rest arrives at the agent, which has
//! bound the port: loopback, and interfaces without forwarding.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::libc;

use super::nft::{
    Batch, Chain, Comparison, Connection, Element, Expression, Family, Field, Map, Meta, Rule,
    Sent, Socket,
};
use super::table::{
    GATEWAYS, NAME, NFPROTO_IPV4, NFPROTO_IPV6, UPLINKS_V4, UPLINKS_V6, accept, base, inside, jump,
    plain, protocol,
};
use super::{Error, nft};
use crate::publish::{Holder, PortMapping, Protocol, Publication, Relay};
use crate::state::{self, State};

const DSTNAT: &str = "dstnat";
const DSTNAT_LOCAL: &str = "dstnat-local";
const PUBLISHED: &str = "published";

/// RTN_LOCAL (linux/rtnetlink.h): an address of this host.
const LOCAL: u32 = 2;

const LOOPBACK_V4: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));
const LOOPBACK_V6: IpNet = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128));

/// Ports of any address of the host, and ports of one.
const ANY_V4: &str = "ports-ipv4";
const ANY_V6: &str = "ports-ipv6";
const AT_V4: &str = "ports-at-ipv4";
const AT_V6: &str = "ports-at-ipv6";

pub(super) const MAPS: [Map; 4] = [
    Map { name: AT_V4, key: &[Field::Ipv4, Field::Protocol, Field::Port], data: TO_V4 },
    Map { name: ANY_V4, key: &[Field::Protocol, Field::Port], data: TO_V4 },
    Map { name: AT_V6, key: &[Field::Ipv6, Field::Protocol, Field::Port], data: TO_V6 },
    Map { name: ANY_V6, key: &[Field::Protocol, Field::Port], data: TO_V6 },
];
const TO_V4: &[Field] = &[Field::Ipv4, Field::Port];
const TO_V6: &[Field] = &[Field::Ipv6, Field::Port];

/// The elements of the maps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Elements(BTreeMap<&'static str, BTreeSet<Element>>);

impl Elements {
    /// What these publications have in the maps.
    pub(super) fn of<'p>(publications: impl IntoIterator<Item = &'p Publication>) -> Self {
        let mut elements = Self::default();
        for publication in publications {
            for mapping in &publication.ports {
                for target in publication.targets.iter().filter(|target| target.routed) {
                    elements.add(mapping, target.ip);
                }
            }
            publication.relays.iter().for_each(|relay| elements.add_relay(relay));
        }
        elements
    }

    /// Those of everything on record as published. What cannot be read is the agent's to report.
    pub(super) fn recall(state: &State) -> Result<Self, Error> {
        let mut publications: Vec<Publication> = Vec::new();
        for path in state::files(&state.ports())? {
            publications.extend(state::read(&path).unwrap_or_default());
        }
        Ok(Self::of(&publications))
    }

    /// Those in the table.
    pub(super) fn installed(socket: &mut Socket) -> Result<Self, nft::Error> {
        let mut elements = Self::default();
        for map in MAPS {
            let found = socket.elements(Family::Inet, NAME, map.name)?;
            if !found.is_empty() {
                elements.0.insert(map.name, found.into_iter().collect());
            }
        }
        Ok(elements)
    }

    /// A port of the loopback, to the agent's socket there.
    fn add_relay(&mut self, relay: &Relay) {
        // 127.0.0.2 is another's than 127.0.0.1.
        let named = relay.mapping.host_ip.filter(|ip| ip.is_loopback());
        let here = named.unwrap_or_else(|| match relay.to.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
        let map = if here.is_ipv4() { AT_V4 } else { AT_V6 };
        let mut key = octets(here);
        key.extend([relay.mapping.protocol.number(), 0, 0, 0]);
        key.extend(port(relay.mapping.host_port));
        let data = [octets(relay.to.ip()), port(relay.to.port()).to_vec()].concat();
        self.0.entry(map).or_default().insert((key, data));
    }

    fn add(&mut self, mapping: &PortMapping, to: IpAddr) {
        let host_ip = mapping.host_ip;
        if host_ip.is_some_and(|ip| ip.is_loopback() || ip.is_ipv4() != to.is_ipv4()) {
            return;
        }
        let at = host_ip.filter(|ip| !ip.is_unspecified());
        let map = match (at, to) {
            (None, IpAddr::V4(_)) => ANY_V4,
            (None, IpAddr::V6(_)) => ANY_V6,
            (Some(_), IpAddr::V4(_)) => AT_V4,
            (Some(_), IpAddr::V6(_)) => AT_V6,
        };
        let mut key = at.map(octets).unwrap_or_default();
        key.extend([mapping.protocol.number(), 0, 0, 0]);
        key.extend(port(mapping.host_port));
        let data = [octets(to), port(mapping.container_port).to_vec()].concat();
        self.0.entry(map).or_default().insert((key, data));
    }

    fn of_map(&self, map: &str) -> impl Iterator<Item = &Element> {
        self.0.get(map).into_iter().flatten()
    }

    /// Everything added to empty maps.
    pub(super) fn add_to(&self, batch: &mut Batch) {
        for map in MAPS {
            batch.add_elements(map.name, self.of_map(map.name));
        }
    }

    /// What makes `installed` this.
    fn difference(&self, installed: &Self) -> Batch {
        let mut batch = Batch::new(Family::Inet, NAME);
        let none = BTreeSet::new();
        for map in MAPS {
            let here = self.0.get(map.name).unwrap_or(&none);
            let there = installed.0.get(map.name).unwrap_or(&none);
            batch.delete_elements(map.name, there.difference(here));
            batch.add_elements(map.name, here.difference(there));
        }
        batch
    }

    /// Makes the maps of a table that is there hold these; false if they did.
    pub(super) fn sync(&self, socket: &mut Socket) -> Result<bool, nft::Error> {
        let batch = self.difference(&Self::installed(socket)?);
        if batch.is_empty() {
            return Ok(false);
        }
        socket.commit(&batch)?;
        Ok(true)
    }
}

/// Takes the elements of one publication out of the table and ends what came through them, where no
/// agent runs that would.
pub fn remove(publication: &Publication) -> Result<(), Error> {
    let failed = |source| Error::Table { action: "write", source };
    let mut socket = Socket::open().map_err(failed)?;
    let mut left = Elements::installed(&mut socket).map_err(failed)?;
    for (map, elements) in Elements::of([publication]).0 {
        if let Some(there) = left.0.get_mut(map) {
            there.retain(|element| !elements.contains(element));
        }
    }
    left.sync(&mut socket).map_err(failed)?;
    cut(publication)
}

/// Takes up who has been calling all along: a rule is asked about the first packet of a talk alone,
/// and what came before these ports were published ended in a socket of the runtime's.
pub fn take_up(publication: &Publication) -> Result<(), Error> {
    let is_udp = |port: &&PortMapping| port.protocol == Protocol::Udp;
    let udp: Vec<_> = publication.ports.iter().filter(is_udp).collect();
    if publication.holder == Holder::Agent || udp.is_empty() {
        return Ok(());
    }
    let failed = |source| Error::Table { action: "take up the talks through", source };
    let mut socket = Socket::open().map_err(failed)?;
    let waits = |connection: &Connection| {
        connection.protocol == Protocol::Udp.number()
            && udp.iter().any(|port| {
                let at = port.host_ip.filter(|ip| !ip.is_unspecified());
                port.host_port == connection.called.port()
                    && at.is_none_or(|ip| ip == connection.called.ip())
            })
    };
    for family in [Family::Ip, Family::Ip6] {
        socket.forget_connections(family, Sent::Nowhere, waits).map_err(failed)?;
    }
    Ok(())
}

/// Ends what was sent on to a container through these ports: nothing of it reaches whoever gets the
/// container's address next.
pub fn cut(publication: &Publication) -> Result<(), Error> {
    let failed = |source| Error::Table { action: "end the connections through", source };
    let mut socket = Socket::open().map_err(failed)?;
    for target in publication.targets.iter().filter(|target| target.routed) {
        let family = if target.ip.is_ipv4() { Family::Ip } else { Family::Ip6 };
        let through = |connection: &Connection| {
            connection.answers.ip() == target.ip
                && publication.ports.iter().any(|port| {
                    port.protocol.number() == connection.protocol
                        && port.host_port == connection.called.port()
                        && port.container_port == connection.answers.port()
                })
        };
        socket.forget_connections(family, Sent::On, through).map_err(failed)?;
    }
    Ok(())
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// A port as a register holds it.
fn port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// Where packets enter the chain that looks into the maps.
pub(super) fn chains() -> [Chain; 3] {
    [
        base(DSTNAT, "nat", libc::NF_INET_PRE_ROUTING, libc::NF_IP_PRI_NAT_DST),
        base(DSTNAT_LOCAL, "nat", libc::NF_INET_LOCAL_OUT, libc::NF_IP_PRI_NAT_DST),
        plain(PUBLISHED),
    ]
}

/// The rules.
pub(super) fn rules() -> Vec<Rule> {
    let rule = |chain, comment: &str, parts: &[Vec<Expression>]| Rule {
        chain,
        comment: comment.to_owned(),
        expressions: parts.concat(),
    };
    let (v4, v6) = (protocol(NFPROTO_IPV4), protocol(NFPROTO_IPV6));
    let uplinks = |set| inside(Meta::IifName, set);
    let mut rules = vec![
        rule(DSTNAT, "from our networks", &[inside(Meta::IifName, GATEWAYS), jump(PUBLISHED)]),
        rule(DSTNAT, "from ipv4 uplinks", &[v4.clone(), uplinks(UPLINKS_V4), jump(PUBLISHED)]),
        rule(DSTNAT, "from ipv6 uplinks", &[v6.clone(), uplinks(UPLINKS_V6), jump(PUBLISHED)]),
        rule(DSTNAT_LOCAL, "ipv4 loopback a runtime holds", &[to(LOOPBACK_V4), at(false)]),
        rule(DSTNAT_LOCAL, "ipv6 loopback a runtime holds", &[to(LOOPBACK_V6), at(true)]),
        rule(DSTNAT_LOCAL, "ipv4 loopback is the agent's", &[to(LOOPBACK_V4), accept()]),
        rule(DSTNAT_LOCAL, "ipv6 loopback is the agent's", &[to(LOOPBACK_V6), accept()]),
        rule(DSTNAT_LOCAL, "from the host", &[jump(PUBLISHED)]),
    ];
    for (family, v6, name, any) in [(v4, false, AT_V4, ANY_V4), (v6, true, AT_V6, ANY_V6)] {
        // An address the host had may be somebody else's by now.
        rules.push(rule(PUBLISHED, name, &[family.clone(), local(), at(v6)]));
        let found = vec![Expression::Map(any), Expression::Dnat { v6 }];
        rules.push(rule(PUBLISHED, any, &[family, local(), wanted(0), found]));
    }
    rules
}

/// Sent on by the map whose keys begin with the address.
fn at(v6: bool) -> Vec<Expression> {
    let (offset, length, slots) = if v6 { (24, 16, 4) } else { (16, 4, 1) };
    let map = if v6 { AT_V6 } else { AT_V4 };
    let mut parts = vec![Expression::Network { offset, length }];
    parts.extend(wanted(slots));
    parts.extend([Expression::Map(map), Expression::Dnat { v6 }]);
    parts
}

/// Protocol and port of a packet, as keys of the maps have them from a slot on.
fn wanted(slot: u32) -> Vec<Expression> {
    vec![Expression::Protocol { slot }, Expression::DestinationPort { slot: slot + 1 }]
}

/// Sent to the host itself.
fn local() -> Vec<Expression> {
    let local = LOCAL.to_ne_bytes().to_vec();
    vec![Expression::DestinationType, Expression::Compare(Comparison::Is, local)]
}

/// The destination address, at byte 16 of an IPv4 header and 24 of an IPv6 one.
fn to(net: IpNet) -> Vec<Expression> {
    let offset = if matches!(net, IpNet::V4(_)) { 16 } else { 24 };
    [super::table::family(net), super::table::address(offset, net, Comparison::Is)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;
    use crate::publish::Target;

    fn publication(host_ip: Option<&str>, targets: &[(&str, bool)]) -> Publication {
        let target = |&(ip, routed): &(&str, bool)| Target { ip: ip.parse().unwrap(), routed };
        Publication {
            key: Key {
                network: "lab".into(),
                container: "web".into(),
                ifname: "eth0".parse().unwrap(),
            },
            ports: vec![PortMapping {
                protocol: Protocol::Tcp,
                host_ip: host_ip.map(|ip| ip.parse().unwrap()),
                host_port: 8080,
                host_port_end: 0,
                container_port: 80,
            }],
            targets: targets.iter().map(target).collect(),
            holder: Holder::Agent,
            relays: Vec::new(),
        }
    }

    fn maps(publication: &Publication) -> Vec<&'static str> {
        Elements::of([publication]).0.into_keys().collect()
    }

    #[test]
    fn each_address_has_its_map_and_loopback_none() {
        let both = [("10.0.0.5", true), ("fd00::5", true)];
        for (host_ip, expected) in [
            (None, vec![ANY_V4, ANY_V6]),
            (Some("0.0.0.0"), vec![ANY_V4]),
            (Some("::"), vec![ANY_V6]),
            (Some("192.0.2.1"), vec![AT_V4]),
            (Some("2001:db8::1"), vec![AT_V6]),
            (Some("127.0.0.1"), vec![]),
            (Some("::1"), vec![]),
        ] {
            assert_eq!(maps(&publication(host_ip, &both)), expected, "{host_ip:?}");
        }
        assert!(maps(&publication(None, &[("10.0.0.5", false)])).is_empty(), "not routed");
        assert_eq!(maps(&publication(None, &both[..1])), [ANY_V4]);
    }

    #[test]
    fn elements_are_what_nft_writes_for_the_same() {
        let elements = Elements::of([&publication(Some("1.2.3.4"), &[("10.0.0.1", true)])]);
        let (key, data) = elements.of_map(AT_V4).next().unwrap();
        assert_eq!(key[..], [1, 2, 3, 4, 6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(data[..], [10, 0, 0, 1, 0, 80, 0, 0]);
    }

    #[test]
    fn a_relay_is_found_at_its_loopback_address() {
        let mut publication = publication(None, &[("10.0.0.1", true)]);
        let to = "127.0.0.1:40000".parse().unwrap();
        publication.relays.push(Relay { mapping: publication.ports[0], to });
        assert_eq!(maps(&publication), [AT_V4, ANY_V4]);
        let elements = Elements::of([&publication]);
        let (key, data) = elements.of_map(AT_V4).next().unwrap();
        assert_eq!(key[..], [127, 0, 0, 1, 6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(data[..], [127, 0, 0, 1, 0x9c, 0x40, 0, 0]);
    }

    #[test]
    fn a_relay_of_one_loopback_address_takes_no_other() {
        let mut publication = publication(Some("127.0.0.2"), &[("10.0.0.1", true)]);
        let to = "127.0.0.1:40000".parse().unwrap();
        publication.relays.push(Relay { mapping: publication.ports[0], to });
        let elements = Elements::of([&publication]);
        let (key, _) = elements.of_map(AT_V4).next().unwrap();
        assert_eq!(key[..4], [127, 0, 0, 2]);
    }

    #[test]
    fn a_difference_says_only_what_changes() {
        let one = Elements::of([&publication(None, &[("10.0.0.1", true)])]);
        assert!(one.difference(&one).is_empty());
        assert!(!one.difference(&Elements::default()).is_empty());
        assert!(!Elements::default().difference(&one).is_empty());
    }
}
