//! Wakes a parked core: an eventfd that is written only if somebody sleeps behind it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rustix::event::{EventfdFlags, eventfd};

/// One core's doorbell. Rung from any thread; parked behind by one.
#[derive(Debug)]
pub struct Doorbell {
    eventfd: OwnedFd,
    parked: AtomicBool,
}

impl Doorbell {
    /// A doorbell that nobody is parked behind.
    ///
    /// # Errors
    /// If the process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            eventfd: eventfd(0, EventfdFlags::CLOEXEC)?,
            parked: AtomicBool::new(false),
        })
    }

    /// The eventfd, for a ring or an executor to wait on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }

    /// Wakes the core if it is parked. Call it after what it is to find has been put in its queue.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.parked.load(Ordering::Relaxed) && self.parked.swap(false, Ordering::Relaxed) {
            let one = 1_u64.to_ne_bytes();
            // The counter can't overflow: nobody adds to it while it is not zero and unread.
            let _ = rustix::io::write(&self.eventfd, &one);
        }
    }

    /// Announces that the core is about to wait. It must look at its queues once more after this.
    pub fn park(&self) {
        self.parked.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The core is awake.
    pub fn unpark(&self) {
        self.parked.store(false, Ordering::Relaxed);
    }
}
