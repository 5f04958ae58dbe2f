//! The role of a replica, with the data that exist only in it.

use alloc::collections::BTreeMap;

use crate::message::VoteKind;
use crate::progress::Progress;
use pontoon_types::{LogIndex, NodeId, Time, WriteSequence};

/// Follower, candidate (pre-candidate included) or leader (thesis 3.3).
#[derive(Clone, Debug)]
pub(crate) enum Role {
    Follower {
        leader: Option<NodeId>,
        heard_at: Time,
    },
    Candidate(Candidate),
    Leader(Leader),
}

/// A replica that asks for votes.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// What it asks for. A pre-candidate has not changed its term.
    pub(crate) kind: VoteKind,
    pub(crate) votes: BTreeMap<NodeId, bool>,
    /// The write that holds its own vote, which counts when that is durable.
    pub(crate) own_vote: Option<WriteSequence>,
    /// Whom it followed in this term before, if anybody: a pre-candidate still obeys it.
    pub(crate) followed: Option<NodeId>,
}

/// The one that orders the log in its term.
#[derive(Clone, Debug)]
pub(crate) struct Leader {
    /// Every other member.
    pub(crate) progress: BTreeMap<NodeId, Progress>,
    pub(crate) quorum_deadline: Time,
    /// Number of the latest round of heartbeats.
    pub(crate) round: u64,
    /// First entry of its own term: nothing is committed before this one is.
    pub(crate) noop_index: LogIndex,
    /// When the next empty entry may be appended for a repair.
    pub(crate) next_barrier_at: Time,
    pub(crate) transfer: Option<Transfer>,
    /// When the first of the latest leadership transfers began. All that begin within two election
    /// timeouts of it share its deadline.
    pub(crate) transfers_since: Option<Time>,
}

/// A leadership transfer under way: no proposals until it succeeds, is called off, or its time is
/// up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    pub(crate) to: NodeId,
    pub(crate) since: Time,
    pub(crate) deadline: Time,
    pub(crate) timeout_now_sent: bool,
}
