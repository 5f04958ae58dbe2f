//! Staging: records are encoded straight into the frame that will be written.

use std::collections::VecDeque;
use std::rc::Rc;

use pontoon_types::{EntryId, GroupId, LogIndex, NodeId, Term};

use super::SegmentLog;
use super::group::{CachedExtent, Extent, Group, GroupState};
use crate::error::AppendError;
use crate::layout::FRAME_HEADER_BYTES;
use crate::record::{self, HEADER_BYTES, RecordKind};
use crate::slab::{Reservation, Slab};

const ZEROS: [u8; record::ALIGN] = [0; record::ALIGN];

/// Slabs that ordinary records leave alone, so that compaction and state always find room.
const SLABS_KEPT: usize = 1;

/// The order of cached extents is not trimmed while it is shorter than this.
pub(super) const CACHE_ORDER_MIN: usize = 4096;

/// A frame that takes records.
#[derive(Debug)]
pub(super) struct OpenFrame {
    pub(super) number: u64,
    slab: Rc<Slab>,
    start: usize,
    reservation: Reservation,
    records: u32,
    state_bytes: usize,
    /// Of the records' headers so far, without the salt of its place, which is known when it is
    /// sealed.
    checksum: u32,
}

impl OpenFrame {
    fn payload_bytes(&self) -> usize {
        self.slab.frontier() - self.start - FRAME_HEADER_BYTES
    }
}

/// A frame that is complete except for its header.
#[derive(Debug)]
pub(super) struct ClosedFrame {
    pub(super) number: u64,
    pub(super) slab: Rc<Slab>,
    pub(super) start: usize,
    pub(super) reservation: Reservation,
    pub(super) records: u32,
    pub(super) payload_bytes: usize,
    /// Of the records' headers, without the salt of its place.
    pub(super) checksum: u32,
    /// Whole blocks.
    pub(super) bytes: usize,
}

/// What is not sealed yet.
#[derive(Debug)]
pub(super) struct Staging {
    pub(super) slab: Option<Rc<Slab>>,
    pub(super) open: Option<OpenFrame>,
    pub(super) closed: VecDeque<ClosedFrame>,
    /// Sum of the closed frames' bytes.
    pub(super) closed_bytes: usize,
    /// Number of the next frame to be opened.
    pub(super) next_number: u64,
}

impl Staging {
    pub(super) fn new(next_number: u64) -> Self {
        Self {
            slab: None,
            open: None,
            closed: VecDeque::new(),
            closed_bytes: 0,
            next_number,
        }
    }

    /// Bytes that wait to be sealed, in whole blocks.
    fn bytes(&self, block: usize) -> usize {
        let open = self.open.as_ref().map_or(0, |open| {
            (open.payload_bytes() + FRAME_HEADER_BYTES).next_multiple_of(block)
        });
        self.closed_bytes + open
    }
}

/// Where a record was staged.
struct Staged {
    frame: u64,
    /// Counted from the start of the frame.
    offset: u32,
    slab: Rc<Slab>,
    /// Where the record ends in the slab.
    end: usize,
}

impl SegmentLog {
    /// Would this many bytes of records be taken now?
    ///
    /// Counts for records of any size up to `frame_bytes_max`, so it is careful: a slab may
    /// be left half empty by the last record that did not fit.
    pub fn admit(&self, bytes: usize) -> Result<(), AppendError> {
        if let Some(poisoned) = &self.writer.poisoned {
            return Err(poisoned.clone().into());
        }
        let frames = bytes / (self.config.frame_bytes_max as usize / 2) + 1;
        let on_disk = bytes + frames * (FRAME_HEADER_BYTES + 2 * self.block);
        if !self
            .space
            .has_room(self.staging.bytes(self.block) + on_disk, &self.config)
        {
            return Err(AppendError::NoSpace {
                segments: self.space.segments(),
            });
        }
        let left = self
            .staging
            .slab
            .as_ref()
            .map_or(0, |slab| slab.remaining());
        let slabs = self.pool.slabs_free().saturating_sub(SLABS_KEPT);
        let free = slabs * (self.config.slab_bytes / 2);
        if on_disk > free && (on_disk > left || on_disk > self.config.frame_bytes_max as usize) {
            return Err(AppendError::StagingFull { bytes, free });
        }
        Ok(())
    }

    /// Makes a group. `definition` is the engine's and comes back at recovery.
    ///
    /// Where damage was found when the log was opened, the group is tainted: it may have been here,
    /// and everything about it be lost.
    pub fn create_group(&mut self, group: GroupId, definition: &[u8]) -> Result<(), AppendError> {
        if self.groups.contains_key(&group) {
            return Err(AppendError::GroupExists { group });
        }
        let state = GroupState {
            incarnation: self.next_incarnation,
            definition: definition.to_vec(),
            tainted: self.damaged,
            ..GroupState::default()
        };
        self.admit(self.state_bytes(&state)?)?;
        self.stage_state(group, &state)?;
        self.next_incarnation += 1;
        self.groups.insert(
            group,
            Group {
                state,
                ..Group::default()
            },
        );
        Ok(())
    }

    /// Replaces what the engine keeps with a group, for instance after its members changed.
    pub fn define_group(&mut self, group: GroupId, definition: &[u8]) -> Result<(), AppendError> {
        self.change_state(group, |state| state.definition = definition.to_vec())
    }

    /// Marks a group as damaged, or as whole again.
    pub fn set_tainted(&mut self, group: GroupId, tainted: bool) -> Result<(), AppendError> {
        self.change_state(group, |state| state.tainted = tainted)
    }

    fn change_state(
        &mut self,
        group: GroupId,
        change: impl FnOnce(&mut GroupState),
    ) -> Result<(), AppendError> {
        let mut state = self.group(group)?.state.clone();
        change(&mut state);
        self.check_headroom(self.state_bytes(&state)?)?;
        self.stage_state(group, &state)?;
        self.groups.get_mut(&group).expect("looked up above").state = state;
        Ok(())
    }

    /// Drops a group and all its entries.
    pub fn drop_group(&mut self, group: GroupId) -> Result<(), AppendError> {
        let incarnation = self.group(group)?.state.incarnation.to_le_bytes();
        self.admit(record::encoded_bytes(incarnation.len()))?;
        self.stage_record(
            group,
            EntryId::default(),
            RecordKind::GroupDropped,
            &[&incarnation],
        )?;
        let mut dropped = self.groups.remove(&group).expect("looked up above");
        let frames = &mut self.frames;
        dropped.truncate(LogIndex(0), |frame| frames.release(frame));
        Ok(())
    }

    /// Encodes an entry and stages it. An index up to the last one overrides the suffix from it on.
    pub fn append_command(
        &mut self,
        group: GroupId,
        entry: EntryId,
        kind: RecordKind,
        payload: &[u8],
    ) -> Result<(), AppendError> {
        if !kind.is_entry() {
            return Err(AppendError::NotAnEntry);
        }
        let bytes = self.check_entry(group, entry.index, payload.len())?;
        let header = record::header(group, entry, kind, payload);
        let padding = &ZEROS[..bytes - HEADER_BYTES - payload.len()];
        let staged = self.stage(&[&header, payload, padding], bytes)?;
        self.note_entry(group, entry, bytes, staged);
        self.statistics.payload_bytes += payload.len() as u64;
        Ok(())
    }

    /// Stages a whole record that [`record::parse`] has found to be sound.
    pub fn append_record(&mut self, bytes: &[u8]) -> Result<(), AppendError> {
        debug_assert!(record::parse(bytes).is_ok(), "checked when it was received");
        let Ok(record) = record::parse_unchecked(bytes) else {
            return Err(AppendError::NotAnEntry);
        };
        if !record.kind.is_entry() || record.encoded_bytes != bytes.len() {
            return Err(AppendError::NotAnEntry);
        }
        let length = self.check_entry(record.group, record.index, record.payload.len())?;
        let staged = self.stage(&[bytes], length)?;
        self.note_entry(record.group, record.entry(), length, staged);
        self.statistics.payload_bytes += record.payload.len() as u64;
        Ok(())
    }

    /// Stages a group's term and vote.
    pub fn save_hard_state(
        &mut self,
        group: GroupId,
        term: Term,
        voted_for: Option<NodeId>,
    ) -> Result<(), AppendError> {
        self.group(group)?;
        self.check_headroom(0)?;
        let vote = voted_for.unwrap_or_default().0.to_le_bytes();
        let flags = u64::from(voted_for.is_some()).to_le_bytes();
        let entry = EntryId::new(LogIndex(0), term);
        self.stage_record(group, entry, RecordKind::HardState, &[&vote, &flags])?;
        let state = &mut self.groups.get_mut(&group).expect("looked up above").state;
        (state.current_term, state.voted_for) = (term, voted_for);
        Ok(())
    }

    /// Remembers a commit index; it is written with the group's next repeated state, as a hint.
    pub fn save_commit(&mut self, group: GroupId, commit_index: LogIndex) {
        if let Some(group) = self.groups.get_mut(&group) {
            group.state.commit_index = group.state.commit_index.max(commit_index);
        }
    }

    /// Stages that a group's entries after `last` are gone.
    pub fn truncate_suffix(&mut self, group: GroupId, last: EntryId) -> Result<(), AppendError> {
        self.group(group)?;
        self.admit(HEADER_BYTES)?;
        self.stage_record(group, last, RecordKind::Truncate, &[])?;
        let Self { groups, frames, .. } = self;
        let group = groups.get_mut(&group).expect("looked up above");
        if last.index < group.state.last.index {
            group.truncate(last.index.next(), |frame| frames.release(frame));
            group.state.last = last;
        }
        Ok(())
    }

    /// True when something waits to be sealed.
    pub fn staged(&self) -> bool {
        self.staging.open.is_some() || !self.staging.closed.is_empty()
    }

    /// The number that the frame of the latest staged record has (or, with nothing staged, that
    /// of the next record will have).
    pub fn open_frame(&self) -> u64 {
        self.staging
            .open
            .as_ref()
            .map_or(self.staging.next_number, |open| open.number)
    }

    pub(super) fn group(&self, group: GroupId) -> Result<&Group, AppendError> {
        self.groups
            .get(&group)
            .ok_or(AppendError::UnknownGroup { group })
    }

    fn record_bytes_max(&self) -> usize {
        self.config.frame_bytes_max as usize - FRAME_HEADER_BYTES
    }

    fn state_bytes(&self, state: &GroupState) -> Result<usize, AppendError> {
        let bytes = record::encoded_bytes(state.encode().len() + state.definition.len());
        let limit = self.record_bytes_max() / 2;
        if bytes > limit {
            Err(AppendError::TooLarge { bytes, limit })
        } else {
            Ok(bytes)
        }
    }

    fn check_entry(
        &self,
        id: GroupId,
        index: LogIndex,
        payload: usize,
    ) -> Result<usize, AppendError> {
        let bytes = record::encoded_bytes(payload);
        let limit = self.record_bytes_max();
        if bytes > limit {
            return Err(AppendError::TooLarge { bytes, limit });
        }
        let state = &self.group(id)?.state;
        let (compacted, last) = (state.compacted.index, state.last.index);
        if index <= compacted || index > last.next() {
            return Err(AppendError::OutOfOrder {
                group: id,
                index,
                compacted,
                last,
            });
        }
        self.check_headroom(bytes)?;
        Ok(bytes)
    }

    /// Whoever asked [`admit`](Self::admit) for some records together may then stage them one by
    /// one: what is kept back for compaction also covers what the frames around them turn out to
    /// need, so the careful estimate is not made again for each.
    fn check_headroom(&self, bytes: usize) -> Result<(), AppendError> {
        if let Some(poisoned) = &self.writer.poisoned {
            return Err(poisoned.clone().into());
        }
        let waiting = self.staging.bytes(self.block) + bytes + 2 * self.block;
        if self.space.has_headroom(waiting, &self.config) {
            Ok(())
        } else {
            Err(AppendError::NoSpace {
                segments: self.space.segments(),
            })
        }
    }

    /// Enters a staged entry into the group's index and cache.
    fn note_entry(&mut self, id: GroupId, entry: EntryId, bytes: usize, staged: Staged) {
        let index = entry.index;
        let Self {
            groups,
            frames,
            cache_order,
            statistics,
            ..
        } = self;
        let group = groups
            .get_mut(&id)
            .expect("checked before the record was staged");
        if index <= group.state.last.index {
            group.truncate(index, |frame| frames.release(frame));
        }
        group.state.last = entry;
        statistics.entries += 1;
        let span = u32::try_from(bytes).expect("a record is shorter than a frame");
        match group.extents.back_mut() {
            Some(extent) if extent.frame == staged.frame && !extent.clipped => {
                extent.count += 1;
                extent.bytes = staged.offset + span - extent.offset;
            }
            _ => {
                frames.hold(staged.frame);
                group.extents.push_back(Extent {
                    first: index,
                    count: 1,
                    frame: staged.frame,
                    offset: staged.offset,
                    bytes: span,
                    clipped: false,
                });
            }
        }
        match group.cached.back_mut() {
            Some(extent)
                if extent.frame == staged.frame
                    && extent.end() == index
                    && extent.bytes.ends_at(&staged.slab, staged.end - bytes) =>
            {
                extent.count += 1;
                extent.bytes.grow(bytes);
            }
            _ => {
                let bytes = staged.slab.view(staged.end - bytes..staged.end);
                group.cached.push_back(CachedExtent {
                    first: index,
                    count: 1,
                    frame: staged.frame,
                    bytes,
                });
                cache_order.push_back((staged.frame, id));
            }
        }
        if self.cache_order.len() >= self.cache_order_limit {
            self.trim_cache_order();
        }
    }

    /// Forgets the order of extents that compaction or an override has already let go of.
    fn trim_cache_order(&mut self) {
        let Self {
            groups,
            cache_order,
            ..
        } = self;
        cache_order.retain(|(frame, group)| {
            let cached = groups.get(group).map(|group| &group.cached);
            cached.is_some_and(|cached| {
                let position = cached.partition_point(|extent| extent.frame < *frame);
                cached
                    .get(position)
                    .is_some_and(|extent| extent.frame == *frame)
            })
        });
        self.cache_order_limit = CACHE_ORDER_MIN.max(2 * cache_order.len());
    }

    fn stage_state(&mut self, group: GroupId, state: &GroupState) -> Result<(), AppendError> {
        let fixed = state.encode();
        let kind = RecordKind::GroupState;
        self.stage_record(
            group,
            EntryId::new(LogIndex(0), state.current_term),
            kind,
            &[&fixed, &state.definition],
        )
    }

    /// Stages a record that is not an entry; its payload comes in parts.
    pub(super) fn stage_record(
        &mut self,
        group: GroupId,
        entry: EntryId,
        kind: RecordKind,
        parts: &[&[u8]],
    ) -> Result<(), AppendError> {
        let payload = parts.concat();
        let bytes = record::encoded_bytes(payload.len());
        let header = record::header(group, entry, kind, &payload);
        let padding = &ZEROS[..bytes - HEADER_BYTES - payload.len()];
        self.stage(&[&header, &payload, padding], bytes).map(drop)
    }

    /// Copies a record into the open frame, beginning one if need be. The first piece holds at
    /// least its header.
    fn stage(&mut self, pieces: &[&[u8]], bytes: usize) -> Result<Staged, AppendError> {
        if !self.fits_open_frame(bytes) {
            self.close_frame();
            self.begin_frame(bytes)?;
            self.write_checkpoint(bytes);
        }
        let open = self.staging.open.as_mut().expect("begun above");
        let offset = open.slab.frontier() - open.start;
        for piece in pieces {
            open.slab.append(piece);
        }
        open.checksum = crc32c::crc32c_append(open.checksum, &pieces[0][..HEADER_BYTES]);
        open.records += 1;
        self.statistics.record_bytes += bytes as u64;
        Ok(Staged {
            frame: open.number,
            offset: u32::try_from(offset).expect("a frame is shorter than 4 GiB"),
            slab: Rc::clone(&open.slab),
            end: open.slab.frontier(),
        })
    }

    fn fits_open_frame(&self, bytes: usize) -> bool {
        self.staging.open.as_ref().is_some_and(|open| {
            open.payload_bytes() + bytes <= self.record_bytes_max()
                && open.slab.remaining() >= bytes
        })
    }

    fn begin_frame(&mut self, bytes: usize) -> Result<(), AppendError> {
        let needed = FRAME_HEADER_BYTES + bytes;
        let current = self
            .staging
            .slab
            .take()
            .filter(|slab| slab.remaining() >= needed);
        let slab = match current {
            Some(slab) => slab,
            None => self
                .take_slab()
                .ok_or(AppendError::StagingFull { bytes, free: 0 })?,
        };
        let number = self.staging.next_number;
        self.staging.next_number += 1;
        self.frames.push(number);
        let start = slab.frontier();
        let reservation = slab.reserve(FRAME_HEADER_BYTES);
        self.staging.slab = Some(Rc::clone(&slab));
        let open = OpenFrame {
            number,
            slab,
            start,
            reservation,
            records: 0,
            state_bytes: 0,
            checksum: 0,
        };
        self.staging.open = Some(open);
        Ok(())
    }

    fn take_slab(&mut self) -> Option<Rc<Slab>> {
        self.evict();
        self.pool.take().map(Rc::new)
    }

    /// Ends the open frame, if there is one.
    pub(super) fn close_frame(&mut self) {
        let Some(open) = self.staging.open.take() else {
            return;
        };
        let payload_bytes = open.payload_bytes();
        open.slab.pad_to(self.block);
        let bytes = open.slab.frontier() - open.start;
        self.staging.closed_bytes += bytes;
        self.staging.closed.push_back(ClosedFrame {
            number: open.number,
            start: open.start,
            reservation: open.reservation,
            records: open.records,
            slab: open.slab,
            payload_bytes,
            checksum: open.checksum,
            bytes,
        });
    }

    /// Repeats the state of some groups in the open frame, leaving room for `reserve` bytes.
    pub(super) fn write_checkpoint(&mut self, reserve: usize) {
        while let Some(cursor) = self.space.checkpoint_cursor() {
            let Some((&id, group)) = self.groups.range(cursor..).next() else {
                self.space.complete_checkpoint(self.open_frame());
                return;
            };
            let state = &group.state;
            let bytes = record::encoded_bytes(state.encode().len() + state.definition.len());
            let open = self
                .staging
                .open
                .as_mut()
                .expect("state goes into an open frame");
            let spent = open.state_bytes + bytes > self.config.state_bytes_per_frame;
            if (spent && open.state_bytes > 0) || !self.fits_open_frame(bytes + reserve) {
                return;
            }
            let open = self.staging.open.as_mut().expect("looked at above");
            open.state_bytes += bytes;
            let number = open.number;
            let state = state.clone();
            self.stage_state(id, &state)
                .expect("the open frame was found to have room");
            self.space.note_checkpointed(id, number);
            self.statistics.state_bytes += bytes as u64;
        }
    }
}
