//! From messages to frames: heads, and entries where they lie in the log's memory.

use pontoon_raft::{AppendEntries, Body, EntryId, LogIndex, Message, NodeId, Term};
use pontoon_storage::{CacheRead, ReadError, RecordBytes, SegmentLog};

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
        records: &Result<RecordBytes, ReadError>,
    ) {
        let mut sender = Sender {
            replicas: &mut self.replicas,
            log: &mut self.log,
            peers,
            pieces: &mut self.pieces,
            mutants: self.config.mutants,
        };
        self.catch_ups.on_read(&mut sender, follower, id, records);
    }
}

impl Sender<'_> {
    fn send(&mut self, catch_ups: &mut CatchUps, slot: ReplicaSlot, to: NodeId, message: Message) {
        let Some(replica) = self.replicas.get_mut(slot) else {
            return;
        };
        let append = match message.body {
            Body::AppendEntries(request) if request.count > 0 => {
                let term = message.term;
                Some(Append { term, request })
            }
            _ => None,
        };
        if self.peers.connection(to).is_none() {
            if append.is_some() {
                replica.raft.report_unreachable(to);
            }
            return;
        }
        let Some(append) = append else {
            let head = wire::head(replica.id, &message);
            return self.peers.push_head(to, &head, 0);
        };
        if !self.still_leads(slot, append.term) {
            return;
        }
        if catch_ups.contains(slot, to) {
            catch_ups.queue(slot, to, append);
        } else if let Some(rest) = self.send_cached(slot, to, append) {
            catch_ups.queue(slot, to, rest);
        }
    }

    /// A leader's log only grows, so that the entries an AppendEntries names are those it named
    /// when it was made; a replica that leads no more may have overridden them since.
    pub(super) fn still_leads(&self, slot: ReplicaSlot, term: Term) -> bool {
        let leads = |raft: &pontoon_raft::Raft| raft.is_leader() && raft.current_term() == term;
        let replica = self.replicas.get(slot);
        replica.is_some_and(|replica| leads(&replica.raft))
            || self.mutants.is(Mutant::SendsOverridden)
    }

    /// Sends what memory has of an AppendEntries; gives the rest of it, if any.
    pub(super) fn send_cached(
        &mut self,
        slot: ReplicaSlot,
        to: NodeId,
        mut append: Append,
    ) -> Option<Append> {
        let group = self.replicas[slot].id;
        let bytes_max = self.peers.records_bytes_max();
        while let Some((first, last)) = append.request.range() {
            if self.peers.is_full(to)? {
                self.replicas[slot].raft.report_unreachable(to);
                return None;
            }
            let found = self.log.cached(group, first..=last, bytes_max, self.pieces);
            let CacheRead::Hit { through } = found else {
                return Some(append);
            };
            let (part, rest) = self.split(slot, append, through);
            let head = wire::head(group, &part.message());
            self.peers.push_records(to, &head, self.pieces);
            append = rest?;
        }
        None
    }

    /// Sends entries that were read back; gives the rest of their AppendEntries, if any.
    pub(super) fn send_read(
        &mut self,
        slot: ReplicaSlot,
        to: NodeId,
        append: Append,
        (records, through): (&RecordBytes, LogIndex),
    ) -> Option<Append> {
        let (part, rest) = self.split(slot, append, through);
        let head = wire::head(self.replicas[slot].id, &part.message());
        self.pieces.push(records.clone());
        self.peers.push_records(to, &head, self.pieces);
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
