//! The history of a run, as a hash and, if wanted, as text.

use std::fmt::Arguments;

/// What a line of a trace is about. Its number goes into the hash.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TraceKind {
    /// A core took a turn.
    Turn = 1,
    /// Two cores were connected.
    Connected = 2,
    /// A node starts.
    Start = 3,
    /// A replica began to lead.
    Leader = 4,
    /// A client got its answer.
    Acknowledged = 5,
    /// A node pauses.
    Pause = 6,
    /// Some nodes do not reach others.
    Partition = 7,
    /// Every node reaches every other.
    PartitionEnd = 8,
    /// A node crashes.
    Crash = 9,
    /// A node is isolated.
    Isolate = 10,
    /// An isolated node is back.
    Rejoin = 11,
    /// A clock takes another rate.
    ClockRate = 12,
    /// A quiet window of a steady run begins.
    Calm = 13,
    /// A node is told to stop.
    Stop = 14,
}

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
    pub(crate) fn event(
        &mut self,
        time: u64,
        kind: TraceKind,
        numbers: &[u64],
        text: Arguments<'_>,
    ) {
        for number in [time, kind as u64].iter().chain(numbers) {
            // FNV-1a (Fowler, Noll, Vo), eight bytes at a time.
            self.hash = (self.hash ^ number).wrapping_mul(0x0100_0000_01b3);
        }
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>12.3} ms  {text}", time as f64 / 1e6));
        }
    }

    /// Adds a line for whoever reads the text. The hash does not know of it.
    pub(crate) fn note(&mut self, time: u64, text: Arguments<'_>) {
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
