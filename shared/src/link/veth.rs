//! A veth pair: the host end here, its peer in a container.

use std::os::fd::{AsFd as _, AsRawFd as _};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo,
};
use nix::errno::Errno;

use super::device::{change, found, ipv4_conf, message, read_by_name};
use super::socket::{Request, Verb, errno};
use super::{Error, HOST_END_GROUP, Netlink};
use crate::mac::Mac;
use crate::name::IfName;
use crate::netns::Netns;

/// linux/ip.h.
const IPV4_DEVCONF_ARP_IGNORE: u16 = 19;
/// No answer for any local address (Documentation/networking/ip-sysctl.rst).
const ARP_IGNORE_ALL: u32 = 8;

/// A veth pair to be made in one request: the host end here and up, its peer inside a namespace.
#[derive(Debug)]
pub struct Veth<'a> {
    /// Name of the host end.
    pub host: &'a IfName,
    /// MAC of the host end. Set explicitly, so that udev leaves it alone (addr_assign_type 3).
    pub host_mac: Mac,
    /// Name of the container end.
    pub peer: &'a IfName,
    /// Namespace of the container end; `None` leaves it here (Docker moves it).
    pub netns: Option<&'a Netns>,
    /// MAC of the container end.
    pub peer_mac: Mac,
    /// MTU of both ends in bytes.
    pub mtu: u32,
}

impl Netlink {
    /// Makes a veth pair with ONE `RTM_NEWLINK`: host end up and in [`HOST_END_GROUP`], peer made
    /// down inside its namespace. Returns the host end's index.
    pub fn create_veth(&mut self, veth: &Veth<'_>) -> Result<u32, Error> {
        let mut peer = vec![
            LinkAttribute::IfName(veth.peer.to_string()),
            LinkAttribute::Address(veth.peer_mac.bytes().to_vec()),
            LinkAttribute::Mtu(veth.mtu),
        ];
        if let Some(netns) = veth.netns {
            peer.push(LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd()));
        }
        // The peer stays down here: the kernel refuses IFF_UP on it with ENOTCONN and takes 20 ms
        // to clean up.
        let info = vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(message(0, peer)))),
        ];
        let mut pair = message(
            0,
            vec![
                LinkAttribute::IfName(veth.host.to_string()),
                LinkAttribute::Address(veth.host_mac.bytes().to_vec()),
                LinkAttribute::Mtu(veth.mtu),
                LinkAttribute::Group(HOST_END_GROUP),
                LinkAttribute::LinkInfo(info),
            ],
        );
        pair.header.flags = LinkFlags::Up;
        pair.header.change_mask = LinkFlags::Up;
        let create = Request {
            verb: Verb::Create,
            subject: format!("link {}", veth.host),
            flags: NLM_F_CREATE | NLM_F_EXCL,
            message: RouteNetlinkMessage::NewLink(pair),
        };
        // The index in the same send: NLM_F_ECHO on RTM_NEWLINK would need Linux 6.2.
        let mut answers = self.exchange(vec![create, read_by_name(veth.host)])?.into_iter();
        let missing = || Error::Missing { what: format!("link {}", veth.host) };
        let created = answers.next().ok_or_else(missing)?;
        let link = found(answers.next().ok_or_else(missing)?)?;
        match created {
            Ok(_) => link.map(|l| l.index).ok_or_else(missing),
            // The kernel does not say which of the two names is taken.
            Err(Error::Exists { .. }) if link.is_none() => {
                let place = if veth.netns.is_some() { " in the container" } else { "" };
                Err(Error::Exists { what: format!("link {}{place}", veth.peer) })
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps the host's own stack quiet on a host end: no IPv6 link-local address (and so no
    /// router solicitations), no answers to ARP, which on a userspace datapath would carry the
    /// wrong MAC. In time before the container end comes up. `RTM_NEWLINK` refuses both. Writing `disable_ipv6` instead would save a link
    /// event, but spins while somebody else holds the RTNL lock: 32 attaches at once took twice as
    /// long.
    pub fn silence(&mut self, index: u32) -> Result<(), Error> {
        self.speak(index, ARP_IGNORE_ALL, In6AddrGenMode::None)
    }

    /// The reverse of [`Self::silence`], for a link that somebody else made: as the kernel makes
    /// links.
    pub fn unsilence(&mut self, index: u32) -> Result<(), Error> {
        self.speak(index, 0, In6AddrGenMode::Eui64)
    }

    fn speak(&mut self, index: u32, arp_ignore: u32, mode: In6AddrGenMode) -> Result<(), Error> {
        let deaf = ipv4_conf(IPV4_DEVCONF_ARP_IGNORE, arp_ignore);
        let mute = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)]);
        let silence = |specs| change(index, vec![LinkAttribute::AfSpecUnspec(specs)]);
        match self.ask(silence(vec![deaf.clone(), mute])) {
            // A kernel without IPv6, or an MTU below the 1280 it needs: there is nothing to mute.
            Err(Error::System { source, .. }) if errno(&source) == Some(Errno::EAFNOSUPPORT) => {
                self.ask(silence(vec![deaf])).map(drop)
            }
            answer => answer.map(drop),
        }
    }
}
