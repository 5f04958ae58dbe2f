//! What becomes of a request: applied, rejected (certainly not in the log), or unknown.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use pontoon_raft::{LeaderHint, LogIndex, NodeId};

use crate::budget::Permit;
use crate::forked::OfProcess;
use crate::wait::block_on_until;

/// A proposal that was committed and applied on the node that took it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Its place in the log.
    pub index: LogIndex,
    /// What the state machine replied.
    pub reply: Vec<u8>,
}

/// Why a proposal was not applied, as far as can be told, or its reply is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// It is certainly not in the log, and may be proposed again.
    #[error("rejected: {0}")]
    Rejected(#[from] Rejection),
    /// It may or may not be applied, now or later; only the state machine can tell.
    #[error("unknown outcome: {0}")]
    Unknown(#[from] Unknown),
    /// It is committed and applied, but its reply was dropped at a limit: it was too large, or too
    /// many replies wait for those who proposed. To propose it again would apply it twice.
    #[error("applied at {index}, but its reply of {bytes} bytes was dropped: {limit} is reached")]
    ReplyDropped {
        /// The command's place in the log.
        index: LogIndex,
        /// Bytes of the reply.
        bytes: usize,
        /// The limit, by its name in the configuration.
        limit: &'static str,
    },
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
    #[error("{limit} is reached; take the outcomes of earlier proposals, or raise it")]
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
    /// The log has no room: its segments are as many as there may be, or another could not be made,
    /// for want of disk space or the directory. The node's log lines say why.
    #[error(
        "the log has no free segment: `log.segments_max` is reached, or none could be made, and \
         the node's log lines say why; free disk space, raise the limit, or mend what they name"
    )]
    NoSpace,
    /// The log has no room, and another segment could not be made: the process, or the system, has
    /// no file descriptor left. It is tried again every second.
    #[error(
        "the log has no free segment, and no descriptor is left for another: raise the limit of \
         open files, or close some"
    )]
    NoDescriptors,
    /// The next segment of the log is not ready yet; try again soon. Where that lasts the disk is
    /// slow to make files, and the node hands over what it leads.
    #[error("the log's next segment is being prepared; try again soon")]
    Preparing,
    /// A majority of the members has taken no entries for an election timeout, or has not written
    /// for ten of them what it was given: nothing more could be committed.
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
    /// This is a forked child of the process that runs the node.
    #[error("this is a forked child; the node runs in its parent alone: start one here")]
    Forked,
}

/// Why the outcome of a proposal can't be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unknown {
    /// Leadership was lost after the proposal was sent to others.
    #[error("leadership was lost before the command was committed")]
    LeadershipLost,
    /// For ten election timeouts since it was proposed nothing of the group was committed: a
    /// majority of its members does not write, because disks are full or stand still. The group
    /// takes nothing new until this has come through ([`Rejection::NoRoomElsewhere`]).
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
    /// It is waited for in a forked child of the process that proposed it.
    #[error("this is a forked child; the command was proposed by its parent, which is told")]
    Forked,
}

/// What a proposal comes to.
pub type Outcome = Result<Applied, ProposeError>;

/// What a core sends back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) outcome: Outcome,
    /// The command, if it was rejected.
    pub(crate) command: Option<Vec<u8>>,
    /// Holds the reply's bytes in the core's budget until somebody takes it.
    pub(crate) _permit: Option<Permit>,
}

/// A proposal under way: a future for any executor, or [`wait`](Self::wait) for a plain thread.
///
/// It gives its outcome once; polled or waited for after that it panics, as futures of `async`
/// functions do. Dropping it does not withdraw the command. A rejected command comes back:
///
/// ```
/// # use pontoon::{Applied, Group, ProposeError};
/// async fn put(groups: &[Group], mut command: Vec<u8>) -> Result<Applied, ProposeError> {
///     let mut groups = groups.iter().cycle();
///     loop {
///         let mut proposal = groups.next().expect("a group").propose(command);
///         match (&mut proposal).await {
///             Err(ProposeError::Rejected(_)) => {
///                 command = proposal.into_rejected().expect("it was rejected");
///             }
///             outcome => return outcome,
///         }
///     }
/// }
/// ```
#[derive(Debug)]
#[must_use = "a proposal's outcome is not known before it is awaited"]
pub struct Proposal {
    state: State,
}

#[derive(Debug)]
enum State {
    Waiting(OfProcess<oneshot::AsyncReceiver<Answer>>),
    Rejected(Rejection, Vec<u8>),
    /// The outcome was given; with the command if it was rejected.
    Given(Option<Vec<u8>>),
}

impl Proposal {
    pub(crate) fn waiting(receiver: oneshot::AsyncReceiver<Answer>) -> Self {
        Self {
            state: State::Waiting(OfProcess::new(receiver)),
        }
    }

    pub(crate) fn rejected(rejection: Rejection, command: Vec<u8>) -> Self {
        Self {
            state: State::Rejected(rejection, command),
        }
    }

    /// Blocks this thread until the outcome is there. Not for threads that run futures. On a core's
    /// own thread, which may be the one that is to answer, it does not block.
    ///
    /// # Errors
    /// As the future: see [`ProposeError`]; on a core's thread [`Unknown::WaitOnCore`].
    pub fn wait(self) -> Outcome {
        let outcome = block_on_until(self, None);
        outcome.unwrap_or(Err(ProposeError::Unknown(Unknown::WaitOnCore)))
    }

    /// The same, but no longer than `limit`. `None` if there is no outcome by then: the command is
    /// still under way, and its outcome can be waited for again.
    pub fn wait_timeout(&mut self, limit: Duration) -> Option<Outcome> {
        block_on_until(self, Instant::now().checked_add(limit))
    }

    /// The command, if the outcome was given and says that it was rejected.
    #[must_use]
    pub fn into_rejected(self) -> Option<Vec<u8>> {
        match self.state {
            State::Given(command) => command,
            State::Waiting(_) | State::Rejected(..) => None,
        }
    }
}

impl Future for Proposal {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let (outcome, command) = match &mut self.state {
            State::Waiting(waiting) => match waiting.get_mut() {
                None => (Err(Unknown::Forked.into()), None),
                Some(receiver) => match Pin::new(receiver).poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(answer)) => (answer.outcome, answer.command),
                    // The core ended without an answer.
                    Poll::Ready(Err(_)) => (Err(Unknown::Stopped.into()), None),
                },
            },
            State::Rejected(rejection, command) => {
                let command = std::mem::take(command);
                (Err(rejection.clone().into()), Some(command))
            }
            State::Given(_) => panic!("a proposal was polled after its outcome had been given"),
        };
        self.state = State::Given(command);
        Poll::Ready(outcome)
    }
}
