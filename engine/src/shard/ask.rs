//! Who leads, for whoever waits to know it, and campaigns that somebody asks for.

use std::collections::BTreeMap;

use pontoon_raft::{GroupId, NodeId, RoleName};

use super::groups::Groups;
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

impl Groups {
    /// Answers at once, or when a leader is known.
    pub(super) fn await_leader(&mut self, group: GroupId, reply: Reply) {
        let answer = match self.known(group) {
            Err(error) => Err(error),
            Ok(slot) => match self.replicas[slot].raft.leader() {
                Some(leader) => Ok(leader),
                None => return self.await_leader_later(group, reply),
            },
        };
        let _ = reply.send(answer);
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
            if let Some(leader) = self.leader_of(group) {
                for reply in replies.drain(..) {
                    let _ = reply.send(Ok(leader));
                }
            }
        });
        self.awaiting_leader = waiting;
    }

    fn leader_of(&self, group: GroupId) -> Option<NodeId> {
        self.replicas[self.slot(group)?].raft.leader()
    }

    /// Campaigns, unless something is in the way.
    pub(super) fn campaign_if_possible(&mut self, group: GroupId) -> Result<(), CampaignError> {
        let slot = self.known(group)?;
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
