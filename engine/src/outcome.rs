//! What becomes of a request: applied, rejected (certainly not in the log), or unknown.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pontoon_raft::{LeaderHint, LogIndex, NodeId};

use crate::on_core;

/// A proposal that was committed and applied on the node that took it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Its place in the log.
    pub index: LogIndex,
    /// What the state machine replied.
    pub reply: Vec<u8>,
}

/// Why a proposal was not applied, as far as can be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// It is certainly not in the log, and may be proposed again.
    #[error("rejected: {0}")]
    Rejected(#[from] Rejection),
    /// It may or may not be applied, now or later; only the state machine can tell.
    #[error("unknown outcome: {0}")]
    Unknown(#[from] Unknown),
}

/// Why a proposal is certainly not in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// Another node leads, or none is known to.
    #[error("this node does not lead the group; {}", LeaderHint(*leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// A limit is reached; try again when earlier proposals are done.
    #[error("{limit} is reached; wait for earlier proposals, or raise it")]
    Overloaded {
        /// The limit, by its name in the configuration.
        limit: &'static str,
    },
    /// The command is larger than the configuration allows.
    #[error("the command has {bytes} bytes, limits.command_bytes_max is {limit}")]
    TooLarge {
        /// Bytes of the command.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The log has no room: its segments are full, or the disk is.
    #[error("the log has no free segment; free disk space or raise log.segments_max")]
    NoSpace,
    /// A majority of the members has taken no entries for an election timeout: nothing could be
    /// committed.
    #[error("a majority takes no entries; look for full logs and disks that stand still there")]
    NoRoomElsewhere,
    /// The group is not on this node.
    #[error("the group is not on this node; create it first")]
    UnknownGroup,
    /// The group's state machine failed on this node, which leads the group no more, and no other
    /// leader is known yet.
    #[error(
        "the group's state machine failed on this node: {message}; mend it and restart the node"
    )]
    MachineFailed {
        /// What the machine said.
        message: String,
    },
    /// The core's log failed; see the node's log for the segment and the error.
    #[error("the log of this core failed; restart the node when the disk is sound")]
    Failed,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

/// Why the outcome of a proposal can't be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unknown {
    /// Leadership was lost after the proposal was sent to others.
    #[error("leadership was lost before the command was committed")]
    LeadershipLost,
    /// For ten election timeouts nothing of the group was committed: a majority of its members
    /// does not write, because disks are full or stand still.
    #[error("a majority did not write the command for a long time; it may still be applied")]
    Stalled,
    /// The group's state machine failed on this node before it had applied the command, or with
    /// it. The command may be committed: then other members apply it, and this one after a restart.
    #[error("the group's state machine failed on this node; others may apply the command")]
    MachineFailed,
    /// The log of this core failed.
    #[error("the log of this core failed before the command was committed")]
    Failed,
    /// It is not waited for on a core's own thread, which may be the one that is to answer.
    #[error("`wait` would block a core's own thread; await the proposal there")]
    WaitOnCore,
    /// The node stopped.
    #[error("the node stopped before the command was applied")]
    Stopped,
}

/// What a proposal comes to.
pub type Outcome = Result<Applied, ProposeError>;

/// The core ended without an answer.
const STOPPED: Outcome = Err(ProposeError::Unknown(Unknown::Stopped));

/// A proposal under way: a future for any executor, or [`wait`](Self::wait) for a plain thread.
///
/// Dropping it does not withdraw the command.
#[derive(Debug)]
#[must_use = "a proposal's outcome is not known before it is awaited"]
pub struct Proposal {
    state: State,
}

#[derive(Debug)]
enum State {
    Waiting(oneshot::AsyncReceiver<Outcome>),
    Rejected(Option<Rejection>),
}

impl Proposal {
    pub(crate) fn waiting(receiver: oneshot::AsyncReceiver<Outcome>) -> Self {
        Self {
            state: State::Waiting(receiver),
        }
    }

    pub(crate) fn rejected(rejection: Rejection) -> Self {
        Self {
            state: State::Rejected(Some(rejection)),
        }
    }

    /// Blocks this thread until the outcome is there. Not for threads that run futures. On a core's
    /// own thread, which may be the one that is to answer, it does not block.
    ///
    /// # Errors
    /// As the future: see [`ProposeError`]; on a core's thread [`Unknown::WaitOnCore`].
    pub fn wait(self) -> Outcome {
        match self.state {
            State::Waiting(_) if on_core::is_core() => Err(Unknown::WaitOnCore.into()),
            State::Waiting(receiver) => futures_executor::block_on(receiver).unwrap_or(STOPPED),
            State::Rejected(rejection) => Err(rejection.unwrap_or(Rejection::Stopped).into()),
        }
    }
}

impl Future for Proposal {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        match &mut self.state {
            State::Waiting(receiver) => Pin::new(receiver)
                .poll(context)
                .map(|outcome| outcome.unwrap_or(STOPPED)),
            State::Rejected(rejection) => {
                Poll::Ready(Err(rejection.take().unwrap_or(Rejection::Stopped).into()))
            }
        }
    }
}
