//! What application threads ask of a core, over its bounded channels.

use pontoon_raft::{GroupId, NodeId, Status, TransferRejection};

use crate::budget::Permit;
use crate::definition::Definition;
use crate::proposals::ReplySender;
use crate::statistics::CoreStatistics;

/// A command for a group.
#[derive(Debug)]
pub(crate) struct Propose {
    pub(crate) group: GroupId,
    pub(crate) command: Vec<u8>,
    pub(crate) reply: ReplySender,
    /// Holds the command's bytes in the core's budget until it is answered.
    pub(crate) permit: Permit,
}

/// Everything else. What waits for an answer brings where it goes.
#[derive(Debug)]
pub(crate) enum Request {
    CreateGroup {
        group: GroupId,
        definition: Definition,
        reply: oneshot::Sender<Result<(), CreateError>>,
    },
    Status {
        group: GroupId,
        reply: oneshot::Sender<Result<GroupStatus, RequestError>>,
    },
    /// Answered when the group has a leader that this node knows of.
    Leader {
        group: GroupId,
        reply: oneshot::Sender<Result<NodeId, RequestError>>,
    },
    Campaign {
        group: GroupId,
        reply: oneshot::Sender<Result<(), CampaignError>>,
    },
    Transfer {
        group: GroupId,
        to: NodeId,
        reply: oneshot::Sender<Result<(), TransferError>>,
    },
    Statistics {
        reply: oneshot::Sender<Result<CoreStatistics, RequestError>>,
    },
}

/// What a node knows of its replica of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// The kind of its state machine.
    pub kind: String,
    /// False if no machine of that kind is registered, or if it is not of this log: the replica
    /// then neither votes nor acknowledges.
    pub has_machine: bool,
    /// Why the machine can't go on, in its own words. The replica then leads no more, applies
    /// nothing, and persists and votes as ever; restart the node when the machine is mended.
    pub machine_error: Option<String>,
    /// Nodes that send messages of this group, though they are no members as it was made here. Two
    /// nodes may both lead it, then: make it with the same members on every node. Grows until the
    /// node is restarted.
    pub strangers: Vec<NodeId>,
    /// The replica as the rules of Raft see it.
    pub raft: Status,
}

/// Why a core did not answer. What was asked for has not been done if the group is unknown here or
/// too much waits; otherwise it may have been, or may be yet: ask again to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The group is not on this node.
    #[error("the group is not on this node; create it first")]
    UnknownGroup,
    /// 1024 requests wait for the core; ask again when some are answered.
    #[error("too many requests wait for the core; ask again when earlier ones are answered")]
    Overloaded,
    /// The core's log or driver has failed; [`Node::failed`](crate::Node::failed) says why.
    #[error("the core has failed; restart the node when what its log names is mended")]
    Failed,
    /// The group's state machine failed on this node, and nobody else is known to lead: with no
    /// other member that could, nobody will. [`GroupStatus::machine_error`] says why it failed.
    #[error(
        "the group's state machine failed on this node, and no other leader is known; its status \
         says why: mend it and restart the node"
    )]
    MachineFailed,
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
    /// `wait` was called on a core's own thread, which may be the one that is to answer. What was
    /// asked for is under way all the same.
    #[error("`wait` would block a core's own thread; await the answer there")]
    WaitOnCore,
    /// This is a forked child of the process that runs the node.
    #[error("this is a forked child; the node runs in its parent alone: start one here")]
    Forked,
}

/// Why a task does not run on a core's executor, or not to its end.
#[cfg(feature = "glommio")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// There is no such core, or its host is not glommio.
    #[error("core {core} has no executor; set `host = \"glommio\"`, and count cores from 0")]
    NoExecutor {
        /// The core.
        core: u16,
    },
    /// It could not be made: too few threads, descriptors, or bytes of locked memory. The next
    /// task tries again.
    #[error("the executor of core {core} could not be made; the log says what it lacks")]
    Executor {
        /// The core.
        core: u16,
    },
    /// As many tasks wait to begin: one of those that have may keep the executor from it.
    #[error("{limit} is reached by the tasks that wait to begin beside core {core}")]
    Overloaded {
        /// The core.
        core: u16,
        /// The limit, by its name in the configuration.
        limit: &'static str,
    },
    /// The core has ended, and the task with it, unless the stop left it behind.
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// Why a node does not campaign, as far as is known: see [`RequestError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CampaignError {
    /// The core did not answer.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The replica may not lead now.
    #[error("this node does not campaign: {reason}")]
    Refused {
        /// What is in the way.
        reason: &'static str,
    },
}

/// Why leadership is not transferred, as far as is known: see [`RequestError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The core did not answer.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// This node does not lead, or the target could not win.
    #[error(transparent)]
    Rejected(#[from] TransferRejection),
}

/// Why a group was not created, as far as is known. Unless it is [`Request`](Self::Request),
/// nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// It is on this node already; get it by its id.
    #[error("group {group} is on this node already, with another kind or other members")]
    Exists {
        /// The group.
        group: GroupId,
    },
    /// Nobody could ever lead it, or this node is not one of its members.
    #[error("group {group}: {reason}")]
    Members {
        /// The group.
        group: GroupId,
        /// What is wrong with the members.
        reason: &'static str,
    },
    /// One of the members is nobody whom this node could ever reach.
    #[error(
        "group {group}: node {member} is neither this node nor in its `peers`; correct the id, or \
         add the node to the configuration"
    )]
    UnknownMember {
        /// The group.
        group: GroupId,
        /// The member.
        member: NodeId,
    },
    /// The disk lost what it knew of the group, and with it what this node has promised in it.
    #[error(
        "durable data of group {group} is damaged beyond repair on this node: what it promised \
         there is not known; the group goes on without it"
    )]
    Damaged {
        /// The group.
        group: GroupId,
    },
    /// No factory makes machines of this kind.
    #[error("no state machine of kind {kind:?} is registered; register it before the node starts")]
    UnknownKind {
        /// The kind.
        kind: String,
    },
    /// The factory failed.
    #[error("the state machine of group {group} could not be made: {message}")]
    Machine {
        /// The group.
        group: GroupId,
        /// What the factory said.
        message: String,
    },
    /// The machine that the factory made holds entries that the group's log does not.
    #[error("the state machine of group {group} is not of this log: {message}")]
    OtherMachine {
        /// The group.
        group: GroupId,
        /// What it holds, and what can be done.
        message: String,
    },
    /// A limit is reached.
    #[error("{limit} is reached; raise it in the configuration")]
    Overloaded {
        /// The limit, by its name in the configuration.
        limit: &'static str,
    },
    /// The log does not take it now.
    #[error("the log did not take the group: {0}")]
    Log(#[from] pontoon_storage::AppendError),
    /// The core did not answer: the group may have been made, or be made yet.
    #[error(
        "it is not known whether the group was made: {0}; make it again, which changes nothing"
    )]
    Request(#[from] RequestError),
}
