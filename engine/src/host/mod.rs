//! Hosts: who calls a shard's `turn()`, and how it waits.

#[cfg(feature = "glommio")]
mod glommio;
#[cfg(test)]
mod tests;
mod thread;

use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_raft::Time;

use crate::doorbell::Doorbell;
use crate::driver::{Driver, DriverError, Wait};
use crate::port::{Completion, Operation};
use crate::shard::Shard;

#[cfg(feature = "glommio")]
pub(crate) use self::glommio::{Task, start as start_glommio};
pub(crate) use self::thread::start as start_thread;

/// One core's shard with the driver that carries its operations. Made and used on the core's own thread.
#[derive(Debug)]
pub(crate) struct CoreLoop<D> {
    pub(crate) shard: Shard,
    pub(crate) driver: D,
    pub(crate) doorbell: Arc<Doorbell>,
    /// Where the shard's time begins.
    origin: Instant,
    /// How long to poll before waiting.
    spin: Duration,
    operations: Vec<Operation>,
    completions: Vec<Completion>,
    /// When there was last something to do.
    busy_at: Instant,
}

/// Held while a core runs: if it panics, an assertion of ours or of a state machine has failed, and
/// a process that went on with some of its cores would hold up what it can't serve. Its end is
/// a crash like any other.
pub(crate) struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// What the core wants after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Another turn.
    Turn,
    /// To wait, until this long has passed at most.
    Wait(Duration),
    /// To end.
    End,
}

impl<D: Driver> CoreLoop<D> {
    pub(crate) fn new(
        shard: Shard,
        driver: D,
        doorbell: Arc<Doorbell>,
        origin: Instant,
        spin: Duration,
    ) -> Self {
        Self {
            shard,
            driver,
            doorbell,
            origin,
            spin,
            operations: Vec::new(),
            completions: Vec::new(),
            busy_at: origin,
        }
    }

    /// One turn. What it asks for is carried out by the next exchange.
    pub(crate) fn turn(&mut self) -> Next {
        let now = Instant::now();
        let busy = !self.completions.is_empty() || self.shard.has_requests();
        self.shard.note_enters(self.driver.statistics().enters);
        let time = now.duration_since(self.origin);
        let time = Time(u64::try_from(time.as_nanos()).expect("centuries"));
        let turn = self
            .shard
            .turn(time, &mut self.completions, &mut self.operations);
        if busy || turn.more {
            self.busy_at = now;
        }
        if self.shard.stopped() {
            return Next::End;
        }
        if turn.more || self.spins(now) {
            return Next::Turn;
        }
        Next::Wait(Duration::from_nanos(turn.deadline.since(time)))
    }

    /// While a durable write is under way, polling would only keep the kernel from finishing it.
    fn spins(&self, now: Instant) -> bool {
        !self.spin.is_zero()
            && !self.driver.writes_in_flight()
            && now.duration_since(self.busy_at) < self.spin
    }

    /// Submits what the last turn asked for, and waits in the same call if `next` says so and
    /// nothing has come meanwhile.
    pub(crate) fn exchange(&mut self, next: Next) -> Result<(), DriverError> {
        let wait = match next {
            Next::Wait(limit) => {
                self.announce_parking();
                if self.has_work() {
                    Wait::No
                } else {
                    Wait::For(limit)
                }
            }
            Next::Turn | Next::End => Wait::No,
        };
        let done = self
            .driver
            .exchange(&mut self.operations, &mut self.completions, wait);
        self.doorbell.unpark();
        done
    }

    /// Submits what the last turn asked for and takes what is there, without waiting.
    #[cfg(feature = "glommio")]
    pub(crate) fn submit(&mut self) -> Result<(), DriverError> {
        let (operations, completions) = (&mut self.operations, &mut self.completions);
        self.driver.exchange(operations, completions, Wait::No)
    }

    /// Lets whoever brings something ring, unless what they bring is left to gather in any case:
    /// then the completion of the write brings the next turn.
    pub(crate) fn announce_parking(&self) {
        if !self.shard.holds_back_requests() {
            self.doorbell.park();
        }
    }

    /// Whether something has come for the core. Looked at after parking is announced.
    pub(crate) fn has_work(&self) -> bool {
        self.shard.has_requests() || self.driver.has_events() || !self.completions.is_empty()
    }
}
