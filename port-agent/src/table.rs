//! Tables people can read: no frames, columns as wide as they need.

use comfy_table::{ContentArrangement, Table};

/// An empty table with these column heads.
pub(crate) fn new(heads: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(heads.to_vec());
    table
}

/// The table as text: no blanks at either end of a line, and no control character of a value
/// reaches the terminal.
pub(crate) fn text(table: &Table) -> String {
    let lines: Vec<String> = table
        .lines()
        .map(|line| {
            let line = line.trim_end().strip_prefix(' ').unwrap_or(&line).to_owned();
            line.chars()
                .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
                .collect()
        })
        .collect();
    lines.join("\n")
}
