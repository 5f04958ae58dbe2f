//! From a group's output to the log, and from durable frames back to the group.

use std::ops::Range;

use pontoon_raft::{Appended, EntryId, GroupId, Output};
use pontoon_storage::{AppendError, RecordKind};

use super::Shard;
use super::mutant::Mutant;
use crate::port::Operation;
use crate::proposals::TakenCommand;

/// Room that a step may need in the log beside entries: term, vote, and a leader's empty entry.
pub(super) const STEP_BYTES: usize = 256;

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
    /// Commands that were proposed.
    Commands(&'a [TakenCommand]),
}

impl Shard {
    /// Carries out what a group asked for in its last call: stages for the disk, and sorts
    /// messages into those that may leave and those that wait for a frame.
    pub(super) fn process_output(&mut self, slot: usize, source: Source<'_>) {
        let mut output = std::mem::take(&mut self.output);
        let staged = self.stage(slot, &mut output, source);
        if staged.is_err() {
            self.fail();
        }
        if self.failed {
            output.clear();
        }
        let last_frame = self.replicas[slot].last_frame;
        let durable = last_frame <= self.log.durable_frame();
        let durable = durable
            || self.is(Mutant::AnswersBeforeDurable)
            || (self.is(Mutant::AnswersResentEarly) && matches!(staged, Ok(false)));
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
        replica.notice_role();
        self.queue_to_apply(slot);
        self.arm(slot);
    }

    /// Stages what an output asks to persist: the only way of records into the log. Gives whether
    /// there was anything.
    ///
    /// # Panics
    /// If the log does not take what was admitted before the call: our mistake.
    fn stage(
        &mut self,
        slot: usize,
        output: &mut Output,
        source: Source<'_>,
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
            self.stage_entries(group, appended, source)?;
            staged = true;
        }
        if staged {
            self.note_staged(slot);
        }
        Ok(staged)
    }

    fn stage_entries(
        &mut self,
        group: GroupId,
        appended: Appended,
        source: Source<'_>,
    ) -> Result<(), AppendError> {
        match (appended, source) {
            (Appended::Noop(entry), _) => {
                admitted(self.log.append_command(group, entry, RecordKind::Noop, &[]))
            }
            (
                Appended::Proposed {
                    first_index, term, ..
                },
                Source::Commands(commands),
            ) => {
                let mut entry = EntryId::new(first_index, term);
                for TakenCommand { command, .. } in commands {
                    let kind = RecordKind::Command;
                    admitted(self.log.append_command(group, entry, kind, command))?;
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
    fn note_staged(&mut self, slot: usize) {
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

    /// Acknowledges what has become durable, and lets go of the answers that waited for it.
    pub(super) fn on_durable(&mut self) {
        while let Some(mut waiting) = self.durability.pop(self.log.durable_frame()) {
            for (slot, sequence) in waiting.persisted.drain(..) {
                let raft = &mut self.replicas[slot].raft;
                raft.on_persisted(self.now, sequence, &mut self.output);
                self.process_output(slot, Source::None);
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
