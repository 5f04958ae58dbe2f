//! Who leads, for whoever waits to know it, and campaigns that somebody asks for.

use pontoon_raft::{GroupId, NodeId, RoleName};

use super::groups::Groups;
use crate::inbox::REQUESTS_MAX;
use crate::request::{CampaignError, RequestError};

type Reply = oneshot::Sender<Result<NodeId, RequestError>>;

/// Who waits for a leader to be known, at most [`REQUESTS_MAX`].
#[derive(Debug, Default)]
pub(super) struct AwaitingLeader(Vec<(GroupId, Reply)>);

impl AwaitingLeader {
    /// Nobody will lead here any more.
    pub(super) fn clear(&mut self, reason: RequestError) {
        for (_, reply) in self.0.drain(..) {
            let _ = reply.send(Err(reason));
        }
    }
}

impl Groups {
    /// Answers at once, or when a leader is known.
    pub(super) fn await_leader(&mut self, group: GroupId, reply: Reply) {
        let answer = match self.known(group) {
            Err(error) => Err(error),
            Ok(_) if self.failed => Err(RequestError::Failed),
            Ok(slot) => match self.replicas[slot].raft.leader() {
                Some(leader) => Ok(leader),
                None => return self.await_leader_later(group, reply),
            },
        };
        let _ = reply.send(answer);
    }

    fn await_leader_later(&mut self, group: GroupId, reply: Reply) {
        let waiting = &mut self.awaiting_leader.0;
        if waiting.len() >= REQUESTS_MAX {
            // Those that were given up make room.
            waiting.retain(|(_, reply)| !reply.is_closed());
        }
        if waiting.len() >= REQUESTS_MAX {
            let _ = reply.send(Err(RequestError::Overloaded));
            return;
        }
        waiting.push((group, reply));
    }

    /// Answers those whose group has a leader now.
    pub(super) fn tell_leaders(&mut self) {
        if self.awaiting_leader.0.is_empty() {
            return;
        }
        let mut waiting = std::mem::take(&mut self.awaiting_leader.0);
        let is_led = |(group, _): &mut (GroupId, Reply)| self.leader_of(*group).is_some();
        for (group, reply) in waiting.extract_if(.., is_led) {
            if let Some(leader) = self.leader_of(group) {
                let _ = reply.send(Ok(leader));
            }
        }
        self.awaiting_leader.0 = waiting;
    }

    fn leader_of(&self, group: GroupId) -> Option<NodeId> {
        self.replicas[self.slot(group)?].raft.leader()
    }

    /// Campaigns, unless something is in the way.
    pub(super) fn campaign_if_possible(&mut self, group: GroupId) -> Result<(), CampaignError> {
        let slot = self.known(group)?;
        if self.failed {
            return Err(RequestError::Failed.into());
        }
        self.campaign(slot);
        let replica = &self.replicas[slot];
        let reason = if replica.raft.status().role != RoleName::Follower {
            return Ok(());
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
