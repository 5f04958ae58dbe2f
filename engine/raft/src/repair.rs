//! The way back of a replica whose disk lost something durable.
//!
//! A tainted replica neither campaigns, votes nor counts in a quorum until an entry proposed after
//! its damage report has been committed by a quorum without it and is durable on it. Whatever it
//! had promised and lost, that quorum then holds: it can't be overruled any more.
//!
//! The report is in every response of the replica, with the epoch of its log. The epoch also tells
//! responses from before the damage, which must not count.

use crate::config::Boot;
use crate::leader::LeaderView;
use crate::log::Log;
use crate::membership::Membership;
use crate::message::{AppendResponse, Message, Repaired};
use crate::mutant::Mutant;
use crate::output::Output;
use crate::progress::Repair;
use crate::raft::Raft;
use crate::role::{Leader, Role};
use pontoon_types::{LogIndex, NodeId, Time};

impl Raft {
    /// The node has learnt that its disk forgot what this replica may have promised: it is as
    /// damaged as one whose disk lost it, and its log is of another epoch, later than any before.
    ///
    /// Whatever of it has not left yet must not leave any more.
    pub fn forget(&mut self, now: Time, log_epoch: u64, output: &mut Output) {
        self.now = now;
        self.log_epoch = log_epoch;
        self.verified = self.verified.max(self.commit_index);
        self.tainted = true;
        self.forget_meeting();
        self.become_follower(self.current_term, None, output);
    }

    /// The members are known again of a group whose definition the disk had lost with other durable
    /// data. The replica, for which nothing was done meanwhile, is damaged; its answers are of the
    /// log's present epoch. Without `keeps`, its entries count no more.
    pub fn define(
        &mut self,
        (membership, definition): (Membership, u64),
        log_epoch: u64,
        keeps: bool,
    ) {
        debug_assert!(self.membership.members().is_empty());
        if !keeps {
            self.log = Log::new(&Boot::default());
            (self.commit_index, self.last_applied) = (LogIndex(0), LogIndex(0));
            (self.verified, self.replicated_everywhere) = (LogIndex(0), LogIndex(0));
        }
        (self.membership, self.definition) = (membership, definition);
        (self.log_epoch, self.tainted) = (log_epoch, true);
    }

    /// Whether its members are known.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn is_defined(&self) -> bool {
        !self.membership.voters.is_empty()
    }

    /// A leader's first look at a response: whether it is of the latest epoch of the follower's
    /// log that is known of, and whether it reports damage.
    pub(crate) fn observe_response(
        &mut self,
        from: NodeId,
        response: AppendResponse,
        output: &mut Output,
    ) -> bool {
        let Role::Leader(leader) = &mut self.role else {
            return false;
        };
        let Some(progress) = leader.progress.get_mut(&from) else {
            return false;
        };
        let known = progress.log_epoch;
        if response.log_epoch < known {
            return false;
        }
        progress.log_epoch = response.log_epoch;
        let same_epoch = response.log_epoch == known;
        match (response.tainted, progress.repair) {
            // Within one log epoch a replica changes from tainted to repaired at most once; a
            // later tainted response is a delayed one.
            (true, None) if same_epoch && known > 0 => return false,
            (true, Some(repair)) if response.log_epoch == repair.log_epoch => {
                self.maybe_append_barrier(output);
            }
            (true, _) => self.begin_repair(from, response.log_epoch, output),
            (false, None) => {}
            (false, Some(_)) => {
                progress.repair = None;
                self.maybe_commit();
            }
        }
        true
    }

    /// The latest epoch of its log that a follower named on the present connection, as this leader
    /// knows it; 0 without one.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn named_epoch(&self, peer: NodeId) -> u64 {
        let Role::Leader(leader) = &self.role else {
            return 0;
        };
        let progress = leader.progress.get(&peer);
        progress.map_or(0, |progress| progress.log_epoch)
    }

    /// Damage is reported: nothing that the follower acknowledged before counts.
    fn begin_repair(&mut self, from: NodeId, log_epoch: u64, output: &mut Output) {
        let at_once = self.is(Mutant::TaintedCountsAtOnce);
        let index = self.log.last_index().next();
        let barrier = if at_once { self.commit_index } else { index };
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(progress) = leader.progress.get_mut(&from) else {
            return;
        };
        progress.match_index = LogIndex(0);
        progress.become_probe(index);
        progress.repair = Some(Repair { barrier, log_epoch });
        self.maybe_append_barrier(output);
    }

    /// Appends the entry that a repair waits for, unless one was proposed since the report.
    ///
    /// At most one in an election timeout, however many reports come: whoever forges them must not
    /// make the log grow as fast as they can be sent. A repair that comes too early for one of its
    /// own goes on with the next proposal, or with a later response of its replica.
    fn maybe_append_barrier(&mut self, output: &mut Output) {
        let Some((leader, view)) = self.leading() else {
            return;
        };
        let last_index = view.log.last_index();
        let lacks_barrier = |repair: Repair| repair.barrier > last_index;
        let mut repairs = leader
            .progress
            .values()
            .filter_map(|progress| progress.repair);
        if !repairs.any(lacks_barrier) || view.now < leader.next_barrier_at {
            return;
        }
        leader.next_barrier_at = view.now.after(view.config.election_timeout);
        self.append_noop(output);
        self.send_to_all(output);
    }

    /// A damaged replica hears that it is repaired. It promises again once that is durable.
    pub(crate) fn handle_repaired(
        &mut self,
        from: NodeId,
        repaired: Repaired,
        output: &mut Output,
    ) {
        let of_this_epoch = repaired.log_epoch == self.log_epoch;
        if self.tainted && of_this_epoch && self.leader() == Some(from) {
            self.promise_again(output);
        }
    }

    /// Nothing that it may have promised and lost matters any more, once this is durable.
    pub(crate) fn promise_again(&mut self, output: &mut Output) {
        self.tainted = false;
        self.meeting = None;
        self.promised_by = self.log.begin_write();
        output.repaired = true;
        self.reset_election_timer();
    }
}

impl Leader {
    /// Sends `Repaired` once the barrier is committed and durable on the follower; again at each
    /// of its responses, until one reports no damage.
    pub(crate) fn maybe_send_repaired(
        &self,
        to: NodeId,
        view: &LeaderView<'_>,
        output: &mut Output,
    ) {
        let Some(progress) = self.progress.get(&to) else {
            return;
        };
        let passed = |repair: Repair| {
            repair.barrier <= view.commit_index && repair.barrier <= progress.match_index
        };
        if progress.repair.is_some_and(passed) {
            let log_epoch = progress.log_epoch;
            output.send_now(to, Message::new(view.current_term, Repaired { log_epoch }));
        }
    }
}
