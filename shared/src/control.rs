//! The way to a running agent: a unix socket in the state directory.
//!
//! One request a connection, one JSON object a line each way: `{"withdraw": {…}}` is answered with
//! `{"ok": …}` or `{"error": {"kind": …, "text": …, "hint": …}}`. An empty line comes before it,
//! at once: an agent that is stopped is found out, one at work is waited for.
//! What a verb says is the business of the room that asks and of the part of the agent that answers.

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{Fault, Kind, chain};
use crate::state::State;

/// Longest line either side takes, in bytes: ten thousand published ports fill a tenth of it.
pub const LINE_MAX: usize = 16 * 1024 * 1024;

/// What the agent says to whoever calls, before it hears the question.
pub const AWAKE: &[u8] = b"\n";

/// How long that may take: the agent does nothing else on the thread that listens.
const AWAKE_DEADLINE: Duration = Duration::from_secs(2);

/// What ends a read before its time: its own limit, and in a process that was stopped and goes on the
/// signal (signal(7)).
const PASSING: [io::ErrorKind; 2] = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted];

/// Why the agent did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens.
    #[error("no ovs-port-agent runs on this host")]
    Absent,
    /// It takes too long.
    #[error("ovs-port-agent did not answer \"{verb}\" within {} s", waited.as_secs_f32())]
    Silent {
        /// What was asked.
        verb: &'static str,
        /// How long was waited.
        waited: Duration,
    },
    /// The socket cannot be used.
    #[error("cannot ask ovs-port-agent at {}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The answer makes no sense.
    #[error("ovs-port-agent answered \"{verb}\" with nonsense")]
    Nonsense {
        /// What was asked.
        verb: &'static str,
        /// Where it stops making sense.
        source: serde_json::Error,
    },
    /// It said no.
    #[error("{}", .0.text)]
    Refused(Refusal),
}

/// An error of the agent, as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// How the caller should treat it.
    pub kind: Kind,
    /// The error and its sources on one line.
    pub text: String,
    /// The next step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Refusal {
    /// What a fault looks like to the one who asked.
    pub fn of(fault: &dyn Fault) -> Self {
        Self { kind: fault.kind(), text: chain(&fault), hint: fault.hint() }
    }
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Absent | Self::Silent { .. } => Kind::Unavailable,
            Self::Io { .. } | Self::Nonsense { .. } => Kind::System,
            Self::Refused(refusal) => refusal.kind,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Absent => Some("start it: systemctl start ovs-port-agent".to_owned()),
            Self::Silent { .. } => {
                Some("see what it does: journalctl -u ovs-port-agent".to_owned())
            }
            Self::Nonsense { .. } => {
                Some("restart it after an update: systemctl restart ovs-port-agent".to_owned())
            }
            Self::Refused(refusal) => refusal.hint.clone(),
            Self::Io { .. } => None,
        }
    }
}

/// One line of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Done.
    Ok(Value),
    /// Not done.
    Error(Refusal),
}

/// Asks the agent to do `verb`, and waits for its answer until the deadline.
pub fn ask<Q: Serialize, A: DeserializeOwned>(
    state: &State,
    verb: &'static str,
    body: &Q,
    deadline: Duration,
) -> Result<A, Error> {
    let nonsense = |source| Error::Nonsense { verb, source };
    let path = state.control();
    let failed = |source: io::Error| match source.kind() {
        // Nobody ever listened; somebody did, and died.
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Error::Absent,
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            Error::Silent { verb, waited: deadline }
        }
        _ => Error::Io { path: path.clone(), source },
    };
    let mut line = json!({ verb: body }).to_string();
    line.push('\n');
    let begin = Instant::now();
    let mut patience = deadline.min(AWAKE_DEADLINE);
    let mut stream = dial(state, patience).map_err(failed)?;
    stream.write_all(line.as_bytes()).map_err(failed)?;
    let mut answer = Vec::new();
    let mut buffer = [0; 8192];
    while !answer.ends_with(b"\n") || answer == AWAKE {
        if answer == AWAKE {
            patience = deadline;
            answer.clear();
        }
        let left = patience.saturating_sub(begin.elapsed());
        if left.is_zero() {
            return Err(Error::Silent { verb, waited: patience });
        }
        stream.set_read_timeout(Some(left)).map_err(failed)?;
        let count = match stream.read(&mut buffer) {
            // Said with how long was waited.
            Err(error) if PASSING.contains(&error.kind()) => continue,
            count => count.map_err(failed)?,
        };
        // It died over the question.
        if count == 0 || answer.len() > LINE_MAX {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        answer.extend_from_slice(&buffer[..count]);
    }
    match serde_json::from_slice(&answer).map_err(nonsense)? {
        Answer::Ok(value) => serde_json::from_value(value).map_err(nonsense),
        Answer::Error(refusal) => Err(Error::Refused(refusal)),
    }
}

/// Whether an agent listens.
pub fn is_served(state: &State) -> bool {
    dial(state, Duration::from_secs(1)).is_ok()
}

/// Connects; where the agent hangs and its queue is full, not for ever (`SO_SNDTIMEO`, socket(7)).
fn dial(state: &State, deadline: Duration) -> io::Result<UnixStream> {
    let millis = i64::try_from(deadline.as_millis()).unwrap_or(i64::MAX);
    let address = UnixAddr::new(&state.control())?;
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::milliseconds(millis))?;
    let begin = Instant::now();
    while let Err(errno) = connect(fd.as_raw_fd(), &address) {
        if errno != Errno::EINTR || begin.elapsed() > deadline {
            return Err(errno.into());
        }
    }
    Ok(UnixStream::from(fd))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::net::UnixListener;

    use super::*;

    const SOON: Duration = Duration::from_millis(300);

    /// A state directory where somebody answers one question with `line`.
    fn answered(line: &'static str) -> (tempfile::TempDir, State) {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(dir.path().to_owned());
        let listener = UnixListener::bind(state.control()).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut asked).unwrap();
            assert_eq!(asked, "{\"add\":[1,2]}\n");
            stream.write_all(line.as_bytes()).unwrap();
            if line.is_empty() {
                std::thread::sleep(SOON * 3);
            }
        });
        (dir, state)
    }

    fn add(state: &State) -> Result<u32, Error> {
        ask(state, "add", &[1, 2], SOON)
    }

    #[test]
    fn an_answer_is_read_and_a_refusal_keeps_its_kind_and_hint() {
        let (_dir, state) = answered("{\"ok\":3}\n");
        assert_eq!(add(&state).unwrap(), 3);
        let (_dir, state) =
            answered("{\"error\":{\"kind\":\"conflict\",\"text\":\"taken\",\"hint\":\"wait\"}}\n");
        let error = add(&state).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Conflict, "taken"));
        assert_eq!(error.hint().as_deref(), Some("wait"));
    }

    #[test]
    fn who_is_awake_is_waited_for_and_who_is_not_is_not() {
        let (_dir, state) = answered("\n{\"ok\":3}\n");
        assert_eq!(add(&state).unwrap(), 3);
        let (_dir, state) = answered("\n");
        assert!(add(&state).is_err(), "awake, and then nothing");
        let (_dir, state) = answered("");
        let begin = Instant::now();
        let error = ask::<_, u32>(&state, "add", &[1, 2], AWAKE_DEADLINE * 10).unwrap_err();
        // The listener hangs up at some time.
        assert!(begin.elapsed() < AWAKE_DEADLINE * 2, "{error}");
    }

    #[test]
    fn an_asker_that_is_stopped_and_goes_on_gets_its_answer() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(dir.path().to_owned());
        let listener = UnixListener::bind(state.control()).unwrap();
        let agent = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // In a read with a deadline by now, which going on interrupts.
            std::thread::sleep(SOON / 3);
            let script = "kill -STOP $PPID; sleep 0.05; kill -CONT $PPID";
            assert!(
                std::process::Command::new("sh").args(["-c", script]).status().unwrap().success()
            );
            stream.write_all(b"{\"ok\":3}\n").unwrap();
        });
        assert_eq!(ask::<_, u32>(&state, "add", &[1, 2], SOON * 10).unwrap(), 3);
        agent.join().unwrap();
    }

    #[test]
    fn nobody_and_nothing_and_nonsense_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(dir.path().to_owned());
        assert!(matches!(add(&state), Err(Error::Absent)) && !is_served(&state));
        drop(UnixListener::bind(state.control()).unwrap());
        assert!(matches!(add(&state), Err(Error::Absent)) && !is_served(&state));
        let (_dir, state) = answered("");
        let start = Instant::now();
        assert!(matches!(add(&state), Err(Error::Silent { .. })));
        assert!(start.elapsed() < SOON * 3);
        let (_dir, state) = answered("{\"maybe\":3}\n");
        assert!(matches!(add(&state), Err(Error::Nonsense { .. })));
    }
}
