//! UDP that arrives at a published port: one socket towards the container for each caller, until
//! both are silent.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as Bound};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg,
};
use shared::publish::Publication;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::Serving;

/// A caller and a container that say nothing to each other for so long are strangers again
/// (`nf_conntrack_udp_timeout_stream` is 120 s, Docker's proxy takes 90).
const SILENCE: Duration = Duration::from_secs(90);

/// Callers at a time; who comes then waits until one is silent.
const CALLERS: usize = 4096;

/// Longest datagram (RFC 768).
const DATAGRAM: usize = 65535;

/// Between two tries to read when the host is out of something.
const PAUSE: Duration = Duration::from_millis(100);

/// One side of a talk: who calls, and which address of the host was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Caller {
    peer: SocketAddr,
    called: IpAddr,
    /// Interface of a link-local address; 0 for others.
    interface: u32,
}

/// A talk under way.
#[derive(Debug)]
struct Talk {
    inside: Arc<UdpSocket>,
    /// Milliseconds since the socket was served.
    heard: Arc<AtomicU64>,
}

/// Serves a socket; its talks end with it.
pub(super) fn serve(bound: Bound, publication: &Publication, port: u16) -> io::Result<Serving> {
    let to = super::destination(publication, bound.local_addr()?.is_ipv4(), port);
    let outside = Arc::new(UdpSocket::from_std(bound)?);
    Ok(Serving(tokio::spawn(receive(outside, to))))
}

async fn receive(outside: Arc<UdpSocket>, to: SocketAddr) {
    let begin = Instant::now();
    let mut talks: HashMap<Caller, Talk> = HashMap::new();
    let mut listeners = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let received = tokio::select! {
            received = read(&outside, &mut buffer) => received,
            Some(ended) = listeners.join_next() => {
                if let Ok(caller) = ended {
                    talks.remove(&caller);
                }
                continue;
            }
        };
        let Ok((count, caller)) = received else {
            sleep(PAUSE).await;
            continue;
        };
        if !talks.contains_key(&caller) {
            if talks.len() >= CALLERS {
                continue;
            }
            let Ok(inside) = connect(to).await else { continue };
            let talk = Talk { inside: Arc::new(inside), heard: Arc::default() };
            let (back, heard) = (Arc::clone(&talk.inside), Arc::clone(&talk.heard));
            let outside = Arc::clone(&outside);
            listeners.spawn(answer(outside, back, caller, heard, begin));
            talks.insert(caller, talk);
        }
        if let Some(talk) = talks.get(&caller) {
            talk.heard.store(millis(begin), Ordering::Relaxed);
            // UDP may lose it, and a container that does not listen has answered so before.
            drop(talk.inside.try_send(&buffer[..count]));
        }
    }
}

async fn connect(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr =
        if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(to).await?;
    // Until the runtime has heard of it, it sends nothing: the first datagram would be lost.
    socket.writable().await?;
    Ok(socket)
}

/// Carries what the container says to one caller, until both are silent.
async fn answer(
    outside: Arc<UdpSocket>,
    inside: Arc<UdpSocket>,
    caller: Caller,
    heard: Arc<AtomicU64>,
    begin: Instant,
) -> Caller {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let last = Duration::from_millis(heard.load(Ordering::Relaxed));
        match timeout_at(begin + last + SILENCE, inside.recv(&mut buffer)).await {
            Ok(Ok(count)) => {
                heard.store(millis(begin), Ordering::Relaxed);
                drop(write(&outside, &buffer[..count], caller).await);
            }
            // Nobody listens in there (yet).
            Ok(Err(_)) => {}
            Err(_) => {
                let last = Duration::from_millis(heard.load(Ordering::Relaxed));
                if Instant::now() >= begin + last + SILENCE {
                    return caller;
                }
            }
        }
    }
}

fn millis(begin: Instant) -> u64 {
    u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// One datagram, with the address it was sent to.
async fn read(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, Caller)> {
    let receive = || {
        let mut parts = [IoSliceMut::new(buffer)];
        let mut space = nix::cmsg_space!(libc::in6_pktinfo);
        let flags = MsgFlags::MSG_DONTWAIT;
        let message =
            recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
        let peer = message.address.as_ref().and_then(address);
        let info = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                let ip = Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr));
                Some((IpAddr::V4(ip), 0))
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                let scoped = ip.is_unicast_link_local();
                Some((IpAddr::V6(ip), if scoped { info.ipi6_ifindex } else { 0 }))
            }
            _ => None,
        });
        let (Some(peer), Some((called, interface))) = (peer, info) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        Ok((message.bytes, Caller { peer, called, interface }))
    };
    let mut receive = receive;
    socket.async_io(Interest::READABLE, &mut receive).await
}

/// One datagram to a caller, from the address that was called.
async fn write(socket: &UdpSocket, bytes: &[u8], caller: Caller) -> io::Result<usize> {
    let to = SockaddrStorage::from(caller.peer);
    socket
        .async_io(Interest::WRITABLE, || {
            let parts = [IoSlice::new(bytes)];
            let send = |control: ControlMessage<'_>| {
                let flags = MsgFlags::MSG_DONTWAIT;
                Ok(sendmsg(socket.as_raw_fd(), &parts, &[control], flags, Some(&to))?)
            };
            match caller.called {
                IpAddr::V4(ip) => send(ControlMessage::Ipv4PacketInfo(&libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from(ip).to_be() },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                })),
                IpAddr::V6(ip) => send(ControlMessage::Ipv6PacketInfo(&libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: ip.octets() },
                    ipi6_ifindex: caller.interface,
                })),
            }
        })
        .await
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))
}
