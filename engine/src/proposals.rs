//! The proposals of one group that this node took and has not answered yet.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use pontoon_raft::LogIndex;

use crate::budget::Permit;
use crate::outcome::{Answer, Applied, Outcome, Rejection, Unknown};

/// Where the outcome of one proposal goes.
pub(crate) type ReplySender = oneshot::Sender<Answer>;

/// Outcomes to be sent at the end of a turn, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    waiting: Vec<(ReplySender, Applied)>,
}

impl Replies {
    pub(crate) fn push(&mut self, sender: ReplySender, applied: Applied) {
        self.waiting.push((sender, applied));
    }

    /// Sends them, the newest first: whoever awaits proposals in the order of the log is woken
    /// once, by the oldest, and finds all the others answered.
    pub(crate) fn send_all(&mut self) {
        while let Some((sender, applied)) = self.waiting.pop() {
            reply(sender, Ok(applied));
        }
    }
}

/// Sends an outcome. That nobody waits for it any more changes nothing.
pub(crate) fn reply(sender: ReplySender, outcome: Outcome) {
    let command = None;
    let _ = sender.send(Answer { outcome, command });
}

/// Sends a rejection, and the command back.
pub(crate) fn reject(sender: ReplySender, rejection: Rejection, command: Vec<u8>) {
    let (outcome, command) = (Err(rejection.into()), Some(command));
    let _ = sender.send(Answer { outcome, command });
}

/// A command that was taken and is not in the log yet.
#[derive(Debug)]
pub(crate) struct TakenCommand {
    pub(crate) command: Vec<u8>,
    pub(crate) sender: ReplySender,
    pub(crate) permit: TakenPermit,
}

/// A permit of a command that was taken, counted for its core and its group until it is answered.
#[derive(Debug)]
pub(crate) struct TakenPermit {
    permit: Permit,
    counts: [Unanswered; 2],
}

impl TakenPermit {
    pub(crate) fn new(permit: Permit, core: &Unanswered, group: &Unanswered) -> Self {
        let counts = [core, group].map(|Unanswered(bytes)| {
            bytes.set(bytes.get() + permit.bytes());
            Unanswered(Rc::clone(bytes))
        });
        Self { permit, counts }
    }
}

/// Bytes of the commands of one group, or of all of a core, that were taken and are not answered.
#[derive(Debug, Default)]
pub(crate) struct Unanswered(Rc<Cell<usize>>);

impl Unanswered {
    pub(crate) fn bytes(&self) -> usize {
        self.0.get()
    }
}

impl Drop for TakenPermit {
    fn drop(&mut self) {
        for Unanswered(bytes) in &self.counts {
            bytes.set(bytes.get() - self.permit.bytes());
        }
    }
}

/// A command in the log, not answered yet.
#[derive(Debug)]
struct PendingProposal {
    index: LogIndex,
    sender: ReplySender,
    /// Holds the command's bytes in the core's budget.
    _permit: TakenPermit,
}

/// In the order of the log. Invariant: indexes ascend.
#[derive(Debug, Default)]
pub(crate) struct Proposals {
    pending: VecDeque<PendingProposal>,
    /// Also those that are not in the log yet.
    pub(crate) unanswered: Unanswered,
}

impl Proposals {
    pub(crate) fn push(&mut self, index: LogIndex, sender: ReplySender, permit: TakenPermit) {
        debug_assert!(self.pending.back().is_none_or(|last| last.index < index));
        self.pending.push_back(PendingProposal {
            index,
            sender,
            _permit: permit,
        });
    }

    /// The command at `index` is applied: where its outcome goes, if it was proposed here.
    pub(crate) fn applied(&mut self, index: LogIndex) -> Option<ReplySender> {
        if self.pending.front()?.index != index {
            return None;
        }
        Some(self.pending.pop_front()?.sender)
    }

    /// Replies to all of them that their outcome can't be known any more.
    pub(crate) fn give_up(&mut self, reason: Unknown) {
        for pending in self.pending.drain(..) {
            reply(pending.sender, Err(reason.into()));
        }
    }
}
