//! Compaction: entries that a state machine has taken over need not be kept.

use pontoon_types::{EntryId, GroupId};

use super::SegmentLog;
use crate::record::{HEADER_BYTES, RecordKind};

impl SegmentLog {
    /// The entries of a group up to `compacted` may be freed.
    pub fn compact(&mut self, group: GroupId, compacted: EntryId) {
        let Some(state) = self.groups.get_mut(&group).map(|group| &mut group.state) else {
            return;
        };
        if compacted.index <= state.compacted.index {
            return;
        }
        state.compacted = compacted;
        if compacted.index > state.last.index {
            state.last = compacted;
        }
        self.pending_compactions.push(group);
        self.stage_compactions();
    }

    /// Stages the compactions that are not in the log yet, and frees what they allow to free.
    pub(super) fn stage_compactions(&mut self) {
        if self.writer.poisoned.is_some() {
            return;
        }
        while let Some(id) = self.pending_compactions.pop() {
            let Some(compacted) = self.groups.get(&id).map(|group| group.state.compacted) else {
                continue;
            };
            let waiting = self.staging.bytes(self.block) + HEADER_BYTES + 2 * self.block;
            let room = self.space.has_room_to_move(waiting, &self.config);
            let kind = RecordKind::CompactedTo;
            if !room || self.stage_record(id, compacted, kind, &[]).is_err() {
                self.pending_compactions.push(id);
                return;
            }
            let Self { groups, frames, .. } = self;
            let group = groups.get_mut(&id).expect("looked up above");
            group.forget(compacted.index, frames);
        }
    }
}
