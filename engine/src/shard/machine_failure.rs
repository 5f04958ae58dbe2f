//! A state machine that can't go on: its group stops on this node, and nothing else does.

use pontoon_raft::{GroupId, LogIndex, NodeId, Time};
use pontoon_storage::RecordBytes;

use super::groups::Groups;
use super::mutant::Mutant;
use super::persist::Source;
use super::replica::Replica;
use super::replicas::ReplicaSlot;
use crate::machine::{Batch, MachineError};
use crate::outcome::Unknown;
use crate::proposals::{Proposals, Replies};

/// What is kept of a machine that failed.
#[derive(Debug)]
pub(super) struct MachineFailure {
    /// Why, in its own words.
    message: String,
    /// When that was known here.
    since: Time,
    /// The log up to here is of no use to the machine that the next start makes.
    pub(super) released: LogIndex,
    /// The group is closed: its replica neither persists nor votes.
    closes: bool,
}

/// A machine that holds more than the log of its group can't be of one life with it.
///
/// The other way round can't be told: what a log lets go of beyond its machine are empty entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it holds entries up to {machine}, and the log of its group ends with {log}: the log was \
     emptied, or an old copy of it came back; restore it, or empty both, and the group's other \
     members fill them"
)]
pub(super) struct Mismatch {
    machine: LogIndex,
    log: LogIndex,
}

impl Mismatch {
    /// Of a machine that goes on behind the entry `held`, if it keeps state of its own.
    pub(super) fn of(held: Option<LogIndex>, log: LogIndex) -> Option<Self> {
        let machine = held.filter(|held| *held > log)?;
        Some(Self { machine, log })
    }
}

impl MachineFailure {
    /// A start found none to go on with: what a machine might hold is not known, so that the log
    /// lets go of nothing.
    pub(super) fn of_factory(
        (node, group): (NodeId, GroupId),
        since: Time,
        error: &MachineError,
    ) -> Self {
        tracing::error!(%node, %group, %error, "the state machine could not be made");
        Self {
            message: error.to_string(),
            since,
            released: LogIndex(0),
            closes: false,
        }
    }

    /// A start found a machine of another life than the log. Until that is mended nothing is done
    /// for the group, so that whoever mends it finds both as they were.
    pub(super) fn of_mismatch(
        (node, group): (NodeId, GroupId),
        since: Time,
        mismatch: Mismatch,
    ) -> Self {
        tracing::error!(%node, %group, %mismatch, "the state machine is not of its log: closed");
        Self {
            message: mismatch.to_string(),
            since,
            released: LogIndex(0),
            closes: true,
        }
    }
}

impl Replica {
    /// Whether it persists and votes: not without a machine of its kind, nor with one of another
    /// life, but with one that failed, for the others need its vote, and what it persists is
    /// applied after the next start.
    pub(super) fn takes_part(&self) -> bool {
        let failure = self.machine_failure.as_ref();
        self.machine.is_some() || failure.is_some_and(|failure| !failure.closes)
    }

    /// Why its machine can't go on.
    pub(super) fn machine_error(&self) -> Option<String> {
        let failure = self.machine_failure.as_ref()?;
        Some(failure.message.clone())
    }

    /// When its machine failed, if it did.
    pub(super) fn machine_failed_at(&self) -> Option<Time> {
        self.machine_failure.as_ref().map(|failure| failure.since)
    }

    /// Who leads, if that is known and not this replica with a machine that failed: it is about to
    /// give up leadership, and can't serve what it leads.
    pub(super) fn serving_leader(&self) -> Option<NodeId> {
        let serves = self.machine_failure.is_none() || !self.raft.is_leader();
        self.raft.leader().filter(|_| serves)
    }

    /// Gives the machine entries up to `through`, and looks whether what it then says of itself can
    /// be. Does nothing without a machine.
    ///
    /// # Errors
    /// Why the machine can't go on. Then nothing of the batch counts as applied.
    pub(super) fn give_batch(
        &mut self,
        pieces: &[RecordBytes],
        through: LogIndex,
        replies: &mut Replies,
    ) -> Result<(), MachineError> {
        let Some(machine) = &mut self.machine else {
            return Ok(());
        };
        let mut batch = Batch::new(pieces, &mut self.proposals, replies);
        let applied = machine.apply(&mut batch);
        let plausible = applied.and_then(|()| {
            let durable = machine.durable_index().unwrap_or_default();
            plausible(self.machine_durable, durable, through)
        });
        match plausible {
            Ok(durable) => {
                self.machine_durable = durable;
                if let Some(command) = batch.finish() {
                    self.last_command = command;
                }
                Ok(())
            }
            Err(error) => {
                batch.withdraw();
                Err(error)
            }
        }
    }
}

/// What a machine may say that it holds durably: no less than before, no more than it was given.
fn plausible(
    before: LogIndex,
    durable: LogIndex,
    given: LogIndex,
) -> Result<LogIndex, MachineError> {
    if durable < before {
        Err(format!("its durable index went back from {before} to {durable}").into())
    } else if durable > given {
        let error = format!("its durable index is {durable}, it was given entries up to {given}");
        Err(error.into())
    } else {
        Ok(durable)
    }
}

impl Groups {
    /// The machine of a group can't go on. Its group gives up leadership in the next turn: the
    /// messages of this one have left.
    pub(super) fn on_machine_failed(&mut self, slot: ReplicaSlot, error: &MachineError) {
        let replica = &mut self.replicas[slot];
        let (node, group, applied) = (self.config.node, replica.id, replica.applied);
        tracing::error!(%node, %group, %applied, %error, "the state machine has failed");
        let machine = replica.machine.take();
        let released = machine.map_or(LogIndex(0), |machine| machine.released_index());
        replica.machine_failure = Some(MachineFailure {
            message: error.to_string(),
            since: self.now,
            released: released.min(applied),
            closes: false,
        });
        if self.config.mutants.is(Mutant::FailedMachineIsSilent) {
            let awaited = self.awaited.clone();
            std::mem::forget(std::mem::replace(&mut replica.proposals, Proposals::new(awaited)));
        }
        replica.proposals.give_up(Unknown::MachineFailed);
        self.to_renounce.push(slot);
        if self.is(Mutant::FailedMachineStopsCore) {
            self.fail();
        }
    }

    /// Replicas whose machine failed in the last turn, or at the start, give up leadership.
    pub(super) fn renounce_failed(&mut self) {
        for position in 0..self.to_renounce.len() {
            let slot = self.to_renounce[position];
            if self.failed || self.is(Mutant::LeadsWithoutMachine) {
                break;
            }
            if let Some(replica) = self.replicas.get_mut(slot) {
                replica.raft.renounce(self.now, &mut self.output);
                self.process_output(slot, Source::None);
            }
        }
        self.to_renounce.clear();
    }
}
