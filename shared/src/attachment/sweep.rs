//! What `up` and `down` do to attachments: ports that an earlier boot left, and all at once.

use super::attach::OVSDB_DEADLINE;
use super::{Engine, Error, owner};
use crate::link::Netlink;
use crate::network;
use crate::ovsdb::Client;
use crate::state;

impl Engine {
    /// Removes the ports of ours that an earlier boot left: they say another boot id, no record of
    /// this boot knows them, and no device of that name exists. Returns how many.
    pub fn sweep_old_boots(&self) -> Result<usize, Error> {
        let boot = state::boot_id()?;
        let mut ovsdb = Client::connect(&self.config().ovsdb, OVSDB_DEADLINE)?;
        let mut netlink = Netlink::open()?;
        let (mut dead, mut names) = (Vec::new(), Vec::new());
        for port in ovsdb.ports_with(&owner::ours())? {
            let Some(key) = owner::key_of(&port) else { continue };
            // A record that cannot be read is one all the same.
            if owner::boot_of(&port).is_some_and(|made_in| made_in != boot)
                && matches!(self.record(&key), Ok(None))
                && netlink.link(&port.name)?.is_none()
            {
                dead.push(port.uuid);
                names.push(port.name);
            }
        }
        if !dead.is_empty() {
            self.free_names(&names, ovsdb.delete_ports(&dead)?);
        }
        Ok(dead.len())
    }

    /// Unplugs every attachment if `force` says so; without it, attachments are an error. Returns
    /// how many were unplugged.
    pub fn unplug_all(&self, force: bool) -> Result<usize, Error> {
        let mut keys: Vec<_> = self.records()?.0.into_iter().map(|record| record.key).collect();
        let mut ovsdb = Client::connect(&self.config().ovsdb, OVSDB_DEADLINE)?;
        for port in ovsdb.ports_with(&owner::ours())? {
            keys.extend(owner::key_of(&port).filter(|key| !keys.contains(key)));
        }
        if !force && !keys.is_empty() {
            let names = network::listed(&keys);
            return Err(network::Error::InUse { count: keys.len(), names }.into());
        }
        for key in &keys {
            self.detach(key)?;
        }
        Ok(keys.len())
    }
}
