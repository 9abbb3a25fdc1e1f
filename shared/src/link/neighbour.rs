//! The neighbour table (ARP and NDP) of a link.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
};

use super::object::{Object, RTM_NEWNEIGH};
use super::socket::{Request, Verb};
use super::{Error, Netlink};
use crate::mac::Mac;

/// linux/neighbour.h.
const NDA_LLADDR: u16 = 2;
const NUD_INCOMPLETE: u16 = 0x01;
const NUD_REACHABLE: u16 = 0x02;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;

/// Between two looks at whether a neighbour has answered.
const PAUSE: Duration = Duration::from_millis(20);

impl Netlink {
    /// Whether a neighbour answers ARP or NDP out of a link now, whatever the kernel knew of it.
    /// Asks again and again until `deadline`.
    pub fn answers(&mut self, index: u32, ip: IpAddr, deadline: Duration) -> Result<bool, Error> {
        let start = Instant::now();
        loop {
            match self.neighbour_state(index, ip)? {
                // Written down by hand: nobody is asked.
                Some(NUD_REACHABLE | NUD_NOARP | NUD_PERMANENT) => return Ok(true),
                // Being asked: the kernel sends three requests, a second apart.
                Some(NUD_INCOMPLETE) => {}
                _ => {
                    self.forget_neighbour(index, ip)?;
                    self.look_for_neighbour(index, ip)?;
                }
            }
            if start.elapsed() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Makes the kernel forget a neighbour, and everything it heard of it.
    pub fn forget_neighbour(&mut self, index: u32, ip: IpAddr) -> Result<(), Error> {
        let answer = self.ask(Request {
            verb: Verb::Delete,
            subject: format!("neighbour {ip} of link {index}"),
            flags: 0,
            message: RouteNetlinkMessage::DelNeighbour(message(index, ip)),
        });
        match answer {
            Ok(_) | Err(Error::Missing { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes the kernel ask who has an address (NTF_USE), as a packet to it would.
    fn look_for_neighbour(&mut self, index: u32, ip: IpAddr) -> Result<(), Error> {
        let mut message = message(index, ip);
        message.header.flags = NeighbourFlags::Use;
        self.ask(Request {
            verb: Verb::Create,
            subject: format!("neighbour {ip} on link {index}"),
            flags: NLM_F_CREATE | NLM_F_REPLACE,
            message: RouteNetlinkMessage::NewNeighbour(message),
        })
        .map(drop)
    }

    fn neighbour_state(&mut self, index: u32, ip: IpAddr) -> Result<Option<u16>, Error> {
        let answer = self.ask(Request {
            verb: Verb::Read,
            subject: format!("neighbour {ip} of link {index}"),
            flags: 0,
            message: RouteNetlinkMessage::GetNeighbour(message(index, ip)),
        });
        match answer {
            // struct ndmsg: family, padding, index, state.
            Ok(object) => Ok(object.and_then(|object| {
                let (header, _) = object.split::<12>(RTM_NEWNEIGH)?;
                Some(u16::from_ne_bytes([header[8], header[9]]))
            })),
            Err(Error::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The MAC the kernel resolved for a neighbour on a link, if any.
    pub fn neighbour(&mut self, index: u32, ip: IpAddr) -> Result<Option<Mac>, Error> {
        let message = message(index, ip);
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

fn message(index: u32, ip: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = super::route::family(ip);
    message.header.ifindex = index;
    let address = match ip {
        IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
        IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
    };
    message.attributes.push(NeighbourAttribute::Destination(address));
    message
}

/// The MAC of the neighbour the kernel describes, if it is known.
fn read(object: &Object) -> Option<Mac> {
    // struct ndmsg.
    let (_, mut attributes) = object.split::<12>(RTM_NEWNEIGH)?;
    let address = attributes.find(|a| a.kind == NDA_LLADDR)?;
    <[u8; 6]>::try_from(address.value).ok().and_then(Mac::from_bytes)
}
