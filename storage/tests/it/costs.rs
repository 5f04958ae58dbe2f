//! Costs are linear in groups: steps are counted, not time.

use std::io;

use pontoon_storage::memory::MemoryVolume;
use pontoon_storage::{LogConfig, SegmentLog, Volume};

use pontoon_types::GroupId;

use crate::harness::{Bench, SEGMENT_BYTES, entry_id, small_config};

/// A volume that counts what is read.
struct Counting {
    volume: MemoryVolume,
    bytes: u64,
}

impl Volume for Counting {
    fn block_bytes(&self) -> usize {
        self.volume.block_bytes()
    }
    fn segment_bytes(&self) -> u64 {
        self.volume.segment_bytes()
    }
    fn slots(&self) -> Vec<u32> {
        self.volume.slots()
    }
    fn read_at(&mut self, slot: u32, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.bytes += buffer.len() as u64;
        self.volume.read_at(slot, offset, buffer)
    }
    fn write_at(&mut self, slot: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.volume.write_at(slot, offset, bytes)
    }
    fn sync(&mut self, slot: u32) -> io::Result<()> {
        self.volume.sync(slot)
    }
    fn prepare(&mut self, slot: u32) -> io::Result<()> {
        self.volume.prepare(slot)
    }
    fn open_witness(&mut self) -> io::Result<u128> {
        self.volume.open_witness()
    }

    fn replace_witness(&mut self) -> io::Result<u128> {
        self.volume.replace_witness()
    }
}

fn large_config() -> LogConfig {
    LogConfig {
        segments_max: 2000,
        ..small_config()
    }
}

/// A log of so many groups with five entries each, in frames of their own.
fn log_of(groups: u64) -> Bench {
    let mut bench = Bench::open(MemoryVolume::new(SEGMENT_BYTES), large_config()).unwrap();
    for group in 1..=groups {
        bench.log.create_group(GroupId(group), b"").unwrap();
        bench.flush();
    }
    for index in 1..=5 {
        for group in 1..=groups {
            bench.append(group, index, 1, b"entry");
            bench.flush();
        }
    }
    bench
}

#[test]
#[cfg_attr(miri, ignore = "takes Miri longer than a minute")]
fn a_start_reads_every_segment_a_bounded_number_of_times() {
    for groups in [100, 1000] {
        let bench = log_of(groups);
        let segments = bench.volume.slots().len() as u64;
        let mut volume = Counting {
            volume: bench.volume,
            bytes: 0,
        };
        let (_, recovery) = SegmentLog::open(&mut volume, large_config()).unwrap();
        assert_eq!(recovery.groups.len() as u64, groups);
        // To look whose it is, to look at its frames, to replay them.
        assert!(
            volume.bytes <= 3 * segments * SEGMENT_BYTES,
            "{groups} groups"
        );
    }
}

/// What is asked of the log again and again is bounded, however many groups hold its oldest
/// segment, and still comes to each of them.
#[test]
#[cfg_attr(miri, ignore = "takes Miri longer than a minute")]
fn the_groups_that_hold_the_oldest_segment_are_listed_in_bounded_pieces() {
    let config = LogConfig {
        segment_bytes: 1 << 20,
        ..small_config()
    };
    let mut bench = Bench::open(MemoryVolume::new(1 << 20), config).unwrap();
    let groups = 3000;
    for group in 1..=groups {
        bench.log.create_group(GroupId(group), b"").unwrap();
        bench.append(group, 1, 1, b"");
        if group % 50 == 0 {
            bench.flush();
        }
    }
    for index in 2.. {
        if bench.log.statistics().segments > 0 {
            break;
        }
        bench.append(1, index, 1, &[0; 9000]);
        bench.flush();
    }
    let mut listed = std::collections::BTreeSet::new();
    for _ in 0..6 {
        let some = bench.log.oldest_segment_groups();
        assert!(some.len() <= 1024);
        listed.extend(some);
    }
    assert_eq!(listed.len() as u64, groups);
    // Those that let go of it are listed no more.
    for group in 2..=groups {
        bench.log.compact(GroupId(group), entry_id(1, 1));
        bench.flush();
    }
    let some = (0..6).flat_map(|_| bench.log.oldest_segment_groups());
    assert!(
        some.collect::<Vec<_>>()
            .iter()
            .all(|group| *group == GroupId(1))
    );
}

/// A group that is compacted again before its compaction is in the log waits there once.
#[test]
fn a_compaction_is_written_once() {
    let mut bench = Bench::new();
    bench.group_of(1, 40);
    let before = bench.log.statistics().record_bytes;
    for index in 1..=40 {
        bench.log.compact(GroupId(1), entry_id(index, 1));
    }
    bench.flush();
    let written = bench.log.statistics().record_bytes - before;
    assert!(written <= 40 * 32 + 1024, "{written} bytes");
    assert_eq!(bench.reopen().recovered(1).compacted, entry_id(40, 1));
}
