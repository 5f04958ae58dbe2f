//! Rare events that a campaign must have met: one that never happens is not tested.

use std::collections::BTreeMap;

/// How often each rare event happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    counts: BTreeMap<&'static str, u64>,
}

/// The events that a campaign of some thousand seeds must meet.
pub const MARKS: &[&str] = &[
    "damage found at a start",
    "damage found while running",
    "tainted replica",
    "damage refetched from a peer",
    "vote lost and regained",
    "stale disk acknowledgement ignored",
    "frames dropped by recovery",
    "segment used again",
    "start refused by a full disk",
    "connection given up as stuck",
    "two leaders in different terms",
    "leader changed",
    "leadership transferred",
    "proposal rejected",
    "proposal overloaded",
    "outcome unknown",
    "entries read back from the disk",
    "segment freed",
    "message dropped",
];

impl Coverage {
    pub(crate) fn mark(&mut self, event: &'static str) {
        self.add(event, 1);
    }

    pub(crate) fn add(&mut self, event: &'static str, count: u64) {
        debug_assert!(MARKS.contains(&event), "{event} is not listed");
        if count > 0 {
            *self.counts.entry(event).or_default() += count;
        }
    }

    /// Adds what another run met.
    pub fn join(&mut self, other: &Self) {
        for (event, count) in &other.counts {
            *self.counts.entry(event).or_default() += count;
        }
    }

    /// How often an event happened.
    #[must_use]
    pub fn of(&self, event: &str) -> u64 {
        self.counts.get(event).copied().unwrap_or(0)
    }

    /// Events that never happened.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let missing = MARKS.iter().filter(|mark| self.of(mark) == 0);
        missing.copied().collect()
    }
}
