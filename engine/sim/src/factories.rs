//! State machines that take long to make: one a turn, so that the other groups of a core get theirs
//! between them.
//!
//! A start makes those of all its groups before its first turn, and takes so long; while a node
//! runs, no time can pass within a turn here, so that the machines of each are counted, and the
//! time is taken after it.

use crate::faults::Fault;
use crate::machine::lock;
use crate::world::World;

/// Most machines that a turn makes.
const PER_TURN_MAX: u64 = 1;

impl World {
    /// Before a turn: machines are counted from here.
    pub(crate) fn count_machines(&mut self) {
        lock(&self.oracle).asked_for = 0;
    }

    /// After a turn: it has made one machine at most, and that took its time.
    pub(crate) fn check_factories(&mut self, position: usize) {
        let made = lock(&self.oracle).asked_for;
        if made > PER_TURN_MAX {
            self.fail(format!(
                "a turn of place {position} made {made} state machines: each may take long"
            ));
        }
        if made > 0 {
            self.take_time_for_machines(self.places[position].node);
        }
    }

    /// A node stands still while it makes the machines that were counted.
    pub(crate) fn take_time_for_machines(&mut self, node: usize) {
        let made = std::mem::take(&mut lock(&self.oracle).asked_for);
        if made == 0 || self.swarm.slow_factory == 0 || !self.may_fail() {
            return;
        }
        let most = self.swarm.slow_factory;
        let lasts: u64 = (0..made).map(|_| self.later.between(0, most)).sum();
        let until = self.now + lasts;
        self.paused_until[node] = self.paused_until[node].max(until);
        self.injected(Fault::SlowFactory);
    }
}
