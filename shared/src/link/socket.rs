//! The rtnetlink socket: requests in one send, their answers, dumps.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::Error;

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
pub(super) type Answer = Result<Option<RouteNetlinkMessage>, Error>;

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
    Object(RouteNetlinkMessage),
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
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER] })
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
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
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
            match self.socket.recv_from(&mut &mut self.buffer[..], libc::MSG_TRUNC) {
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
        while rest.len() >= NETLINK_HEADER {
            let size = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]);
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            let message = rest.get(..size).filter(|m| m.len() >= NETLINK_HEADER);
            let parsed = message.ok_or_else(|| "message cut short".to_owned()).and_then(|m| {
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(m).map_err(|e| e.to_string())
            });
            let message =
                parsed.map_err(|text| system(io::Error::new(io::ErrorKind::InvalidData, text)))?;
            let sequence = message.header.sequence_number;
            if message.header.flags & NLM_F_DUMP_INTR != 0 {
                sink(sequence, Incoming::Interrupted);
            }
            match message.payload {
                NetlinkPayload::InnerMessage(object) => sink(sequence, Incoming::Object(object)),
                NetlinkPayload::Error(error) => {
                    let verdict = match error.raw_code() {
                        0 => Ok(()),
                        code => Err(Refusal {
                            errno: Errno::from_raw(code.saturating_neg()),
                            words: (message.header.flags & NLM_F_ACK_TLVS != 0)
                                .then(|| words(&error.header))
                                .flatten(),
                        }),
                    };
                    sink(sequence, Incoming::Verdict(verdict));
                }
                NetlinkPayload::Done(done) if done.code < 0 => {
                    let errno = Errno::from_raw(done.code.saturating_neg());
                    sink(sequence, Incoming::Verdict(Err(Refusal { errno, words: None })));
                }
                NetlinkPayload::Done(_) => sink(sequence, Incoming::Done),
                _ => {}
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

/// The kernel's words behind the request header that a capped refusal repeats.
fn words(repeated: &[u8]) -> Option<String> {
    use netlink_packet_core::{NlasIterator, parse_string};
    NlasIterator::new(repeated.get(NETLINK_HEADER..)?)
        .filter_map(Result::ok)
        .find(|nla| nla.kind() == NLMSGERR_ATTR_MSG)
        .and_then(|nla| parse_string(nla.value()).ok())
}
