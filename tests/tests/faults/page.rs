//! docs/faults.md names only tests that exist.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the tests of a page's `file::name` may be.
const PLACES: [&str; 3] = ["tests/tests", "tests/src", "shared/src"];

#[test]
fn every_test_the_page_names_exists_and_every_row_has_one() {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = fs::read_to_string(checkout.join("docs/faults.md")).unwrap();
    let mut rows = Vec::new();
    for line in page.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let Ok(row) = cells[0].parse::<u32>() else { continue };
        rows.push(row);
        let tests: Vec<_> =
            line.split('`').skip(1).step_by(2).filter(|word| word.contains("::")).collect();
        assert!(!tests.is_empty(), "row {row} names no test");
        for test in tests {
            let (file, name) = test.rsplit_once("::").unwrap();
            let found: Option<PathBuf> = PLACES
                .iter()
                .map(|place| checkout.join(place).join(format!("{file}.rs")))
                .find(|path| path.is_file());
            let path = found.unwrap_or_else(|| panic!("row {row}: no file of {test}"));
            let text = fs::read_to_string(&path).unwrap();
            let plain = text.contains(&format!("#[test]\nfn {name}()"));
            // Made by a macro of that file, from a scenario or a verb.
            let made = text.contains("with_both!(") && text.contains(&format!("fn {name}("))
                || text.contains("shares! {") && text.contains(&format!("    {name} = "));
            assert!(plain || made, "row {row}: no test {name} in {}", path.display());
        }
    }
    assert_eq!(rows, (1..=32).collect::<Vec<_>>(), "the rows of the matrix");
}
