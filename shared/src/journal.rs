//! A place for log events to go to: systemd's journal, with what an event is about as fields of its
//! own (`OVS_CONTAINER=`, `OVS_PORT=`), in the journal's native protocol
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>). For daemons; the engine itself opens none.

use std::fmt;
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::stat::fstat;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// What the names of our fields begin with.
const PREFIX: &str = "OVS_";

/// Longest value, in bytes: a datagram takes some 200 KiB of them (net.core.wmem_default).
const LONGEST: usize = 16 * 1024;

/// How long a full journal may hold us up.
const PATIENCE: Duration = Duration::from_secs(1);

/// The journal, as a subscriber of log events up to a level. There are no spans.
#[derive(Debug)]
pub struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    identifier: &'static str,
    level: Level,
}

impl Journal {
    /// The journal, if `output` leads there: `stream` is what `$JOURNAL_STREAM` says, device and
    /// inode of the socket that a service's output is connected to (systemd.exec(5)). Whoever has
    /// the variable from a session, and writes to a terminal, wants to see it there.
    pub fn behind(
        output: impl AsFd,
        stream: Option<&str>,
        identifier: &'static str,
        level: Level,
    ) -> Option<Self> {
        let (device, inode) = stream?.split_once(':')?;
        let found = fstat(output).ok()?;
        let same = device.parse() == Ok(found.st_dev) && inode.parse() == Ok(found.st_ino);
        if same { Self::at(Path::new(SOCKET), identifier, level).ok() } else { None }
    }

    fn at(path: &Path, identifier: &'static str, level: Level) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let journal = Self { socket, path: path.to_owned(), identifier, level };
        // Nobody there: whoever asked has another place to log to.
        UnixDatagram::unbound()?.connect(path)?;
        Ok(journal)
    }
}

impl Subscriber for Journal {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn event(&self, event: &Event<'_>) {
        let mut entry = Entry::default();
        event.record(&mut entry);
        let priority = match *event.metadata().level() {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "6",
            _ => "7",
        };
        let bytes = entry.seal(priority, self.identifier);
        if self.socket.send_to(&bytes, &self.path).is_err() {
            // Its output is the journal's as well, and may be read by somebody else meanwhile.
            drop(writeln!(io::stderr(), "{}", entry.text()));
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// One event: what it says, and its fields.
#[derive(Debug, Default)]
struct Entry {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Entry {
    /// What people read: the message, and behind it every field, as on a terminal.
    fn text(&self) -> String {
        let mut text = self.message.clone();
        for (name, value) in &self.fields {
            text.push_str(&format!(" {name}={value}"));
        }
        text
    }

    fn seal(&self, priority: &str, identifier: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        put(&mut bytes, "MESSAGE", &self.text());
        put(&mut bytes, "PRIORITY", priority);
        put(&mut bytes, "SYSLOG_IDENTIFIER", identifier);
        for (name, value) in &self.fields {
            put(&mut bytes, &format!("{PREFIX}{}", name.to_ascii_uppercase()), value);
        }
        bytes
    }

    fn take(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            name => self.fields.push((name, value)),
        }
    }
}

impl Visit for Entry {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value.to_owned());
    }
}

/// One field. A value with a line feed is written with its length.
fn put(bytes: &mut Vec<u8>, name: &str, value: &str) {
    let end = (0..=value.len().min(LONGEST)).rev().find(|end| value.is_char_boundary(*end));
    let value = &value[..end.unwrap_or_default()];
    bytes.extend(name.as_bytes());
    if value.contains('\n') {
        bytes.push(b'\n');
        bytes.extend((value.len() as u64).to_le_bytes());
    } else {
        bytes.push(b'=');
    }
    bytes.extend(value.as_bytes());
    bytes.push(b'\n');
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn an_event_is_a_datagram_with_its_fields() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::at(&path, "ovs-port-agent", Level::INFO).unwrap();
        let heard = || {
            let mut bytes = vec![0; 64 * 1024];
            let count = journald.recv(&mut bytes).unwrap();
            bytes.truncate(count);
            bytes
        };
        tracing::subscriber::with_default(journal, || {
            tracing::debug!("not told");
            tracing::info!(container = %"web", port = "veth-web-eth0", "plugged in");
            tracing::error!(error = %"one\ntwo", "{}", "x".repeat(2 * LONGEST));
        });
        let first = String::from_utf8(heard()).unwrap();
        assert_eq!(
            first,
            "MESSAGE=plugged in container=web port=veth-web-eth0\nPRIORITY=6\n\
             SYSLOG_IDENTIFIER=ovs-port-agent\nOVS_CONTAINER=web\nOVS_PORT=veth-web-eth0\n"
        );
        let second = heard();
        assert!(second.starts_with(b"MESSAGE=xxx") && second.len() < 2 * LONGEST);
        let mut end = b"OVS_ERROR\n".to_vec();
        end.extend(7_u64.to_le_bytes());
        end.extend(b"one\ntwo\n");
        assert!(second.ends_with(&end), "{}", second.escape_ascii());
    }

    #[test]
    fn only_a_service_whose_output_is_the_journal_logs_there() {
        let file = File::open("/dev/null").unwrap();
        let found = fstat(&file).unwrap();
        let own = format!("{}:{}", found.st_dev, found.st_ino);
        let dir = tempfile::tempdir().unwrap();
        for stream in [None, Some(""), Some("8:1"), Some("8"), Some(&*format!("{own}1"))] {
            assert!(Journal::behind(&file, stream, "x", Level::INFO).is_none(), "{stream:?}");
        }
        let nobody = dir.path().join("socket");
        Journal::at(&nobody, "x", Level::INFO).unwrap_err();
    }
}
