//! The leader's side: proposals, sending, counting, handing over (thesis 3.5, 3.6.2, 3.10, 6.2).

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::membership::VoteResult;
use crate::message::{AppendOutcome, EntryMeta, Message};
use crate::mutant::Mutant;
use crate::output::{Appended, Output};
use crate::progress::{Flow, Progress};
use crate::raft::Raft;
use crate::role::{Leader, Role, Transfer};
use pontoon_types::{LogIndex, NodeId, Term, Time};

/// Bytes of an entry without payload on the wire, as the leader's first one.
pub(crate) const NOOP_BYTES: u32 = 32;

/// Where proposals went: a run of indexes, in the term of their leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// Index of the first one.
    pub first_index: LogIndex,
    /// Term of all of them.
    pub term: Term,
}

/// Why proposals were not taken. They are certainly not in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeRejection {
    /// Another node leads, or none is known to.
    #[error("not the leader; try {leader:?}")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// Leadership is being handed over; propose to the new leader.
    #[error("leadership is being transferred to node {to}")]
    Transferring {
        /// Who takes over.
        to: NodeId,
    },
}

/// Why leadership can't be handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferRejection {
    /// Only a leader hands over.
    #[error("not the leader; ask {leader:?}")]
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
}

impl Raft {
    /// Appends commands to the log and sends them on, all in this call and before they are
    /// durable here (thesis 10.2.1). The entries' own terms are ignored.
    ///
    /// # Errors
    /// If this replica does not lead, or is handing over.
    pub fn propose(
        &mut self,
        now: Time,
        entries: &[EntryMeta],
        output: &mut Output,
    ) -> Result<Proposed, ProposeRejection> {
        match &self.role {
            Role::Leader(Leader {
                transfer: Some(transfer),
                ..
            }) => {
                return Err(ProposeRejection::Transferring { to: transfer.to });
            }
            Role::Leader(_) => {}
            _ => {
                return Err(ProposeRejection::NotLeader {
                    leader: self.leader(),
                });
            }
        }
        let first_index = self.log.last_index().next();
        let term = self.current_term;
        if !entries.is_empty() {
            for entry in entries {
                self.log.append(term, entry.bytes);
            }
            self.log.wrote();
            self.send_to_all(now, output);
        }
        Ok(Proposed { first_index, term })
    }

    pub(crate) fn become_leader(&mut self, now: Time, output: &mut Output) {
        let index = self.log.last_index().next();
        let term = self.current_term;
        let others = self
            .membership
            .members()
            .into_iter()
            .filter(|&peer| peer != self.config.id);
        let progress: BTreeMap<_, _> = others
            .map(|peer| (peer, Progress::new(index, now)))
            .collect();
        self.role = Role::Leader(Leader {
            progress,
            heartbeat_deadline: now.after(self.config.heartbeat_interval),
            quorum_deadline: now.after(self.config.election_timeout),
            round: 0,
            noop_index: index,
            transfer: None,
        });
        // Section 6.4: a leader commits a blank no-op entry at the start of its term.
        self.log.append(term, NOOP_BYTES);
        self.log.wrote();
        output.appended.push(Appended::Noop { index, term });
        self.send_to_all(now, output);
    }

    pub(crate) fn send_to_all(&mut self, now: Time, output: &mut Output) {
        for peer in self.peers() {
            self.send_entries(peer, output);
        }
        let interval = self.config.heartbeat_interval;
        if let Role::Leader(leader) = &mut self.role {
            // Entries keep followers quiet as well as heartbeats do.
            leader.heartbeat_deadline = now.after(interval);
        }
    }

    fn peers(&self) -> Vec<NodeId> {
        match &self.role {
            Role::Leader(leader) => leader.progress.keys().copied().collect(),
            _ => Vec::new(),
        }
    }

    /// Sends what the follower lacks, as far as its windows allow.
    fn send_entries(&mut self, to: NodeId, output: &mut Output) {
        let (messages_max, bytes_max) = (
            self.config.messages_in_flight_max,
            self.config.bytes_in_flight_max,
        );
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(progress) = leader.progress.get_mut(&to) else {
            return;
        };
        while progress.next_index <= self.log.last_index()
            && progress.may_send(messages_max, bytes_max)
        {
            // What is compacted can't be sent: the follower waits for a snapshot.
            let Some(prev_log_term) = self.log.term_at(progress.next_index.previous()) else {
                return;
            };
            let prev_log_index = progress.next_index.previous();
            let mut count = 0;
            let mut bytes = 0;
            while count < self.config.entries_per_message_max
                && prev_log_index.plus(u64::from(count)) < self.log.last_index()
            {
                let next = u64::from(self.log.size_at(progress.next_index.plus(u64::from(count))));
                if count > 0 && bytes + next > self.config.bytes_per_message_max {
                    break;
                }
                count += 1;
                bytes += next;
            }
            progress.on_sent(prev_log_index.plus(u64::from(count)), bytes);
            let message = Message::AppendEntries {
                term: self.current_term,
                prev_log_index,
                prev_log_term,
                count,
                leader_commit: self.commit_index,
                round: leader.round,
                replicated_everywhere: self.replicated_everywhere,
            };
            Self::send_now(output, to, message);
        }
    }

    pub(crate) fn tick_leader(&mut self, now: Time, output: &mut Output) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        if now >= leader.quorum_deadline {
            leader.quorum_deadline = now.after(self.config.election_timeout);
            if !self.hears_a_quorum(now) {
                // Section 6.2: a leader steps down if an election timeout elapses without a
                // successful round of heartbeats to a majority of its cluster.
                return self.become_follower(now, self.current_term, None, output);
            }
        }
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        if leader
            .transfer
            .is_some_and(|transfer| now >= transfer.deadline)
        {
            leader.transfer = None;
        }
        if now >= leader.heartbeat_deadline {
            leader.heartbeat_deadline = now.after(self.config.heartbeat_interval);
            leader.round += 1;
            self.send_heartbeats(output);
        }
    }

    fn hears_a_quorum(&self, now: Time) -> bool {
        let Role::Leader(leader) = &self.role else {
            return false;
        };
        let heard = |voter: NodeId| match leader.progress.get(&voter) {
            None => Some(voter == self.config.id),
            Some(progress) => Some(
                progress.repair.is_none()
                    && now.since(progress.responded_at) < self.config.election_timeout,
            ),
        };
        self.membership.vote_result(heard) == VoteResult::Won
    }

    /// A heartbeat is an AppendEntries without entries, at the place where the next would go: it
    /// also finds out whether what was sent before has arrived.
    fn send_heartbeats(&self, output: &mut Output) {
        let Role::Leader(leader) = &self.role else {
            return;
        };
        for (&to, progress) in &leader.progress {
            let (compacted, _) = self.log.compacted();
            let prev_log_index = progress.next_index.previous().max(compacted);
            let Some(prev_log_term) = self.log.term_at(prev_log_index) else {
                continue;
            };
            let message = Message::AppendEntries {
                term: self.current_term,
                prev_log_index,
                prev_log_term,
                count: 0,
                leader_commit: self.commit_index,
                round: leader.round,
                replicated_everywhere: self.replicated_everywhere,
            };
            Self::send_now(output, to, message);
        }
    }

    pub(crate) fn handle_append_response(
        &mut self,
        now: Time,
        from: NodeId,
        outcome: AppendOutcome,
        output: &mut Output,
    ) {
        let last_index = self.log.last_index();
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(progress) = leader.progress.get_mut(&from) else {
            return;
        };
        progress.responded_at = now;
        match outcome {
            // Nobody can agree to what we do not have.
            AppendOutcome::Accepted { match_index } if match_index > last_index => return,
            AppendOutcome::Accepted { match_index } => {
                if progress.on_accepted(match_index) {
                    self.maybe_commit();
                }
            }
            AppendOutcome::Rejected {
                prev_log_index,
                hint_index,
                hint_term,
            } => {
                // An answer to a probe no longer under way, or to what has been accepted since.
                let expected = match progress.flow {
                    Flow::Probe { .. } => prev_log_index == progress.next_index.previous(),
                    Flow::Pipeline => prev_log_index > progress.match_index,
                };
                if !expected {
                    return;
                }
                // Section 3.5: one rejection per term in conflict, not one per entry.
                let (agreed, _) = self.log.last_not_above(hint_index, hint_term);
                progress.become_probe(agreed.min(prev_log_index.previous()).next());
            }
        }
        self.send_entries(from, output);
        self.maybe_tell_repaired(from, output);
        self.maybe_tell_transferee(output);
    }

    /// Commits what a quorum has durably, this node counted like every other.
    pub(crate) fn maybe_commit(&mut self) {
        let Role::Leader(leader) = &self.role else {
            return;
        };
        let matched = |voter: NodeId| match leader.progress.get(&voter) {
            Some(progress) => progress.counted_index(),
            None if voter == self.config.id && self.is(Mutant::CountsOwnUndurable) => {
                self.log.last_index()
            }
            None if voter == self.config.id => self.log.durable_index(),
            None => LogIndex(0),
        };
        let index = self.membership.committed_index(matched);
        let others = leader.progress.keys().map(|&peer| matched(peer)).min();
        // Its own disk may be the slowest: what others compact it could not get back.
        let everywhere = others.map(|index| index.min(self.log.durable_index()));
        // Section 3.6.2, figure 3.7 (figure 8 of the paper): only entries of the leader's current
        // term are committed by counting replicas; earlier ones are committed under them.
        let own_term = index >= leader.noop_index || self.is(Mutant::CommitsEarlierTerms);
        if index > self.commit_index && own_term {
            self.commit_index = index;
        }
        let everywhere = everywhere.map_or(self.commit_index, |index| index.min(self.commit_index));
        self.replicated_everywhere = self.replicated_everywhere.max(everywhere);
    }

    /// The connection to a peer broke, or something for it was dropped: what was sent may be lost.
    pub fn report_unreachable(&mut self, peer: NodeId) {
        if let Role::Leader(leader) = &mut self.role
            && let Some(progress) = leader.progress.get_mut(&peer)
        {
            progress.become_probe(progress.match_index.next());
        }
    }

    /// Hands leadership to another voter, once it has the whole log (thesis 3.10).
    ///
    /// Proposals are refused meanwhile, for an election timeout at most.
    ///
    /// # Errors
    /// If this replica does not lead, or the target is not another voter.
    pub fn transfer_leadership(
        &mut self,
        now: Time,
        to: NodeId,
        output: &mut Output,
    ) -> Result<(), TransferRejection> {
        let known_leader = self.leader();
        let deadline = now.after(self.config.election_timeout);
        let Role::Leader(leader) = &mut self.role else {
            return Err(TransferRejection::NotLeader {
                leader: known_leader,
            });
        };
        if to == self.config.id || !self.membership.is_voter(to) {
            return Err(TransferRejection::NotAVoter { to });
        }
        leader.transfer = Some(Transfer {
            to,
            deadline,
            told: false,
        });
        self.send_entries(to, output);
        self.maybe_tell_transferee(output);
        Ok(())
    }

    fn maybe_tell_transferee(&mut self, output: &mut Output) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(transfer) = &mut leader.transfer else {
            return;
        };
        let Some(progress) = leader.progress.get(&transfer.to) else {
            return;
        };
        let sound = progress.repair.is_none();
        if !transfer.told && sound && progress.match_index == self.log.last_index() {
            transfer.told = true;
            let message = Message::TimeoutNow {
                term: self.current_term,
            };
            Self::send_now(output, transfer.to, message);
        }
    }
}
