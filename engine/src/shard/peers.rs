//! The other nodes: one connection to each, dialled again when it breaks.

use std::collections::BTreeMap;

use pontoon_raft::{NodeId, Time};
use pontoon_storage::RecordBytes;
use pontoon_transport::{Connection, FrameLimits, HEAD_BYTES, Head, Reconnect, SendBatch};

use super::ShardConfig;
use crate::port::{Operation, SocketId};
use crate::rate_limited::RateLimited;
use crate::reason::CloseReason;

/// First and longest delay before a peer is dialled again, in nanoseconds.
const REDIAL_MIN: u64 = 20_000_000;
const REDIAL_MAX: u64 = 1_000_000_000;

/// A peer that takes none of what was sent for this long, in nanoseconds, is cut off: what it pins
/// in memory is needed elsewhere, and it is served from the disk later.
const SEND_TIMEOUT: u64 = 10_000_000_000;

/// Most heads in one frame, well below what its header can say.
const HEADS_PER_FRAME_MAX: usize = 4096;

const NEVER: Time = Time(u64::MAX);

/// An established connection.
struct Link {
    socket: SocketId,
    connection: Connection<RecordBytes>,
    /// When the send that is under way began.
    sending_since: Option<Time>,
}

/// One other node.
struct Peer {
    id: NodeId,
    link: Option<Link>,
    /// Of two nodes the one with the smaller id dials.
    dials: bool,
    /// When to dial; never while a dial is under way or there is a connection.
    dial_at: Time,
    reconnect: Reconnect,
}

/// A connection that ended. What was sent on it may be lost.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Disconnected {
    pub(super) peer: NodeId,
}

/// The other nodes, by ascending id.
pub(super) struct Peers {
    node: NodeId,
    peers: Vec<Peer>,
    limits: FrameLimits,
    queue_bytes_max: usize,
    /// Messages of groups given to connections.
    pub(super) messages_sent: u64,
    /// Connections that were closed.
    pub(super) closed: BTreeMap<CloseReason, u64>,
    /// Frames of unknown kinds on connections that were closed since.
    skipped_frames: u64,
    lines: RateLimited,
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
            node: config.node,
            peers: ids.into_iter().map(peer).collect(),
            limits: config.frame_limits,
            queue_bytes_max: config.peer_queue_bytes_max,
            messages_sent: 0,
            closed: BTreeMap::new(),
            skipped_frames: 0,
            lines: RateLimited::default(),
        }
    }

    /// Frames of kinds that only newer versions know, which were skipped.
    pub(super) fn skipped_frames(&self) -> u64 {
        let links = self.peers.iter().filter_map(|peer| peer.link.as_ref());
        let now: u64 = links.map(|link| link.connection.skipped_frames()).sum();
        self.skipped_frames + now
    }

    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }

    /// When a peer is to be dialled, or looked at because it takes nothing.
    pub(super) fn deadline(&self) -> Time {
        let due = |peer: &Peer| {
            let sending_since = peer.link.as_ref().and_then(|link| link.sending_since);
            let stuck = sending_since.map_or(NEVER, |since| since.after(SEND_TIMEOUT));
            stuck.min(peer.dial_at)
        };
        self.peers.iter().map(due).min().unwrap_or(NEVER)
    }

    /// Most bytes of records in one frame, so that heads have room beside them.
    pub(super) fn records_bytes_max(&self) -> usize {
        self.limits.frame_bytes_max as usize / 2
    }

    fn position(&self, id: NodeId) -> Option<usize> {
        self.peers.binary_search_by_key(&id, |peer| peer.id).ok()
    }

    pub(super) fn connection(&mut self, id: NodeId) -> Option<&mut Connection<RecordBytes>> {
        let position = self.position(id)?;
        let link = self.peers[position].link.as_mut()?;
        Some(&mut link.connection)
    }

    /// Who is at the other end of a socket, and the connection; `None` if it was closed since.
    pub(super) fn by_socket(
        &mut self,
        socket: SocketId,
    ) -> Option<(NodeId, &mut Connection<RecordBytes>)> {
        let link = self.link(socket)?;
        Some((link.0, &mut link.1.connection))
    }

    fn link(&mut self, socket: SocketId) -> Option<(NodeId, &mut Link)> {
        let links = self.peers.iter_mut();
        let mut links = links.filter_map(|peer| Some((peer.id, peer.link.as_mut()?)));
        links.find(|(_, link)| link.socket == socket)
    }

    /// Whether more waits to be sent to a peer than may; `None` if it is not connected.
    pub(super) fn is_full(&mut self, id: NodeId) -> Option<bool> {
        let queue_bytes_max = self.queue_bytes_max;
        let connection = self.connection(id)?;
        Some(connection.queued_bytes() > queue_bytes_max)
    }

    /// Adds a head to the open frame of a connection, or to the next one if `bytes` of records
    /// after it would not fit.
    pub(super) fn push_head(&mut self, to: NodeId, head: &Head, bytes: usize) {
        let limit = self.limits.frame_bytes_max as usize;
        let Some(connection) = self.connection(to) else {
            return;
        };
        let heads = connection.open_frame_heads();
        if connection.open_frame_bytes() + HEAD_BYTES + bytes > limit
            || heads >= HEADS_PER_FRAME_MAX
        {
            connection.finish_frame();
        }
        connection.push_head(head);
        self.messages_sent += 1;
    }

    /// Adds a head and the records that belong to it, which are taken out of `pieces`.
    pub(super) fn push_records(&mut self, to: NodeId, head: &Head, pieces: &mut Vec<RecordBytes>) {
        let bytes = pieces.iter().map(|piece| piece.len()).sum();
        self.push_head(to, head, bytes);
        let connection = self.connection(to);
        if let Some(connection) = connection {
            for piece in pieces.drain(..) {
                connection.push_piece(piece);
            }
        }
        pieces.clear();
    }

    pub(super) fn on_connected(
        &mut self,
        now: Time,
        id: NodeId,
        socket: SocketId,
        operations: &mut Vec<Operation>,
    ) -> Option<Disconnected> {
        let Some(position) = self.position(id) else {
            operations.push(Operation::Close { socket });
            return None;
        };
        let replaced = self.disconnect(now, id, CloseReason::Replaced, operations);
        let peer = &mut self.peers[position];
        peer.reconnect.on_connected();
        peer.dial_at = NEVER;
        peer.link = Some(Link {
            socket,
            connection: Connection::new(self.limits),
            sending_since: None,
        });
        if let Some(suppressed) = self.lines.admit("connected", now) {
            tracing::info!(node = %self.node, peer = %id, suppressed, "connected");
        }
        replaced
    }

    pub(super) fn on_dial_failed(&mut self, now: Time, id: NodeId) {
        if let Some(position) = self.position(id) {
            let peer = &mut self.peers[position];
            if peer.link.is_none() && peer.dials {
                peer.dial_at = Time(peer.reconnect.on_failed(now.0));
            }
        }
    }

    pub(super) fn on_sent(
        &mut self,
        now: Time,
        socket: SocketId,
        (batch, result): (SendBatch<RecordBytes>, Result<usize, i32>),
        operations: &mut Vec<Operation>,
    ) -> Option<Disconnected> {
        let (peer, link) = self.link(socket)?;
        link.sending_since = None;
        match link.connection.on_sent(batch, result) {
            Ok(()) => None,
            Err(error) => self.disconnect(now, peer, (&error).into(), operations),
        }
    }

    /// Closes the connection to a peer, if there is one.
    pub(super) fn disconnect(
        &mut self,
        now: Time,
        peer: NodeId,
        reason: CloseReason,
        operations: &mut Vec<Operation>,
    ) -> Option<Disconnected> {
        let position = self.position(peer)?;
        let this = &mut self.peers[position];
        let link = this.link.take()?;
        self.skipped_frames += link.connection.skipped_frames();
        let socket = link.socket;
        operations.push(Operation::Close { socket });
        if this.dials {
            this.dial_at = Time(this.reconnect.on_failed(now.0));
        }
        if let Some(suppressed) = self.lines.admit(reason.label(), now) {
            log_disconnect(self.node, peer, reason, suppressed);
        }
        *self.closed.entry(reason).or_default() += 1;
        Some(Disconnected { peer })
    }

    /// Dials a peer if it is to be dialled, and starts its send and receive of this turn.
    pub(super) fn drive(
        &mut self,
        now: Time,
        position: usize,
        operations: &mut Vec<Operation>,
    ) -> Option<Disconnected> {
        let peer = &mut self.peers[position];
        if peer.dial_at <= now {
            peer.dial_at = NEVER;
            operations.push(Operation::Dial { peer: peer.id });
        }
        let id = peer.id;
        let link = peer.link.as_mut()?;
        let since = link.sending_since;
        if since.is_some_and(|since| now.since(since) >= SEND_TIMEOUT) {
            return self.disconnect(now, id, CloseReason::SendTimeout, operations);
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
        None
    }
}

/// `suppressed` lines with the same reason were left out before this one.
fn log_disconnect(node: NodeId, peer: NodeId, reason: CloseReason, suppressed: u64) {
    if let CloseReason::Frame(error) = reason {
        tracing::warn!(%node, %peer, %error, suppressed, "disconnected: a frame was refused");
    } else {
        tracing::info!(%node, %peer, %reason, suppressed, "disconnected");
    }
}
