//! A segment log on a disk in memory, opened, read and written as a shard would.

use pontoon::storage::memory::MemoryVolume;
use pontoon::storage::record::Records;
use pontoon::storage::{
    CacheRead, DiskOp, GroupId, LogConfig, LogIndex, OpenError, Recovery, SegmentLog, Volume,
    record,
};

/// An entry: its term and payload.
pub(super) type Entry = (u64, Vec<u8>);

/// A log and its disk.
pub(super) struct OpenLog {
    pub(super) log: SegmentLog,
    pub(super) volume: MemoryVolume,
    pub(super) recovery: Recovery,
}

impl OpenLog {
    pub(super) fn open(mut volume: MemoryVolume, config: &LogConfig) -> Result<Self, OpenError> {
        let (log, recovery) = SegmentLog::open(&mut volume, config.clone())?;
        let mut open = Self {
            log,
            volume,
            recovery,
        };
        open.prepare();
        Ok(open)
    }

    /// Prepares the segments that the log wants.
    pub(super) fn prepare(&mut self) {
        while let Some(slot) = self.log.segments_wanted() {
            let ready = self.volume.prepare(slot).is_ok();
            self.log.on_prepared(slot, ready);
            if !ready {
                return;
            }
        }
    }

    /// Writes everything that is staged.
    pub(super) fn flush(&mut self) {
        while let Some(mut write) = self.log.seal() {
            let result = self.volume.run(&mut write);
            let taken = self.log.on_complete(write.id(), result);
            assert_eq!(taken, Ok(()), "the disk is sound");
            self.prepare();
        }
    }

    /// Every entry that recovery has found, by group.
    pub(super) fn contents(&mut self) -> Vec<(u64, Vec<Entry>)> {
        let groups = self.recovery.groups.clone();
        let of_group = groups.iter().map(|group| {
            let first = group.compacted.index.next().0;
            let indexes = first..=group.last_index.0;
            let entries: Vec<Entry> = indexes
                .map(|index| self.entry(group.group.0, index))
                .collect();
            let position = |index: u64| usize::try_from(index - first).expect("it was read");
            for run in &group.terms {
                assert_eq!(
                    entries[position(run.index.0)].0,
                    run.term.0,
                    "terms are those of entries"
                );
            }
            (group.group.0, entries)
        });
        of_group.collect()
    }

    fn entry(&mut self, group: u64, index: u64) -> Entry {
        let (group, index) = (GroupId(group), LogIndex(index));
        let mut pieces = Vec::new();
        let found = self
            .log
            .cached(group, index..=index, usize::MAX, &mut pieces);
        let bytes: Vec<u8> = if found == CacheRead::Miss {
            let read = self.log.read(group, index..=index, usize::MAX);
            let mut read = read.expect("what recovery found can be read");
            let result = self.volume.run(&mut read);
            let DiskOp::Read { id, buffer, .. } = read else {
                panic!("a read was asked for")
            };
            let records = self.log.on_read(id, buffer, result);
            records.expect("it verified before").as_ref().to_vec()
        } else {
            let slices = pieces.iter().flat_map(AsRef::as_ref);
            slices.copied().collect()
        };
        let record = Records::new(&bytes).next().expect("one record");
        let record: record::Record<'_> = record.expect("it verifies");
        assert_eq!((record.group, record.index), (group, index), "its place");
        (record.term.0, record.payload.to_vec())
    }
}
