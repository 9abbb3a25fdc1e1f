//! JSON-RPC 1.0 over a byte stream, as ovsdb-server (RFC 7047 section 4) and the control sockets
//! of ovs-appctl(8) speak it: JSON objects one behind the other, without any length or delimiter.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use serde::Serialize;
use serde_json::{Value, json};

use super::decoder::Decoder;

/// Reads in a row before other work has its turn; each takes up to 16 KiB.
const AT_ONCE: u32 = 8;

/// Why there is no message.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nothing came before the deadline.
    #[error("no answer in time")]
    Timeout,
    /// The stream failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What came, or that nothing more comes, breaks the protocol.
    #[error("{0}")]
    Broken(String),
}

/// A JSON-RPC message (RFC 7047 section 4).
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// Somebody asks us.
    Request {
        /// To be repeated in the reply; null in a notification.
        id: Value,
        /// What is asked.
        method: String,
        /// Its parameters.
        params: Value,
    },
    /// The answer to a request of ours.
    Reply {
        /// The request's id.
        id: Value,
        /// `result`, or `error` where that is not null.
        answer: Result<Value, Value>,
    },
}

impl Message {
    /// Reads one JSON object as a message.
    pub fn from_value(value: Value) -> Result<Self, Failure> {
        let Value::Object(mut members) = value else {
            return Err(Failure::Broken("a message is not a JSON object".to_owned()));
        };
        let mut take = |name: &str| members.remove(name).unwrap_or(Value::Null);
        let id = take("id");
        match take("method") {
            Value::String(method) => Ok(Self::Request { id, method, params: take("params") }),
            // ovsdb-server leaves out `result` next to an error and the other way round.
            Value::Null if !id.is_null() => {
                let answer = match take("error") {
                    Value::Null => Ok(take("result")),
                    error => Err(error),
                };
                Ok(Self::Reply { id, answer })
            }
            _ => Err(Failure::Broken(
                "a message is neither a request nor the answer to one".to_owned(),
            )),
        }
    }
}

/// A request on its way out, written without a copy of what it asks.
#[derive(Serialize)]
struct Request<'a, P> {
    id: u64,
    method: &'a str,
    params: &'a P,
}

#[derive(Debug)]
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn read(&mut self, bytes: &mut [u8], left: Duration) -> io::Result<usize> {
        match self {
            Self::Unix(s) => s.set_read_timeout(Some(left)).and_then(|()| s.read(bytes)),
            Self::Tcp(s) => s.set_read_timeout(Some(left)).and_then(|()| s.read(bytes)),
        }
    }

    fn write(&mut self, bytes: &[u8], left: Duration) -> io::Result<usize> {
        match self {
            Self::Unix(s) => s.set_write_timeout(Some(left)).and_then(|()| s.write(bytes)),
            Self::Tcp(s) => s.set_write_timeout(Some(left)).and_then(|()| s.write(bytes)),
        }
    }
}

/// A JSON-RPC peer: sends requests, keeps the answers apart, answers `echo`.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    decoder: Decoder,
    last_id: u64,
    /// Requests whose answer somebody will still ask for.
    open: BTreeSet<u64>,
    answers: BTreeMap<u64, Result<Value, Value>>,
    /// What a monitor said that nobody asked about yet; `None` until there is a monitor.
    updates: Option<Vec<Value>>,
    /// Why nothing more can be sent or received.
    dead: Option<String>,
}

impl Connection {
    /// Connects to a unix socket. A full backlog (a frozen server) ends in [`Failure::Timeout`].
    pub fn unix(path: &Path, until: Instant) -> Result<Self, Failure> {
        let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
            .map_err(io::Error::from)?;
        // std's connect has no deadline; the kernel's honours SO_SNDTIMEO (socket(7)).
        let micros = i64::try_from(left(until)?.as_micros()).unwrap_or(i64::MAX).max(1);
        setsockopt(&fd, sockopt::SendTimeout, &TimeVal::microseconds(micros))
            .map_err(io::Error::from)?;
        let address = UnixAddr::new(path).map_err(io::Error::from)?;
        match connect(fd.as_raw_fd(), &address) {
            Ok(()) => Ok(Self::new(Stream::Unix(UnixStream::from(fd)))),
            Err(nix::Error::EAGAIN) => Err(Failure::Timeout),
            Err(errno) => Err(Failure::Io(errno.into())),
        }
    }

    /// Connects over TCP.
    pub fn tcp(address: SocketAddr, until: Instant) -> Result<Self, Failure> {
        let stream = match TcpStream::connect_timeout(&address, left(until)?) {
            Ok(stream) => stream,
            Err(e) if e.kind() == io::ErrorKind::TimedOut => return Err(Failure::Timeout),
            Err(e) => return Err(Failure::Io(e)),
        };
        stream.set_nodelay(true)?;
        Ok(Self::new(Stream::Tcp(stream)))
    }

    /// A peer over a socket that is connected already.
    #[cfg(any(test, feature = "laws"))]
    pub(super) fn over(stream: UnixStream) -> Self {
        Self::new(Stream::Unix(stream))
    }

    fn new(stream: Stream) -> Self {
        Self {
            stream,
            decoder: Decoder::default(),
            last_id: 0,
            open: BTreeSet::new(),
            answers: BTreeMap::new(),
            updates: None,
            dead: None,
        }
    }

    /// Sends a request; the number is what [`Self::answer`] takes.
    pub fn send(
        &mut self,
        method: &str,
        params: &impl Serialize,
        until: Instant,
    ) -> Result<u64, Failure> {
        self.last_id += 1;
        let id = self.last_id;
        self.write(&Request { id, method, params }, until)?;
        self.open.insert(id);
        Ok(id)
    }

    /// The answer to request `id`: `result`, or a not-null `error`. An answer that did not come
    /// in time is dropped when it does come.
    pub fn answer(&mut self, id: u64, until: Instant) -> Result<Result<Value, Value>, Failure> {
        let answer = loop {
            match self.answers.remove(&id) {
                Some(answer) => break Ok(answer),
                None => match self.receive(until) {
                    Ok(()) => {}
                    Err(failure) => break Err(failure),
                },
            }
        };
        self.open.remove(&id);
        answer
    }

    /// Takes one message off the stream.
    fn receive(&mut self, until: Instant) -> Result<(), Failure> {
        self.check_alive()?;
        let message = match self.read_message(until) {
            Err(Failure::Timeout) => return Err(Failure::Timeout),
            Err(failure) => return Err(self.die(failure)),
            Ok(message) => message,
        };
        self.take(message, until)
    }

    fn take(&mut self, message: Message, until: Instant) -> Result<(), Failure> {
        match message {
            Message::Reply { id, answer } => {
                if let Some(id) = id.as_u64().filter(|id| self.open.contains(id)) {
                    self.answers.insert(id, answer);
                }
            }
            // RFC 7047 section 4.1.11: without this answer the server hangs up.
            Message::Request { id, method, params } if method == "echo" && !id.is_null() => {
                self.write(&json!({ "id": id, "result": params, "error": null }), until)?;
            }
            // RFC 7047 section 4.1.6: the monitor's name, and what has changed.
            Message::Request { method, params: Value::Array(mut params), .. }
                if method == "update" =>
            {
                if let (Some(updates), Some(update)) = (&mut self.updates, params.pop()) {
                    updates.push(update);
                }
            }
            Message::Request { .. } => {}
        }
        Ok(())
    }

    /// Keeps what a monitor says from here on for [`Self::updates`].
    pub fn listen(&mut self) {
        self.updates = Some(Vec::new());
    }

    /// Takes every message that has come, without waiting for more; returns what a monitor said in
    /// them (`<table-updates>`). An answer to the server's question whether we live goes out before
    /// `until`. A server that never pauses is left after [`AT_ONCE`], and goes on being readable.
    pub fn updates(&mut self, until: Instant) -> Result<Vec<Value>, Failure> {
        self.check_alive()?;
        let mut reads = 0;
        loop {
            match self
                .decoder
                .next_value()
                .and_then(|value| value.map(Message::from_value).transpose())
            {
                Ok(Some(message)) => self.take(message, until)?,
                Ok(None) if reads == AT_ONCE => return Ok(self.take_updates()),
                Ok(None) => match self.read_at_once() {
                    Ok(true) => reads += 1,
                    Ok(false) => return Ok(self.take_updates()),
                    Err(failure) => return Err(self.die(failure)),
                },
                Err(failure) => return Err(self.die(failure)),
            }
        }
    }

    fn take_updates(&mut self) -> Vec<Value> {
        self.updates.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Reads what is there; false if that is nothing.
    fn read_at_once(&mut self) -> Result<bool, Failure> {
        let mut bytes = [0; 16384];
        match recv(self.as_fd().as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => Err(Failure::Broken("the other side closed it".to_owned())),
            Ok(count) => {
                self.decoder.feed(&bytes[..count]);
                Ok(true)
            }
            Err(Errno::EAGAIN) => Ok(false),
            Err(Errno::EINTR) => Ok(true),
            Err(errno) => Err(Failure::Io(errno.into())),
        }
    }

    fn read_message(&mut self, until: Instant) -> Result<Message, Failure> {
        let mut bytes = [0; 4096];
        loop {
            if let Some(value) = self.decoder.next_value()? {
                return Message::from_value(value);
            }
            match self.stream.read(&mut bytes, left(until)?) {
                Ok(0) => return Err(Failure::Broken("the other side closed it".to_owned())),
                Ok(count) => self.decoder.feed(&bytes[..count]),
                Err(e) if is_retried(&e) => {}
                Err(e) => return Err(Failure::Io(e)),
            }
        }
    }

    fn write(&mut self, message: &impl Serialize, until: Instant) -> Result<(), Failure> {
        self.check_alive()?;
        let text = serde_json::to_vec(message).map_err(io::Error::from)?;
        let mut rest = text.as_slice();
        while !rest.is_empty() {
            let count = match left(until) {
                Ok(left) => match self.stream.write(rest, left) {
                    Ok(count) => count,
                    Err(e) if is_retried(&e) => 0,
                    Err(e) => return Err(self.die(Failure::Io(e))),
                },
                // Half a message is out: the stream is of no use any more.
                Err(failure) if rest.len() < text.len() => return Err(self.die(failure)),
                Err(failure) => return Err(failure),
            };
            rest = &rest[count..];
        }
        Ok(())
    }

    fn die(&mut self, failure: Failure) -> Failure {
        self.dead = Some(failure.to_string());
        failure
    }

    fn check_alive(&self) -> Result<(), Failure> {
        match &self.dead {
            Some(why) => Err(Failure::Broken(format!("it broke earlier: {why}"))),
            None => Ok(()),
        }
    }
}

/// What a server said, as far as an error quotes it.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 500;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Stream::Unix(stream) => stream.as_fd(),
            Stream::Tcp(stream) => stream.as_fd(),
        }
    }
}

/// The time left until a deadline, never zero (a zero timeout means none to the kernel).
fn left(until: Instant) -> Result<Duration, Failure> {
    match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(Failure::Timeout),
        left => Ok(left),
    }
}

fn is_retried(error: &io::Error) -> bool {
    // WouldBlock is how the socket's timeout ends; the deadline is looked at before each try.
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_a_request_or_a_reply() {
        let request = json!({"method": "echo", "params": [], "id": "echo"});
        assert!(matches!(
            Message::from_value(request).unwrap(),
            Message::Request { method, .. } if method == "echo"
        ));
        let refusal = json!({"id": 3, "error": {"error": "unknown database"}});
        assert!(matches!(
            Message::from_value(refusal).unwrap(),
            Message::Reply { answer: Err(_), .. }
        ));
        assert!(Message::from_value(json!({"id": null, "result": 1})).is_err());
    }

    fn pair() -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Connection::new(Stream::Unix(ours)), theirs)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(300)
    }

    #[test]
    fn echo_is_answered_and_replies_may_come_out_of_order() {
        let (mut connection, mut server) = pair();
        let first = connection.send("transact", &json!([1]), soon()).unwrap();
        let second = connection.send("transact", &json!([2]), soon()).unwrap();
        server
            .write_all(
                b"{\"id\":2,\"result\":[\"b\"],\"error\":null}{\"id\":\"echo\",\"method\":\"echo\",\
                  \"params\":[7]}{\"id\":null,\"method\":\"update\",\"params\":[]}\
                  {\"id\":99,\"result\":1,\"error\":null}{\"id\":1,\"result\":[\"a\"],\"error\":null}",
            )
            .unwrap();
        assert_eq!(connection.answer(first, soon()).unwrap(), Ok(json!(["a"])));
        assert_eq!(connection.answer(second, soon()).unwrap(), Ok(json!(["b"])));
        assert!(connection.open.is_empty() && connection.answers.is_empty());

        let mut bytes = [0; 4096];
        let count = server.read(&mut bytes).unwrap();
        let mut decoder = Decoder::default();
        decoder.feed(&bytes[..count]);
        let sent: Vec<_> = std::iter::from_fn(|| decoder.next_value().unwrap()).collect();
        assert_eq!(sent[2], json!({"id": "echo", "result": [7], "error": null}));
    }

    #[test]
    fn a_server_that_never_pauses_is_left_after_a_while() {
        let (mut connection, mut server) = pair();
        connection.listen();
        let news = b"{\"id\":null,\"method\":\"update\",\"params\":[null,{}]}".repeat(100);
        server.set_nonblocking(true).unwrap();
        while server.write_all(&news).is_ok() {}
        assert!(!connection.updates(soon()).unwrap().is_empty());
        assert!(!connection.updates(soon()).unwrap().is_empty(), "all was taken at once");
    }

    #[test]
    fn a_silent_peer_costs_the_deadline_and_its_late_answer_is_dropped() {
        let (mut connection, mut server) = pair();
        let late = connection.send("transact", &json!([]), soon()).unwrap();
        let before = Instant::now();
        assert!(matches!(
            connection.answer(late, before + Duration::from_millis(60)),
            Err(Failure::Timeout)
        ));
        let waited = before.elapsed();
        assert!(waited >= Duration::from_millis(60) && waited < Duration::from_millis(260));
        server.write_all(b"{\"id\":1,\"result\":1,\"error\":null}").unwrap();
        let next = connection.send("transact", &json!([]), soon()).unwrap();
        server.write_all(b"{\"id\":2,\"result\":2,\"error\":null}").unwrap();
        assert_eq!(connection.answer(next, soon()).unwrap(), Ok(json!(2)));
        assert!(connection.answers.is_empty());
    }

    #[test]
    fn a_peer_that_does_not_read_costs_the_deadline_and_ends_the_connection() {
        let (mut connection, _server) = pair();
        let big = json!(["x".repeat(1 << 20)]);
        let before = Instant::now();
        // A machine under load takes its time to write a megabyte out.
        let until = before + Duration::from_secs(2);
        assert!(matches!(connection.send("transact", &big, until), Err(Failure::Timeout)));
        assert!(before.elapsed() < Duration::from_secs(8));
        let again = connection.send("transact", &json!([]), soon());
        assert!(
            matches!(&again, Err(Failure::Broken(why)) if why.contains("earlier")),
            "{again:?} {:?}",
            before.elapsed()
        );
    }

    #[test]
    fn a_closed_stream_is_told_from_a_silent_one() {
        let (mut connection, server) = pair();
        let id = connection.send("transact", &json!([]), soon()).unwrap();
        drop(server);
        assert!(matches!(connection.answer(id, soon()), Err(Failure::Broken(_) | Failure::Io(_))));
    }
}
