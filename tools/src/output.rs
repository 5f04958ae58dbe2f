//! All terminal output: lines and tables on standard output, complaints on standard error.

use std::io::Write;

use comfy_table::{Table, presets};

/// Writes a line to standard output. Ends the command if it can't be written: quietly if nobody
/// reads any more (`| head`), with a complaint if it would be lost (a full disk).
pub(crate) fn say(line: &str) {
    let Err(error) = writeln!(std::io::stdout().lock(), "{line}") else {
        return;
    };
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    complain(&format!("pontoon: writing the output: {error}"));
    std::process::exit(2);
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
