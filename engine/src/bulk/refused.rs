//! Counts of what was refused, by reason.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// How many connections were refused for each reason.
#[derive(Debug, Default)]
pub struct Refused {
    counts: Mutex<BTreeMap<&'static str, u64>>,
}

impl Refused {
    /// Counts one more.
    pub(super) fn count(&self, reason: &'static str) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(reason).or_default() += 1;
    }

    /// All counts.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.clone()
    }
}
