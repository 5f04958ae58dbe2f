//! A replica that may follow and vote, but not lead: its node can't serve what it would lead.

use crate::output::Output;
use crate::raft::Raft;
#[cfg(feature = "mutants")]
use crate::role::Role;
#[cfg(feature = "mutants")]
use pontoon_types::NodeId;
use pontoon_types::Time;

impl Raft {
    /// Gives up leadership for good: this replica never campaigns again, and follows, persists and
    /// votes as ever, so that the others keep their majority.
    ///
    /// A leader hands over to the member that is best placed (thesis 3.10), as it would with
    /// [`transfer_leadership`](Self::transfer_leadership), and steps down if there is none or if it
    /// still leads after an election timeout.
    pub fn renounce(&mut self, now: Time, output: &mut Output) {
        self.now = now;
        self.renounced = true;
        self.abandon_campaign();
        self.hand_over(now, output);
        self.resign_if_renounced(output);
    }

    /// The followers that said to this leader that they have renounced.
    #[cfg(feature = "mutants")]
    pub fn renounced_peers(&self) -> impl Iterator<Item = NodeId> {
        let progress = match &self.role {
            Role::Leader(leader) => Some(&leader.progress),
            _ => None,
        };
        let peers = progress.into_iter().flatten();
        peers.filter_map(|(&peer, progress)| progress.renounced.then_some(peer))
    }

    /// Gives up leadership for now: the others elect one of them, or this replica again.
    pub fn resign(&mut self, now: Time, output: &mut Output) {
        self.now = now;
        if self.is_leader() {
            self.become_follower(self.current_term, None, output);
        }
    }

    /// Nobody is to take over, or nobody did in time.
    pub(crate) fn resign_if_renounced(&mut self, output: &mut Output) {
        let transfers = self.leading().map(|(leader, _)| leader.transfer.is_some());
        if self.renounced && transfers == Some(false) {
            self.become_follower(self.current_term, None, output);
        }
    }
}
