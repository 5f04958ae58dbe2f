//! What waits for a log frame to be durable: acknowledgements to Raft, responses, new groups.

use std::collections::VecDeque;

use pontoon_raft::{Message, NodeId, WriteSequence};

use super::replicas::ReplicaSlot;
use crate::request::CreateError;

/// Everything that waits for one frame.
#[derive(Debug, Default)]
pub(super) struct PendingFrame {
    /// Replicas whose writes up to this sequence are in this frame or before it.
    pub(super) persisted: Vec<(ReplicaSlot, WriteSequence)>,
    /// Responses that promise what is in this frame or before it.
    pub(super) responses: Vec<(ReplicaSlot, NodeId, Message)>,
    /// Groups that exist once this frame is durable.
    pub(super) created: Vec<oneshot::Sender<Result<(), CreateError>>>,
}

/// The frames that are not durable, oldest first, without gaps.
#[derive(Debug)]
pub(super) struct Durability {
    /// Number of the first frame in the queue.
    first: u64,
    frames: VecDeque<PendingFrame>,
    /// Emptied ones that keep their memory.
    pool: Vec<PendingFrame>,
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
    pub(super) fn at(&mut self, frame: u64) -> &mut PendingFrame {
        assert!(frame >= self.first, "a durable frame is not waited for");
        let position = usize::try_from(frame - self.first).expect("few frames are not durable");
        while self.frames.len() <= position {
            self.frames.push_back(self.pool.pop().unwrap_or_default());
        }
        &mut self.frames[position]
    }

    /// Notes that everything `slot` has written so far is in `frame` or before it.
    pub(super) fn persisted_by(&mut self, frame: u64, slot: ReplicaSlot, sequence: WriteSequence) {
        let pending = self.at(frame);
        match pending.persisted.last_mut() {
            Some(last) if last.0 == slot => last.1 = sequence,
            _ => pending.persisted.push((slot, sequence)),
        }
    }

    /// The oldest frame, once it is durable. Give it back by [`recycle`](Self::recycle).
    pub(super) fn pop(&mut self, durable_frame: u64) -> Option<PendingFrame> {
        if self.first > durable_frame {
            return None;
        }
        self.first += 1;
        // A frame for which nothing waits, such as a mark, may never have been entered.
        Some(
            self.frames
                .pop_front()
                .or_else(|| self.pool.pop())
                .unwrap_or_default(),
        )
    }

    pub(super) fn recycle(&mut self, pending: PendingFrame) {
        debug_assert!(pending.persisted.is_empty() && pending.responses.is_empty());
        self.pool.push(pending);
    }

    /// Nothing becomes durable any more: nobody is answered.
    pub(super) fn abandon(&mut self) {
        self.frames.clear();
    }
}
