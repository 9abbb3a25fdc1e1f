//! Removing a link for somebody who need not see the end of it.

use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Error, HOST_END_GROUP, Link, Netlink, ioctl};
use crate::mac::Mac;
use crate::name::IfName;

/// Between two looks whether it is still there.
const LOOK: Duration = Duration::from_micros(200);

/// A host end that is to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unlink {
    /// Its name.
    pub name: IfName,
    /// Its index.
    pub index: u32,
    /// Its MAC, which proves whose it is.
    pub mac: Mac,
}

impl Unlink {
    /// Removes it, and returns once it is down and nobody finds it any more; false if this
    /// namespace has no such host end. The call itself ends some 20 ms later, without the kernel's
    /// lock: it waits until whoever had found the link before has let go of it (`rcu_barrier` in
    /// `netdev_run_todo`, net/core/dev.c). A thread of this process stays for that.
    pub fn run(&self) -> Result<bool, Error> {
        let mut netlink = Netlink::open()?;
        let Some(link) = netlink.link(&self.name)?.filter(|link| self.is(link)) else {
            return Ok(false);
        };
        let (done, end) = mpsc::channel();
        let failed = |source| Error::System { action: format!("remove {}", self.name), source };
        thread::Builder::new()
            .name("unlink".to_owned())
            // Nobody listens any more if it was out of sight before.
            .spawn(move || drop(done.send(netlink.delete_link(link.index))))
            .map_err(failed)?;
        loop {
            match end.recv_timeout(LOOK) {
                Ok(removed) => return removed,
                Err(RecvTimeoutError::Timeout) if self.is_in_sight() => {}
                Err(RecvTimeoutError::Timeout) => return Ok(true),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(failed(std::io::Error::other(
                        "the thread that removes it broke off",
                    )));
                }
            }
        }
    }

    fn is(&self, link: &Link) -> bool {
        link.index == self.index
            && link.kind == "veth"
            && link.group == HOST_END_GROUP
            && link.mac == Some(self.mac)
    }

    fn is_in_sight(&self) -> bool {
        let listed = Path::new("/sys/class/net").join(self.name.as_str());
        ioctl::exists(&self.name).unwrap_or(true) || listed.exists()
    }
}
