//! What must hold of one replica from step to step, whatever its peers say.

use pontoon::NodeId;
use pontoon::raft::{LogIndex, Raft, Term};

/// A replica as it was last seen; a new one for each of its starts.
#[derive(Default)]
pub(super) struct ReplicaInvariants {
    term: Term,
    voted_for: Option<NodeId>,
    commit: LogIndex,
    /// Terms of the committed entries, from the first that was seen.
    committed: Vec<Option<Term>>,
}

impl ReplicaInvariants {
    /// Looks at the replica after a step.
    pub(super) fn look(&mut self, raft: &Raft) {
        raft.check_invariants();
        let (term, voted_for) = (raft.current_term(), raft.voted_for());
        assert!(term >= self.term, "the term went back");
        if term == self.term && self.voted_for.is_some() {
            assert_eq!(voted_for, self.voted_for, "two votes in one term");
        }
        let commit = raft.commit_index();
        assert!(commit >= self.commit, "the commit index went back");
        for index in 1..=commit.0 {
            let position = usize::try_from(index).expect("short logs") - 1;
            if position >= self.committed.len() {
                self.committed.push(raft.term_at(LogIndex(index)));
            } else if let (Some(before), Some(now)) =
                (self.committed[position], raft.term_at(LogIndex(index)))
            {
                assert_eq!(now, before, "a committed entry was replaced at {index}");
            }
        }
        (self.term, self.voted_for, self.commit) = (term, voted_for, commit);
    }
}
