//! A veth pair: the host end here, its peer in a container.

use std::os::fd::{AsFd as _, AsRawFd as _};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo,
};
use nix::errno::Errno;

use super::device::{change, ipv4_conf, message};
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
    /// down inside its namespace.
    pub fn create_veth(&mut self, veth: &Veth<'_>) -> Result<(), Error> {
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
        match self.ask(create) {
            // The kernel does not say which of the two names is taken.
            Err(Error::Exists { .. }) if self.link(veth.host)?.is_none() => {
                let place = if veth.netns.is_some() { " in the container" } else { "" };
                Err(Error::Exists { what: format!("link {}{place}", veth.peer) })
            }
            answer => answer.map(drop),
        }
    }

    /// Removes a pair by its host end; false if it was not there.
    pub fn delete_veth(&mut self, host: &IfName) -> Result<bool, Error> {
        match self.link(host)? {
            Some(link) => self.delete_link(link.index),
            None => Ok(false),
        }
    }

    /// Keeps the host's own stack quiet on a host end: no IPv6 link-local address (and so no
    /// router solicitations), no answers to ARP, which on a userspace datapath would carry the
    /// wrong MAC. In time before the container end comes up. `RTM_NEWLINK` refuses both. Writing
    /// `disable_ipv6` instead would save a link event, but spins while somebody else holds the RTNL
    /// lock: 32 attaches at once took twice as long.
    pub fn silence(&mut self, host: &IfName) -> Result<(), Error> {
        self.speak(host, ARP_IGNORE_ALL, In6AddrGenMode::None)
    }

    /// The reverse of [`Self::silence`], for a link that somebody else made: as the kernel makes
    /// links.
    pub fn unsilence(&mut self, host: &IfName) -> Result<(), Error> {
        self.speak(host, 0, In6AddrGenMode::Eui64)
    }

    fn speak(&mut self, host: &IfName, arp: u32, mode: In6AddrGenMode) -> Result<(), Error> {
        let deaf = ipv4_conf(IPV4_DEVCONF_ARP_IGNORE, arp);
        let mute = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)]);
        let name = LinkAttribute::IfName(host.to_string());
        let silence = |specs| Request {
            subject: format!("link {host}"),
            ..change(0, vec![name.clone(), LinkAttribute::AfSpecUnspec(specs)])
        };
        match self.ask(silence(vec![deaf.clone(), mute])) {
            // A kernel without IPv6, or an MTU below the 1280 it needs: there is nothing to mute.
            Err(Error::System { source, .. }) if errno(&source) == Some(Errno::EAFNOSUPPORT) => {
                self.ask(silence(vec![deaf])).map(drop)
            }
            answer => answer.map(drop),
        }
    }
}
