//! One group of the log: its state, where its entries are, and those still in memory.

use pontoon_types::{EntryId, LogIndex, NodeId, Term};

use super::cache::CachedEntries;
use super::extents::Extents;
use super::frames::Frames;
use crate::record::{encoded_bytes, u32_at, u64_at};

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
    /// It has not met all members since it was made.
    pub(crate) unfounded: bool,
    /// The generation of the log in which it was last known to have forgotten nothing; 0 if never.
    pub(crate) sound_in: u64,
    pub(crate) definition: Vec<u8>,
}

const STATE_BYTES: usize = 64;
const FLAG_VOTED: u32 = 1;
const FLAG_TAINTED: u32 = 2;
/// The generation follows the definition. Without it, it is the first one.
const FLAG_GENERATION: u32 = 4;
/// It was made, and has not met all members.
const FLAG_UNFOUNDED: u32 = 8;
const GENERATION_BYTES: usize = 8;

impl GroupState {
    /// The fixed part of a state record's payload; the definition follows it, then
    /// [`generation`](Self::generation).
    pub(crate) fn encode(&self) -> [u8; STATE_BYTES] {
        let mut bytes = [0; STATE_BYTES];
        let mut flags = FLAG_GENERATION;
        if self.tainted {
            flags |= FLAG_TAINTED;
        }
        if self.unfounded {
            flags |= FLAG_UNFOUNDED;
        }
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

    /// The last part of a state record's payload.
    pub(crate) fn generation(&self) -> [u8; GENERATION_BYTES] {
        self.sound_in.to_le_bytes()
    }

    /// Bytes of the whole record, padding included.
    pub(crate) fn record_bytes(&self) -> usize {
        encoded_bytes(STATE_BYTES + self.definition.len() + GENERATION_BYTES)
    }

    /// Decodes a state record's payload; the term is in the record's header.
    pub(crate) fn decode(current_term: Term, payload: &[u8]) -> Option<Self> {
        if payload.len() < STATE_BYTES {
            return None;
        }
        let flags = u32_at(payload, 56);
        let (definition, rest) =
            payload[STATE_BYTES..].split_at_checked(u32_at(payload, 60) as usize)?;
        let sound_in = match flags & FLAG_GENERATION {
            0 => 1,
            _ => u64_at(rest.get(..GENERATION_BYTES)?, 0),
        };
        Some(Self {
            incarnation: u64_at(payload, 0),
            current_term,
            voted_for: (flags & FLAG_VOTED != 0).then(|| NodeId(u64_at(payload, 8))),
            commit_index: LogIndex(u64_at(payload, 16)),
            compacted: entry_at(payload, 24),
            last: entry_at(payload, 40),
            tainted: flags & FLAG_TAINTED != 0,
            unfounded: flags & FLAG_UNFOUNDED != 0,
            sound_in,
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
    /// Where the entries are.
    pub(crate) extents: Extents,
    /// The entries in memory. Those that are not durable yet are always here.
    pub(crate) cached: CachedEntries,
    /// Its compaction is not in the log yet.
    pub(crate) compaction_waits: bool,
}

impl Group {
    /// Cuts off the entries from `index` on.
    pub(crate) fn truncate(&mut self, index: LogIndex, frames: &mut Frames) {
        self.extents.truncate(index, frames);
        self.cached.truncate(index);
        self.forget_compacted(frames);
    }

    /// Forgets extents of which nothing is kept any more after a change, unless the log does not
    /// say yet that they are compacted.
    pub(crate) fn forget_compacted(&mut self, frames: &mut Frames) {
        if !self.compaction_waits {
            self.extents.forget(self.state.compacted.index, frames);
        }
    }

    /// Forgets the entries up to `index`.
    pub(crate) fn forget(&mut self, index: LogIndex, frames: &mut Frames) {
        self.extents.forget(index, frames);
        self.cached.forget(index);
    }
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
            unfounded: true,
            sound_in: 9,
            definition: b"definition".to_vec(),
        };
        for state in [state, GroupState::default()] {
            let mut payload = state.encode().to_vec();
            payload.extend_from_slice(&state.definition);
            payload.extend_from_slice(&state.generation());
            assert_eq!(
                GroupState::decode(state.current_term, &payload),
                Some(state)
            );
            payload.pop();
            assert_eq!(GroupState::decode(Term(2), &payload), None);
            payload.truncate(63);
            assert_eq!(GroupState::decode(Term(2), &payload), None);
        }
    }
}
