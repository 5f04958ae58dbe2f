//! Appending: entries are checked, staged and entered into their group's index.

use pontoon_types::{EntryId, GroupId, LogIndex};

use super::SegmentLog;
use super::segments::Space;
use super::staging::Staged;
use crate::config::LogConfig;
use crate::error::AppendError;
use crate::layout::FRAME_HEADER_BYTES;
use crate::record::{self, HEADER_BYTES, RecordKind};

const ZEROS: [u8; record::ALIGN] = [0; record::ALIGN];

/// Slabs that ordinary records leave alone, so that compaction and state always find room.
pub(super) const SLABS_KEPT: usize = 1;

impl SegmentLog {
    /// Whether this many bytes of a client's records, or of entries of a leader, would be taken
    /// now.
    ///
    /// It is careful, for it must hold for records of any size up to a frame: a slab may be left
    /// half empty by the last record that did not fit.
    ///
    /// # Errors
    /// [`Poisoned`](AppendError::Poisoned) once the log is closed,
    /// [`NoSpace`](AppendError::NoSpace), [`Preparing`](AppendError::Preparing) and
    /// [`StagingFull`](AppendError::StagingFull) for what can be tried again later.
    pub fn admit(&self, bytes: usize) -> Result<(), AppendError> {
        let on_disk = self.bytes_on_disk(bytes);
        self.check_room(on_disk, Space::has_room)?;
        self.check_memory(bytes, on_disk)
    }

    /// Whether staging has memory for records that may take so many bytes.
    fn check_memory(&self, bytes: usize, on_disk: usize) -> Result<(), AppendError> {
        let slab = self.staging.slab.as_ref();
        let left = slab.map_or(0, |slab| slab.remaining());
        let slabs = self.pool.slabs_free().saturating_sub(SLABS_KEPT);
        let free = slabs * (self.config.slab_bytes / 2);
        if on_disk > free && (on_disk > left || on_disk > self.config.frame_bytes_max as usize) {
            return Err(AppendError::StagingFull { bytes, free });
        }
        Ok(())
    }

    /// Whether this many bytes of records would be taken now that are no client's: term and vote, a
    /// leader's empty entry, state. They find room where [`admit`](Self::admit) finds none, in the
    /// segments that it keeps clear of; what they fill comes back by relocation.
    ///
    /// # Errors
    /// As [`admit`](Self::admit).
    pub fn admit_reserved(&self, bytes: usize) -> Result<(), AppendError> {
        let on_disk = self.bytes_on_disk(bytes);
        self.check_room(on_disk, Space::has_reserved_room)?;
        self.check_memory(bytes, on_disk)
    }

    /// Bytes that records of any size up to a frame may take on the disk, together.
    pub(super) fn bytes_on_disk(&self, bytes: usize) -> usize {
        let frames = bytes / (self.config.frame_bytes_max as usize / 2) + 1;
        bytes + frames * (FRAME_HEADER_BYTES + 2 * self.block)
    }

    /// Whether there is room for so many bytes behind what waits to be written.
    fn check_room(
        &self,
        bytes: usize,
        has_room: impl FnOnce(&Space, usize, &LogConfig) -> bool,
    ) -> Result<(), AppendError> {
        if let Some(poisoned) = &self.writer.poisoned {
            return Err(poisoned.clone().into());
        }
        let waiting = self.staging.bytes(self.block) + bytes;
        if has_room(&self.space, waiting, &self.config) {
            Ok(())
        } else {
            Err(self.space.refusal())
        }
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
        let bytes = self.check_entry(group, entry.index, kind, payload.len())?;
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
        let (group, index, kind) = (record.group, record.index, record.kind);
        let length = self.check_entry(group, index, kind, record.payload.len())?;
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
        kind: RecordKind,
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
        // `admit` reserves for a batch, and carefully. When the records of the batch are then
        // staged one by one, the careful estimate is not made again: what their frames need beyond
        // it is covered by the part of the current segment that it leaves alone.
        match kind {
            RecordKind::Noop => self.check_headroom(bytes)?,
            _ => self.check_room(bytes + 2 * self.block, Space::has_any_room)?,
        }
        Ok(bytes)
    }

    /// Whether there is room for one more record of those that must always find it.
    ///
    /// It may follow from what was admitted long before: a leader's empty entry is staged once its
    /// vote is durable, behind what was written meanwhile. So it may take all the room that
    /// [`admit_reserved`](Self::admit_reserved) leaves.
    pub(super) fn check_headroom(&self, bytes: usize) -> Result<(), AppendError> {
        self.check_room(bytes + 2 * self.block, Space::has_last_room)
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
        group
            .extents
            .push((id, entry.index), staged.location, frames);
        self.cache_entry(id, entry.index, staged);
        self.trim_holders();
        self.statistics.entries += 1;
    }
}
