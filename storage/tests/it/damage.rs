//! What recovery makes of a damaged disk, case by case.

use pontoon_storage::memory::MemoryVolume;
use pontoon_storage::{RecordKind, SegmentLog, Volume};

use pontoon_types::GroupId;

use crate::harness::{Bench, SEGMENT_BYTES, entry_id, payload, small_config};

/// Flips one bit.
pub(crate) fn rot(volume: &mut MemoryVolume, (slot, offset): (u32, u64), at: usize) {
    volume.image_mut(slot).unwrap()[offset as usize + at] ^= 4;
}

/// Copies a block.
fn copy_block(volume: &mut MemoryVolume, from: (u32, u64), to: (u32, u64)) {
    let start = from.1 as usize;
    let block = volume.image(from.0).unwrap()[start..start + 4096].to_vec();
    let start = to.1 as usize;
    volume.image_mut(to.0).unwrap()[start..start + 4096].copy_from_slice(&block);
}

pub(crate) fn assert_clean(bench: &Bench, group: u64, last_index: u64) {
    assert_eq!(bench.recovery.report.damage, []);
    let group = bench.recovered(group);
    assert_eq!((group.last_index.0, group.tainted), (last_index, false));
}

#[test]
fn a_torn_last_frame_is_dropped() {
    let mut bench = Bench::new();
    let places = bench.group_of(1, 5);
    rot(&mut bench.volume, places[4], 100);
    assert_clean(&bench.reopen(), 1, 4);
}

#[test]
fn rot_of_the_last_frame_is_damage_once_a_mark_witnesses_it() {
    let mut bench = Bench::new();
    let places = bench.group_of(1, 5);
    bench.idle().unwrap();
    rot(&mut bench.volume, places[4], 100);
    let bench = bench.reopen();
    let damage = bench.recovery.report.damage[0];
    assert_eq!(
        (damage.slot, damage.first_frame),
        (places[4].0, damage.last_frame)
    );
    assert_eq!(
        (bench.recovered(1).last_index.0, bench.recovered(1).tainted),
        (4, true)
    );
}

#[test]
fn damage_to_durable_data_is_never_truncated_and_taints() {
    let mut bench = Bench::new();
    let places = bench.group_of(1, 5);
    bench.group_of(2, 5);
    rot(&mut bench.volume, places[2], 100);
    let mut bench = bench.reopen();
    assert_eq!(bench.recovery.report.damage.len(), 1);
    // What verifies up to the damage is kept, and readable.
    assert_eq!(
        (bench.recovered(1).last_index.0, bench.recovered(1).tainted),
        (2, true)
    );
    assert_eq!(bench.entry(1, 2), Some((1, payload(1, 2, 1))));
    // The other group was created behind the damage: nothing of it can be missing.
    assert_eq!(
        (bench.recovered(2).last_index.0, bench.recovered(2).tainted),
        (5, false)
    );
    assert_eq!(bench.entry(2, 5), Some((1, payload(2, 5, 1))));
}

#[test]
fn after_damage_a_group_is_clean_only_if_a_later_frame_repeats_what_it_is() {
    let mut bench = Bench::new();
    bench.group_of(1, 3);
    bench.group_of(2, 3);
    let lost = bench.group_of(3, 3)[1];
    // Fill the segment: the next one repeats the state of every group.
    while bench.log.statistics().segments == 0 {
        let index = bench.log.last(GroupId(2)).unwrap().index.0 + 1;
        bench.append(2, index, 1, &[0; 9000]);
        bench.flush();
    }
    bench.append(
        2,
        bench.log.last(GroupId(2)).unwrap().index.0 + 1,
        1,
        b"a frame for the state",
    );
    bench.flush();
    rot(&mut bench.volume, lost, 100);
    let bench = bench.reopen();
    assert!(
        !bench.recovered(1).tainted,
        "its term, vote and last entry are repeated"
    );
    assert!(!bench.recovered(2).tainted);
    assert!(bench.recovered(3).tainted, "it misses an entry");
    assert_eq!(bench.recovered(3).last_index.0, 1);
}

/// Fills the segment, so that the next one repeats the state of every group.
fn repeat_state(bench: &mut Bench, group: u64) {
    let segments = bench.log.statistics().segments;
    while bench.log.statistics().segments == segments {
        let last = bench.log.last(GroupId(group)).unwrap();
        bench.append(group, last.index.0 + 1, last.term.0, &[0; 9000]);
        bench.flush();
    }
    let last = bench.log.last(GroupId(group)).unwrap();
    bench.append(
        group,
        last.index.0 + 1,
        last.term.0,
        b"a frame for the state",
    );
    bench.flush();
}

/// Found by fuzzing (`segment_mutate`): the entry that was overridden came back below those that
/// followed its replacement, in a group that was said to be whole.
#[test]
fn a_lost_override_below_entries_that_follow_it_taints() {
    let mut bench = Bench::new();
    bench.group_of(1, 5);
    bench.append(1, 4, 2, b"the replacement");
    let lost = bench.flush()[0];
    bench.append(1, 5, 3, b"what follows it");
    bench.flush();
    bench.group_of(2, 1);
    repeat_state(&mut bench, 2);
    rot(&mut bench.volume, lost, 100);
    let mut bench = bench.reopen();
    assert!(bench.recovered(1).tainted && !bench.recovered(2).tainted);
    let last = bench.log.last(GroupId(1)).unwrap().index.0;
    bench.log.compact(GroupId(1), entry_id(last, 3));
    bench.append(1, last + 1, 3, b"nothing doubtful is left");
    bench.flush();
    assert!(bench.reopen().recovered(1).tainted, "until it is declared");
}

/// Found with the one above: a group that was dropped and made again kept entries of its life
/// before, when the frame that said so was lost.
/// Found by the simulator: what was overridden was of a later term than what follows the lost
/// override (an entry of a leader of term 4 that nobody else took). A log of descending terms ended
/// the process at every start.
#[test]
fn entries_of_an_earlier_term_than_what_a_lost_override_left_are_cut_off_and_taint() {
    let mut bench = Bench::new();
    bench.group_of(1, 1);
    bench.append(1, 2, 4, b"of a leader that lost its office");
    bench.flush();
    bench.append(1, 2, 3, b"what the next leader had");
    let lost = bench.flush()[0];
    bench.append(1, 3, 3, b"what follows it");
    bench.flush();
    bench.idle().unwrap();
    rot(&mut bench.volume, lost, 100);
    let bench = bench.reopen();
    let group = bench.recovered(1);
    assert!(group.tainted);
    assert_eq!(group.terms, [entry_id(1, 1), entry_id(2, 4)]);
    assert_eq!(group.last_index.0, 2);
}

#[test]
fn entries_of_an_earlier_life_do_not_come_back_where_its_end_is_lost() {
    let mut bench = Bench::new();
    bench.group_of(1, 3);
    bench.log.drop_group(GroupId(1)).unwrap();
    bench.log.create_group(GroupId(1), b"definition").unwrap();
    bench.append(1, 1, 1, b"of the new life");
    let lost = bench.flush()[0];
    bench.append(1, 2, 1, b"of the new life");
    bench.flush();
    bench.group_of(2, 1);
    repeat_state(&mut bench, 2);
    rot(&mut bench.volume, lost, 100);
    let bench = bench.reopen();
    let group = bench.recovered(1);
    assert_eq!((group.last_index.0, group.tainted), (0, true));
}

#[test]
fn a_group_stays_tainted_over_restarts_until_it_is_declared_whole() {
    let mut bench = Bench::new();
    let places = bench.group_of(1, 5);
    rot(&mut bench.volume, places[2], 100);
    let bench = bench.reopen();
    assert!(bench.recovered(1).tainted);
    let mut bench = bench.reopen();
    assert!(bench.recovered(1).tainted);
    for index in 3..=5 {
        bench.append(1, index, 2, &payload(1, index, 2));
    }
    bench.flush();
    let mut bench = bench.reopen();
    assert_eq!(
        (bench.recovered(1).last_index.0, bench.recovered(1).tainted),
        (5, true)
    );
    bench.log.set_tainted(GroupId(1), false).unwrap();
    bench.flush();
    let mut bench = bench.reopen();
    assert_eq!(
        (bench.recovered(1).last_index.0, bench.recovered(1).tainted),
        (5, false)
    );
    assert_eq!(bench.entry(1, 4), Some((2, payload(1, 4, 2))));
}

#[test]
fn a_corrupted_length_field_hides_no_later_frame() {
    for byte in 32..36 {
        let mut bench = Bench::new();
        let places = bench.group_of(1, 5);
        rot(&mut bench.volume, places[2], byte);
        let bench = bench.reopen();
        assert_eq!(bench.recovery.report.damage.len(), 1, "byte {byte}");
        assert!(bench.recovered(1).tainted);
    }
}

#[test]
fn a_misdirected_write_is_damage_where_it_landed_and_where_it_is_missing() {
    let mut bench = Bench::new();
    let places = bench.group_of(1, 8);
    copy_block(&mut bench.volume, places[5], places[2]);
    let bench = bench.reopen();
    assert_eq!(bench.recovery.report.damage.len(), 1);
    assert_eq!(
        (bench.recovered(1).last_index.0, bench.recovered(1).tainted),
        (2, true)
    );
}

#[test]
fn a_lost_write_leaves_old_bytes_and_is_damage() {
    let mut bench = Bench::new();
    let places = bench.group_of(1, 3);
    let before = bench.volume.clone();
    bench.append(1, 4, 1, b"lost");
    let lost = bench.flush()[0];
    bench.append(1, 5, 1, b"kept");
    bench.flush();
    let start = lost.1 as usize;
    let old = before.image(lost.0).unwrap()[start..start + 4096].to_vec();
    bench.volume.image_mut(lost.0).unwrap()[start..start + 4096].copy_from_slice(&old);
    let bench = bench.reopen();
    assert_eq!(bench.recovery.report.damage.len(), 1);
    assert_eq!(
        (bench.recovered(1).last_index.0, bench.recovered(1).tainted),
        (3, true)
    );
    assert_eq!(places.len(), 3);
}

/// The same log in a possible future: two frames that are sound, but were never written here.
fn foreign_frames(bench: &Bench) -> Vec<u8> {
    let mut future = Bench::open(bench.volume.clone(), crate::harness::small_config()).unwrap();
    let mut frames = Vec::new();
    for index in 4..=6 {
        future.append(1, index, 9, b"from another history");
        let (slot, offset) = *future.flush().last().unwrap();
        let start = offset as usize;
        frames.extend_from_slice(&future.volume.image(slot).unwrap()[start..start + 4096]);
    }
    frames
}

#[test]
fn log_blocks_inside_a_payload_never_pass_for_frames() {
    let mut bench = Bench::new();
    bench.group_of(1, 3);
    let frames = foreign_frames(&bench);
    // The frame's header and the record's header come first; then blocks begin.
    let mut bytes = vec![0; 4096 - 64 - 32];
    bytes.extend_from_slice(&frames);
    let mut bench = bench.reopen();
    bench.append(1, 4, 1, &bytes);
    let place = *bench.flush().last().unwrap();
    let (slot, offset) = place;
    let start = offset as usize + 4096;
    assert_eq!(
        bench.volume.image(slot).unwrap()[start..start + frames.len()],
        frames
    );
    rot(&mut bench.volume, place, 5);
    assert_clean(&bench.reopen(), 1, 3);
}

#[test]
#[cfg_attr(miri, ignore = "takes Miri longer than a minute")]
fn stale_frames_of_a_recycled_segment_are_no_frames() {
    let mut bench = Bench::new();
    bench.log.create_group(GroupId(1), b"").unwrap();
    let mut index = 0;
    // Go on until a segment that was written before is being written again.
    while bench.log.statistics().segments < 8 {
        index += 1;
        bench.append(1, index, 1, &payload(1, index, 1));
        bench
            .log
            .compact(GroupId(1), entry_id(index.saturating_sub(2), 1));
        bench.flush();
    }
    bench.append(1, index + 1, 1, b"the first frames");
    let (slot, offset) = *bench.flush().last().unwrap();
    let behind = &bench.volume.image(slot).unwrap()[offset as usize + 4096..];
    assert!(
        behind.iter().any(|byte| *byte != 0),
        "the segment was recycled in place"
    );
    assert_clean(&bench.reopen(), 1, index + 1);
}

#[test]
fn rot_below_an_accepted_end_is_damage_also_in_the_last_frame() {
    let mut bench = Bench::new();
    let places = bench.group_of(1, 5);
    let mut bench = bench.reopen();
    assert_clean(&bench, 1, 5);
    rot(&mut bench.volume, places[4], 100);
    let bench = bench.reopen();
    assert_eq!(bench.recovery.report.damage.len(), 1);
    assert_eq!(
        (bench.recovered(1).last_index.0, bench.recovered(1).tainted),
        (4, true)
    );
}

#[test]
fn a_segment_with_a_damaged_header_is_known_by_its_frames() {
    for restarts in 0..2 {
        let mut bench = Bench::new();
        let places = bench.group_of(1, 5);
        if restarts == 1 {
            bench = bench.reopen();
            bench.append(1, 6, 1, b"of the second epoch");
            bench.flush();
        }
        rot(&mut bench.volume, (places[0].0, 0), 60);
        let mut bench = bench.reopen();
        let last = 5 + restarts;
        assert_clean(&bench, 1, last);
        assert_eq!(bench.entry(1, 5), Some((1, payload(1, 5, 1))));
        bench.append(1, last + 1, 1, b"and it goes on");
        bench.flush();
        assert_clean(&bench.reopen(), 1, last + 1);
    }
}

/// Found by fuzzing (`segment_mutate`): the segment was taken to begin with the first frame that
/// was left, no damage was reported, and a group that was only known from what was lost could be
/// made again as if it had never voted.
#[test]
fn frames_lost_with_the_header_of_the_oldest_segment_are_damage() {
    let mut bench = Bench::new();
    let first = bench.group_of(1, 5)[0].0;
    bench.group_of(2, 5);
    rot(&mut bench.volume, (first, 0), 60);
    rot(&mut bench.volume, (first, 4096), 60);
    let mut bench = bench.reopen();
    assert_eq!(bench.recovery.report.damage.len(), 1);
    assert!(bench.recovered(1).tainted && !bench.recovered(2).tainted);
    bench.log.create_group(GroupId(3), b"").unwrap();
    assert!(bench.log.is_tainted(GroupId(3)), "it may have been there");
}

/// Found with the one above: a segment was taken for one that was never used if its first two
/// blocks were zero, and what lay behind them was written over.
#[test]
fn a_segment_whose_first_blocks_are_zeroed_is_not_blank() {
    let mut bench = Bench::new();
    let first = bench.group_of(1, 5)[0].0;
    bench.volume.image_mut(first).unwrap()[..2 * 4096].fill(0);
    let bench = bench.reopen();
    assert_eq!(bench.recovery.report.damage.len(), 1);
    assert!(bench.recovered(1).tainted);
}

/// Like the first, where a whole segment is lost before one whose header is.
#[test]
fn a_segment_lost_before_one_with_a_damaged_header_is_damage() {
    let mut bench = Bench::new();
    let first = bench.group_of(1, 5)[0].0;
    repeat_state(&mut bench, 1);
    bench.append(
        1,
        bench.log.last(GroupId(1)).unwrap().index.0 + 1,
        1,
        b"in the second",
    );
    let second = bench.flush()[0].0;
    assert_ne!(first, second);
    bench.volume.image_mut(first).unwrap().fill(0);
    rot(&mut bench.volume, (second, 0), 60);
    let mut bench = bench.reopen();
    assert_eq!(bench.recovery.report.damage.len(), 1);
    bench.log.create_group(GroupId(3), b"").unwrap();
    assert!(bench.log.is_tainted(GroupId(3)), "it may have been there");
}

#[test]
fn a_whole_segment_that_is_zeroed_is_damage() {
    let mut bench = Bench::new();
    let first = bench.group_of(1, 3)[0].0;
    while bench.log.statistics().segments < 2 {
        let index = bench.log.last(GroupId(1)).unwrap().index.0 + 1;
        bench.append(1, index, 1, &[0; 9000]);
        bench.flush();
    }
    bench.append(
        1,
        bench.log.last(GroupId(1)).unwrap().index.0 + 1,
        1,
        b"a frame for the state",
    );
    bench.flush();
    for slot in bench.volume.slots() {
        let mut bench = Bench::open(bench.volume.clone(), crate::harness::small_config()).unwrap();
        let used = bench
            .volume
            .image(slot)
            .unwrap()
            .iter()
            .any(|byte| *byte != 0);
        let newest = bench.recovery.report.epoch == 2 && slot > first + 1;
        if !used || newest {
            continue;
        }
        bench.volume.image_mut(slot).unwrap().fill(0);
        let bench = bench.reopen();
        assert!(!bench.recovery.report.damage.is_empty(), "segment {slot}");
        assert!(bench.recovered(1).tainted, "segment {slot}");
        let bench = bench.reopen();
        assert!(bench.recovered(1).tainted, "segment {slot}, opened again");
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes Miri longer than a minute")]
fn a_blind_walk_over_random_damage_never_panics() {
    let mut bench = Bench::new();
    bench.group_of(1, 6);
    bench.group_of(2, 6);
    let kind = RecordKind::Command;
    for index in 7..20 {
        bench
            .log
            .append_command(GroupId(1), entry_id(index, 1), kind, &[1; 9000])
            .unwrap();
        bench.flush();
    }
    let mut state = 1_u64;
    let mut next = |limit: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize % limit
    };
    for _ in 0..300 {
        let mut volume = bench.volume.clone();
        let slots = volume.slots();
        for _ in 0..=next(4) {
            let image = volume.image_mut(slots[next(slots.len())]).unwrap();
            let start = next(image.len() / 512) * 512;
            match next(3) {
                0 => image[start..start + 512].fill(0),
                1 => image[start + next(512)] ^= 1 << next(8),
                _ => {
                    let from = next(image.len() / 512) * 512;
                    image.copy_within(from..from + 512, start);
                }
            }
        }
        let config = crate::harness::small_config();
        if let Ok(mut bench) = Bench::open(volume, config) {
            let found = crate::model::Model::of(&mut bench);
            let bench = bench.reopen();
            assert_eq!(crate::model::Model::of(&mut { bench }), found);
        }
    }
}

/// A volume that gives wrong bytes once, when a segment is read whole for the second time.
struct WrongOnce {
    volume: MemoryVolume,
    slot: u32,
    byte: usize,
    reads: usize,
}

impl Volume for WrongOnce {
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
        self.volume.read_at(slot, offset, buffer)?;
        if slot == self.slot && buffer.len() as u64 == SEGMENT_BYTES {
            self.reads += 1;
            if self.reads == 2 {
                buffer[self.byte] ^= 1;
            }
        }
        Ok(())
    }

    fn write_at(&mut self, slot: u32, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
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

/// Recovery looks at a frame, and reads it again to replay it. A disk that gives other bytes then
/// has damaged it: a group whose only record that was is not there, may be made again, and must
/// be known to have lost something.
#[test]
fn a_frame_that_no_longer_verifies_when_it_is_replayed_is_damage() {
    let mut bench = Bench::new();
    bench.log.create_group(GroupId(7), b"definition").unwrap();
    let (slot, offset) = *bench.flush().last().unwrap();
    bench.log.create_group(GroupId(2), b"").unwrap();
    // Up to the header of the next segment, which is looked at between the two reads.
    for index in 1.. {
        bench.append(2, index, 1, &[0; 9000]);
        let mut operation = bench.log.seal().unwrap();
        let result = bench.volume.run(&mut operation);
        bench.log.on_complete(operation.id(), result).unwrap();
        if operation.slot() != slot {
            break;
        }
    }
    let mut volume = WrongOnce {
        volume: bench.volume,
        slot,
        byte: offset as usize + 100,
        reads: 0,
    };
    let (log, recovery) = SegmentLog::open(&mut volume, small_config()).unwrap();
    assert_eq!(volume.reads, 2, "recovery read the segment twice");
    let damage = &recovery.report.damage;
    assert_eq!(damage.len(), 1, "{damage:?}");
    assert_eq!((damage[0].slot, damage[0].offset), (slot, offset));
    assert!(log.is_damaged());
    let found = recovery
        .groups
        .iter()
        .find(|found| found.group == GroupId(7));
    assert!(found.is_none_or(|found| found.tainted));
}
