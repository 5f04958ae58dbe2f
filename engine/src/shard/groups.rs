//! The groups of a core: replicas, the log they share, and what waits for either.

use std::collections::VecDeque;

use pontoon_raft::{GroupId, LogIndex, Message, NodeId, Output, Time};
use pontoon_storage::{RecordBytes, SegmentLog};

use super::ShardConfig;
use super::ask::AwaitingLeader;
use super::catch_up::CatchUps;
use super::creations::{Creation, Creations};
use super::durability::Durability;
use super::machine_failure::Mismatch;
use super::mutant::Mutant;
use super::open::new_raft;
use super::persist::{STEP_BYTES, Source};
use super::propose::Proposing;
use super::reads::Reads;
use super::replica::Replica;
use super::replicas::{ReplicaSlot, Replicas};
use super::room::Room;
use super::space::Space;
use super::timers::Timers;
use super::witness::Witnessing;
use crate::awaited::Awaited;
use crate::definition::Definition;
use crate::machine::{Event, Machines, StateMachine};
use crate::outcome::Unknown;
use crate::proposals::Replies;
use crate::rate_limited::RateLimited;
use crate::request::{CreateError, GroupStatus, RequestError, TransferError};
use crate::statistics::CoreStatistics;

const NEVER: Time = Time(u64::MAX);

/// Everything of a shard but its connections and its inbox.
pub(super) struct Groups {
    pub(super) config: ShardConfig,
    /// The time of the turn under way.
    pub(super) now: Time,
    pub(super) machines: Machines,
    pub(super) replicas: Replicas,
    pub(super) log: SegmentLog,
    pub(super) timers: Timers,
    pub(super) space: Space,
    pub(super) witnessing: Witnessing,
    pub(super) room: Room,
    pub(super) durability: Durability,
    pub(super) reads: Reads,
    pub(super) catch_ups: CatchUps,
    pub(super) proposing: Proposing,
    /// Messages that may leave, in order: of which replica, to whom, what.
    pub(super) outbox: Vec<(ReplicaSlot, NodeId, Message)>,
    /// Replicas with committed entries that are not applied.
    pub(super) to_apply: VecDeque<ReplicaSlot>,
    /// Those of them whose entries are to be read back first.
    pub(super) to_read: VecDeque<ReplicaSlot>,
    /// Replicas whose machine failed in the last turn, or at the start: they are not to lead.
    pub(super) to_renounce: Vec<ReplicaSlot>,
    /// Groups that are to be made.
    pub(super) creations: Creations,
    /// Who waits for a leader of a group.
    pub(super) awaiting_leader: AwaitingLeader,
    /// Where the outcomes of proposals go.
    pub(super) awaited: Awaited,
    /// Outcomes of this turn that are not sent yet.
    pub(super) replies: Replies,
    /// What the call into a replica that is under way asks for. Keeps its memory.
    pub(super) output: Output,
    /// Entries as they lie in memory, for a send or a machine. Keeps its memory.
    pub(super) pieces: Vec<RecordBytes>,
    /// The frame with which this life of the log is durable.
    pub(super) life_by: Option<u64>,
    /// The frame with which it is durable in which life each peer was met last.
    pub(super) met_by: u64,
    /// The log failed: nothing is acknowledged any more.
    pub(super) failed: bool,
    /// It is to stop, at the latest then.
    pub(super) stop_by: Option<Time>,
    pub(super) stopped: bool,
    pub(super) statistics: CoreStatistics,
    pub(super) lines: RateLimited,
}

impl Groups {
    pub(super) fn begin_turn(&mut self, now: Time) {
        self.now = self.now.max(now);
        self.statistics.turns += 1;
    }

    /// When a group, or the log, next has something to do.
    pub(super) fn deadline(&self) -> Time {
        if self.failed {
            return NEVER;
        }
        let timers = self.timers.next();
        let room = self.room_deadline().unwrap_or(timers);
        let stop = self.stop_by.unwrap_or(NEVER);
        let leaders = self.leaders_deadline().unwrap_or(NEVER);
        let witness = self.witness_deadline().unwrap_or(NEVER);
        let log = self.space.deadline(&self.log).min(witness);
        timers.min(room).min(stop).min(leaders).min(log)
    }

    pub(super) fn is(&self, mutant: Mutant) -> bool {
        self.config.mutants.is(mutant)
    }

    pub(super) fn slot(&self, group: GroupId) -> Option<ReplicaSlot> {
        self.replicas.slot(group)
    }

    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn replica(&self, group: GroupId) -> Option<&Replica> {
        self.replicas.get(self.slot(group)?)
    }

    /// A write of the log ended.
    pub(super) fn on_written(&mut self, id: u64, result: Result<usize, i32>) {
        self.room.on_write_done(self.now);
        match self.log.on_complete(id, result) {
            Ok(()) => self.on_durable(),
            Err(error) => {
                tracing::error!(node = %self.config.node, %error, "the log has failed");
                self.fail();
            }
        }
    }

    /// The connection to a peer broke: what was sent to it may be lost.
    pub(super) fn on_disconnected(&mut self, peer: NodeId) {
        self.catch_ups.forget_peer(peer);
        for replica in self.replicas.iter_mut() {
            replica.raft.report_disconnected(peer);
        }
    }

    /// The log failed: leadership is given up, and nothing is acknowledged any more.
    pub(super) fn fail(&mut self) {
        if std::mem::replace(&mut self.failed, true) {
            return;
        }
        for replica in self.replicas.iter_mut() {
            replica.proposals.give_up(Unknown::Failed);
            replica.raft.step_down(self.now, &mut self.output);
            replica.notice_role(self.config.node, true);
            self.output.clear();
            if let Some(machine) = &mut replica.machine {
                machine.event(Event::Failed);
            }
        }
        self.durability.abandon(RequestError::Failed);
        self.outbox.clear();
        self.creations.refuse(RequestError::Failed);
        self.awaiting_leader.abandon(RequestError::Failed);
        self.to_apply.clear();
        self.to_read.clear();
    }

    /// Makes a group; answers once it is durable.
    pub(super) fn create_group(&mut self, creation: Creation) {
        let Creation {
            group,
            definition,
            reply,
        } = creation;
        match self.make_group(group, definition) {
            // It exists once its record is durable; until then its responses wait as well.
            Ok(Some(frame)) => self.durability.at(frame).created.push(reply),
            Ok(None) => {
                let _ = reply.send(Ok(()));
            }
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    /// Makes a replica; gives the frame to wait for, or `None` if the group was there already.
    fn make_group(
        &mut self,
        group: GroupId,
        definition: Definition,
    ) -> Result<Option<u64>, CreateError> {
        if let Some(slot) = self.slot(group) {
            return self.existing_group(slot, definition);
        }
        if self.replicas.len() >= self.config.groups_max {
            let limit = "limits.groups_max";
            return Err(CreateError::Overloaded { limit });
        }
        self.refuse_unreachable(group, &definition)?;
        // The group may have existed here before the damage. With one member nobody could tell us.
        if self.log.is_damaged() && definition.membership().members().len() == 1 {
            return Err(CreateError::Damaged { group });
        }
        let machine = self.make_machine(group, &definition)?;
        let loses = self.log.is_damaged() || self.log.life().generation > 1;
        if let Some(mismatch) = Mismatch::of(machine.durable_index(), LogIndex(0))
            && (!loses || definition.is_alone())
        {
            let message = mismatch.to_string();
            return Err(CreateError::OtherMachine { group, message });
        }
        if definition.is_alone() {
            self.log.create_group(group, &definition.encode())?;
        } else {
            self.log.create_unfounded(group, &definition.encode())?;
        }
        let frame = self.log.open_frame();
        let raft = new_raft(&self.config, group, &definition, &self.log, self.now);
        let lost = self.log.is_tainted(group) || self.log.has_forgotten(group);
        let held = machine.durable_index().filter(|_| lost);
        let replica = Replica::new(
            group,
            definition,
            raft,
            Some(machine),
            held.unwrap_or_default(),
            frame,
            self.awaited.clone(),
        );
        let slot = self.replicas.insert(replica);
        self.start_replica(slot);
        Ok(Some(frame))
    }

    /// A mistyped member counts for the majority of a group that can't be removed.
    fn refuse_unreachable(
        &self,
        group: GroupId,
        definition: &Definition,
    ) -> Result<(), CreateError> {
        let known = |id: &NodeId| *id == self.config.node || self.config.peers.contains(id);
        let unknown = definition.membership().members().into_iter().find(|id| !known(id));
        unknown.map_or(Ok(()), |member| Err(CreateError::UnknownMember { group, member }))
    }

    fn existing_group(
        &mut self,
        slot: ReplicaSlot,
        definition: Definition,
    ) -> Result<Option<u64>, CreateError> {
        let replica = &self.replicas[slot];
        let group = replica.id;
        if replica.definition.is_lost() {
            return self.define_lost_group(slot, definition).map(Some);
        }
        if replica.definition != definition {
            return Err(CreateError::Exists { group });
        }
        let waits = replica.last_frame > self.log.durable_frame();
        Ok(waits.then_some(replica.last_frame))
    }

    fn make_machine(
        &self,
        group: GroupId,
        definition: &Definition,
    ) -> Result<Box<dyn StateMachine>, CreateError> {
        let factory = self.machines.factory(&definition.kind);
        let factory = factory.ok_or_else(|| CreateError::UnknownKind {
            kind: definition.kind.clone(),
        })?;
        factory(group).map_err(|error| CreateError::Machine {
            group,
            message: error.to_string(),
        })
    }

    /// What the disk had lost of a group is said again. It stays tainted until the others have
    /// repaired it; gives the frame to wait for.
    fn define_lost_group(
        &mut self,
        slot: ReplicaSlot,
        definition: Definition,
    ) -> Result<u64, CreateError> {
        let group = self.replicas[slot].id;
        if definition.is_alone() {
            return Err(CreateError::Damaged { group });
        }
        self.refuse_unreachable(group, &definition)?;
        let machine = self.make_machine(group, &definition)?;
        let held = machine.durable_index().unwrap_or_default();
        // Entries of which the beginning is missing too are of use only to a machine that has that.
        let keeps = self.replicas[slot].raft.compacted().index <= held;
        self.log.define_lost_group(group, &definition.encode(), keeps)?;
        let replica = &mut self.replicas[slot];
        let defined = (definition.membership(), definition.digest());
        replica.raft.define(defined, self.log.life().number(), keeps);
        (replica.last_command, replica.machine_durable, replica.applied) = (held, held, held);
        (replica.definition, replica.machine) = (definition, Some(machine));
        replica.last_frame = self.log.open_frame();
        tracing::warn!(
            node = %self.config.node, %group, keeps,
            "its definition was lost and is given back; the others repair it"
        );
        self.arm(slot);
        Ok(self.replicas[slot].last_frame)
    }

    /// A group whose only voter is this node need not wait to hear from others.
    pub(super) fn start_replica(&mut self, slot: ReplicaSlot) {
        let replica = &self.replicas[slot];
        if replica.definition.membership().voters == [self.config.node] {
            self.campaign(slot);
        }
        self.arm(slot);
    }

    /// What a peer says of groups is believed from now on: those that wait to meet it ask it.
    pub(super) fn meet_members(&mut self, peer: NodeId) {
        for slot in self.replicas.slots() {
            let replica = &mut self.replicas[slot];
            if !replica.raft.is_founded() && replica.definition.has_member(peer) {
                replica.raft.meet(self.now, peer, &mut self.output);
                self.process_output(slot, Source::None);
            }
        }
    }

    pub(super) fn known(&self, group: GroupId) -> Result<ReplicaSlot, RequestError> {
        self.slot(group).ok_or(RequestError::UnknownGroup)
    }

    pub(super) fn status(&self, group: GroupId) -> Result<GroupStatus, RequestError> {
        let replica = &self.replicas[self.known(group)?];
        Ok(GroupStatus {
            kind: replica.definition.kind.clone(),
            has_machine: replica.takes_part(),
            machine_error: replica.machine_error(),
            strangers: replica.strangers.iter().copied().collect(),
            raft: replica.raft.status(),
        })
    }

    pub(super) fn campaign(&mut self, slot: ReplicaSlot) {
        let admitted = self.log.admit_reserved(STEP_BYTES).is_ok();
        let replica = &mut self.replicas[slot];
        if replica.machine.is_some() && admitted && !self.failed {
            replica.raft.campaign(self.now, &mut self.output);
            self.process_output(slot, Source::None);
        }
    }

    pub(super) fn transfer(&mut self, group: GroupId, to: NodeId) -> Result<(), TransferError> {
        let slot = self.known_to_serve(group)?;
        let raft = &mut self.replicas[slot].raft;
        let result = raft.transfer_leadership(self.now, to, &mut self.output);
        self.process_output(slot, Source::None);
        Ok(result?)
    }
}
