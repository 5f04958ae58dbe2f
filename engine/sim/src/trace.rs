//! The history of a run, as a hash and, if wanted, as text.

use std::fmt::Arguments;

/// Two runs of a seed have the same trace.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    pub(crate) fn new(keep: bool) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            lines: keep.then(Vec::new),
        }
    }

    /// Adds an event. The text is made only if it is kept.
    pub(crate) fn event(&mut self, time: u64, numbers: &[u64], text: Arguments<'_>) {
        for number in [time].iter().chain(numbers) {
            // FNV-1a (Fowler, Noll, Vo), eight bytes at a time.
            self.hash = (self.hash ^ number).wrapping_mul(0x0100_0000_01b3);
        }
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>12.3} ms  {text}", time as f64 / 1e6));
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}
