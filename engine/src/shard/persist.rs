//! From a group's output to the log, and from durable frames back to the group.

use std::ops::Range;

use pontoon_raft::{Appended, EntryId, Forgot};
use pontoon_storage::{AppendError, RecordKind};

use super::groups::Groups;
use super::mutant::Mutant;
use super::replicas::ReplicaSlot;
use crate::port::Operation;

/// Room that a step may need in the log beside entries: term, vote, and a leader's empty entry.
pub(super) const STEP_BYTES: usize = 1024;

/// Where the bytes of the entries that an output appends come from.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// Nowhere: the call took no entries. A leader's empty entry needs none.
    None,
    /// The records of a peer's frame.
    Frame {
        records: &'a [u8],
        /// Where each entry of the message that was stepped lies in `records`.
        ranges: &'a [Range<usize>],
    },
    /// The commands of the replica's batch, which was proposed.
    Batch,
}

impl Groups {
    /// Carries out what a group asked for in its last call: stages for the disk, and sorts
    /// messages into those that may leave and those that wait for a frame.
    pub(super) fn process_output(&mut self, slot: ReplicaSlot, source: Source<'_>) {
        let staged = self.stage(slot, source);
        if staged.is_err() {
            self.fail();
        }
        if !self.failed {
            self.sort_messages(slot, matches!(staged, Ok(true)));
        }
        self.tell_forgot(slot);
        self.tell_differs(slot);
        self.output.clear();
        self.replicas[slot].notice_role(self.config.node, self.failed);
        self.queue_to_apply(slot);
        self.arm(slot);
    }

    /// Says which followers lack what they had acknowledged.
    fn tell_forgot(&mut self, slot: ReplicaSlot) {
        for &Forgot { peer, held } in &self.output.forgot {
            if let Some(suppressed) = self.lines.admit("forgot", self.now) {
                let (node, group) = (self.config.node, self.replicas[slot].id);
                tracing::warn!(
                    %node, %group, %peer, %held, suppressed,
                    "node {peer} forgot what it had acknowledged, or another speaks in its name"
                );
            }
        }
    }

    /// Says which member was told of another definition of the group.
    fn tell_differs(&mut self, slot: ReplicaSlot) {
        let Some(peer) = self.output.differs else {
            return;
        };
        if let Some(suppressed) = self.lines.admit("differs", self.now) {
            let (node, replica) = (self.config.node, &self.replicas[slot]);
            let (group, kind) = (replica.id, &replica.definition.kind);
            let members = replica.definition.membership().members();
            tracing::error!(
                %node, %group, %peer, kind, ?members, suppressed,
                "node {peer} holds another definition of the group: nobody leads it before all \
                 members were given the same kind and members"
            );
        }
    }

    /// Lets messages leave at once, or holds them for the group's youngest frame.
    fn sort_messages(&mut self, slot: ReplicaSlot, staged: bool) {
        let last_frame = self.replicas[slot].last_frame;
        let durable = last_frame <= self.log.durable_frame()
            || self.is(Mutant::AnswersBeforeDurable)
            || (self.is(Mutant::AnswersResentEarly) && !staged);
        for outgoing in self.output.messages.drain(..) {
            let message = (slot, outgoing.to, outgoing.message);
            if durable || !outgoing.after_persist {
                self.outbox.push(message);
            } else {
                let held = &mut self.replicas[slot].held_responses;
                if self.config.mutants.is(Mutant::HoldsEveryResponse) {
                    self.durability.at(last_frame).responses.push(message);
                    continue;
                }
                self.durability.hold(last_frame, held, message);
            }
        }
    }

    /// Stages what an output asks to persist: the only way of records into the log. Gives whether
    /// there was anything.
    ///
    /// # Panics
    /// If the log does not take what was admitted before the call: our mistake.
    fn stage(&mut self, slot: ReplicaSlot, source: Source<'_>) -> Result<bool, AppendError> {
        let group = self.replicas[slot].id;
        let mut staged = false;
        if let Some(hard_state) = self.output.hard_state.take() {
            let (term, voted_for) = (hard_state.current_term, hard_state.voted_for);
            admitted(self.log.save_hard_state(group, term, voted_for))?;
            staged = true;
        }
        if std::mem::take(&mut self.output.repaired) {
            admitted(self.log.set_tainted(group, false))?;
            let node = self.config.node;
            tracing::info!(%node, %group, "this replica votes: it was founded, or repaired");
            staged = true;
        }
        for position in 0..self.output.appended.len() {
            self.stage_entries(slot, self.output.appended[position], source)?;
            staged = true;
        }
        if staged {
            self.note_staged(slot);
        }
        Ok(staged)
    }

    fn stage_entries(
        &mut self,
        slot: ReplicaSlot,
        appended: Appended,
        source: Source<'_>,
    ) -> Result<(), AppendError> {
        let replica = &self.replicas[slot];
        let group = replica.id;
        match (appended, source) {
            (Appended::Noop(entry), _) => {
                admitted(self.log.append_command(group, entry, RecordKind::Noop, &[]))
            }
            (
                Appended::Proposed {
                    first_index, term, ..
                },
                Source::Batch,
            ) => {
                let mut entry = EntryId::new(first_index, term);
                for taken in &replica.batch {
                    let kind = RecordKind::Command;
                    admitted(self.log.append_command(group, entry, kind, &taken.command))?;
                    entry.index = entry.index.next();
                }
                Ok(())
            }
            (Appended::Received { skip, count, .. }, Source::Frame { records, ranges }) => {
                let (first, count) = (skip as usize, count as usize);
                for range in &ranges[first..first + count] {
                    admitted(self.log.append_record(&records[range.clone()]))?;
                }
                Ok(())
            }
            (appended, _) => unreachable!("{appended:?} without its entries' bytes"),
        }
    }

    /// The group's newest records are in the log's open frame.
    fn note_staged(&mut self, slot: ReplicaSlot) {
        let frame = self.log.open_frame();
        let replica = &mut self.replicas[slot];
        replica.last_frame = frame;
        self.durability
            .persisted_by(frame, slot, replica.raft.write_sequence());
        if self.is(Mutant::LeaderCountsOwnUndurable) {
            let raft = &mut self.replicas[slot].raft;
            if raft.is_leader() {
                raft.on_persisted(self.now, raft.write_sequence(), &mut self.output);
            }
        }
    }

    /// Acknowledges what has become durable, and lets go of the responses that waited for it.
    pub(super) fn on_durable(&mut self) {
        while let Some(mut frame) = self.durability.pop(self.log.durable_frame()) {
            for (slot, sequence) in frame.persisted.drain(..) {
                let Some(replica) = self.replicas.get_mut(slot) else {
                    continue;
                };
                if self.log.admit_reserved(STEP_BYTES).is_err() {
                    // It could not begin its term: the entry that does would find no room.
                    replica.raft.abandon_campaign();
                }
                replica
                    .raft
                    .on_persisted(self.now, sequence, &mut self.output);
                self.process_output(slot, Source::None);
            }
            self.outbox.append(&mut frame.responses);
            for reply in frame.created.drain(..) {
                let _ = reply.send(Ok(()));
            }
            self.durability.recycle(frame);
        }
    }

    /// Whether memory for records that are not durable yet is used up.
    pub(super) fn lacks_memory(&self) -> bool {
        matches!(self.log.admit(STEP_BYTES), Err(AppendError::StagingFull { .. }))
    }

    /// Group commit: one frame with the records of all groups, as soon as a place is free.
    pub(super) fn seal(&mut self, operations: &mut Vec<Operation>) {
        while let Some(operation) = self.log.seal() {
            self.room.on_write_begun(self.now);
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
