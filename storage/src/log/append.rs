//! Appending: entries are checked, staged and entered into their group's index.

use pontoon_types::{EntryId, GroupId, LogIndex};

use super::SegmentLog;
use super::staging::Staged;
use crate::error::AppendError;
use crate::layout::FRAME_HEADER_BYTES;
use crate::record::{self, HEADER_BYTES, RecordKind};

const ZEROS: [u8; record::ALIGN] = [0; record::ALIGN];

/// Slabs that ordinary records leave alone, so that compaction and state always find room.
const SLABS_KEPT: usize = 1;

impl SegmentLog {
    /// Whether this many bytes of records would be taken now.
    ///
    /// It is careful, for it must hold for records of any size up to a frame: a slab may be left
    /// half empty by the last record that did not fit.
    ///
    /// # Errors
    /// [`Poisoned`](AppendError::Poisoned) once the log is closed,
    /// [`NoSpace`](AppendError::NoSpace) and [`StagingFull`](AppendError::StagingFull) for what can
    /// be tried again later.
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

    /// Whether this many bytes of records would be taken that make room or keep a group led: terms,
    /// votes, empty entries, compactions. Room is kept back for them.
    ///
    /// # Errors
    /// As [`admit`](Self::admit).
    pub fn admit_reserved(&self, bytes: usize) -> Result<(), AppendError> {
        self.check_headroom(bytes)
    }

    /// Encodes an entry and stages it. An index up to the last one overrides the entries from it
    /// on.
    ///
    /// # Errors
    /// [`NotAnEntry`](AppendError::NotAnEntry), [`TooLarge`](AppendError::TooLarge),
    /// [`UnknownGroup`](AppendError::UnknownGroup) and [`OutOfOrder`](AppendError::OutOfOrder) for
    /// what is never taken; [`Poisoned`](AppendError::Poisoned) once the log is closed;
    /// [`NoSpace`](AppendError::NoSpace) and [`StagingFull`](AppendError::StagingFull) for what can
    /// be tried again later.
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
        self.note_entry(group, entry, &staged);
        self.statistics.payload_bytes += payload.len() as u64;
        Ok(())
    }

    /// Stages a whole record that [`record::parse`] has found to be sound.
    ///
    /// # Errors
    /// As [`append_command`](Self::append_command).
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
        self.note_entry(record.group, record.entry(), &staged);
        self.statistics.payload_bytes += record.payload.len() as u64;
        Ok(())
    }

    /// Stages that a group's entries after `last` are gone.
    ///
    /// # Errors
    /// [`UnknownGroup`](AppendError::UnknownGroup), and those of [`admit`](Self::admit).
    pub fn truncate_suffix(&mut self, group: GroupId, last: EntryId) -> Result<(), AppendError> {
        self.group(group)?;
        self.admit(HEADER_BYTES)?;
        self.stage_record(group, last, RecordKind::Truncate, &[])?;
        let Self { groups, frames, .. } = self;
        let group = groups.get_mut(&group).expect("looked up above");
        if last.index < group.state.last.index {
            group.truncate(last.index.next(), frames);
            group.state.last = last;
        }
        Ok(())
    }

    fn check_entry(
        &self,
        id: GroupId,
        index: LogIndex,
        payload: usize,
    ) -> Result<usize, AppendError> {
        let bytes = record::encoded_bytes(payload);
        let limit = self.config.record_bytes_max();
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

    /// Whether there is room for one more record; a limit that is not careful.
    ///
    /// [`admit`](Self::admit) reserves for a batch, and carefully. When the records of the batch
    /// are then staged one by one, the careful estimate is not made again: what their frames need
    /// beyond it is covered by the space that is kept back for compaction.
    pub(super) fn check_headroom(&self, bytes: usize) -> Result<(), AppendError> {
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

    /// Enters a staged entry into the group's index and the cache.
    fn note_entry(&mut self, id: GroupId, entry: EntryId, staged: &Staged) {
        let Self { groups, frames, .. } = self;
        let group = groups.get_mut(&id);
        let group = group.expect("checked before the record was staged");
        if entry.index <= group.state.last.index {
            group.truncate(entry.index, frames);
        }
        group.state.last = entry;
        group.extents.push(entry.index, staged.location, frames);
        self.cache_entry(id, entry.index, staged);
        self.statistics.entries += 1;
    }
}
