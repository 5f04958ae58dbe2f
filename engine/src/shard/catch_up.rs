//! Followers that lag: entries that left memory are read back, a piece at a time, and sent.

use std::collections::VecDeque;

use pontoon_raft::{LogIndex, Message, NodeId};
use pontoon_storage::{ReadError, RecordBytes, record};

use super::Shard;
use super::send::{entries_of, first_part};
use crate::port::Operation;

/// Messages to one follower whose first entries are not in memory, in order.
#[derive(Debug)]
struct CatchUp {
    slot: usize,
    to: NodeId,
    messages: VecDeque<Message>,
    /// The read for the first message that is under way.
    reading: Option<u64>,
}

/// All followers that lag. The core's windows bound the messages of each.
#[derive(Debug, Default)]
pub(super) struct CatchUps {
    lagging: Vec<CatchUp>,
}

impl CatchUps {
    pub(super) fn contains(&self, slot: usize, to: NodeId) -> bool {
        self.lagging
            .iter()
            .any(|lag| lag.slot == slot && lag.to == to)
    }

    /// Sends this after what already waits for that follower.
    pub(super) fn queue(&mut self, slot: usize, to: NodeId, message: Message) {
        let known = |lag: &&mut CatchUp| lag.slot == slot && lag.to == to;
        match self.lagging.iter_mut().find(known) {
            Some(lag) => lag.messages.push_back(message),
            None => self.lagging.push(CatchUp {
                slot,
                to,
                messages: VecDeque::from([message]),
                reading: None,
            }),
        }
    }

    pub(super) fn forget_peer(&mut self, to: NodeId) {
        self.lagging.retain(|lag| lag.to != to);
    }

    fn forget(&mut self, slot: usize, to: NodeId) {
        self.lagging.retain(|lag| lag.slot != slot || lag.to != to);
    }
}

impl Shard {
    /// Sends what has come into memory, and asks the disk for the rest.
    pub(super) fn advance_catch_ups(&mut self, operations: &mut Vec<Operation>) {
        let mut lagging = std::mem::take(&mut self.catch_ups.lagging);
        lagging.retain_mut(|lag| {
            if lag.reading.is_some() {
                return true;
            }
            self.advance(lag, operations);
            !lag.messages.is_empty()
        });
        debug_assert!(
            self.catch_ups.lagging.is_empty(),
            "nothing is queued meanwhile"
        );
        self.catch_ups.lagging = lagging;
    }

    fn advance(&mut self, lag: &mut CatchUp, operations: &mut Vec<Operation>) {
        while let Some(message) = lag.messages.pop_front() {
            if !self.still_leads(lag.slot, &message) {
                lag.messages.clear();
                return;
            }
            let Some(rest) = self.send_cached(lag.slot, lag.to, message) else {
                continue;
            };
            let Some((first, last)) = entries_of(&rest) else {
                continue;
            };
            if first <= self.replicas[lag.slot].raft.compacted().0 {
                // Every member has them by now: this follower says anew what it lacks.
                lag.messages.clear();
                self.replicas[lag.slot].raft.report_unreachable(lag.to);
                return;
            }
            lag.messages.push_front(rest);
            let group = self.replicas[lag.slot].id;
            let bytes_max = self.peers.limits().frame_bytes_max as usize / 2;
            // None: all read buffers are in use. A completion brings the next turn.
            if let Some(operation) = self.log.read(group, first..=last, bytes_max) {
                lag.reading = Some(operation.id());
                operations.push(Operation::Disk(operation));
            }
            return;
        }
    }

    /// Entries for a follower were read. True if the read was one of these.
    pub(super) fn on_read_for_peer(
        &mut self,
        id: u64,
        records: &Result<RecordBytes, ReadError>,
    ) -> bool {
        let lagging = &mut self.catch_ups.lagging;
        let Some(lag) = lagging.iter_mut().find(|lag| lag.reading == Some(id)) else {
            return false;
        };
        let (slot, to) = (lag.slot, lag.to);
        lag.reading = None;
        let message = lag.messages.pop_front();
        let (Ok(records), Some(message)) = (records, message) else {
            self.catch_ups.forget(slot, to);
            self.replicas[slot].raft.report_unreachable(to);
            return true;
        };
        if !self.still_leads(slot, &message) {
            self.catch_ups.forget(slot, to);
            return true;
        }
        let Some(through) = last_index(records) else {
            self.catch_ups.forget(slot, to);
            return true;
        };
        self.push_head(slot, to, &first_part(&message, through), records.len());
        if let Some(connection) = self.peers.connection(to) {
            connection.push_piece(records.clone());
        }
        if let Some(rest) = self.rest(slot, message, through)
            && let Some(lag) = self
                .catch_ups
                .lagging
                .iter_mut()
                .find(|lag| lag.slot == slot && lag.to == to)
        {
            lag.messages.push_front(rest);
        }
        true
    }
}

/// Index of the last record.
pub(super) fn last_index(records: &RecordBytes) -> Option<LogIndex> {
    let mut bytes = records.as_ref();
    let mut last = None;
    while !bytes.is_empty() {
        let record = record::parse_unchecked(bytes).ok()?;
        last = Some(record.index);
        bytes = &bytes[record.encoded_bytes..];
    }
    last
}
