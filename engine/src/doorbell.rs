//! Wakes a parked core: an eventfd that is written only if somebody sleeps behind it.

mod parked;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

pub use parked::Parked;

/// One core's doorbell. Rung from any thread; parked behind by one.
#[derive(Debug)]
pub struct Doorbell {
    eventfd: OwnedFd,
    parked: Parked,
}

impl Doorbell {
    /// A doorbell that nobody is parked behind.
    ///
    /// # Errors
    /// If the process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            eventfd: eventfd(0, EventfdFlags::CLOEXEC)?,
            parked: Parked::new(),
        })
    }

    /// The eventfd, for a ring or an executor to wait on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }

    /// Wakes the core if it is parked. Call it after what it is to find has been put in its queue.
    pub fn ring(&self) {
        if self.parked.take() {
            // The counter can't overflow: nobody adds to it while it is not zero and unread.
            let _ = rustix::io::write(&self.eventfd, &1_u64.to_ne_bytes());
        }
    }

    /// Wakes the core also if it waits for something else than its queue.
    pub fn ring_always(&self) {
        self.parked.take();
        // As often as there are requests, which a 64-bit counter holds.
        let _ = rustix::io::write(&self.eventfd, &1_u64.to_ne_bytes());
    }

    /// Announces that the core is about to wait. It must look at its queues once more after this.
    pub fn park(&self) {
        self.parked.park();
    }

    /// The core is awake.
    pub fn unpark(&self) {
        self.parked.unpark();
    }
}
