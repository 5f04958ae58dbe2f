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
    /// The first of its entries, and more behind them, copied out of the read's buffer.
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
    /// Those whose next entries are to be read back, likewise.
    to_read: VecDeque<ReplicaSlot>,
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
            // They were moved within the log, or are not wanted any more: looked at anew. What was
            // sent before them is on its way, and not to be sent again.
            Err(ReadError::Changed { .. }) => {}
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
        let now = sender.now;
        for (&to, follower) in &mut self.followers {
            follower.advance(to, sender);
            follower.begin_reads(sender, |operation, slot| {
                let purpose = ReadPurpose::CatchUp { slot, to };
                reads.begin(operation.id(), purpose, now);
                operations.push(Operation::Disk(operation));
            });
        }
    }

    /// Appends that wait, and bytes that were read for them, of all groups and followers.
    #[cfg(feature = "simulation")]
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

    /// One step after the other for each replica in turn, while the peer takes entries.
    fn advance(&mut self, to: NodeId, sender: &mut Sender<'_>) {
        while let Some(room) = sender.peers.records_room(to)
            && let Some(slot) = self.ready.pop_front()
        {
            let Some(waiting) = self.by_replica.get_mut(&slot) else {
                continue;
            };
            waiting.listed = false;
            if waiting.reading.is_some() {
                continue;
            }
            let before = waiting.read_bytes();
            let step = waiting.advance(sender, (slot, to), room);
            self.read_bytes -= before - waiting.read_bytes();
            if waiting.appends.is_empty() {
                // What was read beyond them is wanted next, as a rule.
                if waiting.read.is_none() {
                    self.by_replica.remove(&slot);
                }
                continue;
            }
            match step {
                Step::Moved => self.list(slot),
                Step::NeedsRead => {
                    waiting.listed = true;
                    self.to_read.push_back(slot);
                }
            }
        }
    }

    /// Begins reads as far as there are buffers, and as little was read ahead of what the peer
    /// takes. A completion brings the next turn.
    fn begin_reads(
        &mut self,
        sender: &mut Sender<'_>,
        mut begin: impl FnMut(DiskOp, ReplicaSlot),
    ) {
        if !self.to_read.is_empty() && self.read_bytes >= sender.read_ahead_max() {
            self.forget_unwanted();
        }
        while self.reads < READS_MAX
            && self.read_bytes < sender.read_ahead_max()
            && let Some(slot) = self.to_read.pop_front()
        {
            let waiting = self.by_replica.get_mut(&slot);
            let Some(waiting) = waiting.filter(|waiting| waiting.reading.is_none()) else {
                continue;
            };
            let Some(operation) = waiting.begin_read(sender, slot) else {
                // No buffer is free, or the entries are not there any more: looked at anew.
                return self.ready.push_back(slot);
            };
            waiting.listed = false;
            self.reads += 1;
            begin(operation, slot);
        }
    }

    /// Forgets what was read for replicas for which nothing waits.
    fn forget_unwanted(&mut self) {
        self.by_replica.retain(|_, waiting| {
            let wanted = !waiting.appends.is_empty() || waiting.reading.is_some();
            self.read_bytes -= if wanted { 0 } else { waiting.read_bytes() };
            wanted
        });
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
        // What was read may begin elsewhere, if appends were dropped since.
        let first = append.request.prev_log.index.next();
        let read = self.read.take();
        let read = read.filter(|records| first_index(records) == Some(first));
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
                let last = append.request.last_index();
                let (piece, through) = first_records(&records, room, last);
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
        if let Some(rest) = rest {
            self.appends.push_front(rest);
        }
        Step::Moved
    }

    /// Begins to read the entries of the first append and those behind them, unless no buffer is
    /// free.
    fn begin_read(&mut self, sender: &mut Sender<'_>, slot: ReplicaSlot) -> Option<DiskOp> {
        let first = self.appends.front()?.request.prev_log.index.next();
        let operation = sender.begin_read(slot, first)?;
        self.reading = Some(operation.id());
        Some(operation)
    }
}

/// The first records that fit into so many bytes, at least one and none above `limit`, and the
/// index of the last of them.
fn first_records(
    records: &RecordBytes,
    bytes_max: usize,
    limit: LogIndex,
) -> (RecordBytes, LogIndex) {
    let bytes = records.as_ref();
    let (mut length, mut last) = (0, LogIndex(0));
    while length < bytes.len() && last < limit {
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

/// Index of the first record.
fn first_index(records: &RecordBytes) -> Option<LogIndex> {
    let record = record::parse_unchecked(records.as_ref());
    record.ok().map(|record| record.index)
}

/// Index of the last record.
pub(super) fn last_index(records: &RecordBytes) -> Option<LogIndex> {
    let all = || first_records(records, usize::MAX, LogIndex(u64::MAX)).1;
    (!records.is_empty()).then(all)
}
