//! The IP addresses of a link.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeader, AddressMessage, AddressScope,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::object::{Object, RTM_NEWADDR};
use super::socket::{Request, Verb};
use super::{Error, Netlink};

/// linux/if_addr.h.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

impl Netlink {
    /// The addresses of one link, link-local ones included.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<IpNet>, Error> {
        let mut message = AddressMessage::default();
        message.header =
            AddressHeader { family: AddressFamily::Unspec, index, ..AddressHeader::default() };
        let subject = format!("addresses of link {index}");
        let objects = self.dump(&subject, &RouteNetlinkMessage::GetAddress(message))?;
        let own = objects.iter().filter_map(read).filter(|(link, _)| *link == index);
        Ok(own.map(|(_, address)| address).collect())
    }

    /// The links that carry an address somebody gave them: IPv6 link-local ones, which the kernel
    /// gives to every link that is up, do not count. For the monitor, never on the attach path.
    pub fn addressed(&mut self) -> Result<BTreeSet<u32>, Error> {
        let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let objects = self.dump("addresses", &message)?;
        let given = |(index, address): (u32, IpNet)| match address {
            IpNet::V6(net) if net.addr().is_unicast_link_local() => None,
            _ => Some(index),
        };
        Ok(objects.iter().filter_map(read).filter_map(given).collect())
    }

    /// Adds an address (IPv6 without DAD); false if it was there. The same IPv6 address with
    /// another prefix length is [`Error::Exists`].
    pub fn add_address(&mut self, index: u32, address: IpNet) -> Result<bool, Error> {
        match self.ask(add(index, address, NLM_F_EXCL)) {
            Ok(_) => Ok(true),
            // IPv6 compares addresses only, IPv4 addresses and prefix lengths.
            Err(Error::Exists { what }) => {
                if self.addresses(index)?.contains(&address) {
                    Ok(false)
                } else {
                    Err(Error::Exists { what: format!("{what} with another prefix length") })
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Removes an address; false if it was not there. Where IPv4 addresses share a subnet, the
    /// kernel removes the later ones with the first.
    pub fn delete_address(&mut self, index: u32, address: IpNet) -> Result<bool, Error> {
        let answer = self.ask(Request {
            verb: Verb::Delete,
            subject: format!("address {address} of link {index}"),
            flags: 0,
            message: RouteNetlinkMessage::DelAddress(message(index, address)),
        });
        match answer {
            Ok(_) => Ok(true),
            Err(Error::Missing { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The request which adds an address; `flags` says what to do with one that is there.
pub(super) fn add(index: u32, address: IpNet, flags: u16) -> Request {
    let mut message = message(index, address);
    match address {
        IpNet::V4(net) => {
            if net.prefix_len() < 31 {
                message.attributes.push(AddressAttribute::Broadcast(net.broadcast()));
            }
        }
        // Duplicate address detection takes a second or more; the pool gives an address once.
        IpNet::V6(_) => message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad)),
    }
    Request {
        verb: Verb::Create,
        subject: format!("address {address} on link {index}"),
        flags: NLM_F_CREATE | flags,
        message: RouteNetlinkMessage::NewAddress(message),
    }
}

fn message(index: u32, address: IpNet) -> AddressMessage {
    let ip = address.addr();
    let scope = match ip {
        IpAddr::V4(ip) if ip.is_loopback() => AddressScope::Host,
        _ => AddressScope::Universe,
    };
    let mut message = AddressMessage::default();
    message.header = AddressHeader {
        family: super::route::family(ip),
        prefix_len: address.prefix_len(),
        index,
        scope,
        ..AddressHeader::default()
    };
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    message
}

/// The address the kernel describes, with the index of its link.
fn read(object: &Object) -> Option<(u32, IpNet)> {
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let (header, attributes) = object.split::<8>(RTM_NEWADDR)?;
    let [_, prefix_len, _, _, i, j, k, l] = *header;
    let (mut local, mut address) = (None, None);
    for attribute in attributes {
        match attribute.kind {
            IFA_LOCAL => local = attribute.ip(),
            IFA_ADDRESS => address = attribute.ip(),
            _ => {}
        }
    }
    // IFA_ADDRESS is the far end of a point-to-point link; IPv6 sends IFA_LOCAL only there.
    let address = IpNet::new(local.or(address)?, prefix_len).ok()?;
    Some((u32::from_ne_bytes([i, j, k, l]), address))
}
