//! ovs-vswitchd's control socket (ovs-appctl(8)): is it alive, and what does its datapath see.
//!
//! The protocol is JSON-RPC as in OVSDB: the method is the command, the parameters are its
//! arguments, the result is text.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Endpoint;
use super::wire::{Connection, Failure, shown};
use crate::error::{Fault, Kind};
use crate::name::IfName;

/// How long ovs-vswitchd may take over a command: it answers between two rounds of work, and with
/// a thousand ports a round takes a quarter of a second.
pub const DEADLINE: Duration = Duration::from_secs(2);

/// What went wrong between us and ovs-vswitchd.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no pid file.
    #[error("ovs-vswitchd does not run: it has no pid file {}", path.display())]
    NotRunning {
        /// Where its pid file would be.
        path: PathBuf,
    },
    /// The pid file cannot be read, or holds something else.
    #[error("cannot read the pid file of ovs-vswitchd, {}", path.display())]
    PidFile {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// There is a pid file, but nobody serves the control socket it leads to.
    #[error("ovs-vswitchd does not run any more: nobody listens at {}", path.display())]
    Gone {
        /// The control socket.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The control socket is there and ours to use, but nothing comes back.
    #[error("ovs-vswitchd did not answer \"{command}\" within {} s", deadline.as_secs_f32())]
    Frozen {
        /// The command.
        command: String,
        /// How long was waited.
        deadline: Duration,
    },
    /// The connection broke, or what came was no answer.
    #[error("the connection to ovs-vswitchd at {} broke: {why}", path.display())]
    Broken {
        /// The control socket.
        path: PathBuf,
        /// What was seen.
        why: String,
    },
    /// ovs-vswitchd refused the command.
    #[error("ovs-vswitchd refused \"{command}\": {why}")]
    Refused {
        /// The command.
        command: String,
        /// Its words.
        why: String,
    },
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::NotRunning { .. }
            | Self::Gone { .. }
            | Self::Frozen { .. }
            | Self::Broken { .. } => Kind::Unavailable,
            Self::PidFile { .. } | Self::Refused { .. } => Kind::System,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NotRunning { .. } | Self::Gone { .. } => {
                Some("start Open vSwitch (systemctl start openvswitch-switch)".to_owned())
            }
            Self::Frozen { .. } | Self::Broken { .. } => Some(
                "look at the log of ovs-vswitchd, then restart it (systemctl restart ovs-vswitchd)"
                    .to_owned(),
            ),
            Self::PidFile { .. } | Self::Refused { .. } => None,
        }
    }
}

/// A connection to the control socket of ovs-vswitchd.
#[derive(Debug)]
pub struct Vswitchd {
    connection: Connection,
    path: PathBuf,
    deadline: Duration,
}

impl Vswitchd {
    /// Connects to the ovs-vswitchd of the same host as the OVSDB at `endpoint`. Every later call
    /// waits at most `deadline`.
    pub fn connect(endpoint: &Endpoint, deadline: Duration) -> Result<Self, Error> {
        let rundir = endpoint.rundir();
        let pid_file = rundir.join("ovs-vswitchd.pid");
        let pid = match std::fs::read_to_string(&pid_file) {
            Ok(text) => text.trim().parse::<u32>().map_err(io::Error::other),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NotRunning { path: pid_file });
            }
            Err(e) => Err(e),
        };
        let pid = match pid {
            Ok(pid) => pid,
            Err(source) => return Err(Error::PidFile { path: pid_file, source }),
        };
        let path = rundir.join(format!("ovs-vswitchd.{pid}.ctl"));
        match Connection::unix(&path, Instant::now() + deadline) {
            Ok(connection) => Ok(Self { connection, path, deadline }),
            Err(Failure::Timeout) => Err(Error::Frozen { command: "connect".to_owned(), deadline }),
            // The socket's file outlives a killed process: refused, not missing.
            Err(Failure::Io(source)) => Err(Error::Gone { path, source }),
            Err(Failure::Broken(why)) => Err(Error::Broken { path, why }),
        }
    }

    /// Runs a command of ovs-appctl(8), returns what it prints.
    pub fn call(&mut self, command: &str, args: &[&str]) -> Result<String, Error> {
        let until = Instant::now() + self.deadline;
        let answer = self
            .connection
            .send(command, &json!(args), until)
            .and_then(|id| self.connection.answer(id, until));
        let broken = |why| Err(Error::Broken { path: self.path.clone(), why });
        match answer {
            Ok(Ok(Value::String(text))) => Ok(text),
            Ok(Ok(other)) => {
                broken(format!("\"{command}\" was answered by {}", shown(&other.to_string())))
            }
            Ok(Err(why)) => {
                let why = why.as_str().map_or_else(|| why.to_string(), |t| t.trim().to_owned());
                let why = shown(&why);
                Err(Error::Refused { command: command.to_owned(), why })
            }
            Err(Failure::Timeout) => {
                Err(Error::Frozen { command: command.to_owned(), deadline: self.deadline })
            }
            Err(Failure::Io(e)) => broken(e.to_string()),
            Err(Failure::Broken(why)) => broken(why),
        }
    }

    /// Its version, such as "3.1.0". Whoever answers this does its work: commands are served by
    /// the thread that also opens ports.
    pub fn version(&mut self) -> Result<String, Error> {
        // "ovs-vswitchd (Open vSwitch) 3.1.0", then notes of the packager, each on its own line.
        let text = self.call("version", &[])?;
        let first = text.lines().next().unwrap_or_default();
        Ok(first.rsplit(' ').next().unwrap_or_default().to_owned())
    }

    /// How many frames of one EtherType the datapath has taken from `port` since it has a flow for
    /// them, the frame that made the flow not counted; `None` while it has none: nothing seen, or
    /// not for ten seconds (`max-idle`, ovs-vswitchd.conf.db(5)). A frame has arrived since the
    /// last look if the answer is a number, and another than then.
    ///
    /// By EtherType, not by address: every datapath flow names its port and its EtherType, but on
    /// a bridge that drops what it does not know (`fail_mode=secure`) none names an address.
    pub fn flow_packets(&mut self, port: &IfName, ether_type: u16) -> Result<Option<u64>, Error> {
        let filter = format!("filter=dl_type=0x{ether_type:04x}");
        let mut sum = None;
        // One datapath per type in use: "netdev@ovs-netdev", "system@ovs-system".
        for datapath in self.call("dpctl/dump-dps", &[])?.split_whitespace() {
            let dump = self.call("dpctl/dump-flows", &["--names", datapath, &filter])?;
            sum = sum.into_iter().chain(count(&dump, port)).reduce(u64::saturating_add);
        }
        Ok(sum)
    }
}

/// Asks ovs-vswitchd for its version: an error unless it runs and answers.
pub fn alive(endpoint: &Endpoint, deadline: Duration) -> Result<String, Error> {
    Vswitchd::connect(endpoint, deadline)?.version()
}

/// Adds up `packets:` of the flows whose `in_port` is `port`.
fn count(dump: &str, port: &IfName) -> Option<u64> {
    let in_port = format!("in_port({port})");
    dump.lines()
        .filter(|line| line.split(',').any(|field| field == in_port))
        .filter_map(|line| line.split(", ").find_map(|field| field.strip_prefix("packets:")))
        .filter_map(|count| count.parse::<u64>().ok())
        .reduce(u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_one_port_are_added_up() {
        // As ovs-vswitchd 3.1.0 prints them.
        let dump = "flow-dump from the main thread:\n\
            recirc_id(0),in_port(v1),packet_type(ns=0,id=0),eth(src=02:00:00:00:00:01,\
            dst=01:80:c2:00:00:0f),eth_type(0x88b5), packets:3, bytes:180, used:0.123s, \
            actions:drop\n\
            recirc_id(0),in_port(v1),packet_type(ns=0,id=0),eth(src=02:00:00:00:00:02,\
            dst=01:80:c2:00:00:0f),eth_type(0x88b5), packets:0, bytes:0, used:never, \
            actions:drop\n\
            recirc_id(0),in_port(v10),packet_type(ns=0,id=0),eth_type(0x88b5), packets:9, \
            bytes:540, used:1.0s, actions:drop\n";
        for (port, expected) in [("v1", Some(3)), ("v10", Some(9)), ("v", None)] {
            assert_eq!(count(dump, &port.parse().unwrap()), expected, "{port}");
        }
        assert_eq!(count("", &"v1".parse().unwrap()), None);
    }

    #[test]
    fn a_pid_file_that_is_missing_or_wrong_or_stale_is_told_apart() {
        let rundir = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::Unix(rundir.path().join("db.sock"));
        let alive = || alive(&endpoint, Duration::from_secs(1)).unwrap_err();
        assert!(matches!(alive(), Error::NotRunning { .. }));
        let file = rundir.path().join("ovs-vswitchd.pid");
        std::fs::write(&file, "x\n").unwrap();
        assert!(matches!(alive(), Error::PidFile { .. }));
        std::fs::write(&file, "12\n").unwrap();
        assert!(matches!(alive(), Error::Gone { .. }));
        // What a killed process leaves: the socket's file, and nobody behind it.
        drop(std::os::unix::net::UnixListener::bind(rundir.path().join("ovs-vswitchd.12.ctl")));
        assert!(matches!(alive(), Error::Gone { .. }));
        assert_eq!(alive().kind(), Kind::Unavailable);
    }
}
