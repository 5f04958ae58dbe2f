//! Staging: records are copied straight into the frame that will be written.

use std::collections::VecDeque;
use std::rc::Rc;

use super::SegmentLog;
use super::append::SLABS_KEPT;
use super::extents::RecordLocation;
use crate::error::AppendError;
use crate::layout::{FRAME_HEADER_BYTES, FrameKind};
use crate::record::HEADER_BYTES;
use crate::slab::{Reservation, Slab};

/// A frame that takes records.
#[derive(Debug)]
pub(super) struct OpenFrame {
    kind: FrameKind,
    pub(super) number: u64,
    slab: Rc<Slab>,
    start: usize,
    reservation: Reservation,
    records: u32,
    /// Bytes of repeated group state among them.
    pub(super) state_bytes: usize,
    /// Of the records' headers so far, without the salt of its place, which is known when it is
    /// sealed.
    checksum: u32,
}

impl OpenFrame {
    fn payload_bytes(&self) -> usize {
        self.slab.frontier() - self.start - FRAME_HEADER_BYTES
    }

    /// Whether `bytes` more of records fit; a frame takes `limit`.
    pub(super) fn fits(&self, bytes: usize, limit: usize) -> bool {
        self.payload_bytes() + bytes <= limit && self.slab.remaining() >= bytes
    }
}

/// A frame that is complete except for its header.
#[derive(Debug)]
pub(super) struct ClosedFrame {
    pub(super) kind: FrameKind,
    pub(super) number: u64,
    pub(super) slab: Rc<Slab>,
    pub(super) start: usize,
    pub(super) reservation: Reservation,
    pub(super) records: u32,
    pub(super) payload_bytes: usize,
    /// Bytes of repeated group state among them.
    pub(super) state_bytes: usize,
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
    pub(super) fn bytes(&self, block: usize) -> usize {
        let open = self.open.as_ref().map_or(0, |open| {
            (open.payload_bytes() + FRAME_HEADER_BYTES).next_multiple_of(block)
        });
        self.closed_bytes + open
    }
}

/// Where a record was staged.
pub(super) struct Staged {
    pub(super) location: RecordLocation,
    pub(super) slab: Rc<Slab>,
    /// Where the record ends in the slab.
    pub(super) end: usize,
}

impl SegmentLog {
    /// True when something waits to be sealed.
    #[must_use]
    pub fn staged(&self) -> bool {
        self.staging.open.is_some() || !self.staging.closed.is_empty()
    }

    /// Number of the frame of the record staged last; with nothing staged, that of the next record.
    ///
    /// What was staged is durable once [`durable_frame`](Self::durable_frame) has come this far.
    #[must_use]
    pub fn open_frame(&self) -> u64 {
        self.staging
            .open
            .as_ref()
            .map_or(self.staging.next_number, |open| open.number)
    }

    /// Copies a record into the open frame, beginning one if need be. The first piece holds at
    /// least its header.
    ///
    /// A frame that begins takes its part of a checkpoint first. That goes straight into the open
    /// frame, and only as far as it leaves room for this record.
    pub(super) fn stage(&mut self, pieces: &[&[u8]], bytes: usize) -> Result<Staged, AppendError> {
        let limit = self.config.record_bytes_max();
        if !self.open_frame_fits(FrameKind::Records, bytes, limit) {
            self.close_frame();
            self.begin_frame(FrameKind::Records, bytes)?;
            self.write_checkpoint(bytes);
        }
        Ok(self.append_to_open_frame(pieces, bytes))
    }

    /// Copies the record of an entry into a frame of relocated ones, leaving the memory alone that
    /// is kept for compaction and state.
    pub(super) fn stage_copy(&mut self, record: &[u8]) -> Result<Staged, AppendError> {
        let (bytes, limit) = (record.len(), self.config.record_bytes_max());
        if bytes > limit {
            return Err(AppendError::TooLarge { bytes, limit });
        }
        if !self.open_frame_fits(FrameKind::Relocated, bytes, limit) {
            if self.pool.slabs_free() <= SLABS_KEPT {
                return Err(AppendError::StagingFull { bytes, free: 0 });
            }
            self.close_frame();
            self.begin_frame(FrameKind::Relocated, bytes)?;
        }
        Ok(self.append_to_open_frame(&[record], bytes))
    }

    fn open_frame_fits(&self, kind: FrameKind, bytes: usize, limit: usize) -> bool {
        let open = self.staging.open.as_ref();
        open.is_some_and(|open| open.kind == kind && open.fits(bytes, limit))
    }

    /// Copies a record into the open frame, which was found to have room.
    pub(super) fn append_to_open_frame(&mut self, pieces: &[&[u8]], bytes: usize) -> Staged {
        let open = self.staging.open.as_mut().expect("a frame is open");
        let offset = open.slab.frontier() - open.start;
        for piece in pieces {
            open.slab.append(piece);
        }
        open.checksum = crc32c::crc32c_append(open.checksum, &pieces[0][..HEADER_BYTES]);
        open.records += 1;
        self.statistics.record_bytes += bytes as u64;
        let end = open.slab.frontier();
        Staged {
            location: RecordLocation {
                frame: open.number,
                offset: u32::try_from(offset).expect("a frame is shorter than 4 GiB"),
                bytes: u32::try_from(bytes).expect("a record is shorter than a frame"),
            },
            slab: Rc::clone(&open.slab),
            end,
        }
    }

    /// Begins a frame that has room for `bytes` of records at least.
    pub(super) fn begin_frame(&mut self, kind: FrameKind, bytes: usize) -> Result<(), AppendError> {
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
            kind,
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
            kind: open.kind,
            number: open.number,
            start: open.start,
            reservation: open.reservation,
            records: open.records,
            slab: open.slab,
            payload_bytes,
            state_bytes: open.state_bytes,
            checksum: open.checksum,
            bytes,
        });
    }
}
