//! From messages to frames: heads, and entries where they lie in the log's memory.

use pontoon_raft::{AppendEntries, Body, EntryId, GroupId, LogIndex, Message, NodeId, Term};
use pontoon_storage::CacheRead;
use pontoon_transport::HEAD_BYTES;

use super::Shard;
use super::mutant::Mutant;
use crate::port::Operation;
use crate::wire;

/// Most heads in one frame, well below what its header can say.
const HEADS_PER_FRAME_MAX: usize = 4096;

impl Shard {
    /// Puts the messages of this turn into frames, one for each peer.
    pub(super) fn flush(&mut self, operations: &mut Vec<Operation>) {
        let mut outbox = std::mem::take(&mut self.outbox);
        for (slot, to, message) in outbox.drain(..) {
            self.send(slot, to, message);
        }
        self.outbox = outbox;
        self.advance_catch_ups(operations);
        self.drive_connections(operations);
    }

    fn send(&mut self, slot: usize, to: NodeId, message: Message) {
        let append = match message.body {
            Body::AppendEntries(request) if request.count > 0 => {
                let term = message.term;
                Some(Append { term, request })
            }
            _ => None,
        };
        if self.peers.connection(to).is_none() {
            if append.is_some() {
                self.replicas[slot].raft.report_unreachable(to);
            }
            return;
        }
        let Some(append) = append else {
            return self.push_head(slot, to, &message, 0);
        };
        if !self.still_leads(slot, append.term) {
            return;
        }
        if self.catch_ups.contains(slot, to) {
            self.catch_ups.queue(slot, to, append);
            return;
        }
        if let Some(rest) = self.send_cached(slot, to, append) {
            self.catch_ups.queue(slot, to, rest);
        }
    }

    /// A leader's log only grows, so that the entries an AppendEntries names are those it named
    /// when it was made; a replica that leads no more may have overridden them since.
    pub(super) fn still_leads(&self, slot: usize, term: Term) -> bool {
        if self.is(Mutant::SendsOverridden) {
            return true;
        }
        let raft = &self.replicas[slot].raft;
        raft.is_leader() && raft.current_term() == term
    }

    /// Sends what memory has of an AppendEntries; gives the rest of it, if any.
    pub(super) fn send_cached(
        &mut self,
        slot: usize,
        to: NodeId,
        mut append: Append,
    ) -> Option<Append> {
        let group = self.replicas[slot].id;
        let bytes_max = self.peers.limits().frame_bytes_max as usize / 2;
        while let Some((first, last)) = append.request.range() {
            let connection = self.peers.connection(to)?;
            if connection.queued_bytes() > self.config.peer_queue_bytes_max {
                self.replicas[slot].raft.report_unreachable(to);
                return None;
            }
            let mut pieces = std::mem::take(&mut self.pieces);
            let found = self.log.cached(group, first..=last, bytes_max, &mut pieces);
            let CacheRead::Hit { through } = found else {
                self.pieces = pieces;
                return Some(append);
            };
            let bytes = pieces.iter().map(|piece| piece.len()).sum();
            let (part, rest) = self.split(slot, append, through);
            self.push_head(slot, to, &part.message(), bytes);
            if let Some(connection) = self.peers.connection(to) {
                for piece in pieces.drain(..) {
                    connection.push_piece(piece);
                }
            }
            self.pieces = pieces;
            append = rest?;
        }
        None
    }

    /// Parts an AppendEntries behind the entry at `through`.
    pub(super) fn split(
        &self,
        slot: usize,
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

    /// Adds a head to the open frame of a connection, or to the next one if `bytes` of records
    /// behind it would not fit.
    pub(super) fn push_head(&mut self, slot: usize, to: NodeId, message: &Message, bytes: usize) {
        let group: GroupId = self.replicas[slot].id;
        let limit = self.peers.limits().frame_bytes_max as usize;
        let Some(connection) = self.peers.connection(to) else {
            return;
        };
        let heads = connection.open_frame_heads();
        if connection.open_frame_bytes() + HEAD_BYTES + bytes > limit
            || heads >= HEADS_PER_FRAME_MAX
        {
            connection.finish_frame();
        }
        connection.push_head(&wire::head(group, message));
        self.statistics.messages_sent += 1;
    }
}

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
