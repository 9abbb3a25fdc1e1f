//! What must hold whatever a database server says.

use std::io::Write as _;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::decoder::Decoder;
use super::mirror::Mirror;
use super::wire::{Connection, Failure, Message};
use super::{Client, Error, PortSpec};
use crate::error::{chain, sentence};
use crate::name::IfName;
use crate::vlan::PortVlan;
use laws::one_line;

/// Longest stream: it must fit into a socket that nobody reads yet.
const LONGEST: usize = 64 * 1024;

/// What a call may take to find out that nothing more comes.
const DEADLINE: Duration = Duration::from_secs(2);

/// The first byte says how the stream, which is the rest, is split.
///
/// Every split gives the same messages; what is decoded prints and decodes to itself; every call
/// over such a stream ends in time, with an answer or with one line that says why not.
pub fn ovsdb(data: &[u8]) {
    let Some((&split, stream)) = data.split_first() else { return };
    let stream = &stream[..stream.len().min(LONGEST)];
    let whole = decoded(&[stream]);
    let chunk = usize::from(split % 31) + 1;
    assert_eq!(whole, decoded(&stream.chunks(chunk).collect::<Vec<_>>()), "chunks of {chunk}");
    let halves = stream.split_at(usize::from(split) * stream.len() / 256);
    assert_eq!(whole, decoded(&[halves.0, halves.1]));
    for text in &whole.0 {
        assert_eq!(decoded(&[text.as_bytes()]).0, std::slice::from_ref(text));
    }
    answered(stream);
}

/// Every message as text, and what ended the stream.
fn decoded(chunks: &[&[u8]]) -> (Vec<String>, Option<String>) {
    let mut decoder = Decoder::with_limit(4096);
    let mut messages = Vec::new();
    for chunk in chunks {
        decoder.feed(chunk);
        loop {
            match decoder.next_value() {
                Ok(Some(value)) => {
                    messages.push(value.to_string());
                    if let Err(failure) = Message::from_value(value) {
                        one_line(&chain(&failure));
                    }
                }
                Ok(None) => break,
                Err(Failure::Broken(why)) => return (messages, Some(why)),
                Err(other) => panic!("a decoder says {other}"),
            }
        }
    }
    (messages, None)
}

type Call = fn(&mut Client, &IfName, &PortSpec) -> Result<(), Error>;

/// Asks everything there is to ask over a stream whose other side has said `stream` in advance.
fn answered(stream: &[u8]) {
    let name = IfName::known("ovsbr0");
    let spec = PortSpec {
        name: IfName::known("veth-web-eth0"),
        interface_type: String::new(),
        vlan: PortVlan::untagged(),
        ofport_request: None,
        mac: None,
        mtu_request: None,
        protected: false,
        external_ids: [("owner".to_owned(), "x".to_owned())].into(),
        interface_external_ids: [].into(),
    };
    let calls: [Call; 8] = [
        |client, name, _| client.view(name).map(drop),
        |client, _, _| client.bridges().map(drop),
        |client, _, _| client.ports().map(drop),
        |client, _, spec| client.port(&spec.name).map(drop),
        |client, name, spec| client.add_port(name, spec).map(drop),
        |client, _, spec| client.wait_open(&spec.name, DEADLINE).map(drop),
        |client, _, _| client.delete_ports(&[]).map(drop),
        |client, _, _| {
            let mut mirror = Mirror::default();
            let first = client.watch()?;
            client.read(mirror.take(&first))?;
            for update in client.updates()? {
                client.read(mirror.take(&update))?;
            }
            Ok(())
        },
    ];
    for call in calls {
        let Ok((ours, mut theirs)) = UnixStream::pair() else { panic!("no socket pair") };
        assert!(theirs.write_all(stream).is_ok() && theirs.shutdown(Shutdown::Write).is_ok());
        let mut client = Client::over(Connection::over(ours), DEADLINE);
        let begin = Instant::now();
        // Twice: what the first call left unread is for the second.
        for _ in 0..2 {
            if let Err(error) = call(&mut client, &name, &spec) {
                one_line(&sentence(&error));
            }
        }
        assert!(begin.elapsed() < DEADLINE * 5, "it took {:?}", begin.elapsed());
    }
}
