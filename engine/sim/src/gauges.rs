//! Every queue and pool of a core against its limit, and the work of each turn.

use pontoon::shard::Turn;

use crate::world::World;

/// Queues are looked at after so many turns of their core; in steady runs more often.
const TURNS: u64 = 16;
const STEADY_TURNS: u64 = 4;

/// A core that turns so often in a row, asks for nothing, and is not told to wait, spins.
const SPINS_MAX: u64 = 1_000;

impl World {
    /// After a turn: a core that has nothing to do waits.
    pub(crate) fn check_spinning(&mut self, position: usize, idle: bool, turn: Turn) {
        let local = self.local_time(self.places[position].node);
        let spins = &mut self.places[position].spins;
        let waits = !turn.more && turn.deadline.0 > local + 1_000;
        *spins = if idle && !waits { *spins + 1 } else { 0 };
        if *spins > SPINS_MAX {
            self.fail(format!(
                "place {position} spins: more {}, deadline {} ns ago",
                turn.more,
                local.saturating_sub(turn.deadline.0)
            ));
        }
    }

    /// After a turn that asked for so many operations.
    pub(crate) fn check_gauges(&mut self, position: usize, operations: usize) {
        let place = &self.places[position];
        let Some(shard) = &place.shard else {
            return;
        };
        let (nodes, groups) = (self.swarm.nodes, self.swarm.groups as usize);
        // To each peer a send, a receive, a dial, a close; reads for it and for each group's
        // machine; writes, a segment.
        let most = 8 * nodes + 2 * groups + 8;
        if operations > most {
            self.fail(format!(
                "a turn of place {position} asked for {operations} operations"
            ));
            return;
        }
        let turns = if self.swarm.steady {
            STEADY_TURNS
        } else {
            TURNS
        };
        if !place.usage.turns.is_multiple_of(turns) {
            return;
        }
        let gauges = shard.gauges();
        let over = gauges.iter().find(|gauge| gauge.value > gauge.limit);
        if let Some(over) = over {
            let message = format!(
                "place {position}: {} are {}, their limit is {}",
                over.name, over.value, over.limit
            );
            self.fail(message);
        }
    }
}
