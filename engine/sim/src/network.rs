//! Connections as the shards see them: streams of bytes that are slow, cut, blocked and flipped.

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;

use pontoon::port::{Completion, SocketId};
use pontoon::storage::RecordBytes;
use pontoon::transport::{ReceiveBuffer, SendBatch};

use crate::links::Links;

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
    /// Bytes came to its owner.
    pub(crate) heard: bool,
    /// When the last bytes sent towards this end arrive: they keep their order.
    pub(crate) last_arrival: u64,
    /// Until then this end accepts nothing.
    pub(crate) clogged_until: u64,
    /// Taken by the socket of the other side, and not yet on its way: only on links with a limit.
    queue: VecDeque<u8>,
    /// A piece of the queue is passing the link.
    pub(crate) transmits: bool,
    /// Bytes that were sent towards this end, and that its owner has not received.
    outstanding: usize,
    /// What the owner sends, as long as there is no room for any of it.
    unsent: Option<SendBatch<RecordBytes>>,
}

/// All connections.
#[derive(Default)]
pub(crate) struct Network {
    ends: BTreeMap<SocketId, End>,
    next: u64,
    /// Directed pairs of nodes between which nothing passes.
    pub(crate) blocked: Vec<(usize, usize)>,
    pub(crate) links: Links,
}

impl Network {
    pub(crate) fn new(links: Links) -> Self {
        Self {
            links,
            ..Self::default()
        }
    }

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
                heard: false,
                last_arrival: 0,
                clogged_until: 0,
                queue: VecDeque::new(),
                transmits: false,
                outstanding: 0,
                unsent: None,
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
                end.arrived.extend(&end.held);
                end.held.clear();
            }
        }
    }

    /// Nothing more arrives here.
    pub(crate) fn finish(&mut self, socket: SocketId) {
        if let Some(end) = self.ends.get_mut(&socket) {
            end.ended = true;
        }
    }

    /// The owner lets go of its end; gives the other one. What the link had not taken is lost.
    pub(crate) fn close(&mut self, socket: SocketId) -> Option<SocketId> {
        let other = self.ends.remove(&socket)?.other;
        if let Some(end) = self.ends.get_mut(&other) {
            end.queue.clear();
        }
        Some(other)
    }

    /// Bytes are in the socket's buffer, towards this end.
    pub(crate) fn enqueue(&mut self, socket: SocketId, bytes: &[u8]) {
        if let Some(end) = self.ends.get_mut(&socket) {
            end.outstanding += bytes.len();
            end.queue.extend(bytes);
        }
    }

    /// How many bytes wait to pass the link towards this end.
    pub(crate) fn queued(&self, socket: SocketId) -> usize {
        self.ends.get(&socket).map_or(0, |end| end.queue.len())
    }

    /// The next bytes that pass the link towards this end, `count` at most.
    pub(crate) fn dequeue(&mut self, socket: SocketId, count: usize) -> Vec<u8> {
        let Some(end) = self.ends.get_mut(&socket) else {
            return Vec::new();
        };
        let mut bytes = vec![0; count.min(end.queue.len())];
        end.queue.read_exact(&mut bytes).expect("so many wait");
        bytes
    }

    /// Bytes that were sent towards this end, and that its owner has not received.
    pub(crate) fn outstanding(&self, socket: SocketId) -> usize {
        self.ends.get(&socket).map_or(0, |end| end.outstanding)
    }

    /// A send for which there is no room waits.
    pub(crate) fn hold_send(&mut self, socket: SocketId, batch: SendBatch<RecordBytes>) {
        if let Some(end) = self.ends.get_mut(&socket) {
            end.unsent = Some(batch);
        }
    }

    /// The send that waits at this end, if its connection ended or there is room for it again.
    pub(crate) fn take_send(&mut self, socket: SocketId) -> Option<SendBatch<RecordBytes>> {
        self.ends.get_mut(&socket)?.unsent.take()
    }

    /// Whether nothing more comes to this end.
    pub(crate) fn has_ended(&self, socket: SocketId) -> bool {
        self.ends.get(&socket).is_none_or(|end| end.ended)
    }

    /// Whether two places are connected.
    pub(crate) fn are_connected(&self, place: usize, to: usize) -> bool {
        self.ends.values().any(|end| {
            let other = self.ends.get(&end.other);
            let sound = |end: &End| !end.ended;
            end.place == place && sound(end) && other.is_some_and(|o| o.place == to && sound(o))
        })
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
        let (front, back) = end.arrived.as_slices();
        let first = front.len().min(count);
        free[..first].copy_from_slice(&front[..first]);
        free[first..count].copy_from_slice(&back[..count - first]);
        end.arrived.drain(..count);
        end.heard |= count > 0;
        end.outstanding = end.outstanding.saturating_sub(count);
        Some(Completion::Received {
            socket,
            buffer,
            result: Ok(count),
        })
    }
}
