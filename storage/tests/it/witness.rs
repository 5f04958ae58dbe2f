//! A log that lost what was durable, and what its witness says to it.

use pontoon_storage::memory::{BadSector, MemoryVolume, SectorFate};
use pontoon_storage::{Forgetting, Volume, WITNESS_SLOT};
use pontoon_types::GroupId;

use crate::harness::{Bench, small_config};

/// Bytes from one place of the witness to the other.
const STRIDE: usize = 64 << 10;

/// Lets the witness see what is durable.
fn renew(bench: &mut Bench) {
    while let Some(mut operation) = bench.log.renew_witness() {
        let result = bench.volume.run(&mut operation);
        bench.log.on_complete(operation.id(), result).unwrap();
    }
    assert!(!bench.log.witness_lags());
}

/// A log of several segments, each group with entries in the first and in the last, and its newest
/// segment.
fn long_log() -> (Bench, u32) {
    let mut bench = Bench::new();
    bench.group_of(1, 3);
    bench.group_of(2, 3);
    let mut newest = 0;
    for index in 4..=60 {
        bench.append(1, index, 1, &[7; 3000]);
        bench.append(2, index, 1, &[8; 1000]);
        let places = bench.flush();
        newest = places.last().map_or(newest, |(slot, _)| *slot);
    }
    assert!(bench.log.segments().0 > 3);
    renew(&mut bench);
    (bench, newest)
}

/// Everybody who could have heard of what is lost may be away: it is found out without them.
fn has_forgotten(volume: MemoryVolume, named: &str) -> Bench {
    let mut bench = Bench::open(volume, small_config()).unwrap();
    let report = &bench.recovery.report;
    assert_eq!(report.forgetting, Some(Forgetting::CutShort), "{named}");
    assert!(!report.damage.is_empty(), "{named}: it is damage");
    for group in &bench.recovery.groups {
        assert!(group.tainted && group.forgot, "{named}: {group:?}");
    }
    bench.log.create_group(GroupId(3), b"").unwrap();
    assert!(
        bench.log.has_forgotten(GroupId(3)),
        "{named}: it may have been there"
    );
    bench.flush();
    renew(&mut bench);
    let bench = bench.reopen();
    assert_eq!(
        bench.recovery.report.forgetting, None,
        "{named}: it is known"
    );
    assert_eq!(bench.log.life().generation, 2, "{named}");
    for group in [1, 2, 3].map(GroupId) {
        assert!(
            !bench.log.contains(group) || bench.log.has_forgotten(group),
            "{named}"
        );
    }
    bench
}

#[test]
fn a_newest_segment_that_is_gone_or_zeroed_in_part_is_missed() {
    let (bench, newest) = long_log();
    let mut gone = bench.volume.clone();
    gone.remove(newest);
    has_forgotten(gone, "gone");
    let mut zeroed = bench.volume.clone();
    zeroed.image_mut(newest).unwrap().fill(0);
    has_forgotten(zeroed, "zeroed");
    let mut half = bench.volume.clone();
    let image = half.image_mut(newest).unwrap();
    let last = image
        .chunks(4096)
        .rposition(|block| block.iter().any(|byte| *byte != 0));
    image[last.unwrap() * 4096..].fill(0);
    has_forgotten(half, "without its last block");
}

#[test]
fn a_witness_misses_all_segments() {
    let (bench, _) = long_log();
    let mut empty = bench.volume.clone();
    for slot in bench.volume.slots() {
        empty.remove(slot);
    }
    has_forgotten(empty, "emptied");
}

#[test]
fn an_old_copy_of_all_segments_is_not_taken_for_the_log() {
    let mut bench = Bench::new();
    bench.group_of(1, 3);
    renew(&mut bench);
    let old = bench.volume.clone();
    bench.append(1, 4, 1, b"promised");
    bench.flush();
    renew(&mut bench);
    let mut restored = bench.volume;
    for slot in old.slots() {
        let image = restored.image_mut(slot).unwrap();
        image.copy_from_slice(old.image(slot).unwrap());
    }
    has_forgotten(restored, "restored");
}

/// A new segment was begun, and nothing in it was durable that the witness saw.
#[test]
fn a_segment_that_was_just_begun_is_missed() {
    let (mut bench, _) = long_log();
    let mut index = 60;
    loop {
        index += 1;
        bench.append(1, index, 1, &[7; 3000]);
        let mut operation = bench.log.seal().expect("something is staged");
        let result = bench.volume.run(&mut operation);
        bench.log.on_complete(operation.id(), result).unwrap();
        bench.prepare();
        if bench.log.witness_lacks_segment() {
            renew(&mut bench);
            let mut gone = bench.volume.clone();
            gone.remove(operation.slot());
            has_forgotten(gone, "just begun");
            return;
        }
    }
}

/// Each file as it was, and the log may have gone on elsewhere. What is in it is whole.
#[test]
fn a_copy_of_the_directory_forgot_and_has_no_damage() {
    let mut bench = Bench::new();
    bench.group_of(1, 3);
    renew(&mut bench);
    let mut copy = bench.volume;
    copy.copied();
    let mut bench = Bench::open(copy, small_config()).unwrap();
    let report = &bench.recovery.report;
    assert_eq!(report.forgetting, Some(Forgetting::Copied));
    assert!(report.damage.is_empty());
    let group = bench.recovered(1);
    assert!(group.forgot && !group.tainted);
    bench.log.set_tainted(GroupId(1), false).unwrap();
    bench.flush();
    renew(&mut bench);
    let bench = bench.reopen();
    assert_eq!(bench.recovery.report.forgetting, None);
    assert!(!bench.recovered(1).forgot, "it was repaired");
}

/// So does an operator say that a directory was moved whole, and so came logs of earlier versions.
#[test]
fn a_log_without_a_witness_is_taken_as_it_is() {
    let (bench, _) = long_log();
    let mut moved = bench.volume;
    moved.copied();
    moved.remove(WITNESS_SLOT);
    let bench = Bench::open(moved, small_config()).unwrap();
    assert_eq!(bench.recovery.report.forgetting, None);
    let again = bench.reopen();
    assert_eq!(again.recovery.report.forgetting, None, "it has one now");
}

#[test]
fn of_two_places_of_the_witness_one_may_rot() {
    let (mut bench, newest) = long_log();
    bench.append(1, 61, 1, b"more");
    bench.flush();
    renew(&mut bench);
    let rotten = |places: &[usize]| {
        let mut volume = bench.volume.clone();
        for place in places {
            volume.image_mut(WITNESS_SLOT).unwrap()[place * STRIDE + 50] ^= 1;
        }
        volume
    };
    for place in [0, 1] {
        let mut volume = rotten(&[place]);
        let sound = Bench::open(volume.clone(), small_config()).unwrap();
        assert_eq!(sound.recovery.report.forgetting, None);
        volume.remove(newest);
        has_forgotten(volume, "one place is left");
    }
    let lost = Bench::open(rotten(&[0, 1]), small_config()).unwrap();
    let forgetting = lost.recovery.report.forgetting;
    assert_eq!(forgetting, Some(Forgetting::WitnessLost));
}

/// The power fails while the witness is written, and while what it has not seen is.
#[test]
fn a_torn_witness_makes_no_log_forget() {
    for fate in [SectorFate::Written, SectorFate::Old, SectorFate::Garbage(5)] {
        let mut bench = Bench::new();
        bench.group_of(1, 3);
        let mut witness = bench.log.renew_witness().unwrap();
        bench.volume.submit(&mut witness).unwrap();
        bench.append(1, 4, 1, b"never durable");
        let mut write = bench.log.seal().unwrap();
        bench.volume.submit(&mut write).unwrap();
        bench.volume.power_loss(|_| fate);
        let bench = bench.reopen();
        assert_eq!(bench.recovery.report.forgetting, None, "{fate:?}");
        assert!(!bench.recovered(1).tainted, "{fate:?}");
    }
}

#[test]
fn a_failed_write_of_the_witness_closes_the_log_and_one_not_carried_out_is_made_again() {
    let mut bench = Bench::new();
    bench.group_of(1, 3);
    let operation = bench.log.renew_witness().unwrap();
    bench
        .log
        .on_complete(operation.id(), Err(libc::EINTR))
        .unwrap();
    assert!(bench.log.witness_lags());
    let operation = bench.log.renew_witness().unwrap();
    assert!(
        bench
            .log
            .on_complete(operation.id(), Err(libc::EIO))
            .is_err()
    );
    let poisoned = bench.log.poisoned().unwrap().to_string();
    assert!(poisoned.contains("witness"), "{poisoned}");
    assert_eq!(
        bench.log.renew_witness().map(|operation| operation.id()),
        None
    );
}

/// No bad sector under it keeps a log closed, whatever else it holds.
#[test]
fn a_witness_that_cannot_be_read_or_written_is_replaced() {
    for place in [0, STRIDE as u64] {
        let (mut bench, newest) = long_log();
        bench.volume.spoil(WITNESS_SLOT, place, BadSector::Dead);
        let mut bench = bench.reopen();
        assert_eq!(
            bench.recovery.report.forgetting, None,
            "the other place is left"
        );
        for index in 61..64 {
            bench.append(1, index, 1, b"more");
            bench.flush();
            renew(&mut bench);
        }
        let mut volume = bench.volume;
        volume.remove(newest);
        let newer = volume.slots().into_iter().next_back().unwrap();
        assert_ne!(newer, newest);
        has_forgotten(volume, "it says what the old one said, and more");
    }
}
