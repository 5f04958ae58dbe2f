//! A shipped shard on a disk of its own, with peers that say what a fuzzer wants.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use pontoon::port::{Completion, Operation, SocketId};
use pontoon::raft::Time;
use pontoon::storage::{DiskOp, Volume};
use pontoon::transport::ReceiveBuffer;
use pontoon::{GroupId, NodeId};

use super::replica_invariants::ReplicaInvariants;
use crate::machine::Oracle;
use crate::settings::{EIO, MILLISECOND};
use crate::sim_core::SimCore;
use crate::swarm::Swarm;

/// Nodes of its cluster, and groups, each with all of them as members.
const NODES: u64 = 3;
const GROUPS: u64 = 3;
/// Turns after which a shard that still has more to do goes round in circles.
const TURNS_MAX: u32 = 10_000;

const SOCKET: SocketId = SocketId(1);

/// A shard, connected to one peer.
pub(super) struct SingleShard {
    place: SimCore,
    now: u64,
    /// Where the next bytes of the peer go; `None` once the shard has closed the connection.
    buffer: Option<ReceiveBuffer>,
    watches: BTreeMap<GroupId, ReplicaInvariants>,
}

impl SingleShard {
    /// Two different nodes of the cluster, of whatever numbers.
    pub(super) fn new(from: u8, to: u8) -> Self {
        let node = u64::from(to) % NODES;
        let from = u64::from(from) % NODES;
        let from = if from == node {
            (node + 1) % NODES
        } else {
            from
        };
        let swarm = Swarm {
            nodes: NODES as usize,
            cores: 1,
            writes_in_flight: 1,
            durable_machines: false,
            ..Swarm::draw(0)
        };
        let mut place = SimCore::new(node as usize, 0);
        let oracle = Arc::new(Mutex::new(Oracle::default()));
        let started = place.start(&swarm, &oracle, None, Time(MILLISECOND), None);
        started.expect("an empty disk opens");
        let members: Vec<NodeId> = (1..=NODES).map(NodeId).collect();
        let shard = place.shard.as_ref().expect("just started");
        for group in (1..=GROUPS).map(GroupId) {
            drop(shard.create_group(group, "registers", &members));
        }
        let peer = NodeId(from + 1);
        let socket = SOCKET;
        place
            .completions
            .push(Completion::Connected { peer, socket });
        let mut shard = Self {
            place,
            now: MILLISECOND,
            buffer: None,
            watches: BTreeMap::new(),
        };
        shard.turns();
        shard
    }

    /// Whether the connection is open.
    pub(super) fn listens(&self) -> bool {
        self.buffer.is_some()
    }

    /// Bytes of the peer arrive. Gives how many there was room for.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> usize {
        let Some(mut buffer) = self.buffer.take() else {
            return 0;
        };
        let count = bytes.len().min(buffer.free().len());
        buffer.free()[..count].copy_from_slice(&bytes[..count]);
        self.place.completions.push(Completion::Received {
            socket: SOCKET,
            buffer,
            result: Ok(count),
        });
        self.turns();
        count
    }

    /// Time passes, in milliseconds.
    pub(super) fn pass(&mut self, milliseconds: u64) {
        self.now += milliseconds * MILLISECOND;
        self.turns();
    }

    /// Turns until nothing is left to do at this time.
    fn turns(&mut self) {
        for _ in 0..TURNS_MAX {
            let mut operations = Vec::new();
            let place = &mut self.place;
            let shard = place.shard.as_mut().expect("it runs");
            let turn = shard.turn(Time(self.now), &mut place.completions, &mut operations);
            for (group, raft) in shard.replicas() {
                self.watches.entry(group).or_default().look(raft);
            }
            for operation in operations {
                self.carry(operation);
            }
            if !turn.more && self.place.completions.is_empty() {
                return;
            }
        }
        panic!("the shard does not come to rest");
    }

    fn carry(&mut self, operation: Operation) {
        let SimCore {
            disk, completions, ..
        } = &mut self.place;
        match operation {
            Operation::Disk(mut operation) => {
                let submitted = disk.submit(&mut operation);
                assert_eq!(submitted, Ok(()), "the log writes and reads where it may");
                completions.push(match operation {
                    DiskOp::Write { id, .. } => {
                        let result = disk.finish(id).ok_or(EIO);
                        Completion::Written { id, result }
                    }
                    DiskOp::Read { id, buffer, .. } => {
                        let result = Ok(buffer.len());
                        Completion::Read { id, buffer, result }
                    }
                });
            }
            Operation::Send { socket, batch } => {
                let result = Ok(batch.bytes());
                completions.push(Completion::Sent {
                    socket,
                    batch,
                    result,
                });
            }
            Operation::Receive { buffer, .. } => self.buffer = Some(buffer),
            Operation::Close { .. } => self.buffer = None,
            Operation::Dial { peer } => completions.push(Completion::DialFailed { peer }),
            Operation::Prepare { slot } => {
                let ready = disk.volume.prepare(slot).is_ok();
                completions.push(Completion::Prepared { slot, ready });
            }
        }
    }
}
