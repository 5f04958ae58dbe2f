//! Reading entries back from the disk.

use std::ops::RangeInclusive;

use pontoon_types::{GroupId, LogIndex};

use super::SegmentLog;
use crate::disk::DiskOp;
use crate::error::{Poisoned, ReadError, WriteFailure};
use crate::mutant::Mutant;
use crate::record;
use crate::slab::{ReadBuffer, RecordBytes};

/// Buffers that reads for peers leave alone.
const BUFFERS_KEPT: usize = 1;

/// Places of reads that failed that are remembered, newest first.
const FAILED_READS_MAX: usize = 64;

/// A read from the disk that is under way.
#[derive(Debug)]
pub(super) struct PendingRead {
    id: u64,
    pub(super) group: GroupId,
    incarnation: u64,
    /// Frame and first index of the extent that holds the entries: another one once they were
    /// relocated.
    pub(super) place: (u64, LogIndex),
    sequence: u64,
    slot: u32,
    offset: u64,
    /// First index wanted, and the one after the last.
    pub(super) first: LogIndex,
    end: LogIndex,
    bytes_max: usize,
    /// First index in the bytes.
    extent_first: LogIndex,
    /// Where the records begin and end in the buffer.
    begin: usize,
    finish: usize,
}

impl SegmentLog {
    /// Reads some of a group's entries from the disk, from the first on: the read to carry out. It
    /// gives at most `bytes_max` bytes of records, but at least one.
    ///
    /// `None` when the entries are not on the disk (not durable yet, and then in memory; or
    /// compacted), or when all read buffers are in use: ask again after a completion.
    ///
    /// It is for entries that are to be applied here; those for others are read by
    /// [`read_for_peer`](Self::read_for_peer).
    pub fn read(
        &mut self,
        group: GroupId,
        entries: RangeInclusive<LogIndex>,
        bytes_max: usize,
    ) -> Option<DiskOp> {
        self.read_leaving(0, group, entries, bytes_max)
    }

    /// The same, for entries that a peer lacks. It leaves a buffer for [`read`](Self::read), so
    /// that peers, which may be slow to take what was read, never keep entries from being applied.
    pub fn read_for_peer(
        &mut self,
        group: GroupId,
        entries: RangeInclusive<LogIndex>,
        bytes_max: usize,
    ) -> Option<DiskOp> {
        let takes_all = self.config.is(Mutant::PeersTakeAllBuffers);
        let kept = if takes_all { 0 } else { BUFFERS_KEPT };
        self.read_leaving(kept, group, entries, bytes_max)
    }

    /// Most reads for peers that may be under way at once, by the buffers that there are.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn reads_for_peers_max(&self) -> usize {
        self.read_pool.slabs() - BUFFERS_KEPT
    }

    fn read_leaving(
        &mut self,
        buffers_left: usize,
        group: GroupId,
        entries: RangeInclusive<LogIndex>,
        bytes_max: usize,
    ) -> Option<DiskOp> {
        if self.read_pool.slabs_free() <= buffers_left {
            return None;
        }
        let (first, last) = entries.into_inner();
        let id = self.id();
        let found = self
            .groups
            .get(&group)
            .filter(|group| first > group.state.compacted.index)?;
        let extent = *found
            .extents
            .of(first)
            .filter(|extent| extent.frame <= self.writer.durable_frame)?;
        let place = self.frames.get(extent.frame)?;
        let block = self.block as u64;
        let start = place.offset + u64::from(extent.offset);
        let finish = start + u64::from(extent.bytes);
        let offset = start / block * block;
        let length = finish.next_multiple_of(block) - offset;
        let buffer = self.read_pool.read_buffer(length as usize)?;
        self.reads.push(PendingRead {
            id,
            group,
            incarnation: found.state.incarnation,
            place: (extent.frame, extent.first),
            sequence: place.sequence,
            slot: place.slot,
            offset,
            first,
            end: extent.end().min(last.next()),
            bytes_max,
            extent_first: extent.first,
            begin: (start - offset) as usize,
            finish: (finish - offset) as usize,
        });
        self.statistics.reads += 1;
        Some(DiskOp::Read {
            id,
            slot: place.slot,
            offset,
            buffer,
        })
    }

    /// Takes the completion of a read (`result` is the count of bytes, or the system's error
    /// number): the records, checked, one after the other.
    ///
    /// They are those asked for or fewer, but always begin with the first. A read that fails may be
    /// made once more. If it fails again the entries are lost here, and nothing else is: the group
    /// must not be led from this log. At the next start recovery finds the damage, and the group's
    /// other copies repair it.
    ///
    /// # Errors
    /// [`Changed`](ReadError::Changed) when the entries were overridden, compacted or dropped
    /// meanwhile; [`Io`](ReadError::Io) and [`Damaged`](ReadError::Damaged) at the first failure of
    /// a place; [`Lost`](ReadError::Lost) at the second; [`Poisoned`](ReadError::Poisoned) once the
    /// log is closed.
    ///
    /// # Panics
    /// If `id` is not that of a read in flight.
    pub fn on_read(
        &mut self,
        id: u64,
        buffer: ReadBuffer,
        result: Result<usize, i32>,
    ) -> Result<RecordBytes, ReadError> {
        let position = self.reads.iter().position(|read| read.id == id);
        let read = self
            .reads
            .swap_remove(position.expect("a completion answers a read"));
        if let Some(poisoned) = &self.writer.poisoned {
            return Err(poisoned.clone().into());
        }
        let (place, group) = ((read.slot, read.offset), read.group);
        let records = self.validate(read, buffer, result);
        let failure = match &records {
            Err(ReadError::Io { failure, .. }) => *failure,
            Err(ReadError::Damaged { .. }) => WriteFailure::Damaged,
            _ => {
                self.failed_reads.retain(|failed| *failed != place);
                return records;
            }
        };
        if !self.fails_again(place) {
            return records;
        }
        self.statistics.reads_lost += 1;
        let (slot, offset) = place;
        Err(ReadError::Lost {
            segment: self.segment_name(slot),
            offset,
            group,
            failure,
        })
    }

    /// A read has failed: whether it is the second of its place.
    fn fails_again(&mut self, place: (u32, u64)) -> bool {
        if self.failed_reads.contains(&place) && !self.config.is(Mutant::ReadsInVain) {
            return true;
        }
        self.failed_reads.truncate(FAILED_READS_MAX - 1);
        self.failed_reads.insert(0, place);
        false
    }

    /// A read for relocation has failed: the log is closed if it is the second of its place. It
    /// could free no segment any more, and at the next start the damage is found and repaired.
    pub(super) fn relocation_failed(
        &mut self,
        (slot, offset): (u32, u64),
        failure: WriteFailure,
    ) -> Option<Poisoned> {
        let again = self.fails_again((slot, offset));
        again.then(|| self.poison(slot, offset, failure))
    }

    /// What a read has brought.
    fn validate(
        &self,
        read: PendingRead,
        mut buffer: ReadBuffer,
        result: Result<usize, i32>,
    ) -> Result<RecordBytes, ReadError> {
        let (slot, offset) = (read.slot, read.offset);
        let io = |failure| ReadError::Io {
            segment: self.segment_name(slot),
            offset,
            failure,
        };
        match result {
            Ok(count) if count == buffer.len() => {}
            Ok(written) => {
                let expected = buffer.len();
                return Err(io(WriteFailure::Short { written, expected }));
            }
            Err(errno) => return Err(io(WriteFailure::Errno(errno))),
        }
        let changed = || ReadError::Changed {
            group: read.group,
            first: read.first,
        };
        let group = self.groups.get(&read.group).ok_or_else(changed)?;
        let extent = group.extents.of(read.first).filter(|extent| {
            (extent.frame, extent.first) == read.place
                && group.state.incarnation == read.incarnation
        });
        let end = read.end.min(extent.ok_or_else(changed)?.end());
        match gather(buffer.as_mut_slice(), &read, end) {
            Ok(length) => Ok(buffer.freeze(length)),
            // They were relocated, and their old place is being written again.
            Err(_) if self.space.live[0].sequence > read.sequence => Err(changed()),
            Err(index) => Err(ReadError::Damaged {
                segment: self.segment_name(slot),
                offset,
                group: read.group,
                index,
            }),
        }
    }
}

/// Moves the wanted records of a read to the front of its buffer, checking each.
///
/// Records of other groups, of other kinds, and earlier ones of this extent are passed over. Gives
/// the length, or the index of the first record that is not there.
fn gather(buffer: &mut [u8], read: &PendingRead, end: LogIndex) -> Result<usize, LogIndex> {
    let (mut at, mut length, mut next) = (read.begin, 0, read.extent_first);
    while next < end {
        if at >= read.finish {
            return Err(next);
        }
        let record = record::parse(&buffer[at..read.finish]).map_err(|_| next)?;
        let (bytes, index) = (record.encoded_bytes, record.index);
        if record.group == read.group && record.kind.is_entry() {
            if index < next {
                // It was relocated before, and what followed it in this frame was not.
                at += bytes;
                continue;
            }
            if index != next {
                return Err(next);
            }
            next = next.next();
            if index >= read.first {
                if length > 0 && length + bytes > read.bytes_max {
                    return Ok(length);
                }
                buffer.copy_within(at..at + bytes, length);
                length += bytes;
            }
        }
        at += bytes;
    }
    Ok(length)
}
