//! A node that was started again is not kept out by strangers who talk in its name, however long
//! the ways are.
//!
//! While it was away one of them has its place at every other node, and says again and again that
//! it is there. It answers nothing: that is what it is told by.

use pontoon::NodeId;

use crate::settings::MILLISECOND;
use crate::world::World;

/// Whoever owes an answer for half a minute is given up (`Patience::silence`); then the node is
/// dialled, or dials, and says its first word.
const KEPT_OUT_MAX: u64 = 40_000 * MILLISECOND;

/// Events between two looks.
const EVENTS: usize = 50;

impl World {
    /// Everything is repaired but the ways, which are as long as they were: a node is started
    /// again, and heard by all others within a bound.
    pub(crate) fn return_among_strangers(&mut self) {
        if !self.swarm.returns_among_strangers || self.swarm.nodes == 1 {
            return;
        }
        let node = self.later.below(self.swarm.nodes);
        self.strangers_stay = true;
        if self.runs(node) {
            self.crash(node);
        }
        for core in 0..self.swarm.cores {
            for other in (0..self.swarm.nodes).filter(|other| *other != node) {
                let (place, acceptor) = (self.place(node, core), self.place(other, core));
                if self.places[acceptor].shard.is_some() {
                    self.add_stranger(place, acceptor, true);
                }
            }
        }
        let until = self.now + KEPT_OUT_MAX;
        while self.failure.is_none() && !self.is_heard(node) {
            self.restart_failed();
            if self.now > until {
                let kept_out = KEPT_OUT_MAX / MILLISECOND;
                return self.fail(format!(
                    "node {node} was started again, and strangers keep it out for {kept_out} ms"
                ));
            }
            for _ in 0..EVENTS {
                if self.failure.is_none() {
                    self.step();
                }
            }
        }
        self.strangers_stay = false;
    }

    /// Whether a node and every other have taken the connection between them for theirs.
    fn is_heard(&self, node: usize) -> bool {
        let connection = |from: usize, to: usize| {
            let shard = self.places[from].shard.as_ref()?;
            shard.connection_to(NodeId(self.places[to].node as u64 + 1))
        };
        let are_joined = |place: usize, other: usize| {
            let ends = connection(place, other).zip(connection(other, place));
            ends.is_some_and(|(near, far)| {
                let end = self.network.end(near);
                end.is_some_and(|end| end.other == far)
            })
        };
        (0..self.swarm.cores).all(|core| {
            let mut others = (0..self.swarm.nodes).filter(|other| *other != node);
            others.all(|other| are_joined(self.place(node, core), self.place(other, core)))
        })
    }
}
