//! What groups of two nodes say to each other: the RPCs of the thesis, without payloads.

use pontoon_types::{LogIndex, Term};

/// What kind of vote is asked for or given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteKind {
    /// Would you vote for me? Changes nothing at either side (thesis 9.6).
    PreVote,
    /// A vote of an ordinary election (thesis 3.4).
    Vote,
    /// A vote of an election that the leader itself asked for by `TimeoutNow`: it passes leader
    /// stickiness (thesis 3.10, 4.2.3).
    Transfer,
}

/// What kind of entry a log position holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A command of the state machine.
    Command,
    /// The empty entry a new leader begins its term with (thesis 6.4).
    Noop,
    /// A membership of the group (thesis 4.1).
    Membership,
}

/// What the core knows of an entry: everything but its bytes. Its index is its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryMeta {
    /// The term of the leader that made it.
    pub term: Term,
    /// Bytes it occupies on the wire, for the windows.
    pub bytes: u32,
    /// What it is.
    pub kind: EntryKind,
}

/// A message of one group between two nodes. Entries travel beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// RequestVote of figure 3.1.
    RequestVote {
        /// The candidate's term; the term it would have, in a pre-vote.
        term: Term,
        /// Index of the candidate's last entry.
        last_log_index: LogIndex,
        /// Term of the candidate's last entry.
        last_log_term: Term,
        /// What is asked for.
        kind: VoteKind,
    },
    /// The answer to `RequestVote`.
    VoteResponse {
        /// The voter's term; the term asked about, in a granted pre-vote.
        term: Term,
        /// Whether the vote is given.
        granted: bool,
        /// What was asked for.
        kind: VoteKind,
    },
    /// AppendEntries of figure 3.1; with no entries a heartbeat and a probe.
    AppendEntries {
        /// The leader's term.
        term: Term,
        /// Index of the entry before the new ones.
        prev_log_index: LogIndex,
        /// Term of that entry.
        prev_log_term: Term,
        /// Number of entries that follow.
        count: u32,
        /// The leader's commit index.
        leader_commit: LogIndex,
        /// Number of the leader's latest round of heartbeats, echoed by the answer.
        round: u64,
        /// Every member holds the log up to here, so that it may be compacted.
        replicated_everywhere: LogIndex,
    },
    /// The answer to `AppendEntries`.
    AppendResponse {
        /// The follower's term.
        term: Term,
        /// The round of the request.
        round: u64,
        /// Whether the logs matched.
        outcome: AppendOutcome,
        /// Which start of the follower's log this is.
        incarnation: u64,
        /// The damage report: at that start something durable was missing, so that the follower
        /// counts in no quorum until it is told that it is whole again.
        tainted: bool,
    },
    /// The damage that was reported is repaired: the follower may promise again.
    Repaired {
        /// The leader's term.
        term: Term,
        /// Which start of the follower's log had found the damage.
        incarnation: u64,
    },
    /// Campaign at once: the leader hands over (thesis 3.10).
    TimeoutNow {
        /// The leader's term.
        term: Term,
    },
}

/// How a follower found the entry before the new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOutcome {
    /// It was there; the follower durably agrees with the leader up to `match_index`.
    Accepted {
        /// Last index known to agree.
        match_index: LogIndex,
    },
    /// It was missing or of another term.
    Rejected {
        /// The request's `prev_log_index`.
        prev_log_index: LogIndex,
        /// Greatest index at which the logs may still agree, as far as the follower can tell.
        hint_index: LogIndex,
        /// The follower's term there.
        hint_term: Term,
    },
}

impl Message {
    /// The term every message carries.
    #[must_use]
    pub fn term(&self) -> Term {
        match *self {
            Self::RequestVote { term, .. }
            | Self::VoteResponse { term, .. }
            | Self::AppendEntries { term, .. }
            | Self::AppendResponse { term, .. }
            | Self::Repaired { term, .. }
            | Self::TimeoutNow { term } => term,
        }
    }
}
