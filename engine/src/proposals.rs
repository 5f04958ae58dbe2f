//! The proposals of one group that this node took and has not answered yet.

use std::collections::VecDeque;

use pontoon_raft::LogIndex;

use crate::outcome::{Applied, Outcome, Unknown};

/// Where the outcome of one proposal goes.
pub(crate) type Promise = oneshot::Sender<Outcome>;

/// Outcomes to be told at the end of a turn, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    waiting: Vec<(Promise, Applied)>,
}

impl Answers {
    pub(crate) fn push(&mut self, promise: Promise, applied: Applied) {
        self.waiting.push((promise, applied));
    }

    /// Tells them, the newest first: whoever awaits proposals in the order of the log is woken
    /// once, by the oldest, and finds all the others answered.
    pub(crate) fn tell(&mut self) {
        while let Some((promise, applied)) = self.waiting.pop() {
            answer(promise, Ok(applied));
        }
    }
}

/// Answers a promise. That nobody waits for it any more changes nothing.
pub(crate) fn answer(promise: Promise, outcome: Outcome) {
    let _ = promise.send(outcome);
}

#[derive(Debug)]
struct Waiting {
    index: LogIndex,
    bytes: usize,
    promise: Promise,
}

/// In the order of the log. Invariant: indexes ascend.
#[derive(Debug, Default)]
pub(crate) struct Proposals {
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

impl Proposals {
    /// Bytes of the commands that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn push(&mut self, index: LogIndex, bytes: usize, promise: Promise) {
        debug_assert!(self.waiting.back().is_none_or(|last| last.index < index));
        self.bytes += bytes;
        self.waiting.push_back(Waiting {
            index,
            bytes,
            promise,
        });
    }

    /// The command at `index` is applied: where its outcome goes, if it was proposed here.
    pub(crate) fn applied(&mut self, index: LogIndex) -> Option<Promise> {
        if self.waiting.front()?.index != index {
            return None;
        }
        let front = self.waiting.pop_front()?;
        self.bytes -= front.bytes;
        Some(front.promise)
    }

    /// None of them can be told any more.
    pub(crate) fn give_up(&mut self, reason: Unknown) {
        self.bytes = 0;
        for waiting in self.waiting.drain(..) {
            answer(waiting.promise, Err(reason.into()));
        }
    }
}
