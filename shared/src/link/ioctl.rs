//! Questions about one device by ioctl (netdevice(7)): one system call where rtnetlink sends the
//! device's whole description.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::Error;
use crate::name::IfName;

/// A socket for questions about the devices of the namespace it was opened in.
#[derive(Debug)]
pub(super) struct Ioctl {
    socket: OwnedFd,
}

impl Ioctl {
    /// A socket in the calling thread's namespace.
    pub(super) fn open() -> Result<Self, Error> {
        let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
            .map_err(|e| Error::System { action: "open a socket".into(), source: e.into() })?;
        Ok(Self { socket })
    }

    /// Asks `question` (linux/sockios.h) about a device.
    ///
    /// # Safety
    /// `argument` must be what the question wants, its pointers valid during the call.
    pub(super) unsafe fn ask(
        &self,
        question: libc::Ioctl,
        name: &IfName,
        argument: libc::__c_anonymous_ifr_ifru,
    ) -> io::Result<libc::__c_anonymous_ifr_ifru> {
        // SAFETY: all zeroes is a valid ifreq: integers, arrays and a null pointer.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.as_str().bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru = argument;
        // SAFETY: the descriptor is open, the request names the interface with a final NUL (an
        // IfName has at most 15 bytes), and the caller vouches for the argument.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), question, &raw mut request) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(request.ifr_ifru) }
    }
}

/// The MTU of a device of this namespace in bytes; `None` if there is no such device.
pub fn mtu(name: &IfName) -> Result<Option<u32>, Error> {
    let ioctl = Ioctl::open()?;
    // SAFETY: SIOCGIFMTU reads nothing of the argument and fills in `ifru_mtu`.
    let answer = unsafe {
        let nothing = libc::__c_anonymous_ifr_ifru { ifru_mtu: 0 };
        ioctl.ask(libc::SIOCGIFMTU, name, nothing).map(|answer| answer.ifru_mtu)
    };
    Ok(found("read the MTU of", name, answer)?.and_then(|mtu| u32::try_from(mtu).ok()))
}

/// Whether this namespace has a device of that name, be it another name of one (altname).
pub fn exists(name: &IfName) -> Result<bool, Error> {
    let ioctl = Ioctl::open()?;
    // SAFETY: SIOCGIFINDEX reads nothing of the argument and fills in `ifru_ifindex`.
    let answer = unsafe {
        let nothing = libc::__c_anonymous_ifr_ifru { ifru_ifindex: 0 };
        ioctl.ask(libc::SIOCGIFINDEX, name, nothing).map(|answer| answer.ifru_ifindex)
    };
    Ok(found("look for", name, answer)?.is_some())
}

/// `None` where there is no such device.
fn found<T>(action: &str, name: &IfName, answer: io::Result<T>) -> Result<Option<T>, Error> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(source) => Err(Error::System { action: format!("{action} {name}"), source }),
    }
}
