//! The one place that writes to the terminal.

use std::io::Write;

/// Writes a line to standard output. A closed pipe is nobody's mistake.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Writes a line to standard error.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
