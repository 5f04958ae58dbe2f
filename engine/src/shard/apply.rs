//! From committed entries to state machines, and from them to whoever proposed.

use pontoon_raft::LogIndex;
use pontoon_storage::{CacheRead, ReadError, RecordBytes};

use super::groups::Groups;
use super::reads::ReadPurpose;
use super::replicas::ReplicaSlot;
use crate::machine::Batch;
use crate::port::Operation;

/// Most bytes of entries given to one machine in one turn, so that a group that catches up does
/// not hold up its neighbours.
const APPLY_BYTES_MAX: usize = 1 << 20;

impl Groups {
    /// Puts the group on the list if it has something to apply.
    pub(super) fn queue_to_apply(&mut self, slot: ReplicaSlot) {
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
        let waiting = self.to_apply.len();
        for position in 0..waiting {
            more |= self.apply_one(self.to_apply[position], operations);
        }
        // Those that are not through have been put behind.
        self.to_apply.drain(..waiting.min(self.to_apply.len()));
        self.replies.send_all();
        more
    }

    fn apply_one(&mut self, slot: ReplicaSlot, operations: &mut Vec<Operation>) -> bool {
        let Some(replica) = self.replicas.get_mut(slot) else {
            return false;
        };
        replica.queued_to_apply = false;
        let (first, last) = (replica.applied.next(), replica.apply_until());
        if last < first || self.failed {
            return false;
        }
        let (group, entries) = (replica.id, first..=last);
        let pieces = &mut self.pieces;
        let found = self
            .log
            .cached(group, entries.clone(), APPLY_BYTES_MAX, pieces);
        if let CacheRead::Hit { through } = found {
            self.apply_pieces(slot, through);
        } else if let Some(operation) = self.log.read(group, entries, APPLY_BYTES_MAX) {
            replica.reading = true;
            self.reads.begin(operation.id(), ReadPurpose::Apply(slot));
            operations.push(Operation::Disk(operation));
        }
        self.pieces.clear();
        self.queue_to_apply(slot);
        matches!(found, CacheRead::Hit { .. }) && self.replicas[slot].queued_to_apply
    }

    /// Gives the machine the entries in `pieces`, whose last index is `through`.
    fn apply_pieces(&mut self, slot: ReplicaSlot, through: LogIndex) {
        let replica = &mut self.replicas[slot];
        let Some(machine) = &mut replica.machine else {
            return;
        };
        let mut batch = Batch::new(&self.pieces, &mut replica.proposals, &mut self.replies);
        machine.apply(&mut batch);
        if let Some(command) = batch.finish() {
            replica.last_command = command;
        }
        self.statistics.applied += through.0 - replica.applied.0;
        replica.applied = through;
        replica.raft.on_applied(through);
        self.log.save_commit(replica.id, through);
    }

    /// Entries to be applied were read.
    pub(super) fn on_read_to_apply(
        &mut self,
        slot: ReplicaSlot,
        records: Result<RecordBytes, ReadError>,
    ) {
        let Some(replica) = self.replicas.get_mut(slot) else {
            return;
        };
        replica.reading = false;
        if let Ok(records) = records
            && !self.failed
            && let Some(through) = super::catch_up::last_index(&records)
        {
            self.pieces.push(records);
            self.apply_pieces(slot, through);
            self.pieces.clear();
            self.queue_to_apply(slot);
        }
    }
}
