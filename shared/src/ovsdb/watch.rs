//! News from the switch: what may have changed the picture of the host.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::{Client, Endpoint, Error};

/// How long ovsdb-server may take for one answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// A subscription of every change to bridges and to the VLANs and owners of ports.
#[derive(Debug)]
pub struct Watch {
    client: Client,
}

impl Watch {
    /// Subscribes.
    pub fn open(endpoint: &Endpoint) -> Result<Self, Error> {
        let mut client = Client::connect(endpoint, DEADLINE)?;
        client.watch()?;
        Ok(Self { client })
    }

    /// Takes what has come since the last call, without waiting; true if something has changed.
    /// Not to be left for long: the server's questions whether we live are answered here.
    pub fn drain(&mut self) -> Result<bool, Error> {
        self.client.changed()
    }
}

/// Readable as soon as there is something to [`Watch::drain`].
impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.client.as_fd()
    }
}
