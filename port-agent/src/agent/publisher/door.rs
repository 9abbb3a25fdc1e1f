//! One published port of the host: the sockets bound for it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, getsockname, listen,
    setsockopt, socket, sockopt,
};
use shared::publish::{Error, Holder, PortMapping, Protocol, Publication, Relay};

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

/// What is open for one mapping.
#[derive(Debug)]
pub(super) struct Opened {
    /// With the port that was chosen.
    pub(super) settled: PortMapping,
    pub(super) doors: Vec<Door>,
    /// Where it is served on the loopback, if the runtime holds it.
    pub(super) relay: Option<Relay>,
}

/// Opens a mapping that `holder` binds: see [`open_ours`] and [`open_theirs`].
pub(super) fn open(
    mapping: &PortMapping,
    holder: Holder,
    restoring: Restoring,
    taken: impl Fn(&PortMapping) -> Result<(), Error>,
) -> Result<Opened, Error> {
    match holder {
        Holder::Agent => {
            let (settled, doors) = open_ours(mapping, restoring, taken)?;
            Ok(Opened { settled, doors, relay: None })
        }
        Holder::Runtime => open_theirs(mapping, restoring, taken),
    }
}

/// Binds what the runtime does not, and a socket on the loopback in its stead.
fn open_theirs(
    mapping: &PortMapping,
    restoring: Restoring,
    taken: impl Fn(&PortMapping) -> Result<(), Error>,
) -> Result<Opened, Error> {
    let settled = mapping.at(mapping.host_port);
    taken(&settled)?;
    let mut doors = Vec::new();
    if mapping.host_ip.is_none() {
        let v6 = PortMapping { host_ip: Some(Ipv6Addr::UNSPECIFIED.into()), ..settled };
        match bind_all(&v6, &v6, restoring) {
            Ok(bound) => doors.extend(bound),
            // A kernel without IPv6.
            Err(Error::Socket { source, .. })
                if source.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => {}
            Err(error) => return Err(error),
        }
    }
    let loopback: IpAddr = match mapping.host_ip {
        None => Ipv4Addr::LOCALHOST.into(),
        // Reached at an address of the host: nftables sends that on, whoever calls.
        Some(ip) if !ip.is_unspecified() && !ip.is_loopback() => {
            return Ok(Opened { settled, doors, relay: None });
        }
        Some(IpAddr::V4(_)) => Ipv4Addr::LOCALHOST.into(),
        Some(IpAddr::V6(_)) => Ipv6Addr::LOCALHOST.into(),
    };
    let any = SocketAddr::new(loopback, 0);
    let fd = bound(mapping.protocol, any, restoring).map_err(|e| refused(&settled, any, e))?;
    let door = match mapping.protocol {
        Protocol::Tcp => Door::Tcp(fd.into()),
        Protocol::Udp => Door::Udp(fd.into()),
    };
    let to = match &door {
        Door::Tcp(listener) => listener.local_addr(),
        Door::Udp(socket) => socket.local_addr(),
    };
    let to = to.map_err(|source| Error::Socket { mapping: settled, source })?;
    doors.push(door);
    Ok(Opened { settled, doors, relay: Some(Relay { mapping: settled, to }) })
}

/// Binds a mapping on every address it says; `taken` refuses one that a container of ours has.
/// Returns it with the port that was chosen.
fn open_ours(
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
