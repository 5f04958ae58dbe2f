//! A disk that keeps only what was made durable. `drive_faults.rs` is how it loses that as well.

use std::collections::VecDeque;

use pontoon::storage::memory::{BadSector, MemoryVolume, SECTOR_BYTES, SectorFate};
use pontoon::storage::{DiskOp, Volume, WITNESS_SLOT};

use crate::random::Random;
use crate::settings::{EIO, SEGMENT_BYTES};
use crate::write_fault::WriteFault;

/// A write, by the order of submission.
#[derive(Clone)]
pub(crate) struct Write {
    pub(crate) number: u64,
    id: u64,
    pub(crate) slot: u32,
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// What is written, until it is durable, or longer if that is needed.
    pub(crate) bytes: Vec<u8>,
    pub(crate) durable: bool,
    /// All writes below this number were durable when it was submitted: once it is durable
    /// itself, the log can tell that.
    covers: u64,
    /// What the drive does with it, and what was in its place before, if that matters.
    pub(crate) fault: WriteFault,
    pub(crate) before: Vec<u8>,
}

impl Write {
    /// Whether it is the write of this name, under way.
    pub(crate) fn is(&self, id: u64) -> bool {
        self.id == id && !self.durable
    }
}

/// Writes that are remembered as places where a sector may rot.
const WRITES_MAX: usize = 256;

/// At most so many writes are lost when a disk is cut short.
const CUT_MAX: usize = 24;

/// One core's disk.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) volume: MemoryVolume,
    /// Grows with every change of what is durable.
    pub(crate) version: u64,
    /// Something durable was lost since the log was opened, and the log may not know it.
    pub(crate) unnoticed: bool,
    /// It holds a frame: before that nothing that stays says whose it is.
    pub(crate) used: bool,
    /// Something durable was lost at any time.
    pub(crate) decayed: bool,
    full: bool,
    /// A write that the drive seemed to have lost, and that lands after the next start.
    late: Option<Write>,
    pub(crate) writes: VecDeque<Write>,
    next_write: u64,
    /// Writes below this number are known to be durable by something durable behind them. Only
    /// there may a sector rot: damage to what nothing covers can't be told from tearing.
    pub(crate) covered: u64,
    /// Writes below this number were durable when the witness was written, and the log knew that.
    witnessed: u64,
    /// Those below this number were: it knows that at the next time.
    witnessed_next: u64,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self {
            volume: MemoryVolume::new(SEGMENT_BYTES),
            version: 0,
            unnoticed: false,
            used: false,
            decayed: false,
            full: false,
            late: None,
            writes: VecDeque::new(),
            next_write: 0,
            covered: 0,
            witnessed: 0,
            witnessed_next: 0,
        }
    }

    /// What the disk would hold if every write under way were lost.
    pub(crate) fn after_power_loss(&self) -> MemoryVolume {
        let mut volume = self.volume.clone();
        volume.set_slots_max(usize::MAX);
        volume.power_loss(|_| SectorFate::Old);
        volume
    }

    /// Takes an operation; a read is carried out at once.
    pub(crate) fn submit(&mut self, operation: &mut DiskOp) -> Result<(), i32> {
        if let DiskOp::Write {
            id,
            slot,
            offset,
            bytes,
        } = operation
        {
            if self
                .volume
                .is_bad(*slot, *offset, bytes.len(), BadSector::Dead)
            {
                return Err(EIO);
            }
            let first_open = self.writes.iter().find(|write| !write.durable);
            let covers = first_open.map_or(self.next_write, |write| write.number);
            let (start, end) = (*offset, *offset + bytes.len() as u64);
            let over =
                |write: &Write| write.slot == *slot && write.start < end && start < write.end;
            // One by one: they are the oldest, and few, and `retain` would move all behind them.
            while let Some(position) = self.writes.iter().position(over) {
                self.writes.remove(position);
            }
            if self.writes.len() == WRITES_MAX {
                self.writes.pop_front();
            }
            self.writes.push_back(Write {
                number: self.next_write,
                id: *id,
                slot: *slot,
                start,
                end,
                bytes: bytes.as_ref().to_vec(),
                durable: false,
                covers,
                fault: WriteFault::Kept,
                before: Vec::new(),
            });
            self.next_write += 1;
        }
        let submitted = self.volume.submit(operation);
        submitted.map_err(|error| error.raw_os_error().unwrap_or(EIO))
    }

    /// Whether it is the header of a segment that holds bytes of an earlier use.
    pub(crate) fn begins_used_segment(&self, operation: &DiskOp) -> bool {
        let DiskOp::Write {
            slot, offset: 0, ..
        } = operation
        else {
            return false;
        };
        let image = self.volume.image(*slot);
        image.is_some_and(|image| !is_zero(image))
    }

    /// Whether an earlier write is still under way.
    pub(crate) fn overtakes(&self, id: u64) -> bool {
        let first_open = self.writes.iter().find(|write| !write.durable);
        first_open.is_some_and(|write| write.id != id)
    }

    /// A write is durable.
    pub(crate) fn finish(&mut self, id: u64) -> Option<usize> {
        self.version += 1;
        let open = |write: &&mut Write| write.id == id && !write.durable;
        if let Some(write) = self.writes.iter_mut().rfind(open) {
            write.durable = true;
            if write.slot == WITNESS_SLOT {
                // It had not heard yet of all that was durable when it wrote this.
                self.witnessed = self.witnessed.max(self.witnessed_next);
                self.witnessed_next = write.covers;
            } else {
                self.used |= write.start > 0;
            }
            if write.fault != WriteFault::Misdirected {
                write.bytes = Vec::new();
            }
            self.covered = self.covered.max(write.covers);
        }
        self.volume.make_durable(id)
    }

    /// Whatever is under way is waited for.
    pub(crate) fn finish_all(&mut self) {
        let under_way = self.writes.iter().filter(|write| !write.durable);
        for id in under_way.map(|write| write.id).collect::<Vec<_>>() {
            self.finish(id);
        }
    }

    /// A log was opened on it: its new epoch says where the one before ended.
    pub(crate) fn opened(&mut self) {
        self.version += 1;
        self.covered = self.next_write;
        self.witnessed = self.next_write;
        self.witnessed_next = self.next_write;
        self.unnoticed = false;
    }

    /// What was written last is zeros again, from a write on that the witness has seen. False if
    /// there is none.
    pub(crate) fn cut_short(&mut self, random: &mut Random) -> bool {
        let seen = |write: &&Write| write.durable && write.number < self.witnessed;
        let of_log = |write: &&Write| write.slot != WITNESS_SLOT && write.start > 0;
        let victims: Vec<u64> = self
            .writes
            .iter()
            .rev()
            .filter(seen)
            .filter(of_log)
            .map(|write| write.number)
            .take(CUT_MAX)
            .collect();
        let Some(first) = victims.get(random.below(victims.len().max(1))).copied() else {
            return false;
        };
        let volume = &mut self.volume;
        let lost = self.writes.iter().filter(|write| write.number >= first);
        for write in lost.filter(|write| write.slot != WITNESS_SLOT) {
            let (start, end) = (write.start as usize, write.end as usize);
            if let Some(image) = volume.image_mut(write.slot) {
                image[start..end].fill(0);
            }
        }
        self.version += 1;
        true
    }

    /// What the drive held back lands, behind the back of the log that was opened meanwhile: it
    /// has told nobody that it was there. True if there was anything.
    pub(crate) fn land_late_write(&mut self) -> bool {
        let Some(write) = self.late.take() else {
            return false;
        };
        let Some(image) = self.volume.image_mut(write.slot) else {
            return false;
        };
        let start = usize::try_from(write.start).expect("a small disk");
        image[start..start + write.bytes.len()].copy_from_slice(&write.bytes);
        self.version += 1;
        true
    }

    /// The power fails. Of the writes under way all are written or none, or each as a whole or
    /// not, or each sector is written, old, zero or garbage. True if some of it was written.
    pub(crate) fn power_loss(&mut self, random: &mut Random, torn: bool) -> bool {
        self.version += 1;
        let under_way = self.writes.iter().filter(|write| !write.durable);
        let mut ends = Vec::new();
        for write in under_way {
            let sectors = (write.end - write.start) / SECTOR_BYTES as u64;
            let before = ends.last().map_or(0, |(end, _)| *end);
            ends.push((before + sectors, random.happens(500_000)));
        }
        self.late = None;
        let last = self.writes.back().is_some_and(|write| !write.durable);
        if torn && last && random.happens(200_000) {
            self.late = self.writes.pop_back().filter(|write| write.start > 0);
        }
        self.writes.retain(|write| write.durable);
        let held_back = self.late.is_some();
        let held_from = ends.iter().rev().nth(1).map_or(0, |(end, _)| *end);
        let (all, by_sector) = (random.happens(500_000), random.happens(500_000));
        let (mut written, mut lost) = (false, false);
        self.volume.power_loss(|sector| {
            let of_write = ends.iter().find(|(end, _)| (sector as u64) < *end);
            let whole = of_write.map_or(all, |(_, whole)| *whole);
            let kept = match (torn, by_sector) {
                _ if held_back && sector as u64 >= held_from => false,
                (false, _) => all,
                (true, false) => whole,
                (true, true) => random.below(4) == 0,
            };
            let fate = match (kept, torn, random.below(3)) {
                (true, _, _) => SectorFate::Written,
                (false, false, _) | (false, true, 0) => SectorFate::Old,
                _ if held_back && sector as u64 >= held_from => SectorFate::Old,
                (false, true, 1) => SectorFate::Zero,
                (false, true, _) => SectorFate::Garbage(random.number()),
            };
            written |= fate == SectorFate::Written;
            lost |= fate != SectorFate::Written;
            fate
        });
        written && lost
    }

    /// Whether no further segment finds space.
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    /// No further segment finds space, or any does.
    pub(crate) fn set_full(&mut self, full: bool) {
        self.full = full;
        let slots = self.volume.slots().len();
        self.volume
            .set_slots_max(if full { slots } else { usize::MAX });
    }
}

/// Whether there is no byte but zeros. It is asked of whole segments, so it takes many at once.
fn is_zero(bytes: &[u8]) -> bool {
    let mut chunks = bytes.chunks(256);
    chunks.all(|chunk| chunk.iter().fold(0, |sum, byte| sum | byte) == 0)
}
