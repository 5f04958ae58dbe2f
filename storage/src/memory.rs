//! A volume in memory that forgets what was not synced, for tests and for simulation.
//!
//! It is made of sectors. A write is pending until it is made durable; at a power loss every
//! sector of every pending write is kept, or left as it was, or zeroed, or filled with garbage.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use crate::disk::{DiskOp, Volume, WITNESS_SLOT, WITNESS_STRIDE};

/// Sectors are written whole or not at all, in any order.
pub const SECTOR_BYTES: usize = 512;

/// What becomes of a sector of a pending write when the power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectorFate {
    /// It was written.
    Written,
    /// It was not.
    Old,
    /// It reads as zeros.
    Zero,
    /// It reads as bytes made from this seed.
    Garbage(u64),
    /// It reads as a durable sector of another place.
    Copied {
        /// The other slot.
        slot: u32,
        /// Where in it, a multiple of the sector.
        offset: u64,
    },
}

/// How a sector is bad, for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadSector {
    /// It can't be read. A write heals it: the drive has others in its place.
    Weak,
    /// It can be neither read nor written.
    Dead,
}

/// A write that is not durable.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pending {
    /// The operation, or `None` for a blocking write.
    id: Option<u64>,
    slot: u32,
    offset: u64,
    bytes: Vec<u8>,
}

/// Segments in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryVolume {
    block_bytes: usize,
    segment_bytes: u64,
    /// What is durable. Clones share a segment until one of them changes it.
    durable: BTreeMap<u32, Arc<Vec<u8>>>,
    /// A segment that was prepared and never written to: all of these are one.
    blank: Arc<Vec<u8>>,
    pending: Vec<Pending>,
    /// No further slot can be prepared beyond this many.
    slots_max: usize,
    /// When and where its witness was made.
    birth: u128,
    /// Sectors that can't be read, by slot and offset.
    bad: BTreeMap<(u32, u64), BadSector>,
    /// Slots known as unsound; those without an image are set aside.
    unsound: BTreeSet<u32>,
}

impl MemoryVolume {
    /// An empty volume with blocks of 4 KiB.
    #[must_use]
    pub fn new(segment_bytes: u64) -> Self {
        Self {
            block_bytes: 4096,
            segment_bytes,
            durable: BTreeMap::new(),
            blank: Arc::new(vec![0; segment_bytes as usize]),
            pending: Vec::new(),
            slots_max: usize::MAX,
            birth: 0,
            bad: BTreeMap::new(),
            unsound: BTreeSet::new(),
        }
    }

    /// Makes it a copy of itself, file by file: its witness was made elsewhere.
    pub fn copied(&mut self) {
        self.birth += 1;
    }

    /// A segment's file is gone, or the witness.
    pub fn remove(&mut self, slot: u32) {
        self.durable.remove(&slot);
        self.pending.retain(|pending| pending.slot != slot);
    }

    /// Makes the sector at an offset of a slot bad, for good.
    pub fn spoil(&mut self, slot: u32, offset: u64, how: BadSector) {
        let sector = offset / SECTOR_BYTES as u64 * SECTOR_BYTES as u64;
        self.bad.insert((slot, sector), how);
    }

    /// Whether some of these bytes can't be read, or with `Dead` not be written either.
    #[must_use]
    pub fn is_bad(&self, slot: u32, offset: u64, length: usize, how: BadSector) -> bool {
        let range = (slot, offset)..(slot, offset + length as u64);
        let mut bad = self.bad.range(range).map(|(_, bad)| *bad);
        bad.any(|bad| how == BadSector::Weak || bad == BadSector::Dead)
    }

    /// Sets how many slots there is space for.
    pub fn set_slots_max(&mut self, slots_max: usize) {
        self.slots_max = slots_max;
    }

    /// The durable bytes of a slot.
    #[must_use]
    pub fn image(&self, slot: u32) -> Option<&[u8]> {
        self.durable.get(&slot).map(|image| image.as_slice())
    }

    /// The durable bytes of a slot, to damage them.
    pub fn image_mut(&mut self, slot: u32) -> Option<&mut [u8]> {
        let image = self.durable.get_mut(&slot)?;
        Some(Arc::make_mut(image).as_mut_slice())
    }

    /// Submits an operation: a write becomes pending; a read is carried out at once.
    ///
    /// # Errors
    /// EINVAL when it is not aligned, reaches outside of its segment, or the slot is not prepared.
    pub fn submit(&mut self, operation: &mut DiskOp) -> io::Result<()> {
        match operation {
            DiskOp::Write {
                id,
                slot,
                offset,
                bytes,
            } => {
                let (id, bytes) = (Some(*id), bytes.as_ref().to_vec());
                self.check(*slot, *offset, bytes.len())?;
                self.refuse_bad((*slot, *offset), bytes.len(), BadSector::Dead)?;
                self.pending.push(Pending {
                    id,
                    slot: *slot,
                    offset: *offset,
                    bytes,
                });
                Ok(())
            }
            DiskOp::Read {
                slot,
                offset,
                buffer,
                ..
            } => self.read_at(*slot, *offset, buffer.as_mut_slice()),
        }
    }

    /// Makes a submitted write durable; gives its length, or `None` if it is not pending.
    pub fn make_durable(&mut self, id: u64) -> Option<usize> {
        let position = self
            .pending
            .iter()
            .position(|pending| pending.id == Some(id))?;
        let pending = self.pending.remove(position);
        self.apply(&pending);
        Some(pending.bytes.len())
    }

    /// Carries an operation out whole, as a driver that waits would: the result to complete with.
    ///
    /// # Errors
    /// The error number of [`submit`](Self::submit).
    pub fn run(&mut self, operation: &mut DiskOp) -> Result<usize, i32> {
        self.submit(operation)
            .map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
        match operation {
            DiskOp::Write { id, .. } => Ok(self.make_durable(*id).expect("just submitted")),
            DiskOp::Read { buffer, .. } => Ok(buffer.len()),
        }
    }

    /// Sectors of the writes that are not durable, in the order they were submitted.
    #[must_use]
    pub fn pending_sectors(&self) -> usize {
        self.pending
            .iter()
            .map(|pending| pending.bytes.len() / SECTOR_BYTES)
            .sum()
    }

    /// The power fails: `fate` is asked for every pending sector, by its number.
    pub fn power_loss(&mut self, mut fate: impl FnMut(usize) -> SectorFate) {
        let mut number = 0;
        for pending in std::mem::take(&mut self.pending) {
            for (position, new) in pending.bytes.chunks(SECTOR_BYTES).enumerate() {
                let fate = fate(number);
                number += 1;
                if fate == SectorFate::Old {
                    continue;
                }
                let copied = self.sector_of(&fate);
                let start = pending.offset as usize + position * SECTOR_BYTES;
                let image = self.image_mut(pending.slot);
                let image = image.expect("checked when it was submitted");
                let sector = &mut image[start..start + new.len()];
                match fate {
                    SectorFate::Written => sector.copy_from_slice(new),
                    SectorFate::Old => unreachable!("it stays as it is"),
                    SectorFate::Zero => sector.fill(0),
                    SectorFate::Garbage(seed) => fill_with_garbage(sector, seed),
                    SectorFate::Copied { .. } => sector.copy_from_slice(&copied),
                }
            }
        }
    }

    fn sector_of(&self, fate: &SectorFate) -> [u8; SECTOR_BYTES] {
        let mut copy = [0; SECTOR_BYTES];
        if let SectorFate::Copied { slot, offset } = fate {
            let start = *offset as usize;
            copy.copy_from_slice(&self.durable[slot][start..start + SECTOR_BYTES]);
        }
        copy
    }

    fn apply(&mut self, pending: &Pending) {
        let end = pending.offset + pending.bytes.len() as u64;
        let written = |slot: u32, at: u64| slot == pending.slot && pending.offset <= at && at < end;
        self.bad
            .retain(|(slot, at), bad| *bad == BadSector::Dead || !written(*slot, *at));
        let start = pending.offset as usize;
        let image = self.image_mut(pending.slot);
        let image = image.expect("checked when it was submitted");
        image[start..start + pending.bytes.len()].copy_from_slice(&pending.bytes);
    }

    fn refuse_bad(
        &self,
        (slot, offset): (u32, u64),
        length: usize,
        how: BadSector,
    ) -> io::Result<()> {
        match self.is_bad(slot, offset, length, how) {
            true => Err(io::Error::from_raw_os_error(libc::EIO)),
            false => Ok(()),
        }
    }

    fn check(&self, slot: u32, offset: u64, length: usize) -> io::Result<()> {
        let aligned = offset.is_multiple_of(self.block_bytes as u64)
            && length.is_multiple_of(self.block_bytes);
        let bytes = self.image(slot).map_or(0, <[u8]>::len);
        let inside = offset + length as u64 <= bytes as u64;
        if aligned && inside {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::EINVAL))
        }
    }
}

/// Fills a sector with bytes that depend on the seed alone.
fn fill_with_garbage(sector: &mut [u8], seed: u64) {
    let mut state = seed | 1;
    for word in sector.chunks_mut(8) {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let bytes = (state ^ state >> 29).to_le_bytes();
        word.copy_from_slice(&bytes[..word.len()]);
    }
}

impl Volume for MemoryVolume {
    fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    fn slots(&self) -> Vec<u32> {
        let slots = self.durable.keys().copied();
        slots.filter(|slot| *slot != WITNESS_SLOT).collect()
    }

    fn read_at(&mut self, slot: u32, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.check(slot, offset, buffer.len())?;
        self.refuse_bad((slot, offset), buffer.len(), BadSector::Weak)?;
        let start = offset as usize;
        buffer.copy_from_slice(&self.durable[&slot][start..start + buffer.len()]);
        // A read sees what was written before it, durable or not.
        for pending in self.pending.iter().filter(|pending| pending.slot == slot) {
            let from = pending.offset.max(offset);
            let to =
                (pending.offset + pending.bytes.len() as u64).min(offset + buffer.len() as u64);
            if from < to {
                let source = (from - pending.offset) as usize..(to - pending.offset) as usize;
                let target = (from - offset) as usize..(to - offset) as usize;
                buffer[target].copy_from_slice(&pending.bytes[source]);
            }
        }
        Ok(())
    }

    fn write_at(&mut self, slot: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check(slot, offset, bytes.len())?;
        self.refuse_bad((slot, offset), bytes.len(), BadSector::Dead)?;
        self.pending.push(Pending {
            id: None,
            slot,
            offset,
            bytes: bytes.to_vec(),
        });
        Ok(())
    }

    fn sync(&mut self, slot: u32) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        for pending in pending {
            if pending.slot == slot && pending.id.is_none() {
                self.apply(&pending);
            } else {
                self.pending.push(pending);
            }
        }
        Ok(())
    }

    fn prepare(&mut self, slot: u32) -> io::Result<()> {
        if !self.durable.contains_key(&slot) {
            let aside = self
                .unsound
                .iter()
                .filter(|slot| !self.durable.contains_key(*slot));
            if self.slots().len() + aside.count() >= self.slots_max {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            self.durable.insert(slot, Arc::clone(&self.blank));
        }
        Ok(())
    }

    fn open_witness(&mut self) -> io::Result<u128> {
        let bytes = WITNESS_STRIDE as usize + self.block_bytes;
        let made = || Arc::new(vec![0; bytes]);
        self.durable.entry(WITNESS_SLOT).or_insert_with(made);
        Ok(self.birth)
    }

    fn replace_witness(&mut self) -> io::Result<u128> {
        self.remove(WITNESS_SLOT);
        self.bad.retain(|(slot, _), _| *slot != WITNESS_SLOT);
        self.birth += 1;
        self.open_witness()
    }

    fn unsound(&self) -> Vec<u32> {
        self.unsound.iter().copied().collect()
    }

    fn mark_unsound(&mut self, slot: u32) -> io::Result<()> {
        self.unsound.insert(slot);
        Ok(())
    }

    fn set_aside(&mut self, slot: u32) -> io::Result<()> {
        self.unsound.insert(slot);
        self.durable.remove(&slot);
        self.pending.retain(|pending| pending.slot != slot);
        Ok(())
    }
}
