//! The agent's hold on our table: the one socket which may change it while it is open.
//!
//! Where the kernel has tables with an owner that persist (Linux 6.9), nobody else can flush, edit
//! or delete ours, and it outlives the agent, which takes it over again. Elsewhere the table is an
//! ordinary one, and the agent puts it back.

use super::Error;
use super::nft::{self, Batch, Family, Hold, Socket};
use super::ports::Elements;
use super::table::{Layout, NAME, Plan};
use crate::state::State;

/// Who writes our table while an agent runs.
#[derive(Debug)]
pub struct Writer {
    socket: Socket,
    port: u32,
    /// Whether the table is to be owned; true until the kernel says that it cannot.
    owned: bool,
}

impl Writer {
    /// One that has written nothing yet; `protect` keeps others from the table, where the kernel
    /// can.
    pub fn open(protect: bool) -> Result<Self, Error> {
        let failed = |source| Error::Table { action: "write", source };
        let socket = Socket::open().map_err(failed)?;
        let port = socket.port().map_err(failed)?;
        Ok(Self { socket, port, owned: protect })
    }

    /// Makes the table what the plan says, with all ports on record; false if it was.
    pub fn apply(&mut self, state: &State, plan: &Plan) -> Result<bool, Error> {
        let failed = |source| Error::Table { action: "write", source };
        let layout = Layout::of(plan);
        let elements = Elements::recall(state)?;
        let there = self.socket.table(Family::Inet, NAME).map_err(failed)?;
        let same =
            layout.is_installed(&mut self.socket, there.as_ref(), &elements).map_err(failed)?;
        let ours = there.as_ref().is_some_and(|table| table.owner == Some(self.port));
        if same && (ours || !self.owned) {
            return Ok(false);
        }
        let seen = Hold::of(there.as_ref());
        if self.owned {
            let batch = if same && seen == Hold::Orphan {
                let mut adoption = Batch::new(Family::Inet, NAME);
                adoption.add_table(&layout.comment(), Hold::Owned);
                adoption
            } else {
                layout.replacement(seen, Hold::Owned, &elements)
            };
            match self.socket.commit(&batch) {
                Ok(()) => return Ok(true),
                // Older kernels have no such tables, and say so.
                Err(nft::Error::Unsupported { .. }) => self.owned = false,
                Err(source) => return Err(failed(source)),
            }
            if same {
                return Ok(false);
            }
        }
        self.socket.commit(&layout.replacement(seen, Hold::Free, &elements)).map_err(failed)?;
        Ok(true)
    }

    /// Makes the maps of the table hold the ports on record; false if they did, or if there is no
    /// table.
    pub fn sync(&mut self, state: &State) -> Result<bool, Error> {
        let failed = |source| Error::Table { action: "write", source };
        let elements = Elements::recall(state)?;
        if self.socket.table(Family::Inet, NAME).map_err(failed)?.is_none() {
            return Ok(false);
        }
        elements.sync(&mut self.socket).map_err(failed)
    }

    /// Removes the table; false if there is none.
    pub fn remove(&mut self) -> Result<bool, Error> {
        super::table::delete(&mut self.socket)
    }

    /// The number of its socket, as [`super::News`] has it.
    pub fn port(&self) -> u32 {
        self.port
    }
}
