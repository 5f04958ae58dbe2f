//! Faults that the simulator puts in, to show that it would find them.
#![allow(unreachable_pub, reason = "public with the feature `mutants` alone")]

use crate::config::RaftConfig;
use crate::raft::Raft;

/// One broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Entries of earlier terms are committed by counting (figure 8).
    CommitsEarlierTerms,
    /// Stepping down within a term forgets the vote.
    ErasesVote,
    /// A follower commits up to the leader's index, beyond what it was sent.
    CommitsBeyondSent,
    /// A leader counts its own entries before they are durable.
    CountsOwnUndurable,
    /// A candidate counts its own vote before it is durable.
    CountsOwnVoteEarly,
    /// Votes are given without looking at the candidate's log.
    VotesForOldLog,
    /// A disk's acknowledgement counts for entries that were replaced since it was asked for.
    AcknowledgesReplaced,
    /// A group is founded once a majority of its members has met.
    FoundedByMajority,
    /// A damaged replica votes and acknowledges.
    TaintedTakesPart,
    /// A damaged replica counts as soon as it has what is committed, without an entry that was
    /// proposed after its report.
    TaintedCountsAtOnce,
    /// Proposals put off the heartbeats of followers that are sent nothing.
    ProposalsDelayHeartbeats,
    /// The entries of a probe are sent again when its place is agreed.
    SendsProbeTwice,
    /// The response to a heartbeat waits for the disk.
    HeartbeatsAwaitDisk,
    /// Entries that left put off the heartbeat of a follower that does not answer them.
    EntriesDelayHeartbeats,
    /// Asking again for a leadership transfer begins it anew.
    TransferExtends,
    /// Leadership is handed over to members that said that they can't lead.
    HandsOverToRenounced,
    /// The epoch that a peer named is remembered when its connection breaks.
    EpochOutlivesConnection,
    /// Whatever term is named is adopted, up to the last there is.
    AdoptsAnyTerm,
}

impl RaftConfig {
    #[cfg(feature = "mutants")]
    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    #[cfg(not(feature = "mutants"))]
    #[expect(
        clippy::unused_self,
        reason = "without the feature there are no mutants"
    )]
    pub(crate) fn is(&self, _mutant: Mutant) -> bool {
        false
    }
}

impl Raft {
    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.config.is(mutant)
    }
}
