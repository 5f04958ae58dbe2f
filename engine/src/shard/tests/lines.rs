//! What a node logs, for tests.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

/// The lines so far, shared with whoever writes them.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The warnings that are logged on this thread while `run` runs, each a line.
pub(super) fn warnings(run: impl FnOnce()) -> Vec<String> {
    let lines = Lines::default();
    let written = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_ansi(false)
        .without_time()
        .with_writer(move || lines.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, run);
    let bytes = written.0.lock().unwrap().clone();
    let text = String::from_utf8(bytes).unwrap();
    text.lines().map(str::to_owned).collect()
}
