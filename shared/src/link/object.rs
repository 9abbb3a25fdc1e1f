//! An object as the kernel describes it, decoded no further than it is used.
//!
//! By hand, not with the message types that build our requests: those decode every attribute, and
//! one that a newer kernel or an exotic device sends in another shape fails the whole list.

use std::net::IpAddr;

use netlink_packet_core::{NLA_TYPE_MASK, parse_ip, parse_string};

/// Message kinds (linux/rtnetlink.h).
pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_NEWROUTE: u16 = 24;
pub(super) const RTM_NEWNEIGH: u16 = 28;
pub(super) const RTM_NEWRULE: u16 = 32;

/// One message without its netlink header.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) kind: u16,
    pub(super) bytes: Vec<u8>,
}

impl Object {
    /// The fixed header and the attributes behind it, if the message is of that kind and whole.
    pub(super) fn split<const HEADER: usize>(
        &self,
        kind: u16,
    ) -> Option<(&[u8; HEADER], impl Iterator<Item = Attribute<'_>>)> {
        if self.kind != kind {
            return None;
        }
        let (header, rest) = self.bytes.split_first_chunk()?;
        Some((header, attributes(rest)))
    }
}

/// One attribute.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attribute<'a> {
    pub(super) kind: u16,
    pub(super) value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The value as a number of the machine's byte order.
    pub(super) fn number(self) -> Option<u32> {
        self.value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
    }

    /// The value as text up to its NUL.
    pub(super) fn text(self) -> Option<String> {
        parse_string(self.value).ok()
    }

    /// The value as an address of either family, by its length.
    pub(super) fn ip(self) -> Option<IpAddr> {
        parse_ip(self.value).ok()
    }

    /// The attributes inside.
    pub(super) fn nested(self) -> impl Iterator<Item = Attribute<'a>> {
        attributes(self.value)
    }
}

/// The attributes of a buffer.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (header, _) = rest.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute { kind, value })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_loop(bytes: Vec<u8>) {
            for attribute in attributes(&bytes) {
                drop((attribute.number(), attribute.text(), attribute.ip()));
                assert!(attribute.nested().count() <= bytes.len());
            }
        }
    }
}
