//! Elections (thesis 3.4, 3.6.1, 4.2.3, 9.6): pre-vote, votes, stickiness, leadership transfer.

use alloc::collections::BTreeMap;

use crate::membership::VoteResult;
use crate::message::{AppendOutcome, Body, Message, RequestVote, VoteKind, VoteResponse};
use crate::mutant::Mutant;
use crate::output::Output;
use crate::raft::Raft;
use crate::role::{Candidate, Role};
use pontoon_types::{EntryId, NodeId, Term, Time};

impl Raft {
    /// Asks whether the others would vote for this replica, and campaigns if they would.
    ///
    /// Does nothing on a leader, a learner, a tainted replica, one whose log has failed, or one
    /// that has renounced.
    pub fn campaign(&mut self, now: Time, output: &mut Output) {
        self.now = now;
        self.start_campaign(VoteKind::PreVote, output);
    }

    /// Only a voter whose promises hold may become leader.
    pub(crate) fn promotable(&self) -> bool {
        let keeps_promises = !self.tainted && !self.log_failed;
        keeps_promises
            && !self.renounced
            && !self.is_leader()
            && self.membership.is_voter(self.config.id)
    }

    fn start_campaign(&mut self, kind: VoteKind, output: &mut Output) {
        if !self.promotable() {
            return;
        }
        let mut candidate = Candidate {
            kind,
            votes: BTreeMap::new(),
            own_vote: None,
            followed: self.followed(),
        };
        self.reset_election_timer();
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
        self.count_votes(output);
    }

    fn request_votes(&self, kind: VoteKind, output: &mut Output) {
        let request = RequestVote {
            last_log: self.log.last(),
            kind,
        };
        for voter in self.membership.all_voters() {
            if voter == self.config.id {
                continue;
            }
            if kind == VoteKind::PreVote {
                output.send_now(voter, Message::new(self.current_term.next(), request));
            } else {
                output.send_after_persist(voter, Message::new(self.current_term, request));
            }
        }
    }

    pub(crate) fn count_votes(&mut self, output: &mut Output) {
        let Role::Candidate(candidate) = &self.role else {
            return;
        };
        let kind = candidate.kind;
        let vote = |voter: NodeId| candidate.votes.get(&voter).copied();
        match self.membership.vote_result(vote) {
            VoteResult::Won if kind == VoteKind::PreVote => {
                self.start_campaign(VoteKind::Vote, output);
            }
            VoteResult::Won => self.become_leader(output),
            VoteResult::Lost => {
                self.role = Role::Follower {
                    leader: None,
                    heard_at: self.now,
                };
                self.reset_election_timer();
            }
            VoteResult::Pending => {}
        }
    }

    /// Stops asking for votes, until the election timer expires again. Does nothing on others than
    /// candidates. The vote for itself stays given.
    pub fn abandon_campaign(&mut self) {
        if matches!(self.role, Role::Candidate(_)) {
            self.role = Role::Follower {
                leader: None,
                heard_at: self.now,
            };
        }
    }

    /// RequestVote 2 of figure 3.1: the candidate's log is at least as up-to-date as ours.
    fn is_up_to_date(&self, candidate_last: EntryId) -> bool {
        candidate_last >= self.log.last() || self.is(Mutant::VotesForOldLog)
    }

    /// Whether this replica's vote can count: its disk has lost nothing that it promised, and
    /// still takes what it would promise.
    fn may_vote(&self) -> bool {
        (!self.tainted || self.is(Mutant::TaintedTakesPart)) && !self.log_failed
    }

    /// Would we vote for this candidate in `term`? Changes nothing (thesis 9.6).
    pub(crate) fn handle_pre_vote(
        &mut self,
        from: NodeId,
        term: Term,
        last_log: EntryId,
        output: &mut Output,
    ) {
        let granted = term > self.current_term
            && self.is_up_to_date(last_log)
            && self.may_vote()
            // Thesis 4.2.3: whoever hears a leader needs no election.
            && !self.hears_a_leader();
        // A refusal carries our term, so that a candidate left behind learns of it.
        let term = if granted { term } else { self.current_term };
        let kind = VoteKind::PreVote;
        let response = Message::new(term, VoteResponse { granted, kind });
        output.send_once(self.promises_are_durable(), from, response);
    }

    /// RequestVote of figure 3.1, in the current term.
    pub(crate) fn handle_request_vote(
        &mut self,
        from: NodeId,
        request: RequestVote,
        output: &mut Output,
    ) {
        let can_vote = match self.voted_for {
            // votedFor is null. Who has a leader in this term has no vote to give.
            None => self.leader().is_none(),
            // votedFor is candidateId: a repeated request gets the same answer.
            Some(voted_for) => voted_for == from,
        };
        let granted = can_vote && self.is_up_to_date(request.last_log) && self.may_vote();
        if granted {
            if self.voted_for.is_none() {
                self.voted_for = Some(from);
                self.save_hard_state(output);
            }
            self.reset_election_timer();
        }
        let kind = request.kind;
        let response = VoteResponse { granted, kind };
        let response = Message::new(self.current_term, response);
        output.send_once(self.promises_are_durable(), from, response);
    }

    pub(crate) fn handle_vote_response(
        &mut self,
        from: NodeId,
        term: Term,
        response: VoteResponse,
        output: &mut Output,
    ) {
        let Role::Candidate(candidate) = &mut self.role else {
            return;
        };
        let VoteResponse { granted, kind } = response;
        // A granted pre-vote speaks of the term we would have.
        let expected = if granted && kind == VoteKind::PreVote {
            self.current_term.next()
        } else {
            self.current_term
        };
        if candidate.kind == kind && term == expected {
            candidate.votes.entry(from).or_insert(granted);
            self.count_votes(output);
        }
    }

    /// Thesis 3.10: the leader asks for an election at once, without pre-vote.
    ///
    /// Only the leader of this term asks. A pre-candidate, which is still in this term, obeys as
    /// well: it lost patience just when it was to take over. A candidate has an election already.
    pub(crate) fn handle_timeout_now(&mut self, from: NodeId, output: &mut Output) {
        let waits = match &self.role {
            Role::Follower { .. } => true,
            Role::Candidate(candidate) => candidate.kind == VoteKind::PreVote,
            Role::Leader(_) => false,
        };
        if waits && self.followed().is_none_or(|leader| leader == from) {
            self.start_campaign(VoteKind::Transfer, output);
        }
    }

    /// The leader of the current term, as far as this replica ever knew.
    fn followed(&self) -> Option<NodeId> {
        match &self.role {
            Role::Candidate(candidate) if candidate.kind == VoteKind::PreVote => candidate.followed,
            _ => self.leader(),
        }
    }

    /// Leader stickiness (thesis 4.2.3): a leader was heard of within an election timeout. A
    /// leader itself has heard from a quorum, or check-quorum would have ended it.
    pub(crate) fn hears_a_leader(&self) -> bool {
        match &self.role {
            Role::Follower {
                leader: Some(_),
                heard_at,
            } => self.now.since(*heard_at) < self.config.election_timeout,
            Role::Leader(_) => true,
            _ => false,
        }
    }

    pub(crate) fn become_follower(
        &mut self,
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
            heard_at: self.now,
        };
        self.reset_election_timer();
    }

    /// Requests of an earlier term are rejected with ours (figure 3.1); responses are ignored.
    pub(crate) fn reject_stale(&self, from: NodeId, message: &Message, output: &mut Output) {
        let response = match message.body {
            Body::RequestVote(RequestVote { kind, .. }) => {
                let granted = false;
                Message::new(self.current_term, VoteResponse { granted, kind })
            }
            Body::AppendEntries(request) => {
                let outcome = AppendOutcome::Rejected {
                    prev_log_index: request.prev_log.index,
                    hint: self.log.last(),
                };
                self.append_response(request.round, outcome, self.tainted)
            }
            _ => return,
        };
        output.send_once(self.promises_are_durable(), from, response);
    }
}
