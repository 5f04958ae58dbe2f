//! The leader's rules over what it knows of its followers (thesis 3.5, 3.6.2, 3.10, 6.2).

use alloc::collections::BTreeMap;
use core::cmp::Reverse;

use crate::config::RaftConfig;
use crate::log::Log;
use crate::membership::{Membership, VoteResult};
use crate::message::{AppendEntries, AppendResponse, Message};
use crate::mutant::Mutant;
use crate::output::Output;
use crate::progress::{Flow, Learned, Progress};
use crate::role::Leader;
use pontoon_types::{EntryId, LogIndex, NodeId, Term, Time};

/// What the leader's rules read of its replica.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeaderView<'a> {
    pub(crate) config: &'a RaftConfig,
    pub(crate) membership: &'a Membership,
    pub(crate) log: &'a Log,
    pub(crate) now: Time,
    pub(crate) current_term: Term,
    pub(crate) commit_index: LogIndex,
    pub(crate) replicated_everywhere: LogIndex,
}

impl LeaderView<'_> {
    /// When a follower that something is sent to now is owed the next heartbeat.
    pub(crate) fn heartbeat_deadline(&self) -> Time {
        self.now.after(self.config.heartbeat_interval)
    }

    fn append_entries(&self, prev_log: EntryId, count: u32, round: u64) -> Message {
        let request = AppendEntries {
            prev_log,
            count,
            leader_commit: self.commit_index,
            round,
            replicated_everywhere: self.replicated_everywhere,
        };
        Message::new(self.current_term, request)
    }

    /// How many entries from `first` on, and their bytes, fit into one message. At least one.
    fn batch(&self, first: LogIndex, bytes_max: u64) -> (u32, u64) {
        let count_max = self.config.entries_per_message_max;
        let (count, bytes) = self.log.batch(first, count_max.into(), bytes_max);
        (u32::try_from(count).unwrap_or(count_max), bytes)
    }
}

impl Leader {
    /// A leader at the start of its term, whose first entry will be `noop_index`.
    pub(crate) fn new(noop_index: LogIndex, view: &LeaderView<'_>) -> Self {
        let id = view.config.id;
        let members = view.membership.members().into_iter();
        let others = members.filter(|&member| member != id);
        let progress: BTreeMap<_, _> = others
            .map(|peer| {
                (
                    peer,
                    Progress::new(noop_index, view.now, view.heartbeat_deadline()),
                )
            })
            .collect();
        Self {
            progress,
            quorum_deadline: view.now.after(view.config.election_timeout),
            round: 0,
            noop_index,
            next_barrier_at: view.now,
            transfer: None,
            transfers_since: None,
        }
    }

    /// When a rule of the leader next has something to do.
    pub(crate) fn next_deadline(&self) -> Time {
        let followers = self.progress.values();
        let heartbeat = followers.map(|progress| progress.heartbeat_deadline).min();
        let deadline = heartbeat.map_or(self.quorum_deadline, |at| at.min(self.quorum_deadline));
        match self.transfer {
            Some(transfer) => deadline.min(transfer.deadline),
            None => deadline,
        }
    }

    /// Sends every follower what it lacks, as far as its windows allow.
    pub(crate) fn send_to_all(&mut self, view: &LeaderView<'_>, output: &mut Output) {
        for (&peer, progress) in &mut self.progress {
            send_entries(peer, progress, self.round, view, output);
        }
    }

    /// Sends one follower what it lacks.
    pub(crate) fn send_to(&mut self, peer: NodeId, view: &LeaderView<'_>, output: &mut Output) {
        if let Some(progress) = self.progress.get_mut(&peer) {
            send_entries(peer, progress, self.round, view, output);
        }
    }

    /// Sends a heartbeat to every follower that is owed one.
    ///
    /// Each is an AppendEntries without entries, at the place of the follower's next one: it also
    /// finds out whether what was sent before has arrived.
    pub(crate) fn send_heartbeats(&mut self, view: &LeaderView<'_>, output: &mut Output) {
        let is_due = |progress: &Progress| progress.heartbeat_deadline <= view.now;
        if !self.progress.values().any(is_due) {
            return;
        }
        self.round += 1;
        for (&peer, progress) in &mut self.progress {
            if !is_due(progress) {
                continue;
            }
            send_heartbeat(peer, progress, self.round, view, output);
        }
    }

    /// Sends one follower a heartbeat now, owed or not.
    pub(crate) fn probe(&mut self, peer: NodeId, view: &LeaderView<'_>, output: &mut Output) {
        if let Some(progress) = self.progress.get_mut(&peer) {
            self.round += 1;
            send_heartbeat(peer, progress, self.round, view, output);
        }
    }

    /// Check-quorum (thesis 6.2): a majority, this node included, answered within an election
    /// timeout.
    pub(crate) fn quorum_active(&self, view: &LeaderView<'_>) -> bool {
        let active = |voter: NodeId| match self.progress.get(&voter) {
            None => Some(voter == view.config.id),
            Some(progress) => Some(
                progress.repair.is_none()
                    && view.now.since(progress.responded_at) < view.config.election_timeout,
            ),
        };
        view.membership.vote_result(active) == VoteResult::Won
    }

    /// Takes the result of an AppendEntries.
    pub(crate) fn on_append_response(
        &mut self,
        from: NodeId,
        response: AppendResponse,
        view: &LeaderView<'_>,
    ) -> Learned {
        let Some(progress) = self.progress.get_mut(&from) else {
            return Learned::Nothing;
        };
        progress.responded_at = view.now;
        if view.config.is(Mutant::SendsProbeTwice) && matches!(progress.flow, Flow::Probe { .. }) {
            progress.flow = Flow::Probe { sent: None };
        }
        let learned = progress.on_outcome(response.outcome, view.log);
        let at = (view.log.last_index(), view.now);
        progress.set_room(response, self.round, at, view.config.election_timeout);
        progress.renounced = response.renounced;
        // Who answers and takes nothing, or is never repaired, is not waited for again for that.
        let sound = progress.repair.is_none() && learned == Learned::HoldsMore;
        if sound && progress.match_index >= view.log.compacted().index {
            progress.left_behind = false;
        }
        learned
    }

    /// The greatest index that a quorum holds durably, this node counted like every other.
    pub(crate) fn quorum_index(&self, view: &LeaderView<'_>) -> LogIndex {
        view.membership
            .committed_index(|voter| match self.progress.get(&voter) {
                Some(progress) => progress.counted_index(),
                None if voter == view.config.id => own_index(view),
                None => LogIndex(0),
            })
    }

    /// The greatest index that every member holds durably, those left behind excepted. This node's
    /// own disk may be the slowest: what others compact it could not get back.
    pub(crate) fn everywhere_index(&self, view: &LeaderView<'_>) -> LogIndex {
        let waits_for = self
            .progress
            .values()
            .filter(|progress| !progress.left_behind);
        let others = waits_for.map(Progress::counted_index).min();
        let own = view.log.durable_index();
        others.map_or(own, |index| index.min(own))
    }

    /// The member that is best placed to lead instead: a voter that answers, is known to have room
    /// in its log, `is_better`, and lacks the least. Those that were asked before in vain come
    /// last: whatever keeps them from leading, nobody is asked twice before everybody was.
    pub(crate) fn best_successor(
        &self,
        view: &LeaderView<'_>,
        is_better: impl Fn(&Progress, &LeaderView<'_>) -> bool,
    ) -> Option<NodeId> {
        let fit = self.progress.iter().filter(|(peer, progress)| {
            let fit = progress.may_take_over(view) && progress.has_room();
            fit && view.membership.is_voter(**peer) && is_better(progress, view)
        });
        let best =
            fit.max_by_key(|(_, progress)| (Reverse(progress.asked_in_vain), progress.match_index));
        best.map(|(peer, _)| *peer)
    }

    /// Whether there is such a member, or may be soon: a leader that was just elected has not heard
    /// yet who has room.
    pub(crate) fn may_have_successor(&self, view: &LeaderView<'_>) -> bool {
        self.progress
            .iter()
            .any(|(peer, progress)| progress.may_take_over(view) && view.membership.is_voter(*peer))
    }
}

impl Progress {
    /// Whether leadership may be handed over to this follower, as far as is known: it answers, can
    /// lead, and takes what it may lack.
    pub(crate) fn may_take_over(&self, view: &LeaderView<'_>) -> bool {
        let answers = view.now.since(self.responded_at) < view.config.election_timeout;
        let can_lead = !self.renounced || view.config.is(Mutant::HandsOverToRenounced);
        let sound = self.repair.is_none() && can_lead;
        answers && sound && !self.left_behind && !self.is_full()
    }
}

/// What this node's own copy counts for: what is durable.
fn own_index(view: &LeaderView<'_>) -> LogIndex {
    if view.config.is(Mutant::CountsOwnUndurable) {
        view.log.last_index()
    } else {
        view.log.durable_index()
    }
}

/// Sends a follower an AppendEntries without entries, at the place of its next one.
fn send_heartbeat(
    to: NodeId,
    progress: &mut Progress,
    round: u64,
    view: &LeaderView<'_>,
    output: &mut Output,
) {
    progress.heartbeat_deadline = view.heartbeat_deadline();
    let compacted = view.log.compacted().index;
    let index = progress.next_index.previous().max(compacted);
    if let Some(term) = view.log.term_at(index) {
        let prev_log = EntryId::new(index, term);
        output.send_now(to, view.append_entries(prev_log, 0, round));
    }
}

/// Sends a follower what it lacks, as far as its windows allow.
fn send_entries(
    to: NodeId,
    progress: &mut Progress,
    round: u64,
    view: &LeaderView<'_>,
    output: &mut Output,
) {
    let messages_max = view.config.messages_in_flight_max;
    let bytes_max = view.config.bytes_in_flight_max;
    while progress.next_index <= view.log.last_index() && progress.may_send(messages_max, bytes_max)
    {
        let index = progress.next_index.previous();
        // What is compacted can't be sent: the follower waits for a snapshot.
        let Some(term) = view.log.term_at(index) else {
            return;
        };
        let bytes_max = progress.message_bytes_max(view.config.bytes_per_message_max);
        let (count, bytes) = view.batch(progress.next_index, bytes_max);
        progress.on_sent(index.plus(u64::from(count)), bytes);
        let prev_log = EntryId::new(index, term);
        output.send_now(to, view.append_entries(prev_log, count, round));
    }
}
