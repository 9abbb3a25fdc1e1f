//! Which datapath this host has.
//!
//! `Open_vSwitch.datapath_types` lists "system" even where the kernel has no openvswitch module,
//! so the kernel itself is asked: generic netlink, `CTRL_CMD_GETFAMILY` for "ovs_datapath"
//! (linux/openvswitch.h, `OVS_DATAPATH_FAMILY`). Asking loads the module where it can be loaded.

use std::io;

use netlink_sys::{Socket, SocketAddr};
use nix::libc;

use super::Error;

/// The type for a bridge to be made here: "system" in the kernel, else "netdev" in userspace.
pub fn choose() -> Result<&'static str, Error> {
    let kernel = kernel_has_openvswitch().map_err(|source| Error::Datapath { source })?;
    Ok(if kernel { "system" } else { "netdev" })
}

fn kernel_has_openvswitch() -> io::Result<bool> {
    const FAMILY: &[u8] = b"ovs_datapath\0";
    let short = |value: libc::c_int| u16::try_from(value).map_err(io::Error::other);
    let controller = short(libc::GENL_ID_CTRL)?;
    let command = u8::try_from(libc::CTRL_CMD_GETFAMILY).map_err(io::Error::other)?;
    let socket = Socket::new(libc::NETLINK_GENERIC as isize)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let attribute_length = 4 + FAMILY.len();
    let total = 16 + 4 + attribute_length.next_multiple_of(4);
    let mut request = Vec::with_capacity(total);
    // struct nlmsghdr
    request.extend(u32::try_from(total).map_err(io::Error::other)?.to_ne_bytes());
    request.extend(controller.to_ne_bytes());
    request.extend(short(libc::NLM_F_REQUEST)?.to_ne_bytes());
    request.extend(1_u32.to_ne_bytes());
    request.extend(0_u32.to_ne_bytes());
    // struct genlmsghdr: command, version, reserved
    request.extend([command, 1, 0, 0]);
    // struct nlattr
    request.extend(u16::try_from(attribute_length).map_err(io::Error::other)?.to_ne_bytes());
    request.extend(short(libc::CTRL_ATTR_FAMILY_NAME)?.to_ne_bytes());
    request.extend(FAMILY);
    request.resize(total, 0);
    socket.send(&request, 0)?;
    // The kernel answers within the send: nothing can keep us waiting here.
    let mut answer = Vec::with_capacity(4096);
    socket.recv(&mut answer, 0)?;
    let kind = answer.get(4..6).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    Ok(kind == Some(controller))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_asked_not_the_database() {
        let loaded = std::path::Path::new("/sys/module/openvswitch").exists();
        assert_eq!(choose().unwrap(), if loaded { "system" } else { "netdev" });
    }
}
