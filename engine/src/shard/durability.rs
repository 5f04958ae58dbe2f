//! What waits for a log frame to be durable: the core's acknowledgements, answers, new groups.

use std::collections::VecDeque;

use pontoon_raft::{Message, NodeId, WriteSequence};

use crate::request::CreateError;

/// Everything that waits for one frame.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Slots whose writes up to this sequence are in this frame or before it.
    pub(super) persisted: Vec<(usize, WriteSequence)>,
    /// Answers that promise what is in this frame or before it.
    pub(super) answers: Vec<(usize, NodeId, Message)>,
    /// Groups that exist once this frame is durable.
    pub(super) created: Vec<oneshot::Sender<Result<(), CreateError>>>,
}

/// The frames that are not durable, oldest first, without gaps.
#[derive(Debug)]
pub(super) struct Durability {
    /// Number of the first frame in the queue.
    first: u64,
    frames: VecDeque<Waiting>,
    /// Emptied ones that keep their memory.
    pool: Vec<Waiting>,
}

impl Durability {
    pub(super) fn new(durable_frame: u64) -> Self {
        Self {
            first: durable_frame + 1,
            frames: VecDeque::new(),
            pool: Vec::new(),
        }
    }

    /// What waits for a frame that is not durable yet.
    pub(super) fn at(&mut self, frame: u64) -> &mut Waiting {
        assert!(frame >= self.first, "a durable frame is not waited for");
        let position = usize::try_from(frame - self.first).expect("few frames are not durable");
        while self.frames.len() <= position {
            self.frames.push_back(self.pool.pop().unwrap_or_default());
        }
        &mut self.frames[position]
    }

    /// Notes that everything `slot` has written so far is in `frame` or before it.
    pub(super) fn persisted_by(&mut self, frame: u64, slot: usize, sequence: WriteSequence) {
        let waiting = self.at(frame);
        match waiting.persisted.last_mut() {
            Some(last) if last.0 == slot => last.1 = sequence,
            _ => waiting.persisted.push((slot, sequence)),
        }
    }

    /// The oldest frame, once it is durable. Give it back by [`recycle`](Self::recycle).
    pub(super) fn pop(&mut self, durable_frame: u64) -> Option<Waiting> {
        if self.first > durable_frame {
            return None;
        }
        self.first += 1;
        // Frames without anything that waits, such as marks, may never have been entered.
        Some(
            self.frames
                .pop_front()
                .or_else(|| self.pool.pop())
                .unwrap_or_default(),
        )
    }

    pub(super) fn recycle(&mut self, waiting: Waiting) {
        debug_assert!(waiting.persisted.is_empty() && waiting.answers.is_empty());
        self.pool.push(waiting);
    }

    /// Nothing becomes durable any more: nobody is answered.
    pub(super) fn abandon(&mut self) {
        self.frames.clear();
    }
}
