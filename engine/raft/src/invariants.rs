//! What must hold of every replica after every call.

use crate::raft::Raft;
use crate::role::Role;

impl Raft {
    /// Asserts every invariant of a single replica. For tests and the simulator, after each step.
    ///
    /// # Panics
    /// If one does not hold: a mistake of this crate, or of a caller that broke the contract.
    pub fn check_invariants(&self) {
        self.log.check_invariants();
        let compacted = self.log.compacted().index;
        assert!(
            compacted <= self.last_applied,
            "only what is applied is compacted"
        );
        assert!(
            self.last_applied <= self.commit_index,
            "only committed entries are applied"
        );
        assert!(
            self.commit_index <= self.log.last_index(),
            "what is committed is in the log"
        );
        assert!(
            self.replicated_everywhere <= self.commit_index,
            "everywhere includes a quorum"
        );
        assert!(
            self.log.last_term() <= self.current_term,
            "entries come from terms seen"
        );
        match &self.role {
            Role::Follower { .. } => {}
            Role::Candidate(candidate) => {
                assert!(
                    !self.tainted && !self.log_failed,
                    "who can't promise does not campaign"
                );
                let counted = candidate.votes.contains_key(&self.config.id);
                let waiting = candidate.own_vote.is_some();
                assert_ne!(
                    counted, waiting,
                    "its own vote counts exactly once it is durable"
                );
            }
            Role::Leader(leader) => {
                assert!(
                    !self.tainted && !self.log_failed,
                    "who can't promise does not lead"
                );
                assert_eq!(
                    self.voted_for,
                    Some(self.config.id),
                    "a leader voted for itself"
                );
                assert_eq!(
                    self.log.last_term(),
                    self.current_term,
                    "a leader began its term"
                );
                for progress in leader.progress.values() {
                    assert!(
                        progress.match_index < progress.next_index,
                        "match is below next"
                    );
                    assert!(
                        progress.next_index <= self.log.last_index().next(),
                        "next is at hand"
                    );
                }
            }
        }
    }
}
