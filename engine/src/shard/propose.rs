//! Commands on their way into the log: admitted one by one, proposed as one batch of each group.

use pontoon_raft::{EntryKind, EntryMeta, GroupId, LogIndex, ProposeRejection, Term};
use pontoon_storage::{AppendError, record};

use super::groups::Groups;
use super::persist::Source;
use super::replicas::ReplicaSlot;
use crate::budget::Budget;
use crate::outcome::{Rejection, Unknown};
use crate::proposals::{ReplySender, TakenCommand, reply};

/// The commands that were taken and are not proposed yet, and the limit of those not answered.
pub(super) struct Proposing {
    /// For the bytes of commands that were taken and are not answered.
    budget: Budget,
    /// Replicas with a batch.
    slots: Vec<ReplicaSlot>,
    /// Bytes of all batches, which the log has admitted together.
    bytes: usize,
    /// The batch that is being proposed, as Raft sees it. Keeps its memory.
    metas: Vec<EntryMeta>,
}

impl Proposing {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            budget: Budget::new(bytes_max),
            slots: Vec::new(),
            bytes: 0,
            metas: Vec::new(),
        }
    }
}

impl Groups {
    pub(super) fn has_unanswered_proposals(&self) -> bool {
        self.proposing.budget.is_held()
    }

    /// Takes one command into its group's batch, or rejects it at once.
    pub(super) fn take_proposal(&mut self, group: GroupId, command: Vec<u8>, sender: ReplySender) {
        let bytes = record::encoded_bytes(command.len());
        match self.admit(group, command.len()) {
            Ok(slot) => {
                self.proposing.bytes += bytes;
                let permit = self.proposing.budget.take(bytes);
                let batch = &mut self.replicas[slot].batch;
                if batch.is_empty() {
                    self.proposing.slots.push(slot);
                }
                batch.push(TakenCommand {
                    command,
                    sender,
                    permit,
                });
            }
            Err(rejection) => reply(sender, Err(rejection.into())),
        }
    }

    fn admit(&self, group: GroupId, command_bytes: usize) -> Result<ReplicaSlot, Rejection> {
        if self.failed {
            return Err(Rejection::Failed);
        }
        let slot = self.slot(group).ok_or(Rejection::UnknownGroup)?;
        let raft = &self.replicas[slot].raft;
        if !raft.is_leader() {
            let leader = raft.leader();
            return Err(Rejection::NotLeader { leader });
        }
        if command_bytes > self.config.command_bytes_max {
            return Err(Rejection::TooLarge {
                bytes: command_bytes,
                limit: self.config.command_bytes_max,
            });
        }
        let bytes = record::encoded_bytes(command_bytes);
        if !self.proposing.budget.has_room(bytes) {
            let limit = "limits.proposals_pending_bytes_max";
            return Err(Rejection::Overloaded { limit });
        }
        match self.log.admit(self.proposing.bytes + bytes) {
            Ok(()) => Ok(slot),
            Err(AppendError::NoSpace { .. }) => Err(Rejection::NoSpace),
            Err(AppendError::Poisoned(_)) => Err(Rejection::Failed),
            Err(_) => Err(Rejection::Overloaded {
                limit: "log.staging_bytes",
            }),
        }
    }

    /// Proposes the batches: they leave in this turn.
    pub(super) fn propose_all(&mut self) {
        for position in 0..self.proposing.slots.len() {
            self.propose_batch(self.proposing.slots[position]);
        }
        self.proposing.slots.clear();
        self.proposing.bytes = 0;
    }

    fn propose_batch(&mut self, slot: ReplicaSlot) {
        let replica = &mut self.replicas[slot];
        let metas = &mut self.proposing.metas;
        metas.clear();
        metas.extend(replica.batch.iter().map(|taken| EntryMeta {
            term: Term(0),
            bytes: u32::try_from(record::encoded_bytes(taken.command.len())).unwrap_or(u32::MAX),
            kind: EntryKind::Command,
        }));
        match replica.raft.propose(self.now, metas, &mut self.output) {
            Ok(proposed) => {
                self.statistics.proposals += metas.len() as u64;
                self.process_output(slot, Source::Batch);
                self.await_commit(slot, proposed.first_index);
            }
            Err(rejection) => {
                let leader = match rejection {
                    ProposeRejection::Transferring { to } => Some(to),
                    ProposeRejection::NotLeader { leader } => leader,
                    _ => None,
                };
                for taken in replica.batch.drain(..) {
                    reply(taken.sender, Err(Rejection::NotLeader { leader }.into()));
                }
            }
        }
    }

    /// Keeps where the outcomes of a batch go, which is in the log from `first_index` on.
    fn await_commit(&mut self, slot: ReplicaSlot, first_index: LogIndex) {
        let replica = &mut self.replicas[slot];
        let mut index = first_index;
        for taken in replica.batch.drain(..) {
            replica.proposals.push(index, taken.sender, taken.permit);
            index = index.next();
        }
        if self.failed {
            replica.proposals.give_up(Unknown::Failed);
        }
    }
}
