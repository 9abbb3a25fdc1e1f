//! News from the switch, and what it comes to.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::mirror::{Mirror, WatchedPort};
use super::{Client, Endpoint, Error};
use crate::name::IfName;

/// How long ovsdb-server may take for one answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// A subscription of every change to bridges and to the VLANs and owners of ports; knows them as
/// they were at the last [`Watch::drain`].
#[derive(Debug)]
pub struct Watch {
    client: Client,
    mirror: Mirror,
}

impl Watch {
    /// Subscribes.
    pub fn open(endpoint: &Endpoint) -> Result<Self, Error> {
        let mut client = Client::connect(endpoint, DEADLINE)?;
        let mut mirror = Mirror::default();
        let all = client.watch()?;
        client.read(mirror.take(&all))?;
        Ok(Self { client, mirror })
    }

    /// Takes what has come since the last call, without waiting; true if something has changed.
    /// Not to be left for long: the server's questions whether we live are answered here.
    pub fn drain(&mut self) -> Result<bool, Error> {
        let updates = self.client.updates()?;
        for update in &updates {
            self.client.read(self.mirror.take(update))?;
        }
        Ok(!updates.is_empty())
    }

    /// Every bridge whose name is a system interface name.
    pub fn bridges(&self) -> impl Iterator<Item = &IfName> {
        self.mirror.bridges()
    }

    /// Every port whose name is a system interface name.
    pub fn ports(&self) -> impl Iterator<Item = WatchedPort> {
        self.mirror.ports()
    }
}

/// Readable as soon as there is something to [`Watch::drain`].
impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.client.as_fd()
    }
}
