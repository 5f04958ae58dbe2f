//! A disk that keeps only what was made durable, and not always that.

use pontoon::storage::memory::{MemoryVolume, SECTOR_BYTES, SectorFate};
use pontoon::storage::{DiskOp, Volume};

use crate::place::SEGMENT_BYTES;
use crate::random::Random;

/// One core's disk.
pub(crate) struct Disk {
    pub(crate) volume: MemoryVolume,
    /// Grows with every change of what is durable.
    pub(crate) version: u64,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self {
            volume: MemoryVolume::new(SEGMENT_BYTES),
            version: 0,
        }
    }

    /// What the disk would hold if every write under way were lost.
    pub(crate) fn after_power_loss(&self) -> MemoryVolume {
        let mut volume = self.volume.clone();
        volume.power_loss(|_| SectorFate::Old);
        volume
    }

    /// Takes an operation; a read is carried out at once.
    pub(crate) fn submit(&mut self, operation: &mut DiskOp) -> Result<(), i32> {
        let submitted = self.volume.submit(operation);
        submitted.map_err(|error| error.raw_os_error().unwrap_or(5))
    }

    /// A write is durable.
    pub(crate) fn finish(&mut self, id: u64) -> Option<usize> {
        self.version += 1;
        self.volume.make_durable(id)
    }

    /// The power fails: each sector under way is written, old, zero or garbage. True if one frame
    /// was written in part.
    pub(crate) fn power_loss(&mut self, random: &mut Random, torn: bool) -> bool {
        self.version += 1;
        let whole = random.happens(500_000);
        let (mut written, mut lost) = (false, false);
        self.volume.power_loss(|_| {
            let fate = match (torn, random.below(4)) {
                (false, _) if whole => SectorFate::Written,
                (false, _) => SectorFate::Old,
                (true, 0) => SectorFate::Written,
                (true, 1) => SectorFate::Old,
                (true, 2) => SectorFate::Zero,
                (true, _) => SectorFate::Garbage(random.number()),
            };
            written |= fate == SectorFate::Written;
            lost |= fate != SectorFate::Written;
            fate
        });
        written && lost
    }

    /// A durable sector goes bad. False if there is nothing yet.
    pub(crate) fn rot(&mut self, random: &mut Random) -> bool {
        let slots = self.volume.slots();
        let slot = slots[random.below(slots.len())];
        let Some(image) = self.volume.image_mut(slot) else {
            return false;
        };
        let sectors: Vec<usize> = (0..image.len() / SECTOR_BYTES)
            .filter(|sector| {
                let start = sector * SECTOR_BYTES;
                image[start..start + SECTOR_BYTES]
                    .iter()
                    .any(|byte| *byte != 0)
            })
            .collect();
        if sectors.is_empty() {
            return false;
        }
        let start = sectors[random.below(sectors.len())] * SECTOR_BYTES;
        let byte = start + random.below(SECTOR_BYTES);
        image[byte] ^= 1 << random.below(8);
        self.version += 1;
        true
    }

    /// No further segment finds space, or any does.
    pub(crate) fn set_full(&mut self, full: bool) {
        let slots = self.volume.slots().len();
        self.volume
            .set_slots_max(if full { slots } else { usize::MAX });
    }
}
