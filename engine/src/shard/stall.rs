//! Groups that commit nothing for long: who waits is told, and nothing more is taken.
//!
//! What was told `Stalled` is still in the log, and may be committed. So a group takes nothing new
//! until all of it is applied: what is accepted and not committed stays within the limit of what
//! one group may hold, and one that is stuck does not fill the log of the others.

use pontoon_raft::{LogIndex, Raft, Term, Time};

use super::groups::Groups;
use super::mutant::Mutant;
use super::replica::Replica;
use super::replicas::ReplicaSlot;
use crate::outcome::Unknown;

/// So many election timeouts without a commit, and nothing more is hoped for soon.
pub(super) const STALLED_TIMEOUTS: u64 = 10;

/// What a leader has seen of one group.
#[derive(Debug, Default)]
pub(super) struct Stall {
    /// The term in which it was seen.
    term: Term,
    /// When it was seen first in that term.
    pub(super) since: Time,
    /// The last entry that was seen applied, and when it was so first, or nothing was missing.
    applied: (LogIndex, Time),
    /// Since when a majority takes no entries.
    majority_full_since: Option<Time>,
    /// No more is taken before this entry is applied. It outlives the term.
    through: LogIndex,
}

impl Stall {
    fn look(&mut self, now: Time, applied: LogIndex, raft: &mut Raft) {
        let term = raft.current_term();
        if self.term != term {
            *self = Self {
                term,
                since: now,
                applied: (applied, now),
                majority_full_since: None,
                through: self.through,
            };
        }
        if applied != self.applied.0 || applied >= raft.last_index() {
            self.applied = (applied, now);
        }
        let since = self.majority_full_since.unwrap_or(now);
        self.majority_full_since = raft.lacks_room_elsewhere().then_some(since);
    }
}

impl Replica {
    /// Whether it waits for what is in its log already, which a majority does not write.
    fn is_stalled(&self) -> bool {
        self.applied < self.stall.through.min(self.raft.last_index())
    }
}

impl Groups {
    /// Whether more commands of a group would only fill the log.
    pub(super) fn is_stuck(&self, replica: &Replica) -> bool {
        let takes_more = self.is(Mutant::StuckTakesMore);
        !takes_more && (replica.is_stalled() || self.lasts(replica.stall.majority_full_since))
    }

    /// Gives proposals that are old, of groups that commit nothing for long, the outcome that can
    /// be told. Those groups take no more until that has come through.
    pub(super) fn look_after_stalled(&mut self) {
        let now = self.now;
        let patience = STALLED_TIMEOUTS * self.config.election_timeout;
        let is_old = |since: Time| now.since(since) >= patience;
        for slot in self.replicas.leading().collect::<Vec<ReplicaSlot>>() {
            let replica = &mut self.replicas[slot];
            replica.stall.look(now, replica.applied, &mut replica.raft);
            if is_old(replica.stall.applied.1) {
                replica.stall.through = replica.raft.last_index();
                replica.proposals.give_up_old(is_old, Unknown::Stalled);
            }
        }
    }
}
