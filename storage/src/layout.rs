//! Encoding of segment headers and frame headers. The bytes are drawn in the crate's documentation.

use crate::identity::LogIdentity;
use crate::record::{u32_at, u64_at};

/// Version of everything this crate writes.
pub(crate) const FORMAT_VERSION: u32 = 3;

/// The oldest version that it reads: without the lives of the log, and goes on in the newest.
pub(crate) const FORMAT_VERSION_MIN: u32 = 2;

/// Bytes of a frame's header.
pub(crate) const FRAME_HEADER_BYTES: usize = 64;

/// Smallest block: a frame starts on a multiple of this.
pub(crate) const BLOCK_BYTES_MIN: usize = 4096;

/// How many ends of earlier epochs a segment header has room for.
pub(crate) const ENDS_MAX: usize = 64;

/// No log gets to write as many frames, segments, epochs or entries: larger numbers are damage that
/// its checksum hides, and smaller ones can be counted on from without overflow.
pub(crate) const NUMBER_MAX: u64 = u64::MAX / 2;

const SEGMENT_MAGIC: u64 = u64::from_le_bytes(*b"PONTOSEG");
const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"PFRM");
const ENDS_AT: usize = 112;
const END_BYTES: usize = 32;
const SEGMENT_CHECKSUM_AT: usize = BLOCK_BYTES_MIN - 4;

const _: () = assert!(ENDS_AT + ENDS_MAX * END_BYTES <= SEGMENT_CHECKSUM_AT);

/// Up to where an epoch counts: its last accepted frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EpochEnd {
    pub(crate) epoch: u64,
    pub(crate) sequence: u64,
    pub(crate) frame: u64,
    pub(crate) checksum: u32,
}

/// The ends of epochs as bytes: a part of a segment's header, or a record's payload.
pub(crate) fn encode_ends(ends: &[EpochEnd]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ends.len() * END_BYTES);
    for end in ends {
        for number in [end.epoch, end.sequence, end.frame, end.checksum.into()] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
    }
    bytes
}

/// The ends in some bytes; what is left over at the end is none.
pub(crate) fn decode_ends(bytes: &[u8]) -> Vec<EpochEnd> {
    let end = |bytes: &[u8]| EpochEnd {
        epoch: u64_at(bytes, 0),
        sequence: u64_at(bytes, 8),
        frame: u64_at(bytes, 16),
        checksum: u32_at(bytes, 24),
    };
    bytes.chunks_exact(END_BYTES).map(end).collect()
}

/// Whether a block begins as a segment's header does, or a frame's.
pub(crate) fn has_magic(block: &[u8]) -> bool {
    u64_at(block, 0) == SEGMENT_MAGIC || u32_at(block, 0) == FRAME_MAGIC
}

/// What a segment's first block says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) identity: LogIdentity,
    pub(crate) block_bytes: u32,
    pub(crate) segment_bytes: u64,
    pub(crate) sequence: u64,
    pub(crate) epoch: u64,
    /// Number of the first frame that is written into this segment.
    pub(crate) first_frame: u64,
    /// Highest frame known durable when the header was written.
    pub(crate) durable_frame: u64,
    /// Segments below this one hold nothing that is needed; a durable frame has said so.
    pub(crate) oldest_live: u64,
    /// Ends of the latest epochs that still have segments, oldest first.
    pub(crate) ends: Vec<EpochEnd>,
}

/// Why a block is not the header of a segment of this log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    /// All zero: prepared and never used.
    Blank,
    /// Written by a version that we can't read.
    Version(u32),
    /// Anything else that does not check.
    Damaged,
}

impl SegmentHeader {
    /// Encodes the header into a zeroed block.
    pub(crate) fn encode(&self, block: &mut [u8]) {
        assert!(block.len() >= BLOCK_BYTES_MIN && self.ends.len() <= ENDS_MAX);
        block.fill(0);
        let put = |block: &mut [u8], at: usize, bytes: &[u8]| {
            block[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(block, 0, &SEGMENT_MAGIC.to_le_bytes());
        put(block, 8, &FORMAT_VERSION.to_le_bytes());
        put(block, 12, &self.block_bytes.to_le_bytes());
        put(block, 16, &self.identity.cluster.to_le_bytes());
        put(block, 32, &self.identity.node.to_le_bytes());
        put(block, 40, &self.identity.core.to_le_bytes());
        put(block, 42, &self.identity.cores.to_le_bytes());
        put(block, 48, &self.segment_bytes.to_le_bytes());
        put(block, 56, &self.sequence.to_le_bytes());
        put(block, 64, &self.epoch.to_le_bytes());
        put(block, 72, &self.first_frame.to_le_bytes());
        put(block, 80, &self.durable_frame.to_le_bytes());
        put(block, 88, &self.oldest_live.to_le_bytes());
        put(block, 96, &(self.ends.len() as u32).to_le_bytes());
        put(block, ENDS_AT, &encode_ends(&self.ends));
        let checksum = crc32c::crc32c(&block[..SEGMENT_CHECKSUM_AT]);
        put(block, SEGMENT_CHECKSUM_AT, &checksum.to_le_bytes());
    }

    /// Decodes and checks a header. The identity is left to the caller to compare.
    pub(crate) fn decode(block: &[u8]) -> Result<Self, HeaderFault> {
        let block = &block[..BLOCK_BYTES_MIN];
        if *block == [0; BLOCK_BYTES_MIN] {
            return Err(HeaderFault::Blank);
        }
        let checksum = crc32c::crc32c(&block[..SEGMENT_CHECKSUM_AT]);
        if u64_at(block, 0) != SEGMENT_MAGIC || u32_at(block, SEGMENT_CHECKSUM_AT) != checksum {
            return Err(HeaderFault::Damaged);
        }
        if !(FORMAT_VERSION_MIN..=FORMAT_VERSION).contains(&u32_at(block, 8)) {
            return Err(HeaderFault::Version(u32_at(block, 8)));
        }
        let count = u32_at(block, 96) as usize;
        if count > ENDS_MAX {
            return Err(HeaderFault::Damaged);
        }
        let u16_at = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
        let header = Self {
            identity: LogIdentity {
                cluster: u128::from(u64_at(block, 16)) | u128::from(u64_at(block, 24)) << 64,
                node: u64_at(block, 32),
                core: u16_at(40),
                cores: u16_at(42),
            },
            block_bytes: u32_at(block, 12),
            segment_bytes: u64_at(block, 48),
            sequence: u64_at(block, 56),
            epoch: u64_at(block, 64),
            first_frame: u64_at(block, 72),
            durable_frame: u64_at(block, 80),
            oldest_live: u64_at(block, 88),
            ends: decode_ends(&block[ENDS_AT..ENDS_AT + count * END_BYTES]),
        };
        if header.is_plausible() {
            Ok(header)
        } else {
            Err(HeaderFault::Damaged)
        }
    }

    /// Whether a log could have written these numbers.
    fn is_plausible(&self) -> bool {
        let within = |number: u64| (1..=NUMBER_MAX).contains(&number);
        let earlier = |end: &EpochEnd| {
            end.epoch < self.epoch && end.sequence < self.sequence && end.frame < self.first_frame
        };
        within(self.sequence)
            && within(self.epoch)
            && within(self.first_frame)
            && self.durable_frame < self.first_frame
            && self.oldest_live <= self.sequence
            && self.ends.iter().all(earlier)
    }
}

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FrameKind {
    /// Carries records.
    Records = 1,
    /// Carries nothing; says that the frames before it are durable.
    Mark = 2,
    /// Carries records; its entries are copies of such as lay in older frames.
    Relocated = 3,
}

/// What stands before a frame's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) kind: FrameKind,
    pub(crate) sequence: u64,
    pub(crate) number: u64,
    pub(crate) durable_frame: u64,
    pub(crate) payload_bytes: u32,
    pub(crate) records: u32,
    /// Header checksum of the frame before this one.
    pub(crate) previous: u32,
    pub(crate) payload_checksum: u32,
    pub(crate) epoch: u64,
    /// The oldest segment that is needed, once this frame is durable.
    pub(crate) oldest_live: u64,
}

/// Where a frame stands, mixed into its checksums: the same bytes elsewhere are no frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Salt {
    identity: u32,
}

impl Salt {
    /// The part of the salt that is the same for a whole log.
    pub(crate) fn new(identity: &LogIdentity) -> Self {
        let mut checksum = crc32c::crc32c(&identity.cluster.to_le_bytes());
        checksum = crc32c::crc32c_append(checksum, &identity.node.to_le_bytes());
        checksum = crc32c::crc32c_append(checksum, &identity.core.to_le_bytes());
        Self { identity: checksum }
    }

    /// The salt of a place.
    pub(crate) fn at(self, epoch: u64, sequence: u64, offset: u64) -> u32 {
        let checksum = crc32c::crc32c_append(self.identity, &epoch.to_le_bytes());
        let checksum = crc32c::crc32c_append(checksum, &sequence.to_le_bytes());
        crc32c::crc32c_append(checksum, &offset.to_le_bytes())
    }

    /// What a frame's header says of a payload. `checksum` is over the headers of its records,
    /// each of which has one over the rest of its record; it is summed while records are staged,
    /// when the place is not known yet.
    pub(crate) fn payload(place: u32, checksum: u32) -> u32 {
        checksum ^ place
    }
}

impl FrameHeader {
    /// Encodes the header; its own checksum is salted with `place`. Also gives that checksum.
    pub(crate) fn encode(&self, place: u32) -> ([u8; FRAME_HEADER_BYTES], u32) {
        let mut header = [0; FRAME_HEADER_BYTES];
        let segments_back = u32::try_from(self.sequence - self.oldest_live)
            .expect("a log has fewer than 2^32 live segments");
        header[0..4].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
        header[4] = FORMAT_VERSION as u8;
        header[5] = self.kind as u8;
        header[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        header[16..24].copy_from_slice(&self.number.to_le_bytes());
        header[24..32].copy_from_slice(&self.durable_frame.to_le_bytes());
        header[32..36].copy_from_slice(&self.payload_bytes.to_le_bytes());
        header[36..40].copy_from_slice(&self.records.to_le_bytes());
        header[40..44].copy_from_slice(&self.previous.to_le_bytes());
        header[44..48].copy_from_slice(&self.payload_checksum.to_le_bytes());
        header[48..56].copy_from_slice(&self.epoch.to_le_bytes());
        header[56..60].copy_from_slice(&segments_back.to_le_bytes());
        let checksum = crc32c::crc32c_append(place, &header[..60]);
        header[60..64].copy_from_slice(&checksum.to_le_bytes());
        (header, checksum)
    }

    /// Decodes a header that stands at `offset`, and its checksum; `None` when it is not one.
    ///
    /// The header names its own epoch and segment: the caller compares them.
    pub(crate) fn decode(bytes: &[u8], salt: Salt, offset: u64) -> Option<(Self, u32)> {
        let bytes = bytes.get(..FRAME_HEADER_BYTES)?;
        let known = FORMAT_VERSION_MIN..=FORMAT_VERSION;
        if u32_at(bytes, 0) != FRAME_MAGIC || !known.contains(&bytes[4].into()) {
            return None;
        }
        let kind = match bytes[5] {
            1 => FrameKind::Records,
            2 => FrameKind::Mark,
            3 => FrameKind::Relocated,
            _ => return None,
        };
        let (sequence, epoch) = (u64_at(bytes, 8), u64_at(bytes, 48));
        let checksum = crc32c::crc32c_append(salt.at(epoch, sequence, offset), &bytes[..60]);
        if checksum != u32_at(bytes, 60) {
            return None;
        }
        let header = Self {
            kind,
            sequence,
            number: u64_at(bytes, 16),
            durable_frame: u64_at(bytes, 24),
            payload_bytes: u32_at(bytes, 32),
            records: u32_at(bytes, 36),
            previous: u32_at(bytes, 40),
            payload_checksum: u32_at(bytes, 44),
            epoch,
            oldest_live: sequence.checked_sub(u64::from(u32_at(bytes, 56)))?,
        };
        let within = |number: u64| (1..=NUMBER_MAX).contains(&number);
        let plausible = within(sequence) && within(epoch) && within(header.number);
        (plausible && header.durable_frame < header.number).then_some((header, checksum))
    }

    /// Bytes of the whole frame on the disk.
    pub(crate) fn frame_bytes(&self, block_bytes: usize) -> usize {
        (FRAME_HEADER_BYTES + self.payload_bytes as usize).next_multiple_of(block_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: LogIdentity = LogIdentity {
        cluster: 1 << 100 | 5,
        node: 2,
        core: 3,
        cores: 4,
    };

    #[test]
    fn a_segment_header_comes_back_and_every_flipped_bit_is_noticed() {
        let end = EpochEnd {
            epoch: 1,
            sequence: 2,
            frame: 3,
            checksum: 4,
        };
        let header = SegmentHeader {
            identity: IDENTITY,
            block_bytes: 4096,
            segment_bytes: 1 << 20,
            sequence: 9,
            epoch: 8,
            first_frame: 7,
            durable_frame: 6,
            oldest_live: 5,
            ends: vec![end; ENDS_MAX],
        };
        let mut block = vec![0xFF; 4096];
        header.encode(&mut block);
        assert_eq!(SegmentHeader::decode(&block), Ok(header));
        // Miri takes too long for each of them.
        for bit in (0..block.len() * 8).step_by(if cfg!(miri) { 1_021 } else { 1 }) {
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                SegmentHeader::decode(&block),
                Err(HeaderFault::Damaged),
                "bit {bit}"
            );
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }

    /// Found by fuzzing (`segment_open`): recovery ended the process by an overflow.
    #[test]
    fn numbers_that_no_log_writes_are_damage_however_sound_the_checksum() {
        let sound = SegmentHeader {
            identity: IDENTITY,
            block_bytes: 4096,
            segment_bytes: 1 << 20,
            sequence: 9,
            epoch: 8,
            first_frame: 7,
            durable_frame: 6,
            oldest_live: 5,
            ends: Vec::new(),
        };
        let end = EpochEnd {
            epoch: 7,
            sequence: 8,
            frame: 7,
            checksum: 4,
        };
        let changes: [fn(&mut SegmentHeader); 7] = [
            |header| header.sequence = 0,
            |header| header.epoch = u64::MAX,
            |header| header.first_frame = 0,
            |header| header.first_frame = u64::MAX,
            |header| header.durable_frame = 7,
            |header| header.oldest_live = 10,
            |header| header.ends[0].epoch = 8,
        ];
        let mut block = vec![0; 4096];
        for change in changes {
            let mut header = sound.clone();
            header.ends = vec![EpochEnd { frame: 6, ..end }];
            header.encode(&mut block);
            assert_eq!(SegmentHeader::decode(&block), Ok(header.clone()));
            change(&mut header);
            header.encode(&mut block);
            let decoded = SegmentHeader::decode(&block);
            assert_eq!(decoded, Err(HeaderFault::Damaged), "{header:?}");
        }
    }

    #[test]
    fn a_frame_header_counts_only_at_its_own_place_in_its_own_log() {
        let header = FrameHeader {
            kind: FrameKind::Records,
            sequence: 9,
            number: 100,
            durable_frame: 99,
            payload_bytes: 4096,
            records: 3,
            previous: 77,
            payload_checksum: 78,
            epoch: 8,
            oldest_live: 5,
        };
        let salt = Salt::new(&IDENTITY);
        let (bytes, checksum) = header.encode(salt.at(8, 9, 4096));
        assert_eq!(
            FrameHeader::decode(&bytes, salt, 4096),
            Some((header, checksum))
        );
        assert_eq!(FrameHeader::decode(&bytes, salt, 8192), None);
        let other = Salt::new(&LogIdentity {
            node: 3,
            ..IDENTITY
        });
        assert_eq!(FrameHeader::decode(&bytes, other, 4096), None);
        assert_eq!(header.frame_bytes(4096), 8192);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FrameHeader::decode(&damaged, salt, 4096), None, "bit {bit}");
        }
    }
}
