//! Carries a shard's operations: one ring of the kernel per core, for disk and sockets together.

mod in_flight;
mod reap;
mod setup;
mod submit;

use std::collections::HashMap;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use io_uring::IoUring;
use pontoon_storage::{FileVolume, SyncMethod};

use crate::bulk::BulkLink;
use crate::doorbell::Doorbell;
use crate::port::{Completion, Operation, SocketId};
use in_flight::InFlight;

/// How a core that waits learns that somebody rang its doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// A read of the doorbell's eventfd is always under way in the ring, so that waiting in the
    /// ring waits for it too.
    InRing,
    /// The eventfd is registered with the ring, so that waiting for the eventfd waits for the
    /// ring too (io_uring_register(2), IORING_REGISTER_EVENTFD).
    Registered,
}

/// How long an exchange may wait for a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// So long at most.
    For(Duration),
    /// Until there is one.
    Forever,
}

/// What a driver is made of.
#[derive(Debug)]
pub struct DriverConfig {
    /// The core's segments.
    pub volume: FileVolume,
    /// How their writes are made durable.
    pub sync: SyncMethod,
    /// The memory that writes come from; it must outlive the driver.
    pub arena: (*const u8, usize),
    /// The core's end of the bulk lane.
    pub bulk: BulkLink,
    /// What wakes the core.
    pub doorbell: Arc<Doorbell>,
    /// How.
    pub wake: Wake,
    /// Entries of the submission queue.
    pub ring_entries: u32,
}

/// Why a driver can't be made, or can't go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The kernel or a container's policy forbids io_uring.
    #[error(
        "io_uring is not allowed here ({source}); allow it in the container's seccomp profile and \
         set kernel.io_uring_disabled to 0"
    )]
    Refused {
        /// What the kernel said.
        source: io::Error,
    },
    /// The ring can't be made or used.
    #[error("{what}: {source}")]
    Ring {
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Counts since the driver was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriverStatistics {
    /// Exchanges.
    pub exchanges: u64,
    /// Calls of io_uring_enter(2).
    pub enters: u64,
    /// Entries submitted.
    pub entries: u64,
    /// Exchanges that waited.
    pub waits: u64,
    /// Reads, sends and receives that had to be issued again.
    pub retries: u64,
    /// Calls of io_uring_enter(2) only to make room in the submission queue.
    pub full_queues: u64,
}

/// One core's ring. Made and used on the core's own thread.
pub struct UringDriver {
    ring: IoUring,
    /// Dropped by hand: it stays, and its lock too, while a write that hangs may still reach it.
    volume: ManuallyDrop<FileVolume>,
    sync: SyncMethod,
    /// The arena is buffer 0 of the ring.
    arena_registered: bool,
    sockets: HashMap<SocketId, OwnedFd>,
    next_socket: u64,
    /// Closed sockets whose descriptors may still stand in entries that are not submitted.
    closing: Vec<OwnedFd>,
    in_flight: InFlight,
    /// Places of interrupted operations that the next exchange issues again.
    again: Vec<u32>,
    bulk: BulkLink,
    doorbell: Arc<Doorbell>,
    wake: Wake,
    /// Where the doorbell's counter is read to.
    bell: Box<u64>,
    bell_armed: bool,
    statistics: DriverStatistics,
}

impl std::fmt::Debug for UringDriver {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("UringDriver")
            .field("sockets", &self.sockets.len())
            .field("statistics", &self.statistics)
            .finish_non_exhaustive()
    }
}

impl UringDriver {
    /// Submits all operations, waits if told to, and takes every completion: with one call of
    /// io_uring_enter(2), unless the submission queue is too short for all.
    ///
    /// # Errors
    /// If the ring fails as a whole. What becomes of single operations is in their completions.
    pub fn exchange(
        &mut self,
        operations: &mut Vec<Operation>,
        completions: &mut Vec<Completion>,
        wait: Wait,
    ) -> Result<(), DriverError> {
        self.statistics.exchanges += 1;
        // First: entries that are not submitted yet must not name a file that this replaces.
        self.take_bulk_events(completions);
        while let Some(place) = self.again.pop() {
            self.issue(place, completions)?;
        }
        for operation in operations.drain(..) {
            self.submit(operation, completions)?;
        }
        self.arm_bell(completions)?;
        let wait = if completions.is_empty() {
            wait
        } else {
            Wait::No
        };
        self.enter(wait)?;
        if self.all_submitted() {
            self.closing.clear();
        }
        self.reap(completions);
        Ok(())
    }

    /// Whether a durable write is under way: spinning would starve the kernel's worker that
    /// finishes it.
    #[must_use]
    pub fn writes_in_flight(&self) -> bool {
        self.in_flight.writes() > 0
    }

    /// Whether the bulk lane has brought something.
    #[must_use]
    pub fn has_events(&self) -> bool {
        self.bulk.has_events()
    }

    /// Counts so far.
    #[must_use]
    pub fn statistics(&self) -> DriverStatistics {
        self.statistics
    }
}
