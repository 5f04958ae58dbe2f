//! State machines that fail: whoever proposed is answered, and the core goes on.

use pontoon::raft::Raft;
use pontoon::{GroupId, Outcome, ProposeError, Rejection, Unknown};

use crate::client::Outstanding;
use crate::faults::Fault;
use crate::impairment::Impairment;
use crate::machine::lock;
use crate::settings::{ELECTION_TIMEOUT, MILLISECOND};
use crate::world::{World, raft_of};

/// What waited when a machine failed is answered within this, pauses and stalls included.
const ANSWERED_WITHIN: u64 = 2_500 * MILLISECOND;

/// A leader without a machine hands over for an election timeout at most, and is called to it
/// within a few turns.
const LEADS_MAX: u64 = 2 * ELECTION_TIMEOUT;
const TURNS_MAX: u64 = 4;

impl World {
    /// Before a turn of a place: what machines are to know.
    pub(crate) fn prepare_machines(&mut self, position: usize) {
        let may_fail = self.may_fail();
        let full = self.is_impaired(self.places[position].node, Impairment::Full);
        let mut oracle = lock(&self.oracle);
        (oracle.now, oracle.may_fail, oracle.full) = (self.now, may_fail, full);
        let failures = std::mem::take(&mut oracle.failures);
        let not_made = std::mem::take(&mut oracle.not_made);
        drop(oracle);
        for _ in 0..failures {
            self.injected(Fault::MachineFailed);
        }
        for _ in 0..not_made {
            self.injected(Fault::MachineNotMade);
        }
    }

    /// Nodes with a machine that failed: the next start makes another.
    pub(crate) fn has_failed_machine(&self, node: usize) -> bool {
        let oracle = lock(&self.oracle);
        oracle.failed.keys().any(|(of, _)| *of == node)
    }

    /// After a turn of a place, at this time by its clock: what has no machine leads no more, or
    /// hands over.
    pub(crate) fn check_machines(&mut self, position: usize, clock: u64) {
        let place = &self.places[position];
        let node = place.node;
        let leads_without =
            |group: &u64| raft_of(place, GroupId(*group)).is_some_and(Raft::is_leader);
        let oracle = lock(&self.oracle);
        if oracle.failed.is_empty() && place.leads_without.is_empty() {
            return;
        }
        let failed = oracle.failed.range((node, 0)..=(node, u64::MAX));
        let failed = failed.map(|((_, group), _)| *group).filter(leads_without);
        let failed: Vec<u64> = failed.collect();
        drop(oracle);
        let known = &mut self.places[position].leads_without;
        known.retain(|group, _| failed.contains(group));
        let mut broken = None;
        for group in failed {
            let (since, turns) = known.entry(group).or_insert((clock, 0));
            *turns += 1;
            if clock > *since + LEADS_MAX && *turns > TURNS_MAX {
                broken = Some(group);
            }
        }
        if let Some(group) = broken {
            self.fail(format!(
                "place {position} leads group {group}, whose machine failed"
            ));
        }
    }

    /// A core says that its log failed only if that is so.
    pub(crate) fn check_refusal(&mut self, waiting: &Outstanding, outcome: &Outcome) {
        let says = matches!(
            outcome,
            Err(ProposeError::Rejected(Rejection::Failed) | ProposeError::Unknown(Unknown::Failed))
        );
        let place = &self.places[waiting.place];
        let driver = place.driver_fails_after == Some(0);
        let log = place
            .shard
            .as_ref()
            .map(|shard| driver || shard.failure().is_some());
        if says && place.generation == waiting.generation && log == Some(false) {
            self.fail(format!(
                "place {} says that its log failed, and it is sound",
                waiting.place
            ));
        }
    }

    /// What waited when its machine failed has an outcome soon.
    pub(crate) fn check_answered(&mut self, waiting: &Outstanding) {
        let place = &self.places[waiting.place];
        let failed_at = lock(&self.oracle)
            .failed
            .get(&(place.node, waiting.group))
            .copied();
        let same = place.generation == waiting.generation && place.shard.is_some();
        let owed =
            failed_at.is_some_and(|at| waiting.invoked <= at && self.now - at > ANSWERED_WITHIN);
        if owed && same {
            self.fail(format!(
                "place {} never answers a proposal to group {}, whose machine failed",
                waiting.place, waiting.group
            ));
        }
    }
}
