//! Undo steps as a value: what has been done is pushed, an error unwinds it in reverse.

/// One undo step that can fail with a text for the report.
type Undo<'a> = Box<dyn FnOnce() -> Result<(), String> + 'a>;

/// The undo steps of the work done so far. Dropping it forgets them: call [`Rollback::unwind`].
#[derive(Default)]
#[must_use]
pub struct Rollback<'a> {
    steps: Vec<(&'static str, Undo<'a>)>,
}

impl<'a> Rollback<'a> {
    /// Nothing done yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Remembers how to undo `what`.
    pub fn push(&mut self, what: &'static str, undo: impl FnOnce() -> Result<(), String> + 'a) {
        self.steps.push((what, Box::new(undo)));
    }

    /// Undoes everything, last step first, and goes on past failures. Returns what could not be
    /// undone, one sentence each.
    pub fn unwind(self) -> Vec<String> {
        let mut left = Vec::new();
        for (what, undo) in self.steps.into_iter().rev() {
            if let Err(why) = undo() {
                left.push(format!("{what}: {why}"));
            }
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn unwinds_backwards_and_reports_what_stays() {
        let order = RefCell::new(Vec::new());
        let mut rollback = Rollback::new();
        rollback.push("lease", || {
            order.borrow_mut().push(1);
            Ok(())
        });
        rollback.push("veth", || {
            order.borrow_mut().push(2);
            Err("device busy".to_owned())
        });
        assert_eq!(rollback.unwind(), ["veth: device busy"]);
        assert_eq!(*order.borrow(), [2, 1]);
    }
}
