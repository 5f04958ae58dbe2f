//! The replicas of a core: what each group has beside its log.

use std::collections::BTreeSet;

use pontoon_raft::{GroupId, LogIndex, NodeId, Raft, Term};

use super::durability::HeldResponse;
use super::hand_over::HandOvers;
use super::machine_failure::MachineFailure;
use super::stall::Stall;
use crate::awaited::Awaited;
use crate::definition::Definition;
use crate::machine::{Event, StateMachine};
use crate::outcome::Unknown;
use crate::proposals::{Proposals, TakenCommand};

/// One group on this node.
pub(super) struct Replica {
    pub(super) id: GroupId,
    pub(super) definition: Definition,
    pub(super) raft: Raft,
    /// `None` if no machine of this kind is registered: then nothing is done for the group.
    pub(super) machine: Option<Box<dyn StateMachine>>,
    /// The machine failed. Invariant: then there is none.
    pub(super) machine_failure: Option<MachineFailure>,
    /// What the machine said last that it holds durably. Invariant: never decreases.
    pub(super) machine_durable: LogIndex,
    pub(super) proposals: Proposals,
    /// What was seen of its commits while it leads.
    pub(super) stall: Stall,
    /// When it was given away to others.
    pub(super) hand_overs: HandOvers,
    /// Commands taken in this turn, not yet in the log.
    pub(super) batch: Vec<TakenCommand>,
    /// Last entry given to the machine.
    pub(super) applied: LogIndex,
    /// Last command given to the machine, in this life or before.
    pub(super) last_command: LogIndex,
    /// It stands in the list of slots with something to apply.
    pub(super) queued_to_apply: bool,
    /// Entries to be applied are being read from the disk.
    pub(super) reading: bool,
    /// Where its newest responses wait.
    pub(super) held_responses: Vec<HeldResponse>,
    /// The youngest frame that holds anything of this group. Answers wait for it.
    pub(super) last_frame: u64,
    /// Who sent messages of the group and is no member: as many as there are peers, at most.
    pub(super) strangers: BTreeSet<NodeId>,
    /// The term in which it leads, as the machine was told.
    leading: Option<Term>,
    /// Whom it follows, as the machine was told.
    following: Option<(NodeId, Term)>,
}

impl Replica {
    pub(super) fn new(
        id: GroupId,
        definition: Definition,
        raft: Raft,
        machine: Option<Box<dyn StateMachine>>,
        applied: LogIndex,
        last_frame: u64,
        awaited: Awaited,
    ) -> Self {
        let durable = machine.as_ref().and_then(|machine| machine.durable_index());
        Self {
            id,
            definition,
            raft,
            machine,
            machine_failure: None,
            machine_durable: durable.unwrap_or_default(),
            last_command: durable.unwrap_or_default(),
            proposals: Proposals::new(awaited),
            stall: Stall::default(),
            hand_overs: HandOvers::default(),
            batch: Vec::new(),
            applied,
            queued_to_apply: false,
            reading: false,
            held_responses: Vec::new(),
            last_frame,
            strangers: BTreeSet::new(),
            leading: None,
            following: None,
        }
    }

    /// Tells proposers and the machine what has become of the role since the last call.
    pub(super) fn notice_role(&mut self, node: NodeId, log_failed: bool) {
        let term = self.raft.current_term();
        let leading = self.raft.is_leader().then_some(term);
        let leader = self.raft.leader();
        let following = leader.filter(|_| leading.is_none()).map(|id| (id, term));
        if leading == self.leading && following == self.following {
            return;
        }
        if let Some(term) = self.leading.filter(|_| leading != self.leading) {
            self.log_lost(node, term, log_failed);
        }
        self.log_role(node, leading, following);
        let machine = &mut self.machine;
        let mut send = |event| machine.iter_mut().for_each(|machine| machine.event(event));
        if let Some(term) = self.leading.filter(|_| leading != self.leading) {
            self.proposals.give_up(Unknown::LeadershipLost);
            send(Event::StoppedLeading { term });
        }
        if let Some(term) = leading.filter(|_| leading != self.leading) {
            send(Event::BecameLeader { term });
        }
        if let Some((leader, term)) = following.filter(|_| following != self.following) {
            send(Event::Following { leader, term });
        }
        (self.leading, self.following) = (leading, following);
    }

    /// Says that, and why, this node leads no more.
    fn log_lost(&self, node: NodeId, term: Term, log_failed: bool) {
        let newest = self.raft.current_term();
        let reason = if log_failed {
            "the log failed"
        } else if self.machine_failure.is_some() {
            "the state machine failed"
        } else if newest > term {
            // Others elected a leader, or this one asked them to.
            "a later term"
        } else {
            "no majority answered for an election timeout"
        };
        tracing::info!(%node, group = %self.id, %term, reason, "lost leadership");
    }

    /// Says who leads, to whoever watches the node.
    fn log_role(&self, node: NodeId, leading: Option<Term>, following: Option<(NodeId, Term)>) {
        let group = self.id;
        let newest = self.raft.current_term();
        if let Some(term) = leading.filter(|_| leading != self.leading) {
            tracing::info!(%node, %group, %term, "became leader");
        }
        if let Some((leader, term)) = following.filter(|_| following != self.following) {
            tracing::info!(%node, %group, %leader, %term, "follows");
        }
        if self.following.is_some() && following.is_none() && leading.is_none() {
            tracing::info!(%node, %group, term = %newest, "has no leader");
        }
    }

    /// The machine can do without the log up to here. With `empty_too` the empty entries behind it,
    /// of which it sees nothing, count as released: only when the log is short of room, for a
    /// damaged replica could be filled again from them.
    pub(super) fn machine_releases(&self, empty_too: bool) -> LogIndex {
        let Some(machine) = &self.machine else {
            let failure = self.machine_failure.as_ref();
            return failure.map_or(LogIndex(0), |failure| failure.released);
        };
        let released = machine.released_index();
        if empty_too && released >= self.last_command {
            released.max(self.applied)
        } else {
            released
        }
    }

    /// The last entry that may be applied now: a machine that keeps its own state gets only what
    /// is durable on this node, so that it is never ahead of its log.
    pub(super) fn apply_until(&self) -> LogIndex {
        let durable = match &self.machine {
            None => return self.applied,
            Some(machine) => machine.durable_index(),
        };
        let commit_index = self.raft.commit_index();
        if durable.is_some() {
            commit_index.min(self.raft.durable_index())
        } else {
            commit_index
        }
    }
}
