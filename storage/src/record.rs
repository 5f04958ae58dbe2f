//! Records: the unit that is encoded once and then lies on the disk and travels over the wire.
//!
//! The bytes are drawn in the crate's documentation. A record says itself whose it is and where
//! it belongs, so a record that is read back from the wrong place is found out.

use pontoon_types::{EntryId, GroupId, LogIndex, Term};
use thiserror::Error;

/// Bytes of a record's header.
pub const HEADER_BYTES: usize = 32;

/// Records begin at multiples of this.
pub const ALIGN: usize = 16;

/// Longest payload that the length field can say.
pub const PAYLOAD_BYTES_MAX: usize = (1 << 24) - 1;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RecordKind {
    /// A log entry that carries a command of the application.
    Command = 1,
    /// A log entry that a new leader appends.
    Noop = 2,
    /// A log entry that changes the group's members.
    Membership = 3,
    /// Term and vote of a group, together.
    HardState = 16,
    /// Everything about a group except its entries; repeated in every segment.
    GroupState = 17,
    /// The group's entries above the record's index are gone.
    Truncate = 18,
    /// The group's entries up to the record's index (with its term) live elsewhere.
    CompactedTo = 19,
    /// A snapshot up to the record's index exists.
    SnapshotMark = 20,
    /// The group is gone from this node.
    GroupDropped = 21,
    /// An epoch begins in the rest of a segment; says where the epochs before it ended.
    EpochBegun = 22,
    /// What the log remembers beside its groups: its own lives, and those of its peers.
    Lives = 23,
}

impl RecordKind {
    /// True for the kinds that are entries of a group's log: only these may come over the wire.
    #[must_use]
    pub fn is_entry(self) -> bool {
        matches!(self, Self::Command | Self::Noop | Self::Membership)
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Command,
            2 => Self::Noop,
            3 => Self::Membership,
            16 => Self::HardState,
            17 => Self::GroupState,
            18 => Self::Truncate,
            19 => Self::CompactedTo,
            20 => Self::SnapshotMark,
            21 => Self::GroupDropped,
            22 => Self::EpochBegun,
            23 => Self::Lives,
            _ => return None,
        })
    }
}

/// One record, looked at in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The group it belongs to.
    pub group: GroupId,
    /// The entry's index, or the index a state record speaks of.
    pub index: LogIndex,
    /// The entry's term, or the term a state record speaks of.
    pub term: Term,
    /// What it is.
    pub kind: RecordKind,
    /// The command, opaque.
    pub payload: &'a [u8],
    /// Bytes of header, payload and padding together.
    pub encoded_bytes: usize,
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RecordError {
    /// There are fewer bytes than the record says it has.
    #[error("a record needs {needed} bytes and only {present} are there")]
    Short {
        /// Bytes the record needs.
        needed: usize,
        /// Bytes that are there.
        present: usize,
    },
    /// The kind is none we know.
    #[error("{0} is not a kind of record")]
    Kind(u8),
    /// The checksum over header and payload is wrong.
    #[error("a record's checksum is {stored:08x}, its bytes give {computed:08x}")]
    Checksum {
        /// What the record says.
        stored: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// The padding behind the payload is not zero.
    #[error("a record's padding is not zero")]
    Padding,
}

/// Bytes of a record with a payload of `payload` bytes, padding included.
#[must_use]
pub const fn encoded_bytes(payload: usize) -> usize {
    (HEADER_BYTES + payload).next_multiple_of(ALIGN)
}

/// The header of a record, checksum included.
///
/// # Panics
/// If the payload is longer than [`PAYLOAD_BYTES_MAX`].
#[must_use]
pub fn header(
    group: GroupId,
    entry: EntryId,
    kind: RecordKind,
    payload: &[u8],
) -> [u8; HEADER_BYTES] {
    assert!(
        payload.len() <= PAYLOAD_BYTES_MAX,
        "the length field has 24 bits"
    );
    let word = payload.len() as u32 | (kind as u32) << 24;
    let mut header = [0; HEADER_BYTES];
    header[0..8].copy_from_slice(&group.0.to_le_bytes());
    header[8..16].copy_from_slice(&entry.index.0.to_le_bytes());
    header[16..24].copy_from_slice(&entry.term.0.to_le_bytes());
    header[24..28].copy_from_slice(&word.to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&header[..28]), payload);
    header[28..32].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// A whole record, padding included; its payload comes in parts.
pub(crate) fn encode(group: GroupId, entry: EntryId, kind: RecordKind, parts: &[&[u8]]) -> Vec<u8> {
    let payload: usize = parts.iter().map(|part| part.len()).sum();
    let mut record = Vec::with_capacity(encoded_bytes(payload));
    record.resize(HEADER_BYTES, 0);
    for part in parts {
        record.extend_from_slice(part);
    }
    let header = header(group, entry, kind, &record[HEADER_BYTES..]);
    record[..HEADER_BYTES].copy_from_slice(&header);
    record.resize(encoded_bytes(payload), 0);
    record
}

/// Looks at the record at the start of `bytes` and checks it: length, kind, checksum, padding.
///
/// # Errors
/// What is wrong with it; also when it is longer than `bytes`.
pub fn parse(bytes: &[u8]) -> Result<Record<'_>, RecordError> {
    let record = parse_unchecked(bytes)?;
    let stored = u32_at(bytes, 28);
    let computed = crc32c::crc32c_append(crc32c::crc32c(&bytes[..28]), record.payload);
    if stored != computed {
        return Err(RecordError::Checksum { stored, computed });
    }
    let padding = &bytes[HEADER_BYTES + record.payload.len()..record.encoded_bytes];
    if padding.iter().any(|byte| *byte != 0) {
        return Err(RecordError::Padding);
    }
    Ok(record)
}

/// Looks at a record whose checksum was checked before, or will be.
///
/// # Errors
/// [`Short`](RecordError::Short) and [`Kind`](RecordError::Kind).
pub fn parse_unchecked(bytes: &[u8]) -> Result<Record<'_>, RecordError> {
    let present = bytes.len();
    if present < HEADER_BYTES {
        return Err(RecordError::Short {
            needed: HEADER_BYTES,
            present,
        });
    }
    let word = u32_at(bytes, 24);
    let payload_bytes = (word & 0x00ff_ffff) as usize;
    let kind_byte = (word >> 24) as u8;
    let kind = RecordKind::from_byte(kind_byte).ok_or(RecordError::Kind(kind_byte))?;
    let needed = encoded_bytes(payload_bytes);
    if present < needed {
        return Err(RecordError::Short { needed, present });
    }
    Ok(Record {
        group: GroupId(u64_at(bytes, 0)),
        index: LogIndex(u64_at(bytes, 8)),
        term: Term(u64_at(bytes, 16)),
        kind,
        payload: &bytes[HEADER_BYTES..HEADER_BYTES + payload_bytes],
        encoded_bytes: needed,
    })
}

impl Record<'_> {
    /// Index and term together: the entry's, or those a state record speaks of.
    #[must_use]
    pub const fn entry(&self) -> EntryId {
        EntryId::new(self.index, self.term)
    }
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// The records that lie one after another in some bytes, each checked when it is reached.
///
/// Ends after the first error.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    bytes: &'a [u8],
}

impl<'a> Records<'a> {
    /// All records of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// What has not been looked at.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.bytes
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let record = parse(self.bytes);
        self.bytes = match &record {
            Ok(record) => &self.bytes[record.encoded_bytes..],
            Err(_) => &[],
        };
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: EntryId = EntryId::new(LogIndex(8), Term(9));

    fn encoded(payload: &[u8]) -> Vec<u8> {
        encode(GroupId(7), ENTRY, RecordKind::Command, &[payload])
    }

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        for length in [0, 1, 15, 16, 17, 4096] {
            let payload = vec![0xA5; length];
            let bytes = encoded(&payload);
            assert_eq!(bytes.len() % ALIGN, 0);
            let record = parse(&bytes).unwrap();
            assert_eq!((record.group, record.entry()), (GroupId(7), ENTRY));
            assert_eq!(
                (record.kind, record.payload),
                (RecordKind::Command, &payload[..])
            );
        }
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_noticed() {
        let bytes = encoded(b"a payload of 19 byt");
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&damaged).is_err(), "bit {bit} went unnoticed");
        }
    }

    #[test]
    fn records_are_walked_until_the_first_error() {
        let mut bytes = encoded(b"one");
        bytes.extend(encoded(b"two"));
        let cut = bytes.len() - 1;
        assert_eq!(Records::new(&bytes).filter(Result::is_ok).count(), 2);
        let walked: Vec<_> = Records::new(&bytes[..cut]).collect();
        assert!(walked[0].is_ok() && walked[1].is_err() && walked.len() == 2);
    }
}
