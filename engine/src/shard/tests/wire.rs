//! Sockets in memory: streams of bytes that a test can cut.

use std::collections::{BTreeMap, VecDeque};

use pontoon_storage::RecordBytes;
use pontoon_transport::{ReceiveBuffer, SendBatch};

use crate::port::{Completion, SocketId};

/// One end of a connection.
#[derive(Debug)]
struct End {
    node: usize,
    other: SocketId,
    /// Bytes that have arrived and are not received.
    arrived: VecDeque<u8>,
    /// The receive that waits for bytes.
    waiting: Option<ReceiveBuffer>,
    closed: bool,
}

/// All connections of a cluster.
#[derive(Debug, Default)]
pub(super) struct Wire {
    ends: BTreeMap<SocketId, End>,
    next: u64,
    /// What is sent arrives so many rounds later.
    pub(super) delay: u64,
    round: u64,
    /// Bytes on their way: when they arrive, and where.
    travelling: VecDeque<(u64, SocketId, Vec<u8>)>,
    /// Pairs of nodes between which nothing passes.
    pub(super) cut: Vec<(usize, usize)>,
    /// Connections at this time from one node to another that take bytes and lose them.
    pub(super) deaf: Vec<SocketId>,
    /// Bytes that were sent from one node to another.
    pub(super) carried: BTreeMap<(usize, usize), usize>,
}

impl Wire {
    pub(super) fn is_cut(&self, one: usize, other: usize) -> bool {
        self.cut.contains(&(one, other)) || self.cut.contains(&(other, one))
    }

    /// Connects two nodes; gives the socket of each.
    pub(super) fn connect(&mut self, dialler: usize, acceptor: usize) -> (SocketId, SocketId) {
        let sockets = (SocketId(self.next), SocketId(self.next + 1));
        self.next += 2;
        for (node, own, other) in [
            (dialler, sockets.0, sockets.1),
            (acceptor, sockets.1, sockets.0),
        ] {
            let end = End {
                node,
                other,
                arrived: VecDeque::new(),
                waiting: None,
                closed: false,
            };
            self.ends.insert(own, end);
        }
        sockets
    }

    /// Sends at most `bytes_max` bytes of a batch.
    pub(super) fn send(
        &mut self,
        socket: SocketId,
        batch: SendBatch<RecordBytes>,
        bytes_max: usize,
    ) -> Completion {
        let mut sent = 0;
        let other = self.ends[&socket].other;
        let way = (self.ends[&socket].node, self.ends[&other].node);
        let lost = self.deaf.contains(&socket) || self.is_cut(way.0, way.1);
        let gone = self.ends[&other].closed || self.ends[&socket].closed;
        for slice in batch.slices() {
            let part = &slice[..slice.len().min(bytes_max - sent)];
            sent += part.len();
            if !lost {
                let arrives = self.round + self.delay;
                self.travelling.push_back((arrives, other, part.to_vec()));
            }
        }
        self.arrive();
        *self.carried.entry(way).or_default() += sent;
        let result = if gone { Err(libc::EPIPE) } else { Ok(sent) };
        Completion::Sent {
            socket,
            batch,
            result,
        }
    }

    /// A millisecond has passed.
    pub(super) fn next_round(&mut self) {
        self.round += 1;
        self.arrive();
    }

    fn arrive(&mut self) {
        let round = self.round;
        while self.travelling.front().is_some_and(|(at, ..)| *at <= round)
            && let Some((_, to, bytes)) = self.travelling.pop_front()
        {
            let end = self.ends.get_mut(&to).expect("a known socket");
            end.arrived.extend(bytes);
        }
    }

    /// Bytes of nobody's shard arrive at the other end.
    pub(super) fn say(&mut self, socket: SocketId, bytes: &[u8]) {
        let other = self.ends[&socket].other;
        let end = self.ends.get_mut(&other).expect("a known socket");
        end.arrived.extend(bytes);
    }

    /// Takes what has arrived at an end that nobody's shard reads.
    pub(super) fn hear(&mut self, socket: SocketId) -> Vec<u8> {
        let end = self.ends.get_mut(&socket).expect("a known socket");
        end.arrived.drain(..).collect()
    }

    pub(super) fn receive(&mut self, socket: SocketId, buffer: ReceiveBuffer) {
        let end = self.ends.get_mut(&socket).expect("a known socket");
        assert!(end.waiting.is_none(), "one receive at a time");
        end.waiting = Some(buffer);
    }

    pub(super) fn close(&mut self, socket: SocketId) {
        self.ends.get_mut(&socket).expect("a known socket").closed = true;
    }

    /// The connections between two nodes end; what has arrived is still received.
    pub(super) fn end_between(&mut self, one: usize, other: usize) {
        let of = |end: &End| (end.node, self.ends[&end.other].node);
        let between = |end: &End| of(end) == (one, other) || of(end) == (other, one);
        let ended: Vec<SocketId> = self
            .ends
            .iter()
            .filter(|(_, end)| between(end))
            .map(|(socket, _)| *socket)
            .collect();
        for socket in ended {
            self.close(socket);
        }
    }

    /// Everything a node has open is closed, as when its process ends.
    pub(super) fn close_all_of(&mut self, node: usize) {
        for end in self.ends.values_mut().filter(|end| end.node == node) {
            end.closed = true;
            end.waiting = None;
        }
    }

    /// Receives that can be completed, for one node.
    pub(super) fn arrivals(&mut self, node: usize) -> Vec<Completion> {
        let closed: Vec<SocketId> = self
            .ends
            .iter()
            .filter(|(_, end)| end.closed)
            .map(|(socket, _)| *socket)
            .collect();
        let mut completions = Vec::new();
        for (&socket, end) in self.ends.iter_mut().filter(|(_, end)| end.node == node) {
            let over = end.closed || closed.contains(&end.other);
            if end.arrived.is_empty() && !over {
                continue;
            }
            let Some(mut buffer) = end.waiting.take() else {
                continue;
            };
            let free = buffer.free();
            let count = free.len().min(end.arrived.len());
            for (place, byte) in free.iter_mut().zip(end.arrived.drain(..count)) {
                *place = byte;
            }
            let result = Ok(count);
            completions.push(Completion::Received {
                socket,
                buffer,
                result,
            });
        }
        completions
    }

    /// What a node sends over the connections that it has now to another is lost from here on.
    pub(super) fn deafen(&mut self, from: usize, to: usize) {
        let ends = self.ends.iter();
        let between = |end: &End| end.node == from && self.ends[&end.other].node == to;
        let sockets = ends.filter(|(_, end)| between(end)).map(|(socket, _)| *socket);
        self.deaf.extend(sockets.collect::<Vec<_>>());
    }

    /// Whether either end is closed.
    pub(super) fn is_closed(&self, socket: SocketId) -> bool {
        let end = &self.ends[&socket];
        end.closed || self.ends[&end.other].closed
    }

    pub(super) fn peer_of(&self, socket: SocketId) -> usize {
        self.ends[&self.ends[&socket].other].node
    }
}
