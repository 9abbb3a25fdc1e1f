//! Which interfaces the monitor leaves alone, though they are free: those older than its first
//! start of this boot, and those that were detached by hand.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::free::Left;
use super::{Engine, Error};
use crate::link::Netlink;
use crate::state;

/// The lock of whoever writes the file.
const LOCK: &str = "left";

/// The marks, by interface index: no rename changes it, and the kernel gives it once.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Marks {
    /// No agent has started in this boot yet: whatever there is, is older.
    #[serde(skip)]
    all: bool,
    links: BTreeMap<u32, Left>,
}

impl Marks {
    pub(super) fn of(&self, index: u32) -> Option<Left> {
        self.links.get(&index).copied().or(self.all.then_some(Left::Older))
    }
}

impl Engine {
    /// Notes, at the first start of this boot, which interfaces were there before.
    pub fn mark_older(&self) -> Result<(), Error> {
        let state = self.state();
        state.prepare()?;
        let _lock = state.lock(LOCK)?;
        if !self.marks()?.all {
            return Ok(());
        }
        let links = Netlink::open()?.links()?;
        let links = links.into_iter().map(|link| (link.index, Left::Older)).collect();
        Ok(state::write(&self.marks_path(), &Marks { all: false, links })?)
    }

    /// Notes that an interface was detached by hand, so that the monitor does not take it again;
    /// or, with `None`, that it was plugged in by hand.
    pub(super) fn mark(&self, index: u32, left: Option<Left>) -> Result<(), Error> {
        let _lock = self.state().lock(LOCK)?;
        let mut marks = self.marks()?;
        // Without a first start everything is left alone anyway.
        if marks.all || marks.links.get(&index).copied() == left {
            return Ok(());
        }
        // Of one that was detached and is gone nobody will ask again.
        let there: Vec<_> = Netlink::open()?.links()?.iter().map(|link| link.index).collect();
        marks.links.retain(|index, left| *left != Left::Detached || there.contains(index));
        match left {
            Some(left) => marks.links.insert(index, left),
            None => marks.links.remove(&index),
        };
        Ok(state::write(&self.marks_path(), &marks)?)
    }

    pub(super) fn marks(&self) -> Result<Marks, Error> {
        let none = Marks { all: true, links: BTreeMap::new() };
        Ok(state::read(&self.marks_path())?.unwrap_or(none))
    }

    fn marks_path(&self) -> PathBuf {
        self.state().dir().join("left.json")
    }
}
