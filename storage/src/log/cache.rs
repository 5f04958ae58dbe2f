//! The cache: the latest entries of each group, readable without the disk.
//!
//! It is the memory that the records were staged in. What is durable is evicted, the oldest frame
//! first, when staging needs memory.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::RangeInclusive;

use pontoon_types::{GroupId, LogIndex};

use super::SegmentLog;
use super::staging::Staged;
use crate::record::{encoded_bytes, u32_at};
use crate::slab::RecordBytes;

/// The order of eviction is not trimmed while it is shorter than this.
const EVICTION_ORDER_MIN: usize = 4096;

/// Cached extents that are looked at one by one, before the others are searched.
const NEWEST_EXTENTS: usize = 8;

/// What memory has of the entries asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheRead {
    /// The pieces hold all records from the first one asked for through this index.
    Hit {
        /// The last index that the pieces hold.
        through: LogIndex,
    },
    /// The first entry is not in memory: [`SegmentLog::read`] it.
    Miss,
}

/// Entries of one group that lie next to each other in memory.
#[derive(Clone, Debug)]
struct CachedExtent {
    first: LogIndex,
    count: u32,
    frame: u64,
    bytes: RecordBytes,
}

/// Where the last walk through a cached extent ended, so that the next one need not start over.
#[derive(Clone, Copy, Debug, Default)]
struct Hint {
    /// First index of the extent.
    extent: LogIndex,
    index: LogIndex,
    offset: usize,
}

/// The entries of one group in memory.
#[derive(Debug, Default)]
pub(crate) struct CachedEntries {
    /// Ascending.
    extents: VecDeque<CachedExtent>,
    hint: Cell<Hint>,
}

impl CachedExtent {
    /// The index after the last entry.
    fn end(&self) -> LogIndex {
        self.first.plus(u64::from(self.count))
    }

    /// Where the record of `index`, which the extent holds or ends just before, begins.
    fn offset_of(&self, index: LogIndex, hint: Hint) -> usize {
        let (mut at, mut offset) = (self.first, 0);
        if hint.extent == self.first && (self.first..=index).contains(&hint.index) {
            (at, offset) = (hint.index, hint.offset);
        }
        let bytes = self.bytes.as_ref();
        while at < index {
            offset += encoded_bytes_at(&bytes[offset..]);
            at = at.next();
        }
        offset
    }

    /// How many entries, from `next` (at `begin`) through `through`, fit `left` bytes.
    ///
    /// Gives the index after them and where they end.
    fn fitting(
        &self,
        next: LogIndex,
        begin: usize,
        through: LogIndex,
        left: usize,
        at_least_one: bool,
    ) -> (LogIndex, usize) {
        let bytes = self.bytes.as_ref();
        if through.next() == self.end() && bytes.len() - begin <= left {
            return (self.end(), bytes.len());
        }
        let (mut end, mut finish) = (next, begin);
        while end <= through {
            let length = encoded_bytes_at(&bytes[finish..]);
            let forced = at_least_one && end == next;
            if finish + length - begin > left && !forced {
                break;
            }
            (end, finish) = (end.next(), finish + length);
        }
        (end, finish)
    }
}

impl CachedEntries {
    /// Adds a staged entry. True if it did not extend the last extent, so that a new one is to be
    /// entered into the order of eviction.
    fn push(&mut self, index: LogIndex, staged: &Staged) -> bool {
        let bytes = staged.location.bytes as usize;
        let start = staged.end - bytes;
        match self.extents.back_mut() {
            Some(last)
                if last.frame == staged.location.frame
                    && last.end() == index
                    && last.bytes.ends_at(&staged.slab, start) =>
            {
                last.count += 1;
                last.bytes.grow(bytes);
                false
            }
            _ => {
                self.extents.push_back(CachedExtent {
                    first: index,
                    count: 1,
                    frame: staged.location.frame,
                    bytes: staged.slab.view(start..staged.end),
                });
                true
            }
        }
    }

    /// Cuts off the entries from `index` on.
    pub(super) fn truncate(&mut self, index: LogIndex) {
        while let Some(extent) = self.extents.back_mut() {
            if extent.first >= index {
                self.extents.pop_back();
                continue;
            }
            if extent.end() > index {
                let kept = extent.offset_of(index, Hint::default());
                extent.count = (index.0 - extent.first.0) as u32;
                extent.bytes = extent.bytes.slice(0..kept);
            }
            break;
        }
        self.hint.set(Hint::default());
    }

    /// Forgets extents up to `index`.
    pub(super) fn forget(&mut self, index: LogIndex) {
        let gone = |extent: &CachedExtent| extent.end() <= index.next();
        while self.extents.front().is_some_and(gone) {
            self.extents.pop_front();
        }
    }

    /// Position of the extent that holds `index` or comes after it. Mostly it is one of the last,
    /// which are looked at first.
    fn position(&self, index: LogIndex) -> usize {
        let newest = self.extents.len().saturating_sub(NEWEST_EXTENTS);
        let is_new = |extent: &CachedExtent| extent.first <= index;
        if self.extents.get(newest).is_some_and(is_new) {
            let before = self.extents.range(newest..);
            newest + before.take_while(|extent| extent.end() <= index).count()
        } else {
            self.extents.partition_point(|extent| extent.end() <= index)
        }
    }

    /// Adds to `pieces` what is here of some entries, from the first on. Gives the index after
    /// them, which is the first when there is none.
    fn read(
        &self,
        entries: RangeInclusive<LogIndex>,
        bytes_max: usize,
        pieces: &mut Vec<RecordBytes>,
    ) -> LogIndex {
        let (first, last) = entries.into_inner();
        let mut position = self.position(first);
        let (mut next, mut left) = (first, bytes_max);
        while next <= last && (left > 0 || next == first) {
            let found = self.extents.get(position);
            let Some(extent) = found.filter(|extent| extent.first <= next) else {
                break;
            };
            let begin = extent.offset_of(next, self.hint.get());
            let through = last.min(extent.end().previous());
            let (end, finish) = extent.fitting(next, begin, through, left, next == first);
            if end == next {
                break;
            }
            if end < extent.end() {
                self.hint.set(Hint {
                    extent: extent.first,
                    index: end,
                    offset: finish,
                });
            }
            pieces.push(extent.bytes.slice(begin..finish));
            left = left.saturating_sub(finish - begin);
            (next, position) = (end, position + 1);
            if end <= through {
                break;
            }
        }
        next
    }

    /// True when an extent of this frame is here.
    fn holds_frame(&self, frame: u64) -> bool {
        let position = self.extents.partition_point(|extent| extent.frame < frame);
        let found = self.extents.get(position);
        found.is_some_and(|extent| extent.frame == frame)
    }

    /// Lets go of the oldest extent, if it is of this frame.
    fn evict(&mut self, frame: u64) {
        let oldest = self.extents.front();
        if oldest.is_some_and(|extent| extent.frame == frame) {
            self.extents.pop_front();
        }
    }
}

/// Length of the record at the start of trusted bytes.
fn encoded_bytes_at(bytes: &[u8]) -> usize {
    encoded_bytes((u32_at(bytes, 24) & 0x00ff_ffff) as usize)
}

/// The cached extents of all groups, in the order in which they are evicted.
#[derive(Debug)]
pub(super) struct EvictionOrder {
    /// As (frame, group), by ascending frame. Compaction and overrides leave some here that are
    /// cached no more.
    extents: VecDeque<(u64, GroupId)>,
    /// How long it may grow before those are left out.
    length_max: usize,
}

impl EvictionOrder {
    pub(super) fn new() -> Self {
        Self {
            extents: VecDeque::new(),
            length_max: EVICTION_ORDER_MIN,
        }
    }
}

impl SegmentLog {
    /// Adds to `pieces` what memory has of some of a group's entries, from the first on.
    ///
    /// Stops before `bytes_max` is passed, but gives at least one entry. Copies no data.
    pub fn cached(
        &self,
        group: GroupId,
        entries: RangeInclusive<LogIndex>,
        bytes_max: usize,
        pieces: &mut Vec<RecordBytes>,
    ) -> CacheRead {
        let first = *entries.start();
        let found = self.groups.get(&group);
        let Some(group) = found.filter(|group| first > group.state.compacted.index) else {
            return CacheRead::Miss;
        };
        let next = group.cached.read(entries, bytes_max, pieces);
        if next == first {
            return CacheRead::Miss;
        }
        self.cache_hits.set(self.cache_hits.get() + 1);
        CacheRead::Hit {
            through: next.previous(),
        }
    }

    /// Enters a staged entry into the cache.
    pub(super) fn cache_entry(&mut self, id: GroupId, index: LogIndex, staged: &Staged) {
        let group = self.groups.get_mut(&id);
        let group = group.expect("checked before the record was staged");
        if group.cached.push(index, staged) {
            let order = &mut self.eviction_order;
            order.extents.push_back((staged.location.frame, id));
            if order.extents.len() >= order.length_max {
                self.trim_eviction_order();
            }
        }
    }

    /// Leaves out extents that compaction or an override has already let go of.
    fn trim_eviction_order(&mut self) {
        let Self {
            groups,
            eviction_order: order,
            ..
        } = self;
        order.extents.retain(|(frame, group)| {
            let group = groups.get(group);
            group.is_some_and(|group| group.cached.holds_frame(*frame))
        });
        order.length_max = EVICTION_ORDER_MIN.max(2 * order.extents.len());
    }

    /// Lets go of the oldest durable entries in memory until staging has its part of the arena.
    pub(super) fn evict(&mut self) {
        let kept = self.config.staging_bytes / self.config.slab_bytes;
        while self.pool.slabs_free() < kept {
            let oldest = self.eviction_order.extents.front().copied();
            let durable = |(frame, _): &(u64, GroupId)| *frame <= self.writer.durable_frame;
            let Some((frame, group)) = oldest.filter(durable) else {
                return;
            };
            self.eviction_order.extents.pop_front();
            if let Some(group) = self.groups.get_mut(&group) {
                group.cached.evict(frame);
            }
        }
    }
}
