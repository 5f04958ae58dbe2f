//! Connections as the shards see them: streams of bytes that are slow, cut, blocked and flipped.

use std::collections::{BTreeMap, VecDeque};

use pontoon::port::{Completion, SocketId};
use pontoon::transport::ReceiveBuffer;

/// One end of a connection.
pub(crate) struct End {
    pub(crate) place: usize,
    pub(crate) generation: u64,
    pub(crate) other: SocketId,
    arrived: VecDeque<u8>,
    /// Sent towards this end and held up where the way is blocked, in order.
    held: Vec<u8>,
    waiting: Option<ReceiveBuffer>,
    /// Nothing more comes: the other side closed, or the connection is cut.
    ended: bool,
    /// When the last bytes sent towards this end arrive: they keep their order.
    pub(crate) last_arrival: u64,
    /// Until then this end accepts nothing.
    pub(crate) clogged_until: u64,
}

/// All connections.
#[derive(Default)]
pub(crate) struct Network {
    ends: BTreeMap<SocketId, End>,
    next: u64,
    /// Directed pairs of nodes between which nothing passes.
    pub(crate) blocked: Vec<(usize, usize)>,
}

impl Network {
    pub(crate) fn connect(&mut self, sides: [(usize, u64); 2]) -> [SocketId; 2] {
        let sockets = [SocketId(self.next), SocketId(self.next + 1)];
        self.next += 2;
        for (side, (place, generation)) in sides.into_iter().enumerate() {
            let end = End {
                place,
                generation,
                other: sockets[1 - side],
                arrived: VecDeque::new(),
                held: Vec::new(),
                waiting: None,
                ended: false,
                last_arrival: 0,
                clogged_until: 0,
            };
            self.ends.insert(sockets[side], end);
        }
        sockets
    }

    pub(crate) fn is_blocked(&self, from: usize, to: usize) -> bool {
        self.blocked.contains(&(from, to))
    }

    pub(crate) fn end(&self, socket: SocketId) -> Option<&End> {
        self.ends.get(&socket)
    }

    pub(crate) fn end_mut(&mut self, socket: SocketId) -> Option<&mut End> {
        self.ends.get_mut(&socket)
    }

    pub(crate) fn receive(&mut self, socket: SocketId, buffer: ReceiveBuffer) {
        if let Some(end) = self.ends.get_mut(&socket) {
            end.waiting = Some(buffer);
        }
    }

    /// Bytes arrive behind what is held up, or are held up with it.
    pub(crate) fn arrive(&mut self, socket: SocketId, bytes: &[u8], passes: bool) {
        if let Some(end) = self.ends.get_mut(&socket).filter(|end| !end.ended) {
            end.held.extend(bytes);
            if passes {
                end.arrived.extend(end.held.drain(..));
            }
        }
    }

    /// Nothing more arrives here.
    pub(crate) fn finish(&mut self, socket: SocketId) {
        if let Some(end) = self.ends.get_mut(&socket) {
            end.ended = true;
        }
    }

    /// The owner lets go of its end; gives the other one.
    pub(crate) fn close(&mut self, socket: SocketId) -> Option<SocketId> {
        self.ends.remove(&socket).map(|end| end.other)
    }

    /// Every end of a place; its process is gone.
    pub(crate) fn of_place(&self, place: usize) -> Vec<SocketId> {
        let ends = self.ends.iter().filter(|(_, end)| end.place == place);
        ends.map(|(socket, _)| *socket).collect()
    }

    /// The connections, by one of their ends.
    pub(crate) fn all(&self) -> Vec<SocketId> {
        self.ends.keys().copied().collect()
    }

    /// Completes the receive of an end, if something is there for it.
    pub(crate) fn deliver(&mut self, socket: SocketId) -> Option<Completion> {
        let end = self.ends.get_mut(&socket)?;
        if end.arrived.is_empty() && !end.ended {
            return None;
        }
        let mut buffer = end.waiting.take()?;
        let free = buffer.free();
        let count = free.len().min(end.arrived.len());
        for (target, byte) in free.iter_mut().zip(end.arrived.drain(..count)) {
            *target = byte;
        }
        Some(Completion::Received {
            socket,
            buffer,
            result: Ok(count),
        })
    }
}
