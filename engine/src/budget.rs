//! The bytes of proposals that wait for a core, or that it has not answered: counted by what holds
//! them, on whatever thread that is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A number of bytes that may be held at the same time.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    bytes_max: usize,
    held: Arc<AtomicUsize>,
}

/// Some of a budget's bytes, given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    bytes: usize,
    held: Arc<AtomicUsize>,
}

impl Budget {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let held = Arc::default();
        Self { bytes_max, held }
    }

    /// Bytes that can still be taken.
    pub(crate) fn left(&self) -> usize {
        let held = self.held.load(Ordering::Relaxed);
        self.bytes_max.saturating_sub(held)
    }

    /// How much is held, and the most that may be.
    #[cfg(feature = "simulation")]
    pub(crate) fn gauge(&self) -> (usize, usize) {
        (self.held.load(Ordering::Relaxed), self.bytes_max)
    }

    /// Takes bytes out of the budget, if it has so many.
    pub(crate) fn take(&self, bytes: usize) -> Option<Permit> {
        let before = self.held.fetch_add(bytes, Ordering::Relaxed);
        let held = Arc::clone(&self.held);
        let permit = Permit { bytes, held };
        // Dropped, a permit beyond the limit gives back what it added.
        (before + bytes <= self.bytes_max).then_some(permit)
    }
}

impl Permit {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_gives_its_bytes_back_when_it_is_dropped() {
        let budget = Budget::new(10);
        let first = budget.take(4).unwrap();
        let second = budget.take(6).unwrap();
        assert!(budget.take(1).is_none() && budget.take(0).is_some());
        drop(first);
        assert!(budget.take(5).is_none());
        assert!(budget.take(4).is_some());
        drop(second);
        assert!(budget.take(10).is_some());
    }
}
