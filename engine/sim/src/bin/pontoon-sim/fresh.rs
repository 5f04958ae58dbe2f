//! Seeds that no campaign has chosen before.

use std::hash::{BuildHasher, RandomState};

/// Seeds are below this, so that a person can type one.
const SEEDS_END: u64 = 1_000_000_000;

/// A first seed from the operating system: `RandomState` takes its keys from there.
pub(crate) fn first_seed() -> u64 {
    RandomState::new().hash_one(std::process::id()) % SEEDS_END
}
