//! The split walk of a runtime that moves the interface itself (Docker): plugged in here, moved and
//! configured by the runtime, and unplugged by [`Engine::detach`] like any other.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::attach::{OVSDB_DEADLINE, Place, is_plugged, lock_key};
use super::record::{Key, Labels, Record, Runtime};
use super::request::AttachRequest;
use super::{Engine, Error};
use crate::link::Netlink;
use crate::name::IfName;
use crate::network::Network;
use crate::network::gateway::Networks;
use crate::ovsdb::Client;
use crate::{hex, nat, network, state};

/// How long a runtime may take to move what was plugged in for it.
const UNMOVED: Duration = Duration::from_secs(600);

impl Engine {
    /// Plugs in a pair whose container end stays here, down and named [`peer_name`], for the
    /// runtime to move. `request.netns` says where to, and need not exist yet. Asked again before
    /// the move it returns the same record; after it, the pair is made anew.
    pub fn plug(&self, request: &AttachRequest) -> Result<Record, Error> {
        let state = self.state();
        state.prepare()?;
        let _lock = state.lock(&lock_key(&request.key))?;
        let peer = peer_name(&request.key);
        let mut ovsdb = Client::connect(&self.config().ovsdb, OVSDB_DEADLINE)?;
        match self.record(&request.key) {
            Ok(None) => {}
            Ok(Some(found))
                if found.complete
                    && Netlink::open()?.link(&peer)?.is_some()
                    && is_plugged(&mut ovsdb, &found)? =>
            {
                ovsdb.wait_open(&found.port, request.link_deadline)?;
                return Ok(found);
            }
            // A crash, or a record that says nothing: start from nothing.
            Ok(Some(found)) => self.start_over(&request.key, Some(&found))?,
            Err(Error::State(state::Error::Garbage { .. })) => {
                self.start_over(&request.key, None)?;
            }
            Err(error) => return Err(error),
        }
        self.walk(request, Place::Here(&peer), ovsdb)
    }

    /// Unplugs what [`Engine::plug`] made and no container can be using any more: its pair is
    /// gone, or lies unmoved for ten minutes, or was given back by the runtime. Returns the keys
    /// and, one each, why the rest could not be unplugged.
    pub fn unplug_lost(&self, runtime: Runtime) -> Result<(Vec<Key>, Vec<Error>), Error> {
        let (mut lost, mut failed) = (Vec::new(), Vec::new());
        let mut netlink = Netlink::open()?;
        for record in self.records()?.0 {
            let ours = record.runtime == runtime && record.complete && record.netns_id.is_none();
            if !ours || !is_lost(&record, &mut netlink)? {
                continue;
            }
            match self.detach_lost(&record, |netlink| is_lost(&record, netlink)) {
                Ok(true) => lost.push(record.key),
                Ok(false) => {}
                Err(error) => failed.push(error),
            }
        }
        Ok((lost, failed))
    }

    /// Notes what people call a container.
    pub fn label(&self, key: &Key, labels: &Labels) -> Result<(), Error> {
        let state = self.state();
        let _lock = state.lock(&lock_key(key))?;
        match self.record(key)? {
            Some(mut record) if record.labels != *labels => {
                record.labels.clone_from(labels);
                self.save(&record)
            }
            _ => Ok(()),
        }
    }

    /// Makes what is missing of a network with subnets of its own; quick where it stands. `mtu` is
    /// that of its gateway port.
    pub fn ensure_network(&self, network: &Network, mtu: Option<u32>) -> Result<(), Error> {
        self.state().prepare()?;
        let networks = Networks::new(self.config());
        networks.ensure(network, &mut Netlink::open()?, || self.is_vacant(network, None))?;
        if let Some(mtu) = mtu {
            networks.set_mtu(network, mtu)?;
        }
        Ok(())
    }

    /// Has the one rule of ours outside our table where Docker looks first. Runs iptables.
    pub fn let_through(&self) -> Result<bool, Error> {
        self.state().prepare()?;
        Ok(nat::tagged::ensure(&self.state())
            .map_err(nat::Error::from)
            .map_err(network::Error::from)?)
    }

    /// Takes a network away again that was made on first use, unless something is plugged into its
    /// VLAN. False if it stays.
    pub fn forget_network(&self, network: &Network) -> Result<bool, Error> {
        let vacant = self.is_vacant(network, None);
        if vacant {
            Networks::new(self.config()).forget(network)?;
        }
        Ok(vacant)
    }

    /// Whether nobody, `but` for one, is plugged into the place of a network; not if a record cannot
    /// be read.
    pub(super) fn is_vacant(&self, network: &Network, but: Option<&Key>) -> bool {
        let there = |record: &Record| {
            record.bridge == network.bridge
                && record.vlan.domain() == network.vlan
                && Some(&record.key) != but
        };
        match self.records() {
            Ok((records, unreadable)) => unreadable.is_empty() && !records.iter().any(there),
            Err(_) => false,
        }
    }
}

/// Whether no container can be using any more what was plugged in for a runtime to move.
fn is_lost(record: &Record, netlink: &mut Netlink) -> Result<bool, Error> {
    // Renamed is not gone.
    let gone = netlink.link(&record.port)?.is_none()
        && !netlink.links()?.iter().any(|link| link.mac == Some(record.host_mac));
    let unused = state::uptime().saturating_sub(record.uptime) > UNMOVED.as_secs()
        && netlink.link(&peer_name(&record.key))?.is_some();
    Ok(gone || unused)
}

/// The name of the container end until the runtime moves it: `vp-` and a digest.
pub fn peer_name(key: &Key) -> IfName {
    let hash = Sha256::digest(key.to_string().as_bytes());
    // Three characters and twelve digits always make a name.
    format!("vp-{}", hex::encode(&hash[..6])).parse().unwrap_or_else(|_| key.ifname.clone())
}
