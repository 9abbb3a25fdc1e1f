//! One link: look it up, raise it, change it, remove it.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, Instant};

use netlink_packet_core::{DefaultNla, Emitable as _, NLA_F_NESTED};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet, AfSpecUnspec, LinkAttribute, LinkExtentMask, LinkFlags, LinkHeader, LinkMessage,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use nix::errno::Errno;

use super::object::{Attribute, Object, RTM_NEWLINK};
use super::socket::{Answer, Request, Verb, errno};
use super::{Error, Netlink};
use crate::mac::Mac;
use crate::name::IfName;
use crate::netns::Netns;

/// linux/if_link.h.
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_GROUP: u16 = 27;
const IFLA_CARRIER: u16 = 33;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_TUN_TYPE: u16 = 3;
/// linux/if_tun.h.
const IFF_TAP: u8 = 2;
const IFLA_INET_CONF: u16 = 1;

/// linux/rtnetlink.h, linux/net_namespace.h.
const RTM_NEWNSID: u16 = 88;
const NETNSA_NSID: u16 = 1;

/// What the kernel says of one link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Its name.
    pub name: IfName,
    /// Its MAC, if it has an Ethernet one.
    pub mac: Option<Mac>,
    /// MTU in bytes.
    pub mtu: u32,
    /// IFF_UP.
    pub up: bool,
    /// IFF_RUNNING: there is a carrier, and the kernel has switched the queues on.
    pub running: bool,
    /// IFLA_GROUP.
    pub group: u32,
    /// `IFLA_INFO_KIND`: "veth", "tun", "openvswitch"; empty for a physical device.
    pub kind: String,
    /// `IFLA_LINK`: index of a veth's peer in the peer's namespace.
    pub peer_index: Option<u32>,
    /// `IFLA_LINK_NETNSID`: where a veth's peer is, as this namespace numbers others; `None` if
    /// it is here.
    pub peer_netns: Option<i32>,
    /// Whether a "tun" is a tap: carries Ethernet frames.
    pub tap: bool,
    /// `IFLA_CARRIER`: of a tap, that a process holds it open.
    pub carrier: bool,
    /// `IFLA_MASTER`.
    pub master: Option<u32>,
}

impl Netlink {
    /// The link of that name, if there is one.
    pub fn link(&mut self, name: &IfName) -> Result<Option<Link>, Error> {
        found(self.ask(read_by_name(name)))
    }

    /// The link of that index, if there is one. A link whose name is no [`IfName`] cannot be one
    /// of ours and counts as none.
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>, Error> {
        let message = message(index, vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])]);
        found(self.ask(Request {
            verb: Verb::Read,
            subject: format!("link {index}"),
            flags: 0,
            message: RouteNetlinkMessage::GetLink(message),
        }))
    }

    /// Every link of this namespace whose name is an [`IfName`]. For `status` and GC, never on the
    /// attach path.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let message = message(0, vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])]);
        let objects = self.dump("links", &RouteNetlinkMessage::GetLink(message))?;
        Ok(objects.iter().filter_map(read).collect())
    }

    /// Removes the link; false if it was not there.
    pub fn delete_link(&mut self, index: u32) -> Result<bool, Error> {
        let answer = self.ask(Request {
            verb: Verb::Delete,
            subject: format!("link {index}"),
            flags: 0,
            message: RouteNetlinkMessage::DelLink(message(index, Vec::new())),
        });
        match answer {
            Ok(_) => Ok(true),
            Err(Error::Missing { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Raises or lowers a link.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<(), Error> {
        self.ask(raise(index, up)).map(drop)
    }

    /// Waits until a link that is up and has a carrier passes frames. The kernel switches its
    /// queues on from a work queue; until then it drops what is sent, which on a busy host is the
    /// answer to a container's first ARP request. Being asked, newer kernels hurry.
    pub fn wait_running(&mut self, name: &IfName, deadline: Duration) -> Result<(), Error> {
        let start = Instant::now();
        let mut pause = Duration::from_micros(200);
        loop {
            match self.link(name)? {
                None => return Err(Error::Missing { what: format!("link {name}") }),
                Some(link) if link.running => return Ok(()),
                Some(_) if start.elapsed() >= deadline => {
                    return Err(Error::Timeout { action: format!("switch {name} on") });
                }
                Some(_) => std::thread::sleep(pause),
            }
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }

    /// Sets the MTU in bytes.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), Error> {
        self.ask(change(index, vec![LinkAttribute::Mtu(mtu)])).map(drop)
    }

    /// Renames a link. Kernels before 6.2 refuse that while it is up: then it is down for a moment.
    pub fn rename(&mut self, index: u32, name: &IfName) -> Result<(), Error> {
        let rename = || Request {
            // "Exists" is about the name, as when a link is made.
            verb: Verb::Create,
            ..change(index, vec![LinkAttribute::IfName(name.to_string())])
        };
        match self.ask(rename()) {
            Err(Error::System { source, .. }) if errno(&source) == Some(Errno::EBUSY) => {
                let mut answers =
                    self.exchange(vec![raise(index, false), rename(), raise(index, true)])?;
                let raised = answers.pop();
                answers.into_iter().chain(raised).try_for_each(|answer| answer.map(drop))
            }
            answer => answer.map(drop),
        }
    }

    /// Sets the interface group.
    pub fn set_group(&mut self, index: u32, group: u32) -> Result<(), Error> {
        self.ask(change(index, vec![LinkAttribute::Group(group)])).map(drop)
    }

    /// The number of a namespace in this one (`IFLA_LINK_NETNSID`), if it has one.
    pub fn netns_number(&mut self, netns: &Netns) -> Result<Option<i32>, Error> {
        let mut message = NsidMessage::default();
        let fd = netns.as_fd().as_raw_fd().cast_unsigned();
        message.attributes = vec![NsidAttribute::Fd(fd)];
        let answer = self.ask(Request {
            verb: Verb::Read,
            subject: "number of a network namespace".to_owned(),
            flags: 0,
            message: RouteNetlinkMessage::GetNsId(message),
        })?;
        // struct rtgenmsg, padded to four bytes.
        let number = answer.as_ref().and_then(|object| {
            let (_, mut attributes) = object.split::<4>(RTM_NEWNSID)?;
            attributes.find(|attribute| attribute.kind == NETNSA_NSID)?.number()
        });
        // NETNSA_NSID_NOT_ASSIGNED is -1.
        Ok(number.map(u32::cast_signed).filter(|number| *number >= 0))
    }

    /// Sets the MAC.
    pub fn set_mac(&mut self, index: u32, mac: Mac) -> Result<(), Error> {
        self.ask(change(index, vec![LinkAttribute::Address(mac.bytes().to_vec())])).map(drop)
    }
}

/// A link message for `index`; 0 leaves the choice to the attributes.
pub(super) fn message(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header = LinkHeader { index, ..LinkHeader::default() };
    message.attributes = attributes;
    message
}

/// The request which reads a link by name, without its counters.
fn read_by_name(name: &IfName) -> Request {
    let attributes = vec![
        LinkAttribute::IfName(name.to_string()),
        LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]),
    ];
    Request {
        verb: Verb::Read,
        subject: format!("link {name}"),
        flags: 0,
        message: RouteNetlinkMessage::GetLink(message(0, attributes)),
    }
}

/// The request which changes attributes of a link.
pub(super) fn change(index: u32, attributes: Vec<LinkAttribute>) -> Request {
    Request {
        verb: Verb::Change,
        subject: format!("link {index}"),
        flags: 0,
        message: RouteNetlinkMessage::SetLink(message(index, attributes)),
    }
}

/// The entry of IFLA_AF_SPEC which sets `/proc/sys/net/ipv4/conf/<link>/<key>`, without the file.
pub(super) fn ipv4_conf(key: u16, value: u32) -> AfSpecUnspec {
    // A request nests one u32 for each key; the crate's own type is the flat array of answers.
    let entry = DefaultNla::new(key, value.to_ne_bytes().to_vec());
    let mut entries = vec![0; entry.buffer_len()];
    entry.emit(&mut entries);
    let conf = AfSpecInet::Other(DefaultNla::new(IFLA_INET_CONF | NLA_F_NESTED, entries));
    AfSpecUnspec::Inet(vec![conf])
}

/// The request which raises or lowers a link.
pub(super) fn raise(index: u32, up: bool) -> Request {
    let mut message = message(index, Vec::new());
    message.header.change_mask = LinkFlags::Up;
    message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    Request {
        verb: Verb::Change,
        subject: format!("link {index} ({})", if up { "up" } else { "down" }),
        flags: 0,
        message: RouteNetlinkMessage::SetLink(message),
    }
}

/// The link of an answer; none if the kernel knows none.
fn found(answer: Answer) -> Result<Option<Link>, Error> {
    match answer {
        Ok(object) => Ok(object.as_ref().and_then(read)),
        Err(Error::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The link the kernel describes, if its name is an [`IfName`].
fn read(object: &Object) -> Option<Link> {
    // struct ifinfomsg: family, padding, type, index, flags, change mask.
    let (header, attributes) = object.split::<16>(RTM_NEWLINK)?;
    let [_, _, _, _, i, j, k, l, f, g, m, n, ..] = *header;
    let flags = u32::from_ne_bytes([f, g, m, n]);
    let mut name = None;
    let (mut mac, mut mtu, mut group) = (None, 0, 0);
    let (mut kind, mut peer_index, mut master) = (String::new(), None, None);
    let (mut peer_netns, mut tap, mut carrier) = (None, false, false);
    for attribute in attributes {
        match attribute.kind {
            IFLA_IFNAME => name = attribute.text().and_then(|text| text.parse().ok()),
            IFLA_ADDRESS => {
                mac = <[u8; 6]>::try_from(attribute.value).ok().and_then(Mac::from_bytes);
            }
            IFLA_MTU => mtu = attribute.number()?,
            IFLA_GROUP => group = attribute.number()?,
            IFLA_LINK => peer_index = attribute.number(),
            IFLA_MASTER => master = attribute.number(),
            IFLA_CARRIER => carrier = attribute.value == [1],
            IFLA_LINK_NETNSID => peer_netns = attribute.number().map(u32::cast_signed),
            IFLA_LINKINFO => {
                let info = |kind| attribute.nested().find(move |info| info.kind == kind);
                kind = info(IFLA_INFO_KIND).and_then(Attribute::text).unwrap_or_default();
                tap = kind == "tun"
                    && info(IFLA_INFO_DATA).is_some_and(|data| {
                        data.nested().any(|a| a.kind == IFLA_TUN_TYPE && a.value == [IFF_TAP])
                    });
            }
            _ => {}
        }
    }
    Some(Link {
        index: u32::from_ne_bytes([i, j, k, l]),
        name: name?,
        mac,
        mtu,
        up: flags & LinkFlags::Up.bits() != 0,
        running: flags & LinkFlags::Running.bits() != 0,
        group,
        kind,
        peer_index,
        peer_netns,
        tap,
        carrier,
        master,
    })
}
