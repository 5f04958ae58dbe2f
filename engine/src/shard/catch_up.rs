//! Entries that wait for a follower: until they are read back, or until its connection takes them.
//!
//! They wait as the ranges that Raft named, which cost no memory, and count there as under way, so
//! that the follower's window bounds them. A range is dropped once Raft awaits no response to it:
//! nothing is sent that the follower has, or that is sent in another message.

use std::collections::{BTreeMap, VecDeque};

use pontoon_raft::{EntryId, LogIndex, NodeId, Term};
use pontoon_storage::{DiskOp, ReadError, RecordBytes, record};

use super::reads::{ReadPurpose, Reads};
use super::replicas::ReplicaSlot;
use super::send::{Append, Sender};
use crate::port::Operation;

/// Most reads under way for one node, so that the others find buffers.
const READS_MAX: usize = 2;

/// AppendEntries RPCs to one follower of one group that wait, in order.
#[derive(Debug, Default)]
struct Waiting {
    appends: VecDeque<Append>,
    /// A read for the first one is under way.
    reading: Option<u64>,
    /// The first of its entries, copied out of the read's buffer.
    read: Option<RecordBytes>,
    /// It stands in its node's list of those that can be moved on.
    listed: bool,
}

/// What waits for the groups' replicas on one node.
#[derive(Debug, Default)]
struct Follower {
    by_replica: BTreeMap<ReplicaSlot, Waiting>,
    /// Those that wait for nothing but their turn, in the order in which they get it.
    ready: VecDeque<ReplicaSlot>,
    /// Reads under way.
    reads: usize,
    /// Bytes that were read and wait to be sent.
    read_bytes: usize,
}

/// All entries that wait for followers.
#[derive(Debug, Default)]
pub(super) struct CatchUps {
    followers: BTreeMap<NodeId, Follower>,
}

/// What became of a follower that was to be moved on by one step.
enum Step {
    /// Something was sent, or dropped.
    Moved,
    /// Its next entries are not in memory.
    NeedsRead,
}

impl CatchUps {
    /// Whether entries of this group wait for that follower: others go behind them.
    pub(super) fn contains(&self, slot: ReplicaSlot, to: NodeId) -> bool {
        let follower = self.followers.get(&to);
        follower.is_some_and(|follower| follower.by_replica.contains_key(&slot))
    }

    /// Sends this after what already waits for that follower.
    pub(super) fn queue(&mut self, slot: ReplicaSlot, to: NodeId, append: Append) {
        let follower = self.followers.entry(to).or_default();
        let waiting = follower.by_replica.entry(slot).or_default();
        waiting.appends.push_back(append);
        if waiting.reading.is_none() {
            follower.list(slot);
        }
    }

    /// The place of the first entry that waits for a follower: a heartbeat names it, because
    /// everything before it is on its way and nothing behind is.
    pub(super) fn first_place(
        &self,
        sender: &Sender<'_>,
        (slot, to): (ReplicaSlot, NodeId),
        term: Term,
    ) -> Option<EntryId> {
        let waiting = self.followers.get(&to)?.by_replica.get(&slot)?;
        let awaited = |append: &&Append| append.term == term && sender.awaits((slot, to), append);
        let first = waiting.appends.iter().find(awaited)?;
        Some(first.request.prev_log)
    }

    /// The connection is gone, and with it what was to go over it.
    pub(super) fn forget_peer(&mut self, to: NodeId) {
        self.followers.remove(&to);
    }

    /// Entries for a follower were read, or could not be.
    pub(super) fn on_read(
        &mut self,
        sender: &mut Sender<'_>,
        (slot, to): (ReplicaSlot, NodeId),
        id: u64,
        records: Result<RecordBytes, ReadError>,
    ) {
        let Some(follower) = self.followers.get_mut(&to) else {
            return;
        };
        let waiting = follower.by_replica.get_mut(&slot);
        let Some(waiting) = waiting.filter(|waiting| waiting.reading == Some(id)) else {
            return;
        };
        waiting.reading = None;
        follower.reads -= 1;
        match records {
            Ok(mut records) => {
                // The buffer is wanted for other reads, however long this peer takes.
                records.detach();
                follower.read_bytes += records.len();
                waiting.read = Some(records);
            }
            Err(_) => {
                // The follower says anew what it lacks.
                waiting.appends.clear();
                sender.report_unreachable(slot, to);
            }
        }
        follower.list(slot);
    }

    /// Moves followers on as far as their connections and the read buffers allow.
    pub(super) fn advance(
        &mut self,
        sender: &mut Sender<'_>,
        reads: &mut Reads,
        operations: &mut Vec<Operation>,
    ) {
        for (&to, follower) in &mut self.followers {
            follower.advance(to, sender, |operation, slot| {
                reads.begin(operation.id(), ReadPurpose::CatchUp { slot, to });
                operations.push(Operation::Disk(operation));
            });
        }
    }

    /// Appends that wait, and bytes that were read for them, of all groups and followers.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn waiting(&self) -> (usize, usize) {
        let followers = self.followers.values();
        let count = |follower: &Follower| {
            let waiting = follower.by_replica.values();
            waiting.map(|waiting| waiting.appends.len()).sum::<usize>()
        };
        followers.fold((0, 0), |(appends, bytes), follower| {
            (appends + count(follower), bytes + follower.read_bytes)
        })
    }
}

impl Follower {
    /// Gives a replica its turn, after those that wait for theirs.
    fn list(&mut self, slot: ReplicaSlot) {
        if let Some(waiting) = self.by_replica.get_mut(&slot)
            && !std::mem::replace(&mut waiting.listed, true)
        {
            self.ready.push_back(slot);
        }
    }

    /// One step for each replica in turn, while the peer takes entries.
    fn advance(
        &mut self,
        to: NodeId,
        sender: &mut Sender<'_>,
        mut begin: impl FnMut(DiskOp, ReplicaSlot),
    ) {
        let mut without_buffer = 0;
        while without_buffer < self.ready.len()
            && let Some(room) = sender.peers.records_room(to)
            && let Some(slot) = self.ready.pop_front()
        {
            let Some(waiting) = self.by_replica.get_mut(&slot) else {
                continue;
            };
            waiting.listed = false;
            let before = waiting.read_bytes();
            let step = waiting.advance(sender, (slot, to), room);
            self.read_bytes -= before - waiting.read_bytes();
            if waiting.appends.is_empty() {
                self.by_replica.remove(&slot);
                continue;
            }
            if matches!(step, Step::NeedsRead) {
                let may_read = self.reads < READS_MAX && self.read_bytes < sender.read_ahead_max();
                let operation = may_read.then(|| waiting.begin_read(sender, slot)).flatten();
                if let Some(operation) = operation {
                    self.reads += 1;
                    begin(operation, slot);
                    continue;
                }
                // A completion brings the next turn.
                without_buffer += 1;
            }
            self.list(slot);
        }
    }
}

impl Waiting {
    fn read_bytes(&self) -> usize {
        self.read.as_ref().map_or(0, RecordBytes::len)
    }

    /// Sends one piece of the first append, from what was read or what is in memory.
    fn advance(
        &mut self,
        sender: &mut Sender<'_>,
        (slot, to): (ReplicaSlot, NodeId),
        room: usize,
    ) -> Step {
        let Some(append) = self.appends.pop_front() else {
            return Step::Moved;
        };
        let read = self.read.take();
        if !sender.awaits((slot, to), &append) {
            return Step::Moved;
        }
        if sender.is_compacted(slot, &append) {
            // Every member has them by now, or this one is left behind: it says what it lacks.
            self.appends.clear();
            sender.report_unreachable(slot, to);
            return Step::Moved;
        }
        let rest = match read {
            Some(records) => {
                let (piece, through) = first_records(&records, room);
                if piece.len() < records.len() {
                    self.read = Some(records.slice(piece.len()..records.len()));
                }
                sender.send_read(slot, to, append, (piece, through))
            }
            None => match sender.send_cached_piece(slot, to, append, room) {
                Ok(rest) => rest,
                Err(append) => {
                    self.appends.push_front(append);
                    return Step::NeedsRead;
                }
            },
        };
        match rest {
            Some(rest) => self.appends.push_front(rest),
            // What was read is of this append alone.
            None => self.read = None,
        }
        Step::Moved
    }

    /// Begins to read the entries of the first append, unless no buffer is free.
    fn begin_read(&mut self, sender: &mut Sender<'_>, slot: ReplicaSlot) -> Option<DiskOp> {
        let operation = sender.begin_read(slot, self.appends.front()?)?;
        self.reading = Some(operation.id());
        Some(operation)
    }
}

/// The first records that fit into so many bytes, at least one, and the index of the last of them.
fn first_records(records: &RecordBytes, bytes_max: usize) -> (RecordBytes, LogIndex) {
    let bytes = records.as_ref();
    let (mut length, mut last) = (0, LogIndex(0));
    while length < bytes.len() {
        let record = record::parse_unchecked(&bytes[length..]);
        let record = record.expect("records were checked when they were read");
        if length > 0 && length + record.encoded_bytes > bytes_max {
            break;
        }
        length += record.encoded_bytes;
        last = record.index;
    }
    (records.slice(0..length), last)
}

/// Index of the last record.
pub(super) fn last_index(records: &RecordBytes) -> Option<LogIndex> {
    (!records.is_empty()).then(|| first_records(records, usize::MAX).1)
}
