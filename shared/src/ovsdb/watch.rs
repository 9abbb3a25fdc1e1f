//! News from the switch: what may have changed the picture of the host.

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

    /// Waits until something has changed; false if nothing did within `deadline`.
    pub fn changed(&mut self, deadline: Duration) -> Result<bool, Error> {
        self.client.changed(deadline)
    }
}
