//! A shard: one core's groups, log and connections, moved on by a synchronous `turn()`.
//!
//! A turn takes completions, due timers and requests, steps the groups they concern, seals at most
//! one log frame, sends one frame per peer, and applies what is committed. It asks for everything
//! by [`Operation`]s and takes time as an argument, so the same shard runs over a ring, a test in
//! one thread, or a simulator. All of it belongs to one thread.
//!
//! Three parts with a wall between them: `Groups` (replicas, log, and what waits for either),
//! `Peers` (connections), and the inbox. What concerns two of them goes through here.

mod apply;
mod ask;
mod catch_up;
mod creations;
mod durability;
#[cfg(feature = "simulation")]
mod gauges;
mod greeting;
mod groups;
mod hand_over;
mod link;
mod machine_failure;
mod mutant;
mod newcomers;
mod open;
mod patience;
mod peers;
mod persist;
mod propose;
mod reads;
mod receive;
mod replica;
mod replicas;
mod requests;
mod room;
mod round_trip;
mod send;
mod space;
mod stall;
mod stop;
mod timers;
mod witness;

#[cfg(feature = "simulation")]
use pontoon_raft::GroupId;
use pontoon_raft::{NodeId, Time};
use pontoon_storage::Life;
use pontoon_transport::{FrameLimits, ReceiveBuffer};

#[cfg(any(test, feature = "simulation"))]
pub use mutant::Mutant;
pub use mutant::Mutants;

#[cfg(feature = "simulation")]
pub use gauges::Gauge;
pub use open::ShardOpenError;

use crate::driver::DriverError;
use crate::health::CoreEnd;
use crate::inbox::Inbox;
use crate::port::{Completion, Operation, SocketId};
use crate::reason::CloseReason;
use crate::statistics::CoreStatistics;
use groups::Groups;
use peers::{Disconnected, Peers};
use receive::Received;

/// Configuration of a shard. Durations are nanoseconds.
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
    /// Interval between heartbeats of an idle leader.
    pub heartbeat_interval: u64,
    /// Sizes of frames on the wire.
    pub frame_limits: FrameLimits,
    /// Largest command, in bytes.
    pub command_bytes_max: usize,
    /// Largest reply of a state machine, in bytes.
    pub reply_bytes_max: usize,
    /// Bytes that may wait to be sent to one peer: half for entries, above which they stay in the
    /// log, and half for messages without, above which they are dropped. With a quarter taken by
    /// these, nothing is received from it.
    pub peer_queue_bytes_max: usize,
    /// Bytes of entries under way to one follower of a group.
    pub in_flight_bytes_max: u64,
    /// Messages with entries under way to one follower of a group.
    pub in_flight_messages_max: u32,
    /// The longest round trip to a peer that the times above are good for.
    pub round_trip_max: u64,
    /// Bytes of its log that a group keeps for a member that lags, when the log is short of room.
    pub lag_bytes_max: u64,
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

/// One core's part of a node.
pub struct Shard {
    groups: Groups,
    peers: Peers,
    inbox: Inbox,
    /// The entries of the message being stepped: scratch that keeps its memory.
    received: Received,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Shard")
            .field("node", &self.groups.config.node)
            .field("groups", &self.groups.replicas.len())
            .field("failed", &self.groups.failed)
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
        self.groups.begin_turn(now);
        self.groups.renounce_failed();
        for completion in completions.drain(..) {
            self.complete(completion, operations);
        }
        self.decide_trials(operations);
        self.greet_peers(operations);
        let timers_left = self.groups.fire_timers();
        let requests_left = self.take_requests();
        self.groups.maintain_log(operations);
        self.groups.look_after_room();
        self.groups.hand_over_at_stop();
        // The write goes first: sends run inline and copy, and it would wait for them.
        self.groups.seal(operations);
        self.groups.flush(&mut self.peers, operations);
        self.drive_connections(operations);
        let apply_left = self.groups.apply(operations);
        self.groups.tell_leaders();
        if self.groups.end_stop(operations) {
            self.inbox.close(CoreEnd::Stopped);
        }
        if self.groups.failed {
            self.tell_failure();
        }
        Turn {
            more: requests_left || apply_left || timers_left,
            deadline: self.groups.deadline().min(self.peers.deadline()),
        }
    }

    /// The owner of the node learns that this core serves no more, and so does whoever asks it. It
    /// goes on until it is told to stop.
    fn tell_failure(&mut self) {
        let poisoned = self.groups.log.poisoned();
        self.inbox.fail(|| {
            poisoned.map_or_else(|| "its log failed".to_owned(), ToString::to_string)
        });
    }

    /// The driver failed, so that this core ends: everybody is told.
    pub(crate) fn fail(&mut self, error: &DriverError) {
        self.inbox.fail(|| error.to_string());
        // After that: whoever is told by it that nobody answers any more looks for the reason.
        self.groups.fail();
    }

    /// Whether the loop that calls `turn` is to end.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.groups.stopped
    }

    /// Whether a request waits that would be taken now. Looked at after parking is announced, and
    /// before waiting.
    #[must_use]
    pub fn has_requests(&self) -> bool {
        let is_to_stop = self.inbox.is_told_to_stop() && self.groups.stop_by.is_none();
        is_to_stop
            || self.inbox.has_requests()
            || !self.holds_back_proposals() && self.inbox.has_proposals()
    }

    /// Back-pressure: true while as many writes are in flight as may be and proposals of this core
    /// are unanswered. Proposals then stay in the inbox, where they form larger batches; they could
    /// not be written sooner.
    ///
    /// It ends when a write completes or the last proposal is answered, whichever is first, so that
    /// a slow disk of ours holds up nothing that a quorum of others can commit.
    #[must_use]
    pub fn holds_back_proposals(&self) -> bool {
        self.groups.has_unanswered_proposals() && !self.groups.log.can_seal()
    }

    /// Copies the driver's count of io_uring_enter(2) calls into the statistics.
    pub(crate) fn note_enters(&mut self, enters: u64) {
        self.groups.statistics.enters = enters;
    }

    /// Counts so far.
    #[must_use]
    pub fn statistics(&self) -> CoreStatistics {
        CoreStatistics {
            log: self.groups.log.statistics(),
            messages_sent: self.peers.messages_sent,
            messages_unsent: self.peers.messages_unsent,
            frames_skipped: self.peers.skipped_frames(),
            connections_closed: self.peers.closed.clone(),
            round_trips: self.peers.round_trips(),
            ..self.groups.statistics.clone()
        }
    }

    /// Every replica's rules.
    #[cfg(feature = "simulation")]
    pub(crate) fn rafts(&self) -> impl Iterator<Item = (GroupId, &pontoon_raft::Raft)> {
        let replicas = self.groups.replicas.iter();
        replicas.map(|replica| (replica.id, &replica.raft))
    }

    /// Whether everything that a group has written so far is durable.
    #[cfg(feature = "simulation")]
    pub(crate) fn is_settled(&self, group: GroupId) -> bool {
        let durable = self.groups.log.durable_frame();
        let replica = self.groups.replica(group);
        replica.is_some_and(|replica| replica.last_frame <= durable)
    }

    /// Which life of its log it is in, once peers may be told.
    #[cfg(feature = "simulation")]
    pub(crate) fn life(&self) -> Option<Life> {
        self.groups.told_life()
    }

    /// The peers whose words of groups it believes, and the life each is in.
    #[cfg(feature = "simulation")]
    pub(crate) fn believed(&self) -> impl Iterator<Item = (NodeId, Life)> {
        self.peers.believed()
    }

    /// Whether another connection took the place of this one.
    #[cfg(feature = "simulation")]
    pub(crate) fn was_replaced(&self, socket: SocketId) -> bool {
        self.peers.was_replaced(socket)
    }

    /// The connection by which it hears of a peer.
    #[cfg(feature = "simulation")]
    pub(crate) fn connection(&self, peer: NodeId) -> Option<SocketId> {
        self.peers.connection(peer)
    }

    /// Whether the log has at most one more segment for entries.
    #[cfg(feature = "simulation")]
    pub(crate) fn is_nearly_full(&self) -> bool {
        self.groups.log.is_nearly_full()
    }

    /// A slot of the log that holds nothing that is needed.
    #[cfg(feature = "simulation")]
    pub(crate) fn free_slot(&self) -> Option<u32> {
        self.groups.log.free_slot()
    }

    /// Whether more segments can be made, as far as is known.
    #[cfg(feature = "simulation")]
    pub(crate) fn can_grow(&self) -> bool {
        self.groups.log.can_grow()
    }

    /// Whether few segments are free and no more can be made.
    #[cfg(feature = "simulation")]
    pub(crate) fn is_short_of_room(&self) -> bool {
        self.groups.log.is_short_of_room()
    }

    /// Whether the log takes no commands: it is full, or its next segment has not come.
    #[cfg(feature = "simulation")]
    pub(crate) fn takes_no_commands(&self) -> bool {
        self.groups.awaits_segment() || self.groups.is_full()
    }

    /// The connection to another node that messages pass.
    #[cfg(feature = "simulation")]
    pub(crate) fn connection_to(&self, node: NodeId) -> Option<SocketId> {
        let peer = self.peers.peers.iter().find(|peer| peer.id == node)?;
        Some(peer.link.as_ref()?.socket)
    }

    /// Bytes of a group's entries that are not committed, as far as it knows.
    #[cfg(feature = "simulation")]
    pub(crate) fn uncommitted_bytes(&self, group: GroupId) -> u64 {
        let replica = self.groups.replica(group);
        let first = replica.map(|replica| replica.raft.commit_index().next());
        first.map_or(0, |first| self.groups.log.bytes_from(group, first))
    }

    /// Why the log is closed, if it is.
    #[cfg(feature = "simulation")]
    pub(crate) fn failure(&self) -> Option<&pontoon_storage::Poisoned> {
        self.groups.log.poisoned()
    }

    /// Breaks a rule from now on.
    #[cfg(test)]
    pub(crate) fn set_mutant(&mut self, mutant: Mutant) {
        self.groups.config.mutants.shard = Some(mutant);
    }

    fn complete(&mut self, completion: Completion, operations: &mut Vec<Operation>) {
        let now = self.groups.now;
        match completion {
            Completion::Written { id, result } => self.groups.on_written(id, result),
            Completion::Read { id, buffer, result } => {
                self.groups.on_read(&mut self.peers, id, (buffer, result));
            }
            Completion::Sent {
                socket,
                batch,
                result,
            } => {
                let ended = self.peers.on_sent(now, socket, (batch, result), operations);
                self.disconnected(ended);
            }
            Completion::Received {
                socket,
                buffer,
                result,
            } => self.on_received(socket, (buffer, result), operations),
            Completion::Connected { peer, socket } => {
                self.peers.on_connected(now, peer, socket, operations);
            }
            Completion::DialFailed { peer } => self.peers.on_dial_failed(now, peer),
            Completion::Prepared { slot, ready } => self.groups.on_prepared(slot, ready),
            Completion::NoDescriptors { slot } => self.groups.on_no_descriptors(slot),
        }
    }

    /// Bytes came.
    fn on_received(
        &mut self,
        socket: SocketId,
        received: (ReceiveBuffer, Result<usize, i32>),
        operations: &mut Vec<Operation>,
    ) {
        let now = self.groups.now;
        let of_link = self.peers.on_newcomer_received(now, socket, received, operations);
        let Some((buffer, result)) = of_link else {
            return;
        };
        let Some((from, link)) = self.peers.link(socket) else {
            return;
        };
        match link.connection.on_received(buffer, result) {
            Ok(()) => self.take_frames(socket, operations),
            Err(error) => self.disconnect(from, (&error).into(), operations),
        }
    }

    /// Steps every whole frame that came on a connection, in place.
    fn take_frames(&mut self, socket: SocketId, operations: &mut Vec<Operation>) {
        let Some((from, link)) = self.peers.link(socket) else {
            return;
        };
        let (connection, acquaintance) = (&mut link.connection, &mut link.acquaintance);
        let (taken, mut said) = (connection.taken_frames(), link::Said::There);
        let reason: Option<CloseReason> = loop {
            if acquaintance.waits() {
                break None;
            }
            let stepped = match connection.next_frame() {
                Ok(None) => break None,
                Ok(Some(frame)) if acquaintance.is_believed() => {
                    self.groups.receive_frame(from, &frame, &mut self.received)
                }
                Ok(Some(frame)) => {
                    let taken = acquaintance.take(&frame, &self.groups);
                    taken.map(|()| link::Said::There)
                }
                Err(error) => break Some((&error).into()),
            };
            match stepped {
                Ok(in_frame) => said = said.max(in_frame),
                Err(error) => break Some(error.into()),
            }
        };
        if connection.taken_frames() > taken {
            self.peers.on_frames(self.groups.now, from, said);
        }
        if let Some(reason) = reason {
            self.disconnect(from, reason, operations);
        }
    }

    fn disconnect(&mut self, peer: NodeId, reason: CloseReason, operations: &mut Vec<Operation>) {
        let now = self.groups.now;
        let ended = self.peers.disconnect(now, peer, reason, operations);
        self.disconnected(ended);
    }

    /// Lets both ends of each connection get to know each other before it carries anything else.
    fn greet_peers(&mut self, operations: &mut Vec<Operation>) {
        self.groups.save_life();
        for position in 0..self.peers.len() {
            let Some((peer, link)) = self.peers.unacquainted(position) else {
                continue;
            };
            if let Some(remembered) = link.acquaintance.forgotten() {
                return self.forget(peer, remembered, operations);
            }
            let socket = link.socket;
            match self.groups.greet(peer, link) {
                Ok(true) => {
                    self.groups.meet_members(peer);
                    self.take_frames(socket, operations);
                }
                Ok(false) => {}
                Err(error) => self.disconnect(peer, error.into(), operations),
            }
        }
    }

    /// This node has forgotten what it had promised, as a peer says: it introduces itself anew.
    fn forget(&mut self, peer: NodeId, remembered: Life, operations: &mut Vec<Operation>) {
        self.groups.forget(peer, remembered);
        for peer in self.groups.config.peers.clone() {
            self.disconnect(peer, CloseReason::Forgot, operations);
        }
    }

    /// Connections on trial take the places of those that are silent or gone.
    fn decide_trials(&mut self, operations: &mut Vec<Operation>) {
        for peer in 0..self.peers.len() {
            let now = self.groups.now;
            let (replaced, promoted) = self.peers.decide_trial(now, peer, operations);
            self.disconnected(replaced);
            if let Some(socket) = promoted {
                self.take_frames(socket, operations);
            }
        }
    }

    /// Dials who is to be dialled, and starts the sends and receives of this turn.
    fn drive_connections(&mut self, operations: &mut Vec<Operation>) {
        let others_wait = self.groups.lacks_memory();
        for peer in 0..self.peers.len() {
            let (now, peer) = (self.groups.now, (peer, others_wait));
            let ended = self.peers.drive(now, peer, operations);
            self.disconnected(ended);
        }
    }

    fn disconnected(&mut self, ended: Option<Disconnected>) {
        if let Some(ended) = ended {
            self.groups.on_disconnected(ended.peer);
        }
    }
}

#[cfg(test)]
mod tests;
