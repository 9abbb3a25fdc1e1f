//! The neighbour table (ARP and NDP) of a link.

use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};

use super::object::{Object, RTM_NEWNEIGH};
use super::socket::{Request, Verb};
use super::{Error, Netlink};
use crate::mac::Mac;

/// linux/neighbour.h.
const NDA_LLADDR: u16 = 2;

impl Netlink {
    /// The MAC the kernel resolved for a neighbour on a link, if any.
    pub fn neighbour(&mut self, index: u32, ip: IpAddr) -> Result<Option<Mac>, Error> {
        let mut message = NeighbourMessage::default();
        message.header.family = super::route::family(ip);
        message.header.ifindex = index;
        let address = match ip {
            IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
            IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
        };
        message.attributes.push(NeighbourAttribute::Destination(address));
        let answer = self.ask(Request {
            verb: Verb::Read,
            subject: format!("neighbour {ip} of link {index}"),
            flags: 0,
            message: RouteNetlinkMessage::GetNeighbour(message),
        });
        match answer {
            Ok(object) => Ok(object.as_ref().and_then(read)),
            Err(Error::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The MAC of the neighbour the kernel describes, if it is known.
fn read(object: &Object) -> Option<Mac> {
    // struct ndmsg.
    let (_, mut attributes) = object.split::<12>(RTM_NEWNEIGH)?;
    let address = attributes.find(|a| a.kind == NDA_LLADDR)?;
    <[u8; 6]>::try_from(address.value).ok().and_then(Mac::from_bytes)
}
