//! Relocation: entries that hold the oldest segment, and that nobody lets go of, are written again
//! at the head of the log, so that the segment can be freed.
//!
//! It is done only when the log is short of room, and only where it frees more than it writes. One
//! piece of a segment is under way at a time: it is read, what is still needed of it is staged in
//! frames that say so, and once these are durable the index points to them.

use std::collections::VecDeque;
use std::ops::Range;

use pontoon_types::{GroupId, LogIndex};

use super::SegmentLog;
use super::extents::Extent;
use super::frames::Holder;
use super::segments::LiveSegment;
use crate::disk::DiskOp;
use crate::error::{Poisoned, WriteFailure};
use crate::layout::FrameKind;
use crate::record;
use crate::slab::ReadBuffer;

/// Extents that are looked at in one call at most.
const HOLDERS_AT_ONCE: usize = 1024;

/// A way round all segments brings back at least this part of one.
const ROUND_DIVISOR: u64 = 4;

/// What is being relocated.
#[derive(Debug, Default)]
pub(super) struct Relocation {
    /// The read that is under way.
    reading: Option<Reading>,
    /// Copies that are staged and not durable, by ascending frame.
    moves: VecDeque<Move>,
    /// Position among the holders of the oldest segment where its groups are listed from.
    cursor: usize,
    /// The way round all segments that brings back the room kept for votes and the like.
    round: Option<Round>,
    /// Bytes of frames written since the log was opened, without repeated state and the frames of
    /// relocated entries: what no relocation has caused.
    pub(super) written_bytes: u64,
}

/// One way round.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// The segment that was being written when it began: the last one that it relocates.
    last_sequence: u64,
    /// Of the relocation, when it began.
    written_bytes: u64,
}

/// A read of a piece of the oldest segment.
#[derive(Debug)]
struct Reading {
    id: u64,
    slot: u32,
    offset: u64,
    length: usize,
    /// The extents that lie in it whole.
    holders: Vec<Holder>,
}

/// Entries whose copies are staged.
#[derive(Debug)]
struct Move {
    group: GroupId,
    /// The frame they lay in.
    source: u64,
    /// Where they will be.
    target: Extent,
}

impl SegmentLog {
    /// Some of the groups whose entries keep the oldest segment from being freed: ask again for
    /// others. The work of a call is bounded, however many groups there are.
    pub fn oldest_segment_groups(&mut self) -> Vec<GroupId> {
        let Some(oldest) = self
            .oldest_but_current()
            .or_else(|| self.only_segment_if_full())
        else {
            return Vec::new();
        };
        self.drop_gone_holders();
        let holders = self.frames.holders();
        let last_frame = oldest.last_frame;
        let ends = |position: usize| {
            let holder = holders.get(position);
            holder.is_none_or(|holder| holder.frame > last_frame)
        };
        let mut position = self.relocation.cursor;
        if ends(position) {
            position = 0;
        }
        let mut groups = Vec::new();
        for _ in 0..HOLDERS_AT_ONCE {
            if ends(position) {
                break;
            }
            let holder = &holders[position];
            if self.held_by(holder).is_some() {
                groups.push(holder.group);
            }
            position += 1;
        }
        self.relocation.cursor = position;
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// Moves on the relocation of what holds the oldest segment: a read to carry out. Its
    /// completion goes to [`on_relocation_read`](Self::on_relocation_read).
    ///
    /// Does nothing unless the log is [short of room](Self::is_short_of_room) and it pays. One read
    /// is under way at most, of no more than a frame; call it once a turn.
    pub fn relocate(&mut self) -> Option<DiskOp> {
        let Relocation { reading, moves, .. } = &self.relocation;
        let busy = reading.is_some() || !moves.is_empty() || self.writer.poisoned.is_some();
        if busy || !self.is_short_of_room() {
            return None;
        }
        self.free_segments();
        if self.space.has_freed() {
            // They can be used again once a durable frame says so.
            if self.space.has_unannounced() {
                self.push_frame();
            }
            return None;
        }
        let Some(oldest) = self.oldest_but_current() else {
            self.roll_if_it_pays();
            return None;
        };
        if !self.has_room_for_the_rest(&oldest) || !self.relocation_pays(&oldest) {
            return None;
        }
        let reading = self.read_oldest(&oldest);
        if reading.is_none() {
            self.push_checkpoint(&oldest);
        }
        reading
    }

    /// Takes the completion of a read of [`relocate`](Self::relocate), and stages what is still
    /// needed of it.
    ///
    /// # Errors
    /// [`Poisoned`] when the same place could not be read twice, and once the log is closed.
    ///
    /// # Panics
    /// If `id` is not that of the read under way.
    pub fn on_relocation_read(
        &mut self,
        id: u64,
        mut buffer: ReadBuffer,
        result: Result<usize, i32>,
    ) -> Result<(), Poisoned> {
        let reading = self.relocation.reading.take();
        let reading = reading.filter(|reading| reading.id == id);
        let reading = reading.expect("a completion answers a read");
        if let Some(poisoned) = &self.writer.poisoned {
            return Err(poisoned.clone());
        }
        let place = (reading.slot, reading.offset);
        let copied = match result {
            Ok(count) if count == reading.length => self.copy(&reading, buffer.as_mut_slice()),
            Ok(written) => Err(WriteFailure::Short {
                written,
                expected: reading.length,
            }),
            Err(errno) => Err(WriteFailure::Errno(errno)),
        };
        match copied {
            Ok(()) => {
                self.failed_reads.retain(|failed| *failed != place);
                Ok(())
            }
            Err(failure) => self.relocation_failed(place, failure).map_or(Ok(()), Err),
        }
    }

    /// The oldest segment, if it is not the one that is being written.
    fn oldest_but_current(&self) -> Option<LiveSegment> {
        let live = &self.space.live;
        live.front().copied().filter(|_| live.len() > 1)
    }

    /// The segment that is being written, if it is the only one and takes no more: once little is
    /// held in it the next is begun.
    fn only_segment_if_full(&self) -> Option<LiveSegment> {
        let longest = self.bytes_on_disk(self.config.record_bytes_max());
        let full = !self.space.has_room(longest, &self.config);
        self.space.live.back().copied().filter(|_| full)
    }

    fn held_by(&self, holder: &Holder) -> Option<&Extent> {
        self.groups.get(&holder.group)?.extents.held_by(holder)
    }

    /// Leaves out holders at the front whose extents are gone.
    fn drop_gone_holders(&mut self) {
        for _ in 0..HOLDERS_AT_ONCE {
            let first = self.frames.holders().front();
            if first.is_none_or(|first| self.held_by(first).is_some()) {
                return;
            }
            self.frames.drop_first_holder();
            self.relocation.cursor = self.relocation.cursor.saturating_sub(1);
        }
    }

    /// Leaves out holders that are gone, once there are many.
    pub(super) fn trim_holders(&mut self) {
        if self.frames.has_many_holders() {
            let Self { groups, frames, .. } = self;
            frames.retain_holders(|holder| {
                let group = groups.get(&holder.group);
                group.is_some_and(|group| group.extents.held_by(holder).is_some())
            });
            self.relocation.cursor = 0;
        }
    }

    /// Whether there is room for all that holds the oldest segment: a part of it frees nothing.
    fn has_room_for_the_rest(&self, oldest: &LiveSegment) -> bool {
        let live = self.frames.live_bytes_of(oldest.sequence);
        // Frames are padded, and repeat the state of all groups.
        let rest = (live + live / 16 + self.checkpoint.bytes()) as usize;
        let waiting = self.staging.bytes(self.block) + rest + 2 * self.block;
        self.space.has_room_to_move(waiting, &self.config)
    }

    /// Whether relocating what holds the oldest segment frees more than it writes: the segment
    /// holds little itself, or little is held by all together, so that going round once pays.
    ///
    /// The room that is kept for votes and the like comes back at a higher price: what lies in it
    /// is not needed any more, but the segments before it must be freed first.
    ///
    /// A way round all segments begins at most once for every quarter of one that is written: where
    /// much is held in small pieces, each in a block of its own, packing them would end nowhere.
    fn relocation_pays(&mut self, oldest: &LiveSegment) -> bool {
        let segment = self.config.segment_bytes;
        let states = self.checkpoint.bytes();
        let little = 2 * (self.frames.live_bytes_of(oldest.sequence) + states) <= segment;
        let (live, used) = (self.frames.live_bytes(), self.used_bytes());
        let packed = live + live / 32 + states * self.space.live.len() as u64;
        let superfluous = used.saturating_sub(packed);
        let eaten = self.space.is_reserve_eaten() && superfluous >= segment / ROUND_DIVISOR;
        (little || 2 * live <= used || eaten) && self.goes_round(oldest)
    }

    /// Whether the oldest segment is relocated on a way round, which may begin with it.
    fn goes_round(&mut self, oldest: &LiveSegment) -> bool {
        let Relocation {
            round,
            written_bytes,
            ..
        } = self.relocation;
        let goes_on = round.is_some_and(|round| oldest.sequence <= round.last_sequence);
        let begins = round.is_none_or(|round| {
            let least = self.config.segment_bytes / ROUND_DIVISOR;
            written_bytes - round.written_bytes >= least
        });
        if !goes_on && begins {
            self.relocation.round = Some(Round {
                last_sequence: self.space.current().sequence,
                written_bytes,
            });
        }
        goes_on || begins
    }

    /// Bytes of the segments that are written, up to where the next frame goes.
    fn used_bytes(&self) -> u64 {
        let full = self.space.live.len() as u64 - 1;
        full * self.config.segment_bytes + self.space.offset
    }

    /// Where the only segment that is written holds little and takes no more, the next is begun, so
    /// that this one can be freed.
    fn roll_if_it_pays(&mut self) {
        let longest = self.bytes_on_disk(self.config.record_bytes_max());
        let full = !self.space.has_room(longest, &self.config);
        if full && 2 * self.frames.live_bytes() <= self.space.offset {
            self.space.roll_early = true;
        }
    }

    /// Reads a piece of the oldest segment with extents that are needed, if it has any: as many as
    /// a frame takes.
    fn read_oldest(&mut self, oldest: &LiveSegment) -> Option<DiskOp> {
        self.drop_gone_holders();
        let block = self.block as u64;
        let capacity = self.relocation_pool.slab_bytes() as u64;
        let mut chosen = Vec::new();
        let (mut bytes, mut span) = (0, None);
        for holder in self.frames.holders().iter().take(HOLDERS_AT_ONCE) {
            if holder.frame > oldest.last_frame {
                break;
            }
            let Some(extent) = self.held_by(holder) else {
                continue;
            };
            let start = self.start_of(extent);
            let end = (start + u64::from(extent.bytes)).next_multiple_of(block);
            let (first, last) = span.unwrap_or((start / block * block, end));
            let (first, last) = (first.min(start / block * block), last.max(end));
            bytes += extent.own_bytes as usize;
            let fits = last - first <= capacity && bytes <= self.config.record_bytes_max();
            if !fits && !chosen.is_empty() {
                break;
            }
            span = Some((first, last));
            chosen.push(*holder);
        }
        let (offset, end) = span?;
        let length = (end - offset) as usize;
        let buffer = self.relocation_pool.read_buffer(length)?;
        let (id, slot) = (self.id(), oldest.slot);
        self.relocation.reading = Some(Reading {
            id,
            slot,
            offset,
            length,
            holders: chosen,
        });
        self.statistics.reads += 1;
        Some(DiskOp::Read {
            id,
            slot,
            offset,
            buffer,
        })
    }

    /// Where an extent begins in its segment.
    fn start_of(&self, extent: &Extent) -> u64 {
        let place = self.frames.get(extent.frame);
        place.expect("a frame that is held stays listed").offset + u64::from(extent.offset)
    }

    /// Nothing holds the oldest segment but that the state of all groups is not repeated behind
    /// it: goes on with that also when no other record is staged.
    fn push_checkpoint(&mut self, oldest: &LiveSegment) {
        if self.checkpoint.first_frame() <= oldest.last_frame {
            self.checkpoint.begin();
        }
        if self.checkpoint.is_begun() {
            self.push_frame();
        }
    }

    /// Begins a frame with a part of a checkpoint, or with nothing, if none is staged.
    fn push_frame(&mut self) {
        let bytes = self.config.record_bytes_max() / 2;
        if !self.staged() && self.space.has_room_to_move(bytes, &self.config) {
            let begun = self.begin_frame(FrameKind::Relocated, bytes);
            if begun.is_ok() {
                self.write_checkpoint(0);
            }
        }
    }

    /// Stages copies of what is still needed of a piece of a segment.
    fn copy(&mut self, reading: &Reading, bytes: &[u8]) -> Result<(), WriteFailure> {
        for holder in &reading.holders {
            let Some(extent) = self.held_by(holder).copied() else {
                continue;
            };
            let begin = (self.start_of(&extent) - reading.offset) as usize;
            let span = begin..begin + extent.bytes as usize;
            let records = own_records(bytes, span, holder.group, &extent);
            let records = records.ok_or(WriteFailure::Damaged)?;
            let compacted = self.groups[&holder.group].state.compacted.index;
            let mut begun = false;
            for (index, range) in (extent.first.0..).map(LogIndex).zip(records) {
                if index <= compacted {
                    continue;
                }
                if !self.copy_record(holder, index, &bytes[range], begun) {
                    return Ok(());
                }
                begun = true;
            }
        }
        Ok(())
    }

    /// Stages a copy of a record, the first of its extent or one that follows another; false if
    /// there is no room for it now.
    fn copy_record(
        &mut self,
        holder: &Holder,
        index: LogIndex,
        record: &[u8],
        follows: bool,
    ) -> bool {
        let waiting = self.staging.bytes(self.block) + record.len() + 2 * self.block;
        if !self.space.has_room_to_move(waiting, &self.config) {
            return false;
        }
        let Ok(staged) = self.stage_copy(record) else {
            return false;
        };
        self.statistics.relocated_bytes += record.len() as u64;
        let location = staged.location;
        let copy = Extent {
            first: index,
            count: 1,
            frame: location.frame,
            offset: location.offset,
            bytes: location.bytes,
            own_bytes: location.bytes,
            clipped: true,
        };
        let last = self.relocation.moves.back_mut().filter(|_| follows);
        if !last.is_some_and(|last| last.target.take_in(&copy)) {
            self.relocation.moves.push_back(Move {
                group: holder.group,
                source: holder.frame,
                target: copy,
            });
        }
        true
    }

    /// The index points to the copies in frames up to this one, which are durable.
    pub(super) fn finish_moves(&mut self, durable_frame: u64) {
        while let Some(moved) = self.relocation.moves.front() {
            if moved.target.frame > durable_frame {
                return;
            }
            let moved = self.relocation.moves.pop_front().expect("looked at");
            self.finish_move(&moved);
        }
    }

    fn finish_move(&mut self, moved: &Move) {
        let Self {
            groups,
            frames,
            reads,
            ..
        } = self;
        let Some(group) = groups.get_mut(&moved.group) else {
            return;
        };
        let mut target = moved.target;
        let current = group.extents.of(target.first);
        // Overridden, compacted or dropped since: the copies are not needed.
        let Some(current) = current.filter(|extent| extent.frame == moved.source) else {
            return;
        };
        let place = (current.frame, current.first);
        let end = target.end().min(current.end());
        target.count = (end.0 - target.first.0) as u32;
        group.extents.relocate(moved.group, target, frames);
        group.forget_compacted(frames);
        // What is being read from the old place is still what the entries are.
        for read in reads.iter_mut().filter(|read| read.group == moved.group) {
            if read.place == place && (target.first..end).contains(&read.first) {
                read.place = (target.frame, target.first);
            }
        }
    }
}

/// Where the records of an extent lie in bytes of its segment, each checked; `None` if one is not
/// there.
fn own_records(
    bytes: &[u8],
    span: Range<usize>,
    group: GroupId,
    extent: &Extent,
) -> Option<Vec<Range<usize>>> {
    let (mut at, mut next) = (span.start, extent.first);
    let mut ranges = Vec::with_capacity(extent.count as usize);
    while next < extent.end() {
        let record = record::parse(bytes.get(at..span.end)?).ok()?;
        let end = at + record.encoded_bytes;
        // Others lie between, and in front those that were relocated before.
        if record.group == group && record.kind.is_entry() && record.index >= next {
            if record.index != next {
                return None;
            }
            ranges.push(at..end);
            next = next.next();
        }
        at = end;
    }
    Some(ranges)
}
