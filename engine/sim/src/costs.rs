//! What a quiet window cost: bytes sent to followers, blocks read back, against what was needed.

use std::collections::{BTreeMap, BTreeSet};

use pontoon::port::SocketId;
use pontoon::raft::{AppendOutcome, AppendResponse, Body, LogRoom, Raft, Term};
use pontoon::storage::DiskOp;
use pontoon::{GroupId, LogIndex, NodeId};

use crate::check::Sniffed;
use crate::coverage::RareEvent;
use crate::impairment::Impairment;
use crate::settings::{MILLISECOND, SEGMENT_BYTES};
use crate::world::World;

/// Bytes of entries that may be sent to a follower twice in a window: about one message.
const BYTES_TWICE: u64 = 8 << 10;
/// Blocks of a log are read once for each follower and once to apply, and where a read ends within
/// a frame once more.
const READS_PER_BLOCK: u64 = 2;
/// In a log that is short of room they are also read once for each way round of relocation, which
/// begins at most once for so many bytes that are written otherwise.
const BYTES_PER_ROUND: u64 = SEGMENT_BYTES / 4;
const BLOCK_BYTES: u64 = 4096;
/// Blocks that may be read in vain.
const BLOCKS_IN_VAIN: u64 = 64;

/// What a follower says of its room has come to its leader, over the slowest of links.
const HEARD_AFTER: u64 = 200 * MILLISECOND;

/// What a core asked of its disk in a window.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    pub(crate) bytes_written: u64,
    /// Of the log, when the window began.
    relocated_bytes: u64,
    blocks_read: u64,
    distinct: BTreeSet<(u32, u64)>,
    pub(crate) turns: u64,
}

/// What a leader sends to a follower of a group in a window.
#[derive(Debug)]
struct Transfer {
    term: Term,
    /// The follower had said that it holds the entries up to this one.
    held: LogIndex,
    /// All over one connection: what is lost with another is sent again.
    socket: Option<SocketId>,
    sent: BTreeSet<LogIndex>,
    bytes: u64,
    needed: u64,
    /// The latest round of heartbeats in which the follower had no room, and when it said so.
    refused: Option<(u64, u64)>,
    /// The leader or the connection changed.
    void: bool,
}

/// The transfers of the window, by the leader's place, the follower and the group.
#[derive(Debug, Default)]
pub(crate) struct Costs {
    transfers: BTreeMap<(usize, NodeId, u64), Transfer>,
}

impl World {
    /// A window begins.
    pub(crate) fn count_from_here(&mut self) {
        self.costs.transfers.clear();
        for (position, place) in self.places.iter_mut().enumerate() {
            place.usage = Usage::default();
            let Some(shard) = &place.shard else {
                continue;
            };
            place.usage.relocated_bytes = shard.statistics().log.relocated_bytes;
            for (group, raft) in shard.replicas().filter(|(_, raft)| raft.is_leader()) {
                for peer in raft.status().peers {
                    let transfer = Transfer {
                        term: raft.current_term(),
                        held: peer.match_index,
                        socket: None,
                        sent: BTreeSet::new(),
                        bytes: 0,
                        needed: 0,
                        refused: None,
                        void: false,
                    };
                    let key = (position, peer.id, group.0);
                    self.costs.transfers.insert(key, transfer);
                }
            }
        }
    }

    /// A message leaves.
    pub(crate) fn count_message(
        &mut self,
        position: usize,
        (to, socket): (NodeId, SocketId),
        sniffed: &Sniffed,
    ) {
        let Some(message) = pontoon::simulation::message(&sniffed.head) else {
            return;
        };
        let group = GroupId(sniffed.head.group);
        self.trace.note(
            self.now,
            format_args!("place {position} to node {to} over {socket:?}, group {group}: {message}"),
        );
        self.check_resent(position, (to, socket), (group, &message));
        if let Body::AppendResponse(response) = message.body {
            if response.room == LogRoom::Full {
                self.coverage.mark(RareEvent::FollowerFull);
                self.check_called_full(position, group);
            }
            self.note_refused(position, to, (group, response));
        }
        let key = (position, to, sniffed.head.group);
        let Some(transfer) = self.costs.transfers.get_mut(&key) else {
            return;
        };
        let same_socket = *transfer.socket.get_or_insert(socket) == socket;
        transfer.void |= message.term != transfer.term || !same_socket;
        if !matches!(message.body, Body::AppendEntries(_)) {
            return;
        }
        for &(index, bytes) in &sniffed.entries {
            transfer.bytes += bytes;
            if index > transfer.held && transfer.sent.insert(index) {
                transfer.needed += bytes;
            }
        }
    }

    /// A follower that has no room, and then rejects what was behind that on its way. What it has
    /// not taken by then is to be sent again, but it is tried only once in a round of heartbeats.
    fn note_refused(
        &mut self,
        follower: usize,
        leader: NodeId,
        (GroupId(group), response): (GroupId, AppendResponse),
    ) {
        let refuses = response.room != LogRoom::Enough;
        let rejects = matches!(response.outcome, AppendOutcome::Rejected { .. });
        if !refuses && !rejects {
            return;
        }
        let round = response.round;
        let to = NodeId(self.places[follower].node as u64 + 1);
        let place = self.place(leader.0 as usize - 1, self.places[follower].core);
        let raft = crate::world::raft_of(&self.places[follower], GroupId(group));
        let Some(last) = raft.map(Raft::last_index) else {
            return;
        };
        let now = self.now;
        // Over a slow link more rounds than one begin before its leader hears of it.
        let under_way = |(refused, at), round| refused == round || now - at < HEARD_AFTER;
        if let Some(transfer) = self.costs.transfers.get_mut(&(place, to, group))
            && (refuses && transfer.refused.is_none_or(|(refused, _)| round > refused)
                || rejects
                    && transfer
                        .refused
                        .is_some_and(|refused| under_way(refused, round)))
        {
            let said = transfer.refused.map(|(_, at)| at).filter(|_| !refuses);
            transfer.refused = Some((round, said.unwrap_or(now)));
            drop(transfer.sent.split_off(&last.next()));
        }
    }

    /// A disk operation is submitted.
    pub(crate) fn count_disk(&mut self, position: usize, operation: &DiskOp) {
        let usage = &mut self.places[position].usage;
        match operation {
            DiskOp::Write { bytes, .. } => usage.bytes_written += bytes.len() as u64,
            DiskOp::Read {
                slot,
                offset,
                buffer,
                ..
            } if self.swarm.steady => {
                let end = offset + buffer.len() as u64;
                for block in offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES) {
                    usage.blocks_read += 1;
                    usage.distinct.insert((*slot, block));
                }
            }
            DiskOp::Read { .. } => {}
        }
    }

    /// A window is over: nothing was sent or read much more often than it was needed.
    pub(crate) fn check_costs(&mut self) {
        let transfers = std::mem::take(&mut self.costs.transfers);
        for ((position, to, group), transfer) in &transfers {
            let leads = |raft: &Raft| raft.is_leader() && raft.current_term() == transfer.term;
            let group = GroupId(*group);
            let raft = crate::world::raft_of(&self.places[*position], group);
            let to_sound = self.is_sound(to.0 as usize - 1);
            if transfer.void || !to_sound || !raft.is_some_and(leads) {
                continue;
            }
            let (bytes, needed) = (transfer.bytes, transfer.needed);
            if bytes > needed + needed / 10 + BYTES_TWICE {
                self.fail(format!(
                    "place {position} sent {bytes} bytes of entries of group {group} to node \
                     {to}, which needed {needed}, impaired {:?}",
                    self.steady.impaired
                ));
            }
        }
        let impairment = self.steady.impaired.map(|(_, kind)| kind);
        if impairment == Some(Impairment::OthersStill) {
            // Whoever has no memory left is tried once in every round of heartbeats.
            return;
        }
        for position in 0..self.places.len() {
            self.check_reads(position);
        }
    }

    fn check_reads(&mut self, position: usize) {
        let place = &self.places[position];
        let Some(shard) = &place.shard else {
            return;
        };
        let usage = &place.usage;
        let relocated = shard.statistics().log.relocated_bytes;
        let relocated = relocated.saturating_sub(usage.relocated_bytes);
        let rounds = usage.bytes_written.saturating_sub(relocated) / BYTES_PER_ROUND + 1;
        let (read, distinct) = (usage.blocks_read, usage.distinct.len() as u64);
        let times = self.swarm.nodes as u64 * READS_PER_BLOCK + rounds;
        if read > distinct * times + BLOCKS_IN_VAIN {
            self.fail(format!(
                "place {position} read {read} blocks back, {distinct} different ones, in {rounds} \
                 ways round"
            ));
        }
    }
}
