//! Telling the neighbours who has an address now.

use netlink_packet_route::link::LinkAttribute;

use super::device::{change, ipv4_conf};
use super::{Error, Netlink};
use crate::mac::Mac;

/// linux/ip.h.
const IPV4_DEVCONF_ARP_NOTIFY: u16 = 22;

impl Netlink {
    /// Makes the kernel announce every address of a link that is up: a gratuitous ARP for each
    /// IPv4 address (leaves `arp_notify` set), an unsolicited neighbour advertisement for each
    /// IPv6 one where `ndisc_notify` is set ([`super::Inside::visit_link`] does). `mac` is the
    /// MAC the link has: setting it anew is what the kernel announces. No packet socket, whose end
    /// waits for RCU.
    pub fn announce(&mut self, index: u32, mac: Mac) -> Result<(), Error> {
        let notify = ipv4_conf(IPV4_DEVCONF_ARP_NOTIFY, 1);
        let requests = vec![
            change(index, vec![LinkAttribute::AfSpecUnspec(vec![notify])]),
            change(index, vec![LinkAttribute::Address(mac.bytes().to_vec())]),
        ];
        for answer in self.exchange(requests)? {
            drop(answer?);
        }
        Ok(())
    }
}
