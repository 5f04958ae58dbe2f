//! From messages to frames: heads, and entries where they lie in the log's memory.

use pontoon_raft::{AppendEntries, Body, EntryId, LogIndex, Message, NodeId, Term, Time};
use pontoon_storage::{CacheRead, DiskOp, ReadError, RecordBytes, SegmentLog};

use super::catch_up::CatchUps;
use super::groups::Groups;
use super::mutant::{Mutant, Mutants};
use super::peers::Peers;
use super::replicas::{ReplicaSlot, Replicas};
use crate::port::Operation;
use crate::wire;

/// An AppendEntries with entries, whose bytes are still to be found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Append {
    pub(super) term: Term,
    pub(super) request: AppendEntries,
}

impl Append {
    pub(super) fn message(&self) -> Message {
        Message::new(self.term, self.request)
    }
}

/// What sending needs of the groups and of the connections.
pub(super) struct Sender<'a> {
    pub(super) replicas: &'a mut Replicas,
    pub(super) log: &'a mut SegmentLog,
    pub(super) peers: &'a mut Peers,
    pub(super) now: Time,
    /// Scratch.
    pieces: &'a mut Vec<RecordBytes>,
    mutants: Mutants,
}

impl Groups {
    /// Puts the messages of this turn into frames, one for each peer; moves followers that lag on.
    pub(super) fn flush(&mut self, peers: &mut Peers, operations: &mut Vec<Operation>) {
        let Self {
            outbox,
            catch_ups,
            reads,
            ..
        } = self;
        let mut sender = Sender {
            replicas: &mut self.replicas,
            log: &mut self.log,
            peers,
            now: self.now,
            pieces: &mut self.pieces,
            mutants: self.config.mutants,
        };
        for (slot, to, message) in outbox.drain(..) {
            sender.send(catch_ups, slot, to, message);
        }
        catch_ups.advance(&mut sender, reads, operations);
    }

    /// Entries for a follower were read, or could not be.
    pub(super) fn on_read_for_follower(
        &mut self,
        peers: &mut Peers,
        follower: (ReplicaSlot, NodeId),
        id: u64,
        records: Result<RecordBytes, ReadError>,
    ) {
        let mut sender = Sender {
            replicas: &mut self.replicas,
            log: &mut self.log,
            peers,
            now: self.now,
            pieces: &mut self.pieces,
            mutants: self.config.mutants,
        };
        self.catch_ups.on_read(&mut sender, follower, id, records);
    }
}

impl Sender<'_> {
    fn send(&mut self, catch_ups: &mut CatchUps, slot: ReplicaSlot, to: NodeId, message: Message) {
        let lost = self.takes_full_for_lost(to);
        let Some(replica) = self.replicas.get_mut(slot) else {
            return;
        };
        match message.body {
            Body::AppendEntries(request) if request.count > 0 => {
                let term = message.term;
                let append = Append { term, request };
                if !self.peers.is_connected(to) || lost {
                    replica.raft.report_unreachable(to);
                } else if catch_ups.contains(slot, to) {
                    catch_ups.queue(slot, to, append);
                } else if let Some(rest) = self.send_cached(slot, to, append) {
                    catch_ups.queue(slot, to, rest);
                }
            }
            Body::AppendEntries(heartbeat) => {
                let first = catch_ups.first_place(self, (slot, to), message.term);
                let prev_log = first.unwrap_or(heartbeat.prev_log);
                let heartbeat = AppendEntries {
                    prev_log,
                    ..heartbeat
                };
                self.send_head(slot, to, &Message::new(message.term, heartbeat));
            }
            _ => self.send_head(slot, to, &message),
        }
    }

    /// A queue without room is none that is gone: entries wait for it.
    fn takes_full_for_lost(&mut self, to: NodeId) -> bool {
        self.mutants.is(Mutant::FullQueueIsUnreachable) && self.peers.records_room(to).is_none()
    }

    fn send_head(&mut self, slot: ReplicaSlot, to: NodeId, message: &Message) {
        let head = wire::head(self.replicas[slot].id, message);
        self.peers.push_head(to, &head);
        if matches!(message.body, Body::AppendEntries(_) | Body::RequestVote(_)) {
            self.peers.on_asked(self.now, to);
        }
    }

    /// Whether the leader that made an AppendEntries still leads and awaits a response to it.
    ///
    /// A leader's log only grows, so that the entries it names are those it named when it was made;
    /// a replica that leads no more may have overridden them since.
    pub(super) fn awaits(&self, (slot, to): (ReplicaSlot, NodeId), append: &Append) -> bool {
        let last = append.request.last_index();
        let awaits = |raft: &pontoon_raft::Raft| {
            raft.current_term() == append.term && raft.awaits_response(to, last)
        };
        let replica = self.replicas.get(slot);
        replica.is_some_and(|replica| awaits(&replica.raft))
            || self.mutants.is(Mutant::SendsOverridden)
    }

    /// Whether the log has let go of the first entry of an AppendEntries.
    pub(super) fn is_compacted(&self, slot: ReplicaSlot, append: &Append) -> bool {
        let compacted = self.replicas[slot].raft.compacted().index;
        append.request.prev_log.index < compacted
    }

    pub(super) fn report_unreachable(&mut self, slot: ReplicaSlot, to: NodeId) {
        if let Some(replica) = self.replicas.get_mut(slot) {
            replica.raft.report_unreachable(to);
        }
    }

    /// Most bytes that are read ahead of what a peer takes.
    pub(super) fn read_ahead_max(&self) -> usize {
        self.peers.records_bytes_max()
    }

    /// Begins to read entries back from `first` on, as many as lie together, if a buffer is free.
    pub(super) fn begin_read(&mut self, slot: ReplicaSlot, first: LogIndex) -> Option<DiskOp> {
        let replica = &self.replicas[slot];
        let entries = first..=replica.raft.last_index();
        self.log.read_for_peer(replica.id, entries, usize::MAX)
    }

    /// Sends what memory has of an AppendEntries and the peer takes; gives the rest of it, if any.
    fn send_cached(&mut self, slot: ReplicaSlot, to: NodeId, append: Append) -> Option<Append> {
        if !self.awaits((slot, to), &append) {
            return None;
        }
        let mut append = append;
        while let Some(room) = self.peers.records_room(to) {
            match self.send_cached_piece(slot, to, append, room) {
                Ok(rest) => append = rest?,
                Err(append) => return Some(append),
            }
        }
        Some(append)
    }

    /// Sends the first entries of an AppendEntries, as many as fit into `room` bytes, if they are
    /// in memory; gives the rest of it, if any.
    ///
    /// # Errors
    /// The whole of it, if its first entry is not in memory.
    pub(super) fn send_cached_piece(
        &mut self,
        slot: ReplicaSlot,
        to: NodeId,
        append: Append,
        room: usize,
    ) -> Result<Option<Append>, Append> {
        let group = self.replicas[slot].id;
        let Some((first, last)) = append.request.range() else {
            return Ok(None);
        };
        let found = self.log.cached(group, first..=last, room, self.pieces);
        let CacheRead::Hit { through } = found else {
            return Err(append);
        };
        Ok(self.send_pieces(slot, to, append, through))
    }

    /// Sends entries that were read back; gives the rest of their AppendEntries, if any.
    pub(super) fn send_read(
        &mut self,
        slot: ReplicaSlot,
        to: NodeId,
        append: Append,
        (records, through): (RecordBytes, LogIndex),
    ) -> Option<Append> {
        self.pieces.push(records);
        self.send_pieces(slot, to, append, through)
    }

    /// Sends the entries in `pieces`, which end at `through`; gives the rest of their message.
    fn send_pieces(
        &mut self,
        slot: ReplicaSlot,
        to: NodeId,
        append: Append,
        through: LogIndex,
    ) -> Option<Append> {
        let (part, rest) = self.split(slot, append, through);
        let head = wire::head(self.replicas[slot].id, &part.message());
        self.peers.push_records(to, &head, self.pieces);
        self.peers.on_asked(self.now, to);
        self.replicas[slot].raft.on_sent(self.now, to);
        rest
    }

    /// Parts an AppendEntries after the entry at `through`.
    fn split(
        &self,
        slot: ReplicaSlot,
        append: Append,
        through: LogIndex,
    ) -> (Append, Option<Append>) {
        let term = append.term;
        // Only a mutant sends what its log does not hold any more.
        let entry_term = self.replicas[slot].raft.term_at(through);
        let through = EntryId::new(through, entry_term.unwrap_or_default());
        let (first, rest) = append.request.split_at(through);
        let rest = rest.filter(|_| entry_term.is_some());
        let append = |request| Append { term, request };
        (append(first), rest.map(append))
    }
}
