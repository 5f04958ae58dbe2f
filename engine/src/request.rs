//! What application threads ask of a core, over its bounded channel.

use pontoon_raft::{GroupId, NodeId, Status, TransferRejection};

use crate::definition::Definition;
use crate::proposals::ReplySender;
use crate::statistics::CoreStatistics;

/// One request. Everything that waits for an answer brings where it goes.
#[derive(Debug)]
pub(crate) enum Request {
    Propose {
        group: GroupId,
        command: Vec<u8>,
        promise: ReplySender,
    },
    CreateGroup {
        group: GroupId,
        definition: Definition,
        promise: oneshot::Sender<Result<(), CreateError>>,
    },
    Status {
        group: GroupId,
        promise: oneshot::Sender<Option<GroupStatus>>,
    },
    Campaign {
        group: GroupId,
    },
    Transfer {
        group: GroupId,
        to: NodeId,
        promise: oneshot::Sender<Option<Result<(), TransferRejection>>>,
    },
    Statistics {
        promise: oneshot::Sender<CoreStatistics>,
    },
    Stop,
}

/// What a node knows of its replica of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// The kind of its state machine.
    pub kind: String,
    /// False if no machine of that kind is registered: the replica then neither votes nor
    /// acknowledges.
    pub has_machine: bool,
    /// The replica as the rules of Raft see it.
    pub raft: Status,
}

/// Why a group was not created. Nothing has changed.
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
    /// A limit is reached.
    #[error("{limit} is reached; raise it or drop groups")]
    Overloaded {
        /// The limit, by its name in the configuration.
        limit: &'static str,
    },
    /// The log does not take it now.
    #[error("the log did not take the group: {0}")]
    Log(#[from] pontoon_storage::AppendError),
    /// The node is stopping, or its log failed.
    #[error("the node is stopping, or its log has failed")]
    Stopped,
}
