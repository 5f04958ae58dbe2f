//! What waits for a log frame to be durable: acknowledgements to Raft, responses, new groups.

use std::collections::VecDeque;

use pontoon_raft::{AppendOutcome, Body, Message, NodeId, WriteSequence};

use super::replicas::ReplicaSlot;
use crate::request::{CreateError, RequestError};

/// Most items, and most frames, whose memory is kept for the next ones: a burst's is given back.
const POOLED_MAX: usize = 4096;
const FRAMES_POOLED_MAX: usize = 8;

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

/// Where the newest response of one replica to one member waits, so that the next one takes its
/// place: a disk that stands still holds one response for each question, not one for each asking.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeldResponse {
    to: NodeId,
    is_vote: bool,
    frame: u64,
    position: usize,
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

    /// Holds a response until a frame is durable. It takes the place of an earlier one of the same
    /// kind, to the same member, also of an earlier term: while all disks stand still each attempt
    /// to be elected is another. `held` are those of its replica.
    pub(super) fn hold(
        &mut self,
        frame: u64,
        held: &mut Vec<HeldResponse>,
        response: (ReplicaSlot, NodeId, Message),
    ) {
        let (_, to, message) = response;
        let is_vote = !matches!(message.body, Body::AppendResponse(_));
        let responses = &mut self.at(frame).responses;
        let of_kind = |earlier: &&mut HeldResponse| earlier.to == to && earlier.is_vote == is_vote;
        let earlier = held.iter_mut().find(of_kind);
        let position = responses.len();
        match earlier {
            Some(earlier) if earlier.frame == frame => {
                let earlier = &mut responses[earlier.position].2;
                *earlier = newer(*earlier, message);
                return;
            }
            Some(earlier) => (earlier.frame, earlier.position) = (frame, position),
            None => held.push(HeldResponse {
                to,
                is_vote,
                frame,
                position,
            }),
        }
        responses.push(response);
    }

    /// Responses that wait.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn held_responses(&self) -> usize {
        self.frames.iter().map(|frame| frame.responses.len()).sum()
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
        let most = pending.persisted.capacity().max(pending.responses.capacity());
        if most <= POOLED_MAX && self.pool.len() < FRAMES_POOLED_MAX {
            self.pool.push(pending);
        }
    }

    /// How many wait for groups to exist.
    pub(super) fn created_waiting(&self) -> usize {
        self.frames.iter().map(|frame| frame.created.len()).sum()
    }

    /// Whoever waits for a group no more is not answered.
    pub(super) fn forget_given_up(&mut self) {
        for frame in &mut self.frames {
            frame.created.retain(|reply| !reply.is_closed());
        }
    }

    /// The responses that wait must not leave any more.
    pub(super) fn drop_responses(&mut self) {
        for frame in &mut self.frames {
            frame.responses.clear();
        }
    }

    /// Nothing becomes durable here any more: no acknowledgement leaves, and whoever waits for a
    /// group is told why.
    pub(super) fn abandon(&mut self, reason: RequestError) {
        for reply in self.frames.drain(..).flat_map(|frame| frame.created) {
            let _ = reply.send(Err(reason.into()));
        }
    }
}

/// What two responses of the same kind say together: the later one, but an accepted request's
/// entries are held whatever came after in its term.
fn newer(earlier: Message, later: Message) -> Message {
    if earlier.term != later.term {
        return later;
    }
    let accepted = |message: &Message| match message.body {
        Body::AppendResponse(response) => match response.outcome {
            AppendOutcome::Accepted { match_index } => Some(match_index),
            AppendOutcome::Rejected { .. } => None,
        },
        _ => None,
    };
    match (accepted(&earlier), accepted(&later)) {
        (Some(before), Some(after)) if before > after => earlier,
        _ => later,
    }
}

#[cfg(test)]
mod tests {
    use pontoon_raft::{Term, VoteKind, VoteResponse};

    use super::*;

    /// All disks stand still, so that nobody is elected and each attempt is another term: what was
    /// to be said in an earlier one is of no use to anybody.
    #[test]
    fn responses_of_many_terms_take_each_others_places() {
        let (mut durability, mut held) = (Durability::new(0), Vec::new());
        let slot = ReplicaSlot::first_at(0);
        let vote = VoteResponse {
            granted: true,
            kind: VoteKind::Vote,
        };
        for term in 1..=100 {
            let message = Message::new(Term(term), vote);
            durability.hold(1, &mut held, (slot, NodeId(2), message));
        }
        let waiting = durability.pop(1).expect("it is durable").responses;
        let terms: Vec<Term> = waiting.iter().map(|(.., message)| message.term).collect();
        assert_eq!(terms, [Term(100)]);
    }
}
