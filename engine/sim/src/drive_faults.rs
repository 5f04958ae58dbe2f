//! How a drive loses what it had acknowledged: sectors rot, writes are lost or land elsewhere.
//!
//! The fault atlas: only a fixed minority of nodes has such a drive, and it loses
//! only what something durable behind it covers. Damage to what nothing covers can't be told from
//! a write that a power loss tore; that it is possible is documented, and no fault of the log's. So
//! a lost or misdirected write is in its place at first, and shows what it is once it is covered.

use pontoon::storage::memory::BadSector;

use crate::disk::{Disk, Write};
use crate::faults::Fault;
use crate::random::Random;
use crate::settings::SEGMENT_BYTES;
use crate::write_fault::WriteFault;

/// Writes go to multiples of this.
const BLOCK_BYTES: u64 = 4096;

/// A misdirected write that finds no place where it may land is only lost.
const PLACES_TRIED: usize = 8;

impl Disk {
    /// Decides what becomes of a write that is under way.
    pub(crate) fn plan_fault(&mut self, id: u64, fault: WriteFault) {
        let Some(write) = self.writes.back_mut().filter(|write| write.is(id)) else {
            return;
        };
        if let Some(image) = self.volume.image(write.slot) {
            write.before = image[range(write.start, write.end)].to_vec();
            write.fault = fault;
        }
    }

    /// Writes that were acknowledged, and are covered now, turn out not to be there.
    pub(crate) fn apply_due_faults(&mut self, random: &mut Random) -> Vec<Fault> {
        let covered = self.covered;
        let doomed = |write: &&mut Write| {
            write.fault != WriteFault::Kept && write.durable && write.number < covered
        };
        let mut faults = Vec::new();
        while let Some(write) = self.writes.iter_mut().find(doomed) {
            let (number, slot, start) = (write.number, write.slot, write.start);
            let planned = std::mem::replace(&mut write.fault, WriteFault::Kept);
            let (before, bytes) = (
                std::mem::take(&mut write.before),
                std::mem::take(&mut write.bytes),
            );
            self.overwrite(slot, start, &before);
            let mut fault = Fault::LostWrite;
            if planned == WriteFault::Misdirected
                && let Some((slot, start)) = self.place_to_hit(random, number, bytes.len() as u64)
            {
                self.overwrite(slot, start, &bytes);
                fault = Fault::MisdirectedWrite;
            }
            faults.push(fault);
        }
        faults
    }

    /// A place for a misdirected write: of this segment or another, mostly where something
    /// durable is, and not where anything is that nothing covers.
    fn place_to_hit(&self, random: &mut Random, number: u64, length: u64) -> Option<(u32, u64)> {
        let slots = pontoon::storage::Volume::slots(&self.volume);
        for _ in 0..PLACES_TRIED {
            let slot = slots[random.below(slots.len())];
            let blocks = (SEGMENT_BYTES - length) / BLOCK_BYTES;
            let free = (slot, random.between(0, blocks) * BLOCK_BYTES);
            let victim = self.writes.get(random.below(self.writes.len()));
            let (slot, start) = match victim {
                Some(victim) if random.happens(700_000) => (victim.slot, victim.start),
                _ => free,
            };
            let end = start + length;
            let spared = self.writes.iter().any(|write| {
                let over = write.slot == slot && write.start < end && start < write.end;
                over && (write.number >= self.covered || !write.durable || write.number == number)
            });
            if !spared && end <= SEGMENT_BYTES {
                return Some((slot, start));
            }
        }
        None
    }

    fn overwrite(&mut self, slot: u32, start: u64, bytes: &[u8]) {
        if let Some(image) = self.volume.image_mut(slot) {
            image[range(start, start + bytes.len() as u64)].copy_from_slice(bytes);
            self.damaged();
        }
    }

    fn damaged(&mut self) {
        self.version += 1;
        (self.unnoticed, self.decayed) = (true, true);
    }

    /// A durable sector that something durable covers goes bad. False if there is none yet.
    pub(crate) fn rot(&mut self, random: &mut Random) -> bool {
        let Some((slot, at)) = self.covered_byte(random) else {
            return false;
        };
        let Some(image) = self.volume.image_mut(slot) else {
            return false;
        };
        image[at] ^= 1 << random.below(8);
        self.damaged();
        true
    }

    /// The same, and nobody can read it any more. False if there is none yet.
    pub(crate) fn spoil(&mut self, random: &mut Random) -> bool {
        let Some((slot, at)) = self.covered_byte(random) else {
            return false;
        };
        self.volume.spoil(slot, at as u64, how_bad(random));
        self.damaged();
        true
    }

    /// A sector of a free segment goes bad for good.
    pub(crate) fn spoil_free(&mut self, random: &mut Random, slot: u32) {
        let at = random.between(0, SEGMENT_BYTES - 1);
        self.volume.spoil(slot, at, how_bad(random));
        (self.version, self.decayed) = (self.version + 1, true);
    }

    /// Where a byte is of something durable that something durable covers, if there is any.
    fn covered_byte(&self, random: &mut Random) -> Option<(u32, usize)> {
        let covered = self.covered;
        let may_rot = |write: &&Write| write.durable && write.number < covered;
        let count = self.writes.iter().filter(may_rot).count();
        if count == 0 {
            return None;
        }
        // The newest are worth more: nothing repeats yet what they say.
        let newest = random.happens(400_000);
        let number = if newest {
            count - 1
        } else {
            random.below(count)
        };
        let chosen = self.writes.iter().filter(may_rot).nth(number);
        chosen.map(|write| {
            let written = range(write.start, write.end);
            (write.slot, written.start + random.below(written.len()))
        })
    }
}

fn how_bad(random: &mut Random) -> BadSector {
    match random.happens(500_000) {
        true => BadSector::Weak,
        false => BadSector::Dead,
    }
}

fn range(start: u64, end: u64) -> std::ops::Range<usize> {
    let at = |offset| usize::try_from(offset).expect("a small disk");
    at(start)..at(end)
}

#[cfg(test)]
mod tests {
    use pontoon::storage::{
        DiskOp, EntryId, GroupId, LogConfig, LogIndex, SegmentLog, Term, Volume,
    };

    use super::*;

    fn write(disk: &mut Disk, log: &mut SegmentLog, index: u64) -> DiskOp {
        let kind = pontoon::storage::RecordKind::Command;
        let entry = EntryId::new(LogIndex(index), Term(1));
        log.append_command(GroupId(1), entry, kind, b"entry")
            .expect("room");
        let mut operation = log.seal().expect("a place is free");
        disk.submit(&mut operation)
            .expect("the log writes where it may");
        operation
    }

    fn finish(disk: &mut Disk, log: &mut SegmentLog, operation: &DiskOp) {
        let id = operation.id();
        let written = disk.finish(id).expect("it was under way");
        log.on_complete(id, Ok(written)).expect("it is whole");
    }

    /// What a drive loses is there until something durable covers it: before that nobody could
    /// tell the loss from a torn write.
    #[test]
    fn a_lost_write_shows_once_it_is_covered() {
        let identity = pontoon::storage::LogIdentity {
            cluster: 1,
            node: 1,
            core: 0,
            cores: 1,
        };
        let config = LogConfig {
            segment_bytes: SEGMENT_BYTES,
            frame_bytes_max: 8 << 10,
            slab_bytes: 16 << 10,
            state_bytes_per_frame: 1024,
            ..LogConfig::new(identity)
        };
        for fault in [WriteFault::Lost, WriteFault::Misdirected] {
            let mut disk = Disk::new();
            let opened = SegmentLog::open(&mut disk.volume, config.clone());
            let (mut log, _) = opened.expect("a sound disk");
            let mut random = Random::new(7);
            log.create_group(GroupId(1), b"").expect("room");
            let first = write(&mut disk, &mut log, 1);
            disk.plan_fault(first.id(), fault);
            finish(&mut disk, &mut log, &first);
            assert!(disk.apply_due_faults(&mut random).is_empty());
            let read = |disk: &mut Disk| {
                let mut block = vec![0; 4096];
                let DiskOp::Write { slot, offset, .. } = &first else {
                    panic!("it was a write")
                };
                let read = disk.volume.read_at(*slot, *offset, &mut block);
                read.map(|()| block).expect("it is there")
            };
            let written = read(&mut disk);
            let second = write(&mut disk, &mut log, 2);
            finish(&mut disk, &mut log, &second);
            assert_eq!(disk.apply_due_faults(&mut random).len(), 1);
            assert!(disk.unnoticed && read(&mut disk) != written);
        }
    }
}
