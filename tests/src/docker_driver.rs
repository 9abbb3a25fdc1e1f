//! The Docker driver `ovs-agent-docker`: started, killed, and called as dockerd calls it.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

use crate::command::{Command, poll};
use crate::daemon::Daemon;

const READY: Duration = Duration::from_secs(15);

/// The driver of one host.
#[derive(Debug)]
pub struct DockerDriver {
    daemon: Daemon,
}

impl DockerDriver {
    /// Where dockerd looks for it.
    pub const SOCKET: &str = "/run/docker/plugins/ovs-agent.sock";

    pub(crate) fn start(command: Command) -> Self {
        let this = Self { daemon: Daemon::start("ovs-agent-docker", command) };
        this.daemon.ready(READY, || UnixStream::connect(Self::SOCKET).is_ok());
        this
    }

    /// Calls a method as dockerd 20.10 does: `Host` empty, no `Content-Type`. Returns the answer.
    #[track_caller]
    pub fn call(&self, method: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, text) = self.post(method, &body);
        assert_eq!(status, 200, "{method}: {text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{method}: {error}: {text}"))
    }

    /// The same; panics unless the answer is free of an error.
    #[track_caller]
    pub fn ok(&self, method: &str, body: &Value) -> Value {
        let answer = self.call(method, body);
        let error = answer.get("Err").or(answer.get("Error"));
        assert!(error.is_none(), "{method}: {answer}");
        answer
    }

    /// The same; the error, panics if there is none.
    #[track_caller]
    pub fn error(&self, method: &str, body: &Value) -> String {
        let answer = self.call(method, body);
        assert_eq!(answer["Err"], answer["Error"], "{method}: {answer}");
        let error = answer["Err"].as_str();
        error.unwrap_or_else(|| panic!("{method} did not fail: {answer}")).to_owned()
    }

    /// The same, whatever comes of it: `None` if the driver hung up without an answer.
    pub(crate) fn try_call(&self, method: &str, body: &Value) -> Option<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut stream = try_send(method, &body).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
    }

    /// Whether it still runs.
    pub(crate) fn alive(&self) -> bool {
        self.daemon.alive()
    }

    /// Sends a call and does not wait for its answer; the connection lasts as long as what this
    /// returns.
    pub fn begin(&self, method: &str, body: &Value) -> UnixStream {
        send(method, &body.to_string())
    }

    /// Posts a body; the status and the answer's text.
    pub fn post(&self, method: &str, body: &str) -> (u16, String) {
        let mut stream = send(method, body);
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("read an answer");
        let (head, body) = text.split_once("\r\n\r\n").expect("an HTTP answer");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.expect("an HTTP status"), body.to_owned())
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        self.daemon.pid()
    }

    /// Kills it with SIGKILL; its socket stays.
    pub fn kill(self) {
        self.daemon.kill();
    }

    /// Asks it to end; see [`DockerDriver::gone`].
    pub fn terminate(&self) {
        self.daemon.signal(Signal::SIGTERM);
    }

    /// Waits until it has ended.
    pub fn gone(self) {
        poll("the driver did not end", READY, || (!self.daemon.alive()).then_some(()));
    }

    /// Asks it to end and waits.
    pub fn stop(self) {
        self.daemon.terminate(READY);
    }

    /// Everything it logged.
    pub fn log(&self) -> String {
        self.daemon.log()
    }
}

fn send(method: &str, body: &str) -> UnixStream {
    try_send(method, body).expect("the driver listens")
}

fn try_send(method: &str, body: &str) -> std::io::Result<UnixStream> {
    let mut stream = UnixStream::connect(DockerDriver::SOCKET)?;
    stream.set_read_timeout(Some(Duration::from_secs(40)))?;
    let head = format!(
        "POST /{method} HTTP/1.1\r\nHost: \r\nUser-Agent: Go-http-client/1.1\r\n\
         Content-Length: {}\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    Ok(stream)
}
