//! Frames: a header with a checksum, the heads of many groups, then records as they lie on disk.

use crate::error::ConnectionError;
use crate::head::{HEAD_BYTES, Head};

/// Bytes of a frame before its heads.
pub const FRAME_HEADER_BYTES: usize = 32;

/// The number of a connection's first frame, in either direction.
pub(crate) const FIRST_SEQUENCE: u64 = 0;

const MAGIC: u32 = u32::from_le_bytes(*b"PTNf");

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// Heads of groups, and their records.
    Heads,
    /// Are you there? Nothing but a header with a stamp, which the other end sends back.
    Ping,
    /// The answer to a ping, with its stamp.
    Pong,
    /// Something that only newer versions know, by its code on the wire. Such a frame is checked
    /// like any other, skipped, and counted.
    Unknown(u8),
}

impl FrameKind {
    fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Heads,
            2 => Self::Ping,
            3 => Self::Pong,
            code => Self::Unknown(code),
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Heads => 1,
            Self::Ping => 2,
            Self::Pong => 3,
            Self::Unknown(code) => code,
        }
    }
}

/// What the header says of the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) kind: FrameKind,
    pub(crate) head_count: u16,
    pub(crate) records_bytes: u32,
    pub(crate) sequence: u64,
    /// Of a ping and its pong; 0 in other frames.
    pub(crate) stamp: u64,
}

impl FrameHeader {
    pub(crate) fn heads_end(&self) -> usize {
        FRAME_HEADER_BYTES + usize::from(self.head_count) * HEAD_BYTES
    }

    pub(crate) fn frame_bytes(&self) -> u64 {
        self.heads_end() as u64 + u64::from(self.records_bytes)
    }

    /// The same, for a header within `frame_bytes_max`.
    pub(crate) fn whole_bytes(&self) -> usize {
        self.heads_end() + self.records_bytes as usize
    }

    /// Fills in the first 32 of `bytes`, which hold the heads after them.
    pub(crate) fn seal(&self, bytes: &mut [u8]) {
        assert_eq!(
            bytes.len(),
            self.heads_end(),
            "the heads are as many as the header says"
        );
        bytes[..FRAME_HEADER_BYTES].fill(0);
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4] = self.kind.code();
        bytes[6..8].copy_from_slice(&self.head_count.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.records_bytes.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.stamp.to_le_bytes());
        let checksum = checksum(bytes);
        bytes[28..32].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Reads the header of frame number `expected`, and refuses whatever is not exactly that. The
    /// lengths of a frame of unknown kind mean and are bounded as those of any other.
    pub(crate) fn parse(
        bytes: &[u8; FRAME_HEADER_BYTES],
        expected: u64,
        frame_bytes_max: u32,
    ) -> Result<Self, ConnectionError> {
        let bad = |field| {
            Err(ConnectionError::BadHeader {
                field,
                sequence: expected,
            })
        };
        let [
            m0,
            m1,
            m2,
            m3,
            kind,
            flags,
            h0,
            h1,
            r0,
            r1,
            r2,
            r3,
            rest @ ..,
        ] = *bytes;
        if u32::from_le_bytes([m0, m1, m2, m3]) != MAGIC {
            return bad("magic");
        }
        let kind = FrameKind::from_code(kind);
        let (mut sequence, mut stamp) = ([0; 8], [0; 8]);
        sequence.copy_from_slice(&rest[..8]);
        stamp.copy_from_slice(&rest[8..16]);
        let header = Self {
            kind,
            head_count: u16::from_le_bytes([h0, h1]),
            records_bytes: u32::from_le_bytes([r0, r1, r2, r3]),
            sequence: u64::from_le_bytes(sequence),
            stamp: u64::from_le_bytes(stamp),
        };
        // The flags and the reserved bytes of a newer kind may mean something to it.
        let known = !matches!(kind, FrameKind::Unknown(_));
        let is_heads = kind == FrameKind::Heads;
        if known && flags != 0 || is_heads && header.stamp != 0 {
            return bad("flags");
        }
        if header.sequence != expected {
            return bad("sequence");
        }
        if is_heads && header.head_count == 0 {
            return bad("number of heads");
        }
        let is_bare = header.head_count == 0 && header.records_bytes == 0;
        if known && !is_heads && !is_bare {
            return bad("length");
        }
        let bytes = header.frame_bytes();
        if bytes > u64::from(frame_bytes_max) {
            let limit = frame_bytes_max;
            return Err(ConnectionError::TooLarge {
                sequence: expected,
                bytes,
                limit,
            });
        }
        Ok(header)
    }
}

/// Looks at the header that a connection begins with, before the rest of its frame is there.
///
/// # Errors
/// Why it is none. Whether its checksum is right only the heads after it show.
pub fn check_first_header(
    bytes: &[u8; FRAME_HEADER_BYTES],
    frame_bytes_max: u32,
) -> Result<(), ConnectionError> {
    FrameHeader::parse(bytes, FIRST_SEQUENCE, frame_bytes_max).map(drop)
}

/// Whether the checksum of a header with its heads is right.
pub(crate) fn verify(bytes: &[u8]) -> bool {
    bytes[28..32] == checksum(bytes).to_le_bytes()
}

fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..28]), &bytes[FRAME_HEADER_BYTES..])
}

/// A received frame, in place.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    pub(crate) heads: &'a [u8],
    pub(crate) records: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The heads, in order. Checked when the frame was taken.
    pub fn heads(&self) -> impl ExactSizeIterator<Item = Head> + 'a {
        self.heads
            .chunks_exact(HEAD_BYTES)
            .map(|bytes| Head::decode(bytes).expect("heads are checked before the frame is given"))
    }

    /// The records of all heads, one after another. Their own checksums are not yet checked.
    #[must_use]
    pub fn records(&self) -> &'a [u8] {
        self.records
    }
}
