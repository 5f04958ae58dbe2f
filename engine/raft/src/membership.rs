//! Who belongs to a group and what a quorum of it is (thesis 3.3, 4.3): pure functions.

use alloc::vec::Vec;

use pontoon_types::{LogIndex, NodeId};

/// The members of a group, as the newest membership entry of its log has them.
///
/// Invariants: each list is sorted and without repetition; no learner is a voter. While
/// `voters_outgoing` is not empty the group is in joint consensus, and both majorities must agree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// The voters (of the new configuration, while joint).
    pub voters: Vec<NodeId>,
    /// The voters of the configuration being left; empty outside of joint consensus.
    pub voters_outgoing: Vec<NodeId>,
    /// Members that receive the log and do not count.
    pub learners: Vec<NodeId>,
}

/// What the votes known so far amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteResult {
    /// A quorum has said yes.
    Won,
    /// No quorum can be reached any more.
    Lost,
    /// Votes that matter are missing.
    Pending,
}

impl Membership {
    /// A simple configuration of these voters, in any order.
    #[must_use]
    pub fn of_voters(voters: &[NodeId]) -> Self {
        let mut voters = voters.to_vec();
        voters.sort_unstable();
        voters.dedup();
        Self {
            voters,
            ..Self::default()
        }
    }

    /// Whether this node's vote counts.
    #[must_use]
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.voters_outgoing.contains(&node)
    }

    /// Whether this node receives the log.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.is_voter(node) || self.learners.contains(&node)
    }

    /// Every voter once: those of the new configuration, then those only of the one being left.
    pub(crate) fn all_voters(&self) -> impl Iterator<Item = NodeId> {
        let leaving = self.voters_outgoing.iter();
        let leaving = leaving.filter(|voter| !self.voters.contains(voter));
        self.voters.iter().chain(leaving).copied()
    }

    /// Every member once, in ascending order. Allocates; not for every turn.
    #[must_use]
    pub fn members(&self) -> Vec<NodeId> {
        let lists = [&self.voters, &self.voters_outgoing, &self.learners];
        let mut members: Vec<NodeId> = lists.into_iter().flatten().copied().collect();
        members.sort_unstable();
        members.dedup();
        members
    }

    /// The greatest index that a quorum has, by what each voter is known to have.
    ///
    /// In joint consensus both configurations must have it (thesis 4.3).
    pub fn committed_index(&self, matched: impl Fn(NodeId) -> LogIndex) -> LogIndex {
        let incoming = majority_index(&self.voters, &matched);
        if self.voters_outgoing.is_empty() {
            return incoming;
        }
        incoming.min(majority_index(&self.voters_outgoing, &matched))
    }

    /// What the votes amount to; `None` is a vote not known yet.
    pub fn vote_result(&self, vote: impl Fn(NodeId) -> Option<bool>) -> VoteResult {
        let incoming = majority_vote(&self.voters, &vote);
        if self.voters_outgoing.is_empty() {
            return incoming;
        }
        match (incoming, majority_vote(&self.voters_outgoing, &vote)) {
            (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
            (VoteResult::Won, VoteResult::Won) => VoteResult::Won,
            _ => VoteResult::Pending,
        }
    }
}

/// The greatest index that more than half of these voters have: the one for which the number of
/// voters at or above it is a majority. No allocation: configurations are small.
fn majority_index(voters: &[NodeId], matched: &impl Fn(NodeId) -> LogIndex) -> LogIndex {
    let majority = voters.len() / 2 + 1;
    voters
        .iter()
        .map(|&voter| matched(voter))
        .filter(|&index| {
            voters
                .iter()
                .filter(|&&other| matched(other) >= index)
                .count()
                >= majority
        })
        .max()
        .unwrap_or_default()
}

fn majority_vote(voters: &[NodeId], vote: &impl Fn(NodeId) -> Option<bool>) -> VoteResult {
    let majority = voters.len() / 2 + 1;
    let granted = voters
        .iter()
        .filter(|&&voter| vote(voter) == Some(true))
        .count();
    let refused = voters
        .iter()
        .filter(|&&voter| vote(voter) == Some(false))
        .count();
    if granted >= majority {
        VoteResult::Won
    } else if voters.len() - refused < majority {
        VoteResult::Lost
    } else {
        VoteResult::Pending
    }
}
