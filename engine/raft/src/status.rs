//! A look at a replica, for people and metrics. Changes nothing.

use alloc::vec::Vec;

use crate::membership::Membership;
use crate::message::VoteKind;
use crate::progress::Flow;
use crate::raft::Raft;
use crate::role::Role;
use crate::transfer::TransferStatus;
use pontoon_types::{LogIndex, NodeId, Term, Time};

/// The role of a replica, without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleName {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it would be voted for.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

/// What a replica knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub id: NodeId,
    /// Its role.
    pub role: RoleName,
    /// Latest term seen.
    pub current_term: Term,
    /// Who received its vote in that term.
    pub voted_for: Option<NodeId>,
    /// The leader of that term, if known.
    pub leader: Option<NodeId>,
    /// Highest entry known to be committed.
    pub commit_index: LogIndex,
    /// Highest entry applied.
    pub last_applied: LogIndex,
    /// First entry of the log.
    pub first_index: LogIndex,
    /// Last entry of the log.
    pub last_index: LogIndex,
    /// Last durable entry of the log.
    pub durable_index: LogIndex,
    /// The group's members.
    pub membership: Membership,
    /// Its disk lost something durable.
    pub tainted: bool,
    /// Members that it waits for: it promises nothing before it has met all of them once.
    pub awaits: Vec<NodeId>,
    /// Members that hold another definition of the group: nobody leads before they agree.
    pub differs: Vec<NodeId>,
    /// The leadership transfer under way, on a leader that was asked for one: proposals are refused
    /// meanwhile.
    pub transfer: Option<TransferStatus>,
    /// What a leader knows of the others, in the order of their ids.
    pub peers: Vec<PeerStatus>,
}

/// What a leader knows of one other member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The member.
    pub id: NodeId,
    /// Highest entry known to be durable there.
    pub match_index: LogIndex,
    /// Next entry to send.
    pub next_index: LogIndex,
    /// Whether the logs are known to agree, so that messages follow each other without waiting.
    pub pipelined: bool,
    /// Unanswered messages with entries.
    pub messages_in_flight: usize,
    /// When it last answered.
    pub responded_at: Time,
    /// Its disk lost something durable; it is being repaired and counts in no quorum.
    pub tainted: bool,
    /// Its log takes no entries at present: it is sent none.
    pub log_full: bool,
    /// The log was short of room and waits for it no longer. Once what it lacks is compacted, only
    /// a snapshot could bring it up to date.
    pub left_behind: bool,
}

impl Raft {
    /// What this replica knows now. Allocates; not for every turn.
    #[must_use]
    pub fn status(&self) -> Status {
        let (awaits, differs) = self.awaited_members();
        Status {
            id: self.config.id,
            role: self.role_name(),
            current_term: self.current_term,
            voted_for: self.voted_for,
            leader: self.leader(),
            commit_index: self.commit_index,
            last_applied: self.last_applied,
            first_index: self.log.compacted().index.next(),
            last_index: self.log.last_index(),
            durable_index: self.log.durable_index(),
            membership: self.membership.clone(),
            tainted: self.tainted,
            awaits,
            differs,
            transfer: self.transfer(),
            peers: self.peer_statuses(),
        }
    }

    fn role_name(&self) -> RoleName {
        match &self.role {
            Role::Follower { .. } => RoleName::Follower,
            Role::Candidate(candidate) if candidate.kind == VoteKind::PreVote => {
                RoleName::PreCandidate
            }
            Role::Candidate(_) => RoleName::Candidate,
            Role::Leader(_) => RoleName::Leader,
        }
    }

    fn peer_statuses(&self) -> Vec<PeerStatus> {
        let Role::Leader(leader) = &self.role else {
            return Vec::new();
        };
        let peers = leader.progress.iter().map(|(&id, progress)| PeerStatus {
            id,
            match_index: progress.match_index,
            next_index: progress.next_index,
            pipelined: progress.flow == Flow::Pipeline,
            messages_in_flight: progress.in_flight(),
            responded_at: progress.responded_at,
            tainted: progress.repair.is_some(),
            log_full: progress.is_full(),
            left_behind: progress.left_behind,
        });
        peers.collect()
    }
}
