//! Checksum offload of a device, by the ethtool ioctl.
//!
//! On a userspace datapath a container must compute its checksums itself: nobody does it for
//! frames that leave the kernel through a packet socket.

use std::io;

use nix::libc;

use super::Error;
use super::ioctl::Ioctl;
use crate::name::IfName;

/// linux/ethtool.h.
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_STXCSUM: u32 = 0x17;
/// linux/sockios.h.
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// A socket for the offloads of the namespace it was opened in.
#[derive(Debug)]
pub(super) struct Offloads {
    ioctl: Ioctl,
}

impl Offloads {
    /// A socket in the calling thread's namespace.
    pub(super) fn open() -> Result<Self, Error> {
        Ok(Self { ioctl: Ioctl::open()? })
    }

    /// Whether the device leaves transmit checksums to somebody else.
    pub(super) fn tx_checksum(&self, name: &IfName) -> Result<bool, Error> {
        let mut value = Value { command: ETHTOOL_GTXCSUM, data: 0 };
        self.ethtool(name, &mut value)
            .map_err(|e| failed(format!("read tx checksum offload of {name}"), name, e))?;
        Ok(value.data != 0)
    }

    /// Sets it, and reads back: a device may keep what it cannot change.
    pub(super) fn set_tx_checksum(&self, name: &IfName, on: bool) -> Result<(), Error> {
        let action =
            || format!("switch tx checksum offload of {name} {}", if on { "on" } else { "off" });
        let mut value = Value { command: ETHTOOL_STXCSUM, data: on.into() };
        self.ethtool(name, &mut value).map_err(|e| failed(action(), name, e))?;
        if self.tx_checksum(name)? != on {
            let source = io::Error::new(io::ErrorKind::Unsupported, "the device keeps it as it is");
            return Err(Error::System { action: action(), source });
        }
        Ok(())
    }

    fn ethtool(&self, name: &IfName, value: &mut Value) -> io::Result<()> {
        let data = std::ptr::from_mut(value).cast();
        let argument = libc::__c_anonymous_ifr_ifru { ifru_data: data };
        // SAFETY: SIOCETHTOOL wants a pointer to an ethtool_value, which outlives the call.
        unsafe { self.ioctl.ask(SIOCETHTOOL, name, argument) }.map(drop)
    }
}

fn failed(action: String, name: &IfName, source: io::Error) -> Error {
    if source.raw_os_error() == Some(libc::ENODEV) {
        return Error::Missing { what: format!("link {name}") };
    }
    Error::System { action, source }
}
