//! Connections as the kernel tracks them: those sent on to a container, forgotten when its ports
//! are withdrawn, and those that nobody sends on, when it gets ports. Numbers are those of linux/netfilter/nfnetlink_conntrack.h.

use std::net::{IpAddr, SocketAddr};

use nix::libc;

use super::attribute::{Attributes, find};
use super::{Error, Family, Socket};

/// NFNL_SUBSYS_CTNETLINK << 8, with IPCTNL_MSG_CT_GET and IPCTNL_MSG_CT_DELETE.
const GET: i32 = 1 << 8 | 1;
const DELETE: i32 = 1 << 8 | 2;
/// CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_STATUS_MASK.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
const STATUS_MASK: u16 = 26;

/// Where packets of a connection go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// To a destination that a rule has changed.
    On,
    /// Where their sender sends them, and under his address.
    Nowhere,
}

/// One that is tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Its protocol number.
    pub protocol: u8,
    /// What the caller called.
    pub called: SocketAddr,
    /// Who answers.
    pub answers: SocketAddr,
}

impl Socket {
    /// Forgets the connections that `wanted` chooses among those of that kind; returns how many. The
    /// next packet of such a one is the first of another.
    pub fn forget_connections(
        &mut self,
        family: Family,
        sent: Sent,
        wanted: impl Fn(&Connection) -> bool,
    ) -> Result<usize, Error> {
        let action = "read the connections of the host";
        // Linux before 5.15 sends the others as well.
        let dnat = super::Ct::DNAT;
        let status = if sent == Sent::On { dnat } else { 0 };
        let ask = Attributes::default().number(STATUS, status).number(STATUS_MASK, dnat);
        let mut count = 0;
        for object in self.dump(GET, family, ask, action)? {
            let Some(original) = find(&object, ORIGINAL) else { continue };
            let is_wanted = |connection: &Connection| {
                (sent == Sent::On || is_plain(&object) == Some(true)) && wanted(connection)
            };
            if connection(&object).as_ref().is_some_and(is_wanted) {
                let which = Attributes::default().raw_nested(ORIGINAL, original);
                // One that has ended meanwhile is as good.
                let action = "forget a connection of the host";
                let gone = self.ask(DELETE, libc::NLM_F_ACK, family, which, action)?;
                count += usize::from(gone.is_some());
            }
        }
        Ok(count)
    }
}

fn connection(object: &[u8]) -> Option<Connection> {
    let (original, reply) = (find(object, ORIGINAL)?, find(object, REPLY)?);
    // CTA_IP_V4_SRC 1, V4_DST 2, V6_SRC 3, V6_DST 4; CTA_PROTO_SRC_PORT 2, DST_PORT 3
    let (protocol, called) = end(original, 2, 3)?;
    let (_, answers) = end(reply, 1, 2)?;
    Some(Connection { protocol, called, answers })
}

/// Whether neither end is another than it says.
fn is_plain(object: &[u8]) -> Option<bool> {
    let (original, reply) = (find(object, ORIGINAL)?, find(object, REPLY)?);
    // As in `connection`: sources 1 and 2, destinations 2 and 3.
    Some(end(original, 1, 2)? == end(reply, 2, 3)? && end(original, 2, 3)? == end(reply, 1, 2)?)
}

/// Protocol, address and port of one end of a tuple.
fn end(tuple: &[u8], v4: u16, port: u16) -> Option<(u8, SocketAddr)> {
    // CTA_TUPLE_IP 1, CTA_TUPLE_PROTO 2, CTA_PROTO_NUM 1
    let (ip, protocol) = (find(tuple, 1)?, find(tuple, 2)?);
    let address: IpAddr = match find(ip, v4) {
        Some(bytes) => <[u8; 4]>::try_from(bytes).ok()?.into(),
        None => <[u8; 16]>::try_from(find(ip, v4 + 2)?).ok()?.into(),
    };
    let port = u16::from_be_bytes(find(protocol, port)?.try_into().ok()?);
    Some((*find(protocol, 1)?.first()?, SocketAddr::new(address, port)))
}
