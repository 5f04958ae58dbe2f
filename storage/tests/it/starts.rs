//! Start after start of one log: what each takes, and what it makes of the epochs before it.

use pontoon_storage::memory::MemoryVolume;
use pontoon_storage::{DiskOp, LogConfig, Volume};

use pontoon_types::{GroupId, Term};

use crate::damage::{assert_clean, rot};
use crate::harness::{Bench, SEGMENT_BYTES, payload, small_config};

#[test]
#[cfg_attr(miri, ignore = "takes Miri longer than a minute")]
fn restarts_take_no_segment_for_good() {
    let config = LogConfig {
        segments_max: 4,
        ..small_config()
    };
    let mut bench = Bench::open(MemoryVolume::new(SEGMENT_BYTES), config.clone()).unwrap();
    bench.log.create_group(GroupId(1), b"").unwrap();
    for index in 1..=12 {
        let (group, term) = (GroupId(1), Term(index));
        bench.log.save_hard_state(group, term, None).unwrap();
        bench.append(1, index, index, &payload(1, index, index));
        bench.flush();
        bench = Bench::open(bench.volume, config.clone()).unwrap();
        assert_eq!(bench.log.epoch(), index + 1);
    }
    assert_eq!(bench.recovered(1).last_index.0, 12);
    assert!(bench.volume.slots().len() <= 5);
    // Idle starts take none either.
    for _ in 0..80 {
        bench = Bench::open(bench.volume, config.clone()).unwrap();
    }
    assert_eq!(bench.log.epoch(), 93);
    assert_eq!(bench.entry(1, 12), Some((12, payload(1, 12, 12))));
    assert!(bench.volume.slots().len() <= 5);
}

#[test]
fn a_full_disk_never_blocks_a_start() {
    let mut volume = MemoryVolume::new(SEGMENT_BYTES);
    volume.set_slots_max(3);
    let mut bench = Bench::open(volume, small_config()).unwrap();
    bench.log.create_group(GroupId(1), b"").unwrap();
    let mut last = 0;
    while bench.log.admit(3000).is_ok() {
        last += 1;
        bench.append(1, last, 1, &[7; 3000]);
        bench.flush();
    }
    for _ in 0..10 {
        bench = bench.reopen();
        assert_eq!(bench.recovered(1).last_index.0, last);
        assert_eq!(bench.recovery.report.damage, []);
    }
}

#[test]
fn what_came_after_an_accepted_end_does_not_come_back() {
    let mut bench = Bench::new();
    bench.group_of(1, 3);
    // Four writes are in flight when the power fails, and the first of them never comes.
    bench.log.set_writes_in_flight(4);
    let mut written = Vec::new();
    for index in 4..=7 {
        bench.append(1, index, 1, &payload(1, index, 1));
        let mut operation = bench.log.seal().unwrap();
        bench.volume.run(&mut operation).unwrap();
        written.push(operation);
    }
    let DiskOp::Write { slot, offset, .. } = written[0] else {
        panic!("a write")
    };
    rot(&mut bench.volume, (slot, offset), 100);
    // The others lie before the new epoch's first frames.
    for restart in 0..2 {
        bench = bench.reopen();
        assert_clean(&bench, 1, 3 + restart);
        bench.append(1, 4 + restart, 2, b"of the new epoch");
        bench.flush();
        let mut again = Bench::open(bench.volume.clone(), small_config()).unwrap();
        assert_clean(&again, 1, 4 + restart);
        let found = again.entry(1, 4 + restart);
        assert_eq!(found, Some((2, b"of the new epoch".to_vec())));
    }
}

/// The process ends while a write is under way, and that lands only after the log was opened again
/// and has gone on: it must not take anything with it that was acknowledged since.
#[test]
fn a_write_that_lands_after_the_next_start_damages_nothing() {
    for (in_flight, bytes) in [(1, 40), (1, 12 << 10), (2, 12 << 10), (4, 40)] {
        for goes_on in [false, true] {
            let mut bench = Bench::new();
            bench.group_of(1, 3);
            bench.log.set_writes_in_flight(in_flight);
            let mut late = Vec::new();
            for index in 4.. {
                bench.append(1, index, 1, &vec![index as u8; bytes]);
                let Some(DiskOp::Write {
                    slot,
                    offset,
                    bytes,
                    ..
                }) = bench.log.seal()
                else {
                    break;
                };
                late.push((slot, offset as usize, bytes.as_ref().to_vec()));
            }
            assert_eq!(late.len(), in_flight);
            let mut bench = Bench::open(bench.volume, small_config()).unwrap();
            assert_clean(&bench, 1, 3);
            if goes_on {
                bench.append(1, 4, 2, b"of the new epoch");
                bench.flush();
            }
            for (slot, offset, bytes) in late {
                let image = bench.volume.image_mut(slot).unwrap();
                image[offset..offset + bytes.len()].copy_from_slice(&bytes);
            }
            let mut bench = bench.reopen();
            assert_clean(&bench, 1, 3 + u64::from(goes_on));
            if goes_on {
                let found = bench.entry(1, 4);
                assert_eq!(found, Some((2, b"of the new epoch".to_vec())));
            }
        }
    }
}

/// The frame that begins an epoch in the rest of a segment is lost, and what the start had dropped
/// comes back: it counts for nothing.
#[test]
fn a_lost_beginning_of_an_epoch_is_damage_and_brings_nothing_back() {
    let mut bench = Bench::new();
    let torn = bench.group_of(1, 5)[4];
    let start = torn.1 as usize;
    let sound = bench.volume.image(torn.0).unwrap()[start..start + 4096].to_vec();
    rot(&mut bench.volume, torn, 100);
    let mut bench = bench.reopen();
    assert_clean(&bench, 1, 4);
    bench.append(1, 5, 2, b"of the new epoch");
    let (slot, next) = bench.flush()[0];
    // It keeps clear of where writes of the earlier epoch may land.
    let begun = torn.1 + 2 * u64::from(small_config().frame_bytes_max);
    assert_eq!((slot, next), (torn.0, begun + 4096));
    bench.volume.image_mut(slot).unwrap()[start..start + 4096].copy_from_slice(&sound);
    rot(&mut bench.volume, (slot, begun), 100);
    let mut bench = bench.reopen();
    let damage = bench.recovery.report.damage[0];
    assert_eq!((damage.slot, damage.first_frame), (slot, damage.last_frame));
    assert_eq!(bench.entry(1, 5), Some((2, b"of the new epoch".to_vec())));
}

/// Starts follow one another in one segment, and its header is damaged: each epoch is known by its
/// frames, and a lost frame of any of them is damage.
#[test]
fn epochs_in_a_segment_with_a_damaged_header_are_known_by_their_frames() {
    for lost in 0..3 {
        let mut bench = Bench::new();
        let mut places = vec![bench.group_of(1, 1)[0]];
        for epoch in 1..3 {
            bench = bench.reopen();
            bench.append(1, 1 + epoch, 1, &payload(1, 1 + epoch, 1));
            places.push(bench.flush()[0]);
        }
        bench.idle();
        rot(&mut bench.volume, (places[0].0, 0), 60);
        let sound = Bench::open(bench.volume.clone(), small_config()).unwrap();
        assert_clean(&sound, 1, 3);
        assert_eq!(sound.recovery.report.epoch, 4);
        assert_clean(&sound.reopen(), 1, 3);
        rot(&mut bench.volume, places[lost as usize], 100);
        let bench = bench.reopen();
        assert_eq!(bench.recovery.report.damage.len(), 1, "{lost}");
        let group = bench.recovered(1);
        assert!(group.tainted, "{lost}");
        assert_eq!(group.last_index.0, lost, "what verifies before is kept");
        assert!(bench.reopen().recovered(1).tainted, "opened again");
    }
}
