//! A short soak; `./run soak` is the long one.

use rig::soak::{Plan, soak};

#[test]
fn three_hundred_pairs_while_open_vswitch_is_restarted_and_killed() {
    let soaked = soak(Plan { pairs: 300, at_once: 16, seed: 1, faults: Some(4), limit: None });
    assert!(soaked.wrong.is_empty(), "{soaked:?}");
    assert_eq!((soaked.pairs, soaked.faults), (300, [2, 2]), "{soaked:?}");
    assert!(soaked.sampled >= 6, "{soaked:?}");
    let (first, last) = (&soaked.moments[1], soaked.moments.last().unwrap());
    for (before, after) in first.descriptors.iter().zip(last.descriptors) {
        // A connection or two may be on their way out.
        assert!(after <= before + 4, "{soaked:?}");
    }
}
