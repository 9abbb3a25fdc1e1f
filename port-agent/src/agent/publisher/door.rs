//! One published port of the host: the sockets bound for it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, getsockname, listen,
    setsockopt, socket, sockopt,
};
use shared::publish::{Error, PortMapping, Protocol, Publication};

use super::{Serving, tcp, udp};

/// Tries to find a port that is free in both families, where any will do.
const DRAWS: usize = 32;

/// A bound socket that nobody serves yet.
#[derive(Debug)]
pub(super) enum Door {
    /// Listening.
    Tcp(TcpListener),
    /// Bound.
    Udp(UdpSocket),
}

/// Whether a port is taken up again after a restart: its address may come later (DHCP).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Restoring {
    /// It was published before.
    Yes,
    /// It is published now: what is wrong is said.
    No,
}

impl Door {
    /// Carries what arrives there to the container.
    pub(super) fn serve(
        self,
        publication: &Publication,
        container_port: u16,
    ) -> io::Result<Serving> {
        match self {
            Self::Tcp(listener) => tcp::serve(listener, publication, container_port),
            Self::Udp(socket) => udp::serve(socket, publication, container_port),
        }
    }
}

/// Binds a mapping on every address it says; `taken` refuses one that a container of ours has.
/// Returns it with the port that was chosen.
pub(super) fn open(
    mapping: &PortMapping,
    restoring: Restoring,
    taken: impl Fn(&PortMapping) -> Result<(), Error>,
) -> Result<(PortMapping, Vec<Door>), Error> {
    let first = mapping.host_port;
    let last = mapping.host_port_end.max(first);
    if first == 0 {
        for _ in 0..DRAWS {
            let settled = mapping.at(draw(mapping)?);
            match taken(&settled).and_then(|()| bind_all(mapping, &settled, restoring)) {
                Ok(doors) => return Ok((settled, doors)),
                Err(Error::Taken { .. } | Error::InUse { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        return Err(Error::NoneFree { mapping: *mapping, first: 1, last: u16::MAX });
    }
    for port in first..=last {
        let settled = mapping.at(port);
        match taken(&settled).and_then(|()| bind_all(mapping, &settled, restoring)) {
            Ok(doors) => return Ok((settled, doors)),
            Err(Error::Taken { .. } | Error::InUse { .. } | Error::Twice { .. })
                if first < last => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::NoneFree { mapping: *mapping, first, last })
}

/// A port that is free on the first of the addresses now.
fn draw(mapping: &PortMapping) -> Result<u16, Error> {
    let ip = addresses(mapping)[0];
    let drawn = bound(mapping.protocol, SocketAddr::new(ip, 0), Restoring::No)
        .and_then(|fd| getsockname::<SockaddrStorage>(fd.as_raw_fd()));
    let port = drawn.map(|address| {
        let v4 = address.as_sockaddr_in().map(|address| address.port());
        v4.or_else(|| address.as_sockaddr_in6().map(|address| address.port()))
    });
    match port {
        Ok(port) => Ok(port.unwrap_or_default()),
        Err(errno) => Err(refused(mapping, SocketAddr::new(ip, 0), errno)),
    }
}

/// The addresses of a mapping: the unspecified one stands for all of its family.
fn addresses(mapping: &PortMapping) -> Vec<IpAddr> {
    match mapping.host_ip {
        Some(ip) => vec![ip],
        None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
    }
}

fn bind_all(
    asked: &PortMapping,
    settled: &PortMapping,
    restoring: Restoring,
) -> Result<Vec<Door>, Error> {
    let mut doors = Vec::new();
    for ip in addresses(asked) {
        let address = SocketAddr::new(ip, settled.host_port);
        match bound(settled.protocol, address, restoring) {
            Ok(fd) if settled.protocol == Protocol::Tcp => doors.push(Door::Tcp(fd.into())),
            Ok(fd) => doors.push(Door::Udp(fd.into())),
            // A kernel without IPv6.
            Err(Errno::EAFNOSUPPORT) if asked.host_ip.is_none() && ip.is_ipv6() => {}
            Err(errno) => return Err(refused(settled, address, errno)),
        }
    }
    Ok(doors)
}

fn refused(mapping: &PortMapping, address: SocketAddr, errno: Errno) -> Error {
    let mapping = *mapping;
    match errno {
        Errno::EADDRINUSE => Error::InUse { mapping, address },
        Errno::EADDRNOTAVAIL => Error::NotHere { mapping, ip: address.ip() },
        errno => Error::Socket { mapping, source: errno.into() },
    }
}

/// A socket of one family alone, bound and not blocking.
fn bound(protocol: Protocol, address: SocketAddr, restoring: Restoring) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let kind = match protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::Datagram,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, kind, flags, None)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    if restoring == Restoring::Yes {
        setsockopt(&fd, sockopt::IpFreebind, &true)?;
    }
    match protocol {
        // Connections of the last agent may still be closing.
        Protocol::Tcp => setsockopt(&fd, sockopt::ReuseAddr, &true)?,
        // An answer must come from the address that was asked.
        Protocol::Udp if address.is_ipv4() => setsockopt(&fd, sockopt::Ipv4PacketInfo, &true)?,
        Protocol::Udp => setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true)?,
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    if protocol == Protocol::Tcp {
        listen(&fd, Backlog::MAXALLOWABLE)?;
    }
    Ok(fd)
}
