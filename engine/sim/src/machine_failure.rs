//! State machines that fail: whoever proposed is answered, and the core goes on.

use pontoon::{Outcome, ProposeError, Rejection, Unknown};

use crate::client::Outstanding;
use crate::faults::Fault;
use crate::machine::lock;
use crate::settings::MILLISECOND;
use crate::world::World;

/// What waited when a machine failed is answered within this, pauses and stalls included.
const ANSWERED_WITHIN: u64 = 2_500 * MILLISECOND;

impl World {
    /// Before a turn: what machines are to know.
    pub(crate) fn prepare_machines(&mut self) {
        let may_fail = self.may_fail();
        let mut oracle = lock(&self.oracle);
        (oracle.now, oracle.may_fail) = (self.now, may_fail);
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

    /// A core says that its log failed only if that is so.
    pub(crate) fn check_refusal(&mut self, waiting: &Outstanding, outcome: &Outcome) {
        let says = matches!(
            outcome,
            Err(ProposeError::Rejected(Rejection::Failed) | ProposeError::Unknown(Unknown::Failed))
        );
        let place = &self.places[waiting.place];
        let log = place.shard.as_ref().map(|shard| shard.failure().is_some());
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
