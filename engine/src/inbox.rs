//! The bounded channels into a core, and the bell that wakes it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use pontoon_raft::{GroupId, Membership, NodeId};
use pontoon_storage::record;

use crate::budget::Budget;
use crate::definition::Definition;
use crate::doorbell::Doorbell;
use crate::on_core;
use crate::outcome::{Proposal, Rejection};
use crate::proposals::reply;
use crate::request::{CreateError, Propose, Request};

/// Most requests that wait besides proposals. Each turn takes all of them.
const REQUESTS_MAX: usize = 1024;

/// What waits for a core. Whoever puts something in sees to it that it is answered when the core
/// has ended meanwhile.
#[derive(Clone, Debug)]
struct Queues {
    proposals: Receiver<Propose>,
    requests: Receiver<Request>,
    closed: Arc<AtomicBool>,
}

impl Queues {
    /// Whatever waits is answered that the node has stopped.
    fn drain(&self) {
        while let Ok(proposal) = self.proposals.try_recv() {
            reply(proposal.reply, Err(Rejection::Stopped.into()));
        }
        // Whoever asked finds its sender dropped.
        while self.requests.try_recv().is_ok() {}
    }
}

/// A core's end of its channels. Proposals may be held back while the disk is busy; the other
/// requests never are.
#[derive(Debug)]
pub(crate) struct Inbox {
    queues: Queues,
    budget: Budget,
}

impl Inbox {
    pub(crate) fn next_proposal(&self) -> Option<Propose> {
        self.queues.proposals.try_recv().ok()
    }

    pub(crate) fn next_request(&self) -> Option<Request> {
        self.queues.requests.try_recv().ok()
    }

    pub(crate) fn has_proposals(&self) -> bool {
        !self.queues.proposals.is_empty()
    }

    /// Bytes of commands that wait, or were taken and are not answered, and the most that may.
    #[cfg(feature = "simulation")]
    pub(crate) fn gauge(&self) -> (usize, usize) {
        self.budget.gauge()
    }

    pub(crate) fn has_requests(&self) -> bool {
        !self.queues.requests.is_empty()
    }
}

impl Inbox {
    /// Nothing more is taken: whoever waits is answered.
    pub(crate) fn close(&self) {
        // Whoever sends after this finds it closed, and what was sent before it is drained here.
        self.queues.closed.store(true, Ordering::SeqCst);
        self.queues.drain();
    }

    /// Bytes of commands that may still be proposed.
    pub(crate) fn bytes_left(&self) -> usize {
        self.budget.left()
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.close();
    }
}

/// What application threads hold of a core.
#[derive(Clone, Debug)]
pub(crate) struct CoreHandle {
    pub(crate) node: NodeId,
    proposals: Sender<Propose>,
    requests: Sender<Request>,
    queues: Queues,
    budget: Budget,
    doorbell: Arc<Doorbell>,
    command_bytes_max: usize,
}

/// Limits of what waits for a core.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InboxLimits {
    /// Proposals that wait to be taken.
    pub(crate) proposals_max: usize,
    /// Bytes of commands that wait, or were taken and are not answered.
    pub(crate) bytes_max: usize,
    /// Bytes of one command.
    pub(crate) command_bytes_max: usize,
}

/// Makes the channels into a core. Whoever finds a limit reached is told at once.
pub(crate) fn channel(
    node: NodeId,
    doorbell: Arc<Doorbell>,
    limits: InboxLimits,
) -> (CoreHandle, Inbox) {
    let (proposals, proposals_out) = bounded(limits.proposals_max);
    let (requests, requests_out) = bounded(REQUESTS_MAX);
    let queues = Queues {
        proposals: proposals_out,
        requests: requests_out,
        closed: Arc::default(),
    };
    let budget = Budget::new(limits.bytes_max);
    let handle = CoreHandle {
        node,
        proposals,
        requests,
        queues: queues.clone(),
        budget: budget.clone(),
        doorbell,
        command_bytes_max: limits.command_bytes_max,
    };
    (handle, Inbox { queues, budget })
}

impl CoreHandle {
    pub(crate) fn propose(&self, group: GroupId, command: Vec<u8>) -> Proposal {
        if command.len() > self.command_bytes_max {
            return Proposal::rejected(Rejection::TooLarge {
                bytes: command.len(),
                limit: self.command_bytes_max,
            });
        }
        let overloaded = |limit| Proposal::rejected(Rejection::Overloaded { limit });
        if self.is_closed() {
            return Proposal::rejected(Rejection::Stopped);
        }
        let Some(permit) = self.budget.take(record::encoded_bytes(command.len())) else {
            return overloaded("limits.proposals_pending_bytes_max");
        };
        let (reply, receiver) = oneshot::async_channel();
        let proposal = Propose {
            group,
            command,
            reply,
            permit,
        };
        match self.proposals.try_send(proposal) {
            Ok(()) => {
                self.doorbell.ring();
                self.drain_if_closed();
                Proposal::waiting(receiver)
            }
            Err(TrySendError::Full(_)) => overloaded("limits.requests_waiting_max"),
            Err(TrySendError::Disconnected(_)) => Proposal::rejected(Rejection::Stopped),
        }
    }

    fn is_closed(&self) -> bool {
        self.queues.closed.load(Ordering::SeqCst)
    }

    /// The core may have drained its queues before what was sent just now was in them.
    fn drain_if_closed(&self) {
        if self.is_closed() {
            self.queues.drain();
        }
    }

    /// Puts a question to the core. Waits for room in its channel: not for hot paths.
    pub(crate) fn request<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
        stopped: fn() -> T,
    ) -> Pending<T> {
        let (reply, receiver) = oneshot::async_channel();
        self.send(request(reply));
        Pending { receiver, stopped }
    }

    /// Makes a group on this node, for good. Answered once it is durable.
    pub(crate) fn create_group(
        &self,
        group: GroupId,
        kind: &str,
        members: &[NodeId],
    ) -> Result<Pending<Result<(), CreateError>>, CreateError> {
        let refuse = |reason| Err(CreateError::Members { group, reason });
        if members.contains(&NodeId(0)) {
            return refuse("0 is no node");
        }
        if !members.contains(&self.node) {
            return refuse("this node must be one of the members; every member creates the group");
        }
        let definition = Definition::new(kind, &Membership::of_voters(members));
        let request = |reply| Request::CreateGroup {
            group,
            definition,
            reply,
        };
        Ok(self.request(request, || Err(CreateError::Stopped)))
    }

    /// Sends a request to the core. That it has ended changes nothing for the caller.
    pub(crate) fn send(&self, request: Request) {
        if !self.is_closed() && self.requests.send(request).is_ok() {
            // Also when the core waits for its disk alone, holding proposals back.
            self.doorbell.ring_always();
            self.drain_if_closed();
        }
    }
}

/// An answer of a core that is not there yet: a future for any executor, or [`wait`](Self::wait)
/// for a plain thread.
#[derive(Debug)]
#[must_use = "an answer is not known before it is awaited"]
pub struct Pending<T> {
    receiver: oneshot::AsyncReceiver<T>,
    /// The answer if the core has ended.
    stopped: fn() -> T,
}

impl<T> Pending<T> {
    /// Blocks this thread until the answer is there. Not for threads that run futures. On a core's
    /// own thread, which may be the one that is to answer, it does not block: it says at once what
    /// it says of a node that has stopped, and logs an error. Await the answer there.
    pub fn wait(self) -> T {
        if on_core::is_core() {
            tracing::error!("`wait` would block a core's own thread; await the answer there");
            return (self.stopped)();
        }
        futures_executor::block_on(self)
    }
}

impl<T> Future for Pending<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let stopped = self.stopped;
        let receiver = Pin::new(&mut self.receiver);
        receiver
            .poll(context)
            .map(|answer| answer.unwrap_or_else(|_| stopped()))
    }
}
