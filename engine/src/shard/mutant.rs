//! Rules of the shard that tests and the simulator break, to show that they would notice.
#![cfg_attr(
    not(any(test, feature = "simulation")),
    allow(unreachable_pub, reason = "public with the feature `simulation` alone")
)]

/// One broken rule of the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A response leaves before what it promises is durable.
    AnswersBeforeDurable,
    /// A response to a message that persisted nothing itself does not wait for what was persisted
    /// before it.
    AnswersResentEarly,
    /// The leader counts its own entries before they are durable.
    LeaderCountsOwnUndurable,
    /// Entries that a leader of an earlier term named are sent as they are now.
    SendsOverridden,
    /// A log without room takes no messages at all.
    FullLogIsDeaf,
    /// A leader whose log is full, or whose disk stands still, stays leader.
    StaysWithoutRoom,
    /// A leader whose next segment does not come stays leader.
    WaitsForSegments,
    /// Responses that wait for the disk do not take each other's places.
    HoldsEveryResponse,
    /// Whoever proposed to a group whose machine failed is never answered.
    FailedMachineIsSilent,
    /// A state machine that fails stops all groups of its core.
    FailedMachineStopsCore,
    /// A replica whose state machine failed leads on.
    LeadsWithoutMachine,
    /// Messages wait for a peer that takes none, and more is received from it.
    QueuesWithoutLimit,
    /// A new connection takes the place of one that works before it has said anything.
    IdleDisplaces,
    /// A peer that says anything owes no answer.
    WordsAreAnswers,
    /// A group that commits nothing takes commands as ever.
    StuckTakesMore,
    /// The log waits for a member that does not answer, whatever room is left.
    WaitsForDead,
    /// Entries that find no room before a connection are taken for lost.
    FullQueueIsUnreachable,
    /// A follower without memory for entries says that its log is full.
    ShortIsFull,
    /// All groups that were asked for are made in one turn.
    MakesAllAtOnce,
    /// A core that is told to stop ends at once, and leads until then.
    StopsWithoutHandOver,
    /// What a peer remembers of this node, and it does not, changes nothing.
    ForgetsUnnoticed,
    /// In which life a peer was met is kept in memory alone.
    MeetsInPassing,
    /// What waits in the inbox when a core ends is left there.
    #[cfg(feature = "simulation")]
    LeavesInboxFull,
}

/// The rules that are broken: none, unless a test or the simulator asked for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mutants {
    #[cfg(feature = "simulation")]
    pub(crate) raft: Option<pontoon_raft::Mutant>,
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) shard: Option<Mutant>,
}

impl Mutants {
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn is(self, mutant: Mutant) -> bool {
        self.shard == Some(mutant)
    }

    #[cfg(not(any(test, feature = "simulation")))]
    pub(super) fn is(self, _mutant: Mutant) -> bool {
        false
    }
}
