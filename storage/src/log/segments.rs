//! Segments: which are live, which are free, when one may be used again, when more are wanted.
//!
//! A segment is freed strictly oldest first, and used again only after a durable frame has said
//! that it is not needed: until then recovery still looks for it.

use std::collections::{BTreeSet, VecDeque};

use pontoon_types::{GroupId, LogIndex};

use super::SegmentLog;
use crate::config::LogConfig;
use crate::error::AppendError;
use crate::layout::{ENDS_MAX, EpochEnd, SegmentHeader};
use crate::mutant::Mutant;

/// Free segments that entries leave alone, so that what must always find room does: term and vote,
/// a leader's empty entry, compaction, state, marks. They fill one, and the other takes what
/// relocation moves there until the oldest segment is free.
const SEGMENTS_KEPT: usize = 2;

/// The part of the current segment that entries leave alone as well.
const HEADROOM_DIVISOR: u64 = 8;

/// The part of the last segment that is left for starts, each of which takes a block.
const STARTS_DIVISOR: u64 = 16;

/// Segments set aside for their bad sectors that don't count among those there may be.
const SET_ASIDE_UNCOUNTED: usize = 4;

/// With at most so many free segments besides those kept, a log that can't have more is short of
/// room.
const SEGMENTS_SHORT: usize = 1;

/// A segment that holds something that is needed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LiveSegment {
    pub(crate) sequence: u64,
    pub(crate) slot: u32,
    /// Number of the last frame in it so far.
    pub(crate) last_frame: u64,
}

/// The segments of a log.
#[derive(Debug)]
pub(crate) struct Space {
    /// Oldest first; the last one is being written.
    pub(crate) live: VecDeque<LiveSegment>,
    /// Freed, but no durable frame says so yet.
    freed: VecDeque<LiveSegment>,
    /// Prepared and free, in the order they will be used.
    pub(crate) free: VecDeque<u32>,
    /// The slot that is being prepared elsewhere.
    preparing: Option<u32>,
    /// It was asked for once more.
    hurried: bool,
    /// Free segments wanted besides one that entries can use next.
    ahead: usize,
    /// The slots that segments have, and one below which all are among them.
    used_slots: BTreeSet<u32>,
    next_slot: u32,
    /// The slot whose header is being written: no longer free, not yet live.
    rolling: Option<u32>,
    /// The next segment is to be begun although this one is not full.
    pub(super) roll_early: bool,
    /// The last segment that was asked for could not be made.
    preparation_failed: bool,
    /// That was for want of descriptors.
    lacks_descriptors: bool,
    segments_max: u32,
    /// Slots with bad sectors: none of them is used again, and no other gets its number.
    unsound: BTreeSet<u32>,
    pub(crate) epoch: u64,
    /// Where the next frame goes in the segment that is being written.
    pub(crate) offset: u64,
    /// What the next frame says is the oldest segment needed.
    pub(crate) oldest_live: u64,
    /// The same, as said by a durable frame.
    pub(crate) oldest_durable: u64,
    /// Oldest segments needed once all frames up to the given one are durable.
    announced: VecDeque<(u64, u64)>,
    pub(crate) ends: Vec<EpochEnd>,
}

impl Space {
    /// The segments as recovery left them: an epoch has begun, with the oldest segment that is
    /// needed and the ends of the epochs before it; the next frame goes to `offset` in the last of
    /// `live`.
    pub(crate) fn new(
        live: VecDeque<LiveSegment>,
        free: VecDeque<u32>,
        segments_max: u32,
        (epoch, oldest, ends): (u64, u64, Vec<EpochEnd>),
        offset: u64,
    ) -> Self {
        Self {
            used_slots: live
                .iter()
                .map(|segment| segment.slot)
                .chain(free.iter().copied())
                .collect(),
            next_slot: 0,
            live,
            freed: VecDeque::new(),
            free,
            preparing: None,
            hurried: false,
            ahead: 0,
            rolling: None,
            roll_early: false,
            preparation_failed: false,
            lacks_descriptors: false,
            segments_max,
            unsound: BTreeSet::new(),
            epoch,
            offset,
            oldest_live: oldest,
            oldest_durable: oldest,
            announced: VecDeque::new(),
            ends,
        }
    }

    /// These slots have bad sectors.
    pub(crate) fn leave_out(&mut self, unsound: BTreeSet<u32>) {
        self.used_slots.extend(&unsound);
        self.unsound = unsound;
    }

    /// Most segments there may be: those set aside take their space, but for a few.
    fn segments_max(&self) -> u32 {
        let live = self.live.iter().chain(&self.freed);
        let live = live.filter(|segment| self.unsound.contains(&segment.slot));
        let aside = self.unsound.len() - live.count();
        let counted = aside.saturating_sub(SET_ASIDE_UNCOUNTED) as u32;
        self.segments_max.saturating_sub(counted)
    }

    /// All segments there are.
    pub(super) fn segments(&self) -> u32 {
        let rolling = usize::from(self.rolling.is_some());
        (self.live.len() + self.freed.len() + self.free.len() + rolling) as u32
    }

    /// The segment that is being written.
    pub(super) fn current(&mut self) -> &mut LiveSegment {
        self.live
            .back_mut()
            .expect("a log always has a segment to write to")
    }

    /// Whether segments are freed that can't be used again yet.
    pub(super) fn has_freed(&self) -> bool {
        !self.freed.is_empty()
    }

    /// Whether no frame has said of some of these that they are free.
    pub(super) fn has_unannounced(&self) -> bool {
        !self.announced.is_empty()
    }

    /// Free segments that entries leave alone: as many as there are, at first.
    fn kept(&self) -> usize {
        SEGMENTS_KEPT.min(self.segments() as usize - 1)
    }

    /// Whether what must always find room has begun to use the free segments kept for it.
    pub(super) fn is_reserve_eaten(&self) -> bool {
        self.free.len() < self.kept()
    }

    /// Whether more segments may be made, as far as is known.
    pub(super) fn can_grow(&self) -> bool {
        self.segments() < self.segments_max() && !self.preparation_failed
    }

    /// Why there is no room.
    pub(super) fn refusal(&self) -> AppendError {
        let segments = self.segments();
        if self.can_grow() {
            AppendError::Preparing { segments }
        } else if self.lacks_descriptors && self.segments() < self.segments_max() {
            AppendError::NoDescriptors { segments }
        } else {
            AppendError::NoSpace { segments }
        }
    }

    /// Whether `bytes` more, of any frames, leave the room that is kept for what must always find
    /// it.
    pub(super) fn has_room(&self, bytes: usize, config: &LogConfig) -> bool {
        let rolls = self.free.len().checked_sub(self.kept());
        let headroom = config.segment_bytes / HEADROOM_DIVISOR;
        rolls.is_some_and(|rolls| bytes as u64 + headroom <= self.room(rolls, config))
    }

    /// The same, but for the part of the current segment that is kept for it.
    pub(super) fn has_any_room(&self, bytes: usize, config: &LogConfig) -> bool {
        let rolls = self.free.len().checked_sub(self.kept());
        rolls.is_some_and(|rolls| bytes as u64 <= self.room(rolls, config))
    }

    /// Whether there is room for `bytes` more of what must always find it. That leaves enough for
    /// relocation to free a segment, and of a log with few segments enough for starts.
    pub(super) fn has_reserved_room(&self, bytes: usize, config: &LogConfig) -> bool {
        let left = if self.segments() as usize > SEGMENTS_KEPT {
            config.segment_bytes + config.segment_bytes / STARTS_DIVISOR
        } else {
            0
        };
        self.has_room_to_move(bytes + left as usize, config)
    }

    /// Whether `bytes` more fit at all.
    pub(super) fn has_last_room(&self, bytes: usize, config: &LogConfig) -> bool {
        bytes as u64 <= self.room(self.free.len(), config)
    }

    /// Whether relocation finds room for `bytes` more.
    pub(super) fn has_room_to_move(&self, bytes: usize, config: &LogConfig) -> bool {
        let left = config.segment_bytes / STARTS_DIVISOR;
        bytes as u64 + left <= self.room(self.free.len(), config)
    }

    /// Bytes of frames that fit the rest of this segment and so many free ones.
    fn room(&self, rolls: usize, config: &LogConfig) -> u64 {
        let frame = u64::from(config.frame_bytes_max);
        let left = config.segment_bytes - self.offset;
        if rolls == 0 {
            return left;
        }
        // Each segment has a header, and may end with a gap that the next frame did not fit into.
        let whole = config.segment_bytes - frame;
        left.saturating_sub(frame) + rolls as u64 * whole
    }

    /// Takes the next free segment to write to, if one is left.
    pub(super) fn take_free(&mut self) -> Option<u32> {
        self.rolling = self.free.pop_front();
        self.rolling
    }

    /// The header of the segment is durable: it is the one to be written from now on.
    pub(super) fn rolled(&mut self, segment: LiveSegment, block: usize) {
        self.rolling = None;
        self.live.push_back(segment);
        self.offset = block as u64;
    }

    /// The oldest segment needed, as frame `number` may announce it.
    pub(super) fn announce(&mut self, number: u64) -> u64 {
        while self
            .announced
            .front()
            .is_some_and(|(since, _)| *since <= number)
        {
            let (_, oldest) = self.announced.pop_front().expect("looked at");
            self.oldest_live = oldest;
        }
        self.oldest_live
    }

    /// A durable frame has said that segments below `oldest` are not needed.
    pub(super) fn oldest_is_durable(&mut self, oldest: u64) {
        self.oldest_durable = oldest;
        while self
            .freed
            .front()
            .is_some_and(|segment| segment.sequence < oldest)
        {
            let segment = self.freed.pop_front().expect("looked at");
            if self.unsound.contains(&segment.slot) {
                let slot = segment.slot;
                tracing::warn!(
                    slot,
                    "a segment with bad sectors is free: it is not used again"
                );
                continue;
            }
            self.free.push_back(segment.slot);
        }
    }

    /// The first slot that no segment has. Slots stay in use, so it is looked for only upwards.
    fn new_slot(&mut self) -> Option<u32> {
        if self.segments() >= self.segments_max() {
            return None;
        }
        while self.used_slots.contains(&self.next_slot) {
            self.next_slot += 1;
        }
        Some(self.next_slot)
    }
}

impl SegmentLog {
    /// Frees segments, oldest first, that nothing staged or durable needs any more.
    pub(super) fn free_segments(&mut self) {
        let held = self.frames.first_held(self.writer.durable_frame);
        let needed = held.min(self.checkpoint.first_frame());
        let space = &mut self.space;
        let before = space.freed.len();
        while space.live.len() > 1 && space.live[0].last_frame < needed {
            let segment = space.live.pop_front().expect("more than one");
            if self.config.is(Mutant::FreesEarly) {
                space.free.push_front(segment.slot);
            } else {
                space.freed.push_back(segment);
            }
        }
        let freed = space.freed.len() - before;
        if freed > 0 {
            // The records that freed these segments may be in the newest staged frame: no frame
            // before that one may announce them free.
            let newest = self.staging.next_number - 1;
            space.announced.push_back((newest, space.live[0].sequence));
            self.statistics.segments_freed += freed as u64;
        }
    }

    /// A slot to prepare, when too few segments are free and more are allowed.
    ///
    /// Asked again after a failure, so whoever prepares waits a little before it tries again. Asked
    /// once more while it is being prepared, when entries have no room until it is there: whoever
    /// prepares should make haste then.
    pub fn segments_wanted(&mut self) -> Option<u32> {
        let enough = self.space.free.len() > SEGMENTS_KEPT + self.space.ahead;
        if enough || self.writer.poisoned.is_some() {
            return None;
        }
        if self.space.preparing.is_some() {
            // Commands of any size are refused from here on.
            let frame = self.staging.bytes(self.block) + self.config.frame_bytes_max as usize;
            let waits = !self.space.hurried && !self.space.has_room(frame, &self.config);
            self.space.hurried |= waits;
            return self.space.preparing.filter(|_| waits);
        }
        self.space.hurried = false;
        self.space.preparing = self.space.new_slot();
        self.space.preparing
    }

    /// Sets how many more segments should be free than one that entries can use next; none, unless
    /// this is called.
    pub fn set_segments_ahead(&mut self, ahead: usize) {
        self.space.ahead = ahead;
    }

    /// Takes a segment that [`segments_wanted`](Self::segments_wanted) asked for; `ok` is false
    /// when it could not be prepared.
    pub fn on_prepared(&mut self, slot: u32, ok: bool) {
        let space = &mut self.space;
        if space.preparing == Some(slot) {
            space.preparing = None;
            space.preparation_failed = !ok;
            space.lacks_descriptors = false;
        }
        // Asked for once more, it may be there after the first try has failed.
        if ok && space.preparing.is_none() && space.used_slots.insert(slot) {
            space.preparation_failed = false;
            space.free.push_back(slot);
        }
    }

    /// A segment that was asked for could not be prepared, for want of descriptors.
    pub fn on_no_descriptors(&mut self, slot: u32) {
        self.on_prepared(slot, false);
        self.space.lacks_descriptors = self.space.preparation_failed;
    }

    /// Whether more segments can be made, as far as is known.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn can_grow(&self) -> bool {
        self.space.can_grow()
    }

    /// Whether few segments are free and no more can be made, so that what holds the oldest ones
    /// should be let go of, and is [relocated](Self::relocate) where it is not.
    #[must_use]
    pub fn is_short_of_room(&self) -> bool {
        let space = &self.space;
        !space.can_grow() && space.free.len() <= space.kept() + SEGMENTS_SHORT
    }

    /// Whether most of the room there may be is used, or none can be made: what holds the oldest
    /// segment should let go of it.
    #[must_use]
    pub fn is_short(&self) -> bool {
        4 * self.used() >= 3 * self.segments_for_entries() || self.is_full()
    }

    /// Whether at most one more segment can be used: what is held for those who may never come is
    /// to be let go of now.
    #[must_use]
    pub fn is_nearly_full(&self) -> bool {
        self.is_used_up() || self.is_full()
    }

    /// Whether at most one more of all the segments there may be can be used.
    #[must_use]
    pub fn is_used_up(&self) -> bool {
        self.used() + 1 >= self.segments_for_entries()
    }

    fn used(&self) -> u32 {
        self.space.segments() - self.space.free.len() as u32
    }

    /// Most segments that entries may use.
    fn segments_for_entries(&self) -> u32 {
        self.space
            .segments_max()
            .saturating_sub(SEGMENTS_KEPT as u32)
    }

    fn is_full(&self) -> bool {
        self.admit(0).is_err_and(|error| error.is_full())
    }

    /// Bytes of all segments there may be.
    #[must_use]
    pub fn bytes_max(&self) -> u64 {
        u64::from(self.space.segments_max()) * self.config.segment_bytes
    }

    /// How many bytes a group's entries have: runs of them, each by its last index, ascending.
    pub fn entry_runs(&self, group: GroupId) -> impl Iterator<Item = (LogIndex, u64)> {
        let group = self.groups.get(&group);
        group.into_iter().flat_map(|group| group.extents.runs())
    }

    /// Bytes of a group's entries from `first` on, in whole extents.
    #[must_use]
    pub fn bytes_from(&self, group: GroupId, first: LogIndex) -> u64 {
        let group = self.groups.get(&group);
        group.map_or(0, |group| group.extents.bytes_from(first))
    }

    /// A slot that holds nothing that is needed, for measuring the disk.
    #[must_use]
    pub fn free_slot(&self) -> Option<u32> {
        self.space.free.front().copied()
    }

    /// How many segments hold something that is needed (or may, as far as is durable), and how many
    /// are prepared and free.
    #[must_use]
    pub fn segments(&self) -> (usize, usize) {
        (
            self.space.live.len() + self.space.freed.len(),
            self.space.free.len(),
        )
    }

    /// The header for the segment after the current one.
    pub(super) fn next_header(&mut self, first_frame: u64) -> SegmentHeader {
        let oldest = self.space.oldest_durable;
        let ends = &mut self.space.ends;
        ends.retain(|end| end.sequence >= oldest);
        if ends.len() > ENDS_MAX {
            ends.drain(..ends.len() - ENDS_MAX);
        }
        SegmentHeader {
            identity: self.config.identity,
            block_bytes: self.block as u32,
            segment_bytes: self.config.segment_bytes,
            sequence: self.space.current().sequence + 1,
            epoch: self.space.epoch,
            first_frame,
            durable_frame: self.writer.durable_frame,
            oldest_live: oldest,
            ends: self.space.ends.clone(),
        }
    }
}
