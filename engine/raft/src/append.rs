//! The follower's side of AppendEntries (figure 3.1, thesis 3.5).

use crate::message::{AppendOutcome, EntryMeta, Message};
use crate::mutant::Mutant;
use crate::output::{Appended, Output};
use crate::raft::Raft;
use crate::role::Role;
use pontoon_types::{LogIndex, NodeId, Term, Time};

impl Raft {
    pub(crate) fn handle_append_entries(
        &mut self,
        now: Time,
        from: NodeId,
        message: Message,
        entries: &[EntryMeta],
        output: &mut Output,
    ) {
        let Message::AppendEntries {
            term,
            prev_log_index,
            prev_log_term,
            count,
            leader_commit,
            round,
            replicated_everywhere,
        } = message
        else {
            return;
        };
        // Election Safety: nobody else leads in our own term. And only well-formed entries.
        let known = self.leader().is_none_or(|leader| leader == from);
        if self.is_leader() || !known || count as usize != entries.len() {
            return;
        }
        if !terms_ascend(prev_log_term, entries, term) || prev_log_index.0 > u64::MAX / 2 {
            return;
        }
        let matches = self.matches(prev_log_index, prev_log_term);
        let kept = self.kept(prev_log_index, entries);
        if matches && !self.continues(prev_log_index.plus(kept as u64), &entries[kept..]) {
            return;
        }
        self.role = Role::Follower {
            leader: Some(from),
            heard_at: now,
        };
        self.reset_election_timer(now);

        let outcome = if matches {
            self.append_received(prev_log_index, entries, kept, output);
            let last_new = prev_log_index.plus(u64::from(count));
            self.verified = self.verified.max(last_new);
            self.follow_commit(leader_commit, last_new);
            self.replicated_everywhere = self
                .replicated_everywhere
                .max(replicated_everywhere.min(self.commit_index));
            // What is committed here the leader has as well (Leader Completeness).
            AppendOutcome::Accepted {
                match_index: last_new.max(self.commit_index),
            }
        } else {
            self.reject(prev_log_index, prev_log_term)
        };
        if !self.retired {
            let answer = Message::AppendResponse {
                term,
                round,
                outcome,
                incarnation: self.incarnation,
                tainted: self.tainted && !self.is(Mutant::TaintedTakesPart),
            };
            Self::send_after_persist(output, from, answer);
        }
    }

    /// AppendEntries 2: false if the log has no entry at prevLogIndex with prevLogTerm.
    fn reject(&self, prev_log_index: LogIndex, prev_log_term: Term) -> AppendOutcome {
        let mut limit = prev_log_index.previous().max(self.commit_index);
        if self.tainted {
            limit = limit.min(self.verified);
        }
        let (hint_index, hint_term) = self.log.last_not_above(limit, prev_log_term);
        AppendOutcome::Rejected {
            prev_log_index,
            hint_index,
            hint_term,
        }
    }

    /// AppendEntries 5: commitIndex = min(leaderCommit, index of last new entry).
    fn follow_commit(&mut self, leader_commit: LogIndex, last_new: LogIndex) {
        let beyond = self.is(Mutant::CommitsBeyondSent);
        let limit = if beyond {
            self.log.last_index()
        } else {
            last_new
        };
        self.commit_index = self.commit_index.max(leader_commit.min(limit));
    }

    /// Whether the logs agree up to `index`: what is committed does by State Machine Safety,
    /// also where it is compacted; the rest by Log Matching.
    ///
    /// A damaged log may hold an entry whose replacement was lost, below others that follow the
    /// replacement: Log Matching does not hold in it, so it is compared from where it is known.
    fn matches(&self, index: LogIndex, term: Term) -> bool {
        let comparable = !self.tainted || index <= self.verified;
        index <= self.commit_index || comparable && self.log.term_at(index) == Some(term)
    }

    /// How many of the entries after `prev_log_index` are in the log already.
    fn kept(&self, prev_log_index: LogIndex, entries: &[EntryMeta]) -> usize {
        let indexes = (1..).map(|position| prev_log_index.plus(position));
        let is_kept = |(index, entry): &(LogIndex, &EntryMeta)| {
            *index <= self.commit_index || self.log.term_at(*index) == Some(entry.term)
        };
        indexes.zip(entries).take_while(is_kept).count()
    }

    /// Whether entries may follow the one at `index`. Only nonsense does not: what is committed is
    /// not compared, and a leader that names other terms there than we have never was one.
    fn continues(&self, index: LogIndex, new: &[EntryMeta]) -> bool {
        let (before, next) = (self.log.term_at(index), new.first());
        before
            .zip(next)
            .is_none_or(|(term, next)| term <= next.term)
    }

    /// AppendEntries 3 and 4: an existing entry that conflicts with a new one goes, with all
    /// that follow it; entries not in the log are appended. The first `skip` stay untouched.
    fn append_received(
        &mut self,
        prev_log_index: LogIndex,
        entries: &[EntryMeta],
        skip: usize,
        output: &mut Output,
    ) {
        let index = prev_log_index.plus(skip as u64).next();
        let new = &entries[skip..];
        if new.is_empty() {
            return;
        }
        if index <= self.log.last_index() {
            assert!(
                index > self.commit_index,
                "a committed entry is never replaced"
            );
            let keep_writes = self.is(Mutant::AcknowledgesReplaced);
            self.log.truncate(index, keep_writes);
        }
        for entry in new {
            self.log.append(entry.term, entry.bytes);
        }
        self.log.wrote();
        let (skip, count) = (skip as u32, new.len() as u32);
        output.appended.push(Appended::Received {
            first_index: index,
            skip,
            count,
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
