//! Whoever asks for little, and always: a command now and then, whatever became of the last one.
//!
//! Other clients wait for an answer before they ask again, so that a group that commits nothing has
//! no load. This one keeps a leader from ever having nothing to send.

use pontoon::GroupId;
use pontoon::raft::Raft;

use crate::machine::Command;
use crate::world::{Event, World, raft_of};

/// No other client reads or writes it.
const KEY: u64 = u64::MAX;

impl World {
    /// Gives the leader of the first group one command. The load of all others is what it was: a
    /// disk that has too much to do delays elections.
    pub(crate) fn ask_little(&mut self) {
        // Outcomes that nobody takes keep proposals out.
        self.steady.owed.retain_mut(|owed| !owed.is_answered());
        let group = GroupId(1);
        let core = pontoon::simulation::core_of(group, self.swarm.cores);
        let leads = |node: &usize| {
            let place = &self.places[self.place(*node, core)];
            raft_of(place, group).is_some_and(Raft::is_leader)
        };
        if let Some(node) = (0..self.swarm.nodes).find(leads) {
            self.operations += 1;
            let command = Command {
                operation: self.operations,
                key: KEY,
                write: None,
            };
            let position = self.place(node, core);
            let padding = self.light_load_padding();
            let asked = self.propose((position, group), command, padding);
            self.wake_soon(position);
            if self.swarm.steady {
                self.steady.owed.extend(asked);
            }
        }
        self.schedule(self.swarm.light_load, Event::LightLoad);
    }
}
