//! Configuration of a log: whose it is, its sizes and its limits.

use crate::error::OpenError;
use crate::identity::LogIdentity;
use crate::layout::{BLOCK_BYTES_MIN, FRAME_HEADER_BYTES};
use crate::mutant::Mutant;
use crate::record;

/// Highest slot: a file name has four digits for it.
pub(crate) const SLOT_MAX: u32 = 9999;

/// Writes under way hold no more bytes together than so many of the longest frames.
const FRAMES_IN_FLIGHT: u64 = 2;

/// Bytes behind the last durable frame in which writes may be under way, where no frame is longer
/// than `frame_bytes_max`.
pub(crate) fn bytes_in_flight_max(frame_bytes_max: u64) -> u64 {
    FRAMES_IN_FLIGHT * frame_bytes_max
}

/// Sizes and limits of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Whose log it is.
    pub identity: LogIdentity,
    /// Bytes of every segment, whole blocks; can't change while segments exist. Default: 64 MiB.
    pub segment_bytes: u64,
    /// Bytes of the longest frame, header and padding included; no record may need more.
    /// Default: 1 MiB.
    pub frame_bytes_max: u32,
    /// Bytes of one slab of the arena. Default: 1 MiB.
    pub slab_bytes: usize,
    /// Bytes of the arena for records that are not durable yet. Default: 16 MiB.
    pub staging_bytes: usize,
    /// Bytes of the arena that keep the latest durable entries readable without the disk.
    /// Default: 16 MiB.
    pub cache_bytes: usize,
    /// Bytes for reads from the disk; one under way takes `frame_bytes_max` and two blocks. There
    /// is room for two at least, of which one is never for a peer. Default: 4 MiB.
    pub read_bytes: usize,
    /// Most segments on the disk, the two included that entries leave alone, from 3 to 9999. Only a
    /// start may add one more, when none is free and the last one is full. Default: 64.
    pub segments_max: u32,
    /// Most bytes of repeated group state in one frame while a checkpoint is written; a longer
    /// state still goes whole into one frame. Default: 32 KiB.
    pub state_bytes_per_frame: usize,
    /// A random number for the life that begins with this opening. Default: 0, which is as good as
    /// any where no peer is told of it.
    pub nonce: u64,
    /// A rule to break.
    #[cfg(feature = "mutants")]
    pub mutant: Option<Mutant>,
}

impl LogConfig {
    /// The defaults: 64 MiB segments, frames of 1 MiB, 64 of them, 32 MiB of memory.
    #[must_use]
    pub fn new(identity: LogIdentity) -> Self {
        Self {
            identity,
            segment_bytes: 64 << 20,
            frame_bytes_max: 1 << 20,
            slab_bytes: 1 << 20,
            staging_bytes: 16 << 20,
            cache_bytes: 16 << 20,
            read_bytes: 4 << 20,
            segments_max: 64,
            state_bytes_per_frame: 32 << 10,
            nonce: 0,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }

    #[cfg(feature = "mutants")]
    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    #[cfg(not(feature = "mutants"))]
    #[expect(
        clippy::unused_self,
        reason = "without the feature there are no mutants"
    )]
    pub(crate) fn is(&self, _mutant: Mutant) -> bool {
        false
    }

    /// Longest record, header and padding included: what a frame takes.
    pub(crate) fn record_bytes_max(&self) -> usize {
        self.frame_bytes_max as usize - FRAME_HEADER_BYTES
    }

    /// Checks what does not depend on the disk.
    pub(crate) fn validate(&self, block_bytes: usize) -> Result<(), OpenError> {
        let frame = self.frame_bytes_max as usize;
        let refuse = |setting, reason| Err(OpenError::Config { setting, reason });
        if !block_bytes.is_power_of_two() || !(BLOCK_BYTES_MIN..=64 << 10).contains(&block_bytes) {
            return refuse(
                "block_bytes",
                "blocks must be a power of two from 4 KiB to 64 KiB",
            );
        }
        if frame < 2 * block_bytes || !frame.is_multiple_of(block_bytes) {
            return refuse(
                "frame_bytes_max",
                "must be at least two blocks, and whole blocks",
            );
        }
        if frame > record::PAYLOAD_BYTES_MAX {
            return refuse("frame_bytes_max", "must be below 16 MiB");
        }
        if self.slab_bytes < frame || !self.slab_bytes.is_multiple_of(block_bytes) {
            return refuse("slab_bytes", "must hold a frame, and be whole blocks");
        }
        if self.staging_bytes < 4 * self.slab_bytes {
            return refuse("staging_bytes", "must be at least four slabs");
        }
        if self.read_bytes < frame + 2 * block_bytes {
            return refuse("read_bytes", "must hold a frame and two blocks");
        }
        if self.segment_bytes < 8 * u64::from(self.frame_bytes_max) {
            return refuse(
                "segment_bytes",
                "must hold at least eight of the longest frames",
            );
        }
        if !self.segment_bytes.is_multiple_of(block_bytes as u64) {
            return refuse("segment_bytes", "must be whole blocks");
        }
        if !(3..=SLOT_MAX).contains(&self.segments_max) {
            return refuse("segments_max", "must be from 3 to 9999");
        }
        if !(1024..=frame / 2).contains(&self.state_bytes_per_frame) {
            return refuse(
                "state_bytes_per_frame",
                "must be from 1 KiB to half a frame",
            );
        }
        Ok(())
    }
}
