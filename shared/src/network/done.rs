//! What `up` did, bridge by bridge, for `down`: written down before it is done.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::name::IfName;
use crate::network::Error;
use crate::state::{self, State};

/// What `up` did to a bridge that `down` has to undo.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Done {
    /// Addresses added to its interface.
    pub(super) addresses: Vec<IpNet>,
    /// Default gateways routed through it.
    pub(super) gateways: Vec<IpAddr>,
    /// Its interface was down before.
    pub(super) raised: bool,
    /// Uplinks that were down before.
    pub(super) raised_uplinks: Vec<IfName>,
    /// `mtu_request` of an adopted bridge before it was set, if it was.
    #[serde(with = "nested", skip_serializing_if = "Option::is_none")]
    pub(super) mtu_before: Option<Option<u32>>,
}

/// "Had none" must not be read back as "was never changed".
mod nested {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    #[expect(clippy::ref_option, reason = "the shape serde wants")]
    pub(super) fn serialize<S: Serializer>(
        value: &Option<Option<u32>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.flatten().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<u32>>, D::Error> {
        Option::deserialize(deserializer).map(Some)
    }
}

/// The file of it. It dies with the boot, as addresses and link states do.
#[derive(Debug)]
pub(super) struct Book {
    path: PathBuf,
    bridges: BTreeMap<IfName, Done>,
}

impl Book {
    /// Opens it; blank if `up` did nothing yet.
    pub(super) fn open(state: &State) -> Result<Self, Error> {
        let path = state.dir().join("up.json");
        let bridges = state::read(&path)?.unwrap_or_default();
        Ok(Self { path, bridges })
    }

    /// What was done to this bridge.
    pub(super) fn of(&self, bridge: &IfName) -> Done {
        self.bridges.get(bridge).cloned().unwrap_or_default()
    }

    /// The bridges that are up.
    pub(super) fn bridges(&self) -> impl Iterator<Item = &IfName> {
        self.bridges.keys()
    }

    /// What was done, bridge by bridge.
    pub(super) fn all(&self) -> &BTreeMap<IfName, Done> {
        &self.bridges
    }

    /// Writes down what is left of it.
    pub(super) fn replace(&mut self, bridges: BTreeMap<IfName, Done>) -> Result<(), Error> {
        self.bridges = bridges;
        Ok(state::write(&self.path, &self.bridges)?)
    }

    /// Writes down what is about to be done.
    pub(super) fn note(
        &mut self,
        bridge: &IfName,
        change: impl FnOnce(&mut Done),
    ) -> Result<(), Error> {
        let mut done = self.of(bridge);
        change(&mut done);
        if self.bridges.get(bridge) != Some(&done) {
            self.bridges.insert(bridge.clone(), done);
            state::write(&self.path, &self.bridges)?;
        }
        Ok(())
    }

    /// Everything is undone.
    pub(super) fn close(&mut self) -> Result<(), Error> {
        self.bridges.clear();
        Ok(state::remove(&self.path).map(drop)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_that_had_no_mtu_request_is_told_from_one_left_alone() {
        for mtu_before in [None, Some(None), Some(Some(1400))] {
            let done = Done { mtu_before, ..Done::default() };
            let text = serde_json::to_string(&done).unwrap();
            assert_eq!(serde_json::from_str::<Done>(&text).unwrap(), done, "{text}");
        }
    }

    #[test]
    fn what_is_noted_is_found_by_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(dir.path().to_owned());
        let bridge: IfName = "ovsbr0".parse().unwrap();
        let mut book = Book::open(&state).unwrap();
        book.note(&bridge, |done| done.raised = true).unwrap();
        let mut again = Book::open(&state).unwrap();
        assert!(again.of(&bridge).raised);
        assert_eq!(again.bridges().count(), 1);
        again.close().unwrap();
        assert_eq!(Book::open(&state).unwrap().bridges().count(), 0);
    }
}
