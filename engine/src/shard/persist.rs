//! From the core's output to the log, and from durable frames back to the core.

use pontoon_raft::{Appended, EntryId, Output};
use pontoon_storage::{AppendError, RecordKind};

use super::Shard;
use crate::port::Operation;

/// Room that a step may need in the log beside entries: term, vote, and a leader's empty entry.
pub(super) const STEP_BYTES: usize = 256;

impl Shard {
    /// Carries out what the core asked for in its last call: stages for the disk, and sorts
    /// messages into those that may leave and those that wait for a frame.
    pub(super) fn absorb(&mut self, slot: usize) {
        self.absorb_with(slot, &[]);
    }

    /// The same after a message whose entries lie in `records`.
    pub(super) fn absorb_with(&mut self, slot: usize, records: &[u8]) {
        let mut output = std::mem::take(&mut self.output);
        let staged = self.stage(slot, &mut output, records);
        if staged.is_err() {
            self.fail();
        }
        if self.failed {
            output.clear();
        }
        let last_frame = self.replicas[slot].last_frame;
        let durable = last_frame <= self.log.durable_frame();
        #[cfg(any(test, feature = "simulation"))]
        let durable = durable
            || self.is(super::Mutant::AnswersBeforeDurable)
            || (self.is(super::Mutant::AnswersResentEarly) && matches!(staged, Ok(false)));
        for outgoing in output.messages.drain(..) {
            let message = (slot, outgoing.to, outgoing.message);
            if durable || !outgoing.after_persist {
                self.outbox.push(message);
            } else {
                self.durability.at(last_frame).answers.push(message);
            }
        }
        self.output = output;
        let replica = &mut self.replicas[slot];
        let pending = replica.proposals.bytes();
        replica.notice_role();
        self.pending_bytes -= pending - replica.proposals.bytes();
        self.queue_to_apply(slot);
        self.arm(slot);
    }

    /// Gives whether anything was to be persisted.
    ///
    /// # Panics
    /// If the log does not take what was admitted before the core was stepped: our mistake.
    fn stage(
        &mut self,
        slot: usize,
        output: &mut Output,
        records: &[u8],
    ) -> Result<bool, AppendError> {
        let group = self.replicas[slot].id;
        let mut staged = false;
        if let Some(hard_state) = output.hard_state.take() {
            let (term, voted_for) = (hard_state.current_term, hard_state.voted_for);
            admitted(self.log.save_hard_state(group, term, voted_for))?;
            staged = true;
        }
        if std::mem::take(&mut output.repaired) {
            admitted(self.log.set_tainted(group, false))?;
            tracing::info!(%group, "the group's damage is repaired; it counts again");
            staged = true;
        }
        for appended in output.appended.drain(..) {
            match appended {
                Appended::Noop { index, term } => {
                    let (entry, kind) = (EntryId::new(index, term), RecordKind::Noop);
                    admitted(self.log.append_command(group, entry, kind, &[]))?;
                }
                Appended::Received { skip, count, .. } => {
                    let (first, count) = (skip as usize, count as usize);
                    for range in &self.received.ranges[first..first + count] {
                        admitted(self.log.append_record(&records[range.clone()]))?;
                    }
                }
            }
            staged = true;
        }
        if staged {
            self.note_staged(slot);
        }
        Ok(staged)
    }

    /// The group's newest records are in the log's open frame.
    pub(super) fn note_staged(&mut self, slot: usize) {
        let frame = self.log.open_frame();
        let replica = &mut self.replicas[slot];
        replica.last_frame = frame;
        self.durability
            .persisted_by(frame, slot, replica.raft.write_sequence());
        #[cfg(any(test, feature = "simulation"))]
        if self.is(super::Mutant::LeaderCountsOwnUndurable) {
            let raft = &mut self.replicas[slot].raft;
            if raft.is_leader() {
                raft.on_persisted(self.now, raft.write_sequence(), &mut self.output);
            }
        }
    }

    /// Acknowledges what has become durable, and lets go of the answers that waited for it.
    pub(super) fn on_durable(&mut self) {
        while let Some(mut waiting) = self.durability.pop(self.log.durable_frame()) {
            for (slot, sequence) in waiting.persisted.drain(..) {
                let raft = &mut self.replicas[slot].raft;
                raft.on_persisted(self.now, sequence, &mut self.output);
                self.absorb(slot);
            }
            self.outbox.append(&mut waiting.answers);
            for promise in waiting.created.drain(..) {
                let _ = promise.send(Ok(()));
            }
            self.durability.recycle(waiting);
        }
    }

    /// Group commit: one frame with the records of all groups, as soon as a place is free.
    pub(super) fn seal(&mut self, operations: &mut Vec<Operation>) {
        while let Some(operation) = self.log.seal() {
            operations.push(Operation::Disk(operation));
        }
    }
}

/// What was admitted is taken, unless the log has failed since.
fn admitted(result: Result<(), AppendError>) -> Result<(), AppendError> {
    match result {
        Ok(()) | Err(AppendError::Poisoned(_)) => result,
        Err(error) => panic!("the log refused what it had admitted: {error}"),
    }
}
