//! The witness of the log while it is written: it follows what is durable at a distance.

use super::SegmentLog;
use crate::disk::{DiskOp, WITNESS_SLOT};
use crate::error::{Poisoned, WriteFailure};
use crate::mutant::Mutant;
use crate::witness::Witness;

/// What the witness says, and what it is about to say.
#[derive(Debug, Default)]
pub(crate) struct Witnessing {
    /// As it was written last, or is being written. None where the log does without.
    pub(crate) latest: Option<Witness>,
    /// The write that is under way.
    in_flight: Option<u64>,
    /// The last write was not carried out.
    again: bool,
}

impl Witnessing {
    pub(crate) fn new(latest: Option<Witness>) -> Self {
        Self {
            latest,
            ..Self::default()
        }
    }
}

impl SegmentLog {
    /// Whether something is durable that the witness has not seen.
    #[must_use]
    pub fn witness_lags(&self) -> bool {
        let seen = self.witnessing.latest;
        seen.is_some_and(|seen| self.seen_now(seen) != seen || self.witnessing.again)
    }

    /// Whether a segment was begun that the witness has not seen: it is better renewed at once.
    #[must_use]
    pub fn witness_lacks_segment(&self) -> bool {
        let seen = self.witnessing.latest;
        seen.is_some_and(|seen| self.seen_now(seen).sequence != seen.sequence)
    }

    /// Whether the witness is being written.
    #[must_use]
    pub fn witness_in_flight(&self) -> bool {
        self.witnessing.in_flight.is_some()
    }

    /// Lets the witness say what is durable: the write to carry out, to be completed like others.
    /// None if it says so, is being written, the log is closed, or that it has forgotten something
    /// is not durable yet: the witness is what says so at the next opening.
    pub fn renew_witness(&mut self) -> Option<DiskOp> {
        let seen = self.witnessing.latest.filter(|_| self.witness_lags())?;
        let generation = self.generation_by <= Some(self.writer.durable_frame);
        let may = generation && self.generation_by.is_some() && !self.witness_in_flight();
        if !may || self.writer.poisoned.is_some() {
            return None;
        }
        let memory = self.frame_memory()?;
        let witness = Witness {
            count: seen.count + 1,
            ..self.seen_now(seen)
        };
        let mut block = vec![0; self.block];
        witness.encode(&self.config.identity, &mut block);
        let start = memory.frontier();
        memory.append(&block);
        let bytes = memory.view(start..start + self.block);
        let id = self.id();
        self.witnessing = Witnessing {
            latest: Some(witness),
            in_flight: Some(id),
            again: false,
        };
        Some(DiskOp::Write {
            id,
            slot: WITNESS_SLOT,
            offset: witness.offset(),
            bytes,
        })
    }

    /// What is durable, as the next witness would say it.
    fn seen_now(&self, seen: Witness) -> Witness {
        let staged = self.staging.next_number - 1;
        let ahead = self.config.is(Mutant::WitnessRunsAhead);
        let newest = self.space.live.back().map(|segment| segment.sequence);
        Witness {
            generation: self.lives.generation,
            epoch: self.space.epoch,
            sequence: newest.unwrap_or(seen.sequence),
            frame: if ahead {
                staged
            } else {
                self.writer.durable_frame
            },
            ..seen
        }
    }

    /// Takes the completion of a write of the witness; `None` if it is another write's.
    pub(super) fn on_witness_written(
        &mut self,
        id: u64,
        result: Result<usize, i32>,
    ) -> Option<Result<(), Poisoned>> {
        self.witnessing.in_flight.take_if(|it| *it == id)?;
        let failure = match result {
            Ok(written) if written == self.block => return Some(Ok(())),
            Err(libc::EAGAIN | libc::EINTR) => {
                self.witnessing.again = true;
                return Some(Ok(()));
            }
            Ok(written) => WriteFailure::Short {
                written,
                expected: self.block,
            },
            Err(errno) => WriteFailure::Errno(errno),
        };
        let offset = self.witnessing.latest.map_or(0, |witness| witness.offset());
        Some(Err(self.poison(WITNESS_SLOT, offset, failure)))
    }
}
