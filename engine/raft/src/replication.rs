//! The leader's side of a replica: proposals, commitment, followers (thesis 3.5).

use core::fmt;

use crate::leader::LeaderView;
use crate::membership::VoteResult;
use crate::message::{AppendResponse, EntryKind, EntryMeta};
use crate::mutant::Mutant;
use crate::output::{Appended, Forgot, Output};
use crate::progress::{Learned, Progress, Room};
use crate::raft::Raft;
use crate::role::{Leader, Role};
use pontoon_types::{LogIndex, NodeId, Term, Time};

/// Bytes on the wire of a leader's empty entry.
const NOOP_BYTES: u32 = 32;

/// Where proposals went: a run of indexes, in the term of their leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// Index of the first one.
    pub first_index: LogIndex,
    /// Term of all of them.
    pub term: Term,
}

/// Whom to ask instead, for messages: "node 2 leads", or that nobody is known to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderHint(pub Option<NodeId>);

impl fmt::Display for LeaderHint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(leader) => write!(formatter, "node {leader} does"),
            None => formatter.write_str("no leader is known yet, try again later"),
        }
    }
}

/// Why proposals were not taken. They are certainly not in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeRejection {
    /// Another node leads, or none is known to.
    #[error("this node does not lead the group; {}", LeaderHint(*leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// Leadership is being transferred; propose to the new leader.
    #[error("leadership is being transferred to node {to}; propose there")]
    Transferring {
        /// Who takes over.
        to: NodeId,
    },
}

impl Raft {
    /// Appends entries to the log and sends them on, all in this call and before they are durable
    /// here (thesis 10.2.1). The entries' own terms are ignored.
    ///
    /// # Errors
    /// If this replica does not lead, or is transferring its leadership.
    pub fn propose(
        &mut self,
        now: Time,
        entries: &[EntryMeta],
        output: &mut Output,
    ) -> Result<Proposed, ProposeRejection> {
        self.now = now;
        let leader = self.leader();
        let Role::Leader(leading) = &mut self.role else {
            return Err(ProposeRejection::NotLeader { leader });
        };
        leading.expire_transfer(now);
        if let Some(transfer) = leading.transfer {
            return Err(ProposeRejection::Transferring { to: transfer.to });
        }
        let first_index = self.log.last_index().next();
        let term = self.current_term;
        if !entries.is_empty() {
            for entry in entries {
                self.log.append(EntryMeta { term, ..*entry });
            }
            self.log.begin_write();
            output.appended.push(Appended::Proposed {
                first_index,
                term,
                count: u32::try_from(entries.len()).expect("a batch is short"),
            });
            self.send_to_all(output);
            if self.is(Mutant::ProposalsDelayHeartbeats)
                && let Some((leader, view)) = self.leading()
            {
                let deadline = view.heartbeat_deadline();
                let followers = leader.progress.values_mut();
                followers.for_each(|progress| progress.heartbeat_deadline = deadline);
            }
        }
        Ok(Proposed { first_index, term })
    }

    pub(crate) fn become_leader(&mut self, output: &mut Output) {
        let noop_index = self.log.last_index().next();
        let (role, view) = self.role_and_view();
        *role = Role::Leader(Leader::new(noop_index, &view));
        // Section 6.4: a leader commits a blank no-op entry at the start of its term.
        self.append_noop(output);
        self.send_to_all(output);
    }

    /// Appends an empty entry of the current term.
    pub(crate) fn append_noop(&mut self, output: &mut Output) {
        self.log.append(EntryMeta {
            term: self.current_term,
            bytes: NOOP_BYTES,
            kind: EntryKind::Noop,
        });
        self.log.begin_write();
        output.appended.push(Appended::Noop(self.log.last()));
    }

    pub(crate) fn send_to_all(&mut self, output: &mut Output) {
        if let Some((leader, view)) = self.leading() {
            leader.send_to_all(&view, output);
        }
    }

    pub(crate) fn tick_leader(&mut self, output: &mut Output) {
        let Some((leader, view)) = self.leading() else {
            return;
        };
        if view.now >= leader.quorum_deadline {
            leader.quorum_deadline = view.now.after(view.config.election_timeout);
            if !leader.quorum_active(&view) {
                // Section 6.2: a leader steps down if an election timeout elapses without a
                // successful round of heartbeats to a majority of its cluster.
                return self.become_follower(self.current_term, None, output);
            }
        }
        leader.expire_transfer(view.now);
        leader.send_heartbeats(&view, output);
        self.resign_if_renounced(output);
    }

    pub(crate) fn handle_append_response(
        &mut self,
        from: NodeId,
        response: AppendResponse,
        output: &mut Output,
    ) {
        if !self.observe_response(from, response, output) {
            return;
        }
        let Some((leader, view)) = self.leading() else {
            return;
        };
        match leader.on_append_response(from, response, &view) {
            Learned::Nothing => return,
            Learned::Alive => {}
            Learned::Forgot(held) => output.forgot.push(Forgot { peer: from, held }),
            Learned::HoldsMore => self.maybe_commit(),
        }
        let Some((leader, view)) = self.leading() else {
            return;
        };
        leader.send_to(from, &view, output);
        leader.maybe_send_repaired(from, &view, output);
        leader.maybe_send_timeout_now(&view, output);
    }

    /// Moves the commit index, and what is known to be everywhere, as far as the followers allow.
    pub(crate) fn maybe_commit(&mut self) {
        self.advance_leader_commit();
        self.advance_replicated_everywhere();
    }

    fn advance_leader_commit(&mut self) {
        let Some((leader, view)) = self.leading() else {
            return;
        };
        let (index, noop_index) = (leader.quorum_index(&view), leader.noop_index);
        if index <= self.commit_index {
            return;
        }
        // Section 3.6.2, figure 3.7 (figure 8 of the paper): only entries of the leader's current
        // term are committed by counting replicas; earlier ones are committed under them.
        if index < noop_index && !self.is(Mutant::CommitsEarlierTerms) {
            return;
        }
        self.commit_index = index;
    }

    fn advance_replicated_everywhere(&mut self) {
        let Some((leader, view)) = self.leading() else {
            return;
        };
        // What is not committed may still be replaced.
        let index = leader.everywhere_index(&view).min(view.commit_index);
        self.replicated_everywhere = self.replicated_everywhere.max(index);
    }

    /// The connection to a peer broke, or something for it was dropped: what was sent may be lost.
    pub fn report_unreachable(&mut self, peer: NodeId) {
        let compacted = self.log.compacted().index;
        if let Role::Leader(leader) = &mut self.role
            && let Some(progress) = leader.progress.get_mut(&peer)
        {
            // What is compacted can't be sent: the follower says whether it has it.
            progress.become_probe(progress.match_index.max(compacted).next());
            leader.repeat_timeout_now(peer);
        }
    }

    /// The connection to a peer broke. Beside what [`report_unreachable`](Self::report_unreachable)
    /// does, the epoch of its log that it named there is forgotten: whoever is on the next
    /// connection says its own.
    ///
    /// Nothing that came over the old connection may be stepped any more, so that an answer of an
    /// earlier life of the peer is not taken for one of its present one.
    pub fn report_disconnected(&mut self, peer: NodeId) {
        self.report_unreachable(peer);
        if self.is(Mutant::EpochOutlivesConnection) {
            return;
        }
        if let Role::Leader(leader) = &mut self.role
            && let Some(progress) = leader.progress.get_mut(&peer)
        {
            progress.log_epoch = 0;
            // It says on the next one whether it has any, and is sent one message to find out.
            progress.room = Room::Unknown;
        }
    }

    /// Whether this replica leads and awaits a response to an AppendEntries whose last entry was
    /// `last`: one that need not be sent any more is not.
    #[must_use]
    pub fn awaits_response(&self, peer: NodeId, last: LogIndex) -> bool {
        let Role::Leader(leader) = &self.role else {
            return false;
        };
        let progress = leader.progress.get(&peer);
        progress.is_some_and(|progress| progress.awaits(last))
    }

    /// An AppendEntries with entries really left for a peer: it needs no heartbeat for a while.
    ///
    /// Entries that wait, to be read back or for room in a queue, or that are dropped, keep nobody
    /// quiet. Nor do those whose answers stay out for a heartbeat interval: they may wait for the
    /// follower's disk, and the answer to a heartbeat waits for none.
    pub fn on_sent(&mut self, now: Time, peer: NodeId) {
        let interval = self.config.heartbeat_interval;
        let always = self.is(Mutant::EntriesDelayHeartbeats);
        if let Role::Leader(leader) = &mut self.role
            && let Some(progress) = leader.progress.get_mut(&peer)
            && (always || now.since(progress.responded_at) < interval)
        {
            progress.heartbeat_deadline = now.after(interval);
        }
    }

    /// The log is short of room and waits no longer for a member: what it lacks may be compacted,
    /// and from then on only a snapshot brings it up to date. Does nothing on a follower.
    ///
    /// The log waits for it again once it answers and what it lacks is still there.
    pub fn leave_behind(&mut self, peer: NodeId) {
        if let Role::Leader(leader) = &mut self.role
            && let Some(progress) = leader.progress.get_mut(&peer)
        {
            progress.left_behind = true;
            self.advance_replicated_everywhere();
        }
    }

    /// The log has room: it waits again for members that were left behind, as far as what they lack
    /// is still there.
    pub fn wait_for_all(&mut self) {
        let compacted = self.log.compacted().index;
        if let Role::Leader(leader) = &mut self.role {
            for progress in leader.progress.values_mut() {
                progress.left_behind &= progress.match_index < compacted;
            }
        }
    }

    /// Since when a member's log has been full, as far as this leader knows: of the one for which
    /// that has been so for longest.
    #[must_use]
    pub fn member_full_since(&self) -> Option<Time> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        let progress = leader.progress.values();
        progress.filter_map(|progress| progress.full_since).min()
    }

    /// Whether the logs of so many members are full that nothing more could be committed. False
    /// on a follower, and as far as this replica's own log goes.
    pub fn lacks_room_elsewhere(&mut self) -> bool {
        let Some((leader, view)) = self.leading() else {
            return false;
        };
        let has_room = |voter: NodeId| {
            let progress = leader.progress.get(&voter);
            Some(!progress.is_some_and(Progress::is_full))
        };
        view.membership.vote_result(has_room) == VoteResult::Lost
    }

    /// The member that is best placed to lead instead of this one: a voter that answers, has room
    /// in its log, and lacks the least. `None` if there is none, or this replica does not lead.
    pub fn best_successor(&mut self) -> Option<NodeId> {
        let (leader, view) = self.leading()?;
        leader.best_successor(&view, |_, _| true)
    }

    /// The role, and what a leader's rules read of the rest.
    fn role_and_view(&mut self) -> (&mut Role, LeaderView<'_>) {
        let view = LeaderView {
            config: &self.config,
            membership: &self.membership,
            log: &self.log,
            now: self.now,
            current_term: self.current_term,
            commit_index: self.commit_index,
            replicated_everywhere: self.replicated_everywhere,
        };
        (&mut self.role, view)
    }

    /// A leader's own state, and what its rules read of the rest.
    pub(crate) fn leading(&mut self) -> Option<(&mut Leader, LeaderView<'_>)> {
        match self.role_and_view() {
            (Role::Leader(leader), view) => Some((leader, view)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_rejection_says_whom_to_ask_as_a_person_would_write_it() {
        let leader = Some(NodeId(2));
        let told = ProposeRejection::NotLeader { leader }.to_string();
        assert_eq!(told, "this node does not lead the group; node 2 does");
        let told = ProposeRejection::NotLeader { leader: None }.to_string();
        assert!(
            told.ends_with("no leader is known yet, try again later"),
            "{told}"
        );
    }
}
