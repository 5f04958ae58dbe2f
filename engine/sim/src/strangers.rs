//! Strangers who know the ids: they connect in a peer's name, say nothing, and displace nobody.
//! Some talk: they say again and again that they are there, and answer nothing.

use pontoon::NodeId;
use pontoon::port::{Completion, SocketId};
use pontoon::transport::Connection;

use crate::faults::Fault;
use crate::settings::{LIMITS, MILLISECOND};
use crate::world::{Event, World};

/// Between two words of a stranger that talks.
const TALK_INTERVAL: u64 = 30 * MILLISECOND;

/// The strangers' connections of one core that it has not closed.
#[derive(Default)]
pub(crate) struct Strangers {
    held: Vec<Held>,
}

/// One connection of a stranger.
struct Held {
    /// The core's own end.
    socket: SocketId,
    /// What it says, if it talks.
    voice: Option<Box<Connection<Vec<u8>>>>,
}

/// No core of any life has it.
const NOBODY: u64 = u64::MAX;

impl World {
    /// A stranger who saw that a node has connected to a core does so in its name, now and then.
    pub(crate) fn maybe_add_stranger(&mut self, place: usize, acceptor: usize) {
        if !self.may_fail() {
            return;
        }
        let silent = self.random.happens(self.swarm.stranger);
        let talks = !silent && self.random.happens(self.swarm.talker);
        if silent && self.later.happens(500_000) {
            // When that node and the core have talked to each other for a while.
            let after = self.later.between(20, 400) * MILLISECOND;
            self.schedule(after, Event::Stranger { place, acceptor });
        } else if silent || talks {
            self.add_stranger(place, acceptor, talks);
        }
    }

    /// A stranger comes later, if the core is still there.
    pub(crate) fn stranger_comes(&mut self, place: usize, acceptor: usize) {
        if self.may_fail() && self.places[acceptor].shard.is_some() {
            self.add_stranger(place, acceptor, false);
        }
    }

    /// A stranger connects to a core in a node's name, and talks or says nothing.
    pub(crate) fn add_stranger(&mut self, place: usize, acceptor: usize, talks: bool) {
        self.injected(if talks {
            Fault::Talker
        } else {
            Fault::Stranger
        });
        let generation = self.places[acceptor].generation;
        let sides = [(place, NOBODY), (acceptor, generation)];
        let [_, socket] = self.network.connect(sides);
        let peer = NodeId(self.places[place].node as u64 + 1);
        let held = &mut self.places[acceptor].strangers.held;
        let voice = talks.then(|| Box::new(Connection::new(LIMITS)));
        held.push(Held { socket, voice });
        let connected = Completion::Connected { peer, socket };
        self.complete(acceptor, generation, connected);
        if talks {
            let place = acceptor;
            self.schedule(MILLISECOND, Event::Talk { place, socket });
        }
    }

    /// A stranger says once more that it is there, and is gone when nothing goes wrong any more.
    pub(crate) fn talk(&mut self, position: usize, socket: SocketId) {
        let goes_on = self.may_fail() || self.strangers_stay;
        let mut held = self.places[position].strangers.held.iter_mut();
        let held = held.find(|held| held.socket == socket);
        let Some(voice) = held.and_then(|held| held.voice.as_mut()) else {
            return;
        };
        if !goes_on {
            self.network.finish(socket);
            return self.deliver(socket);
        }
        voice.ping(self.now);
        let batch = voice.send().expect("something waits");
        let bytes: Vec<u8> = batch.slices().flatten().copied().collect();
        let sent = voice.on_sent(batch, Ok(bytes.len()));
        debug_assert!(sent.is_ok());
        self.network.arrive(socket, &bytes, true);
        self.deliver(socket);
        if self.network.end(socket).is_some() {
            let place = position;
            self.schedule(TALK_INTERVAL, Event::Talk { place, socket });
        }
    }

    /// A core closes one of its ends: not because a stranger took its place by saying nothing, once
    /// its own other end has said something.
    pub(crate) fn check_displaced(&mut self, position: usize, socket: SocketId) {
        let ended = self.network.has_ended(socket);
        let heard = self.network.end(socket).is_some_and(|end| end.heard);
        let other = self.network.end(socket).map(|end| end.other);
        let other = other.and_then(|other| self.network.end(other));
        let peer = other.map(|other| NodeId(self.places[other.place].node as u64 + 1));
        let place = &mut self.places[position];
        let (Some(shard), Some(peer)) = (&place.shard, peer) else {
            return;
        };
        let taken_by = shard.connection(peer);
        let replaced = shard.was_replaced(socket);
        let held = &mut place.strangers.held;
        let known = held.len();
        held.retain(|held| held.socket != socket);
        let is_strangers = held.len() < known;
        let silent = |held: &Held| Some(held.socket) == taken_by && held.voice.is_none();
        if replaced && held.iter().any(silent) && !is_strangers && heard && !ended {
            self.fail(format!(
                "place {position} gave up a connection to node {peer} for one that says nothing"
            ));
        }
    }
}
