//! A frame that proves a path: CHECK sends it from a container and reads counters.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::Error;
use crate::mac::Mac;
use crate::netns::Netns;

/// EtherType of the frame: IEEE 802 local experimental 1, which no stack answers.
pub const ETHERTYPE: u16 = 0x88b5;

/// Payload of the smallest Ethernet frame (IEEE 802.3), in bytes.
const PAYLOAD: usize = 46;

/// Sends one frame to `to` out of link `index` of the namespace; its source is the link's MAC.
/// Only for CHECK: the end of the packet socket waits for RCU, 10 to 20 ms.
pub fn send(netns: &Netns, index: u32, to: Mac) -> Result<(), Error> {
    let failed = |errno: Errno| Error::System {
        action: format!("send a probe frame out of link {index}"),
        source: errno.into(),
    };
    // Protocol 0: the socket receives nothing.
    let open = || socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    let socket: OwnedFd = netns.enter(open)?.map_err(failed)?;
    let payload = [0; PAYLOAD];
    let mut address = [0; 8];
    address[..6].copy_from_slice(&to.bytes());
    let destination = libc::sockaddr_ll {
        sll_family: 17, // AF_PACKET
        sll_protocol: ETHERTYPE.to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: address,
    };
    loop {
        // SAFETY: the descriptor is open, the payload and the sockaddr_ll live through the call
        // and their lengths are their own.
        let sent = unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                payload.as_ptr().cast(),
                payload.len(),
                libc::MSG_DONTWAIT,
                (&raw const destination).cast(),
                SOCKADDR_LL,
            )
        };
        match Errno::result(sent) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
}

/// Bytes of `sockaddr_ll` (packet(7)).
const SOCKADDR_LL: libc::socklen_t = 20;
