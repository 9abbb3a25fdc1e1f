//! Who keeps the address of an uplink alive: what a DHCP client holds cannot be moved, because the
//! client would go on renewing it where it no longer is.

use std::fs;
use std::path::{Path, PathBuf};

use crate::link::Link;
use crate::link::saved::SavedAddress;

/// The DHCP client that holds `address` of `link`, in words; `None` if it is static. `root` is "/",
/// or what stands for it in a test.
pub(super) fn holder(root: &Path, link: &Link, address: &SavedAddress) -> Option<String> {
    if address.is_dynamic() {
        return Some("it ends unless somebody renews it".to_owned());
    }
    let path = |relative: String| root.join(relative);
    // Clients that give their address no end in the kernel. NetworkManager always gives one, and
    // leaves files of old leases about.
    // systemd-networkd keeps one file for each link with a lease (sd-dhcp-lease).
    let networkd = path(format!("run/systemd/netif/leases/{}", link.index));
    if names(&networkd, address) {
        return Some("systemd-networkd has leased it".to_owned());
    }
    // ifupdown: dhclient -pf /run/dhclient.<interface>.pid -lf …/dhclient.<interface>.leases
    let runs = fs::read_to_string(path(format!("run/dhclient.{}.pid", link.name)))
        .is_ok_and(|pid| root.join("proc").join(pid.trim()).exists());
    let leases = path(format!("var/lib/dhcp/dhclient.{}.leases", link.name));
    (runs && names(&leases, address)).then(|| "dhclient has leased it".to_owned())
}

/// Whether a file of leases names an address as a word of its own.
fn names(file: &PathBuf, address: &SavedAddress) -> bool {
    let wanted = address.address.addr().to_string();
    let apart = |c: char| !(c.is_ascii_hexdigit() || c == '.' || c == ':');
    fs::read_to_string(file).is_ok_and(|text| text.split(apart).any(|word| word == wanted))
}
