//! What a quiet window cost: bytes sent to followers, blocks read back, against what was needed.

use std::collections::{BTreeMap, BTreeSet};

use pontoon::port::SocketId;
use pontoon::raft::{Body, LogRoom, Raft, Term};
use pontoon::storage::DiskOp;
use pontoon::{GroupId, LogIndex, NodeId};

use crate::check::Sniffed;
use crate::coverage::RareEvent;
use crate::world::World;

/// A follower that has no room for a while is not sent again what it has taken: until the engine
/// sees to that, followers that say so are left out.
const FULL_FOLLOWERS_COST_NO_MORE: bool = false;

/// Bytes of entries that may be sent to a follower twice in a window: about one message.
const BYTES_TWICE: u64 = 8 << 10;
/// Blocks of a log are read once for each follower and once to apply, where a read ends within a
/// frame once more, and in a log that is short of room for each way round of relocation.
const READS_PER_BLOCK: u64 = 8;
const BLOCK_BYTES: u64 = 4096;
/// Blocks that may be read in vain.
const BLOCKS_IN_VAIN: u64 = 64;

/// What a core asked of its disk in a window.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    pub(crate) bytes_written: u64,
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
            for (group, raft) in shard.replicas().filter(|(_, raft)| raft.is_leader()) {
                for peer in raft.status().peers {
                    let transfer = Transfer {
                        term: raft.current_term(),
                        held: peer.match_index,
                        socket: None,
                        sent: BTreeSet::new(),
                        bytes: 0,
                        needed: 0,
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
        if let Body::AppendResponse(response) = message.body
            && response.room == LogRoom::Full
        {
            self.coverage.mark(RareEvent::FollowerFull);
            if !FULL_FOLLOWERS_COST_NO_MORE {
                self.forget_transfer(position, to, sniffed.head.group);
            }
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

    /// What a leader sends to a follower is no longer counted.
    fn forget_transfer(&mut self, follower: usize, leader: NodeId, group: u64) {
        let to = NodeId(self.places[follower].node as u64 + 1);
        let place = self.place(leader.0 as usize - 1, self.places[follower].core);
        self.costs.transfers.remove(&(place, to, group));
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
        for position in 0..self.places.len() {
            let usage = &self.places[position].usage;
            let (read, distinct) = (usage.blocks_read, usage.distinct.len() as u64);
            let most = distinct * self.swarm.nodes as u64 * READS_PER_BLOCK + BLOCKS_IN_VAIN;
            if read > most {
                self.fail(format!(
                    "place {position} read {read} blocks back, {distinct} different ones"
                ));
            }
        }
    }
}
