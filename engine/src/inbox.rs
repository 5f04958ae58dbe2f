//! The bounded channel into a core, and the bell that wakes it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use pontoon_raft::{GroupId, Membership, NodeId};

use crate::definition::Definition;
use crate::doorbell::Doorbell;
use crate::outcome::{Proposal, Rejection};
use crate::request::{CreateError, Request};

/// A core's end of its channel.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) requests: Receiver<Request>,
}

/// What application threads hold of a core.
#[derive(Clone, Debug)]
pub(crate) struct CoreHandle {
    pub(crate) node: NodeId,
    requests: Sender<Request>,
    doorbell: Arc<Doorbell>,
    command_bytes_max: usize,
}

/// Makes the channel into a core. At most `requests_waiting_max` requests wait in it; whoever
/// comes then is told that the core is overloaded.
pub(crate) fn channel(
    node: NodeId,
    doorbell: Arc<Doorbell>,
    requests_waiting_max: usize,
    command_bytes_max: usize,
) -> (CoreHandle, Inbox) {
    let (sender, receiver) = bounded(requests_waiting_max);
    let handle = CoreHandle {
        node,
        requests: sender,
        doorbell,
        command_bytes_max,
    };
    let inbox = Inbox { requests: receiver };
    (handle, inbox)
}

impl CoreHandle {
    pub(crate) fn propose(&self, group: GroupId, command: Vec<u8>) -> Proposal {
        if command.len() > self.command_bytes_max {
            return Proposal::rejected(Rejection::TooLarge {
                bytes: command.len(),
                limit: self.command_bytes_max,
            });
        }
        let (reply, receiver) = oneshot::async_channel();
        let request = Request::Propose {
            group,
            command,
            reply,
        };
        match self.requests.try_send(request) {
            Ok(()) => {
                self.doorbell.ring();
                Proposal::waiting(receiver)
            }
            Err(TrySendError::Full(_)) => Proposal::rejected(Rejection::Overloaded {
                limit: "limits.requests_waiting_max",
            }),
            Err(TrySendError::Disconnected(_)) => Proposal::rejected(Rejection::Stopped),
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
        if self.requests.send(request).is_ok() {
            self.doorbell.ring();
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
    /// Blocks this thread until the answer is there. Not for threads that run futures.
    pub fn wait(self) -> T {
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
