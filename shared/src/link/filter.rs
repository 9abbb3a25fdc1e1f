//! What of the kernel's news is not even delivered: a socket filter on an rtnetlink socket, so that
//! the links and routes of containers wake nobody.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::libc::{self, sock_filter, sock_fprog};

use super::HOST_END_GROUP;
use super::object::{RTM_NEWLINK, RTM_NEWROUTE};
use super::watch::{DEFAULT_PREFIX, IFLA_GROUP, RTM_DELLINK, RTM_DELROUTE};

/// BPF_LD, BPF_LDX and BPF_JMP with what they load and compare (linux/bpf_common.h).
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const LOAD_WORD: u16 = 0x20;
const LOAD_WORD_AT_X: u16 = 0x40;
const LOAD_NUMBER: u16 = 0x00;
const LOAD_X: u16 = 0x01;
const A_TO_X: u16 = 0x07;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const RETURN: u16 = 0x06;

/// SKF_AD_OFF + SKF_AD_NLATTR (linux/filter.h): the offset of attribute X among those that begin
/// at A; 0 if it is not among them.
const FIND_ATTRIBUTE: u32 = (-0x1000_i32 + 12).cast_unsigned();

/// Offsets into a message: the kind of `struct nlmsghdr`, `rtm_dst_len` of `struct rtmsg`, and
/// where the attributes of a link begin, behind `struct ifinfomsg`.
const KIND: u32 = 4;
const PREFIX_LENGTH: u32 = 17;
const LINK_ATTRIBUTES: u32 = 32;

/// Whether host ends of containers that go are news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// Whoever removed one knows it.
    Ignored,
    /// Somebody must look after what was behind them.
    Heard,
}

/// Keeps the links of [`HOST_END_GROUP`] and all but default routes from an rtnetlink socket.
pub fn attach(socket: BorrowedFd<'_>, gone: Gone) -> io::Result<()> {
    let mut program = program(gone);
    let length = u16::try_from(program.len()).unwrap_or_default();
    let filter = sock_fprog { len: length, filter: program.as_mut_ptr() };
    let size = libc::socklen_t::try_from(size_of::<sock_fprog>()).unwrap_or_default();
    // SAFETY: the kernel reads `filter` and the program it points to, and keeps neither.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn program(gone: Gone) -> Vec<sock_filter> {
    // The filter loads in network byte order, the kernel writes in the machine's.
    let half = |number: u16| u32::from(u16::from_be_bytes(number.to_ne_bytes()));
    let word = |number: u32| u32::from_be_bytes(number.to_ne_bytes());
    let step = |code, k| sock_filter { code, jt: 0, jf: 0, k };
    let jump = |code, k, jt, jf| sock_filter { code, jt, jf, k };
    // Where the jumps lead, counted from the step behind each.
    let removed = if gone == Gone::Heard { 2 } else { 3 };
    vec![
        step(LOAD_HALF, KIND),
        jump(IF_EQUAL, half(RTM_NEWLINK), 4, 0),
        jump(IF_EQUAL, half(RTM_DELLINK), removed, 0),
        jump(IF_EQUAL, half(RTM_NEWROUTE), 9, 0),
        jump(IF_EQUAL, half(RTM_DELROUTE), 8, 0),
        step(RETURN, u32::MAX),
        step(LOAD_NUMBER, LINK_ATTRIBUTES),
        step(LOAD_X, u32::from(IFLA_GROUP)),
        step(LOAD_WORD, FIND_ATTRIBUTE),
        jump(IF_EQUAL, 0, 5, 0),
        step(A_TO_X, 0),
        step(LOAD_WORD_AT_X, 4),
        jump(IF_EQUAL, word(HOST_END_GROUP), 3, 2),
        step(LOAD_BYTE, PREFIX_LENGTH),
        jump(IF_GREATER, u32::from(DEFAULT_PREFIX), 1, 0),
        step(RETURN, u32::MAX),
        step(RETURN, 0),
    ]
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// Whether a socket with the filter is delivered such a message: the kernel filters every kind
    /// of socket alike.
    fn is_heard(gone: Gone, kind: u16, payload: &[u8]) -> bool {
        let (from, to) = UnixDatagram::pair().unwrap();
        attach(to.as_fd(), gone).unwrap();
        to.set_nonblocking(true).unwrap();
        let mut bytes = u32::try_from(16 + payload.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(16, 0);
        bytes.extend(payload);
        from.send(&bytes).unwrap();
        to.recv(&mut [0; 512]).is_ok_and(|count| count == bytes.len())
    }

    fn link(group: Option<u32>) -> Vec<u8> {
        let mut bytes = vec![0; 16];
        // IFLA_IFNAME
        bytes.extend(9_u16.to_ne_bytes());
        bytes.extend(3_u16.to_ne_bytes());
        bytes.extend(b"eth0\0\0\0\0");
        if let Some(group) = group {
            bytes.extend(8_u16.to_ne_bytes());
            bytes.extend(IFLA_GROUP.to_ne_bytes());
            bytes.extend(group.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn containers_wake_nobody_and_everything_else_does() {
        let ours = link(Some(HOST_END_GROUP));
        for gone in [Gone::Ignored, Gone::Heard] {
            for kind in [RTM_NEWLINK, RTM_DELLINK] {
                for other in [link(None), link(Some(0)), link(Some(HOST_END_GROUP + 1))] {
                    assert!(is_heard(gone, kind, &other), "{gone:?} {kind}");
                }
            }
            assert!(!is_heard(gone, RTM_NEWLINK, &ours), "{gone:?}");
            assert_eq!(is_heard(gone, RTM_DELLINK, &ours), gone == Gone::Heard);
            for kind in [RTM_NEWROUTE, RTM_DELROUTE] {
                assert!(is_heard(gone, kind, &[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), "{kind}");
                assert!(is_heard(gone, kind, &[2, DEFAULT_PREFIX, 0, 0]), "{kind}");
                assert!(!is_heard(gone, kind, &[2, 24, 0, 0]), "{kind}");
            }
            // Addresses, and what nobody knows.
            for kind in [20, 21, 99] {
                assert!(is_heard(gone, kind, &[2, 24, 0, 0]), "{kind}");
            }
        }
    }
}
