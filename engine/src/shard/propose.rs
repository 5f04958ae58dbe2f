//! Commands on their way into the log: admitted one by one, proposed as one batch of each group.

use pontoon_raft::{EntryKind, EntryMeta, GroupId, LogIndex, ProposeRejection, Term};
use pontoon_storage::{AppendError, record};

use super::groups::Groups;
use super::persist::Source;
use super::replicas::ReplicaSlot;
use crate::awaited::Table;
use crate::inbox::Inbox;
use crate::outcome::{Rejection, Unknown};
use crate::proposals::{
    AnsweredProposal, ReplySender, TakenCommand, TakenPermit, Unanswered, reject,
};
use crate::request::Propose;

/// Most proposals taken in one turn, so that completions are not kept waiting.
const PER_TURN_MAX: usize = 1024;

/// The commands that were taken and are not proposed yet.
#[derive(Default)]
pub(super) struct Proposing {
    /// Of all groups.
    unanswered: Unanswered,
    /// Replicas with a batch.
    slots: Vec<ReplicaSlot>,
    /// Bytes of all batches, which the log has admitted together.
    bytes: usize,
    /// The batch that is being proposed, as Raft sees it. Keeps its memory.
    metas: Vec<EntryMeta>,
    /// Those that were not taken. Keeps its memory.
    rejected: Vec<(ReplySender, Rejection, Vec<u8>)>,
}

impl Groups {
    pub(super) fn has_unanswered_proposals(&self) -> bool {
        self.proposing.unanswered.bytes() > 0
    }

    /// Takes what waits into the batches of its groups, or rejects it. A core whose log has failed
    /// takes nothing: at the end of the turn all of it is answered so.
    pub(super) fn take_proposals(&mut self, inbox: &Inbox) {
        if self.failed || !inbox.has_proposals() {
            return;
        }
        inbox.awaited().enter(|table| {
            inbox.take_proposals(PER_TURN_MAX, |proposal| {
                self.take_proposal(proposal, table, inbox.bytes_left());
            });
        });
        for (sender, rejection, command) in self.proposing.rejected.drain(..) {
            reject(sender, rejection, command);
        }
    }

    /// `bytes_left` are what all groups may still take.
    fn take_proposal(&mut self, proposal: Propose, table: &mut Table, bytes_left: usize) {
        let Propose {
            group,
            command,
            reply: sender,
            permit,
        } = proposal;
        match self.admit(group, command.len(), bytes_left) {
            Ok(slot) => {
                self.proposing.bytes += record::encoded_bytes(command.len());
                let replica = &mut self.replicas[slot];
                let of_group = &replica.proposals.unanswered;
                let answered = AnsweredProposal {
                    ticket: table.enter(sender),
                    permit: TakenPermit::new(permit, &self.proposing.unanswered, of_group),
                };
                let batch = &mut replica.batch;
                if batch.is_empty() {
                    self.proposing.slots.push(slot);
                }
                batch.push(TakenCommand { command, answered });
            }
            Err(rejection) => {
                if matches!(rejection, Rejection::NoSpace | Rejection::NoDescriptors) {
                    self.on_refused();
                }
                self.proposing.rejected.push((sender, rejection, command));
            }
        }
    }

    fn admit(
        &self,
        group: GroupId,
        command_bytes: usize,
        bytes_left: usize,
    ) -> Result<ReplicaSlot, Rejection> {
        let slot = self.slot(group).ok_or(Rejection::UnknownGroup)?;
        let replica = &self.replicas[slot];
        let raft = &replica.raft;
        if let Some(message) = replica.machine_error() {
            // Whoever leads now can take it.
            return match replica.serving_leader() {
                leader @ Some(_) => Err(Rejection::NotLeader { leader }),
                None => Err(Rejection::MachineFailed { message }),
            };
        }
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
        if self.is_stuck(replica) {
            return Err(Rejection::NoRoomElsewhere);
        }
        // As much is left for others as one group holds: one that is stuck does not stop them.
        if replica.proposals.unanswered.bytes() > bytes_left {
            let limit = "limits.proposals_pending_bytes_max";
            return Err(Rejection::Overloaded { limit });
        }
        let bytes = record::encoded_bytes(command_bytes);
        match self.log.admit(self.proposing.bytes + bytes) {
            Ok(()) => Ok(slot),
            Err(AppendError::NoSpace { .. }) => Err(Rejection::NoSpace),
            Err(AppendError::NoDescriptors { .. }) => Err(Rejection::NoDescriptors),
            Err(AppendError::Poisoned(_)) => Err(Rejection::Failed),
            Err(AppendError::Preparing { .. }) => Err(Rejection::Preparing),
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
                let rejection = match self.failed {
                    true => Rejection::Failed,
                    false => Rejection::NotLeader { leader },
                };
                self.reject_batch(slot, &rejection);
            }
        }
    }

    fn reject_batch(&mut self, slot: ReplicaSlot, rejection: &Rejection) {
        let batch = std::mem::take(&mut self.replicas[slot].batch);
        let tickets = batch.iter().map(|taken| taken.answered.ticket);
        let mut senders = Vec::new();
        self.awaited.leave(tickets, &mut senders);
        for (taken, sender) in batch.into_iter().zip(senders) {
            if let Some(sender) = sender {
                reject(sender, rejection.clone(), taken.command);
            }
        }
    }

    /// Keeps where the outcomes of a batch go, which is in the log from `first_index` on.
    fn await_commit(&mut self, slot: ReplicaSlot, first_index: LogIndex) {
        let replica = &mut self.replicas[slot];
        let mut index = first_index;
        for taken in replica.batch.drain(..) {
            replica.proposals.push((index, self.now), taken.answered);
            index = index.next();
        }
        if self.failed {
            replica.proposals.give_up(Unknown::Failed);
        }
    }
}
