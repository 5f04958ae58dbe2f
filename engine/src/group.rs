//! A handle to one group on this node, for any number of threads.

use pontoon_raft::{GroupId, NodeId, TransferRejection};

use crate::inbox::{Answer, CoreHandle};
use crate::outcome::Proposal;
use crate::request::{GroupStatus, Request};

/// One group, as its node has it. Cheap to clone; `Send` and `Sync`.
#[derive(Clone, Debug)]
pub struct Group {
    id: GroupId,
    core: CoreHandle,
}

impl Group {
    pub(crate) fn new(id: GroupId, core: CoreHandle) -> Self {
        Self { id, core }
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
        self.core.propose(self.id, command)
    }

    /// What this node knows of the group. `None` if the group is not on it.
    pub fn status(&self) -> Answer<Option<GroupStatus>> {
        let group = self.id;
        self.core.ask(|promise| Request::Status { group, promise })
    }

    /// Lets this node campaign for leadership now (thesis 3.4), for tests and administration.
    pub fn campaign(&self) {
        self.core.tell(Request::Campaign { group: self.id });
    }

    /// Transfers leadership to another voter once that has the whole log (thesis 3.10). `None` if
    /// the group is not on this node.
    ///
    /// Proposals are rejected meanwhile, for an election timeout at most.
    pub fn transfer_leadership(&self, to: NodeId) -> Answer<Option<Result<(), TransferRejection>>> {
        let group = self.id;
        self.core
            .ask(|promise| Request::Transfer { group, to, promise })
    }
}
