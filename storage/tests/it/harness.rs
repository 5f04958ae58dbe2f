//! A log on a volume in memory, driven as a shard would drive it.

use pontoon_storage::memory::MemoryVolume;
use pontoon_storage::record::Records;
use pontoon_storage::{
    CacheRead, DiskOp, LogConfig, LogIdentity, OpenError, RecordKind, Recovery, SegmentLog, Volume,
};
use pontoon_types::{EntryId, GroupId, LogIndex, NodeId, Term};

/// The entry at `index`, of `term`.
pub(crate) const fn entry_id(index: u64, term: u64) -> EntryId {
    EntryId::new(LogIndex(index), Term(term))
}

pub(crate) const IDENTITY: LogIdentity = LogIdentity {
    cluster: 0xC1,
    node: 2,
    core: 0,
    cores: 1,
};
pub(crate) const SEGMENT_BYTES: u64 = 128 << 10;

/// A log so small that a few appends reach every limit.
pub(crate) fn small_config() -> LogConfig {
    LogConfig {
        segment_bytes: SEGMENT_BYTES,
        frame_bytes_max: 16 << 10,
        slab_bytes: 32 << 10,
        staging_bytes: 256 << 10,
        cache_bytes: 64 << 10,
        read_bytes: 64 << 10,
        segments_max: 8,
        state_bytes_per_frame: 1024,
        ..LogConfig::new(IDENTITY)
    }
}

/// A log and its disk.
pub(crate) struct Bench {
    pub(crate) log: SegmentLog,
    pub(crate) volume: MemoryVolume,
    pub(crate) recovery: Recovery,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::open(MemoryVolume::new(SEGMENT_BYTES), small_config()).unwrap()
    }

    pub(crate) fn open(mut volume: MemoryVolume, config: LogConfig) -> Result<Self, OpenError> {
        let (log, recovery) = SegmentLog::open(&mut volume, config)?;
        let mut bench = Self {
            log,
            volume,
            recovery,
        };
        bench.prepare();
        Ok(bench)
    }

    /// The process ends and starts again; what was not written is gone.
    pub(crate) fn reopen(self) -> Self {
        Self::open(self.volume, small_config()).unwrap()
    }

    /// Prepares the segments that the log wants.
    pub(crate) fn prepare(&mut self) {
        while let Some(slot) = self.log.segments_wanted() {
            let ok = self.volume.prepare(slot).is_ok();
            self.log.on_prepared(slot, ok);
            if !ok {
                return;
            }
        }
    }

    /// Writes everything that is staged; gives where each write went. Then relocates what the log
    /// wants to.
    pub(crate) fn flush(&mut self) -> Vec<(u32, u64)> {
        let mut places = Vec::new();
        for _ in 0..1000 {
            places.extend(self.write());
            assert!(!self.log.staged(), "what was taken is written");
            if !self.relocate() {
                return places;
            }
        }
        panic!("relocation does not end: {:?}", self.log.statistics());
    }

    /// Writes everything that is staged, and relocates nothing.
    pub(crate) fn write(&mut self) -> Vec<(u32, u64)> {
        let mut places = Vec::new();
        while let Some(mut operation) = self.log.seal() {
            places.push(self.carry_out(&mut operation));
            self.prepare();
        }
        places
    }

    /// Reads what is to be relocated, and stages it; false if there is nothing.
    pub(crate) fn relocate(&mut self) -> bool {
        let Some(mut operation) = self.log.relocate() else {
            return self.log.staged();
        };
        let result = self.volume.run(&mut operation);
        let DiskOp::Read { id, buffer, .. } = operation else {
            panic!("a read")
        };
        self.log.on_relocation_read(id, buffer, result).unwrap();
        true
    }

    /// Writes the mark of an idle log.
    pub(crate) fn idle(&mut self) -> Option<(u32, u64)> {
        let mut place = None;
        while let Some(mut operation) = self.log.idle() {
            place = Some(self.carry_out(&mut operation));
        }
        place
    }

    fn carry_out(&mut self, operation: &mut DiskOp) -> (u32, u64) {
        let DiskOp::Write {
            id, slot, offset, ..
        } = operation
        else {
            panic!("a write")
        };
        let place = (*slot, *offset);
        let id = *id;
        let result = self.volume.run(operation);
        self.log.on_complete(id, result).unwrap();
        place
    }

    pub(crate) fn append(&mut self, group: u64, index: u64, term: u64, payload: &[u8]) {
        self.log
            .append_command(
                GroupId(group),
                entry_id(index, term),
                RecordKind::Command,
                payload,
            )
            .unwrap();
    }

    /// A group with `count` entries of term 1, each in a frame of its own; gives their places.
    pub(crate) fn group_of(&mut self, group: u64, count: u64) -> Vec<(u32, u64)> {
        self.log
            .create_group(GroupId(group), b"definition")
            .unwrap();
        self.log
            .save_hard_state(GroupId(group), Term(1), Some(NodeId(2)))
            .unwrap();
        self.flush();
        let append = |index: u64| {
            self.append(group, index, 1, &payload(group, index, 1));
            *self.flush().last().unwrap()
        };
        (1..=count).map(append).collect()
    }

    /// An entry as memory or the disk gives it: its term and payload.
    pub(crate) fn entry(&mut self, group: u64, index: u64) -> Option<(u64, Vec<u8>)> {
        let bytes = self.range(group, index, index, usize::MAX)?;
        let record = Records::new(&bytes).next().unwrap().unwrap();
        assert_eq!((record.group.0, record.index.0), (group, index));
        Some((record.term.0, record.payload.to_vec()))
    }

    /// Records of entries `first` to `last`, or of as many as one answer gives.
    pub(crate) fn range(
        &mut self,
        group: u64,
        first: u64,
        last: u64,
        bytes_max: usize,
    ) -> Option<Vec<u8>> {
        let mut pieces = Vec::new();
        if self.log.cached(
            GroupId(group),
            LogIndex(first)..=LogIndex(last),
            bytes_max,
            &mut pieces,
        ) != CacheRead::Miss
        {
            return Some(
                pieces
                    .iter()
                    .flat_map(|piece| piece.as_ref().to_vec())
                    .collect(),
            );
        }
        let mut operation =
            self.log
                .read(GroupId(group), LogIndex(first)..=LogIndex(last), bytes_max)?;
        let result = self.volume.run(&mut operation);
        let DiskOp::Read { id, buffer, .. } = operation else {
            panic!("a read")
        };
        Some(
            self.log
                .on_read(id, buffer, result)
                .unwrap()
                .as_ref()
                .to_vec(),
        )
    }

    /// What recovery said of a group.
    pub(crate) fn recovered(&self, group: u64) -> &pontoon_storage::RecoveredGroup {
        self.recovery
            .groups
            .iter()
            .find(|found| found.group == GroupId(group))
            .unwrap()
    }
}

/// The payload that tests give an entry.
pub(crate) fn payload(group: u64, index: u64, term: u64) -> Vec<u8> {
    let text = format!("group {group} index {index} term {term} ");
    text.into_bytes()
        .into_iter()
        .cycle()
        .take(40 + (index * 7 % 60) as usize)
        .collect()
}
