//! The other nodes: one connection to each, dialled again when it breaks.

use pontoon_raft::{NodeId, Time};
use pontoon_storage::RecordBytes;
use pontoon_transport::{Connection, FrameLimits, ReceiveBuffer, Reconnect, SendBatch};

use super::{Shard, ShardConfig};
use crate::port::{Operation, SocketId};

/// First and longest delay before a peer is dialled again, in nanoseconds.
const REDIAL_MIN: u64 = 20_000_000;
const REDIAL_MAX: u64 = 1_000_000_000;

/// A peer that takes none of what was sent for this long, in nanoseconds, is cut off: what it pins
/// in memory is needed elsewhere, and it is served from the disk later.
const SEND_STUCK: u64 = 10_000_000_000;

const NEVER: Time = Time(u64::MAX);

/// An established connection.
pub(super) struct Link {
    socket: SocketId,
    pub(super) connection: Connection<RecordBytes>,
    /// When the send that is under way began.
    sending_since: Option<Time>,
}

/// One other node.
pub(super) struct Peer {
    pub(super) id: NodeId,
    pub(super) link: Option<Link>,
    /// Of two nodes the one with the smaller id dials.
    dials: bool,
    /// When to dial; never while a dial is under way or there is a connection.
    dial_at: Time,
    reconnect: Reconnect,
}

/// The other nodes, by ascending id.
pub(super) struct Peers {
    peers: Vec<Peer>,
    limits: FrameLimits,
}

impl Peers {
    pub(super) fn new(config: &ShardConfig, now: Time) -> Self {
        let mut ids = config.peers.clone();
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|id| *id != config.node);
        let peer = |id: NodeId| {
            let dials = config.node < id;
            Peer {
                id,
                link: None,
                dials,
                dial_at: if dials { now } else { NEVER },
                reconnect: Reconnect::new(config.seed ^ id.0, REDIAL_MIN, REDIAL_MAX),
            }
        };
        Self {
            peers: ids.into_iter().map(peer).collect(),
            limits: config.frame_limits,
        }
    }

    /// When a peer is to be dialled, or looked at because it takes nothing.
    pub(super) fn deadline(&self) -> Time {
        let due = |peer: &Peer| {
            let sending_since = peer.link.as_ref().and_then(|link| link.sending_since);
            let stuck = sending_since.map_or(NEVER, |since| since.after(SEND_STUCK));
            stuck.min(peer.dial_at)
        };
        self.peers.iter().map(due).min().unwrap_or(NEVER)
    }

    pub(super) fn position(&self, id: NodeId) -> Option<usize> {
        self.peers.binary_search_by_key(&id, |peer| peer.id).ok()
    }

    pub(super) fn connection(&mut self, id: NodeId) -> Option<&mut Connection<RecordBytes>> {
        let position = self.position(id)?;
        let link = self.peers[position].link.as_mut()?;
        Some(&mut link.connection)
    }

    pub(super) fn limits(&self) -> FrameLimits {
        self.limits
    }

    fn by_socket(&mut self, socket: SocketId) -> Option<usize> {
        let is_it = |peer: &Peer| peer.link.as_ref().is_some_and(|link| link.socket == socket);
        self.peers.iter().position(is_it)
    }
}

impl Shard {
    pub(super) fn on_connected(
        &mut self,
        id: NodeId,
        socket: SocketId,
        operations: &mut Vec<Operation>,
    ) {
        let Some(position) = self.peers.position(id) else {
            operations.push(Operation::Close { socket });
            return;
        };
        if self.peers.peers[position].link.is_some() {
            self.disconnect(position, "replaced", operations);
        }
        let peer = &mut self.peers.peers[position];
        peer.reconnect.on_connected();
        peer.dial_at = NEVER;
        peer.link = Some(Link {
            socket,
            connection: Connection::new(self.peers.limits),
            sending_since: None,
        });
        tracing::info!(node = %self.config.node, peer = %id, "connected");
    }

    pub(super) fn on_dial_failed(&mut self, id: NodeId) {
        if let Some(position) = self.peers.position(id) {
            let peer = &mut self.peers.peers[position];
            if peer.link.is_none() && peer.dials {
                peer.dial_at = Time(peer.reconnect.on_failed(self.now.0));
            }
        }
    }

    pub(super) fn on_sent(
        &mut self,
        socket: SocketId,
        batch: SendBatch<RecordBytes>,
        result: Result<usize, i32>,
        operations: &mut Vec<Operation>,
    ) {
        let Some(position) = self.peers.by_socket(socket) else {
            return;
        };
        let peer = &mut self.peers.peers[position];
        let Some(link) = &mut peer.link else { return };
        link.sending_since = None;
        if let Err(error) = link.connection.on_sent(batch, result) {
            self.disconnect(position, error.label(), operations);
        }
    }

    /// Bytes came: steps every whole frame among them.
    pub(super) fn on_received(
        &mut self,
        socket: SocketId,
        buffer: ReceiveBuffer,
        result: Result<usize, i32>,
        operations: &mut Vec<Operation>,
    ) {
        let Some(position) = self.peers.by_socket(socket) else {
            return;
        };
        let from = self.peers.peers[position].id;
        // Frames are read in place, so the connection is taken out while the shard moves.
        let Some(mut link) = self.peers.peers[position].link.take() else {
            return;
        };
        let mut ended = link.connection.on_received(buffer, result).err();
        let mut refused = None;
        while ended.is_none() && refused.is_none() {
            match link.connection.next_frame() {
                Ok(None) => break,
                Ok(Some(frame)) => refused = self.take_frame(from, &frame).err(),
                Err(error) => ended = Some(error),
            }
        }
        self.peers.peers[position].link = Some(link);
        if let Some(reason) = refused {
            tracing::warn!(peer = %from, reason, "a frame makes no sense; closing the connection");
            self.disconnect(position, reason, operations);
        } else if let Some(error) = ended {
            tracing::info!(peer = %from, %error, "the connection ended");
            self.disconnect(position, error.label(), operations);
        }
    }

    /// Closes a connection. What was sent on it may be lost.
    fn disconnect(
        &mut self,
        position: usize,
        reason: &'static str,
        operations: &mut Vec<Operation>,
    ) {
        let now = self.now;
        let peer = &mut self.peers.peers[position];
        let Some(link) = peer.link.take() else { return };
        let socket = link.socket;
        operations.push(Operation::Close { socket });
        if peer.dials {
            peer.dial_at = Time(peer.reconnect.on_failed(now.0));
        }
        let id = peer.id;
        let closed = &mut self.statistics.connections_closed;
        *closed.entry(reason).or_default() += 1;
        self.catch_ups.forget_peer(id);
        for replica in self.replicas.iter_mut() {
            replica.raft.report_unreachable(id);
        }
    }

    /// Dials who is to be dialled, and starts the sends and receives of this turn.
    pub(super) fn drive_connections(&mut self, operations: &mut Vec<Operation>) {
        for position in 0..self.peers.peers.len() {
            let now = self.now;
            let peer = &mut self.peers.peers[position];
            if peer.dial_at <= now {
                peer.dial_at = NEVER;
                operations.push(Operation::Dial { peer: peer.id });
            }
            let Some(link) = &mut peer.link else { continue };
            let since = link.sending_since;
            if since.is_some_and(|since| now.since(since) >= SEND_STUCK) {
                self.disconnect(position, "stuck", operations);
                continue;
            }
            let socket = link.socket;
            link.connection.finish_frame();
            if let Some(batch) = link.connection.send() {
                link.sending_since = Some(now);
                operations.push(Operation::Send { socket, batch });
            }
            if let Some(buffer) = link.connection.receive() {
                operations.push(Operation::Receive { socket, buffer });
            }
        }
    }
}
