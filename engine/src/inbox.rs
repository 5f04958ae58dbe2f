//! The bounded channels into a core, and the bell that wakes it.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, unbounded};
use pontoon_raft::{GroupId, Membership, NodeId};
use pontoon_storage::record;

use crate::awaited::Awaited;
use crate::budget::{Budget, Permit};
use crate::definition::Definition;
use crate::doorbell::Doorbell;
use crate::forked::OfProcess;
use crate::health::{CoreEnd, CoreState, Health};
use crate::outcome::{Proposal, Rejection};
use crate::pending::{Pending, refuse};
use crate::proposals::reject;
use crate::request::{CreateError, Propose, Request, RequestError};
use crate::shares::Shares;

/// Most requests that wait besides proposals. Each turn takes all of them.
pub(crate) const REQUESTS_MAX: usize = 1024;

/// A group may have this part of a core's queue waiting before anybody looks what is left.
const FREE_SHARE_DIVISOR: usize = 64;

/// A request, and its place among those that may wait.
type Waiting = (Request, Permit);

const PLACES_LIMIT: &str = "limits.requests_waiting_max";
const BYTES_LIMIT: &str = "limits.proposals_pending_bytes_max";

/// What waits for a core. Whoever puts something in sees to it that it is answered when the core
/// has ended meanwhile.
#[derive(Clone, Debug)]
struct Queues {
    proposals: Receiver<Propose>,
    /// What a proposal weighs at least in its group's share of the queue: the bytes that there may
    /// be, for each of its places.
    place_bytes: usize,
    requests: Receiver<Waiting>,
    /// What the core has taken of the proposals and not answered.
    awaited: Awaited,
    state: CoreState,
}

impl Queues {
    /// What a command that wants so many bytes weighs in the queue.
    fn weight(&self, bytes: usize) -> usize {
        bytes.max(self.place_bytes)
    }

    /// Whatever waits is answered that the core has ended.
    fn drain(&self, end: CoreEnd) {
        while let Ok(proposal) = self.proposals.try_recv() {
            reject(proposal.reply, end.into(), proposal.command);
        }
        // Whoever asked finds its sender dropped.
        while self.requests.try_recv().is_ok() {}
    }

    fn close(&self, end: CoreEnd) {
        // Whoever sends after this finds it closed, and what was sent before it is drained here.
        self.state.end(end);
        let end = self.state.ended().unwrap_or(end);
        self.drain(end);
        self.awaited.give_up(end.into());
    }
}

/// A core's end of its channels. Proposals may be held back while the disk is busy; the other
/// requests never are.
#[derive(Debug)]
pub(crate) struct Inbox {
    queues: Queues,
    budget: Budget,
    /// Who is told of a failure, and which core this is.
    health: Option<(Health, u16)>,
    /// A rule is broken: what waits at the end is left there.
    #[cfg(feature = "simulation")]
    pub(crate) leaves_full: bool,
}

impl Inbox {
    /// Takes at most so many proposals that wait.
    pub(crate) fn take_proposals(&self, most: usize, mut take: impl FnMut(Propose)) {
        let mut waiting = self.queues.proposals.try_iter().take(most);
        let (mut next, mut weight) = (waiting.next(), 0);
        while let Some(proposal) = next {
            next = waiting.next();
            let permit = &proposal.permit;
            weight += self.queues.weight(permit.bytes());
            // Those who propose write to the same count: it is touched once for all that follow
            // each other in one group.
            let goes_on = |next: &Propose| next.permit.is_of_same_share(permit);
            if !next.as_ref().is_some_and(goes_on) {
                permit.leave_queue(std::mem::take(&mut weight));
            }
            take(proposal);
        }
    }

    pub(crate) fn next_request(&self) -> Option<Request> {
        let (request, _permit) = self.queues.requests.try_recv().ok()?;
        Some(request)
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
    /// Where the outcomes of what is taken go.
    pub(crate) fn awaited(&self) -> &Awaited {
        &self.queues.awaited
    }

    /// Whether the core is to stop.
    pub(crate) fn is_told_to_stop(&self) -> bool {
        self.queues.state.is_told_to_stop()
    }

    /// The node's owner learns of a failure by `health`.
    pub(crate) fn set_health(&mut self, health: Health, core: u16) {
        self.health = Some((health, core));
    }

    /// The core serves no more: the owner is told, once, and whoever waits.
    pub(crate) fn fail(&mut self, reason: impl FnOnce() -> String) {
        if let Some((health, core)) = self.health.take() {
            health.fail(core, reason());
        }
        self.close(CoreEnd::Failed);
    }

    /// Nothing more is taken: whoever waits is answered.
    pub(crate) fn close(&self, end: CoreEnd) {
        #[cfg(feature = "simulation")]
        if self.leaves_full {
            return self.queues.state.end(end);
        }
        self.queues.close(end);
    }

    /// Bytes of commands that may still be proposed.
    pub(crate) fn bytes_left(&self) -> usize {
        self.budget.left()
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.close(CoreEnd::Stopped);
    }
}

/// What application threads hold of a core. In a forked child it refuses everything.
#[derive(Clone, Debug)]
pub(crate) struct CoreHandle {
    pub(crate) node: NodeId,
    channels: Arc<OfProcess<Channels>>,
}

/// The application's ends.
#[derive(Debug)]
struct Channels {
    proposals: Sender<Propose>,
    requests: Sender<Waiting>,
    /// One unit for each request that waits.
    places: Budget,
    queues: Queues,
    budget: Budget,
    /// Of the budget, by group.
    shares: Shares,
    proposals_max: usize,
    /// A group may have waiting what weighs so much, whatever others have.
    free_share: usize,
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
    /// Bytes of replies that nobody has taken, beside them.
    pub(crate) replies_bytes_max: usize,
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
    let (requests, requests_out) = unbounded();
    let queues = Queues {
        proposals: proposals_out,
        place_bytes: limits.bytes_max / limits.proposals_max.max(1),
        requests: requests_out,
        awaited: Awaited::default(),
        state: CoreState::default(),
    };
    let budget = Budget::with_replies(limits.bytes_max, limits.replies_bytes_max);
    let channels = Channels {
        proposals,
        requests,
        places: Budget::new(REQUESTS_MAX),
        queues: queues.clone(),
        budget: budget.clone(),
        shares: Shares::default(),
        proposals_max: limits.proposals_max,
        free_share: limits.bytes_max / FREE_SHARE_DIVISOR,
        doorbell,
        command_bytes_max: limits.command_bytes_max,
    };
    let inbox = Inbox {
        queues,
        budget,
        health: None,
        #[cfg(feature = "simulation")]
        leaves_full: false,
    };
    let channels = Arc::new(OfProcess::new(channels));
    (CoreHandle { node, channels }, inbox)
}

impl Channels {
    fn propose(&self, (group, share): (GroupId, &Budget), command: Vec<u8>) -> Proposal {
        if command.len() > self.command_bytes_max {
            let rejection = Rejection::TooLarge {
                bytes: command.len(),
                limit: self.command_bytes_max,
            };
            return Proposal::rejected(rejection, command);
        }
        if let Some(end) = self.queues.state.ended() {
            return Proposal::rejected(end.into(), command);
        }
        let Some(permit) = share.take(record::encoded_bytes(command.len())) else {
            let limit = BYTES_LIMIT;
            return Proposal::rejected(Rejection::Overloaded { limit }, command);
        };
        if let Err(limit) = self.join_queue(&permit) {
            return Proposal::rejected(Rejection::Overloaded { limit }, command);
        }
        self.enqueue_proposal(group, command, permit)
    }

    /// A place in the queue for a command, unless its group has as much waiting as is left.
    ///
    /// # Errors
    /// The limit that is reached.
    fn join_queue(&self, permit: &Permit) -> Result<(), &'static str> {
        let weight = self.queues.weight(permit.bytes());
        let places_left = || {
            let places = self.proposals_max.saturating_sub(self.proposals.len());
            places * self.queues.place_bytes
        };
        let left = || self.budget.left().min(places_left());
        let joined = permit.join_queue(weight, self.free_share, left);
        joined.map_err(|left| match left < self.budget.left() {
            true => PLACES_LIMIT,
            false => BYTES_LIMIT,
        })
    }

    fn enqueue_proposal(&self, group: GroupId, command: Vec<u8>, permit: Permit) -> Proposal {
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
                self.drain_if_ended();
                Proposal::waiting(receiver)
            }
            Err(TrySendError::Full(proposal)) => {
                let weight = self.queues.weight(proposal.permit.bytes());
                proposal.permit.leave_queue(weight);
                let limit = PLACES_LIMIT;
                Proposal::rejected(Rejection::Overloaded { limit }, proposal.command)
            }
            Err(TrySendError::Disconnected(_)) => unreachable!("this handle holds a receiver"),
        }
    }

    /// The core may have drained its queues before what was sent just now was in them.
    fn drain_if_ended(&self) {
        if let Some(end) = self.queues.state.ended() {
            self.queues.drain(end);
        }
    }

    /// A place for a request, and how the core has ended when nobody answers it.
    ///
    /// # Errors
    /// If the core has ended, or too much waits for it.
    fn place(&self) -> Result<(Permit, CoreState), RequestError> {
        let state = self.queues.state.clone();
        if state.ended().is_some() {
            return Err(state.request_error());
        }
        let place = self.places.take(1).ok_or(RequestError::Overloaded)?;
        Ok((place, state))
    }

    fn enqueue_request(&self, request: Request, place: Permit) {
        // This handle holds a receiver.
        let sent = self.requests.send((request, place));
        debug_assert!(sent.is_ok());
        // Also when it waits for its disk alone, holding proposals back.
        self.doorbell.ring_always();
        self.drain_if_ended();
    }
}

impl CoreHandle {
    /// A group's share of what may wait; none in a forked child.
    pub(crate) fn share(&self, group: GroupId) -> Option<Budget> {
        let channels = self.channels.get()?;
        Some(channels.shares.of(group, &channels.budget))
    }

    /// Proposes to a group, with its share of this core.
    pub(crate) fn propose(
        &self,
        (group, share): (GroupId, Option<&Budget>),
        command: Vec<u8>,
    ) -> Proposal {
        match self.channels.get().zip(share) {
            Some((channels, share)) => channels.propose((group, share), command),
            None => Proposal::rejected(Rejection::Forked, command),
        }
    }

    /// Puts a question to the core. Never blocks, on whatever thread: with too many that wait
    /// before it, it is answered so at once.
    pub(crate) fn request<T, E>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, E>>) -> Request,
    ) -> Pending<Result<T, E>>
    where
        T: Send + 'static,
        E: From<RequestError> + Send + 'static,
    {
        let Some(channels) = self.channels.get() else {
            return Pending::ready(Err(RequestError::Forked.into()));
        };
        let (place, state) = match channels.place() {
            Ok(found) => found,
            Err(error) => return Pending::ready(Err(error.into())),
        };
        let (reply, receiver) = oneshot::async_channel();
        let answer = state.thread().answer(receiver);
        channels.enqueue_request(request(reply), place);
        Pending::new(refuse, async move {
            let answer = answer.await;
            answer.unwrap_or_else(|| Err(state.request_error().into()))
        })
    }

    /// Tells the core to end. That it has changes nothing for the caller.
    pub(crate) fn stop(&self) {
        if let Some(channels) = self.channels.get() {
            channels.queues.state.tell_to_stop();
            // Also when it waits for its disk alone, holding proposals back.
            channels.doorbell.ring_always();
        }
    }

    /// The core does not come to its end: whoever waits for it is answered here. Should it go on
    /// after all, it finds nobody, and ends.
    pub(crate) fn leave_behind(&self) {
        if let Some(channels) = self.channels.get() {
            channels.queues.close(CoreEnd::Stopped);
            channels.queues.state.thread().leave_behind();
        }
    }

    /// What becomes of the core.
    ///
    /// # Errors
    /// In a forked child.
    #[cfg(feature = "glommio")]
    pub(crate) fn state(&self) -> Result<CoreState, RequestError> {
        let channels = self.channels.get().ok_or(RequestError::Forked)?;
        Ok(channels.queues.state.clone())
    }

    /// Makes a group on this node, for good. Answered once it is durable.
    pub(crate) fn create_group(
        &self,
        group: GroupId,
        kind: &str,
        members: &[NodeId],
    ) -> Pending<Result<(), CreateError>> {
        let refuse = |reason| Pending::ready(Err(CreateError::Members { group, reason }));
        if members.contains(&NodeId(0)) {
            return refuse("0 is no node");
        }
        if !members.contains(&self.node) {
            return refuse("this node must be one of the members; every member creates the group");
        }
        let definition = Definition::new(kind, &Membership::of_voters(members));
        self.request(|reply| Request::CreateGroup {
            group,
            definition,
            reply,
        })
    }
}
