//! Rules to break: a simulator that does not notice has a hole.

use pontoon::simulation::{Mutant, RaftMutant, ShardMutant, StorageMutant};

/// A broken rule by its name.
#[derive(Clone, Copy, Debug)]
pub struct NamedMutant {
    /// For tables and flags.
    pub name: &'static str,
    /// Where it is.
    pub mutant: Mutant,
}

const fn core(name: &'static str, mutant: RaftMutant) -> NamedMutant {
    NamedMutant {
        name,
        mutant: Mutant::Raft(mutant),
    }
}

const fn shard(name: &'static str, mutant: ShardMutant) -> NamedMutant {
    NamedMutant {
        name,
        mutant: Mutant::Shard(mutant),
    }
}

const fn storage(name: &'static str, mutant: StorageMutant) -> NamedMutant {
    NamedMutant {
        name,
        mutant: Mutant::Storage(mutant),
    }
}

/// All of them.
pub const MUTANTS: &[NamedMutant] = &[
    core(
        "commits earlier terms by counting",
        RaftMutant::CommitsEarlierTerms,
    ),
    core("erases its vote when it steps down", RaftMutant::ErasesVote),
    core(
        "commits beyond what it was sent",
        RaftMutant::CommitsBeyondSent,
    ),
    core(
        "leader counts its own undurable entry",
        RaftMutant::CountsOwnUndurable,
    ),
    core(
        "candidate counts its own vote early",
        RaftMutant::CountsOwnVoteEarly,
    ),
    core("votes for a log that is behind", RaftMutant::VotesForOldLog),
    core(
        "disk acknowledges what was replaced",
        RaftMutant::AcknowledgesReplaced,
    ),
    core("a majority founds a group", RaftMutant::FoundedByMajority),
    core("tainted replica takes part", RaftMutant::TaintedTakesPart),
    core(
        "tainted replica counts once it is refilled",
        RaftMutant::TaintedCountsAtOnce,
    ),
    shard(
        "answers before the frame is durable",
        ShardMutant::AnswersBeforeDurable,
    ),
    shard(
        "answers a resent append early",
        ShardMutant::AnswersResentEarly,
    ),
    shard(
        "shard counts the leader's frame early",
        ShardMutant::LeaderCountsOwnUndurable,
    ),
    shard(
        "sends entries that were overridden",
        ShardMutant::SendsOverridden,
    ),
    core(
        "proposals delay heartbeats",
        RaftMutant::ProposalsDelayHeartbeats,
    ),
    core("a probe is sent twice", RaftMutant::SendsProbeTwice),
    core(
        "heartbeats wait for the disk",
        RaftMutant::HeartbeatsAwaitDisk,
    ),
    core(
        "entries delay heartbeats although answers stay out",
        RaftMutant::EntriesDelayHeartbeats,
    ),
    core(
        "a hand-over asked for again begins anew",
        RaftMutant::TransferExtends,
    ),
    core(
        "a hand-over to a member that can't lead",
        RaftMutant::HandsOverToRenounced,
    ),
    core(
        "a forged epoch outlives its connection",
        RaftMutant::EpochOutlivesConnection,
    ),
    core("any term is adopted", RaftMutant::AdoptsAnyTerm),
    shard(
        "a failed machine stops its core",
        ShardMutant::FailedMachineStopsCore,
    ),
    shard(
        "a failed machine is never answered for",
        ShardMutant::FailedMachineIsSilent,
    ),
    shard("a full log is deaf", ShardMutant::FullLogIsDeaf),
    shard("a leader without room stays", ShardMutant::StaysWithoutRoom),
    shard(
        "a leader whose next segment does not come stays",
        ShardMutant::WaitsForSegments,
    ),
    shard(
        "a dead member pins the log for ever",
        ShardMutant::WaitsForDead,
    ),
    shard(
        "a full queue towards a peer is reported as unreachable",
        ShardMutant::FullQueueIsUnreachable,
    ),
    shard(
        "a follower short of memory is called full",
        ShardMutant::ShortIsFull,
    ),
    shard(
        "a group leads without its machine",
        ShardMutant::LeadsWithoutMachine,
    ),
    shard(
        "all ordered groups are made in one turn",
        ShardMutant::MakesAllAtOnce,
    ),
    shard(
        "a stop without hand-over",
        ShardMutant::StopsWithoutHandOver,
    ),
    shard(
        "a stop that does not drain its inbox",
        ShardMutant::LeavesInboxFull,
    ),
    shard("every response is held", ShardMutant::HoldsEveryResponse),
    shard(
        "queues to peers have no limit",
        ShardMutant::QueuesWithoutLimit,
    ),
    shard(
        "an idle connection displaces a talking one",
        ShardMutant::IdleDisplaces,
    ),
    shard(
        "what was forgotten is not noticed",
        ShardMutant::ForgetsUnnoticed,
    ),
    shard("peers are met in passing", ShardMutant::MeetsInPassing),
    storage("nonces are ignored", StorageMutant::IgnoresNonces),
    storage("the witness is ignored", StorageMutant::IgnoresWitness),
    storage(
        "the witness says what is not durable",
        StorageMutant::WitnessRunsAhead,
    ),
    shard(
        "whoever says anything owes no answer",
        ShardMutant::WordsAreAnswers,
    ),
    shard(
        "a group that commits nothing takes more",
        ShardMutant::StuckTakesMore,
    ),
    storage(
        "every damage is taken for a torn tail",
        StorageMutant::EveryDamageIsTorn,
    ),
    storage(
        "what can't be read ends the log",
        StorageMutant::UnreadableEndsLog,
    ),
    storage(
        "the accepted end of an epoch is ignored",
        StorageMutant::IgnoresAcceptedEnds,
    ),
    storage("segments are freed early", StorageMutant::FreesEarly),
    storage(
        "a frame counts before those before it",
        StorageMutant::CountsOutOfOrder,
    ),
    storage(
        "the disk of another node is taken",
        StorageMutant::OpensForeign,
    ),
    storage("damage is read in vain", StorageMutant::ReadsInVain),
    storage(
        "reads for peers take all buffers",
        StorageMutant::PeersTakeAllBuffers,
    ),
];
