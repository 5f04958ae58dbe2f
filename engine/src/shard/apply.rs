//! From committed entries to state machines, and from them to whoever proposed.

use pontoon_raft::LogIndex;
use pontoon_storage::{CacheRead, ReadBuffer, ReadError, RecordBytes};

use super::Shard;
use crate::machine::Batch;
use crate::port::Operation;

/// Most bytes of entries given to one machine in one turn, so that a group that catches up does
/// not hold up its neighbours.
const APPLY_BYTES_MAX: usize = 1 << 20;

impl Shard {
    /// Puts the group on the list if it has something to apply.
    pub(super) fn queue_to_apply(&mut self, slot: usize) {
        let replica = &mut self.replicas[slot];
        let ready = !replica.queued_to_apply && !replica.reading && !self.failed;
        if ready && replica.applied < replica.apply_until() {
            replica.queued_to_apply = true;
            self.to_apply.push(slot);
        }
    }

    /// Applies what is committed. True if a group has more that can be applied at once.
    pub(super) fn apply(&mut self, operations: &mut Vec<Operation>) -> bool {
        let mut more = false;
        let mut slots = std::mem::take(&mut self.to_apply);
        for slot in slots.drain(..) {
            self.replicas[slot].queued_to_apply = false;
            more |= self.apply_one(slot, operations);
        }
        if self.to_apply.is_empty() {
            self.to_apply = slots;
        }
        self.replies.send();
        more
    }

    fn apply_one(&mut self, slot: usize, operations: &mut Vec<Operation>) -> bool {
        let replica = &self.replicas[slot];
        let group = replica.id;
        let (first, last) = (replica.applied.next(), replica.apply_until());
        if last < first || self.failed {
            return false;
        }
        let mut pieces = std::mem::take(&mut self.pieces);
        let found = self
            .log
            .cached(group, first..=last, APPLY_BYTES_MAX, &mut pieces);
        if let CacheRead::Hit { through } = found {
            self.apply_pieces(slot, &pieces, through);
        } else if let Some(operation) = self.log.read(group, first..=last, APPLY_BYTES_MAX) {
            self.replicas[slot].reading = true;
            self.reads_to_apply.push((operation.id(), slot));
            operations.push(Operation::Disk(operation));
        }
        pieces.clear();
        self.pieces = pieces;
        self.queue_to_apply(slot);
        matches!(found, CacheRead::Hit { .. }) && self.replicas[slot].queued_to_apply
    }

    fn apply_pieces(&mut self, slot: usize, pieces: &[RecordBytes], through: LogIndex) {
        let replica = &mut self.replicas[slot];
        let Some(machine) = &mut replica.machine else {
            return;
        };
        let mut batch = Batch::new(pieces, &mut replica.proposals, &mut self.replies);
        machine.apply(&mut batch);
        batch.finish();
        self.statistics.applied += through.0 - replica.applied.0;
        replica.applied = through;
        replica.raft.on_applied(through);
        self.log.save_commit(replica.id, through);
    }

    /// A read is over: entries to be applied, or entries for a follower.
    pub(super) fn on_read(&mut self, id: u64, buffer: ReadBuffer, result: Result<usize, i32>) {
        let records = self.log.on_read(id, buffer, result);
        if let Err(error) = &records
            && !matches!(error, ReadError::Changed { .. })
        {
            tracing::error!(%error, "entries can't be read back");
        }
        if self.log.poisoned().is_some() {
            self.fail();
        }
        if self.on_read_for_peer(id, &records) {
            return;
        }
        let Some(position) = self.reads_to_apply.iter().position(|read| read.0 == id) else {
            return;
        };
        let (_, slot) = self.reads_to_apply.swap_remove(position);
        self.replicas[slot].reading = false;
        if let Ok(records) = records
            && !self.failed
            && let Some(through) = super::catch_up::last_index(&records)
        {
            self.apply_pieces(slot, &[records], through);
            self.queue_to_apply(slot);
        }
    }
}
