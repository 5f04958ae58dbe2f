//! From committed entries to state machines, and from them to whoever proposed.

use pontoon_raft::LogIndex;
use pontoon_storage::{CacheRead, ReadError, RecordBytes};

use super::groups::Groups;
use super::reads::ReadPurpose;
use super::replicas::ReplicaSlot;
use crate::port::Operation;

/// Most bytes of entries given to one machine in one turn, so that a group that catches up does
/// not hold up its neighbours.
const APPLY_BYTES_MAX: usize = 1 << 20;

/// Most bytes of entries applied in one turn before timers and completions are looked at again, one
/// group's last batch excepted.
const TURN_BYTES_MAX: usize = 2 << 20;

impl Groups {
    /// Puts the group on the list if it has something to apply.
    pub(super) fn queue_to_apply(&mut self, slot: ReplicaSlot) {
        let replica = &mut self.replicas[slot];
        let ready = !replica.queued_to_apply && !replica.reading && !self.failed;
        if ready && replica.applied < replica.apply_until() {
            replica.queued_to_apply = true;
            self.to_apply.push_back(slot);
        }
    }

    /// Applies what is committed. True if a group has more that can be applied at once.
    pub(super) fn apply(&mut self, operations: &mut Vec<Operation>) -> bool {
        let mut bytes = 0;
        // Those that are not through are put behind, for the next turn.
        for _ in 0..self.to_apply.len() {
            if bytes >= TURN_BYTES_MAX {
                break;
            }
            if let Some(slot) = self.to_apply.pop_front() {
                bytes += self.apply_one(slot);
            }
        }
        self.read_to_apply(operations);
        self.replies.send_all();
        !self.to_apply.is_empty() || !self.to_renounce.is_empty()
    }

    /// Begins to read for the replicas whose entries are not in memory, in turn, as far as there
    /// are buffers. A completion brings the next turn.
    fn read_to_apply(&mut self, operations: &mut Vec<Operation>) {
        while let Some(&slot) = self.to_read.front() {
            let Some(replica) = self.replicas.get_mut(slot) else {
                self.to_read.pop_front();
                continue;
            };
            let entries = replica.applied.next()..=replica.apply_until();
            if !entries.is_empty() && !self.failed {
                let operation = self.log.read(replica.id, entries, APPLY_BYTES_MAX);
                let Some(operation) = operation else {
                    return self.to_read.rotate_left(1);
                };
                let purpose = ReadPurpose::Apply(slot);
                self.reads.begin(operation.id(), purpose, self.now);
                operations.push(Operation::Disk(operation));
            } else {
                replica.reading = false;
            }
            self.to_read.pop_front();
        }
    }

    /// Gives how many bytes of entries its machine was given.
    fn apply_one(&mut self, slot: ReplicaSlot) -> usize {
        let Some(replica) = self.replicas.get_mut(slot) else {
            return 0;
        };
        replica.queued_to_apply = false;
        let (first, last) = (replica.applied.next(), replica.apply_until());
        if last < first || self.failed {
            return 0;
        }
        let (group, entries) = (replica.id, first..=last);
        let pieces = &mut self.pieces;
        let found = self
            .log
            .cached(group, entries.clone(), APPLY_BYTES_MAX, pieces);
        let bytes = self.pieces.iter().map(RecordBytes::len).sum();
        if let CacheRead::Hit { through } = found {
            self.apply_pieces(slot, through);
        } else {
            replica.reading = true;
            self.to_read.push_back(slot);
        }
        self.pieces.clear();
        self.queue_to_apply(slot);
        bytes
    }

    /// Gives the machine the entries in `pieces`, whose last index is `through`.
    fn apply_pieces(&mut self, slot: ReplicaSlot, through: LogIndex) {
        let replica = &mut self.replicas[slot];
        if replica.machine.is_none() {
            return;
        }
        if let Err(error) = replica.give_batch(&self.pieces, through, &mut self.replies) {
            return self.on_machine_failed(slot, &error);
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
        if let Err(error @ ReadError::Lost { .. }) = &records
            && replica.machine.is_some()
        {
            return self.on_machine_failed(slot, &error.to_string().into());
        }
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
