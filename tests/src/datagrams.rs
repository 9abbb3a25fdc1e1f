//! Datagrams that never stop while something happens to the network: what gets through and must
//! not, and how long nothing gets through that must.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::container::Container;

/// Between two datagrams.
const EVERY: Duration = Duration::from_millis(1);

/// How long the receiver looks before it asks whether this is the end.
const TICK: Duration = Duration::from_millis(20);

/// How long what is under way may take to arrive after the last datagram.
const UNDER_WAY: Duration = Duration::from_millis(100);

/// A sender of a datagram each millisecond, and who listens for them.
#[derive(Debug)]
pub struct Datagrams {
    began: Instant,
    sending: Arc<AtomicBool>,
    listening: Arc<AtomicBool>,
    sender: JoinHandle<usize>,
    listener: JoinHandle<Vec<Instant>>,
}

/// What a [`Datagrams`] heard.
#[derive(Debug)]
pub struct Heard {
    /// Datagrams sent.
    pub sent: usize,
    /// When each arrived.
    pub arrived: Vec<Instant>,
    began: Instant,
    ended: Instant,
}

impl Datagrams {
    /// From one network to a socket in another: what arrives got through.
    pub fn into(from: &Container, to: &Container, address: IpAddr, port: u16) -> Self {
        let listener = to.inside(|| socket(address, port));
        Self::start(from.inside(|| socket(address, 0)), listener, SocketAddr::new(address, port))
    }

    /// From a network to an echo server: what comes back got through twice.
    pub fn echo(from: &Container, address: IpAddr, port: u16) -> Self {
        let sender = from.inside(|| socket(address, 0));
        let listener = sender.try_clone().expect("a second handle of a socket");
        Self::start(sender, listener, SocketAddr::new(address, port))
    }

    fn start(sender: UdpSocket, listener: UdpSocket, to: SocketAddr) -> Self {
        let sending = Arc::new(AtomicBool::new(true));
        let listening = Arc::new(AtomicBool::new(true));
        let go_on = Arc::clone(&sending);
        let sender = std::thread::spawn(move || {
            let mut sent = 0;
            while go_on.load(Ordering::Relaxed) {
                // No way there at the moment is an answer too.
                sent += usize::from(sender.send_to(b"probe", to).is_ok());
                std::thread::sleep(EVERY);
            }
            sent
        });
        let go_on = Arc::clone(&listening);
        listener.set_read_timeout(Some(TICK)).expect("a timeout on a socket");
        let listener = std::thread::spawn(move || {
            let (mut arrived, mut buffer) = (Vec::new(), [0; 64]);
            while go_on.load(Ordering::Relaxed) {
                if listener.recv(&mut buffer).is_ok_and(|count| &buffer[..count] == b"probe") {
                    arrived.push(Instant::now());
                }
            }
            arrived
        });
        Self { began: Instant::now(), sending, listening, sender, listener }
    }

    /// Stops; what was heard.
    pub fn end(self) -> Heard {
        self.sending.store(false, Ordering::Relaxed);
        let sent = self.sender.join().expect("the sender does not panic");
        let ended = Instant::now();
        std::thread::sleep(UNDER_WAY);
        self.listening.store(false, Ordering::Relaxed);
        let arrived = self.listener.join().expect("the listener does not panic");
        Heard { sent, arrived, began: self.began, ended }
    }
}

impl Heard {
    /// The longest time in which nothing arrived.
    pub fn longest_silence(&self) -> Duration {
        let times = std::iter::once(self.began).chain(self.arrived.iter().copied());
        let next = self.arrived.iter().copied().chain(std::iter::once(self.ended));
        times.zip(next).map(|(a, b)| b.saturating_duration_since(a)).max().unwrap_or_default()
    }
}

fn socket(like: IpAddr, port: u16) -> UdpSocket {
    let any = if like.is_ipv4() { "0.0.0.0" } else { "::" };
    let any: IpAddr = any.parse().expect("an address");
    UdpSocket::bind((any, port)).unwrap_or_else(|error| panic!("UDP port {port}: {error}"))
}
