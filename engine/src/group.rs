//! A handle to one group on this node, for any number of threads.

use pontoon_raft::{GroupId, NodeId};

use crate::budget::Budget;
use crate::inbox::CoreHandle;
use crate::outcome::Proposal;
use crate::pending::Pending;
use crate::request::{CampaignError, GroupStatus, Request, RequestError, TransferError};

/// One group, as its node has it. Cheap to clone; any thread may use it, a core's own as well: no
/// call blocks. What can't be answered, because too much waits for the core or it has ended, is
/// answered so.
///
/// ```
/// # use pontoon::{Applied, Group, NodeId, ProposeError, Rejection, TransferError};
/// /// Proposes here, or says which node to ask.
/// async fn put(group: &Group, command: Vec<u8>) -> Result<Applied, Option<NodeId>> {
///     match group.propose(command).await {
///         Ok(applied) => Ok(applied),
///         Err(ProposeError::Rejected(Rejection::NotLeader { leader })) => Err(leader),
///         Err(error) => panic!("{error}"),
///     }
/// }
///
/// async fn retire(group: &Group, successor: NodeId) -> Result<(), TransferError> {
///     group.transfer_leadership(successor).await
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Group {
    id: GroupId,
    core: CoreHandle,
    /// What it may have waiting there; none in a forked child.
    share: Option<Budget>,
}

impl Group {
    pub(crate) fn new(id: GroupId, core: CoreHandle) -> Self {
        let share = core.share(id);
        Self { id, core, share }
    }

    /// The group's id.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// The node this handle belongs to.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.core.node
    }

    /// Proposes a command. It is on its way at once, whether the result is awaited or not, and
    /// done when this node has applied it; then the state machine's reply is there.
    ///
    /// Never blocks: at a limit it is rejected at once.
    pub fn propose(&self, command: Vec<u8>) -> Proposal {
        self.core.propose((self.id, self.share.as_ref()), command)
    }

    /// What this node knows of the group.
    pub fn status(&self) -> Pending<Result<GroupStatus, RequestError>> {
        let group = self.id;
        self.core.request(|reply| Request::Status { group, reply })
    }

    /// The group's leader, as soon as this node knows of one; it may be this node. Without a
    /// majority that is never: [`Pending::wait_timeout`], or a timer beside the future, bounds it.
    /// Where the state machine failed, and nobody else led within two election timeouts of that, it
    /// is [`RequestError::MachineFailed`].
    pub fn leader(&self) -> Pending<Result<NodeId, RequestError>> {
        let group = self.id;
        self.core.request(|reply| Request::Leader { group, reply })
    }

    /// Lets this node campaign for leadership now (thesis 3.4), for tests and administration. The
    /// answer says that it leads or campaigns; [`status`](Self::status) tells who leads.
    pub fn campaign(&self) -> Pending<Result<(), CampaignError>> {
        let group = self.id;
        let request = |reply| Request::Campaign { group, reply };
        self.core.request(request)
    }

    /// Transfers leadership to another voter once that has the whole log (thesis 3.10). The answer
    /// says that the transfer has begun; [`status`](Self::status) tells whether it is under way,
    /// and who leads. To this node itself: calls off the one under way, unless the target was told.
    ///
    /// Meanwhile proposals are refused, for one election timeout at most within two, however often,
    /// and to whomever, it is asked for; then it is given up.
    pub fn transfer_leadership(&self, to: NodeId) -> Pending<Result<(), TransferError>> {
        let group = self.id;
        let request = |reply| Request::Transfer { group, to, reply };
        self.core.request(request)
    }
}
