//! The proposals of one group that this node took and has not answered yet.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use pontoon_raft::{LogIndex, Time};

use crate::awaited::{Awaited, Ticket};
use crate::budget::Permit;
use crate::outcome::{Answer, Applied, Outcome, ProposeError, Rejection, Unknown};

/// Where the outcome of one proposal goes.
pub(crate) type ReplySender = oneshot::Sender<Answer>;

/// Most items whose memory is kept when nothing waits: a burst's is given back.
const KEPT_MAX: usize = 4096;

/// Outcomes to be sent at the end of a turn, oldest first.
#[derive(Debug)]
pub(crate) struct Replies {
    waiting: Vec<(Ticket, Answer)>,
    /// Where they go. Keeps its memory.
    senders: Vec<Option<ReplySender>>,
    awaited: Awaited,
    /// Most bytes of one reply.
    reply_bytes_max: usize,
}

impl Replies {
    pub(crate) fn new(reply_bytes_max: usize, awaited: Awaited) -> Self {
        Self {
            waiting: Vec::new(),
            senders: Vec::new(),
            awaited,
            reply_bytes_max,
        }
    }

    /// A command is applied: its permit is for the reply from now on, until that is taken. A reply
    /// beyond a limit is dropped, and whoever waits for it is told so.
    pub(crate) fn push(&mut self, answered: AnsweredProposal, applied: Applied) {
        let AnsweredProposal { ticket, permit } = answered;
        let (index, bytes) = (applied.index, applied.reply.len());
        let (outcome, permit) = match self.keep(permit.into_permit(), &applied) {
            Ok(permit) => (Ok(applied), Some(permit)),
            Err(limit) => {
                let dropped = ProposeError::ReplyDropped {
                    index,
                    bytes,
                    limit,
                };
                (Err(dropped), None)
            }
        };
        let answer = Answer {
            outcome,
            command: None,
            _permit: permit,
        };
        self.waiting.push((ticket, answer));
    }

    /// What holds the bytes of a reply, those that the machine reserved beyond it included.
    ///
    /// # Errors
    /// The limit that it is beyond.
    fn keep(&self, permit: Permit, applied: &Applied) -> Result<Permit, &'static str> {
        if applied.reply.len() > self.reply_bytes_max {
            return Err("limits.reply_bytes_max");
        }
        let kept = permit.exchange(applied.reply.capacity());
        kept.ok_or("limits.replies_pending_bytes_max")
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Those behind the first `kept` get this outcome instead.
    pub(crate) fn withdraw(&mut self, kept: usize, reason: Unknown) {
        let withdrawn = self.waiting.drain(kept..).map(|(ticket, _)| ticket);
        self.awaited.leave_unknown(withdrawn, reason);
    }

    /// Sends them, the newest first: whoever awaits proposals in the order of the log is woken
    /// once, by the oldest, and finds all the others answered.
    pub(crate) fn send_all(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let tickets = self.waiting.iter().map(|(ticket, _)| *ticket);
        self.awaited.leave(tickets, &mut self.senders);
        while let (Some((_, answer)), Some(sender)) = (self.waiting.pop(), self.senders.pop()) {
            // That nobody waits for it any more changes nothing.
            let _ = sender.map(|sender| sender.send(answer));
        }
        self.waiting.shrink_to(KEPT_MAX);
        self.senders.shrink_to(KEPT_MAX);
    }
}

/// Sends an outcome. That nobody waits for it any more changes nothing.
pub(crate) fn reply(sender: ReplySender, outcome: Outcome) {
    let _ = sender.send(Answer {
        outcome,
        command: None,
        _permit: None,
    });
}

/// Sends a rejection, and the command back.
pub(crate) fn reject(sender: ReplySender, rejection: Rejection, command: Vec<u8>) {
    let _ = sender.send(Answer {
        outcome: Err(rejection.into()),
        command: Some(command),
        _permit: None,
    });
}

/// A command that was taken and is not in the log yet.
#[derive(Debug)]
pub(crate) struct TakenCommand {
    pub(crate) command: Vec<u8>,
    pub(crate) answered: AnsweredProposal,
}

/// A permit of a command that was taken, counted for its core and its group until it is answered.
#[derive(Debug)]
pub(crate) struct TakenPermit {
    permit: Permit,
    _counted: Counted,
}

/// The bytes of a command in the counts of its core and its group.
#[derive(Debug)]
struct Counted {
    bytes: usize,
    counts: [Unanswered; 2],
}

impl TakenPermit {
    pub(crate) fn new(permit: Permit, core: &Unanswered, group: &Unanswered) -> Self {
        let counts = [core, group].map(|Unanswered(bytes)| {
            bytes.set(bytes.get() + permit.bytes());
            Unanswered(Rc::clone(bytes))
        });
        let bytes = permit.bytes();
        Self {
            permit,
            _counted: Counted { bytes, counts },
        }
    }

    /// It is answered: the permit alone.
    fn into_permit(self) -> Permit {
        self.permit
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

impl Drop for Counted {
    fn drop(&mut self) {
        for Unanswered(bytes) in &self.counts {
            bytes.set(bytes.get() - self.bytes);
        }
    }
}

/// A command in the log, not answered yet.
#[derive(Debug)]
struct PendingProposal {
    index: LogIndex,
    taken_at: Time,
    answered: AnsweredProposal,
}

/// Where the outcome of a command goes, and what holds its bytes in the core's budget.
#[derive(Debug)]
pub(crate) struct AnsweredProposal {
    pub(crate) ticket: Ticket,
    pub(crate) permit: TakenPermit,
}

/// In the order of the log. Invariant: indexes ascend, and times do not descend.
#[derive(Debug)]
pub(crate) struct Proposals {
    pending: VecDeque<PendingProposal>,
    awaited: Awaited,
    /// Also those that are not in the log yet.
    pub(crate) unanswered: Unanswered,
}

impl Proposals {
    pub(crate) fn new(awaited: Awaited) -> Self {
        Self {
            pending: VecDeque::new(),
            awaited,
            unanswered: Unanswered::default(),
        }
    }

    pub(crate) fn push(&mut self, (index, taken_at): (LogIndex, Time), answered: AnsweredProposal) {
        debug_assert!(self.pending.back().is_none_or(|last| last.index < index));
        self.pending.push_back(PendingProposal {
            index,
            taken_at,
            answered,
        });
    }

    /// The command at `index` is applied: where its outcome goes, if it was proposed here.
    pub(crate) fn applied(&mut self, index: LogIndex) -> Option<AnsweredProposal> {
        if self.pending.front()?.index != index {
            return None;
        }
        let pending = self.pending.pop_front()?;
        if self.pending.is_empty() {
            self.pending.shrink_to(KEPT_MAX);
        }
        Some(pending.answered)
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.pending.capacity()
    }

    /// Replies to those that were taken so long ago that they are old.
    pub(crate) fn give_up_old(&mut self, is_old: impl Fn(Time) -> bool, reason: Unknown) {
        let old = self
            .pending
            .partition_point(|pending| is_old(pending.taken_at));
        self.give_up_first(old, reason);
    }

    /// Replies to all of them that their outcome can't be known any more.
    pub(crate) fn give_up(&mut self, reason: Unknown) {
        self.give_up_first(self.pending.len(), reason);
    }

    fn give_up_first(&mut self, count: usize, reason: Unknown) {
        let first = self.pending.drain(..count);
        let tickets = first.map(|pending| pending.answered.ticket);
        self.awaited.leave_unknown(tickets, reason);
    }
}
