//! Groups that are to be made: one a turn, for its factory may open a store, which takes a while.

use std::collections::VecDeque;

use pontoon_raft::GroupId;

use super::groups::Groups;
use super::mutant::Mutant;
use crate::definition::Definition;
use crate::inbox::REQUESTS_MAX;
use crate::request::{CreateError, RequestError};

/// A group that somebody asked for.
#[derive(Debug)]
pub(super) struct Creation {
    pub(super) group: GroupId,
    pub(super) definition: Definition,
    pub(super) reply: oneshot::Sender<Result<(), CreateError>>,
}

/// Those whose turn has not come, oldest first.
#[derive(Debug, Default)]
pub(super) struct Creations(VecDeque<Creation>);

impl Creations {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// None of them is made any more.
    pub(super) fn refuse(&mut self, error: RequestError) {
        for creation in self.0.drain(..) {
            let _ = creation.reply.send(Err(error.into()));
        }
    }
}

impl Groups {
    /// Takes an order to make a group. At most [`REQUESTS_MAX`] wait, for their turn or the disk.
    pub(super) fn order_group(&mut self, creation: Creation) {
        let in_line = self.creations.0.len();
        if in_line + self.durability.created_waiting() >= REQUESTS_MAX {
            // Whoever gave up waiting for the disk makes room.
            self.durability.forget_given_up();
        }
        if in_line + self.durability.created_waiting() >= REQUESTS_MAX {
            let _ = creation.reply.send(Err(RequestError::Overloaded.into()));
            return;
        }
        self.creations.0.push_back(creation);
    }

    /// Makes the next group, and answers for those before it that are there already.
    pub(super) fn make_ordered_groups(&mut self) {
        while let Some(creation) = self.creations.0.pop_front() {
            let slot = self.slot(creation.group);
            let makes = slot.is_none_or(|slot| self.replicas[slot].definition.is_lost());
            self.create_group(creation);
            if makes && !self.is(Mutant::MakesAllAtOnce) {
                break;
            }
        }
    }
}
