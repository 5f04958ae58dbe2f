//! What a log asks of a disk: operations for the hot path, and a volume for everything that blocks.

use std::io;
use std::path::Path;

use crate::file::{segment_name as slot_file, segment_path};
use crate::slab::{ReadBuffer, RecordBytes};

/// The slot that stands for the witness, a file of its own beside the segments.
pub const WITNESS_SLOT: u32 = u32::MAX;

/// The witness is written in turns at 0 and at this offset, a block each time.
pub(crate) const WITNESS_STRIDE: u64 = 64 << 10;

/// One operation on a segment, for a driver to carry out. A completed write must be durable.
#[derive(Debug)]
pub enum DiskOp {
    /// Write, durably.
    Write {
        /// Names the operation to [`SegmentLog::on_complete`](crate::SegmentLog::on_complete).
        id: u64,
        /// The segment's slot.
        slot: u32,
        /// Where in it, a multiple of the block.
        offset: u64,
        /// Whole blocks in block-aligned memory. Keep them until the write is complete.
        bytes: RecordBytes,
    },
    /// Read.
    Read {
        /// Names the operation to [`SegmentLog::on_read`](crate::SegmentLog::on_read).
        id: u64,
        /// The segment's slot.
        slot: u32,
        /// Where in it, a multiple of the block.
        offset: u64,
        /// Whole blocks of aligned memory; goes back with the completion.
        buffer: ReadBuffer,
    },
}

impl DiskOp {
    /// The operation's name.
    #[must_use]
    pub fn id(&self) -> u64 {
        match self {
            Self::Write { id, .. } | Self::Read { id, .. } => *id,
        }
    }

    /// The segment's slot.
    #[must_use]
    pub fn slot(&self) -> u32 {
        match self {
            Self::Write { slot, .. } | Self::Read { slot, .. } => *slot,
        }
    }
}

/// How a write is made durable. Which is faster depends on the drive, so it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMethod {
    /// One write with `RWF_DSYNC`.
    WriteDsync,
    /// A write, then `fdatasync`.
    WriteThenFdatasync,
}

/// The file of a slot, in a directory if there is one.
pub(crate) fn segment_name(directory: Option<&Path>, slot: u32) -> String {
    let path = directory.map(|directory| segment_path(directory, slot));
    path.map_or_else(|| slot_file(slot), |path| path.display().to_string())
}

/// The segments of one log, for opening, recovery and preparing. Every call may block.
pub trait Volume {
    /// Alignment of everything that is read or written.
    fn block_bytes(&self) -> usize;

    /// Bytes of each segment.
    fn segment_bytes(&self) -> u64;

    /// The slots whose segments are prepared, ascending.
    fn slots(&self) -> Vec<u32>;

    /// The directory that the segments are files of, for messages.
    fn directory(&self) -> Option<&Path> {
        None
    }

    /// A slot's file, for messages.
    fn segment_name(&self, slot: u32) -> String {
        segment_name(self.directory(), slot)
    }

    /// Fills `buffer` from a slot. Offset, length and memory are aligned to the block.
    ///
    /// # Errors
    /// The system's error; the log is then not opened.
    fn read_at(&mut self, slot: u32, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes `bytes` to a slot; not durable before `sync`. Aligned as for `read_at`.
    ///
    /// # Errors
    /// The system's error; the log is then not opened.
    fn write_at(&mut self, slot: u32, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes durable what was written to a slot.
    ///
    /// # Errors
    /// The system's error; the log is then not opened.
    fn sync(&mut self, slot: u32) -> io::Result<()>;

    /// Makes a new slot: zero-written and durable.
    ///
    /// # Errors
    /// The system's error, ENOSPC when the disk is full.
    fn prepare(&mut self, slot: u32) -> io::Result<()>;

    /// Opens the witness, or makes it, durably: two blocks at 0 and at 64 KiB, zeros at first. From
    /// then on it is read, written and synced as [`WITNESS_SLOT`]. Gives when and where it was
    /// made, which no copy of it has in common with it.
    ///
    /// # Errors
    /// The system's error; the log then does without.
    fn open_witness(&mut self) -> io::Result<u128>;

    /// Puts a new witness, of zeros, in the place of the one that is open: some of it can't be read
    /// or written.
    ///
    /// # Errors
    /// The system's error; the log then does without.
    fn replace_witness(&mut self) -> io::Result<u128>;

    /// Slots that have bad sectors, set aside or not. None of them is prepared anew.
    fn unsound(&self) -> Vec<u32> {
        Vec::new()
    }

    /// Remembers for all later openings that a slot has bad sectors.
    ///
    /// # Errors
    /// The system's error; the slot is then known as unsound until the log is closed.
    fn mark_unsound(&mut self, _slot: u32) -> io::Result<()> {
        Ok(())
    }

    /// Takes a slot out for good that has bad sectors, and that nothing needs. It keeps its space,
    /// so that nothing else comes to lie on these sectors.
    ///
    /// # Errors
    /// The system's error; the slot is then left as it is.
    fn set_aside(&mut self, _slot: u32) -> io::Result<()> {
        Ok(())
    }
}
