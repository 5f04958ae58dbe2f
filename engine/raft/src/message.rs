//! The RPCs of the thesis, without payloads: one struct each.

use pontoon_types::{EntryId, LogIndex, Term};

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

/// An entry without its payload and without its index, which is its position among others.
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
pub struct Message {
    /// The sender's term. In a pre-vote the term it would have, and in a granted one the term it
    /// was asked about.
    pub term: Term,
    /// Which RPC, and its arguments.
    pub body: Body,
}

/// The arguments of an RPC, or its results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// RequestVote of figure 3.1.
    RequestVote(RequestVote),
    /// The result of `RequestVote`.
    VoteResponse(VoteResponse),
    /// AppendEntries of figure 3.1.
    AppendEntries(AppendEntries),
    /// The result of `AppendEntries`.
    AppendResponse(AppendResponse),
    /// The reported damage is repaired: the follower may promise again.
    Repaired(Repaired),
    /// Campaign at once: leadership is transferred (thesis 3.10).
    TimeoutNow,
    /// What its sender holds of a group that is to be founded. Of no term.
    Founding(Founding),
}

/// What a member says to one that is not founded, or asks when it is not founded itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Founding {
    /// A digest of the group's definition.
    pub definition: u64,
    /// Whether it has met all members.
    pub founded: bool,
    /// Whether it wants an answer.
    pub asks: bool,
}

/// RequestVote of figure 3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestVote {
    /// The candidate's last entry.
    pub last_log: EntryId,
    /// What is asked for.
    pub kind: VoteKind,
}

/// The result of [`RequestVote`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteResponse {
    /// Whether the vote is given.
    pub granted: bool,
    /// What was asked for.
    pub kind: VoteKind,
}

/// AppendEntries of figure 3.1; with no entries a heartbeat and a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendEntries {
    /// The entry before the new ones.
    pub prev_log: EntryId,
    /// Number of new entries.
    pub count: u32,
    /// The leader's commit index.
    pub leader_commit: LogIndex,
    /// Number of the leader's latest round of heartbeats. Reserved for ReadIndex: the response
    /// echoes it, and nothing reads the echo yet.
    pub round: u64,
    /// Lowest durable match index of all members: entries up to here may be compacted.
    pub replicated_everywhere: LogIndex,
}

impl AppendEntries {
    /// First and last index of the new entries; `None` for a heartbeat.
    #[must_use]
    pub fn range(&self) -> Option<(LogIndex, LogIndex)> {
        (self.count > 0).then(|| (self.prev_log.index.next(), self.last_index()))
    }

    /// Index of the last new entry; that of `prev_log` if there is none.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        self.prev_log.index.plus(u64::from(self.count))
    }

    /// The same RPC in two parts: entries up to `through`, and those after it, if any are left.
    ///
    /// # Panics
    /// If `through` is not one of the new entries.
    #[must_use]
    pub fn split_at(self, through: EntryId) -> (Self, Option<Self>) {
        let sent = through.index.0.checked_sub(self.prev_log.index.0);
        let sent = sent.and_then(|sent| u32::try_from(sent).ok());
        let sent = sent.filter(|sent| *sent <= self.count);
        let sent = sent.expect("an RPC is split at one of its entries");
        let first = Self {
            count: sent,
            ..self
        };
        let rest = Self {
            prev_log: through,
            count: self.count - sent,
            ..self
        };
        (first, (rest.count > 0).then_some(rest))
    }
}

/// The result of [`AppendEntries`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendResponse {
    /// The round of the request.
    pub round: u64,
    /// Whether the logs matched.
    pub outcome: AppendOutcome,
    /// Epoch of the follower's log: higher at every start of it.
    pub log_epoch: u64,
    /// The damage report: in that epoch something durable was missing, so that the follower
    /// counts in no quorum until it is repaired.
    pub tainted: bool,
    /// Whether it takes entries. If not, those that came with the request were left out, and none
    /// are to be sent until a response to a later round of heartbeats says otherwise.
    pub room: LogRoom,
    /// It has renounced: it never campaigns, so that leadership is not handed over to it.
    pub renounced: bool,
}

/// Whether a follower takes entries at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogRoom {
    /// It does.
    #[default]
    Enough,
    /// It has no memory for them for a moment, because its disk is slower than they come.
    Short,
    /// Its log is full, which may last.
    Full,
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
        /// Index of the request's `prev_log`.
        prev_log_index: LogIndex,
        /// The follower's last entry at which the logs may still agree, as far as it can tell.
        hint: EntryId,
    },
}

/// The reported damage is repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// Epoch of the follower's log in which the damage was found.
    pub log_epoch: u64,
}

impl Message {
    /// An RPC, or its result, in the sender's term.
    #[must_use]
    pub fn new(term: Term, body: impl Into<Body>) -> Self {
        let body = body.into();
        Self { term, body }
    }
}

macro_rules! body_from {
    ($($rpc:ident),*) => {
        $(impl From<$rpc> for Body {
            fn from(rpc: $rpc) -> Self {
                Self::$rpc(rpc)
            }
        })*
    };
}

body_from!(
    RequestVote,
    VoteResponse,
    AppendEntries,
    AppendResponse,
    Repaired,
    Founding
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_append_is_split_where_its_entries_end() {
        let entry = |index| EntryId::new(LogIndex(index), Term(2));
        let whole = AppendEntries {
            prev_log: entry(4),
            count: 3,
            leader_commit: LogIndex(4),
            round: 1,
            replicated_everywhere: LogIndex(0),
        };
        assert_eq!(whole.range(), Some((LogIndex(5), LogIndex(7))));
        let (first, rest) = whole.split_at(entry(5));
        assert_eq!(first.range(), Some((LogIndex(5), LogIndex(5))));
        let rest = rest.expect("two entries are left");
        assert_eq!((rest.prev_log, rest.count), (entry(5), 2));
        assert_eq!(whole.split_at(entry(7)), (whole, None));
    }
}
