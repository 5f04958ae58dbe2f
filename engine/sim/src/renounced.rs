//! Members that said that they can't lead, and hand-overs beside them: nobody asks them.
//!
//! A member whose state machine failed follows, persists and votes, and says that it does not lead
//! (`AppendResponse::renounced`). Whoever is asked for a hand-over, or stops, knows that as long as
//! the connection lives on which it was said.

use pontoon::raft::{Raft, TransferStatus};
use pontoon::{GroupId, NodeId};

use crate::faults::Fault;
use crate::machine::lock;
use crate::world::{World, raft_of};

impl World {
    /// Now and then the machine of a follower fails; where one has, the leader is asked to hand
    /// over to it, or its node to stop.
    pub(crate) fn hand_over_beside_renounced(&mut self) {
        if !self.later.happens(self.swarm.renounced) {
            return;
        }
        let group = GroupId(1 + self.later.number() % self.swarm.groups);
        let core = pontoon::simulation::core_of(group, self.swarm.cores);
        let leads = |node: &usize| {
            let place = &self.places[self.place(*node, core)];
            raft_of(place, group).is_some_and(Raft::is_leader)
        };
        let Some(leader) = (0..self.swarm.nodes).find(leads) else {
            return;
        };
        let failed = {
            let oracle = lock(&self.oracle);
            let has_failed = |node: &usize| oracle.failed.contains_key(&(*node, group.0));
            (0..self.swarm.nodes).find(has_failed)
        };
        let Some(failed) = failed.filter(|failed| *failed != leader) else {
            let other = self.later.below(self.swarm.nodes);
            if other != leader {
                lock(&self.oracle).doomed.insert((other, group.0));
            }
            return;
        };
        self.injected(Fault::FollowerRenounced);
        if self.later.happens(300_000) {
            return self.begin_stop(leader);
        }
        let place = self.place(leader, core);
        if let Some(shard) = &self.places[place].shard {
            let to = NodeId(failed as u64 + 1);
            let answer = shard.group(group).transfer_leadership(to);
            self.hostile.elections += 1;
            self.asked(place, ("transfer", true), answer);
        }
    }

    /// After a turn of a place, which was at this time by its clock: no hand-over began in it to a
    /// member that had said that it can't lead.
    pub(crate) fn check_successors(&mut self, position: usize, clock: u64) {
        if self.swarm.renounced == 0 && self.swarm.machine_failure == 0 {
            return;
        }
        let place = &mut self.places[position];
        let Some(shard) = &place.shard else {
            return;
        };
        let mut renounced = Vec::new();
        let mut broken = None;
        for (group, raft) in shard.replicas().filter(|(_, raft)| raft.is_leader()) {
            let said = raft
                .renounced_peers()
                .map(|peer| (group, raft.current_term(), peer));
            renounced.extend(said);
            let begun = |transfer: &TransferStatus| transfer.since.0 == clock;
            // What is heard in the same turn may come after that.
            if let Some(transfer) = raft.transfer().filter(begun)
                && place
                    .renounced
                    .contains(&(group, raft.current_term(), transfer.to))
                && renounced.contains(&(group, raft.current_term(), transfer.to))
            {
                broken = Some((group, transfer.to));
            }
        }
        place.renounced = renounced;
        if let Some((group, to)) = broken {
            self.fail(format!(
                "place {position} hands group {group} over to node {to}, which has said that it \
                 can't lead"
            ));
        }
    }
}
