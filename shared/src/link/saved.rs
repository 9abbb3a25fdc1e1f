//! Addresses and routes of a link exactly as the kernel describes them, to be put on another link
//! or back: flags, lifetimes, metrics and whatever attribute is not known here survive.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressHeader, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteHeader, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use serde::{Deserialize, Serialize};

use super::object::{Attribute, Object, RTM_NEWADDR, RTM_NEWROUTE, attributes};
use super::socket::{Request, Verb};
use super::{Error, Netlink, PROTOCOL};
use crate::name::IfName;

/// linux/if_addr.h.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;
const IFA_F_NODAD: u32 = 0x02;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;
const IFAPROT_KERNEL_RA: u8 = 2;

/// linux/rtnetlink.h.
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_MULTIPATH: u16 = 9;
const RTA_CACHEINFO: u16 = 12;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTA_EXPIRES: u16 = 23;
const RTA_NH_ID: u16 = 30;
const RTN_UNICAST: u8 = 1;
const RTPROT_KERNEL: u8 = 2;
const RTPROT_RA: u8 = 9;
const RT_TABLE_LOCAL: u32 = 255;

/// Lifetime without end (linux/if_addr.h, `INFINITY_LIFE_TIME`).
const FOREVER: u32 = u32::MAX;

/// Ticks of `rta_expires` in a second (USER_HZ).
const TICKS: u32 = 100;

/// An address as the kernel described it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedAddress {
    /// Address and prefix length.
    pub address: IpNet,
    /// `struct ifaddrmsg` and the attributes behind it.
    #[serde(with = "hexadecimal")]
    bytes: Vec<u8>,
}

/// A route as the kernel described it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedRoute {
    /// Destination.
    pub destination: IpNet,
    /// Next hop, if there is one (and only one).
    pub gateway: Option<IpAddr>,
    /// The link it led out of.
    index: u32,
    /// `struct rtmsg` and the attributes behind it.
    #[serde(with = "hexadecimal")]
    bytes: Vec<u8>,
}

impl fmt::Debug for SavedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SavedAddress({})", self.address)
    }
}

impl fmt::Debug for SavedRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SavedRoute({self})")
    }
}

impl fmt::Display for SavedRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.destination.prefix_len() {
            0 => f.write_str("default route")?,
            _ => write!(f, "route to {}", self.destination)?,
        }
        match self.gateway {
            Some(gateway) => write!(f, " via {gateway}"),
            None => Ok(()),
        }
    }
}

/// What is taken from one link and put on another, in as few sends as it takes.
#[derive(Debug, Default)]
pub struct Relocation<'a> {
    /// Removed from the first link; one that is not there is no error.
    pub take: Vec<&'a SavedAddress>,
    /// Removed with them.
    pub take_routes: Vec<&'a SavedRoute>,
    /// Put on the second link; one that is there is no error.
    pub put: Vec<&'a SavedAddress>,
    /// Put behind them.
    pub put_routes: Vec<&'a SavedRoute>,
    /// Whether IPv6 addresses are used at once, without asking whether somebody else has them.
    pub at_once: bool,
}

/// A link by index and name.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Interface index.
    pub index: u32,
    /// Its name, for labels of addresses.
    pub name: &'a IfName,
}

impl Netlink {
    /// The addresses of a link but for IPv6's link-local ones, which come and go with it.
    pub fn save_addresses(&mut self, index: u32) -> Result<Vec<SavedAddress>, Error> {
        let mut message = AddressMessage::default();
        message.header =
            AddressHeader { family: AddressFamily::Unspec, index, ..AddressHeader::default() };
        let subject = format!("addresses of link {index}");
        let objects = self.dump(&subject, &RouteNetlinkMessage::GetAddress(message))?;
        Ok(objects.into_iter().filter_map(|object| address(object, index)).collect())
    }

    /// The unicast routes of every table but the local one that lead out of a link, those of
    /// others to link-local addresses and our own aside.
    pub fn save_routes(&mut self, index: u32) -> Result<Vec<SavedRoute>, Error> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let objects = self.dump("routes", &RouteNetlinkMessage::GetRoute(message))?;
            found.extend(objects.into_iter().filter_map(|object| route(object, index)));
        }
        Ok(found)
    }

    /// Takes addresses and routes off `from` and puts others on `to`, in this order and, up to 64
    /// of them, in one send: nothing else happens on this thread in between. Returns what could
    /// not be put, each with the reason.
    pub fn relocate(
        &mut self,
        from: Option<Place<'_>>,
        to: Option<Place<'_>>,
        what: &Relocation<'_>,
    ) -> Result<Vec<Error>, Error> {
        let mut requests = Vec::new();
        if let Some(from) = from {
            requests.extend(what.take_routes.iter().map(|route| route.delete(from)));
            requests.extend(what.take.iter().map(|address| address.delete(from)));
        }
        let taken = requests.len();
        if let Some(to) = to {
            requests.extend(what.put.iter().map(|address| address.add(to, what.at_once)));
            // A next hop must be reachable: what is on the link comes first.
            let (near, far): (Vec<&SavedRoute>, Vec<&SavedRoute>) =
                what.put_routes.iter().copied().partition(|route| !route.has_next_hop());
            requests.extend(near.into_iter().chain(far).map(|route| route.add(to)));
        }
        let mut failed = Vec::new();
        for (at, answer) in self.exchange(requests)?.into_iter().enumerate() {
            match answer {
                Ok(_) => {}
                Err(Error::Missing { .. }) if at < taken => {}
                Err(Error::Exists { .. }) if at >= taken => {}
                Err(error) => failed.push(error),
            }
        }
        Ok(failed)
    }
}

/// The address, if it is one of that link and nobody's but the user's.
fn address(object: Object, index: u32) -> Option<SavedAddress> {
    let (header, attributes) = object.split::<8>(RTM_NEWADDR)?;
    let [_, prefix_len, _, _, i, j, k, l] = *header;
    let (mut local, mut far) = (None, None);
    for attribute in attributes {
        match attribute.kind {
            IFA_LOCAL => local = attribute.ip(),
            IFA_ADDRESS => far = attribute.ip(),
            _ => {}
        }
    }
    let address = IpNet::new(local.or(far)?, prefix_len).ok()?;
    let link_local = matches!(address.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    let here = u32::from_ne_bytes([i, j, k, l]) == index;
    (here && !link_local).then_some(SavedAddress { address, bytes: object.bytes })
}

/// The route, if it leads out of that link and is to be kept with its addresses.
fn route(object: Object, index: u32) -> Option<SavedRoute> {
    let (header, attributes) = object.split::<12>(RTM_NEWROUTE)?;
    let [family, dst_len, _, _, table, protocol, _, kind, f, g, h, i] = *header;
    let flags = u32::from_ne_bytes([f, g, h, i]);
    let mut destination = super::route::unspecified(family)?;
    let (mut table, mut gateway, mut leads_out) = (u32::from(table), None, false);
    for attribute in attributes {
        match attribute.kind {
            RTA_DST => destination = attribute.ip()?,
            RTA_TABLE => table = attribute.number()?,
            RTA_GATEWAY => gateway = attribute.ip(),
            RTA_VIA => {
                let value = attribute.value.get(2..).unwrap_or_default();
                gateway = Attribute { value, ..attribute }.ip();
            }
            RTA_OIF => leads_out |= attribute.number() == Some(index),
            RTA_MULTIPATH => leads_out |= hops(attribute.value).any(|at| at.index == index),
            // A next hop object is bound to its device: whoever made it must make it anew.
            RTA_NH_ID => return None,
            _ => {}
        }
    }
    let destination = IpNet::new(destination, dst_len).ok()?;
    let link_local =
        matches!(destination.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local() && dst_len > 0);
    let ours = kind == RTN_UNICAST
        && table != RT_TABLE_LOCAL
        && protocol != PROTOCOL
        && flags & RouteFlags::Cloned.bits() == 0
        && !link_local
        && leads_out;
    ours.then_some(SavedRoute { destination, gateway, index, bytes: object.bytes })
}

/// A `struct rtnexthop` inside RTA_MULTIPATH.
struct Hop {
    /// Where its interface index stands in the attribute's value.
    at: usize,
    index: u32,
}

fn hops(value: &[u8]) -> impl Iterator<Item = Hop> + '_ {
    let mut start = 0_usize;
    std::iter::from_fn(move || {
        let header = value.get(start..)?.first_chunk::<8>()?;
        let [a, b, _, _, i, j, k, l] = *header;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        if length < 8 {
            return None;
        }
        let hop = Hop { at: start.checked_add(4)?, index: u32::from_ne_bytes([i, j, k, l]) };
        start = start.checked_add(length.next_multiple_of(4))?;
        Some(hop)
    })
}

impl Relocation<'_> {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.take.is_empty()
            && self.take_routes.is_empty()
            && self.put.is_empty()
            && self.put_routes.is_empty()
    }
}

impl SavedAddress {
    /// Whether somebody keeps it alive from time to time: a DHCP client, router advertisements.
    pub fn is_dynamic(&self) -> bool {
        // struct ifa_cacheinfo: preferred, valid, created, updated.
        let lifetime = self.attribute(IFA_CACHEINFO).and_then(|info| {
            info.value.get(4..8)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
        });
        lifetime.is_some_and(|valid| valid != FOREVER)
    }

    /// Whether the kernel made it from a router's advertisement: the next link makes its own.
    pub fn is_advertised(&self) -> bool {
        self.attribute(IFA_PROTO)
            .is_some_and(|proto| proto.value.first() == Some(&IFAPROT_KERNEL_RA))
    }

    /// Whether the kernel was told to make no route for its subnet.
    pub fn has_no_prefix_route(&self) -> bool {
        let flags = self.attribute(IFA_FLAGS).and_then(Attribute::number);
        flags.is_some_and(|flags| flags & IFA_F_NOPREFIXROUTE != 0)
    }

    fn attribute(&self, kind: u16) -> Option<Attribute<'_>> {
        attributes(self.bytes.get(8..)?).find(|attribute| attribute.kind == kind)
    }

    fn message(&self, place: Place<'_>) -> AddressMessage {
        let mut message = AddressMessage::default();
        let header = self.bytes.first_chunk::<4>().copied().unwrap_or_default();
        let [family, prefix_len, flags, scope] = header;
        message.header = AddressHeader {
            family: family.into(),
            prefix_len,
            flags: AddressHeaderFlags::from_bits_retain(flags),
            scope: scope.into(),
            index: place.index,
        };
        message
    }

    fn add(&self, place: Place<'_>, at_once: bool) -> Request {
        let mut message = self.message(place);
        for attribute in attributes(self.bytes.get(8..).unwrap_or_default()) {
            let value = match attribute.kind {
                // Somebody may look an address up by "<interface>:<label>".
                IFA_LABEL => {
                    let text = attribute.text().unwrap_or_default();
                    let label = text.split_once(':').map(|(_, label)| label);
                    let mut text = match label {
                        Some(label) => format!("{}:{label}", place.name),
                        None => place.name.to_string(),
                    };
                    text.truncate(15);
                    text.push('\0');
                    text.into_bytes()
                }
                IFA_FLAGS if at_once && self.address.addr().is_ipv6() => {
                    let flags = attribute.number().unwrap_or_default() | IFA_F_NODAD;
                    flags.to_ne_bytes().to_vec()
                }
                _ => attribute.value.to_vec(),
            };
            message
                .attributes
                .push(AddressAttribute::Other(DefaultNla::new(attribute.kind, value)));
        }
        Request {
            verb: Verb::Create,
            subject: format!("address {} on {}", self.address, place.name),
            flags: NLM_F_CREATE | NLM_F_EXCL,
            message: RouteNetlinkMessage::NewAddress(message),
        }
    }

    fn delete(&self, place: Place<'_>) -> Request {
        let mut message = self.message(place);
        for attribute in attributes(self.bytes.get(8..).unwrap_or_default()) {
            if [IFA_LOCAL, IFA_ADDRESS].contains(&attribute.kind) {
                let value = attribute.value.to_vec();
                message
                    .attributes
                    .push(AddressAttribute::Other(DefaultNla::new(attribute.kind, value)));
            }
        }
        Request {
            verb: Verb::Delete,
            subject: format!("address {} of {}", self.address, place.name),
            flags: 0,
            message: RouteNetlinkMessage::DelAddress(message),
        }
    }
}

impl SavedRoute {
    /// Whether it came with a router's advertisement: the next link hears its own.
    pub fn is_advertised(&self) -> bool {
        self.bytes.get(5) == Some(&RTPROT_RA)
    }

    /// Whether the kernel made it for an address, and makes it again with the address.
    pub fn is_of_address(&self) -> bool {
        self.bytes.get(5) == Some(&RTPROT_KERNEL)
    }

    /// Whether it leads to everywhere.
    pub fn is_default(&self) -> bool {
        self.destination.prefix_len() == 0
    }

    /// Whether both lead to the same place by the same next hop with the same metric.
    pub fn leads_as(&self, other: &Self) -> bool {
        let metric = |route: &Self| {
            route.attributes().find(|a| a.kind == RTA_PRIORITY).and_then(Attribute::number)
        };
        self.destination == other.destination
            && self.gateway == other.gateway
            && metric(self) == metric(other)
    }

    fn has_next_hop(&self) -> bool {
        self.attributes().any(|a| [RTA_GATEWAY, RTA_VIA, RTA_MULTIPATH].contains(&a.kind))
    }

    fn attributes(&self) -> impl Iterator<Item = Attribute<'_>> {
        attributes(self.bytes.get(12..).unwrap_or_default())
    }

    /// The route out of `place` instead of the link it was read from.
    fn message(&self, place: Place<'_>) -> RouteMessage {
        let header = self.bytes.first_chunk::<12>().copied().unwrap_or_default();
        let [family, dst_len, src_len, tos, table, protocol, scope, kind, f, g, h, i] = header;
        let flags = RouteFlags::from_bits_retain(u32::from_ne_bytes([f, g, h, i]));
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family.into(),
            destination_prefix_length: dst_len,
            source_prefix_length: src_len,
            tos,
            table,
            protocol: protocol.into(),
            scope: scope.into(),
            kind: kind.into(),
            // The rest is what the kernel saw at that moment, and refuses to be told.
            flags: flags & RouteFlags::Onlink,
        };
        for attribute in self.attributes() {
            let value = match attribute.kind {
                RTA_OIF => place.index.to_ne_bytes().to_vec(),
                RTA_MULTIPATH => self.hops_out_of(attribute.value, place),
                RTA_CACHEINFO => {
                    // struct rta_cacheinfo: references, last use, expiry in ticks.
                    let expires = attribute.value.get(8..12).and_then(<[u8]>::first_chunk);
                    let seconds = expires.map_or(0, |bytes| u32::from_ne_bytes(*bytes)) / TICKS;
                    if seconds > 0 {
                        let nla = DefaultNla::new(RTA_EXPIRES, seconds.to_ne_bytes().to_vec());
                        message.attributes.push(RouteAttribute::Other(nla));
                    }
                    continue;
                }
                _ => attribute.value.to_vec(),
            };
            message.attributes.push(RouteAttribute::Other(DefaultNla::new(attribute.kind, value)));
        }
        message
    }

    /// RTA_MULTIPATH with our link replaced.
    fn hops_out_of(&self, value: &[u8], place: Place<'_>) -> Vec<u8> {
        let mut replaced = value.to_vec();
        for hop in hops(value).filter(|hop| hop.index == self.index) {
            if let Some(index) = replaced.get_mut(hop.at..).and_then(|rest| rest.get_mut(..4)) {
                index.copy_from_slice(&place.index.to_ne_bytes());
            }
        }
        replaced
    }

    fn add(&self, place: Place<'_>) -> Request {
        Request {
            verb: Verb::Create,
            subject: format!("{self} out of {}", place.name),
            // Beside one of the same destination and metric out of another link, not instead.
            flags: NLM_F_CREATE | NLM_F_APPEND,
            message: RouteNetlinkMessage::NewRoute(self.message(place)),
        }
    }

    fn delete(&self, place: Place<'_>) -> Request {
        Request {
            verb: Verb::Delete,
            subject: format!("{self} out of {}", place.name),
            flags: 0,
            message: RouteNetlinkMessage::DelRoute(self.message(place)),
        }
    }
}

/// Bytes as the text of a JSON file.
mod hexadecimal {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&crate::hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.as_bytes().chunks(2);
        let byte = |pair: &[u8]| {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
            u8::from_str_radix(pair, 16).ok()
        };
        digits
            .map(|pair| byte(pair).ok_or_else(|| D::Error::custom("not two hexadecimal digits")))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_loop(bytes: Vec<u8>, index: u32) {
            assert!(hops(&bytes).count() <= bytes.len());
            let name: IfName = "ovsbr0".parse().unwrap();
            let place = Place { index, name: &name };
            if let Some(saved) = address(Object { kind: RTM_NEWADDR, bytes: bytes.clone() }, index) {
                drop((saved.add(place, true), saved.delete(place), saved.is_dynamic()));
            }
            if let Some(saved) = route(Object { kind: RTM_NEWROUTE, bytes }, index) {
                drop((saved.add(place), saved.delete(place)));
            }
        }

        #[test]
        fn what_was_saved_is_read_again(bytes: Vec<u8>) {
            let saved = SavedAddress { address: "192.0.2.1/24".parse().unwrap(), bytes };
            let text = serde_json::to_string(&saved).unwrap();
            proptest::prop_assert_eq!(serde_json::from_str::<SavedAddress>(&text).unwrap(), saved);
        }
    }
}
