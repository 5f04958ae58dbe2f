//! Sectors that can't be read, or not be written, for good: damage like rot, and no reason not to
//! start.

use pontoon_storage::memory::{BadSector, MemoryVolume};
use pontoon_storage::{OpenError, Unreadable, Volume, WITNESS_SLOT};
use pontoon_types::GroupId;

use crate::damage::assert_clean;
use crate::harness::{Bench, SEGMENT_BYTES, entry_id, payload, small_config};

const BOTH: [BadSector; 2] = [BadSector::Weak, BadSector::Dead];

/// Fills segments until this one was begun anew, and goes on a little.
fn fill(bench: &mut Bench, group: u64, segments: u64) {
    let until = bench.log.statistics().segments + segments;
    while bench.log.statistics().segments < until {
        let index = bench.log.last(GroupId(group)).unwrap().index.0 + 1;
        bench.append(group, index, 1, &[0; 9000]);
        bench.flush();
    }
    let index = bench.log.last(GroupId(group)).unwrap().index.0 + 1;
    bench.append(group, index, 1, b"a frame for the state");
    bench.flush();
}

#[test]
fn an_entry_that_cannot_be_read_is_damage_to_its_group_alone() {
    for (how, within) in [(BadSector::Weak, 0), (BadSector::Dead, 3 * 512)] {
        let mut bench = Bench::new();
        let (slot, offset) = bench.group_of(1, 5)[2];
        bench.group_of(2, 5);
        bench.volume.spoil(slot, offset + within, how);
        let mut bench = bench.reopen();
        let report = &bench.recovery.report;
        assert_eq!(report.damage.len(), 1);
        let bytes = 4096;
        let found = Unreadable {
            slot,
            offset,
            bytes,
        };
        assert_eq!(report.unreadable, [found]);
        let group = bench.recovered(1);
        assert_eq!((group.last_index.0, group.tainted), (2, true));
        assert_eq!(bench.entry(1, 2), Some((1, payload(1, 2, 1))));
        let group = bench.recovered(2);
        assert_eq!((group.last_index.0, group.tainted), (5, false));
        // The log goes on, and every later start finds the same.
        bench.append(2, 6, 1, b"goes on");
        bench.flush();
        let bench = bench.reopen();
        assert_eq!(bench.recovered(2).last_index.0, 6);
        assert!(bench.recovered(1).tainted && !bench.recovered(2).tainted);
    }
}

#[test]
fn what_cannot_be_read_and_was_never_acknowledged_is_a_torn_tail() {
    for how in BOTH {
        let mut bench = Bench::new();
        let (slot, offset) = bench.group_of(1, 5)[4];
        bench.volume.spoil(slot, offset, how);
        let mut bench = bench.reopen();
        assert_clean(&bench, 1, 4);
        // Nothing is written over it, or behind it in that segment.
        bench.append(1, 5, 1, b"anew");
        assert_ne!(bench.flush()[0].0, slot);
        assert_clean(&bench.reopen(), 1, 5);
    }
}

#[test]
fn what_a_mark_covers_is_damage_where_it_cannot_be_read() {
    for how in BOTH {
        let mut bench = Bench::new();
        let (slot, offset) = bench.group_of(1, 5)[4];
        bench.idle().unwrap();
        bench.volume.spoil(slot, offset, how);
        let bench = bench.reopen();
        let group = bench.recovered(1);
        assert_eq!((group.last_index.0, group.tainted), (4, true));
    }
}

#[test]
fn a_header_that_cannot_be_read_is_worked_out_from_the_frames() {
    for how in BOTH {
        let mut bench = Bench::new();
        let slot = bench.group_of(1, 5)[0].0;
        bench.volume.spoil(slot, 512, how);
        let mut bench = bench.reopen();
        assert_clean(&bench, 1, 5);
        bench.append(1, 6, 1, b"goes on");
        bench.flush();
        assert_clean(&bench.reopen(), 1, 6);
    }
}

/// The engine's definition of a group lies in one frame until all states are repeated.
#[test]
fn a_group_keeps_its_entries_where_its_definition_cannot_be_read() {
    let mut bench = Bench::new();
    bench.log.create_group(GroupId(1), b"definition").unwrap();
    let (slot, offset) = bench.flush()[0];
    for index in 1..=5 {
        bench.append(1, index, 1, &payload(1, index, 1));
        bench.flush();
    }
    bench.volume.spoil(slot, offset, BadSector::Dead);
    let mut bench = bench.reopen();
    let group = bench.recovered(1);
    assert_eq!((group.last_index.0, group.tainted), (5, true));
    assert!(group.definition.is_empty());
    assert_eq!(bench.entry(1, 5), Some((1, payload(1, 5, 1))));
}

/// What it is is said again. Where the beginning of its entries is missing too, nobody may be given
/// the rest as if that were the beginning.
#[test]
fn a_lost_definition_is_given_back() {
    for (lost, keeps) in [(1, true), (3, false)] {
        let mut bench = Bench::new();
        bench.log.create_group(GroupId(1), b"definition").unwrap();
        let mut places = bench.flush();
        for index in 1..=5 {
            bench.append(1, index, 1, &payload(1, index, 1));
            places.extend(bench.flush());
        }
        for (slot, offset) in &places[..lost] {
            bench.volume.spoil(*slot, *offset, BadSector::Weak);
        }
        let mut bench = bench.reopen();
        let compacted = bench.recovered(1).compacted.index;
        assert_eq!(compacted.0 == 0, keeps);
        bench
            .log
            .define_lost_group(GroupId(1), b"definition", keeps)
            .unwrap();
        bench.flush();
        let last = if keeps { 5 } else { 0 };
        assert_eq!(bench.log.last(GroupId(1)).unwrap().index.0, last);
        let mut bench = bench.reopen();
        let group = bench.recovered(1);
        assert_eq!((group.last_index.0, group.tainted), (last, true));
        assert_eq!(group.definition, b"definition");
        assert_eq!(group.compacted.index.0, 0);
        for index in last + 1..=7 {
            bench.append(1, index, 2, &payload(1, index, 2));
            bench.flush();
        }
        bench.log.set_tainted(GroupId(1), false).unwrap();
        bench.flush();
        let mut bench = bench.reopen();
        let group = bench.recovered(1);
        assert_eq!((group.last_index.0, group.tainted), (7, false));
        let term = if keeps { 1 } else { 2 };
        assert_eq!(bench.entry(1, 4), Some((term, payload(1, 4, term))));
    }
}

#[test]
fn a_free_segment_with_bad_sectors_is_set_aside_once() {
    for (how, offset) in [(BadSector::Weak, 0), (BadSector::Dead, 64 << 10)] {
        let mut bench = Bench::new();
        bench.group_of(1, 3);
        let bad = bench.log.free_slot().unwrap();
        bench.volume.spoil(bad, offset, how);
        let mut bench = bench.reopen();
        assert_clean(&bench, 1, 3);
        assert_eq!(bench.recovery.report.unreadable.len(), 1);
        assert_eq!(bench.volume.unsound(), [bad]);
        assert!(!bench.volume.slots().contains(&bad), "it is set aside");
        fill(&mut bench, 1, 3);
        assert!(!bench.volume.slots().contains(&bad), "nor is it made again");
        let bench = bench.reopen();
        assert_eq!(bench.recovery.report.unreadable, [], "it is not met again");
    }
}

/// It is known to be bad while it is needed, and later starts that don't look into it remember.
#[test]
fn a_segment_with_bad_sectors_is_not_used_again_once_it_is_free() {
    let mut bench = Bench::new();
    bench.group_of(1, 3);
    let (slot, offset) = bench.group_of(2, 3)[1];
    bench.volume.spoil(slot, offset, BadSector::Weak);
    let mut bench = bench.reopen();
    assert_eq!(bench.volume.unsound(), [slot]);
    assert!(bench.volume.slots().contains(&slot), "it is needed");
    let used = |bench: &mut Bench| {
        let mut used = Vec::new();
        for _ in 0..100 {
            let last = bench.log.last(GroupId(1)).unwrap();
            bench.append(1, last.index.0 + 1, 1, &[0; 9000]);
            for group in [1, 2] {
                let last = bench.log.last(GroupId(group)).unwrap();
                bench.log.compact(GroupId(group), last);
            }
            used.extend(bench.flush());
        }
        used
    };
    let frames = bench.log.statistics().segments;
    let first = used(&mut bench);
    assert!(bench.log.statistics().segments > frames + 8, "twice round");
    let behind = first.iter().skip_while(|place| place.0 == slot);
    assert!(behind.clone().all(|place| place.0 != slot), "{first:?}");
    let mut bench = bench.reopen();
    assert!(used(&mut bench).iter().all(|place| place.0 != slot));
    assert!(!bench.volume.slots().contains(&slot), "now it is set aside");
}

#[test]
fn few_segments_set_aside_do_not_count_and_many_do() {
    let mut bench = Bench::new();
    bench.group_of(1, 1);
    for _ in 0..6 {
        let bad = bench.log.free_slot().unwrap();
        bench.volume.spoil(bad, 4096, BadSector::Dead);
        bench = bench.reopen();
    }
    assert_eq!(bench.volume.unsound().len(), 6);
    let made = |bench: &mut Bench| loop {
        let index = bench.log.last(GroupId(1)).unwrap().index.0 + 1;
        let command = pontoon_storage::RecordKind::Command;
        let entry = entry_id(index, 1);
        if bench
            .log
            .append_command(GroupId(1), entry, command, &[0; 9000])
            .is_err()
        {
            return bench.volume.slots().len();
        }
        bench.flush();
    };
    // Of the eight there may be, two are missing: four of the six don't count.
    assert_eq!(made(&mut bench), 6);
}

/// An epoch begins elsewhere if the place for it can't be written.
#[test]
fn an_epoch_begins_where_the_disk_can_be_written() {
    let mut bench = Bench::new();
    let last = bench.group_of(1, 5)[4];
    bench.idle().unwrap();
    let free = bench.volume.slots();
    let mut bench = bench.reopen();
    let next = bench.log.free_slot().unwrap();
    assert!(free.contains(&next));
    // All the rest of the newest segment, and then the header of the next one.
    for offset in (last.1 + 3 * 4096..SEGMENT_BYTES).step_by(4096) {
        bench.volume.spoil(last.0, offset, BadSector::Dead);
    }
    bench.volume.spoil(next, 0, BadSector::Dead);
    // It would miss the frame that began the last epoch.
    bench.volume.remove(WITNESS_SLOT);
    let mut bench = bench.reopen();
    assert_clean(&bench, 1, 5);
    bench.append(1, 6, 1, b"goes on");
    let (slot, _) = bench.flush()[0];
    assert!(slot != last.0 && slot != next);
    assert_clean(&bench.reopen(), 1, 6);
}

/// What can be read and not be written is found out by trying.
#[test]
fn an_epoch_that_could_not_be_written_gives_way_to_the_next() {
    let mut bench = Bench::new();
    let (slot, _) = bench.group_of(1, 5)[4];
    bench.idle().unwrap();
    let mut volume = Unwritable {
        volume: bench.volume,
        slot,
        refused: 0,
    };
    let (_, recovery) = pontoon_storage::SegmentLog::open(&mut volume, small_config()).unwrap();
    assert_eq!((volume.refused, recovery.report.epoch), (1, 3));
    let bench = Bench::open(volume.volume, small_config()).unwrap();
    assert_clean(&bench, 1, 5);
    assert_eq!(bench.recovery.report.epoch, 4);
}

/// A volume with a slot that takes no write.
struct Unwritable {
    volume: MemoryVolume,
    slot: u32,
    refused: usize,
}

impl Volume for Unwritable {
    fn block_bytes(&self) -> usize {
        self.volume.block_bytes()
    }

    fn segment_bytes(&self) -> u64 {
        self.volume.segment_bytes()
    }

    fn slots(&self) -> Vec<u32> {
        self.volume.slots()
    }

    fn read_at(&mut self, slot: u32, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        self.volume.read_at(slot, offset, buffer)
    }

    fn write_at(&mut self, slot: u32, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        if slot == self.slot {
            self.refused += 1;
            return Err(std::io::Error::from_raw_os_error(libc::EIO));
        }
        self.volume.write_at(slot, offset, bytes)
    }

    fn sync(&mut self, slot: u32) -> std::io::Result<()> {
        self.volume.sync(slot)
    }

    fn prepare(&mut self, slot: u32) -> std::io::Result<()> {
        self.volume.prepare(slot)
    }

    fn open_witness(&mut self) -> std::io::Result<u128> {
        self.volume.open_witness()
    }

    fn replace_witness(&mut self) -> std::io::Result<u128> {
        self.volume.replace_witness()
    }
}

/// Every header and frame is rotten: it was a log, and all of it is lost. What is made now may have
/// been there, and must be repaired; also after further starts.
#[test]
fn a_log_of_which_nothing_verifies_is_damaged_and_not_empty() {
    let mut bench = Bench::new();
    bench.group_of(1, 40);
    for slot in bench.volume.slots() {
        let image = bench.volume.image_mut(slot).unwrap();
        for block in image.chunks_mut(4096) {
            block[40] ^= 1;
        }
    }
    for _ in 0..2 {
        bench = bench.reopen();
        assert!(!bench.recovery.report.damage.is_empty());
        assert_eq!(bench.recovery.groups, []);
    }
    bench.log.create_group(GroupId(1), b"").unwrap();
    assert!(bench.log.is_tainted(GroupId(1)));
}

/// Nothing of it can be read: it is not there, and must not be taken for an empty one.
#[test]
fn a_disk_that_reads_nothing_at_all_is_refused() {
    let mut bench = Bench::new();
    bench.group_of(1, 5);
    let before = bench.volume.clone();
    for slot in bench.volume.slots() {
        for offset in (0..SEGMENT_BYTES).step_by(4096) {
            bench.volume.spoil(slot, offset, BadSector::Dead);
        }
    }
    let refused = Bench::open(bench.volume, small_config()).err().unwrap();
    assert!(matches!(refused, OpenError::Io { .. }), "{refused}");
    assert_clean(&Bench::open(before, small_config()).unwrap(), 1, 5);
}
