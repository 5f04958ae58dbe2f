//! Room in the log: what holds the oldest segment, and what always finds room.

use pontoon_storage::memory::MemoryVolume;
use pontoon_storage::{AppendError, LogConfig, RecordKind, Volume};

use pontoon_types::{GroupId, NodeId, Term};

use crate::harness::{Bench, SEGMENT_BYTES, entry_id, payload, small_config};

/// Appends to a group, which keeps its last three entries, for so many segments.
fn go_on(bench: &mut Bench, group: u64, segments: u64) {
    let until = bench.log.statistics().segments + segments;
    while bench.log.statistics().segments < until {
        let last = bench.log.last(GroupId(group)).unwrap().index.0;
        bench.append(group, last + 1, 1, &[7; 3000]);
        let kept = entry_id(last.saturating_sub(2), 1);
        bench.log.compact(GroupId(group), kept);
        bench.flush();
        bench.idle();
    }
}

/// Seen with real nodes: two groups, the second with nothing but its leader's empty entry. The
/// first took entries until its log was full, and then none for ever.
#[test]
#[cfg_attr(miri, ignore = "takes Miri longer than a minute")]
fn an_idle_group_pins_nothing() {
    let mut bench = Bench::new();
    bench.group_of(1, 3);
    bench.log.create_group(GroupId(2), b"idle").unwrap();
    let noop = RecordKind::Noop;
    bench
        .log
        .append_command(GroupId(2), entry_id(1, 1), noop, &[])
        .unwrap();
    bench.group_of(3, 7);
    go_on(&mut bench, 1, 100);
    assert!(bench.volume.slots().len() <= 8);
    let statistics = bench.log.statistics();
    assert!(statistics.relocated_bytes * 10 < statistics.record_bytes);
    for _ in 0..2 {
        bench = bench.reopen();
        assert_eq!(bench.recovery.report.damage, []);
        assert!(bench.recovery.groups.iter().all(|group| !group.tainted));
        assert_eq!(bench.recovered(2).last_index.0, 1);
        assert_eq!(bench.entry(2, 1), Some((1, Vec::new())));
        for index in 1..=7 {
            assert_eq!(bench.entry(3, index), Some((1, payload(3, index, 1))));
        }
        go_on(&mut bench, 1, 20);
    }
    bench.append(3, 8, 2, b"it goes on");
    bench.append(3, 6, 3, b"and is overridden");
    bench.flush();
    let mut bench = bench.reopen();
    assert_eq!(bench.entry(3, 6), Some((3, b"and is overridden".to_vec())));
    assert_eq!(bench.recovered(3).last_index.0, 6);
    assert_eq!(bench.entry(3, 5), Some((1, payload(3, 5, 1))));
}

/// A group that fills the oldest segment whole pins no other segment, as long as all that is needed
/// is little.
#[test]
#[cfg_attr(miri, ignore = "takes Miri longer than a minute")]
fn a_full_segment_of_an_idle_group_moves_on() {
    let mut bench = Bench::new();
    bench.group_of(2, 0);
    for index in 1..=28 {
        bench.append(2, index, 1, &[index as u8; 3900]);
        bench.flush();
    }
    bench.group_of(1, 3);
    go_on(&mut bench, 1, 60);
    let mut bench = bench.reopen();
    for index in 1..=28 {
        assert_eq!(bench.entry(2, index), Some((1, vec![index as u8; 3900])));
    }
}

/// Where everything is needed nothing is moved about.
#[test]
#[cfg_attr(miri, ignore = "takes Miri longer than a minute")]
fn a_log_full_of_what_is_needed_rests() {
    let mut bench = Bench::new();
    fill(&mut bench);
    let before = bench.log.statistics();
    for _ in 0..100 {
        bench.flush();
        bench.idle();
    }
    let after = bench.log.statistics();
    assert!(after.bytes - before.bytes < SEGMENT_BYTES / 8);
}

/// Fills the log with entries of a group 1 that lets go of none; gives how many.
fn fill(bench: &mut Bench) -> u64 {
    bench.group_of(1, 0);
    let mut last = 0;
    loop {
        match bench.log.admit(900) {
            Ok(()) => {
                last += 1;
                bench.append(1, last, 1, &[last as u8; 900]);
                bench.flush();
            }
            Err(AppendError::NoSpace { segments: 8 }) => return last,
            Err(refusal) => panic!("{refusal}"),
        }
    }
}

/// Elections without end in a log that entries have filled: term and vote, a leader's empty entry,
/// states and marks find room in every one of them, also over restarts.
/// A candidate was admitted at the very edge of the room that is kept, and its empty entry follows
/// once its vote is durable, behind that.
#[test]
fn the_empty_entry_of_an_admitted_candidate_finds_room() {
    for blocks in 0..2 {
        let mut bench = Bench::new();
        bench.log.create_group(GroupId(2), b"").unwrap();
        fill(&mut bench);
        let vote = |bench: &mut Bench, term| {
            let vote = Some(NodeId(1));
            bench
                .log
                .save_hard_state(GroupId(2), Term(term), vote)
                .unwrap();
            bench.write();
        };
        for term in 0..blocks {
            vote(&mut bench, term);
        }
        for term in 2.. {
            if bench.log.admit_reserved(256).is_err() {
                assert!(term > 2);
                break;
            }
            vote(&mut bench, term);
            let last = bench.log.last(GroupId(2)).unwrap();
            let (noop, kind) = (entry_id(last.index.0 + 1, term), RecordKind::Noop);
            bench
                .log
                .append_command(GroupId(2), noop, kind, &[])
                .unwrap();
            bench.write();
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes Miri longer than a minute")]
fn term_and_vote_always_find_room() {
    let mut bench = Bench::new();
    bench.log.create_group(GroupId(2), b"").unwrap();
    let mut last = fill(&mut bench);
    for term in 2..=2000 {
        bench.log.admit_reserved(256).unwrap();
        let vote = Some(NodeId(term % 3));
        bench
            .log
            .save_hard_state(GroupId(1), Term(term), vote)
            .unwrap();
        bench.flush();
        if term % 10 == 0 {
            bench.idle();
            bench
                .log
                .define_group(GroupId(2), &term.to_le_bytes())
                .unwrap();
            let noop = entry_id(bench.log.last(GroupId(2)).unwrap().index.0 + 1, term);
            bench
                .log
                .append_command(GroupId(2), noop, RecordKind::Noop, &[])
                .unwrap();
            bench.flush();
        }
        if term % 400 == 0 {
            bench = bench.reopen();
            assert_eq!(bench.recovered(1).current_term.0, term);
            assert_eq!(bench.recovered(1).voted_for, vote);
        }
        // Whatever has become free, entries fill at once.
        while bench.log.admit(900).is_ok() {
            last += 1;
            bench.append(1, last, 1, &[last as u8; 900]);
            bench.flush();
        }
    }
    let mut bench = bench.reopen();
    assert!(bench.volume.slots().len() <= 8);
    assert_eq!(bench.recovered(1).last_index.0, last);
    for index in 1..=last {
        assert_eq!(bench.entry(1, index), Some((1, vec![index as u8; 900])));
    }
    assert_eq!(bench.recovered(2).last_index.0, 200);
    assert_eq!(bench.recovered(2).definition, 2000_u64.to_le_bytes());
}

/// The smallest log there may be: what fills its only written segment is let go of.
#[test]
#[cfg_attr(miri, ignore = "takes Miri longer than a minute")]
fn a_log_of_three_segments_goes_on_for_ever() {
    let config = LogConfig {
        segments_max: 3,
        ..small_config()
    };
    let mut bench = Bench::open(MemoryVolume::new(SEGMENT_BYTES), config).unwrap();
    bench.group_of(2, 2);
    bench.group_of(1, 3);
    for _ in 0..500 {
        let last = bench.log.last(GroupId(1)).unwrap().index.0;
        bench.log.admit(3000).unwrap();
        bench.append(1, last + 1, 1, &[7; 3000]);
        bench.log.compact(GroupId(1), entry_id(last - 2, 1));
        bench.flush();
        bench.idle();
    }
    assert_eq!(bench.volume.slots().len(), 3);
}

/// The first try to prepare a segment fails; it was asked for once more meanwhile, which succeeds.
#[test]
fn a_segment_that_the_second_try_made_is_used() {
    let mut bench = Bench::new();
    bench.log.create_group(GroupId(1), b"").unwrap();
    let mut index = 0;
    let slot = loop {
        if let Some(slot) = bench.log.segments_wanted() {
            break slot;
        }
        index += 1;
        bench.append(1, index, 1, &[1; 3000]);
        while let Some(mut operation) = bench.log.seal() {
            let (id, result) = (operation.id(), bench.volume.run(&mut operation));
            bench.log.on_complete(id, result).unwrap();
        }
    };
    let (_, free) = bench.log.segments();
    bench.volume.prepare(slot).unwrap();
    for (ready, expected) in [(false, free), (true, free + 1), (true, free + 1)] {
        bench.log.on_prepared(slot, ready);
        assert_eq!(bench.log.segments().1, expected);
    }
}

/// Seed 457240638 of the simulator: a disk that had been full since the start, and one segment. The
/// next one was to be begun early, time and again, and nothing was written.
#[test]
fn a_log_without_another_segment_writes_what_it_has_taken() {
    let mut volume = MemoryVolume::new(SEGMENT_BYTES);
    volume.set_slots_max(1);
    let mut bench = Bench::open(volume, small_config()).unwrap();
    bench.log.create_group(GroupId(1), b"alone").unwrap();
    bench.flush();
    let mut index = 0;
    loop {
        // It is looked after before it writes, as a core does in every turn.
        assert!(bench.log.relocate().is_none());
        let taken = bench.log.append_command(
            GroupId(1),
            entry_id(index + 1, 1),
            RecordKind::Command,
            &[7; 3000],
        );
        if taken.is_err() {
            break;
        }
        index += 1;
        bench.log.compact(GroupId(1), entry_id(index, 1));
        while let Some(mut operation) = bench.log.seal() {
            let result = bench.volume.run(&mut operation);
            bench.log.on_complete(operation.id(), result).unwrap();
        }
        assert!(
            !bench.log.staged(),
            "entry {index} was taken and is not written"
        );
    }
    assert!(index > 10, "only {index} entries were taken");
}
