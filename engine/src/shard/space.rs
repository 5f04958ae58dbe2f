//! Room in the log: segments made ready in time, marks when it falls idle, compaction.

use pontoon_raft::Time;
use pontoon_storage::SegmentLog;

use super::groups::Groups;
use super::reads::ReadPurpose;
use crate::port::Operation;

/// The log has been idle for this long when a mark says that its last frame is durable.
const MARK_DELAY: u64 = 100_000_000;

/// A segment that could not be made ready is tried again after this: the disk may be full. The wait
/// doubles with each failure, but not far: where the file system reserves space before it writes, a
/// try that fails costs nothing.
const PREPARE_AGAIN: u64 = 250_000_000;

/// Longest wait before a segment is tried again.
const PREPARE_AGAIN_MAX: u64 = 1_000_000_000;

/// A log that is full for this long, in nanoseconds, is worth a line.
const FULL_FOR: u64 = 1_000_000_000;

/// As many segments are prepared ahead as the log grew by in this time.
const AHEAD_INTERVAL: u64 = 2_000_000_000;

/// Most segments prepared ahead.
const AHEAD_MAX: usize = 16;

/// With more segments than this in use, groups are compacted as far as they allow.
const SEGMENTS_KEPT: usize = 2;

/// How often that is looked into, while it is so.
const COMPACT_INTERVAL: u64 = 50_000_000;

const NEVER: Time = Time(u64::MAX);

/// When the log is next looked after.
#[derive(Debug)]
pub(super) struct Space {
    mark_at: Time,
    prepare_at: Time,
    /// Wait after the next failure to prepare a segment.
    prepare_again: u64,
    /// When the segments in use were last counted, how many there were, and by how many they had
    /// grown in the interval before.
    counted: (Time, usize, usize),
    compact_at: Time,
    /// Since when the log has no room for anything.
    full_since: Option<Time>,
    /// That was said.
    full_said: bool,
    /// Frames sealed when the mark was last put off.
    frames_seen: u64,
}

impl Space {
    pub(super) fn new() -> Self {
        Self {
            mark_at: NEVER,
            prepare_at: Time(0),
            prepare_again: PREPARE_AGAIN,
            counted: (Time(0), SEGMENTS_KEPT + 1, 0),
            compact_at: Time(0),
            full_since: None,
            full_said: false,
            frames_seen: 0,
        }
    }

    pub(super) fn deadline(&self, log: &SegmentLog) -> Time {
        let compact_at = if is_compacted(log) { self.compact_at } else { NEVER };
        let prepare_at = Some(self.prepare_at).filter(|time| time.0 > 0);
        compact_at
            .min(prepare_at.unwrap_or(NEVER))
            .min(self.mark_at)
    }
}

/// Whether groups are asked now and then what of the oldest segment they can do without.
fn is_compacted(log: &SegmentLog) -> bool {
    log.segments().0 > SEGMENTS_KEPT || log.is_short_of_room()
}

impl Groups {
    pub(super) fn maintain_log(&mut self, operations: &mut Vec<Operation>) {
        if self.failed {
            return;
        }
        if self.now >= self.space.prepare_at {
            self.space.prepare_at = Time(0);
            self.count_segments();
            if let Some(slot) = self.log.segments_wanted() {
                operations.push(Operation::Prepare { slot });
            }
        }
        if is_compacted(&self.log) && self.now >= self.space.compact_at {
            self.space.compact_at = self.now.after(COMPACT_INTERVAL);
            self.compact_oldest();
        }
        self.relocate(operations);
        self.mark(operations);
        self.renew_witness(operations);
        self.notice_room();
    }

    /// Has segments prepared ahead at the rate at which the log grows. A log that is given back as
    /// many as it begins needs none, and zeros would only take the disk from its writes.
    fn count_segments(&mut self) {
        // So many are in use before any is asked for.
        let in_use = self.log.segments().0.max(SEGMENTS_KEPT + 1);
        let (at, before, earlier) = self.space.counted;
        let lately = in_use.saturating_sub(before);
        if self.now.since(at) >= AHEAD_INTERVAL {
            self.space.counted = (self.now, in_use, lately);
        }
        self.log.set_segments_ahead(lately.max(earlier).min(AHEAD_MAX));
    }

    /// Writes again what holds the oldest segment of a log that is short of room, a piece a turn.
    fn relocate(&mut self, operations: &mut Vec<Operation>) {
        if let Some(operation) = self.log.relocate() {
            let purpose = ReadPurpose::Relocation;
            self.reads.begin(operation.id(), purpose, self.now);
            operations.push(Operation::Disk(operation));
        }
    }

    /// Says that the log is full, or has room again. A burst that only outruns the preparing of the
    /// next segment is not worth a line.
    fn notice_room(&mut self) {
        let full = self.is_full();
        let since = self.space.full_since.filter(|_| full);
        let since = since.or_else(|| full.then_some(self.now));
        self.space.full_since = since;
        let lasts = since.is_some_and(|since| self.now.since(since) >= FULL_FOR);
        if full && !lasts || lasts == self.space.full_said {
            return;
        }
        self.space.full_said = lasts;
        let (node, (segments, _)) = (self.config.node, self.log.segments());
        if full {
            tracing::warn!(%node, segments, "the log is full: nothing is taken until it has room");
        } else {
            tracing::info!(%node, segments, "the log has room again");
        }
    }

    /// Rot of the last frame can't be told from a torn write until something behind it says that
    /// it was durable; when nothing else does, a mark does.
    fn mark(&mut self, operations: &mut Vec<Operation>) {
        let statistics = self.log.statistics();
        let frames = statistics.frames - statistics.marks;
        if frames != self.space.frames_seen {
            self.space.frames_seen = frames;
            self.space.mark_at = self.now.after(MARK_DELAY);
        } else if self.now >= self.space.mark_at {
            match self.log.idle() {
                // A new segment's header may have to go first.
                Some(operation) => {
                    self.room.on_write_begun(self.now);
                    operations.push(Operation::Disk(operation));
                    self.space.mark_at = self.now.after(MARK_DELAY);
                }
                // A slow write is still under way, and what it holds is to be marked after it.
                None if self.room.is_writing() => {
                    self.space.mark_at = self.now.after(MARK_DELAY);
                }
                None => self.space.mark_at = NEVER,
            }
        }
    }

    pub(super) fn on_prepared(&mut self, slot: u32, ready: bool) {
        self.log.on_prepared(slot, ready);
        if ready {
            self.space.prepare_again = PREPARE_AGAIN;
        } else {
            self.prepare_later(slot);
        }
    }

    pub(super) fn on_no_descriptors(&mut self, slot: u32) {
        self.log.on_no_descriptors(slot);
        self.prepare_later(slot);
    }

    fn prepare_later(&mut self, slot: u32) {
        let wait = self.space.prepare_again;
        // Said until it has become the usual.
        if wait < PREPARE_AGAIN_MAX {
            tracing::warn!(slot, "a segment could not be made ready; tried again every second");
        }
        self.space.prepare_at = self.now.after(wait);
        self.space.prepare_again = (2 * wait).min(PREPARE_AGAIN_MAX);
    }

    /// Lets go of entries that hold the oldest segment: what their machine can do without and
    /// every member has in its log.
    fn compact_oldest(&mut self) {
        let short = self.log.is_short();
        for group in self.log.oldest_segment_groups() {
            let Some(slot) = self.slot(group) else {
                continue;
            };
            let replica = &mut self.replicas[slot];
            let index = replica.machine_releases(short).min(replica.raft.replicated_everywhere());
            let before = replica.raft.compacted();
            replica.raft.compact(index);
            let compacted = replica.raft.compacted();
            if compacted.index > before.index {
                self.log.compact(group, compacted);
            }
        }
    }
}
