//! The nf_tables socket: commits a batch, reads chains and rules.

use std::io;
use std::time::{Duration, Instant};

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket as Raw, SocketAddr};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::Error;
use super::attribute::{Attributes, all, find, text};
use super::batch::{Batch, Element, Family, Message, TABLE_OWNER, TABLE_PERSIST, comment};

/// How long to wait for an answer; the kernel commits inside send(2).
const DEADLINE: Duration = Duration::from_secs(5);
/// The kernel fills at most 32 KiB of a dump per read (NLMSG_GOODSIZE and `max_recvmsg_len`).
const BUFFER: usize = 64 * 1024;
const NETLINK_HEADER: usize = 16;
/// struct nfgenmsg: family, version, resource id.
const FAMILY_HEADER: usize = 4;
/// NLM_F_DUMP_INTR: the tables changed under the dump.
const DUMP_INTR: u16 = 0x10;

/// A rule as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledRule {
    /// Its chain.
    pub chain: String,
    /// Its comment, if it has one.
    pub comment: Option<String>,
}

/// A table as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledTable {
    /// Its comment.
    pub comment: String,
    /// The socket which alone may change it, if there is one: see [`Socket::port`].
    pub owner: Option<u32>,
    /// It outlived its owner; the next socket may take it over.
    pub orphan: bool,
}

/// One nf_tables socket.
#[derive(Debug)]
pub struct Socket {
    raw: Raw,
    sequence: u32,
    buffer: Vec<u8>,
}

/// What came back: the message type and what follows the netlink header.
struct Incoming<'a> {
    kind: i32,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl Socket {
    /// A socket in the calling thread's namespace.
    pub fn open() -> Result<Self, Error> {
        let failed = |source| Error::System { action: "open a socket".into(), source };
        let mut raw = Raw::new(NETLINK_NETFILTER).map_err(failed)?;
        raw.bind(&SocketAddr::new(0, 0)).map_err(failed)?;
        raw.set_cap_ack(true).map_err(failed)?;
        let wait = TimeVal::milliseconds(500);
        setsockopt(&raw, sockopt::ReceiveTimeout, &wait).map_err(|e| failed(e.into()))?;
        Ok(Self { raw, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Commits the batch: all of it or nothing.
    pub fn commit(&mut self, batch: &Batch) -> Result<(), Error> {
        let Some(last) = batch.messages.len().checked_sub(1) else { return Ok(()) };
        let action = batch.messages[last].subject.clone();
        let begin = self.next();
        let mut bytes = Vec::with_capacity(batch.messages.len() * 256);
        envelope(&mut bytes, libc::NFNL_MSG_BATCH_BEGIN, begin);
        for (index, message) in batch.messages.iter().enumerate() {
            // Refusals always come; one acknowledgement tells that all have come.
            let ack = if index == last { libc::NLM_F_ACK } else { 0 };
            let sequence = self.next();
            append(&mut bytes, message, ack, sequence);
        }
        let end = self.next();
        envelope(&mut bytes, libc::NFNL_MSG_BATCH_END, end);

        // A batch is one datagram: its buffer must hold all of it (twice, as the kernel counts).
        setsockopt(&self.raw, sockopt::SndBufForce, &(bytes.len() * 2 + 4096))
            .map_err(|e| system("enlarge the send buffer", e.into()))?;
        self.send(&bytes, &action)?;

        let mut refusal: Option<(String, Errno)> = None;
        let deadline = Instant::now() + DEADLINE;
        let mut answered = false;
        while !answered {
            self.receive(&action, deadline, &mut |incoming| {
                let Some(errno) = verdict(&incoming) else { return };
                let index = incoming.sequence.wrapping_sub(begin);
                let index = usize::try_from(index).unwrap_or(usize::MAX);
                // 0 is the envelope: the commit as a whole was refused.
                let Some(message) = batch.messages.get(index.saturating_sub(1)) else { return };
                if let Some(errno) = errno {
                    let subject =
                        if index == 0 { "the whole batch" } else { message.subject.as_str() };
                    refusal.get_or_insert_with(|| (subject.to_owned(), errno));
                }
                // A batch that is refused before its first message has one answer, to the envelope.
                answered |= index == last + 1 || (index == 0 && errno.is_some());
            })?;
        }
        match refusal {
            None => Ok(()),
            Some((subject, errno)) => Err(refused(subject, errno)),
        }
    }

    /// The table; `None` if there is no such one.
    pub fn table(&mut self, family: Family, name: &str) -> Result<Option<InstalledTable>, Error> {
        // NFTA_TABLE_NAME 1, FLAGS 2, USERDATA 6, OWNER 7
        let ask = Attributes::default().text(1, name);
        let found = self.get(libc::NFT_MSG_GETTABLE, family, ask, &format!("table {name}"))?;
        Ok(found.map(|table| {
            let flags = number(&table, 2).unwrap_or_default();
            InstalledTable {
                comment: find(&table, 6).and_then(comment).unwrap_or_default(),
                owner: number(&table, 7).filter(|_| flags & TABLE_OWNER != 0),
                orphan: flags & (TABLE_OWNER | TABLE_PERSIST) == TABLE_PERSIST,
            }
        }))
    }

    /// The number the kernel knows this socket by: the owner of what it declares as owned.
    pub fn port(&self) -> Result<u32, Error> {
        let mut address = SocketAddr::new(0, 0);
        self.raw
            .get_address(&mut address)
            .map_err(|source| system("read the socket's address", source))?;
        Ok(address.port_number())
    }

    /// The elements of a map; none if there is no such map.
    pub fn elements(
        &mut self,
        family: Family,
        table: &str,
        map: &str,
    ) -> Result<Vec<Element>, Error> {
        let action = format!("read map {map} of table {table}");
        // NFTA_SET_ELEM_LIST_TABLE 1, SET 2, ELEMENTS 3
        let ask = Attributes::default().text(1, table).text(2, map);
        let mut found = Vec::new();
        for body in self.dump(nft(libc::NFT_MSG_GETSETELEM), family, ask, &action)? {
            let list = find(&body, 3).unwrap_or_default();
            // NFTA_SET_ELEM_KEY 1, DATA 2; both NFTA_DATA_VALUE 1
            found.extend(all(list, 1).filter_map(|element| {
                let part = |kind| find(find(element, kind)?, 1).map(<[u8]>::to_vec);
                Some((part(1)?, part(2)?))
            }));
        }
        Ok(found)
    }

    /// Whether the chain exists.
    pub fn has_chain(&mut self, family: Family, table: &str, chain: &str) -> Result<bool, Error> {
        // NFTA_CHAIN_TABLE 1, NAME 3
        let ask = Attributes::default().text(1, table).text(3, chain);
        let found = self.get(libc::NFT_MSG_GETCHAIN, family, ask, &format!("chain {chain}"))?;
        Ok(found.is_some())
    }

    /// The rules of a table in their order, chain by chain; none if there is no such table.
    pub fn rules(&mut self, family: Family, table: &str) -> Result<Vec<InstalledRule>, Error> {
        let action = format!("read the rules of table {table}");
        // NFTA_RULE_TABLE 1: the kernel then dumps this table alone. Older ones do not filter.
        let ask = Attributes::default().text(1, table);
        let mut rules = Vec::new();
        for rule in self.dump(nft(libc::NFT_MSG_GETRULE), family, ask, &action)? {
            // NFTA_RULE_CHAIN 2, USERDATA 7
            if text(&rule, 1).as_deref() == Some(table) {
                let chain = text(&rule, 2).unwrap_or_default();
                rules.push(InstalledRule { chain, comment: find(&rule, 7).and_then(comment) });
            }
        }
        Ok(rules)
    }

    /// The attributes of each object of a kind, all of one moment; none where the kernel knows no
    /// such table.
    pub(super) fn dump(
        &mut self,
        kind: i32,
        family: Family,
        attributes: Attributes,
        action: &str,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let deadline = Instant::now() + DEADLINE;
        let attributes = attributes.into_bytes();
        while Instant::now() < deadline {
            let sequence = self.next();
            let message = Message {
                kind,
                flags: libc::NLM_F_DUMP,
                family: family.number(),
                attributes: attributes.clone(),
                subject: String::new(),
            };
            let mut bytes = Vec::new();
            append(&mut bytes, &message, 0, sequence);
            self.send(&bytes, action)?;

            let mut found = Vec::new();
            let (mut done, mut whole, mut refusal) = (false, true, None);
            while !done {
                self.receive(action, deadline, &mut |incoming| {
                    if incoming.sequence != sequence {
                        return;
                    }
                    whole &= incoming.flags & DUMP_INTR == 0;
                    if let Some(errno) = verdict(&incoming) {
                        done = true;
                        refusal = errno;
                    } else if incoming.kind == libc::NLMSG_DONE {
                        done = true;
                    } else if let Some(object) = incoming.body.get(FAMILY_HEADER..) {
                        found.push(object.to_vec());
                    }
                })?;
            }
            match refusal {
                Some(Errno::ENOENT) => return Ok(Vec::new()),
                Some(Errno::EINTR) => {}
                Some(errno) => return Err(system(action, errno.into())),
                None if whole => return Ok(found),
                None => {}
            }
        }
        // It changed during every attempt.
        Err(Error::Timeout { action: action.to_owned() })
    }

    /// The attributes of one object, if it exists.
    fn get(
        &mut self,
        kind: i32,
        family: Family,
        attributes: Attributes,
        subject: &str,
    ) -> Result<Option<Vec<u8>>, Error> {
        self.ask(nft(kind), 0, family, attributes, &format!("read {subject}"))
    }

    /// The answer to one question, empty if it is an acknowledgement; `None` if there is no such
    /// thing.
    pub(super) fn ask(
        &mut self,
        kind: i32,
        flags: i32,
        family: Family,
        attributes: Attributes,
        action: &str,
    ) -> Result<Option<Vec<u8>>, Error> {
        let sequence = self.next();
        let message = Message {
            kind,
            flags,
            family: family.number(),
            attributes: attributes.into_bytes(),
            subject: String::new(),
        };
        let mut bytes = Vec::new();
        append(&mut bytes, &message, 0, sequence);
        self.send(&bytes, action)?;
        let deadline = Instant::now() + DEADLINE;
        let mut answer = None;
        while answer.is_none() {
            self.receive(action, deadline, &mut |incoming| {
                if incoming.sequence == sequence {
                    answer = Some(match verdict(&incoming) {
                        Some(Some(errno)) => Err(errno),
                        Some(None) => Ok(Vec::new()),
                        None => Ok(incoming.body.get(FAMILY_HEADER..).unwrap_or_default().to_vec()),
                    });
                }
            })?;
        }
        match answer {
            Some(Ok(found)) => Ok(Some(found)),
            Some(Err(Errno::ENOENT)) | None => Ok(None),
            Some(Err(errno)) => Err(system(action, errno.into())),
        }
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8], action: &str) -> Result<(), Error> {
        loop {
            match self.raw.send_to(bytes, &SocketAddr::new(0, 0), 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(system(action, source)),
            }
        }
    }

    /// Reads one datagram and hands its messages on.
    fn receive(
        &mut self,
        action: &str,
        deadline: Instant,
        sink: &mut dyn FnMut(Incoming<'_>),
    ) -> Result<(), Error> {
        let (length, sender) = loop {
            match self.raw.recv_from(&mut &mut self.buffer[..], libc::MSG_TRUNC) {
                Ok(received) => break received,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                    ) =>
                {
                    if Instant::now() >= deadline {
                        return Err(Error::Timeout { action: action.to_owned() });
                    }
                }
                Err(source) => return Err(system(action, source)),
            }
        };
        // Anybody may send to a netlink port; only port 0 is the kernel.
        if sender.port_number() != 0 {
            return Ok(());
        }
        let nonsense = |what: &str| {
            system(action, io::Error::new(io::ErrorKind::InvalidData, what.to_owned()))
        };
        let mut rest =
            self.buffer.get(..length).ok_or_else(|| nonsense("an answer longer than 64 KiB"))?;
        while let Some(header) = rest.get(..NETLINK_HEADER) {
            let word = |at: usize| {
                u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
            };
            let size = usize::try_from(word(0)).unwrap_or(usize::MAX);
            let body = rest.get(NETLINK_HEADER..size);
            let body = body.ok_or_else(|| nonsense("an answer cut short"))?;
            let kind = i32::from(u16::from_ne_bytes([header[4], header[5]]));
            let flags = u16::from_ne_bytes([header[6], header[7]]);
            sink(Incoming { kind, flags, sequence: word(8), body });
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }
}

/// A message of nf_tables.
fn nft(kind: i32) -> i32 {
    libc::NFNL_SUBSYS_NFTABLES << 8 | kind
}

/// An attribute that is a number.
fn number(bytes: &[u8], kind: u16) -> Option<u32> {
    find(bytes, kind)?.try_into().ok().map(u32::from_be_bytes)
}

/// An acknowledgement (`Some(None)`), a refusal, or neither.
fn verdict(incoming: &Incoming<'_>) -> Option<Option<Errno>> {
    if incoming.kind != libc::NLMSG_ERROR {
        return None;
    }
    let code: [u8; 4] = incoming.body.get(..4)?.try_into().ok()?;
    match i32::from_ne_bytes(code) {
        0 => Some(None),
        code => Some(Some(Errno::from_raw(code.saturating_neg()))),
    }
}

fn refused(subject: String, errno: Errno) -> Error {
    match errno {
        Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT => Error::Unsupported { subject },
        // Without the privilege send(2) itself fails in the same way, so tell them apart.
        Errno::EPERM if nix::unistd::geteuid().is_root() => Error::Owned { subject },
        errno => system(&format!("write {subject}"), errno.into()),
    }
}

fn system(action: &str, source: io::Error) -> Error {
    Error::System { action: action.to_owned(), source }
}

fn header(bytes: &mut Vec<u8>, length: usize, kind: i32, flags: i32, sequence: u32) {
    let low = |number: i32| u16::try_from(number).unwrap_or(u16::MAX).to_ne_bytes();
    bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend(low(kind));
    bytes.extend(low(flags));
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
}

/// The message that begins or ends a batch; its resource id names the subsystem.
fn envelope(bytes: &mut Vec<u8>, kind: i32, sequence: u32) {
    header(bytes, NETLINK_HEADER + FAMILY_HEADER, kind, libc::NLM_F_REQUEST, sequence);
    let subsystem = libc::NFNL_SUBSYS_NFTABLES.to_be_bytes();
    bytes.extend([0, 0, subsystem[2], subsystem[3]]);
}

fn append(bytes: &mut Vec<u8>, message: &Message, flags: i32, sequence: u32) {
    let flags = libc::NLM_F_REQUEST | message.flags | flags;
    let length = NETLINK_HEADER + FAMILY_HEADER + message.attributes.len();
    header(bytes, length, message.kind, flags, sequence);
    bytes.extend([message.family, 0, 0, 0]);
    bytes.extend(&message.attributes);
}
