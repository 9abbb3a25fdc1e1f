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

/// The table as text: no blanks at either end of a line.
pub(crate) fn text(table: &Table) -> String {
    let trim = |line: String| line.trim_end().strip_prefix(' ').unwrap_or(&line).to_owned();
    table.lines().map(trim).collect::<Vec<_>>().join("\n")
}

/// Container ids are known by their first twelve characters.
pub(crate) fn container(id: &str) -> String {
    let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id { id[..12].to_owned() } else { printable(id) }
}

/// The text without what steers a terminal: control characters, and marks that nobody sees or
/// that turn the direction of writing.
pub(crate) fn printable(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    let mut printable = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) {
            printable.extend(c.escape_unicode());
        } else {
            printable.push(c);
        }
    }
    printable
}
