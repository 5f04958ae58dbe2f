//! Chance, from a seed.

use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{RngCore, SeedableRng};

/// Draws. Every draw of a run comes from one of these.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    source: Pcg64Mcg,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            source: Pcg64Mcg::seed_from_u64(seed),
        }
    }

    /// Any number.
    pub(crate) fn number(&mut self) -> u64 {
        self.source.next_u64()
    }

    /// From `low` to `high`, both possible.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.number() % (high - low + 1)
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.number() % end as u64).expect("below a usize")
    }

    /// True so many times in a million.
    pub(crate) fn happens(&mut self, per_million: u64) -> bool {
        self.number() % 1_000_000 < per_million
    }

    /// Mostly near `typical`, now and then many times that.
    pub(crate) fn delay(&mut self, typical: u64) -> u64 {
        let spread = self.between(typical / 2, typical * 3 / 2);
        if self.happens(20_000) { spread * 20 } else { spread }
    }
}
