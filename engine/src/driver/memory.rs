//! A driver for tests: a disk in memory, done at once, and no peers.

use std::io;

use pontoon_storage::memory::MemoryVolume;
use pontoon_storage::{DiskOp, Volume};

use super::{Driver, DriverError, DriverStatistics, Wait};
use crate::port::{Completion, Operation};

/// Completes what it is given in the same exchange, unless writes are held.
#[derive(Debug)]
pub(crate) struct MemoryDriver {
    pub(crate) volume: MemoryVolume,
    /// Whether writes stay under way.
    pub(crate) holds_writes: bool,
    /// After how many exchanges it fails as a whole.
    pub(crate) fails_after: Option<u64>,
    held: Vec<u64>,
    /// What each exchange was told of waiting.
    pub(crate) waits: Vec<Wait>,
    statistics: DriverStatistics,
}

impl MemoryDriver {
    pub(crate) fn new(volume: MemoryVolume) -> Self {
        Self {
            volume,
            holds_writes: false,
            fails_after: None,
            held: Vec::new(),
            waits: Vec::new(),
            statistics: DriverStatistics::default(),
        }
    }

    fn start(&mut self, operation: Operation) -> Option<Completion> {
        match operation {
            Operation::Disk(mut operation) => {
                let submitted = self.volume.submit(&mut operation);
                match operation {
                    DiskOp::Write { id, .. } => {
                        submitted.expect("the log writes where it may");
                        self.held.push(id);
                        None
                    }
                    DiskOp::Read { id, buffer, .. } => {
                        let result = submitted.map(|()| buffer.len()).map_err(|_| libc::EIO);
                        Some(Completion::Read { id, buffer, result })
                    }
                }
            }
            Operation::Prepare { slot } => {
                let ready = self.volume.prepare(slot).is_ok();
                Some(Completion::Prepared { slot, ready })
            }
            Operation::Dial { peer } => Some(Completion::DialFailed { peer }),
            Operation::Send { .. } | Operation::Receive { .. } | Operation::Close { .. } => {
                unreachable!("there is no connection")
            }
        }
    }
}

impl Driver for MemoryDriver {
    fn exchange(
        &mut self,
        operations: &mut Vec<Operation>,
        completions: &mut Vec<Completion>,
        wait: Wait,
    ) -> Result<(), DriverError> {
        self.waits.push(wait);
        if self.fails_after == Some(self.statistics.exchanges) {
            let (what, source) = ("entering the ring", io::ErrorKind::PermissionDenied.into());
            return Err(DriverError::Failed { what, source });
        }
        self.statistics.exchanges += 1;
        for operation in operations.drain(..) {
            completions.extend(self.start(operation));
        }
        if !self.holds_writes {
            for id in std::mem::take(&mut self.held) {
                let result = self.volume.make_durable(id).ok_or(libc::EIO);
                completions.push(Completion::Written { id, result });
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), DriverError> {
        match self.held.first() {
            None => Ok(()),
            Some(id) => Err(DriverError::Hung {
                operation: format!("write {id}"),
                seconds: 0,
            }),
        }
    }

    fn writes_in_flight(&self) -> bool {
        !self.held.is_empty()
    }

    fn has_events(&self) -> bool {
        !self.holds_writes && !self.held.is_empty()
    }

    fn statistics(&self) -> DriverStatistics {
        self.statistics
    }
}
