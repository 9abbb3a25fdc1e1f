//! What is wrong with which part, told to the log, to the service manager and to whoever asks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use sd_notify::NotifyState;
use tokio::sync::watch;

/// The parts that do not work, each with the reason; all others do.
#[derive(Debug, Default)]
pub(crate) struct Health {
    troubles: watch::Sender<Troubles>,
    parts: Mutex<BTreeSet<&'static str>>,
    ready: AtomicBool,
}

/// Part and what is wrong with it.
pub(crate) type Troubles = BTreeMap<&'static str, String>;

impl Health {
    /// Notes that there is such a part.
    pub(crate) fn starts(&self, part: &'static str) {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).insert(part);
        self.troubles.send_modify(|_| {});
    }

    /// Every part, and what is wrong with it.
    pub(crate) fn parts(&self) -> BTreeMap<String, Option<String>> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let troubles = self.troubles.borrow();
        parts.iter().map(|part| ((*part).to_owned(), troubles.get(part).cloned())).collect()
    }

    /// Notes that a part does not work; said once for each reason.
    pub(crate) fn trouble(&self, part: &'static str, why: String) {
        let news = self.troubles.send_if_modified(|troubles| {
            let news = troubles.get(part) != Some(&why);
            if news {
                tracing::error!(part, "{why}");
                troubles.insert(part, why);
            }
            news
        });
        if news {
            self.tell_status();
        }
    }

    /// Notes that a part works.
    pub(crate) fn well(&self, part: &'static str) {
        if self.troubles.send_if_modified(|troubles| troubles.remove(part).is_some()) {
            tracing::info!(part, "works again");
            self.tell_status();
        }
    }

    /// Whether a part does not work.
    pub(crate) fn is_troubled(&self, part: &'static str) -> bool {
        self.troubles.borrow().contains_key(part)
    }

    /// Tells the service manager, once, that whoever comes after us may start.
    pub(crate) fn ready(&self) {
        if !self.ready.swap(true, Ordering::Relaxed) {
            tell(&[NotifyState::Ready]);
            self.tell_status();
        }
    }

    /// Tells the service manager that the end has begun.
    pub(crate) fn stopping(&self) {
        tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// What is wrong now, and every change of it.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Troubles> {
        self.troubles.subscribe()
    }

    fn tell_status(&self) {
        let status = status(&self.troubles.borrow());
        tell(&[NotifyState::Status(&status)]);
    }
}

/// One line for `systemctl status`.
fn status(troubles: &Troubles) -> String {
    if troubles.is_empty() {
        return "the host is as it should be".to_owned();
    }
    let parts: Vec<_> = troubles.iter().map(|(part, why)| format!("{part}: {why}")).collect();
    // A line feed would begin the next assignment of sd_notify(3).
    parts.join("; ").replace(char::is_control, " ")
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line_and_names_each_part() {
        assert_eq!(status(&Troubles::new()), "the host is as it should be");
        let troubles = Troubles::from([
            ("keeper", "no bridge\nSTATUS=well".to_owned()),
            ("bus", "the name is taken".to_owned()),
        ]);
        assert_eq!(status(&troubles), "bus: the name is taken; keeper: no bridge STATUS=well");
    }

    #[test]
    fn trouble_is_news_once_and_passes() {
        let health = Health::default();
        let mut seen = health.subscribe();
        health.trouble("bus", "the name is taken".to_owned());
        assert!(seen.has_changed().unwrap());
        assert_eq!(seen.borrow_and_update()["bus"], "the name is taken");
        health.trouble("bus", "the name is taken".to_owned());
        assert!(!seen.has_changed().unwrap());
        health.well("bus");
        assert!(seen.borrow_and_update().is_empty());
        health.well("bus");
        assert!(!seen.has_changed().unwrap());
    }
}
