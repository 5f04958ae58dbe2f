//! What application threads ask for: proposals above all, taken in batches.

use pontoon_raft::{
    EntryKind, EntryMeta, GroupId, LogIndex, ProposeRejection, Term, TransferRejection,
};
use pontoon_storage::{AppendError, record};

use super::Shard;
use super::open::boot_new;
use super::persist::Source;
use super::replica::Replica;
use crate::definition::Definition;
use crate::outcome::{Rejection, Unknown};
use crate::proposals::{ReplySender, TakenCommand, reply};
use crate::request::{CreateError, GroupStatus, Request};

/// Most requests taken in one turn, so that completions are not kept waiting.
const REQUESTS_PER_TURN_MAX: usize = 1024;

impl Shard {
    /// Whether requests are left to gather: a batch of ours is on its way, to the disk and to the
    /// others, and the next could not be written before it. Ends with the write, or when all that
    /// was proposed is answered, whichever is first, so that a slow disk of ours holds up nothing
    /// that a quorum of others can commit.
    #[must_use]
    pub fn gathers_requests(&self) -> bool {
        self.budget.is_held() && !self.log.can_seal()
    }

    /// Takes what waits. True if there may be more.
    pub(super) fn take_requests(&mut self) -> bool {
        if self.gathers_requests() {
            return false;
        }
        let mut admitted_bytes = 0;
        let mut left = REQUESTS_PER_TURN_MAX;
        while left > 0 {
            let Ok(request) = self.inbox.requests.try_recv() else {
                break;
            };
            left -= 1;
            match request {
                Request::Propose {
                    group,
                    command,
                    promise,
                } => self.take_proposal(group, command, promise, &mut admitted_bytes),
                other => {
                    // Proposals that came before it go before it.
                    self.propose_all();
                    admitted_bytes = 0;
                    self.take_other(other);
                }
            }
        }
        self.propose_all();
        left == 0
    }

    fn take_other(&mut self, request: Request) {
        match request {
            Request::Propose { .. } => unreachable!("taken by the caller"),
            Request::CreateGroup {
                group,
                definition,
                promise,
            } => self.create_group(group, definition, promise),
            Request::Status { group, promise } => {
                let _ = promise.send(self.status(group));
            }
            Request::Campaign { group } => {
                if let Some(slot) = self.slot(group) {
                    self.campaign(slot);
                }
            }
            Request::Transfer { group, to, promise } => {
                let _ = promise.send(self.transfer(group, to));
            }
            Request::Statistics { promise } => {
                let _ = promise.send(self.statistics());
            }
            Request::Stop => self.stop(),
        }
    }

    /// Takes one command into its group's batch of this turn, or rejects it at once.
    fn take_proposal(
        &mut self,
        group: GroupId,
        command: Vec<u8>,
        promise: ReplySender,
        admitted_bytes: &mut usize,
    ) {
        let bytes = record::encoded_bytes(command.len());
        match self.admit(group, &command, *admitted_bytes + bytes) {
            Ok(slot) => {
                *admitted_bytes += bytes;
                let permit = self.budget.take(bytes);
                let batch = &mut self.replicas[slot].batch;
                if batch.is_empty() {
                    self.proposed.push(slot);
                }
                batch.push(TakenCommand {
                    command,
                    sender: promise,
                    permit,
                });
            }
            Err(rejection) => reply(promise, Err(rejection.into())),
        }
    }

    fn admit(&self, group: GroupId, command: &[u8], bytes: usize) -> Result<usize, Rejection> {
        if self.failed {
            return Err(Rejection::Failed);
        }
        let slot = self.slot(group).ok_or(Rejection::UnknownGroup)?;
        let raft = &self.replicas[slot].raft;
        if !raft.is_leader() {
            let leader = raft.leader();
            return Err(Rejection::NotLeader { leader });
        }
        if command.len() > self.config.command_bytes_max {
            return Err(Rejection::TooLarge {
                bytes: command.len(),
                limit: self.config.command_bytes_max,
            });
        }
        if !self.budget.has_room(record::encoded_bytes(command.len())) {
            let limit = "limits.proposals_pending_bytes_max";
            return Err(Rejection::Overloaded { limit });
        }
        match self.log.admit(bytes) {
            Ok(()) => Ok(slot),
            Err(AppendError::NoSpace { .. }) => Err(Rejection::NoSpace),
            Err(AppendError::Poisoned(_)) => Err(Rejection::Failed),
            Err(_) => Err(Rejection::Overloaded {
                limit: "log.staging_bytes",
            }),
        }
    }

    /// Proposes the batches of this turn: they leave in this turn.
    fn propose_all(&mut self) {
        let mut slots = std::mem::take(&mut self.proposed);
        for slot in slots.drain(..) {
            let mut batch = std::mem::take(&mut self.replicas[slot].batch);
            self.propose(slot, &mut batch);
            self.replicas[slot].batch = batch;
        }
        self.proposed = slots;
    }

    fn propose(&mut self, slot: usize, batch: &mut Vec<TakenCommand>) {
        let mut metas = std::mem::take(&mut self.metas);
        metas.clear();
        metas.extend(batch.iter().map(|taken| EntryMeta {
            term: Term(0),
            bytes: u32::try_from(record::encoded_bytes(taken.command.len())).unwrap_or(u32::MAX),
            kind: EntryKind::Command,
        }));
        let raft = &mut self.replicas[slot].raft;
        let proposed = raft.propose(self.now, &metas, &mut self.output);
        self.metas = metas;
        match proposed {
            Ok(proposed) => {
                self.statistics.proposals += batch.len() as u64;
                self.process_output(slot, Source::Commands(batch));
                self.await_commit(slot, proposed.first_index, batch);
            }
            Err(rejection) => {
                let leader = match rejection {
                    ProposeRejection::Transferring { to } => Some(to),
                    ProposeRejection::NotLeader { leader } => leader,
                    _ => None,
                };
                for taken in batch.drain(..) {
                    reply(taken.sender, Err(Rejection::NotLeader { leader }.into()));
                }
            }
        }
    }

    /// Keeps where the outcomes of commands go, which are in the log from `first_index` on.
    fn await_commit(&mut self, slot: usize, first_index: LogIndex, batch: &mut Vec<TakenCommand>) {
        let proposals = &mut self.replicas[slot].proposals;
        let mut index = first_index;
        for taken in batch.drain(..) {
            proposals.push(index, taken.sender, taken.permit);
            index = index.next();
        }
        if self.failed {
            proposals.give_up(Unknown::Failed);
        }
    }

    fn create_group(
        &mut self,
        group: GroupId,
        definition: Definition,
        promise: oneshot::Sender<Result<(), CreateError>>,
    ) {
        match self.make_group(group, definition) {
            // It exists once its record is durable; until then its answers wait as well.
            Ok(Some(frame)) => self.durability.at(frame).created.push(promise),
            Ok(None) => {
                let _ = promise.send(Ok(()));
            }
            Err(error) => {
                let _ = promise.send(Err(error));
            }
        }
    }

    /// Makes a replica; gives the frame to wait for, or `None` if the group was there already.
    fn make_group(
        &mut self,
        group: GroupId,
        definition: Definition,
    ) -> Result<Option<u64>, CreateError> {
        if self.failed || self.stopped {
            return Err(CreateError::Stopped);
        }
        if let Some(slot) = self.slot(group) {
            let replica = &self.replicas[slot];
            if replica.definition.is_lost() {
                return Err(CreateError::Damaged { group });
            }
            if replica.definition != definition {
                return Err(CreateError::Exists { group });
            }
            let waits = replica.last_frame > self.log.durable_frame();
            return Ok(waits.then_some(replica.last_frame));
        }
        if self.replicas.len() >= self.config.groups_max {
            let limit = "limits.groups_max";
            return Err(CreateError::Overloaded { limit });
        }
        // It may have been here, and everything about it be lost. Others would know.
        if self.log.is_damaged() && definition.membership().members().len() == 1 {
            return Err(CreateError::Damaged { group });
        }
        let factory = self.machines.factory(&definition.kind);
        let factory = factory.ok_or_else(|| CreateError::UnknownKind {
            kind: definition.kind.clone(),
        })?;
        let machine = factory(group).map_err(|error| CreateError::Machine {
            group,
            message: error.to_string(),
        })?;
        self.log.create_group(group, &definition.encode())?;
        let frame = self.log.open_frame();
        let held = machine.durable_index().filter(|_| self.log.is_damaged());
        let raft = boot_new(&self.config, group, &definition, &self.log, self.now);
        let replica = Replica::new(
            group,
            definition,
            raft,
            Some(machine),
            held.unwrap_or_default(),
            frame,
        );
        let slot = self.replicas.push(replica);
        self.begin(slot);
        Ok(Some(frame))
    }

    pub(super) fn status(&self, group: GroupId) -> Option<GroupStatus> {
        let replica = &self.replicas[self.slot(group)?];
        Some(GroupStatus {
            kind: replica.definition.kind.clone(),
            has_machine: replica.machine.is_some(),
            raft: replica.raft.status(),
        })
    }

    pub(super) fn campaign(&mut self, slot: usize) {
        let admitted = self.log.admit(super::persist::STEP_BYTES).is_ok();
        let replica = &mut self.replicas[slot];
        if replica.machine.is_some() && admitted && !self.failed {
            replica.raft.campaign(self.now, &mut self.output);
            self.process_output(slot, Source::None);
        }
    }

    fn transfer(
        &mut self,
        group: GroupId,
        to: pontoon_raft::NodeId,
    ) -> Option<Result<(), TransferRejection>> {
        let slot = self.slot(group)?;
        let raft = &mut self.replicas[slot].raft;
        let result = raft.transfer_leadership(self.now, to, &mut self.output);
        self.process_output(slot, Source::None);
        Some(result)
    }

    fn stop(&mut self) {
        self.stopped = true;
        for replica in self.replicas.iter_mut() {
            replica.proposals.give_up(Unknown::Stopped);
        }
    }
}
