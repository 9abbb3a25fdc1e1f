//! Raw Ethernet frames, VLAN tags included.

use std::mem;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout};

/// EtherType of an 802.1Q tag.
const TAG: [u8; 2] = [0x81, 0x00];

/// EtherType for experiments (IEEE 802, local experimental 1): no stack answers it.
const EXPERIMENT: [u8; 2] = [0x88, 0xb5];

/// A frame as it went over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Destination MAC address.
    pub to: [u8; 6],
    /// Source MAC address.
    pub from: [u8; 6],
    /// VLAN id of its 802.1Q tag, if it carried one (0 is a priority tag).
    pub vlan: Option<u16>,
    /// EtherType, the tag's aside.
    pub ethertype: [u8; 2],
    /// What follows.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A broadcast frame of a protocol that nobody speaks.
    pub fn broadcast(from: [u8; 6], vlan: Option<u16>, payload: &str) -> Self {
        let payload = payload.as_bytes().to_vec();
        Self { to: [0xff; 6], from, vlan, ethertype: EXPERIMENT, payload }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.to, self.from].concat();
        if let Some(vlan) = self.vlan {
            bytes.extend(TAG);
            bytes.extend(vlan.to_be_bytes());
        }
        bytes.extend(self.ethertype);
        bytes.extend(&self.payload);
        // The minimum of Ethernet, without its checksum.
        bytes.resize(bytes.len().max(60), 0);
        bytes
    }

    /// `stripped` is the tag that the kernel took off before handing the frame over.
    fn parse(bytes: &[u8], stripped: Option<u16>) -> Option<Self> {
        let (to, rest) = bytes.split_first_chunk()?;
        let (from, rest) = rest.split_first_chunk()?;
        let (ethertype, rest) = rest.split_first_chunk()?;
        let (vlan, ethertype, rest) = match (stripped, *ethertype == TAG) {
            (None, true) => {
                let (tci, rest) = rest.split_first_chunk()?;
                let (inner, rest) = rest.split_first_chunk()?;
                (Some(u16::from_be_bytes(*tci)), inner, rest)
            }
            _ => (stripped, ethertype, rest),
        };
        let vlan = vlan.map(|tci| tci & 0xfff);
        Some(Self { to: *to, from: *from, vlan, ethertype: *ethertype, payload: rest.to_vec() })
    }
}

/// A packet socket on one interface, of the namespace it was opened in.
#[derive(Debug)]
pub struct RawSocket {
    fd: OwnedFd,
}

impl RawSocket {
    /// Opens one in the calling thread's network namespace.
    pub fn open(interface: &str) -> Self {
        let index = nix::net::if_::if_nametoindex(interface)
            .unwrap_or_else(|error| panic!("no interface {interface} here: {error}"));
        let protocol = u16::try_from(libc::ETH_P_ALL).expect("fits").to_be();
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: a plain system call; the result is checked.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(protocol)) };
        assert!(fd >= 0, "packet socket: {}", std::io::Error::last_os_error());
        // SAFETY: the kernel just gave us this descriptor; nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: sockaddr_ll is plain data, all zeroes is a valid value.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).expect("fits");
        address.sll_protocol = protocol;
        address.sll_ifindex = index.cast_signed();
        let length = libc::socklen_t::try_from(size_of_val(&address)).expect("fits");
        // SAFETY: the pointer and the length describe `address`, alive through the call.
        let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
        assert_eq!(bound, 0, "bind to {interface}: {}", std::io::Error::last_os_error());
        let one: libc::c_int = 1;
        let length = libc::socklen_t::try_from(size_of_val(&one)).expect("fits");
        // SAFETY: the pointer and the length describe `one`, alive through the call.
        let set = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_AUXDATA,
                (&raw const one).cast(),
                length,
            )
        };
        assert_eq!(set, 0, "PACKET_AUXDATA: {}", std::io::Error::last_os_error());
        Self { fd }
    }

    /// Sends a frame.
    pub fn send(&self, frame: &Frame) {
        let bytes = frame.bytes();
        let sent = nix::unistd::write(&self.fd, &bytes);
        assert_eq!(sent, Ok(bytes.len()), "sending a frame");
    }

    /// The next frame that `wanted` accepts, sent ones aside; `None` if none comes in `deadline`.
    pub fn receive(
        &self,
        deadline: Duration,
        mut wanted: impl FnMut(&Frame) -> bool,
    ) -> Option<Frame> {
        let end = Instant::now() + deadline;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let mut watched = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1));
            let ready = nix::poll::poll(&mut watched, timeout.unwrap_or(PollTimeout::MAX));
            if ready == Ok(0) {
                return None;
            }
            if let Some(frame) = self.read().filter(|frame| wanted(frame)) {
                return Some(frame);
            }
        }
    }

    /// The next frame whose payload begins with `text`.
    pub fn hear(&self, text: &str, deadline: Duration) -> Option<Frame> {
        self.receive(deadline, |frame| frame.payload.starts_with(text.as_bytes()))
    }

    fn read(&self) -> Option<Frame> {
        let mut buffer = [0_u8; 65536];
        // Aligned as control messages must be.
        let mut control = [0_u64; 16];
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: sockaddr_ll is plain data, all zeroes is a valid value.
        let mut sender: libc::sockaddr_ll = unsafe { mem::zeroed() };
        // SAFETY: msghdr is plain data, all zeroes is a valid value.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_name = (&raw mut sender).cast();
        message.msg_namelen = libc::socklen_t::try_from(size_of_val(&sender)).expect("fits");
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        let flags = libc::MSG_DONTWAIT;
        // SAFETY: every pointer in `message` is to a local that lives through the call, with its
        // true length beside it.
        let count = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, flags) };
        let count = usize::try_from(count).ok()?;
        if sender.sll_pkttype == libc::PACKET_OUTGOING {
            return None;
        }
        let mut vlan = None;
        // SAFETY: the kernel filled `message`; CMSG_FIRSTHDR checks its lengths.
        let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        while !header.is_null() {
            // SAFETY: not null, so it points at a complete header inside `control`.
            let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
            if level == libc::SOL_PACKET && kind == libc::PACKET_AUXDATA {
                // SAFETY: a PACKET_AUXDATA message carries one tpacket_auxdata.
                let aux: libc::tpacket_auxdata =
                    unsafe { std::ptr::read_unaligned(libc::CMSG_DATA(header).cast()) };
                if aux.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                    vlan = Some(aux.tp_vlan_tci);
                }
            }
            // SAFETY: `header` came from this `message`.
            header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
        }
        Frame::parse(&buffer[..count], vlan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_survives_the_way_to_bytes_and_back() {
        for vlan in [None, Some(0), Some(1), Some(4094)] {
            let frame = Frame::broadcast([2, 0, 0, 0, 0, 1], vlan, "hello");
            let mut back = Frame::parse(&frame.bytes(), None).unwrap();
            back.payload.truncate(5);
            assert_eq!(back, frame);
        }
    }

    #[test]
    fn a_stripped_tag_counts() {
        let bytes = Frame::broadcast([2, 0, 0, 0, 0, 1], None, "hello").bytes();
        assert_eq!(Frame::parse(&bytes, Some(0x2064)).unwrap().vlan, Some(0x64));
    }
}
