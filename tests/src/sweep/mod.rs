//! The crash sweep: a verb is disturbed at each system call that it makes, by SIGKILL or by an
//! error of the kernel, and after each of these points the host is put in order by what a caller
//! would do next, and compared with what it was.

mod house;
mod life;
mod point;
mod requests;
mod verb;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use self::house::House;
use self::life::Sequel;
use self::point::{Disturbance, Point};
pub use self::verb::Verb;

/// Points after which a sweep moves to a fresh host: the ledger is read as a whole after each.
const HOUSE_LASTS: usize = 150;

/// Longest a call may take, a disturbed one too (I6).
const LONGEST_CALL: Duration = Duration::from_secs(30);

/// Which points of a verb are tried.
#[derive(Debug, Clone, Copy)]
pub struct Choice {
    /// Every call, or only those that change or reveal something outside the process: between two
    /// of these one point is as good as another.
    pub every_call: bool,
    /// At most so many points for each kind of disturbance, spread over all.
    pub at_most: usize,
    /// Where the spreading begins: with another number another share is tried.
    pub seed: usize,
}

/// What a sweep of one verb found.
#[derive(Debug, Default)]
pub struct Report {
    /// System calls of the undisturbed verb, the worst of its threads for each name.
    pub calls: usize,
    /// Kills tried.
    pub kills: usize,
    /// Kills that came in time: how often a process waits differs from run to run.
    pub died: usize,
    /// Errors injected.
    pub errors: usize,
    /// Verbs that failed because of one; the others went on without.
    pub failed: usize,
    /// What did not hold, a paragraph for each point.
    pub faults: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// Sweeps one verb.
pub fn sweep(verb: Verb, choice: Choice) -> Report {
    let started = Instant::now();
    let mut report = Report::default();
    let mut house = House::new(verb);
    let points = life::points(&house, verb);
    report.calls = points.len();
    let points: Vec<_> =
        points.into_iter().filter(|point| choice.every_call || point.acts).collect();
    let mut used = 0;
    for (number, (point, disturbance)) in plan(&points, choice).into_iter().enumerate() {
        if used == HOUSE_LASTS {
            drop(house);
            house = House::new(verb);
            used = 0;
        }
        used += 1;
        let sequel =
            if (number + choice.seed).is_multiple_of(2) { Sequel::Again } else { Sequel::Other };
        let lived = catch_unwind(AssertUnwindSafe(|| {
            life::live(&house, verb, &point, disturbance, sequel)
        }));
        match disturbance {
            Disturbance::Kill => report.kills += 1,
            Disturbance::Error(_) => report.errors += 1,
        }
        match lived {
            Ok(hit) => match disturbance {
                Disturbance::Kill => report.died += usize::from(hit),
                Disturbance::Error(_) => report.failed += usize::from(hit),
            },
            Err(panic) => {
                let at = format!("{verb}, {disturbance} at {point}, then {sequel:?}");
                report.faults.push(format!("{at}:\n{}", said(&*panic)));
                // Nobody knows what it is like now.
                drop(house);
                house = House::new(verb);
                used = 0;
            }
        }
    }
    report.took = started.elapsed();
    report
}

/// Which points are disturbed how: an even share of each kind.
fn plan(points: &[Point], choice: Choice) -> Vec<(Point, Disturbance)> {
    let kills = points.iter().map(|point| (point.clone(), Disturbance::Kill));
    let errors = points.iter().enumerate().filter_map(|(at, point)| {
        let error = point.error(at + choice.seed)?;
        Some((point.clone(), Disturbance::Error(error)))
    });
    let share = |all: Vec<(Point, Disturbance)>| {
        let step = all.len().div_ceil(choice.at_most).max(1);
        all.into_iter().skip(choice.seed % step).step_by(step).collect::<Vec<_>>()
    };
    [share(kills.collect()), share(errors.collect())].concat()
}

/// The words of a panic.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "a panic without words".to_owned())
}
