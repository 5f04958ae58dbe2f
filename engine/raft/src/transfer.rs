//! Leadership transfer (thesis 3.10): asked for, called off, given up.
//!
//! While it is under way proposals are refused, so that the target can catch up. That is for an
//! election timeout at most within any two, however often it is asked for and called off, and to
//! whomever: transfers that begin within two election timeouts of the first share its deadline.

use crate::leader::LeaderView;
use crate::message::{Body, Message};
use crate::mutant::Mutant;
use crate::output::Output;
use crate::progress::Progress;
use crate::raft::Raft;
use crate::replication::LeaderHint;
use crate::role::{Leader, Role, Transfer};
use pontoon_types::{NodeId, Time};

/// Why leadership can't be transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferRejection {
    /// Only a leader transfers leadership.
    #[error("this node does not lead the group; {}", LeaderHint(*leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// The target could not win: name another voter.
    #[error("node {to} is not another voter of this group")]
    NotAVoter {
        /// The target named.
        to: NodeId,
    },
    /// The target could not win now: it has not answered for an election timeout, its disk is being
    /// repaired, its log is full or left behind, or its state machine failed. Name another voter,
    /// or try again when `status` shows nothing of it any more.
    #[error(
        "node {to} can't take over: it does not answer, is repaired, is full or left behind, or \
         its state machine failed; name another voter"
    )]
    Unavailable {
        /// The target named.
        to: NodeId,
    },
    /// Transfers have just refused proposals for an election timeout. Try again after another.
    #[error("proposals were refused for long enough; try again after an election timeout")]
    TooSoon,
}

/// A leadership transfer under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferStatus {
    /// Who takes over.
    pub to: NodeId,
    /// Since when. A change of the target changes it; asking again for the same does not.
    pub since: Time,
}

impl Raft {
    /// Transfers leadership to another voter, once it has the whole log (thesis 3.10). To this
    /// replica itself: calls off the transfer under way, if there is one.
    ///
    /// Proposals are refused meanwhile, for an election timeout at most, also if it is asked for
    /// again or for another target; then it is given up. What is called off may still succeed, if
    /// the target has been told already.
    ///
    /// # Errors
    /// If this replica does not lead, or the target could not win. Nothing has changed then.
    pub fn transfer_leadership(
        &mut self,
        now: Time,
        to: NodeId,
        output: &mut Output,
    ) -> Result<(), TransferRejection> {
        self.now = now;
        let leader = self.leader();
        let Some((leading, view)) = self.leading() else {
            return Err(TransferRejection::NotLeader { leader });
        };
        leading.expire_transfer(now);
        if to == view.config.id {
            leading.transfer = None;
            return Ok(());
        }
        leading.begin_transfer(to, &view, output)
    }

    /// Hands over to the member that is best placed, because this node can't go on to lead. What
    /// was asked for before does not keep it from that. Gives who is to take over, also if a
    /// transfer is under way already; `None` if nobody can.
    pub fn hand_over(&mut self, now: Time, output: &mut Output) -> Option<NodeId> {
        self.hand_over_to(now, output, |_, _| true)
    }

    /// The same, because this node's disk is slow: only to a member that is known to be faster,
    /// since it holds durably what is not durable here. Others may be no better.
    pub fn hand_over_to_faster(&mut self, now: Time, output: &mut Output) -> Option<NodeId> {
        self.hand_over_to(now, output, |progress, view| {
            progress.match_index > view.log.durable_index()
        })
    }

    fn hand_over_to(
        &mut self,
        now: Time,
        output: &mut Output,
        is_better: impl Fn(&Progress, &LeaderView<'_>) -> bool,
    ) -> Option<NodeId> {
        self.now = now;
        let (leading, view) = self.leading()?;
        leading.expire_transfer(now);
        let best = leading.best_successor(&view, is_better);
        if let Some(transfer) = leading.transfer {
            let ready = best.filter(|to| leading.holds_all(*to, &view));
            let waits = !transfer.timeout_now_sent && !leading.holds_all(transfer.to, &view);
            // A target that is still being filled gives way to one that could lead at once.
            let Some(to) = ready.filter(|_| waits) else {
                return Some(transfer.to);
            };
            return leading.begin_transfer(to, &view, output).ok().map(|()| to);
        }
        let to = best?;
        leading.transfers_since = None;
        leading.begin_transfer(to, &view, output).ok()?;
        Some(to)
    }

    /// Whether this replica leads, and somebody takes over, or may be found to do so.
    #[must_use]
    pub fn may_hand_over(&mut self) -> bool {
        let leading = self.leading();
        leading.is_some_and(|(leader, view)| {
            leader.transfer.is_some() || leader.may_have_successor(&view)
        })
    }

    /// The transfer under way, if this replica leads and was asked for one.
    #[must_use]
    pub fn transfer(&self) -> Option<TransferStatus> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        let Transfer { to, since, .. } = leader.transfer?;
        Some(TransferStatus { to, since })
    }
}

impl Leader {
    fn begin_transfer(
        &mut self,
        to: NodeId,
        view: &LeaderView<'_>,
        output: &mut Output,
    ) -> Result<(), TransferRejection> {
        if !view.membership.is_voter(to) {
            return Err(TransferRejection::NotAVoter { to });
        }
        let extends = view.config.is(Mutant::TransferExtends);
        if self.transfer.is_some_and(|transfer| transfer.to == to) && !extends {
            return Ok(());
        }
        let target = self.progress.get(&to);
        let fit = target.is_some_and(|progress| progress.may_take_over(view));
        if !fit && !extends {
            return Err(TransferRejection::Unavailable { to });
        }
        let timeout = view.config.election_timeout;
        let recent = |since: &Time| view.now.since(*since) < 2 * timeout && !extends;
        let first = self.transfers_since.filter(recent).unwrap_or(view.now);
        let deadline = first.after(timeout);
        if view.now >= deadline {
            return Err(TransferRejection::TooSoon);
        }
        self.transfers_since = Some(first);
        self.transfer = Some(Transfer {
            to,
            since: view.now,
            deadline,
            timeout_now_sent: false,
        });
        // Not only what it lacks, if anything: whether it is there at all is known sooner so.
        self.probe(to, view, output);
        self.send_to(to, view, output);
        self.maybe_send_timeout_now(view, output);
        Ok(())
    }

    /// Whether a follower holds the whole log.
    fn holds_all(&self, peer: NodeId, view: &LeaderView<'_>) -> bool {
        let progress = self.progress.get(&peer);
        progress.is_some_and(|progress| progress.match_index == view.log.last_index())
    }

    /// Asks the target of a transfer to campaign, once it holds the whole log.
    pub(crate) fn maybe_send_timeout_now(&mut self, view: &LeaderView<'_>, output: &mut Output) {
        let Some(transfer) = &mut self.transfer else {
            return;
        };
        let Some(progress) = self.progress.get(&transfer.to) else {
            return;
        };
        let caught_up = progress.match_index == view.log.last_index();
        if !transfer.timeout_now_sent && progress.repair.is_none() && caught_up {
            transfer.timeout_now_sent = true;
            let message = Message::new(view.current_term, Body::TimeoutNow);
            output.send_now(transfer.to, message);
        }
    }

    /// What was sent to a peer may be lost: if it is the target, it is asked again when it answers.
    pub(crate) fn repeat_timeout_now(&mut self, peer: NodeId) {
        if let Some(transfer) = self
            .transfer
            .as_mut()
            .filter(|transfer| transfer.to == peer)
        {
            transfer.timeout_now_sent = false;
        }
    }

    /// Ends a transfer whose time is up: its target was asked in vain.
    pub(crate) fn expire_transfer(&mut self, now: Time) {
        let Some(expired) = self.transfer.take_if(|transfer| now >= transfer.deadline) else {
            return;
        };
        if let Some(progress) = self.progress.get_mut(&expired.to) {
            progress.asked_in_vain = progress.asked_in_vain.saturating_add(1);
        }
    }
}
