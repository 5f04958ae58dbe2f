//! The log's witness: at a distance while the log grows, at once where a segment was begun, and
//! once more before the core stops.

use pontoon_raft::Time;

use super::groups::Groups;
use crate::port::Operation;

/// Between two writes of the witness while the log grows: as much of the end of a log may be lost
/// unnoticed by a node that nobody else remembers.
const INTERVAL: u64 = 1_000_000_000;

/// When the witness is written next.
#[derive(Debug, Default)]
pub(super) struct Witnessing {
    at: Time,
    /// It was written after everything was handed over.
    at_stop: bool,
}

impl Groups {
    /// When the witness is to be written, if it lags.
    pub(super) fn witness_deadline(&self) -> Option<Time> {
        self.log.witness_lags().then_some(self.witnessing.at)
    }

    /// Lets the witness say how far the log came, if it is time.
    pub(super) fn renew_witness(&mut self, operations: &mut Vec<Operation>) {
        let due = self.now >= self.witnessing.at;
        if due && self.log.witness_lags() || self.log.witness_lacks_segment() {
            self.write_witness(operations);
        }
    }

    fn write_witness(&mut self, operations: &mut Vec<Operation>) {
        self.witnessing.at = self.now.after(INTERVAL);
        if let Some(operation) = self.log.renew_witness() {
            self.room.on_write_begun(self.now);
            operations.push(Operation::Disk(operation));
        }
    }

    /// Whether the witness has seen what was durable when nothing was left to hand over.
    pub(super) fn is_witnessed_at_stop(&mut self, operations: &mut Vec<Operation>) -> bool {
        if !self.log.witness_in_flight() && !self.witnessing.at_stop {
            self.witnessing.at_stop = true;
            if self.log.witness_lags() {
                self.write_witness(operations);
            }
        }
        !self.log.witness_in_flight()
    }
}
