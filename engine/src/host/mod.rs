//! Hosts: the loop that calls a shard's `turn()` and waits between turns, and what runs beside it.

mod core_thread;
#[cfg(feature = "glommio")]
mod glommio;
#[cfg(test)]
mod tests;
mod thread;

use std::fs::OpenOptions;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_raft::Time;

use crate::doorbell::Doorbell;
use crate::driver::{Driver, DriverError, Wait};
use crate::forked::Process;
use crate::port::{Completion, Operation};
use crate::shard::Shard;

pub(crate) use self::core_thread::CoreThread;
#[cfg(feature = "glommio")]
pub(crate) use self::glommio::{Executor, Stopping, end as end_executors};
pub(crate) use self::thread::start as start_thread;

/// One core's shard and the driver that carries its operations out. Made and used on the core's
/// own thread.
#[derive(Debug)]
pub(crate) struct CoreLoop<D> {
    pub(crate) shard: Shard,
    pub(crate) driver: D,
    pub(crate) doorbell: Arc<Doorbell>,
    /// The one whose ring and log these are.
    process: Process,
    /// Time 0 of the shard's clock.
    origin: Instant,
    /// How long to poll before waiting.
    spin: Duration,
    operations: Vec<Operation>,
    completions: Vec<Completion>,
    /// Time of the last turn that had something to do.
    busy_at: Instant,
}

/// Ends the process if the core's thread panics, when the unwinding comes to where this is held.
///
/// A panic is a failed assertion, of ours or of a state machine. With one core gone, the node would
/// still lead groups that it can't serve; a crash lets other nodes take over. Held in each turn, it
/// comes before the destructors of whatever lives longer than the turn: the shard, its groups and
/// their machines. Held by the core's thread, it sees to panics elsewhere.
pub(crate) struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// A state machine has forked, and its child has come back: it must not touch the ring and the log,
/// which are the parent's. Said past the log and the locks of the standard streams, which other
/// threads may have held when it was forked.
fn abort_forked() -> ! {
    if let Ok(mut stderr) = OpenOptions::new().append(true).open("/dev/stderr") {
        let _ = stderr.write_all(b"pontoon: a forked child came back to a core's loop: aborted\n");
    }
    std::process::abort()
}

/// What the core wants after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Another turn.
    Turn,
    /// To wait, at most this long.
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
            process: Process::this(),
            origin,
            spin,
            operations: Vec::new(),
            completions: Vec::new(),
            busy_at: origin,
        }
    }

    /// One turn of the shard. The next exchange submits its operations.
    pub(crate) fn turn(&mut self) -> Next {
        let _abort = AbortOnPanic;
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

    /// Whether to poll instead of waiting. Not while a durable write is in flight: polling would
    /// only keep the kernel from finishing it.
    fn spins(&self, now: Instant) -> bool {
        !self.spin.is_zero()
            && !self.driver.writes_in_flight()
            && now.duration_since(self.busy_at) < self.spin
    }

    /// Submits the operations of the last turn, and waits in the same call if `next` says so and
    /// nothing has come meanwhile.
    pub(crate) fn exchange(&mut self, next: Next) -> Result<(), DriverError> {
        let _abort = AbortOnPanic;
        if !self.process.is_this() {
            abort_forked();
        }
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
        let done = self.exchange_with(wait);
        self.doorbell.unpark();
        done
    }

    /// A driver that fails is the end of the core: whoever waits for it is told.
    fn exchange_with(&mut self, wait: Wait) -> Result<(), DriverError> {
        let (operations, completions) = (&mut self.operations, &mut self.completions);
        let done = self.driver.exchange(operations, completions, wait);
        if let Err(error) = &done {
            tracing::error!(%error, "the core ends: its driver has failed");
            self.shard.fail(error);
        }
        done
    }

    /// Ends the driver, within a bound.
    pub(crate) fn end(&mut self) -> Result<(), DriverError> {
        self.driver.end()
    }

    /// Announces parking, unless proposals are being held back for batching: then the completion of
    /// a write wakes the core, and proposals need not ring.
    pub(crate) fn announce_parking(&self) {
        if !self.shard.holds_back_proposals() {
            self.doorbell.park();
        }
    }

    /// Whether something has come for the core. Asked after parking is announced.
    pub(crate) fn has_work(&self) -> bool {
        self.shard.has_requests() || self.driver.has_events() || !self.completions.is_empty()
    }
}
