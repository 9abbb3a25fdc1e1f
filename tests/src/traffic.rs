//! Real traffic with its content checked: ping works where TCP is dead.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// TCP and UDP port of the echo servers (RFC 862).
pub const ECHO_PORT: u16 = 7;

/// TCP port where a server tells its name and the caller's address.
pub const NAME_PORT: u16 = 13;

/// Longest silence in a conversation.
const SILENCE: Duration = Duration::from_secs(3);

/// How often a server looks whether it should end.
const TICK: Duration = Duration::from_millis(50);

/// How long a server keeps a conversation in which nothing is heard: longer than any test that
/// breaks the wire in between.
const UNHEARD: Duration = Duration::from_secs(120);

/// An echo server in the namespace it was started in; dropping it ends it.
#[derive(Debug)]
pub struct EchoServer {
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl EchoServer {
    /// Starts it in the calling thread's network namespace, on every address.
    pub(crate) fn start(name: &str) -> Self {
        // Bound to [::], the sockets take IPv4 too.
        let bind = |port| {
            TcpListener::bind(("::", port))
                .unwrap_or_else(|error| panic!("echo server {name}, TCP port {port}: {error}"))
        };
        let (echo, naming) = (bind(ECHO_PORT), bind(NAME_PORT));
        let udp = UdpSocket::bind(("::", ECHO_PORT))
            .unwrap_or_else(|error| panic!("echo server {name}, UDP: {error}"));
        let ended = Arc::new(AtomicBool::new(false));
        let name = name.to_owned();
        let threads = vec![
            serve_tcp(echo, &ended, |mut stream| {
                let mut reader = stream.try_clone()?;
                io::copy(&mut reader, &mut stream)?;
                stream.shutdown(Shutdown::Write)
            }),
            serve_tcp(naming, &ended, move |mut stream| {
                let peer = stream.peer_addr()?.ip().to_canonical();
                writeln!(stream, "{name} {peer}")
            }),
            serve_udp(udp, &ended),
        ];
        Self { ended, threads }
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

fn serve_tcp(
    listener: TcpListener,
    ended: &Arc<AtomicBool>,
    serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
) -> JoinHandle<()> {
    listener.set_nonblocking(true).expect("O_NONBLOCK on a socket");
    let (ended, serve) = (Arc::clone(ended), Arc::new(serve));
    std::thread::spawn(move || {
        while !ended.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, _)) => {
                    let serve = Arc::clone(&serve);
                    std::thread::spawn(move || {
                        // A caller that goes away in the middle is its own test's business.
                        stream
                            .set_nonblocking(false)
                            .and_then(|()| stream.set_read_timeout(Some(UNHEARD)))
                            .and_then(|()| stream.set_write_timeout(Some(UNHEARD)))
                            .and_then(|()| serve(stream))
                            .ok();
                    });
                }
                Err(_) => std::thread::sleep(TICK / 10),
            }
        }
    })
}

fn serve_udp(socket: UdpSocket, ended: &Arc<AtomicBool>) -> JoinHandle<()> {
    socket.set_read_timeout(Some(TICK)).expect("a timeout on a socket");
    let ended = Arc::clone(ended);
    std::thread::spawn(move || {
        let mut buffer = [0; 65536];
        while !ended.load(Ordering::Relaxed) {
            if let Ok((count, peer)) = socket.recv_from(&mut buffer) {
                socket.send_to(&buffer[..count], peer).ok();
            }
        }
    })
}

/// Sends `bytes` of noise and checks what the other side echoes, byte by byte.
pub fn tcp_exchange(mut stream: TcpStream, bytes: usize) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let sent = noise(bytes);
    let mut writer = stream.try_clone()?;
    let received = std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            writer.write_all(&sent)?;
            writer.shutdown(Shutdown::Write)
        });
        let mut received = Vec::with_capacity(bytes);
        let outcome = stream.read_to_end(&mut received);
        sending.join().expect("the sender does not panic")?;
        outcome.map(|_| received)
    })?;
    same(&sent, &received)
}

/// A conversation with an echo server that goes on while things happen to the network.
#[derive(Debug)]
pub struct Stream {
    stream: TcpStream,
}

impl Stream {
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    /// Sends `bytes` of noise and checks what comes back, with `patience` for each part of it.
    pub fn exchange(&mut self, bytes: usize, patience: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(patience))?;
        self.stream.set_write_timeout(Some(patience))?;
        for sent in noise(bytes).chunks(8192) {
            self.stream.write_all(sent)?;
            let mut received = vec![0; sent.len()];
            self.stream.read_exact(&mut received)?;
            same(sent, &received)?;
        }
        Ok(())
    }
}

/// Sends a datagram to an echo server and checks what comes back; three tries, a second each.
pub fn udp_exchange(socket: &UdpSocket, to: SocketAddr) -> io::Result<()> {
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let sent = noise(1000);
    let mut last = None;
    for _ in 0..3 {
        socket.send_to(&sent, to)?;
        let mut buffer = [0; 2000];
        match socket.recv_from(&mut buffer) {
            Ok((count, _)) => return same(&sent, &buffer[..count]),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::from(ErrorKind::TimedOut)))
}

/// Reads what a server at [`NAME_PORT`] tells: its name, and from which address it saw the call.
pub fn who_answers(stream: TcpStream) -> io::Result<(String, IpAddr)> {
    stream.set_read_timeout(Some(SILENCE))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let answer = line
        .trim()
        .split_once(' ')
        .and_then(|(name, seen)| Some((name.to_owned(), seen.parse().ok()?)));
    answer.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, format!("answer {line:?}")))
}

fn same(sent: &[u8], received: &[u8]) -> io::Result<()> {
    if sent == received {
        return Ok(());
    }
    let at = sent.iter().zip(received).take_while(|(a, b)| a == b).count();
    let message = format!("sent {}, received {}, same up to {at}", sent.len(), received.len());
    Err(io::Error::new(ErrorKind::InvalidData, message))
}

/// The same noise each time: a xorshift, so that a lost or doubled block cannot go unseen.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(bytes).collect()
}
