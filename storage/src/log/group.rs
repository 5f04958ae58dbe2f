//! What a log knows about one group: its state, where its entries are, and those still in memory.

use std::cell::Cell;
use std::collections::VecDeque;

use pontoon_types::{EntryId, LogIndex, NodeId, Term};

use crate::record::{u32_at, u64_at};
use crate::slab::RecordBytes;

/// Entries of one group in one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) first: LogIndex,
    pub(crate) count: u32,
    pub(crate) frame: u64,
    /// Where the first record begins, counted from the start of the frame.
    pub(crate) offset: u32,
    /// Bytes from there to the end of the last record; other groups' records may lie between.
    pub(crate) bytes: u32,
    /// Some of the records in these bytes were overridden, so the extent can't be extended.
    pub(crate) clipped: bool,
}

impl Extent {
    /// The index behind the extent.
    pub(crate) fn end(&self) -> LogIndex {
        self.first.plus(u64::from(self.count))
    }
}

/// Entries of one group that lie next to each other in memory.
#[derive(Clone, Debug)]
pub(crate) struct CachedExtent {
    pub(crate) first: LogIndex,
    pub(crate) count: u32,
    pub(crate) frame: u64,
    pub(crate) bytes: RecordBytes,
}

impl CachedExtent {
    /// The index behind the extent.
    pub(crate) fn end(&self) -> LogIndex {
        self.first.plus(u64::from(self.count))
    }
}

/// Where the last walk through a cached extent ended, so that the next one need not start over.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hint {
    pub(crate) extent: LogIndex,
    pub(crate) index: LogIndex,
    pub(crate) offset: usize,
}

/// What is repeated about a group in every segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupState {
    /// Which life of this group number it is.
    pub(crate) incarnation: u64,
    pub(crate) current_term: Term,
    pub(crate) voted_for: Option<NodeId>,
    pub(crate) commit_index: LogIndex,
    /// The last entry that is no longer kept.
    pub(crate) compacted: EntryId,
    /// The last entry.
    pub(crate) last: EntryId,
    /// Damage was found and the group has not been declared whole since.
    pub(crate) tainted: bool,
    pub(crate) definition: Vec<u8>,
}

const STATE_BYTES: usize = 64;
const FLAG_VOTED: u32 = 1;
const FLAG_TAINTED: u32 = 2;

impl GroupState {
    /// The fixed part of a state record's payload; the definition follows it.
    pub(crate) fn encode(&self) -> [u8; STATE_BYTES] {
        let mut bytes = [0; STATE_BYTES];
        let mut flags = if self.tainted { FLAG_TAINTED } else { 0 };
        if self.voted_for.is_some() {
            flags |= FLAG_VOTED;
        }
        let numbers = [
            self.incarnation,
            self.voted_for.unwrap_or_default().0,
            self.commit_index.0,
            self.compacted.index.0,
            self.compacted.term.0,
            self.last.index.0,
            self.last.term.0,
            u64::from(flags) | (self.definition.len() as u64) << 32,
        ];
        for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// Decodes a state record's payload; the term is in the record's header.
    pub(crate) fn decode(current_term: Term, payload: &[u8]) -> Option<Self> {
        if payload.len() < STATE_BYTES {
            return None;
        }
        let flags = u32_at(payload, 56);
        let definition = payload.get(STATE_BYTES..STATE_BYTES + u32_at(payload, 60) as usize)?;
        Some(Self {
            incarnation: u64_at(payload, 0),
            current_term,
            voted_for: (flags & FLAG_VOTED != 0).then(|| NodeId(u64_at(payload, 8))),
            commit_index: LogIndex(u64_at(payload, 16)),
            compacted: entry_at(payload, 24),
            last: entry_at(payload, 40),
            tainted: flags & FLAG_TAINTED != 0,
            definition: definition.to_vec(),
        })
    }
}

fn entry_at(payload: &[u8], at: usize) -> EntryId {
    EntryId::new(LogIndex(u64_at(payload, at)), Term(u64_at(payload, at + 8)))
}

/// A group of the log.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) state: GroupState,
    /// Where the entries are, ascending and without gaps.
    pub(crate) extents: VecDeque<Extent>,
    /// The entries in memory, ascending; an extent that is not durable yet is always here.
    pub(crate) cached: VecDeque<CachedExtent>,
    pub(crate) hint: Cell<Hint>,
}

/// Cached extents that are looked at one by one, before the others are searched.
const NEWEST_EXTENTS: usize = 8;

impl Group {
    /// Cuts off the entries from `index` on; calls `dead` with the frame of each extent that is gone.
    pub(crate) fn truncate(&mut self, index: LogIndex, mut dead: impl FnMut(u64)) {
        while let Some(extent) = self.extents.back_mut() {
            if extent.first >= index {
                dead(extent.frame);
                self.extents.pop_back();
                continue;
            }
            if extent.end() > index {
                extent.count = (index.0 - extent.first.0) as u32;
                extent.clipped = true;
            }
            break;
        }
        while let Some(extent) = self.cached.back_mut() {
            if extent.first >= index {
                self.cached.pop_back();
                continue;
            }
            if extent.end() > index {
                let kept = offset_of(extent, index, Hint::default());
                extent.count = (index.0 - extent.first.0) as u32;
                extent.bytes = extent.bytes.slice(0..kept);
            }
            break;
        }
        self.hint.set(Hint::default());
    }

    /// Forgets the entries up to `index`; calls `dead` with the frame of each extent that is gone.
    pub(crate) fn forget(&mut self, index: LogIndex, mut dead: impl FnMut(u64)) {
        while self
            .extents
            .front()
            .is_some_and(|extent| extent.end() <= index.next())
        {
            dead(self.extents.pop_front().expect("looked at").frame);
        }
        while self
            .cached
            .front()
            .is_some_and(|extent| extent.end() <= index.next())
        {
            self.cached.pop_front();
        }
    }

    /// Position of the cached extent that holds `index` or comes after it. Mostly it is one of the
    /// last, which are looked at first.
    pub(crate) fn cached_position(&self, index: LogIndex) -> usize {
        let newest = self.cached.len().saturating_sub(NEWEST_EXTENTS);
        let is_new = |extent: &CachedExtent| extent.first <= index;
        if self.cached.get(newest).is_some_and(is_new) {
            let before = self.cached.range(newest..);
            newest + before.take_while(|extent| extent.end() <= index).count()
        } else {
            self.cached.partition_point(|extent| extent.end() <= index)
        }
    }

    /// The extent that holds an index.
    pub(crate) fn extent_of(&self, index: LogIndex) -> Option<&Extent> {
        let position = self.extents.partition_point(|extent| extent.end() <= index);
        self.extents
            .get(position)
            .filter(|extent| extent.first <= index)
    }
}

/// Where the record of `index` begins in a cached extent that holds it or ends just before it.
pub(crate) fn offset_of(extent: &CachedExtent, index: LogIndex, hint: Hint) -> usize {
    let (mut at, mut offset) = (extent.first, 0);
    if hint.extent == extent.first && (extent.first..=index).contains(&hint.index) {
        (at, offset) = (hint.index, hint.offset);
    }
    let bytes = extent.bytes.as_ref();
    while at < index {
        offset += encoded_bytes_at(&bytes[offset..]);
        at = at.next();
    }
    offset
}

/// Length of the record at the start of trusted bytes.
pub(crate) fn encoded_bytes_at(bytes: &[u8]) -> usize {
    crate::record::encoded_bytes((u32_at(bytes, 24) & 0x00ff_ffff) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_state_comes_back_as_it_was_written() {
        let state = GroupState {
            incarnation: 1,
            current_term: Term(2),
            voted_for: Some(NodeId(3)),
            commit_index: LogIndex(4),
            compacted: EntryId::new(LogIndex(5), Term(6)),
            last: EntryId::new(LogIndex(7), Term(8)),
            tainted: true,
            definition: b"definition".to_vec(),
        };
        for state in [state, GroupState::default()] {
            let mut payload = state.encode().to_vec();
            payload.extend_from_slice(&state.definition);
            assert_eq!(
                GroupState::decode(state.current_term, &payload),
                Some(state)
            );
            payload.pop();
            payload.truncate(63);
            assert_eq!(GroupState::decode(Term(2), &payload), None);
        }
    }

    #[test]
    fn truncation_clips_the_last_run_and_names_the_frames_that_died() {
        let extent = |first, frame| Extent {
            first: LogIndex(first),
            count: 4,
            frame,
            offset: 64,
            bytes: 400,
            clipped: false,
        };
        let mut group = Group {
            extents: [extent(1, 1), extent(5, 2), extent(9, 3)].into(),
            ..Group::default()
        };
        let mut dead = Vec::new();
        group.truncate(LogIndex(7), |frame| dead.push(frame));
        assert_eq!(dead, [3]);
        assert_eq!(
            group
                .extent_of(LogIndex(6))
                .map(|extent| (extent.count, extent.clipped)),
            Some((2, true))
        );
        assert_eq!(group.extent_of(LogIndex(7)), None);
        group.forget(LogIndex(4), |frame| dead.push(frame));
        assert_eq!(dead, [3, 1]);
    }
}
