//! In which order a pool gives its addresses out: never-used ones first, then the one that was
//! freed longest ago.
//!
//! A hint kept beside the leases, nothing more: an address is given only by making its lease file,
//! so whatever happens to this file costs order, never a duplicate. The lock is held for reading
//! and writing it, a few microseconds.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::range::Range;
use crate::lock::Lock;

/// Name of the file.
pub(super) const FILE: &str = ".order";

/// How long to wait for another process to put the file down, before going on without it.
const PATIENCE: Duration = Duration::from_secs(1);

/// So many freed addresses are remembered before they are given again although never-used ones
/// are left: bounds the file in a large pool. A subnet of up to /20 is always used up first.
const REMEMBERED: usize = 4096;

/// So many ranges of one subnet are remembered.
const STARTS: usize = 32;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Order {
    /// First address of a range, and the next one of it that was never given.
    starts: VecDeque<(u128, u128)>,
    /// Freed addresses, the longest ago first.
    freed: VecDeque<u128>,
}

impl Order {
    /// Changes the order kept in the directory `dir` at `path`.
    pub(super) fn change<T>(
        dir: impl AsFd,
        path: &Path,
        change: impl FnOnce(&mut Self) -> T,
    ) -> io::Result<T> {
        let _lock = Lock::acquire(&path.join(FILE), FILE, PATIENCE).map_err(io::Error::other)?;
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut file = File::from(openat(dir, FILE, flags, Mode::empty())?);
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut order = Self::from_bytes(&bytes);
        let answer = change(&mut order);
        let new = order.to_bytes();
        file.write_all_at(&new, 0)?;
        if new.len() < bytes.len() {
            file.set_len(new.len() as u64)?;
        }
        Ok(answer)
    }

    /// The next address to try.
    pub(super) fn next(&mut self, range: &Range) -> Option<u128> {
        if self.freed.len() >= REMEMBERED {
            self.oldest(range).or_else(|| self.fresh(range))
        } else {
            self.fresh(range).or_else(|| self.oldest(range))
        }
    }

    /// Puts a freed address last.
    pub(super) fn free(&mut self, number: u128) {
        self.freed.retain(|freed| *freed != number);
        self.freed.push_back(number);
    }

    fn fresh(&mut self, range: &Range) -> Option<u128> {
        let at = match self.starts.iter().position(|(first, _)| *first == range.first) {
            Some(at) => at,
            None => {
                if self.starts.len() == STARTS {
                    self.starts.pop_front();
                }
                self.starts.push_back((range.first, range.first));
                self.starts.len() - 1
            }
        };
        let next = (self.starts[at].1..=range.last)
            .find(|number| range.contains(*number) && !self.freed.contains(number))?;
        self.starts[at].1 = next + 1;
        Some(next)
    }

    fn oldest(&mut self, range: &Range) -> Option<u128> {
        let at = self.freed.iter().position(|number| range.contains(*number))?;
        self.freed.remove(at)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let starts = self.starts.iter().flat_map(|(first, next)| [*first, *next]);
        std::iter::once(self.starts.len() as u128)
            .chain(starts)
            .chain(self.freed.iter().copied())
            .flat_map(u128::to_be_bytes)
            .collect()
    }

    /// Takes whatever is there: a wrong address is refused when its lease is made.
    fn from_bytes(bytes: &[u8]) -> Self {
        let mut numbers = bytes
            .chunks_exact(16)
            .map(|chunk| chunk.iter().fold(0_u128, |number, byte| number << 8 | u128::from(*byte)));
        let count = numbers.next().and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
        let mut starts = VecDeque::new();
        for _ in 0..count.min(STARTS) {
            if let (Some(first), Some(next)) = (numbers.next(), numbers.next())
                && next >= first
            {
                starts.push_back((first, next));
            }
        }
        Self { starts, freed: numbers.collect() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Subnet;
    use super::*;

    fn range(net: &str) -> Range {
        Range::of(&Subnet { net: net.parse().unwrap(), range: None, gateway: None }).unwrap()
    }

    #[test]
    fn a_large_pool_remembers_so_many_and_no_more() {
        let range = range("fd00::/64");
        let mut order = Order::default();
        let given: Vec<_> = (0..REMEMBERED + 5).map(|_| order.next(&range).unwrap()).collect();
        for number in &given {
            order.free(*number);
        }
        for number in &given[..6] {
            assert_eq!(order.next(&range), Some(*number));
        }
        assert_eq!(order.next(&range), Some(given[REMEMBERED + 4] + 1));
    }

    #[test]
    fn starts_are_bounded() {
        let mut order = Order::default();
        for n in 0..100 {
            assert!(order.next(&range(&format!("10.0.{n}.0/24"))).is_some());
        }
        assert_eq!(order.starts.len(), STARTS);
    }

    proptest! {
        #[test]
        fn bytes_round_trip(
            starts in proptest::collection::vec(any::<(u64, u64)>(), 0..STARTS),
            freed in proptest::collection::vec(any::<u128>(), 0..50),
        ) {
            let starts =
                starts.into_iter().map(|(a, b)| (u128::from(a), u128::from(a) + u128::from(b)));
            let order = Order { starts: starts.collect(), freed: freed.into() };
            prop_assert_eq!(Order::from_bytes(&order.to_bytes()), order);
        }

        #[test]
        fn garbage_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut order = Order::from_bytes(&bytes);
            if let Some(number) = order.next(&range("10.0.0.0/29")) {
                prop_assert!(range("10.0.0.0/29").contains(number));
            }
        }
    }
}
