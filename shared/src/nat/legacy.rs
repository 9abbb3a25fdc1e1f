//! The filter tables of legacy iptables, which change without a word: neither nf_tables nor anything
//! else in the kernel says so. What can be had for one call each is their size, and whoever flushes
//! one or takes a rule out of it changes that.

use std::fs;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;

use nix::libc::{self, c_int};

use super::nft::Family;

/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO` (linux/netfilter_ipv4/ip_tables.h, the same number for
/// IPv6).
const GET_INFO: c_int = 64;

/// `struct ipt_getinfo` and `struct ip6t_getinfo`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Info {
    name: [u8; 32],
    valid_hooks: u32,
    hook_entry: [u32; 5],
    underflow: [u32; 5],
    entries: u32,
    size: u32,
}

/// The legacy filter tables of this namespace, as far as their sizes tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shape(Vec<Info>);

impl Shape {
    /// As it is now. A table that cannot be asked is left out.
    pub fn now() -> Self {
        let families = [Family::Ip, Family::Ip6];
        Self(families.into_iter().filter(|family| exists(*family)).filter_map(ask).collect())
    }

    /// Whether there is no such table.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Whether there is a filter table: asking it for anything would make it. The file is missing where
/// the module is.
pub(super) fn exists(family: Family) -> bool {
    let names = match family {
        Family::Ip6 => "/proc/thread-self/net/ip6_tables_names",
        _ => "/proc/thread-self/net/ip_tables_names",
    };
    let names = fs::read_to_string(names).unwrap_or_default();
    names.lines().any(|name| name == "filter")
}

fn ask(family: Family) -> Option<Info> {
    let (address, level) = match family {
        Family::Ip6 => ("[::]:0", libc::SOL_IPV6),
        _ => ("0.0.0.0:0", libc::SOL_IP),
    };
    let socket = UdpSocket::bind(address).ok()?;
    let mut name = [0; 32];
    name[..6].copy_from_slice(b"filter");
    let none = [0; 5];
    let mut info =
        Info { name, valid_hooks: 0, hook_entry: none, underflow: none, entries: 0, size: 0 };
    let mut length = libc::socklen_t::try_from(size_of::<Info>()).ok()?;
    // SAFETY: the kernel writes at most `length` bytes, the size of what is behind the pointer, and
    // every pattern of bits is an `Info`.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            GET_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    (answer == 0).then_some(info)
}
