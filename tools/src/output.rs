//! All terminal output: lines and tables on standard output, complaints on standard error.

use std::io::Write;

use comfy_table::{Table, presets};

/// Writes a line to standard output. Ignores a closed pipe (`| head`).
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Writes a line to standard error.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Prints a table; nothing if it has no rows.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) {
    if rows.is_empty() {
        return;
    }
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(header);
    table.add_rows(rows);
    say(&table.to_string());
}
