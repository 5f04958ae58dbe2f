//! Sleep and wake without losing either: the part of a doorbell that loom can turn over.
//!
//! Sleeper: publish parked, fence, look at the queues once more, wait. Waker: put into the queue,
//! fence, ring if parked. Of the two looks at least one sees the other side (Dekker's pattern).
//!
//! Every change is a swap, so that each side builds on the newest change of the other one: after
//! plain stores loom finds orders of a second round in which a waker acts on the first.

#[cfg(pontoon_loom)]
use loom::sync::atomic::{AtomicBool, Ordering, fence};
#[cfg(not(pontoon_loom))]
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Whether somebody sleeps, or is about to.
#[derive(Debug)]
pub struct Parked {
    parked: AtomicBool,
}

impl Default for Parked {
    fn default() -> Self {
        Self::new()
    }
}

impl Parked {
    /// Awake.
    #[must_use]
    pub fn new() -> Self {
        Self {
            parked: AtomicBool::new(false),
        }
    }

    /// Announces sleep. The queues must be looked at once more after this.
    pub fn park(&self) {
        self.parked.swap(true, Ordering::AcqRel);
        fence(Ordering::SeqCst);
    }

    /// Awake again.
    pub fn unpark(&self) {
        self.parked.swap(false, Ordering::AcqRel);
    }

    /// Whether the caller is the one to wake the sleeper, for what it has put into a queue.
    pub fn take(&self) -> bool {
        fence(Ordering::SeqCst);
        self.parked.load(Ordering::Relaxed) && self.parked.swap(false, Ordering::AcqRel)
    }
}
