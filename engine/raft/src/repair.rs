//! The way back of a replica whose disk lost something durable.
//!
//! DESIGN, part 5: a tainted replica neither campaigns, votes nor counts in a quorum until an entry
//! proposed after its damage report has been committed by a quorum without it and is durable on it.
//! Whatever it had promised and lost, that quorum then holds: it can't be overruled any more.
//!
//! The report is in every answer of the replica, with the number of the start that found the
//! damage. That number also tells answers from before the damage, which must not count.

use crate::message::Message;
use crate::mutant::Mutant;
use crate::output::{Appended, Output};
use crate::progress::Repair;
use crate::raft::Raft;
use crate::replication::NOOP_BYTES;
use crate::role::Role;
use pontoon_types::{LogIndex, NodeId, Time};

impl Raft {
    /// A leader's first look at an answer: whether it is of the latest start of the follower's
    /// log that is known of, and whether it reports damage.
    pub(crate) fn takes_answer(
        &mut self,
        now: Time,
        from: NodeId,
        incarnation: u64,
        tainted: bool,
        output: &mut Output,
    ) -> bool {
        let Role::Leader(leader) = &mut self.role else {
            return false;
        };
        let Some(progress) = leader.progress.get_mut(&from) else {
            return false;
        };
        let known = progress.incarnation;
        if incarnation < known {
            return false;
        }
        progress.incarnation = incarnation;
        match (tainted, progress.repair) {
            // Within a start a replica becomes whole once, and never the other way round: what
            // reports damage after that was sent before.
            (true, None) if incarnation == known && known > 0 => false,
            (true, Some(_)) if incarnation == known => true,
            (true, _) => {
                self.begin_repair(now, from, output);
                true
            }
            (false, repair) => {
                progress.repair = None;
                if repair.is_some() {
                    self.maybe_commit();
                }
                true
            }
        }
    }

    /// Damage is reported: nothing that the follower acknowledged before counts.
    fn begin_repair(&mut self, now: Time, from: NodeId, output: &mut Output) {
        let at_once = self.is(Mutant::TaintedSoundAtOnce);
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
        progress.repair = Some(Repair { barrier });
        // The entry proposed after the report.
        let term = self.current_term;
        self.log.append(term, NOOP_BYTES);
        self.log.wrote();
        output.appended.push(Appended::Noop { index, term });
        self.send_to_all(now, output);
    }

    /// Tells a damaged follower that it is whole, once it is. Said again at each of its answers,
    /// until one reports no damage.
    pub(crate) fn maybe_tell_repaired(&self, to: NodeId, output: &mut Output) {
        let Role::Leader(leader) = &self.role else {
            return;
        };
        let Some(progress) = leader.progress.get(&to) else {
            return;
        };
        let whole = progress.repair.is_some_and(|repair| {
            repair.barrier <= self.commit_index && repair.barrier <= progress.match_index
        });
        if whole {
            let message = Message::Repaired {
                term: self.current_term,
                incarnation: progress.incarnation,
            };
            Self::send_now(output, to, message);
        }
    }

    /// A damaged replica hears that it is whole. It promises again once that is durable.
    pub(crate) fn handle_repaired(&mut self, from: NodeId, incarnation: u64, output: &mut Output) {
        let told = self.leader() == Some(from) && incarnation == self.incarnation;
        if told && self.tainted {
            self.tainted = false;
            self.log.wrote();
            output.repaired = true;
        }
    }
}
