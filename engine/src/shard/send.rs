//! From the core's messages to frames: heads, and entries where they lie in the log's memory.

use pontoon_raft::{GroupId, LogIndex, Message, NodeId};
use pontoon_storage::CacheRead;
use pontoon_transport::HEAD_BYTES;

use super::Shard;
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
        let entries = matches!(message, Message::AppendEntries { count, .. } if count > 0);
        if self.peers.connection(to).is_none() {
            if entries {
                self.replicas[slot].raft.report_unreachable(to);
            }
            return;
        }
        if !entries {
            self.push_head(slot, to, &message, 0);
            return;
        }
        if !self.still_leads(slot, &message) {
            return;
        }
        if self.catch_ups.contains(slot, to) {
            self.catch_ups.queue(slot, to, message);
            return;
        }
        if let Some(rest) = self.send_cached(slot, to, message) {
            self.catch_ups.queue(slot, to, rest);
        }
    }

    /// A leader's log only grows, so that the entries a message names are those it named when the
    /// core asked for it; a replica that leads no more may have overridden them since.
    pub(super) fn still_leads(&self, slot: usize, message: &Message) -> bool {
        #[cfg(any(test, feature = "simulation"))]
        if self.is(super::Mutant::SendsOverridden) {
            return true;
        }
        let raft = &self.replicas[slot].raft;
        raft.is_leader() && raft.current_term() == message.term()
    }

    /// Sends what memory has of an AppendEntries; gives the rest of the message, if any.
    pub(super) fn send_cached(
        &mut self,
        slot: usize,
        to: NodeId,
        mut message: Message,
    ) -> Option<Message> {
        let group = self.replicas[slot].id;
        let bytes_max = self.peers.limits().frame_bytes_max as usize / 2;
        while let Some((first, last)) = entries_of(&message) {
            let connection = self.peers.connection(to)?;
            if connection.queued_bytes() > self.config.peer_queue_bytes_max {
                self.replicas[slot].raft.report_unreachable(to);
                return None;
            }
            let mut pieces = std::mem::take(&mut self.pieces);
            let found = self.log.cached(group, first..=last, bytes_max, &mut pieces);
            if let CacheRead::Hit { through } = found {
                let bytes = pieces.iter().map(|piece| piece.len()).sum();
                self.push_head(slot, to, &first_part(&message, through), bytes);
                if let Some(connection) = self.peers.connection(to) {
                    for piece in pieces.drain(..) {
                        connection.push_piece(piece);
                    }
                }
                self.pieces = pieces;
                message = self.rest(slot, message, through)?;
            } else {
                self.pieces = pieces;
                return Some(message);
            }
        }
        None
    }

    /// What is left of an AppendEntries once the entries through `through` are sent; `None` if
    /// nothing is.
    pub(super) fn rest(&self, slot: usize, message: Message, through: LogIndex) -> Option<Message> {
        let Message::AppendEntries {
            term,
            prev_log_index,
            count,
            leader_commit,
            round,
            replicated_everywhere,
            ..
        } = message
        else {
            return None;
        };
        let sent = u32::try_from(through.0 - prev_log_index.0).expect("a part of the message");
        if sent == count {
            return None;
        }
        Some(Message::AppendEntries {
            term,
            prev_log_index: through,
            prev_log_term: self.term_at(slot, through)?,
            count: count - sent,
            leader_commit,
            round,
            replicated_everywhere,
        })
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

/// First and last index of the entries a message carries.
pub(super) fn entries_of(message: &Message) -> Option<(LogIndex, LogIndex)> {
    match *message {
        Message::AppendEntries {
            prev_log_index,
            count,
            ..
        } if count > 0 => Some((prev_log_index.next(), prev_log_index.plus(u64::from(count)))),
        _ => None,
    }
}

/// The same message with no entries behind `through`.
pub(super) fn first_part(message: &Message, through: LogIndex) -> Message {
    let mut part = *message;
    if let Message::AppendEntries {
        prev_log_index,
        count,
        ..
    } = &mut part
    {
        *count = u32::try_from(through.0 - prev_log_index.0).expect("a part of the message");
    }
    part
}
