//! News from the kernel: what may have taken away something of ours, or changed where traffic goes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::libc;

use super::filter::{self, Gone};
use super::object::{Object, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE, attributes};
use super::{Error, HOST_END_GROUP};

/// linux/rtnetlink.h.
pub(super) const RTM_DELLINK: u16 = 17;
const RTM_DELADDR: u16 = 21;
pub(super) const RTM_DELROUTE: u16 = 25;
pub(super) const IFLA_GROUP: u16 = 27;

/// Prefix lengths up to this are default routes, or halves and quarters of one.
pub(super) const DEFAULT_PREFIX: u8 = 4;

/// Links, addresses and routes.
const GROUPS: libc::c_int = libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_ROUTE;

/// A subscription of this namespace's news.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
}

impl Watch {
    /// Subscribes.
    pub fn open() -> Result<Self, Error> {
        let failed = |source| Error::System { action: "follow the kernel's links".into(), source };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed)?;
        socket.set_non_blocking(true).map_err(failed)?;
        filter::attach(socket.as_fd(), Gone::Ignored).map_err(failed)?;
        socket.bind(&SocketAddr::new(0, GROUPS.cast_unsigned())).map_err(failed)?;
        Ok(Self { socket })
    }

    /// Takes what has come since the last call, without waiting; true if a link, an address or a
    /// default route came or went that is not just a container's.
    pub fn drain(&mut self) -> Result<bool, Error> {
        let mut news = false;
        let mut buffer = Vec::with_capacity(32 * 1024);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Ok(_) => news |= messages(&buffer).any(|message| concerns_us(&message)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(news),
                // Too much at once: the kernel dropped some of it.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => news = true,
                Err(source) => {
                    return Err(Error::System { action: "read the kernel's news".into(), source });
                }
            }
        }
    }
}

/// Readable as soon as there is something to [`Watch::drain`].
impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The messages of a datagram (netlink(7), `struct nlmsghdr`).
fn messages(bytes: &[u8]) -> impl Iterator<Item = Object> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let header = rest.first_chunk::<16>()?;
        let [a, b, c, d, e, f, ..] = *header;
        let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).ok()?;
        let kind = u16::from_ne_bytes([e, f]);
        let payload = rest.get(16..length)?.to_vec();
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Object { kind, bytes: payload })
    })
}

fn concerns_us(message: &Object) -> bool {
    match message.kind {
        // A new one may have come to an uplink whose addresses belong on its bridge.
        RTM_NEWADDR | RTM_DELADDR => true,
        // struct ifinfomsg has 16 bytes.
        RTM_NEWLINK | RTM_DELLINK => !message.bytes.get(16..).is_some_and(|rest| {
            attributes(rest).any(|a| a.kind == IFLA_GROUP && a.number() == Some(HOST_END_GROUP))
        }),
        // struct rtmsg: family, length of the destination.
        RTM_NEWROUTE | RTM_DELROUTE => {
            message.bytes.get(1).is_some_and(|length| *length <= DEFAULT_PREFIX)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(16, 0);
        bytes.extend(payload);
        bytes
    }

    fn is_news(kind: u16, payload: &[u8]) -> bool {
        messages(&datagram(kind, payload)).any(|message| concerns_us(&message))
    }

    #[test]
    fn links_of_containers_and_lesser_routes_are_no_news() {
        let mut link = vec![0; 16];
        assert!(is_news(RTM_NEWLINK, &link) && is_news(RTM_DELLINK, &link));
        link.extend(8_u16.to_ne_bytes());
        link.extend(IFLA_GROUP.to_ne_bytes());
        link.extend(HOST_END_GROUP.to_ne_bytes());
        assert!(!is_news(RTM_NEWLINK, &link) && !is_news(RTM_DELLINK, &link));
        assert!(is_news(RTM_DELADDR, &[]) && is_news(RTM_NEWADDR, &[]));
        assert!(is_news(RTM_NEWROUTE, &[2, 0, 0, 0]) && is_news(RTM_DELROUTE, &[2, 1]));
        assert!(!is_news(RTM_NEWROUTE, &[2, 24, 0, 0]));
        assert!(!is_news(28, &[]), "a neighbour takes nothing away");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_loop(bytes: Vec<u8>) {
            assert!(messages(&bytes).filter(concerns_us).count() <= bytes.len());
        }
    }
}
