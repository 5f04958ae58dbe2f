//! Strangers who know the ids: they connect in a peer's name, say nothing, and displace nobody.

use pontoon::port::{Completion, SocketId};
use pontoon::{CloseReason, NodeId};

use crate::faults::Fault;
use crate::world::World;

/// The strangers' connections of one core that it has not closed.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    /// In whose name, and the core's own end.
    held: Vec<(NodeId, SocketId)>,
    /// Connections whose place others had taken when that was looked at.
    replaced: u64,
}

/// No core of any life has it.
const NOBODY: u64 = u64::MAX;

impl World {
    /// A stranger who saw that a node has connected to a core does so in its name, now and then.
    pub(crate) fn maybe_add_stranger(&mut self, place: usize, acceptor: usize) {
        if !self.may_fail() || !self.random.happens(self.swarm.stranger) {
            return;
        }
        self.injected(Fault::Stranger);
        let generation = self.places[acceptor].generation;
        let sides = [(place, NOBODY), (acceptor, generation)];
        let [_, socket] = self.network.connect(sides);
        let peer = NodeId(self.places[place].node as u64 + 1);
        let held = &mut self.places[acceptor].strangers.held;
        held.push((peer, socket));
        let connected = Completion::Connected { peer, socket };
        self.complete(acceptor, generation, connected);
    }

    /// A core closes one of its ends: not because a stranger took its place by saying nothing.
    pub(crate) fn check_displaced(&mut self, position: usize, socket: SocketId) {
        let other = self.network.end(socket).map(|end| end.other);
        let Some(other) = other.and_then(|other| self.network.end(other)) else {
            return;
        };
        let peer = NodeId(self.places[other.place].node as u64 + 1);
        let place = &mut self.places[position];
        let Some(shard) = &place.shard else {
            return;
        };
        let closed = shard.statistics().connections_closed;
        let replaced = closed.get(&CloseReason::Replaced).copied().unwrap_or(0);
        let strangers = &mut place.strangers;
        let is_news = replaced > std::mem::replace(&mut strangers.replaced, replaced);
        let known = strangers.held.len();
        strangers.held.retain(|(_, held)| *held != socket);
        let is_strangers = strangers.held.len() < known;
        let beside_silent = strangers.held.iter().any(|(name, _)| *name == peer);
        if is_news && !is_strangers && beside_silent {
            self.fail(format!(
                "place {position} gave up a connection to node {peer} for one that says nothing"
            ));
        }
    }
}
