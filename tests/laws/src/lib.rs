//! What the laws of the parsers share. A law is a function of any bytes at all that panics where
//! something does not hold: the body of a fuzz target, and of a test over `tests/fuzz/seeds`.

use std::fs;
use std::path::Path;

/// Longest error in bytes: some quote what they were given, but none all of a message of megabytes.
const LONGEST_ERROR: usize = 64 * 1024;

/// An error is one line that no terminal is steered by.
pub fn one_line(text: &str) {
    assert!(!text.is_empty(), "an error says nothing");
    assert!(text.len() <= LONGEST_ERROR, "an error of {} bytes", text.len());
    let odd = text.chars().find(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'));
    assert_eq!(odd, None, "in {text:?}");
}

/// Calls `law` with every seed of `target` in the checkout; every input that once broke it is one.
pub fn hold_for_seeds(target: &str, law: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut count = 0;
    for entry in entries {
        let path = entry.unwrap_or_else(|error| panic!("{}: {error}", dir.display())).path();
        let seed = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let held = std::panic::catch_unwind(|| law(&seed));
        assert!(held.is_ok(), "{} breaks a law: see above", path.display());
        count += 1;
    }
    assert!(count > 0, "{} holds no seed", dir.display());
}
