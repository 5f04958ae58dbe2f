//! A further connection of a peer that has one already: on trial beside it.
//!
//! Whoever knows a peer's id can connect in its name. So a new connection does not displace one
//! that works: it takes its place once it has said something and the other one has been silent, has
//! never been of use, or is gone. What it said waits in its buffer until then.

use pontoon_raft::Time;
use pontoon_transport::ReceiveBuffer;

use super::link::{Link, Said};
use super::mutant::Mutant;
use super::peers::{Disconnected, NEVER, Peer, Peers};
use crate::port::{Operation, SocketId};
use crate::reason::CloseReason;

impl Peers {
    /// Puts a new connection beside the one that there is. A second newcomer takes the place of the
    /// first, unless that has said something.
    pub(super) fn put_on_trial(
        &mut self,
        position: usize,
        link: Link,
        operations: &mut Vec<Operation>,
    ) {
        let newcomer = &mut self.peers[position].newcomer;
        let older_stays = newcomer.as_ref().is_some_and(Link::has_spoken);
        let refused = match older_stays {
            true => Some(link),
            false => newcomer.replace(link),
        };
        if let Some(refused) = refused {
            self.close_newcomer(refused.socket, CloseReason::Superfluous, operations);
        }
    }

    /// Bytes came from a newcomer; gives them back if it is none.
    pub(super) fn on_newcomer_received(
        &mut self,
        now: Time,
        socket: SocketId,
        (buffer, result): (ReceiveBuffer, Result<usize, i32>),
        operations: &mut Vec<Operation>,
    ) -> Option<(ReceiveBuffer, Result<usize, i32>)> {
        let Some(link) = self.newcomer(socket) else {
            return Some((buffer, result));
        };
        let received = link.connection.on_received(buffer, result);
        match received.and_then(|()| link.connection.has_frame()) {
            Ok(true) => link.on_heard(now, Said::There),
            Ok(false) => {}
            Err(error) => {
                self.dismiss(socket, CloseReason::from(&error), operations);
            }
        }
        None
    }

    fn newcomer(&mut self, socket: SocketId) -> Option<&mut Link> {
        let newcomers = self.peers.iter_mut().filter_map(|peer| peer.newcomer.as_mut());
        newcomers.into_iter().find(|link| link.socket == socket)
    }

    /// Whether the socket is of a newcomer, which is closed then.
    pub(super) fn dismiss(
        &mut self,
        socket: SocketId,
        reason: CloseReason,
        operations: &mut Vec<Operation>,
    ) -> bool {
        let is_this = |peer: &Peer| peer.newcomer.as_ref().is_some_and(|l| l.socket == socket);
        let Some(position) = self.peers.iter().position(is_this) else {
            return false;
        };
        self.peers[position].newcomer = None;
        self.close_newcomer(socket, reason, operations);
        true
    }

    fn close_newcomer(
        &mut self,
        socket: SocketId,
        reason: CloseReason,
        operations: &mut Vec<Operation>,
    ) {
        operations.push(Operation::Close { socket });
        *self.closed.entry(reason).or_default() += 1;
    }

    /// Ends the trial of a peer's newcomer if it is decided. Gives the connection that it took the
    /// place of, and the socket of one that took a place: what it said is there to be read.
    pub(super) fn decide_trial(
        &mut self,
        now: Time,
        position: usize,
        operations: &mut Vec<Operation>,
    ) -> (Option<Disconnected>, Option<SocketId>) {
        let peer = &self.peers[position];
        let Some(newcomer) = &peer.newcomer else {
            return (None, None);
        };
        let socket = newcomer.socket;
        let idle_displaces = self.mutants.is(Mutant::IdleDisplaces);
        let gives_way = peer.link.as_ref().is_none_or(|link| {
            idle_displaces || newcomer.has_spoken() && link.gives_way(now)
        });
        if !gives_way {
            if newcomer.trial_deadline() <= now {
                let reason = match newcomer.has_spoken() {
                    true => CloseReason::Superfluous,
                    false => CloseReason::Mute,
                };
                self.dismiss(socket, reason, operations);
            }
            return (None, None);
        }
        let id = peer.id;
        let newcomer = self.peers[position].newcomer.take();
        let replaced = self.disconnect(now, id, CloseReason::Replaced, operations);
        let peer = &mut self.peers[position];
        (peer.link, peer.dial_at) = (newcomer, NEVER);
        (replaced, Some(socket))
    }
}
