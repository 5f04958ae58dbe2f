//! Drivers: how a shard's operations are carried out on a core's disk and sockets.
//!
//! [`uring`] is the one that ships. Another way to do I/O (threads and poll(2), say) is a module
//! beside it that implements [`Driver`]; the loop in `host` does not change.

#[cfg(test)]
pub(crate) mod memory;
pub mod uring;

use std::io;
use std::time::Duration;

use crate::port::{Completion, Operation};
pub use uring::{UringConfig, UringDriver};

/// How long an exchange may wait for a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// This long at most.
    For(Duration),
    /// Until there is one.
    Forever,
}

/// Why a driver can't be made, or can't go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The kernel, or a container's policy, forbids what the driver is built on.
    #[error("{what} is not allowed here ({source}); {remedy}")]
    Forbidden {
        /// What is forbidden.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
        /// What an operator can do.
        remedy: &'static str,
    },
    /// An operation did not complete within the bound of a stop.
    #[error(
        "{operation} had not completed {seconds} s after the stop: its file system is frozen, or \
         its disk gone; its memory and the lock of the data directory are kept until the process \
         ends"
    )]
    Hung {
        /// What the kernel was asked for.
        operation: String,
        /// How long was waited for it, in seconds.
        seconds: u64,
    },
    /// The system refused a call that the driver can't do without.
    #[error("{what}: {source}")]
    Failed {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Counts since the driver was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriverStatistics {
    /// Exchanges.
    pub exchanges: u64,
    /// Calls into the kernel to submit or to wait.
    pub enters: u64,
    /// Single operations submitted.
    pub entries: u64,
    /// Exchanges that waited.
    pub waits: u64,
    /// Reads, sends and receives that had to be issued again.
    pub retries: u64,
    /// Calls into the kernel only to make room in a full queue of submissions.
    pub full_queues: u64,
}

/// Carries a shard's operations. Made and used on the core's own thread; one a core.
pub trait Driver {
    /// Takes and starts all `operations`, waits if `wait` says so and `completions` is empty, and
    /// adds every completion that is there.
    ///
    /// # Errors
    /// If the driver fails as a whole: the core ends. What becomes of single operations is in
    /// their completions.
    fn exchange(
        &mut self,
        operations: &mut Vec<Operation>,
        completions: &mut Vec<Completion>,
        wait: Wait,
    ) -> Result<(), DriverError>;

    /// Whether a durable write is under way: spinning would starve the kernel's worker that
    /// finishes it.
    #[must_use]
    fn writes_in_flight(&self) -> bool;

    /// Whether the next exchange finds something without waiting, dials and segments for example.
    #[must_use]
    fn has_events(&self) -> bool;

    /// Ends: waits, for a bounded time, until nothing is under way. Not used after this.
    ///
    /// # Errors
    /// [`DriverError::Hung`] names what did not complete. Its memory is never freed.
    fn end(&mut self) -> Result<(), DriverError>;

    /// Counts since the driver was opened.
    #[must_use]
    fn statistics(&self) -> DriverStatistics;
}
