//! One ring of the kernel per core, for disk and sockets together: io_uring(7).

pub mod disk;
mod in_flight;
mod reap;
mod setup;
mod socket;
mod submit;

use std::collections::HashMap;
use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use io_uring::IoUring;
use pontoon_storage::{FileVolume, SyncMethod};

use super::{Driver, DriverError, DriverStatistics, Wait};
use crate::bulk::BulkLink;
use crate::doorbell::Doorbell;
use crate::port::{Completion, Operation, SocketId};
use in_flight::InFlight;
pub(crate) use setup::FINISH_LIMIT;

/// What a ring's driver is made of.
#[derive(Debug)]
pub struct UringConfig {
    /// The core's segments.
    pub volume: FileVolume,
    /// How their writes are made durable.
    pub sync: SyncMethod,
    /// Start and length in bytes of the memory that writes come from; it outlives the driver.
    pub arena: (*const u8, usize),
    /// The core's end of the bulk lane.
    pub bulk: BulkLink,
    /// What wakes the core.
    pub doorbell: Arc<Doorbell>,
    /// Entries of the submission queue.
    pub ring_entries: u32,
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
    /// Tokens of interrupted operations that the next exchange issues again.
    retries: Vec<u32>,
    bulk: BulkLink,
    doorbell: Arc<Doorbell>,
    /// Where the doorbell's counter is read to.
    doorbell_value: Box<u64>,
    doorbell_armed: bool,
    /// What was under way has completed or is leaked, and the volume is dropped or leaked.
    ended: bool,
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

impl Driver for UringDriver {
    /// One call of io_uring_enter(2), unless the submission queue is too short for all.
    fn exchange(
        &mut self,
        operations: &mut Vec<Operation>,
        completions: &mut Vec<Completion>,
        wait: Wait,
    ) -> Result<(), DriverError> {
        self.statistics.exchanges += 1;
        // First: entries that are not submitted yet must not name a file that this replaces.
        self.take_bulk_events(completions);
        while let Some(token) = self.retries.pop() {
            self.issue(token, completions)?;
        }
        for operation in operations.drain(..) {
            self.submit(operation, completions)?;
        }
        self.arm_doorbell(completions)?;
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

    fn end(&mut self) -> Result<(), DriverError> {
        self.end_once()
    }

    fn writes_in_flight(&self) -> bool {
        self.in_flight.writes() > 0
    }

    fn has_events(&self) -> bool {
        self.bulk.has_events() || !self.retries.is_empty()
    }

    fn statistics(&self) -> DriverStatistics {
        self.statistics
    }
}
