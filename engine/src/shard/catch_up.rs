//! Followers that lag: entries that left memory are read back, a piece at a time, and sent.

use std::collections::VecDeque;

use pontoon_raft::{LogIndex, NodeId};
use pontoon_storage::{ReadError, RecordBytes, record};

use super::Shard;
use super::send::Append;
use crate::port::Operation;

/// RPCs to one follower whose first entries are not in memory, in order.
#[derive(Debug)]
struct CatchUp {
    slot: usize,
    to: NodeId,
    appends: VecDeque<Append>,
    /// The read for the first one that is under way.
    reading: Option<u64>,
}

/// All followers that lag. The windows of its leader bound the queue of each.
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
    pub(super) fn queue(&mut self, slot: usize, to: NodeId, append: Append) {
        let known = |lag: &&mut CatchUp| lag.slot == slot && lag.to == to;
        match self.lagging.iter_mut().find(known) {
            Some(lag) => lag.appends.push_back(append),
            None => self.lagging.push(CatchUp {
                slot,
                to,
                appends: VecDeque::from([append]),
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
            !lag.appends.is_empty()
        });
        debug_assert!(
            self.catch_ups.lagging.is_empty(),
            "nothing is queued meanwhile"
        );
        self.catch_ups.lagging = lagging;
    }

    fn advance(&mut self, lag: &mut CatchUp, operations: &mut Vec<Operation>) {
        while let Some(append) = lag.appends.pop_front() {
            if !self.still_leads(lag.slot, append.term) {
                lag.appends.clear();
                return;
            }
            let Some(rest) = self.send_cached(lag.slot, lag.to, append) else {
                continue;
            };
            let Some((first, last)) = rest.request.range() else {
                continue;
            };
            if first <= self.replicas[lag.slot].raft.compacted().index {
                // Every member has them by now: this follower says anew what it lacks.
                lag.appends.clear();
                self.replicas[lag.slot].raft.report_unreachable(lag.to);
                return;
            }
            lag.appends.push_front(rest);
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
        let append = lag.appends.pop_front();
        let (Ok(records), Some(append)) = (records, append) else {
            self.catch_ups.forget(slot, to);
            self.replicas[slot].raft.report_unreachable(to);
            return true;
        };
        if !self.still_leads(slot, append.term) {
            self.catch_ups.forget(slot, to);
            return true;
        }
        let Some(through) = last_index(records) else {
            self.catch_ups.forget(slot, to);
            return true;
        };
        let (part, rest) = self.split(slot, append, through);
        self.push_head(slot, to, &part.message(), records.len());
        if let Some(connection) = self.peers.connection(to) {
            connection.push_piece(records.clone());
        }
        if let Some(rest) = rest
            && let Some(lag) = self
                .catch_ups
                .lagging
                .iter_mut()
                .find(|lag| lag.slot == slot && lag.to == to)
        {
            lag.appends.push_front(rest);
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
