//! Followers that lag: entries that left memory are read back, a piece at a time, and sent.

use std::collections::VecDeque;

use pontoon_raft::{LogIndex, NodeId};
use pontoon_storage::{ReadError, RecordBytes, record};

use super::reads::{ReadPurpose, Reads};
use super::replicas::ReplicaSlot;
use super::send::{Append, Sender};
use crate::port::Operation;

/// RPCs to one follower whose first entries are not in memory, in order.
#[derive(Debug)]
struct CatchUp {
    slot: ReplicaSlot,
    to: NodeId,
    appends: VecDeque<Append>,
    /// The read for the first one that is under way.
    reading: Option<u64>,
}

impl CatchUp {
    fn is(&self, slot: ReplicaSlot, to: NodeId) -> bool {
        self.slot == slot && self.to == to
    }
}

/// All followers that lag. The windows of its leader bound the queue of each.
#[derive(Debug, Default)]
pub(super) struct CatchUps {
    lagging: Vec<CatchUp>,
}

impl CatchUps {
    pub(super) fn contains(&self, slot: ReplicaSlot, to: NodeId) -> bool {
        self.lagging.iter().any(|lag| lag.is(slot, to))
    }

    /// Sends this after what already waits for that follower.
    pub(super) fn queue(&mut self, slot: ReplicaSlot, to: NodeId, append: Append) {
        if !self.contains(slot, to) {
            tracing::debug!(peer = %to, ?slot, "behind: its entries are read back from the disk");
        }
        match self.lagging.iter_mut().find(|lag| lag.is(slot, to)) {
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

    /// Entries for a follower were read, or could not be.
    pub(super) fn on_read(
        &mut self,
        sender: &mut Sender<'_>,
        (slot, to): (ReplicaSlot, NodeId),
        id: u64,
        records: &Result<RecordBytes, ReadError>,
    ) {
        let mut lagging = self.lagging.iter_mut();
        let Some(position) = lagging.position(|lag| lag.reading == Some(id)) else {
            return;
        };
        let lag = &mut self.lagging[position];
        lag.reading = None;
        let append = lag.appends.pop_front();
        let Some(replica) = sender.replicas.get_mut(slot) else {
            self.lagging.remove(position);
            return;
        };
        let (Ok(records), Some(append)) = (records, append) else {
            replica.raft.report_unreachable(to);
            self.lagging.remove(position);
            return;
        };
        match last_index(records).filter(|_| sender.still_leads(slot, append.term)) {
            None => {
                self.lagging.remove(position);
            }
            Some(through) => {
                if let Some(rest) = sender.send_read(slot, to, append, (records, through)) {
                    lag.appends.push_front(rest);
                }
            }
        }
    }
}

impl CatchUp {
    /// Sends what has come into memory, and begins a read for the rest. False if nothing is left.
    fn advance(
        &mut self,
        sender: &mut Sender<'_>,
        reads: &mut Reads,
        operations: &mut Vec<Operation>,
    ) -> bool {
        let (slot, to) = (self.slot, self.to);
        while self.reading.is_none()
            && let Some(append) = self.appends.pop_front()
        {
            if !sender.still_leads(slot, append.term) {
                return false;
            }
            let Some(rest) = sender.send_cached(slot, to, append) else {
                continue;
            };
            let Some((first, last)) = rest.request.range() else {
                continue;
            };
            let replica = &mut sender.replicas[slot];
            if first <= replica.raft.compacted().index {
                // Every member has them by now: this follower says anew what it lacks.
                replica.raft.report_unreachable(to);
                return false;
            }
            self.appends.push_front(rest);
            let bytes_max = sender.peers.records_bytes_max();
            let Some(operation) = sender.log.read(replica.id, first..=last, bytes_max) else {
                // All read buffers are in use. A completion brings the next turn.
                return true;
            };
            self.reading = Some(operation.id());
            reads.begin(operation.id(), ReadPurpose::CatchUp { slot, to });
            operations.push(Operation::Disk(operation));
        }
        self.reading.is_some() || !self.appends.is_empty()
    }
}

impl CatchUps {
    /// Moves every follower that lags on.
    pub(super) fn advance(
        &mut self,
        sender: &mut Sender<'_>,
        reads: &mut Reads,
        operations: &mut Vec<Operation>,
    ) {
        self.lagging.retain_mut(|lag| {
            let lags = lag.advance(sender, reads, operations);
            if !lags {
                tracing::debug!(peer = %lag.to, slot = ?lag.slot, "no longer behind");
            }
            lags
        });
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
