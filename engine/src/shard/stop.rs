//! The end of a core: what it leads is handed over first, which takes an election timeout at most.

use super::groups::Groups;
use super::mutant::Mutant;
use super::replicas::ReplicaSlot;
use crate::outcome::Unknown;
use crate::request::RequestError;

impl Groups {
    /// Begins to hand over. What has no successor that answers is not waited for.
    pub(super) fn begin_stop(&mut self) {
        if self.stop_by.is_some() {
            return;
        }
        self.stop_by = Some(self.now.after(self.config.election_timeout));
        if self.is(Mutant::StopsWithoutHandOver) {
            self.stop_by = Some(self.now);
            return;
        }
        let leads: Vec<ReplicaSlot> = self.replicas.leading().collect();
        for slot in leads {
            let replica = &mut self.replicas[slot];
            if let Some(to) = replica.raft.best_successor() {
                let (node, group) = (self.config.node, replica.id);
                tracing::info!(%node, %group, %to, "hands over leadership before it stops");
                // Refused or not, the node stops.
                let _ = self.transfer(group, to);
            }
        }
    }

    /// Ends what began with `begin_stop`, once nothing is left to hand over or the time is up. True
    /// when that is now.
    pub(super) fn end_stop(&mut self) -> bool {
        let Some(deadline) = self.stop_by.filter(|_| !self.stopped) else {
            return false;
        };
        if !self.failed && self.now < deadline && self.has_successors() {
            return false;
        }
        self.stopped = true;
        for replica in self.replicas.iter_mut() {
            replica.proposals.give_up(Unknown::Stopped);
        }
        // Not only once the driver has ended, which may wait for a disk that does not answer.
        self.awaiting_leader.clear(RequestError::Stopped);
        true
    }

    /// Whether it leads a group that another member could lead.
    fn has_successors(&mut self) -> bool {
        let leads: Vec<ReplicaSlot> = self.replicas.leading().collect();
        let replicas = &mut self.replicas;
        let mut successors = leads.into_iter().map(|slot| replicas[slot].raft.best_successor());
        successors.any(|successor| successor.is_some())
    }
}
