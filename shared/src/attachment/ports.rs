//! Ports of an attachment, published and withdrawn.

use std::time::Duration;

use super::attach::{OVSDB_DEADLINE, lock_key};
use super::record::{Key, Record};
use super::request::AttachRequest;
use super::{Engine, Error, owner};
use crate::control;
use crate::error::sentence;
use crate::lock::{self, Lock};
use crate::ovsdb::Client;
use crate::publish::{self, Holder, PortMapping, Publication, PublishedPort, Request};
use crate::state;

/// How long the agent may take to bind the ports of a container, and to forward them.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(20);

/// How long the end of a container waits for the agent: what it does not do now, it does later.
const WITHDRAW_DEADLINE: Duration = Duration::from_secs(2);

/// What became of the published ports of an attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withdrawn {
    /// There were none.
    Nothing,
    /// Nothing leads to the container any more.
    Done,
    /// The agent does not answer, or is about to end: its rules may lead there yet.
    Later,
}

impl Engine {
    /// Publishes ports of what is plugged in, in place of all that were published for it before;
    /// returns them with the host ports that were chosen. None asks nobody.
    ///
    /// # Errors
    /// Nothing is published then. [`publish::Error::NoAgent`] without a running agent.
    pub fn publish(&self, key: &Key, ports: &[PortMapping]) -> Result<Vec<PortMapping>, Error> {
        self.publish_held(key, ports, Holder::Agent)
    }

    /// [`Engine::publish`] for a runtime that may bind the ports itself.
    pub fn publish_held(
        &self,
        key: &Key,
        ports: &[PortMapping],
        holder: Holder,
    ) -> Result<Vec<PortMapping>, Error> {
        if ports.is_empty() {
            self.withdraw(key);
            return Ok(Vec::new());
        }
        publish::check(ports)?;
        let request = Request { key: key.clone(), ports: ports.to_vec(), holder };
        let asked = control::ask(&self.state(), "publish", &request, PUBLISH_DEADLINE);
        Ok(asked.map_err(publish::Error::from)?)
    }

    /// Takes back what is published for an attachment. Cannot fail, and does not wait for an agent
    /// that does not run: one that comes back publishes only what has a record.
    pub fn withdraw(&self, key: &Key) -> Withdrawn {
        let state = self.state();
        let path = Publication::path(&state, key);
        if !path.exists() {
            return Withdrawn::Nothing;
        }
        // What cannot be read must go as well.
        let known = state::read::<Publication>(&path).unwrap_or_default();
        match control::ask(&state, "withdraw", key, WITHDRAW_DEADLINE) {
            Ok(()) => return Withdrawn::Done,
            Err(control::Error::Absent) => {}
            Err(error) => {
                // Its rules lead there until it does; nobody else may change them.
                tracing::error!(error = %sentence(&error), "ports are still held");
                return Withdrawn::Later;
            }
        }
        if let Some(publication) = known
            && let Err(error) = crate::nat::ports::remove(&publication)
        {
            // An agent that is about to end has the table yet; the next one finds the file.
            tracing::error!(error = %sentence(&error), "ports may still be forwarded");
            return Withdrawn::Later;
        }
        match state::remove(&path) {
            Ok(false) => return Withdrawn::Nothing,
            Ok(true) => {}
            Err(error) => {
                tracing::error!(error = %sentence(&error), "published ports stay on record");
            }
        }
        Withdrawn::Done
    }

    /// Frees the addresses of an attachment that was unplugged while the agent could not take its
    /// ports back, once it has. Whoever is at work on the attachment sees to it himself.
    pub fn release_withdrawn(&self, key: &Key) -> Result<(), Error> {
        let _lock: Lock = match self.state().try_lock(&lock_key(key)) {
            Ok(lock) => lock,
            Err(lock::Error::Busy { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if self.record_path(key).exists() || Publication::path(&self.state(), key).exists() {
            return Ok(());
        }
        let mut ovsdb = Client::connect(&self.config().ovsdb, OVSDB_DEADLINE)?;
        if ovsdb.ports_with(&owner::identity(key))?.is_empty() {
            self.release(key, None)?;
        }
        Ok(())
    }

    /// [`Engine::attach`] and [`Engine::publish_held`]: both, or neither.
    pub fn attach_published(
        &self,
        request: &AttachRequest,
        ports: &[PortMapping],
        holder: Holder,
    ) -> Result<Record, Error> {
        let record = self.attach(request)?;
        match self.publish_held(&record.key, ports, holder) {
            Ok(_) => Ok(record),
            Err(cause) => match self.detach(&record.key) {
                Ok(_) => Err(cause),
                Err(left) => Err(Error::Left { cause: Box::new(cause), left: Box::new(left) }),
            },
        }
    }

    /// What the agent holds, and how it fares.
    pub fn held_ports(&self) -> Result<Vec<PublishedPort>, Error> {
        let asked = control::ask(&self.state(), "ports", &(), WITHDRAW_DEADLINE);
        Ok(asked.map_err(publish::Error::from)?)
    }

    /// Everything on record as published; of what cannot be read, why not.
    pub fn publications(&self) -> Result<(Vec<Publication>, Vec<state::Error>), Error> {
        let (mut found, mut unreadable) = (Vec::new(), Vec::new());
        for path in state::files(&self.state().ports())? {
            match state::read(&path) {
                Ok(publication) => found.extend(publication),
                Err(error) => unreadable.push(error),
            }
        }
        Ok((found, unreadable))
    }
}
