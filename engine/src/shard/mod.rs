//! A shard: one core's groups, log and connections, moved on by a synchronous `turn()`.
//!
//! A turn takes completions, due timers and requests, steps the groups they concern, seals at most
//! one log frame, sends one frame per peer, and applies what is committed (DESIGN, part 3). It
//! asks for everything by [`Operation`]s and takes time as an argument, so the same shard runs
//! over a ring, a test in one thread, or a simulator. All of it belongs to one thread.

mod apply;
mod catch_up;
mod durability;
mod mutant;
mod open;
mod peers;
mod persist;
mod reason;
mod receive;
mod replica;
mod requests;
mod send;
mod space;
mod timers;

use std::collections::BTreeMap;

use pontoon_raft::{GroupId, Message, NodeId, Output, Time};
use pontoon_storage::{LogStatistics, RecordBytes, SegmentLog};
use pontoon_transport::FrameLimits;

#[cfg(any(test, feature = "simulation"))]
pub use mutant::Mutant;
pub use mutant::Mutants;
pub use open::ShardOpenError;
pub use reason::{CloseReason, DropReason, FrameError};

use crate::budget::Budget;
use crate::inbox::Inbox;
use crate::machine::Machines;
use crate::outcome::Unknown;
use crate::port::{Completion, Operation};
use crate::proposals::Replies;
use catch_up::CatchUps;
use durability::Durability;
use peers::Peers;
use persist::Source;
use receive::Received;
use replica::Replicas;
use space::Space;
use timers::Timers;

/// What a shard is told when it is made. Durations are nanoseconds.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// This node.
    pub node: NodeId,
    /// The other nodes.
    pub peers: Vec<NodeId>,
    /// Seed of the election jitter and of back-off; should differ between nodes.
    pub seed: u64,
    /// A follower that hears nothing for between one and two of these campaigns.
    pub election_timeout: u64,
    /// A leader with nothing to say says so this often.
    pub heartbeat_interval: u64,
    /// Sizes of frames on the wire.
    pub frame_limits: FrameLimits,
    /// Largest command, in bytes.
    pub command_bytes_max: usize,
    /// Bytes of commands that this core has taken and not answered, above which it takes none.
    pub proposals_pending_bytes_max: usize,
    /// Bytes that wait to be sent to one peer, above which entries for it are left to be sent
    /// again later.
    pub peer_queue_bytes_max: usize,
    /// Most groups of this core.
    pub groups_max: usize,
    /// Rules to break: none but in tests and in the simulator.
    pub mutants: Mutants,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// There is more to do: do not wait.
    pub more: bool,
    /// Without a completion or a request, nothing is to be done before this.
    pub deadline: Time,
}

/// Counts since the shard was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreStatistics {
    /// Turns.
    pub turns: u64,
    /// Commands taken from proposers.
    pub proposals: u64,
    /// Entries applied, the empty ones of new leaders included.
    pub applied: u64,
    /// Messages of groups given to connections.
    pub messages_sent: u64,
    /// Messages of groups taken from frames.
    pub messages_received: u64,
    /// Messages dropped before they were looked at, by reason.
    pub messages_dropped: BTreeMap<DropReason, u64>,
    /// Connections that ended, by reason.
    pub connections_closed: BTreeMap<CloseReason, u64>,
    /// Calls of io_uring_enter(2) by the core's driver, where that is one.
    pub enters: u64,
    /// What the log did.
    pub log: LogStatistics,
}

/// One core's part of a node.
pub struct Shard {
    config: ShardConfig,
    now: Time,
    log: SegmentLog,
    machines: Machines,
    replicas: Replicas,
    peers: Peers,
    inbox: Inbox,
    timers: Timers,
    durability: Durability,
    catch_ups: CatchUps,
    space: Space,
    /// Messages that may leave, in order: slot, to whom, what.
    outbox: Vec<(usize, NodeId, Message)>,
    /// Slots with committed entries that are not applied.
    to_apply: Vec<usize>,
    /// Reads from the disk for that, by operation and slot.
    reads_to_apply: Vec<(u64, usize)>,
    /// Outcomes of this turn that are not sent yet.
    replies: Replies,
    /// Slots with proposals taken in this turn.
    proposed: Vec<usize>,
    /// For the bytes of commands that were taken and are not answered.
    budget: Budget,
    /// Scratch that keeps its memory from turn to turn.
    output: Output,
    received: Received,
    pieces: Vec<RecordBytes>,
    metas: Vec<pontoon_raft::EntryMeta>,
    /// The log failed: nothing is acknowledged any more.
    failed: bool,
    stopped: bool,
    statistics: CoreStatistics,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Shard")
            .field("node", &self.config.node)
            .field("groups", &self.replicas.len())
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl Shard {
    /// Moves everything on by one turn. Takes all completions; adds operations.
    pub fn turn(
        &mut self,
        now: Time,
        completions: &mut Vec<Completion>,
        operations: &mut Vec<Operation>,
    ) -> Turn {
        self.now = self.now.max(now);
        self.statistics.turns += 1;
        for completion in completions.drain(..) {
            self.complete(completion, operations);
        }
        self.fire_timers();
        let requests_left = self.take_requests();
        self.keep_space(operations);
        // The write goes first: sends run inline and copy, and it would wait for them.
        self.seal(operations);
        self.flush(operations);
        let apply_left = self.apply(operations);
        Turn {
            more: requests_left || apply_left,
            deadline: self.deadline(),
        }
    }

    /// Whether the loop that calls `turn` is to end.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Whether a request waits that would be taken now. Looked at after parking is announced, and
    /// before waiting.
    #[must_use]
    pub fn has_requests(&self) -> bool {
        !self.gathers_requests() && !self.inbox.requests.is_empty()
    }

    /// Notes what the driver has done, for whoever asks the shard.
    pub(crate) fn note_enters(&mut self, enters: u64) {
        self.statistics.enters = enters;
    }

    /// Counts so far.
    #[must_use]
    pub fn statistics(&self) -> CoreStatistics {
        CoreStatistics {
            log: self.log.statistics(),
            ..self.statistics.clone()
        }
    }

    /// Every replica's rules.
    #[cfg(feature = "simulation")]
    pub(crate) fn rafts(&self) -> impl Iterator<Item = (GroupId, &pontoon_raft::Raft)> {
        self.replicas
            .iter()
            .map(|replica| (replica.id, &replica.raft))
    }

    /// Whether everything that a group has written so far is durable.
    #[cfg(feature = "simulation")]
    pub(crate) fn is_settled(&self, group: GroupId) -> bool {
        let slot = self.slot(group);
        slot.is_some_and(|slot| self.replicas[slot].last_frame <= self.log.durable_frame())
    }

    /// Why the log is closed, if it is.
    #[cfg(feature = "simulation")]
    pub(crate) fn failure(&self) -> Option<&pontoon_storage::Poisoned> {
        self.log.poisoned()
    }

    /// Breaks a rule from now on.
    #[cfg(test)]
    pub(crate) fn set_mutant(&mut self, mutant: Mutant) {
        self.config.mutants.shard = Some(mutant);
    }

    fn complete(&mut self, completion: Completion, operations: &mut Vec<Operation>) {
        match completion {
            Completion::Written { id, result } => match self.log.on_complete(id, result) {
                Ok(()) => self.on_durable(),
                Err(_) => self.fail(),
            },
            Completion::Read { id, buffer, result } => {
                self.on_read(id, buffer, result);
            }
            Completion::Sent {
                socket,
                batch,
                result,
            } => self.on_sent(socket, batch, result, operations),
            Completion::Received {
                socket,
                buffer,
                result,
            } => self.on_received(socket, buffer, result, operations),
            Completion::Connected { peer, socket } => self.on_connected(peer, socket, operations),
            Completion::DialFailed { peer } => self.on_dial_failed(peer),
            Completion::Prepared { slot, ready } => self.on_prepared(slot, ready),
        }
    }

    fn deadline(&self) -> Time {
        let timers = self.timers.next();
        let space = self.space.deadline(&self.log);
        timers.min(self.peers.deadline()).min(space)
    }

    /// Ticks the groups whose time has come.
    fn fire_timers(&mut self) {
        while let Some(slot) = self.timers.pop_due(self.now) {
            let replica = &mut self.replicas[slot];
            if replica.machine.is_some()
                && replica.raft.next_deadline() <= self.now
                && (replica.raft.is_leader() || self.log.admit(persist::STEP_BYTES).is_ok())
            {
                replica.raft.tick(self.now, &mut self.output);
                self.process_output(slot, Source::None);
            } else {
                self.arm(slot);
            }
        }
    }

    /// The log failed: leadership is given up, and nothing is acknowledged any more.
    fn fail(&mut self) {
        if std::mem::replace(&mut self.failed, true) {
            return;
        }
        for slot in 0..self.replicas.len() {
            let replica = &mut self.replicas[slot];
            replica.proposals.give_up(Unknown::Failed);
            replica.raft.step_down(self.now, &mut self.output);
            self.output.clear();
            if let Some(machine) = &mut replica.machine {
                machine.event(crate::machine::Event::Failed);
            }
        }
        self.durability.abandon();
        self.outbox.clear();
        self.to_apply.clear();
    }

    fn slot(&self, group: GroupId) -> Option<usize> {
        self.replicas.slot(group)
    }
}

#[cfg(test)]
mod tests;
