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
