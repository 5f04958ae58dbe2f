//! The follower's side of AppendEntries (figure 3.1, thesis 3.5).

use crate::message::{AppendEntries, AppendOutcome, AppendResponse, EntryMeta, Message};
use crate::mutant::Mutant;
use crate::output::{Appended, Output};
use crate::raft::Raft;
use crate::role::Role;
use pontoon_types::{EntryId, LogIndex, NodeId, Term};

impl Raft {
    /// A request of the current term: earlier ones are rejected before, later ones adopted.
    pub(crate) fn handle_append_entries(
        &mut self,
        from: NodeId,
        request: AppendEntries,
        entries: &[EntryMeta],
        output: &mut Output,
    ) {
        if !self.is_plausible(from, &request, entries) {
            return;
        }
        self.role = Role::Follower {
            leader: Some(from),
            heard_at: self.now,
        };
        self.reset_election_timer();

        // Also when it lacks what comes before: what all others hold nobody asks it for.
        self.advance_everywhere(&request);
        let (outcome, asserted) = if self.match_term(request.prev_log) {
            self.maybe_append(request.prev_log.index, entries, output);
            self.verified = self.verified.max(request.last_index());
            self.advance_commit_index(&request);
            self.advance_everywhere(&request);
            let match_index = self.asserted_index(&request);
            (AppendOutcome::Accepted { match_index }, match_index)
        } else {
            // A rejection asserts no entry.
            (self.reject(request.prev_log), LogIndex(0))
        };
        if !self.log_failed {
            let tainted = self.tainted && !self.is(Mutant::TaintedTakesPart);
            let response = self.append_response(request.round, outcome, tainted);
            let durable = self.promises_are_durable() && asserted <= self.log.durable_index();
            output.send_once(durable, from, response);
        }
    }

    /// The last entry that the response to an accepted request says is held.
    ///
    /// What came with it, and what is committed here, for the leader has that as well (Leader
    /// Completeness). The response to a heartbeat names what is durable already, so that it waits
    /// for no disk: its leader learns of the rest from the responses to the entries.
    fn asserted_index(&self, request: &AppendEntries) -> LogIndex {
        let index = request.last_index().max(self.commit_index);
        if request.count == 0 && !self.is(Mutant::HeartbeatsAwaitDisk) {
            index.min(self.log.durable_index())
        } else {
            index
        }
    }

    /// Whether a correct leader of the current term can have sent this.
    fn is_plausible(&self, from: NodeId, request: &AppendEntries, entries: &[EntryMeta]) -> bool {
        // Election Safety: nobody else leads in our own term.
        if self.is_leader() || self.leader().is_some_and(|leader| leader != from) {
            return false;
        }
        let prev_log = request.prev_log;
        if request.count as usize != entries.len() || prev_log.index.0 > u64::MAX / 2 {
            return false;
        }
        terms_ascend(prev_log.term, entries, self.current_term)
            && (!self.match_term(prev_log) || self.terms_follow(prev_log.index, entries))
    }

    pub(crate) fn append_response(
        &self,
        round: u64,
        outcome: AppendOutcome,
        tainted: bool,
    ) -> Message {
        let response = AppendResponse {
            round,
            outcome,
            log_epoch: self.log_epoch,
            tainted,
            room: self.room,
            renounced: self.renounced,
        };
        Message::new(self.current_term, response)
    }

    /// AppendEntries 2: false if the log has no entry at prevLogIndex with prevLogTerm.
    fn reject(&self, prev_log: EntryId) -> AppendOutcome {
        let mut limit = prev_log.index.previous().max(self.commit_index);
        if self.tainted {
            limit = limit.min(self.verified);
        }
        AppendOutcome::Rejected {
            prev_log_index: prev_log.index,
            hint: self.log.find_conflict_by_term(limit, prev_log.term),
        }
    }

    /// AppendEntries 5: commitIndex = min(leaderCommit, index of last new entry).
    fn advance_commit_index(&mut self, request: &AppendEntries) {
        let beyond = self.is(Mutant::CommitsBeyondSent);
        let limit = if beyond {
            self.log.last_index()
        } else {
            request.last_index()
        };
        self.commit_index = self.commit_index.max(request.leader_commit.min(limit));
    }

    fn advance_everywhere(&mut self, request: &AppendEntries) {
        let index = request.replicated_everywhere.min(self.commit_index);
        self.replicated_everywhere = self.replicated_everywhere.max(index);
    }

    /// Whether the logs agree up to this entry: what is committed does by State Machine Safety,
    /// also where it is compacted; the rest by Log Matching.
    ///
    /// A damaged log may hold an entry whose replacement was lost, below others that follow the
    /// replacement: Log Matching does not hold in it, so it is compared from where it is known.
    fn match_term(&self, entry: EntryId) -> bool {
        let comparable = !self.tainted || entry.index <= self.verified;
        let same = comparable && self.log.term_at(entry.index) == Some(entry.term);
        entry.index <= self.commit_index || same
    }

    /// How many of the entries after `prev_log_index` are in the log already.
    fn matching_prefix(&self, prev_log_index: LogIndex, entries: &[EntryMeta]) -> usize {
        let indexes = (1..).map(|position| prev_log_index.plus(position));
        let matches = |(index, entry): &(LogIndex, &EntryMeta)| {
            *index <= self.commit_index || self.log.term_at(*index) == Some(entry.term)
        };
        indexes.zip(entries).take_while(matches).count()
    }

    /// Whether the first new entry's term is at least that of the entry it follows. Always true of
    /// a correct leader; committed entries are not compared above, so that a forged message could
    /// violate it.
    fn terms_follow(&self, prev_log_index: LogIndex, entries: &[EntryMeta]) -> bool {
        let matching = self.matching_prefix(prev_log_index, entries);
        let before = self.log.term_at(prev_log_index.plus(matching as u64));
        let next = entries.get(matching);
        before
            .zip(next)
            .is_none_or(|(term, next)| term <= next.term)
    }

    /// AppendEntries 3 and 4: an existing entry that conflicts with a new one goes, with all
    /// that follow it; entries not in the log are appended.
    fn maybe_append(
        &mut self,
        prev_log_index: LogIndex,
        entries: &[EntryMeta],
        output: &mut Output,
    ) {
        let skip = self.matching_prefix(prev_log_index, entries);
        let first_index = prev_log_index.plus(skip as u64).next();
        let new = &entries[skip..];
        if new.is_empty() {
            return;
        }
        if first_index <= self.log.last_index() {
            assert!(
                first_index > self.commit_index,
                "a committed entry is never replaced"
            );
            let keep_writes = self.is(Mutant::AcknowledgesReplaced);
            self.log.truncate(first_index, keep_writes);
        }
        for entry in new {
            self.log.append(*entry);
        }
        self.log.begin_write();
        output.appended.push(Appended::Received {
            first_index,
            skip: skip as u32,
            count: new.len() as u32,
        });
    }
}

/// Terms never decrease along a log, and none is above its leader's.
fn terms_ascend(prev_log_term: Term, entries: &[EntryMeta], leader_term: Term) -> bool {
    let mut before = prev_log_term;
    entries.iter().all(|entry| {
        let ascends = before <= entry.term && entry.term <= leader_term;
        before = entry.term;
        ascends
    })
}
