//! Quorums against a naive count over all subsets of voters.

use std::collections::BTreeMap;

use pontoon_raft::{LogIndex, Membership, NodeId, VoteResult};
use proptest::prelude::*;

fn membership() -> impl Strategy<Value = Membership> {
    let voters = || prop::collection::btree_set(1_u64..8, 1..6);
    (voters(), prop::option::of(voters())).prop_map(|(voters, outgoing)| Membership {
        voters: voters.into_iter().map(NodeId).collect(),
        voters_outgoing: outgoing.into_iter().flatten().map(NodeId).collect(),
        learners: Vec::new(),
    })
}

fn is_majority(voters: &[NodeId], has: impl Fn(NodeId) -> bool) -> bool {
    voters.iter().filter(|&&voter| has(voter)).count() * 2 > voters.len()
}

/// Whether the nodes that have it are a quorum of both configurations.
fn is_quorum(membership: &Membership, has: impl Fn(NodeId) -> bool) -> bool {
    let outgoing = &membership.voters_outgoing;
    is_majority(&membership.voters, &has) && (outgoing.is_empty() || is_majority(outgoing, &has))
}

proptest! {
    #[test]
    fn the_committed_index_is_the_greatest_that_a_quorum_has(
        membership in membership(),
        matched in prop::collection::btree_map(1_u64..8, 0_u64..12, 0..8),
    ) {
        let at = |node: NodeId| LogIndex(matched.get(&node.0).copied().unwrap_or(0));
        let naive = (0..12).rev().find(|&index| is_quorum(&membership, |node| at(node).0 >= index));
        prop_assert_eq!(membership.committed_index(at).0, naive.unwrap_or(0));
    }

    #[test]
    fn a_vote_is_won_or_lost_exactly_when_the_missing_ones_can_not_change_it(
        membership in membership(),
        votes in prop::collection::btree_map(1_u64..8, any::<bool>(), 0..8),
    ) {
        let votes: BTreeMap<NodeId, bool> =
            votes.into_iter().map(|(node, vote)| (NodeId(node), vote)).collect();
        let won = is_quorum(&membership, |node| votes.get(&node) == Some(&true));
        let winnable = is_quorum(&membership, |node| votes.get(&node) != Some(&false));
        let expected = match (won, winnable) {
            (true, _) => VoteResult::Won,
            (false, true) => VoteResult::Pending,
            (false, false) => VoteResult::Lost,
        };
        prop_assert_eq!(membership.vote_result(|node| votes.get(&node).copied()), expected);
    }
}
