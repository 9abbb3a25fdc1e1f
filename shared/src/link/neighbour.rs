//! The neighbour table (ARP and NDP) of a link.

use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};

use super::socket::{Request, Verb};
use super::{Error, Netlink};
use crate::mac::Mac;

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
            Ok(Some(RouteNetlinkMessage::NewNeighbour(found))) => {
                Ok(found.attributes.into_iter().find_map(|attribute| match attribute {
                    NeighbourAttribute::LinkLayerAddress(bytes) => {
                        <[u8; 6]>::try_from(bytes).ok().and_then(Mac::from_bytes)
                    }
                    _ => None,
                }))
            }
            Ok(_) | Err(Error::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
