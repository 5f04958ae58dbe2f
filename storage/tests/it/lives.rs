//! What a log remembers of its own lives and of its peers, and what becomes of a copy of it.

use pontoon_storage::{Life, LogConfig};
use pontoon_types::{GroupId, NodeId};

use crate::harness::{Bench, SEGMENT_BYTES, entry_id, small_config};
use pontoon_storage::memory::MemoryVolume;

/// A start with this random number.
fn open(volume: MemoryVolume, nonce: u64) -> Bench {
    let config = LogConfig {
        nonce,
        ..small_config()
    };
    Bench::open(volume, config).unwrap()
}

/// A start, and the life that it began, durably.
fn start(volume: MemoryVolume, nonce: u64) -> (Bench, Life) {
    let mut bench = open(volume, nonce);
    if !bench.log.life_is_durable() {
        bench.log.save_life().unwrap();
        bench.flush();
    }
    let life = bench.log.life();
    (bench, life)
}

#[test]
fn a_log_remembers_its_lives_and_a_copy_that_went_on_does_not() {
    let (bench, first) = start(MemoryVolume::new(SEGMENT_BYTES), 11);
    let copy = bench.volume.clone();
    let (bench, second) = start(bench.volume, 12);
    assert!(second > first);
    let (bench, third) = start(bench.volume, 13);
    for life in [first, second, third] {
        assert!(bench.log.remembers(life), "{life:?}");
    }
    let (copy, other) = start(copy, 22);
    assert!(copy.log.remembers(first));
    assert_eq!(other.epoch, second.epoch);
    assert!(!copy.log.remembers(second), "it never was in that life");
    let (empty, _) = start(MemoryVolume::new(SEGMENT_BYTES), 33);
    assert!(!empty.log.remembers(first));
}

/// The segment in which it was noted is used again meanwhile.
#[test]
#[cfg_attr(miri, ignore = "takes Miri longer than a minute")]
fn peers_that_were_met_are_remembered_for_good() {
    let (mut bench, own) = start(MemoryVolume::new(SEGMENT_BYTES), 11);
    let theirs = Life {
        generation: 3,
        epoch: 5,
        nonce: 7,
    };
    bench.log.save_met(NodeId(3), theirs).unwrap();
    bench.group_of(1, 0);
    let mut index = 0;
    while bench.log.statistics().segments_freed < 5 {
        index += 1;
        bench.append(1, index, 1, &[7; 3000]);
        bench
            .log
            .compact(GroupId(1), entry_id(index.saturating_sub(2), 1));
        bench.flush();
        bench.idle();
    }
    let (bench, _) = start(bench.volume, 12);
    assert_eq!(bench.log.met(NodeId(3)), Some(theirs));
    assert_eq!(bench.log.met(NodeId(4)), None);
    assert!(bench.log.remembers(own));
}

#[test]
fn what_a_log_has_forgotten_is_repaired_group_by_group_and_not_believed_before() {
    let (mut bench, _) = start(MemoryVolume::new(SEGMENT_BYTES), 11);
    bench.group_of(1, 2);
    bench.group_of(2, 2);
    let elsewhere = Life {
        generation: 4,
        epoch: 9,
        nonce: 99,
    };
    bench.log.forget(elsewhere);
    bench.log.save_life().unwrap();
    bench
        .log
        .create_group(GroupId(3), b"made afterwards")
        .unwrap();
    bench.log.set_tainted(GroupId(1), false).unwrap();
    bench.flush();
    let forgot = |bench: &Bench| [1, 2, 3].map(|group| bench.log.has_forgotten(GroupId(group)));
    assert_eq!(forgot(&bench), [false, true, true]);
    let (bench, life) = start(bench.volume, 12);
    assert_eq!(forgot(&bench), [false, true, true]);
    let recovered = [1, 2, 3].map(|group| bench.recovered(group).forgot);
    assert_eq!(recovered, [false, true, true]);
    assert_eq!(
        life.generation, 5,
        "later than what was remembered elsewhere"
    );
    assert!(
        bench.log.remembers(elsewhere),
        "whoever says so again is answered that it is over"
    );
}

/// A start takes one frame, in which its life is: however full the disk is, peers can be told.
#[test]
fn a_start_in_the_rest_of_a_segment_makes_its_life_durable_at_once() {
    let mut volume = MemoryVolume::new(SEGMENT_BYTES);
    volume.set_slots_max(1);
    let (bench, _) = start(volume, 11);
    let mut volume = bench.volume;
    for nonce in 12..16 {
        let bench = open(volume, nonce);
        assert!(bench.log.life_is_durable());
        assert_eq!(bench.log.statistics().frames, 0);
        volume = bench.volume;
    }
    let (bench, _) = start(volume, 16);
    assert!((12..16).all(|nonce| {
        let epoch = nonce - 10;
        bench.log.remembers(Life {
            generation: 1,
            epoch,
            nonce,
        })
    }));
}

/// The first segment of a log of format 2, as this crate wrote it in two lives: group 7 with six
/// entries. Zeros at its end are left out.
const VERSION_2: &[u8] = include_bytes!("../formats/version-2.segment");

#[test]
fn a_log_of_the_format_without_lives_opens_and_goes_on() {
    let mut volume = MemoryVolume::new(SEGMENT_BYTES);
    pontoon_storage::Volume::prepare(&mut volume, 0).unwrap();
    volume.image_mut(0).unwrap()[..VERSION_2.len()].copy_from_slice(VERSION_2);
    let (mut bench, life) = start(volume, 11);
    assert_eq!(bench.recovery.report.damage, []);
    assert_eq!((life.generation, life.epoch), (1, 3));
    let group = bench.recovered(7);
    assert_eq!(
        (group.last_index.0, group.tainted, group.forgot),
        (6, false, false)
    );
    for index in 1..=6 {
        let payload = format!("entry {index}").into_bytes();
        assert_eq!(bench.entry(7, index), Some((1, payload)));
    }
    bench.append(7, 7, 1, b"in the newest format");
    bench.flush();
    let (mut bench, later) = start(bench.volume, 12);
    assert!(bench.log.remembers(life) && later > life);
    assert_eq!(
        bench.entry(7, 7),
        Some((1, b"in the newest format".to_vec()))
    );
    assert!(!bench.recovered(7).forgot);
}
