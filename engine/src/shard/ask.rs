//! Who leads, for whoever waits to know it, and campaigns that somebody asks for.

use std::collections::BTreeMap;

use pontoon_raft::{GroupId, NodeId, RoleName, Time};

use super::groups::Groups;
use super::replicas::ReplicaSlot;
use crate::inbox::REQUESTS_MAX;
use crate::request::{CampaignError, RequestError};

type Reply = oneshot::Sender<Result<NodeId, RequestError>>;

/// Who waits for a leader to be known, at most [`REQUESTS_MAX`]. As many places are left for other
/// groups as one group has, so that one without a leader does not take all of them.
#[derive(Debug, Default)]
pub(super) struct AwaitingLeader {
    by_group: BTreeMap<GroupId, Vec<Reply>>,
    /// Of all groups.
    count: usize,
}

impl AwaitingLeader {
    /// Nobody will be known to lead here any more.
    pub(super) fn abandon(&mut self, reason: RequestError) {
        for reply in std::mem::take(self).by_group.into_values().flatten() {
            let _ = reply.send(Err(reason));
        }
    }

    fn has_place(&self, group: GroupId) -> bool {
        let of_group = self.by_group.get(&group).map_or(0, Vec::len);
        of_group < REQUESTS_MAX - self.count
    }

    /// Keeps what is to be kept of each group's.
    fn retain(&mut self, mut keep: impl FnMut(GroupId, &mut Vec<Reply>)) {
        self.by_group.retain(|group, replies| {
            keep(*group, replies);
            !replies.is_empty()
        });
        self.count = self.by_group.values().map(Vec::len).sum();
    }
}

/// So many election timeouts after a machine failed another member leads, if one can.
const TAKEOVER_TIMEOUTS: u64 = 2;

impl Groups {
    /// Answers at once, or when a leader is known.
    pub(super) fn await_leader(&mut self, group: GroupId, reply: Reply) {
        match self.leader_answer(group) {
            Some(answer) => {
                let _ = reply.send(answer);
            }
            None => self.await_leader_later(group, reply),
        }
    }

    fn await_leader_later(&mut self, group: GroupId, reply: Reply) {
        let waiting = &mut self.awaiting_leader;
        if !waiting.has_place(group) {
            // Those that were given up make room.
            waiting.retain(|_, replies| replies.retain(|reply| !reply.is_closed()));
        }
        if !waiting.has_place(group) {
            let _ = reply.send(Err(RequestError::Overloaded));
            return;
        }
        waiting.by_group.entry(group).or_default().push(reply);
        waiting.count += 1;
    }

    /// Answers those whose group has a leader now.
    pub(super) fn tell_leaders(&mut self) {
        if self.awaiting_leader.count == 0 {
            return;
        }
        let mut waiting = std::mem::take(&mut self.awaiting_leader);
        waiting.retain(|group, replies| {
            if let Some(answer) = self.leader_answer(group) {
                for reply in replies.drain(..) {
                    let _ = reply.send(answer);
                }
            }
        });
        self.awaiting_leader = waiting;
    }

    /// What can be told of a group's leader; `None` while it is worth waiting.
    fn leader_answer(&self, group: GroupId) -> Option<Result<NodeId, RequestError>> {
        let slot = match self.known(group) {
            Ok(slot) => slot,
            Err(error) => return Some(Err(error)),
        };
        let leader = self.replicas[slot].serving_leader();
        let in_vain = || self.leader_given_up_at(group).is_some_and(|at| at <= self.now);
        leader.map(Ok).or_else(|| in_vain().then_some(Err(RequestError::MachineFailed)))
    }

    /// When a leader of a group whose machine failed is waited for no longer: it never leads
    /// again, and without others that can nobody does.
    fn leader_given_up_at(&self, group: GroupId) -> Option<Time> {
        let failed_at = self.replicas[self.slot(group)?].machine_failed_at()?;
        Some(failed_at.after(TAKEOVER_TIMEOUTS * self.config.election_timeout))
    }

    /// When the first of those that wait for a leader is to be told that there is none.
    pub(super) fn leaders_deadline(&self) -> Option<Time> {
        let groups = self.awaiting_leader.by_group.keys();
        groups.filter_map(|group| self.leader_given_up_at(*group)).min()
    }

    /// A member whose machine failed leads nothing, and is not asked in vain to.
    ///
    /// # Errors
    /// If it failed and nobody else is known to lead.
    pub(super) fn known_to_serve(&self, group: GroupId) -> Result<ReplicaSlot, RequestError> {
        let slot = self.known(group)?;
        let replica = &self.replicas[slot];
        let serves = replica.machine_failure.is_none() || replica.serving_leader().is_some();
        serves.then_some(slot).ok_or(RequestError::MachineFailed)
    }

    /// Campaigns, unless something is in the way.
    pub(super) fn campaign_if_possible(&mut self, group: GroupId) -> Result<(), CampaignError> {
        let slot = self.known_to_serve(group)?;
        self.campaign(slot);
        let replica = &self.replicas[slot];
        let reason = if replica.raft.status().role != RoleName::Follower {
            return Ok(());
        } else if replica.machine_failure.is_some() {
            "its state machine has failed"
        } else if replica.machine.is_none() {
            "no state machine of its kind is registered"
        } else if replica.raft.is_tainted() {
            "its disk lost what it had promised, and its leader has not repaired it yet"
        } else {
            "its log has no room, or it is no voter of the group"
        };
        Err(CampaignError::Refused { reason })
    }
}
