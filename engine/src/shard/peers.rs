//! The other nodes: one connection to each, dialled again when it breaks.

use std::collections::BTreeMap;
use std::time::Duration;

use pontoon_raft::{NodeId, Time};
#[cfg(feature = "simulation")]
use pontoon_storage::Life;
use pontoon_storage::RecordBytes;
use pontoon_transport::{FrameLimits, HEAD_BYTES, Head, Reconnect, SendBatch};

use super::ShardConfig;
use super::link::{Link, Said};
use super::mutant::{Mutant, Mutants};
use super::patience::Patience;
use super::round_trip::RoundTrip;
use crate::port::{Operation, SocketId};
use crate::rate_limited::RateLimited;
use crate::reason::CloseReason;

/// First and longest delay before a peer is dialled again, in nanoseconds.
const REDIAL_MIN: u64 = 20_000_000;
const REDIAL_MAX: u64 = 1_000_000_000;

/// Most heads in one frame, well below what its header can say.
const HEADS_PER_FRAME_MAX: usize = 4096;

pub(super) const NEVER: Time = Time(u64::MAX);

/// One other node.
pub(super) struct Peer {
    pub(super) id: NodeId,
    pub(super) link: Option<Link>,
    /// Another connection, on trial.
    pub(super) newcomer: Option<Link>,
    /// Of two nodes the one with the smaller id dials.
    dials: bool,
    /// When to dial; never while a dial is under way, or there is a connection of use.
    pub(super) dial_at: Time,
    is_dialling: bool,
    reconnect: Reconnect,
    round_trip: RoundTrip,
}

impl Peer {
    /// When another connection is dialled beside one that has never been of use: who holds that one
    /// in the peer's name would keep the peer out, which does not dial itself.
    fn wants_another_at(&self) -> Time {
        let is_free = self.dials && !self.is_dialling && self.dial_at == NEVER;
        let link = self.link.as_ref().filter(|link| link.only_talks());
        match link {
            Some(link) if is_free && self.newcomer.is_none() => link.gives_way_at(),
            _ => NEVER,
        }
    }
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
    pub(super) peers: Vec<Peer>,
    limits: FrameLimits,
    patience: Patience,
    round_trip_max: u64,
    queue_bytes_max: usize,
    pub(super) mutants: Mutants,
    /// Messages of groups given to connections.
    pub(super) messages_sent: u64,
    /// Messages without entries that were dropped because the peer's queue was full.
    pub(super) messages_unsent: u64,
    /// Connections that were closed.
    pub(super) closed: BTreeMap<CloseReason, u64>,
    /// Connections whose places others took.
    #[cfg(feature = "simulation")]
    replaced: Vec<SocketId>,
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
                newcomer: None,
                dials,
                dial_at: if dials { now } else { NEVER },
                is_dialling: false,
                reconnect: Reconnect::new(config.seed ^ id.0, REDIAL_MIN, REDIAL_MAX),
                round_trip: RoundTrip::default(),
            }
        };
        Self {
            node: config.node,
            peers: ids.into_iter().map(peer).collect(),
            limits: config.frame_limits,
            patience: Patience::with(config.election_timeout),
            round_trip_max: config.round_trip_max,
            queue_bytes_max: config.peer_queue_bytes_max,
            mutants: config.mutants,
            messages_sent: 0,
            messages_unsent: 0,
            closed: BTreeMap::new(),
            #[cfg(feature = "simulation")]
            replaced: Vec::new(),
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

    /// When a peer is to be dialled, or a connection looked at: it takes or says nothing.
    pub(super) fn deadline(&self) -> Time {
        let due = |peer: &Peer| {
            let link = peer.link.as_ref().map_or(NEVER, Link::deadline);
            let newcomer = peer.newcomer.as_ref().map_or(NEVER, |newcomer| {
                let place = match &peer.link {
                    None => Time(0),
                    Some(link) if newcomer.has_spoken() => link.gives_way_at(),
                    Some(_) => NEVER,
                };
                newcomer.deadline().min(newcomer.trial_deadline()).min(place)
            });
            link.min(newcomer).min(peer.dial_at.min(peer.wants_another_at()))
        };
        self.peers.iter().map(due).min().unwrap_or(NEVER)
    }

    /// Most bytes of records in one frame, so that heads have room beside them.
    pub(super) fn records_bytes_max(&self) -> usize {
        self.limits.frame_bytes_max as usize / 2
    }

    /// Bytes that wait for the peer for which most wait.
    #[cfg(feature = "simulation")]
    pub(super) fn unsent_bytes_max(&self) -> usize {
        let links = self.peers.iter().filter_map(|peer| peer.link.as_ref());
        let unsent = links.map(|link| link.connection.unsent_bytes());
        unsent.max().unwrap_or(0)
    }

    /// The same, of heads alone.
    #[cfg(feature = "simulation")]
    pub(super) fn unsent_head_bytes_max(&self) -> usize {
        let links = self.peers.iter().filter_map(|peer| peer.link.as_ref());
        let unsent = links.map(|link| link.connection.unsent_head_bytes());
        unsent.max().unwrap_or(0)
    }

    #[cfg(feature = "simulation")]
    pub(super) fn believed(&self) -> impl Iterator<Item = (NodeId, Life)> {
        let links = self.peers.iter().filter_map(|peer| Some((peer.id, peer.link.as_ref()?)));
        links.filter_map(|(id, link)| Some((id, link.acquaintance.believed_life()?)))
    }

    /// Whether another connection took the place of this one.
    #[cfg(feature = "simulation")]
    pub(super) fn was_replaced(&self, socket: SocketId) -> bool {
        self.replaced.contains(&socket)
    }

    /// The connection to a peer.
    #[cfg(feature = "simulation")]
    pub(super) fn connection(&self, id: NodeId) -> Option<SocketId> {
        let link = self.peers[self.position(id)?].link.as_ref();
        link.map(|link| link.socket)
    }

    fn position(&self, id: NodeId) -> Option<usize> {
        self.peers.binary_search_by_key(&id, |peer| peer.id).ok()
    }

    /// The connection by which a peer may be told of groups.
    fn link_to(&mut self, id: NodeId) -> Option<&mut Link> {
        let position = self.position(id)?;
        let link = self.peers[position].link.as_mut();
        link.filter(|link| link.acquaintance.may_send())
    }

    pub(super) fn is_connected(&self, id: NodeId) -> bool {
        let Some(position) = self.position(id) else {
            return false;
        };
        let link = self.peers[position].link.as_ref();
        link.is_some_and(|link| link.acquaintance.may_send())
    }

    /// The connection to a peer by its place in the list, if its ends do not know each other yet.
    pub(super) fn unacquainted(&mut self, position: usize) -> Option<(NodeId, &mut Link)> {
        let peer = &mut self.peers[position];
        let link = peer.link.as_mut();
        let link = link.filter(|link| !link.acquaintance.is_believed());
        link.map(|link| (peer.id, link))
    }

    /// Bytes of entries that a peer may be sent now: at most what one frame takes beside heads.
    /// `None` if entries are to be held back, or it is not connected.
    pub(super) fn records_room(&mut self, id: NodeId) -> Option<usize> {
        let most = self.records_bytes_max();
        let room = self.link_to(id)?.records_room()?;
        Some(room.min(most))
    }


    /// Whole frames came from a peer. Only now is its connection known to be good for something:
    /// one that breaks before is dialled less and less often.
    pub(super) fn on_frames(&mut self, now: Time, id: NodeId, said: Said) {
        let Some(position) = self.position(id) else {
            return;
        };
        let peer = &mut self.peers[position];
        peer.reconnect.on_connected();
        let Some(link) = &mut peer.link else {
            return;
        };
        let is_answer = said == Said::There && self.mutants.is(Mutant::WordsAreAnswers);
        link.on_heard(now, if is_answer { Said::Answers } else { said });
        if let Some(round_trip) = link.take_round_trip(now) {
            self.on_round_trip(now, position, round_trip);
        }
    }

    /// The way to a peer and back was measured.
    fn on_round_trip(&mut self, now: Time, position: usize, took: u64) {
        let (peer, most) = (&mut self.peers[position], self.round_trip_max);
        let Some(long) = peer.round_trip.on_measured(took, most) else {
            return;
        };
        if let Some(suppressed) = self.lines.admit("round_trip", now) {
            let [round_trip, most] = [long, most].map(Duration::from_nanos);
            tracing::warn!(
                node = %self.node, peer = %peer.id, ?round_trip, ?most, suppressed,
                "the way to a peer is longer than raft.election_timeout is good for; raise it"
            );
        }
    }

    /// The way to each peer and back.
    pub(super) fn round_trips(&self) -> BTreeMap<NodeId, Duration> {
        let measured = |peer: &Peer| Some((peer.id, Duration::from_nanos(peer.round_trip.get()?)));
        self.peers.iter().filter_map(measured).collect()
    }

    /// A request of Raft was sent that the peer answers at once, if it is there.
    pub(super) fn on_asked(&mut self, now: Time, id: NodeId) {
        if let Some(link) = self.link_to(id) {
            link.on_asked(now);
        }
    }

    /// Who is at the other end of a socket, and the connection; `None` if it was closed since.
    pub(super) fn link(&mut self, socket: SocketId) -> Option<(NodeId, &mut Link)> {
        let mut links = self.peers.iter_mut().flat_map(|peer| {
            let links = peer.link.iter_mut().chain(&mut peer.newcomer);
            links.map(|link| (peer.id, link))
        });
        links.find(|(_, link)| link.socket == socket)
    }

    /// Sends a message without entries, or drops it if too many wait for that peer already.
    pub(super) fn push_head(&mut self, to: NodeId, head: &Head) {
        let without_limit = self.mutants.is(Mutant::QueuesWithoutLimit);
        let has_room = self.link_to(to).map(|link| without_limit || link.has_head_room());
        match has_room {
            Some(true) => self.push_head_before(to, head, 0),
            Some(false) => self.messages_unsent += 1,
            None => {}
        }
    }

    /// Adds a head to the open frame of a connection, or to the next one if `bytes` of records
    /// after it would not fit.
    fn push_head_before(&mut self, to: NodeId, head: &Head, bytes: usize) {
        let limit = self.limits.frame_bytes_max as usize;
        let Some(link) = self.link_to(to) else {
            return;
        };
        let connection = &mut link.connection;
        let heads = connection.open_frame_heads();
        if connection.open_frame_bytes() + HEAD_BYTES + bytes > limit
            || heads >= HEADS_PER_FRAME_MAX
        {
            connection.finish_frame();
        }
        link.push_head(head);
        self.messages_sent += 1;
    }

    /// Sends a message and the records that belong to it, which are taken out of `pieces`. Asked
    /// for [`records_room`](Self::records_room) before.
    pub(super) fn push_records(&mut self, to: NodeId, head: &Head, pieces: &mut Vec<RecordBytes>) {
        let bytes = pieces.iter().map(|piece| piece.len()).sum();
        self.push_head_before(to, head, bytes);
        if let Some(link) = self.link_to(to) {
            for piece in pieces.drain(..) {
                link.push_piece(piece);
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
    ) {
        let Some(position) = self.position(id) else {
            return operations.push(Operation::Close { socket });
        };
        let sizes = (self.limits, self.patience);
        let link = Link::new(now, socket, sizes, self.queue_bytes_max);
        let peer = &mut self.peers[position];
        (peer.dial_at, peer.is_dialling) = (NEVER, false);
        if peer.link.is_some() {
            return self.put_on_trial(position, link, operations);
        }
        peer.link = Some(link);
        if let Some(suppressed) = self.lines.admit("connected", now) {
            tracing::info!(node = %self.node, peer = %id, suppressed, "connected");
        }
    }

    pub(super) fn on_dial_failed(&mut self, now: Time, id: NodeId) {
        if let Some(position) = self.position(id) {
            let peer = &mut self.peers[position];
            peer.is_dialling = false;
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
        match link.on_sent(now, batch, result) {
            Ok(()) => None,
            Err(reason) if self.dismiss(socket, reason, operations) => None,
            Err(reason) => self.disconnect(now, peer, reason, operations),
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
        #[cfg(feature = "simulation")]
        self.replaced.extend((reason == CloseReason::Replaced).then_some(socket));
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

    /// Dials a peer if it is to be dialled, and starts its send and receive of this turn. With
    /// `others_wait`, memory that a stuck send pins is needed: it is cut off.
    pub(super) fn drive(
        &mut self,
        now: Time,
        (position, others_wait): (usize, bool),
        operations: &mut Vec<Operation>,
    ) -> Option<Disconnected> {
        let peer = &mut self.peers[position];
        if peer.wants_another_at() <= now {
            peer.dial_at = Time(peer.reconnect.on_failed(now.0));
        }
        if peer.dial_at <= now {
            (peer.dial_at, peer.is_dialling) = (NEVER, true);
            operations.push(Operation::Dial { peer: peer.id });
        }
        let id = peer.id;
        let without_limit = self.mutants.is(Mutant::QueuesWithoutLimit);
        if let Some(newcomer) = &mut peer.newcomer {
            let heard = newcomer.has_spoken();
            newcomer.drive(now, (heard, without_limit), operations);
        }
        let link = peer.link.as_mut()?;
        if link.is_mute(now) {
            return self.disconnect(now, id, CloseReason::Mute, operations);
        }
        if link.takes_too_little(now) || others_wait && link.is_stuck(now) {
            return self.disconnect(now, id, CloseReason::SendTimeout, operations);
        }
        if link.is_silent(now) {
            return self.disconnect(now, id, CloseReason::Silent, operations);
        }
        let waits = link.acquaintance.waits();
        link.drive(now, (waits, without_limit), operations);
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
