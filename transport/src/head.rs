//! Heads: what a frame says about each group, of one fixed size, read in place.
//!
//! The engine gives the kinds their meaning. Every kind carries group, term and flags; besides:
//!
//! ```text
//! kind               index            log_term       second_index    round    extra
//! 1 request vote     last of the log  its term
//! 2 vote response
//! 3 append entries   previous entry   its term       leader commit   round    index that every
//!                                                                             member holds
//! 4 append response  matching entry                                  echoed   epoch of the log
//!   when rejected    previous entry   term of hint   index of hint   echoed   epoch of the log
//! 5 timeout now
//! 6 repaired         epoch of the log
//! 7 introduction     own epoch        own nonce      epoch met      nonce    generation met
//! 8 recognised
//! 9 founding         definition
//! ```
//!
//! Introduction and recognised are of no group: an introduction says which life of its log the
//! sender is in, its generation in `term`, and in which one it last met the receiver (all 0 if
//! never).
//!
//! `count` is the number of records and not 0 in append entries only; fields left blank are 0.

use rkyv::Portable;
use rkyv::api::low;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;
use rkyv::rend::unaligned::{u16_ule, u32_ule, u64_ule};

/// Bytes of a head on the wire.
pub const HEAD_BYTES: usize = 64;

const _: () = assert!(size_of::<WireHead>() == HEAD_BYTES);
const _: () = assert!(align_of::<WireHead>() == 1);

/// A head as it lies on the wire: its own archive, and so the format.
#[derive(Portable, CheckBytes, Clone, Copy, Debug)]
#[bytecheck(crate = rkyv::bytecheck)]
#[repr(C)]
pub struct WireHead {
    /// The group.
    pub group: u64_ule,
    /// The kind of message.
    pub kind: u8,
    /// Flags of that kind.
    pub flags: u8,
    /// Zero.
    pub reserved: u16_ule,
    /// Number of records of this head among the frame's.
    pub count: u32_ule,
    /// The sender's term.
    pub term: u64_ule,
    /// An index, by kind.
    pub index: u64_ule,
    /// The term at that index.
    pub log_term: u64_ule,
    /// A second index, by kind.
    pub second_index: u64_ule,
    /// A round of heartbeats.
    pub round: u64_ule,
    /// An index or an epoch, by kind.
    pub extra: u64_ule,
}

/// The same in the machine's own integers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The group.
    pub group: u64,
    /// The kind of message; its meaning is the engine's.
    pub kind: u8,
    /// Flags of that kind.
    pub flags: u8,
    /// Number of records of this head among the frame's.
    pub count: u32,
    /// The sender's term.
    pub term: u64,
    /// An index, by kind.
    pub index: u64,
    /// The term at that index.
    pub log_term: u64,
    /// A second index, by kind.
    pub second_index: u64,
    /// A round of heartbeats.
    pub round: u64,
    /// An index or an epoch, by kind.
    pub extra: u64,
}

impl Head {
    /// Appends the archive. Field after field in the order of [`WireHead`]: no padding between
    /// unaligned fields, which the size asserted above and a test of the bytes hold.
    pub(crate) fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.group.to_le_bytes());
        bytes.extend_from_slice(&[self.kind, self.flags, 0, 0]);
        bytes.extend_from_slice(&self.count.to_le_bytes());
        let fields = [
            self.term,
            self.index,
            self.log_term,
            self.second_index,
            self.round,
            self.extra,
        ];
        for field in fields {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
    }

    /// Reads one in place, through checked access. `None` if the bytes are no head.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let head = low::access::<WireHead, Failure>(bytes).ok()?;
        (head.reserved == 0).then(|| Self {
            group: head.group.to_native(),
            kind: head.kind,
            flags: head.flags,
            count: head.count.to_native(),
            term: head.term.to_native(),
            index: head.index.to_native(),
            log_term: head.log_term.to_native(),
            second_index: head.second_index.to_native(),
            round: head.round.to_native(),
            extra: head.extra.to_native(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_head_are_those_of_the_format() {
        let head = Head {
            group: 0x0102_0304_0506_0708,
            kind: 9,
            flags: 10,
            count: 11,
            term: 12,
            index: 13,
            log_term: 14,
            second_index: 15,
            round: 16,
            extra: 17,
        };
        let mut bytes = Vec::new();
        head.encode(&mut bytes);
        assert_eq!(bytes.len(), HEAD_BYTES);
        assert_eq!(
            bytes[..16],
            [8, 7, 6, 5, 4, 3, 2, 1, 9, 10, 0, 0, 11, 0, 0, 0]
        );
        for (position, expected) in (16..64).step_by(8).zip(12_u8..) {
            assert_eq!(
                bytes[position..position + 8],
                [expected, 0, 0, 0, 0, 0, 0, 0]
            );
        }
        assert_eq!(Head::decode(&bytes), Some(head));
    }
}
