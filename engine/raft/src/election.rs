//! Elections (thesis 3.4, 3.6.1, 4.2.3, 9.6): pre-vote, votes, stickiness, hand-over.

use alloc::collections::BTreeMap;

use crate::membership::VoteResult;
use crate::message::{AppendOutcome, Message, VoteKind};
use crate::mutant::Mutant;
use crate::output::Output;
use crate::raft::Raft;
use crate::role::{Candidate, Role};
use pontoon_types::{LogIndex, NodeId, Term, Time};

impl Raft {
    /// Asks whether the others would vote for this replica, and campaigns if they would.
    ///
    /// Does nothing on a leader, a learner, a tainted or a retired replica.
    pub fn campaign(&mut self, now: Time, output: &mut Output) {
        self.start_campaign(now, VoteKind::PreVote, output);
    }

    /// Only a voter whose promises hold may become leader.
    pub(crate) fn may_campaign(&self) -> bool {
        let sound = !self.tainted && !self.retired;
        sound && !self.is_leader() && self.membership.is_voter(self.config.id)
    }

    fn start_campaign(&mut self, now: Time, kind: VoteKind, output: &mut Output) {
        if !self.may_campaign() {
            return;
        }
        let mut candidate = Candidate {
            kind,
            votes: BTreeMap::new(),
            own_vote: None,
        };
        self.reset_election_timer(now);
        if kind == VoteKind::PreVote {
            // Thesis 9.6: a pre-vote promises nothing, so its own counts at once.
            candidate.votes.insert(self.config.id, true);
        } else {
            // Section 3.4: to begin an election, a follower increments its current term. Its own
            // vote counts when it is durable, like everybody's.
            self.current_term = self.current_term.next();
            self.voted_for = Some(self.config.id);
            candidate.own_vote = Some(self.save_hard_state(output));
            if self.is(Mutant::CountsOwnVoteEarly) {
                candidate.votes.insert(self.config.id, true);
            }
        }
        self.role = Role::Candidate(candidate);
        self.request_votes(kind, output);
        self.count_votes(now, output);
    }

    fn request_votes(&self, kind: VoteKind, output: &mut Output) {
        let pre_vote = kind == VoteKind::PreVote;
        let term = if pre_vote {
            self.current_term.next()
        } else {
            self.current_term
        };
        let (last_log_index, last_log_term) = (self.log.last_index(), self.log.last_term());
        let message = Message::RequestVote {
            term,
            last_log_index,
            last_log_term,
            kind,
        };
        for voter in self.membership.members() {
            if voter == self.config.id || !self.membership.is_voter(voter) {
                continue;
            }
            if pre_vote {
                Self::send_now(output, voter, message);
            } else {
                Self::send_after_persist(output, voter, message);
            }
        }
    }

    pub(crate) fn count_votes(&mut self, now: Time, output: &mut Output) {
        let Role::Candidate(candidate) = &self.role else {
            return;
        };
        let kind = candidate.kind;
        match self
            .membership
            .vote_result(|voter| candidate.votes.get(&voter).copied())
        {
            VoteResult::Won if kind == VoteKind::PreVote => {
                self.start_campaign(now, VoteKind::Vote, output);
            }
            VoteResult::Won => self.become_leader(now, output),
            VoteResult::Lost => {
                self.role = Role::Follower {
                    leader: None,
                    heard_at: now,
                };
                self.reset_election_timer(now);
            }
            VoteResult::Pending => {}
        }
    }

    pub(crate) fn handle_request_vote(
        &mut self,
        now: Time,
        from: NodeId,
        term: Term,
        candidate_last: (Term, LogIndex),
        kind: VoteKind,
        output: &mut Output,
    ) {
        // RequestVote 2 of figure 3.1: the candidate's log is at least as up-to-date as ours.
        let up_to_date = candidate_last >= (self.log.last_term(), self.log.last_index())
            || self.is(Mutant::VotesForOldLog);
        let sound = (!self.tainted || self.is(Mutant::TaintedTakesPart)) && !self.retired;
        if kind == VoteKind::PreVote {
            let granted =
                term > self.current_term && up_to_date && sound && !self.hears_a_leader(now);
            // A refusal carries our term, so that a candidate left behind learns of it.
            let term = if granted { term } else { self.current_term };
            let answer = Message::VoteResponse {
                term,
                granted,
                kind,
            };
            return Self::send_after_persist(output, from, answer);
        }
        // RequestVote 2: votedFor is null or candidateId. Who has a leader has no vote to give.
        let free = match self.voted_for {
            None => self.leader().is_none(),
            Some(voted_for) => voted_for == from,
        };
        let granted = free && up_to_date && sound;
        if granted {
            if self.voted_for.is_none() {
                self.voted_for = Some(from);
                self.save_hard_state(output);
            }
            self.reset_election_timer(now);
        }
        let term = self.current_term;
        Self::send_after_persist(
            output,
            from,
            Message::VoteResponse {
                term,
                granted,
                kind,
            },
        );
    }

    pub(crate) fn handle_vote_response(
        &mut self,
        now: Time,
        from: NodeId,
        term: Term,
        granted: bool,
        kind: VoteKind,
        output: &mut Output,
    ) {
        let Role::Candidate(candidate) = &mut self.role else {
            return;
        };
        // A granted pre-vote speaks of the term we would have.
        let expected = if granted && kind == VoteKind::PreVote {
            self.current_term.next()
        } else {
            self.current_term
        };
        if candidate.kind == kind && term == expected {
            candidate.votes.entry(from).or_insert(granted);
            self.count_votes(now, output);
        }
    }

    /// Thesis 3.10: the leader asks for an election at once, without pre-vote.
    pub(crate) fn handle_timeout_now(&mut self, now: Time, from: NodeId, output: &mut Output) {
        if self.leader() == Some(from) {
            self.start_campaign(now, VoteKind::Transfer, output);
        }
    }

    /// Leader stickiness (thesis 4.2.3): a leader was heard of within an election timeout. A
    /// leader itself has heard from a quorum, or check-quorum would have ended it.
    pub(crate) fn hears_a_leader(&self, now: Time) -> bool {
        match &self.role {
            Role::Follower {
                leader: Some(_),
                heard_at,
            } => now.since(*heard_at) < self.config.election_timeout,
            Role::Leader(_) => true,
            _ => false,
        }
    }

    pub(crate) fn become_follower(
        &mut self,
        now: Time,
        term: Term,
        leader: Option<NodeId>,
        output: &mut Output,
    ) {
        assert!(
            term >= self.current_term,
            "the current term never decreases"
        );
        if term > self.current_term {
            self.current_term = term;
            self.voted_for = None;
            self.save_hard_state(output);
        }
        if self.is(Mutant::ErasesVote) {
            self.voted_for = None;
        }
        self.role = Role::Follower {
            leader,
            heard_at: now,
        };
        self.reset_election_timer(now);
    }

    /// Requests of an earlier term are refused with ours (figure 3.1); answers are ignored.
    pub(crate) fn answer_stale(&self, from: NodeId, message: &Message, output: &mut Output) {
        let term = self.current_term;
        let answer = match *message {
            Message::RequestVote { kind, .. } => Message::VoteResponse {
                term,
                granted: false,
                kind,
            },
            Message::AppendEntries {
                prev_log_index,
                round,
                ..
            } => {
                let hint_index = self.log.last_index();
                let hint_term = self.log.last_term();
                let outcome = AppendOutcome::Rejected {
                    prev_log_index,
                    hint_index,
                    hint_term,
                };
                Message::AppendResponse {
                    term,
                    round,
                    outcome,
                    incarnation: self.incarnation,
                    tainted: self.tainted,
                }
            }
            _ => return,
        };
        Self::send_after_persist(output, from, answer);
    }
}
