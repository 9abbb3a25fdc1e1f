//! The rtnetlink socket: requests in one send, their answers, dumps.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NLMSG_NOOP, NLMSG_OVERRUN, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::Error;
use super::object::{Attribute, Object, attributes};

/// How long to wait for an answer. The kernel does the work inside send(2), so an answer that is
/// not there at once was lost.
const DEADLINE: Duration = Duration::from_secs(5);

/// The kernel fills at most 32 KiB of a dump per read (`NLMSG_GOODSIZE` and `max_recvmsg_len`).
const BUFFER: usize = 32 * 1024;

/// Requests per send: their answers must fit the default receive buffer of 208 KiB.
const BATCH: usize = 64;

/// The attribute with the kernel's own words (linux/netlink.h).
const NLMSGERR_ATTR_MSG: u16 = 1;
const NETLINK_HEADER: usize = 16;

/// One rtnetlink socket.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    /// Never filled beforehand: an ADD would touch eight pages for an answer of a few bytes.
    buffer: Vec<u8>,
}

/// What a request does to its subject: decides which refusals mean "exists" or "is missing".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Create,
    Change,
    Delete,
    Read,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Change => "change",
            Self::Delete => "delete",
            Self::Read => "read",
        })
    }
}

/// One message and what to say about it when it fails.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) verb: Verb,
    /// "link veth-web-eth0", "route 10.0.0.0/8".
    pub(super) subject: String,
    /// NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE.
    pub(super) flags: u16,
    pub(super) message: RouteNetlinkMessage,
}

/// The answer to one request: the object for a read, nothing for the rest.
pub(super) type Answer = Result<Option<Object>, Error>;

/// What the kernel refused with: a number and, if it was kind, words.
#[derive(Debug)]
struct Refusal {
    errno: Errno,
    words: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.errno.desc())?;
        match &self.words {
            Some(words) => write!(f, " (kernel: {words})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        let plain: Self = refusal.errno.into();
        if refusal.words.is_some() { Self::new(plain.kind(), refusal) } else { plain }
    }
}

/// The number of a refusal, with words or without.
pub(super) fn errno(source: &io::Error) -> Option<Errno> {
    let refusal = source.get_ref().and_then(|inner| inner.downcast_ref::<Refusal>());
    refusal.map(|r| r.errno).or_else(|| source.raw_os_error().map(Errno::from_raw))
}

impl Refusal {
    fn into_error(self, verb: Verb, subject: &str) -> Error {
        match (verb, self.errno) {
            (Verb::Create, Errno::EEXIST) => Error::Exists { what: subject.to_owned() },
            (Verb::Change | Verb::Delete | Verb::Read, Errno::ENODEV)
            | (
                Verb::Delete | Verb::Read,
                Errno::ENOENT | Errno::ESRCH | Errno::EADDRNOTAVAIL | Errno::ENXIO,
            ) => Error::Missing { what: subject.to_owned() },
            _ => Error::System { action: format!("{verb} {subject}"), source: self.into() },
        }
    }
}

/// One message of the kernel, as far as the socket cares.
enum Incoming {
    /// The table changed under the dump.
    Interrupted,
    /// The last message of a dump.
    Done,
    /// An acknowledgement or a refusal.
    Verdict(Result<(), Refusal>),
    /// An object.
    Object(Object),
}

impl Netlink {
    /// A socket in the calling thread's namespace.
    pub fn open() -> Result<Self, Error> {
        let failed = |source| Error::System { action: "open an rtnetlink socket".into(), source };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed)?;
        // Port 0: the kernel picks a free one, several sockets of one process do not collide.
        socket.bind(&SocketAddr::new(0, 0)).map_err(failed)?;
        socket.set_ext_ack(true).map_err(failed)?;
        socket.set_cap_ack(true).map_err(failed)?;
        // The kernel then filters dumps and refuses filters it does not know.
        socket.set_netlink_get_strict_chk(true).map_err(failed)?;
        let wait = TimeVal::milliseconds(500);
        setsockopt(&socket, ReceiveTimeout, &wait).map_err(|e| failed(e.into()))?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Sends the requests, up to [`BATCH`] in one send, and reads every answer. The kernel works
    /// through a send in order and goes on after a refusal.
    pub(super) fn exchange(&mut self, requests: Vec<Request>) -> Result<Vec<Answer>, Error> {
        let mut answers = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let batch: Vec<Request> = requests.by_ref().take(BATCH).collect();
            self.exchange_batch(batch, &mut answers)?;
        }
        Ok(answers)
    }

    fn exchange_batch(
        &mut self,
        batch: Vec<Request>,
        answers: &mut Vec<Answer>,
    ) -> Result<(), Error> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(1024);
        let mut asked: Vec<(Verb, String)> = Vec::with_capacity(batch.len());
        for request in batch {
            self.sequence = self.sequence.wrapping_add(1);
            let ack = if request.verb == Verb::Read { 0 } else { NLM_F_ACK };
            let flags = request.flags | NLM_F_REQUEST | ack;
            append(&mut bytes, self.sequence, flags, request.message);
            asked.push((request.verb, request.subject));
        }
        let action = asked.iter().map(|(v, s)| format!("{v} {s}")).next().unwrap_or_default();
        self.send(&bytes, &action)?;

        let deadline = Instant::now() + DEADLINE;
        let mut verdicts: Vec<Option<Answer>> = asked.iter().map(|_| None).collect();
        while verdicts.iter().any(Option::is_none) {
            self.receive(&action, deadline, &mut |sequence, incoming| {
                let slot = usize::try_from(sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                // Answers to an earlier request that ran out of time have other numbers.
                let (Some(verdict), Some((verb, subject))) =
                    (verdicts.get_mut(slot), asked.get(slot))
                else {
                    return;
                };
                *verdict = Some(match incoming {
                    Incoming::Object(message) => Ok(Some(message)),
                    Incoming::Verdict(Err(refusal)) => Err(refusal.into_error(*verb, subject)),
                    Incoming::Verdict(Ok(())) | Incoming::Interrupted | Incoming::Done => Ok(None),
                });
            })?;
        }
        answers.extend(verdicts.into_iter().flatten());
        Ok(())
    }

    /// Does one request.
    pub(super) fn ask(&mut self, request: Request) -> Answer {
        let action = format!("{} {}", request.verb, request.subject);
        let mut answers = self.exchange(vec![request])?;
        answers.pop().unwrap_or(Err(Error::Timeout { action }))
    }

    /// Reads a whole table; begins anew when it changed meanwhile. A table that does not exist is
    /// empty.
    pub(super) fn dump(
        &mut self,
        subject: &str,
        message: &RouteNetlinkMessage,
    ) -> Result<Vec<Object>, Error> {
        let action = format!("read {subject}");
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            self.sequence = self.sequence.wrapping_add(1);
            let own = self.sequence;
            let mut bytes = Vec::with_capacity(64);
            append(&mut bytes, own, NLM_F_REQUEST | NLM_F_DUMP, message.clone());
            self.send(&bytes, &action)?;

            let mut objects = Vec::new();
            let mut whole = true;
            let mut end = None;
            while end.is_none() {
                let received = self.receive(&action, deadline, &mut |sequence, incoming| {
                    if sequence != own {
                        return;
                    }
                    match incoming {
                        Incoming::Interrupted => whole = false,
                        Incoming::Object(object) => objects.push(object),
                        Incoming::Done => end = Some(Ok(())),
                        Incoming::Verdict(verdict) => end = Some(verdict),
                    }
                });
                match received {
                    // The kernel had no room for part of the answer.
                    Err(Error::System { source, .. })
                        if source.raw_os_error() == Some(libc::ENOBUFS) =>
                    {
                        whole = false;
                    }
                    other => other?,
                }
            }
            match end {
                Some(Err(refusal)) if refusal.errno == Errno::EINTR => {}
                Some(Err(refusal)) => {
                    return match refusal.into_error(Verb::Read, subject) {
                        Error::Missing { .. } => Ok(Vec::new()),
                        error => Err(error),
                    };
                }
                _ if whole => return Ok(objects),
                _ => {}
            }
        }
        // It changed during every attempt.
        Err(Error::Timeout { action })
    }

    fn send(&self, bytes: &[u8], action: &str) -> Result<(), Error> {
        loop {
            match self.socket.send_to(bytes, &SocketAddr::new(0, 0), 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::System { action: action.to_owned(), source }),
            }
        }
    }

    /// Reads one datagram and hands its messages on.
    fn receive(
        &mut self,
        action: &str,
        deadline: Instant,
        sink: &mut dyn FnMut(u32, Incoming),
    ) -> Result<(), Error> {
        let system = |source| Error::System { action: action.to_owned(), source };
        let (length, sender) = loop {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer, libc::MSG_TRUNC) {
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
                Err(source) => return Err(system(source)),
            }
        };
        // Anybody may send to a netlink port; only port 0 is the kernel.
        if sender.port_number() != 0 {
            return Ok(());
        }
        let mut rest = self.buffer.get(..length).ok_or_else(|| {
            let text = format!("an answer of {length} bytes, at most {BUFFER} expected");
            system(io::Error::new(io::ErrorKind::InvalidData, text))
        })?;
        while let Some((header, _)) = rest.split_first_chunk::<NETLINK_HEADER>() {
            let [a, b, c, d, k, l, f, g, s, t, u, v, ..] = *header;
            let size = usize::try_from(u32::from_ne_bytes([a, b, c, d])).unwrap_or(usize::MAX);
            let kind = u16::from_ne_bytes([k, l]);
            let flags = u16::from_ne_bytes([f, g]);
            let sequence = u32::from_ne_bytes([s, t, u, v]);
            let payload = rest.get(NETLINK_HEADER..size).ok_or_else(|| {
                system(io::Error::new(io::ErrorKind::InvalidData, "an answer cut short"))
            })?;
            if flags & NLM_F_DUMP_INTR != 0 {
                sink(sequence, Incoming::Interrupted);
            }
            match kind {
                NLMSG_ERROR => {
                    // A capped refusal repeats the header of the request before the words.
                    let verdict = verdict(payload, flags, 4 + NETLINK_HEADER);
                    sink(sequence, Incoming::Verdict(verdict));
                }
                NLMSG_DONE => match verdict(payload, flags, 4) {
                    Ok(()) => sink(sequence, Incoming::Done),
                    refusal => sink(sequence, Incoming::Verdict(refusal)),
                },
                NLMSG_NOOP | NLMSG_OVERRUN => {}
                kind => {
                    let object = Object { kind, bytes: payload.to_vec() };
                    sink(sequence, Incoming::Object(object));
                }
            }
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }
}

/// Appends one message to the bytes of a send.
fn append(bytes: &mut Vec<u8>, sequence: u32, flags: u16, message: RouteNetlinkMessage) {
    let mut header = NetlinkHeader::default();
    header.sequence_number = sequence;
    header.flags = flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let start = bytes.len();
    bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut bytes[start..]);
}

/// What an acknowledgement or the end of a dump says; the kernel's words begin at `words`.
fn verdict(payload: &[u8], flags: u16, words: usize) -> Result<(), Refusal> {
    let code = payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    if code >= 0 {
        return Ok(());
    }
    let told = payload.get(words..).filter(|_| flags & NLM_F_ACK_TLVS != 0).unwrap_or_default();
    let words = attributes(told).find(|a| a.kind == NLMSGERR_ATTR_MSG).and_then(Attribute::text);
    Err(Refusal { errno: Errno::from_raw(code.saturating_neg()), words })
}
