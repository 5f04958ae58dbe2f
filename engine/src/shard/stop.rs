//! The end of a core: what it leads is handed over first, which takes an election timeout at most.

use super::groups::Groups;
use super::mutant::Mutant;
use super::persist::Source;
use super::replicas::ReplicaSlot;
use crate::port::Operation;
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
        tracing::info!(node = %self.config.node, "hands over what it leads, and stops");
    }

    /// Hands over whatever a core that stops leads and another member could lead: what it was told
    /// to lead meanwhile, or could not hand over before, too.
    pub(super) fn hand_over_at_stop(&mut self) {
        if self.stop_by.is_none_or(|deadline| self.now >= deadline) || self.stopped {
            return;
        }
        let leads: Vec<ReplicaSlot> = self.replicas.leading().collect();
        for slot in leads {
            let raft = &mut self.replicas[slot].raft;
            if raft.hand_over(self.now, &mut self.output).is_some() {
                self.process_output(slot, Source::None);
            }
        }
    }

    /// Ends what began with `begin_stop`, once nothing is left to hand over or the time is up. True
    /// when that is now.
    pub(super) fn end_stop(&mut self, operations: &mut Vec<Operation>) -> bool {
        let Some(deadline) = self.stop_by.filter(|_| !self.stopped) else {
            return false;
        };
        let waits = !self.failed && self.now < deadline;
        if waits && (self.is_handing_over() || !self.is_witnessed_at_stop(operations)) {
            return false;
        }
        self.stopped = true;
        self.creations.refuse(RequestError::Stopped);
        // Now, and not when the disk has ended: that one may hang.
        self.durability.abandon(RequestError::Stopped);
        self.awaiting_leader.abandon(RequestError::Stopped);
        true
    }

    /// Whether it leads a group that another member could lead.
    fn is_handing_over(&mut self) -> bool {
        let leads: Vec<ReplicaSlot> = self.replicas.leading().collect();
        let replicas = &mut self.replicas;
        leads.into_iter().any(|slot| replicas[slot].raft.may_hand_over())
    }
}
