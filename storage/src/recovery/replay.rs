//! The replay of all records of the frames that count, in order.

use std::collections::BTreeMap;

use pontoon_types::{GroupId, LogIndex, NodeId};

use super::replayed::Replayed;
use crate::layout::NUMBER_MAX;
use crate::log::extents::RecordLocation;
use crate::log::frames::Frames;
use crate::log::group::GroupState;
use crate::record::{Record, RecordKind, Records, u64_at};

/// The groups while they are being replayed.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub(super) groups: BTreeMap<GroupId, Replayed>,
    pub(super) frames: Frames,
    pub(super) next_incarnation: u64,
    damaged: bool,
}

impl Replay {
    pub(super) fn new(first_frame: u64) -> Self {
        Self {
            frames: Frames::new(first_frame),
            next_incarnation: 1,
            ..Self::default()
        }
    }

    /// Frames that were durable are missing here.
    pub(super) fn damage(&mut self) {
        self.damaged = true;
        for replayed in self.groups.values_mut() {
            replayed.damage();
        }
    }

    /// Replays a frame. False when its records don't verify, or say what no log writes, though the
    /// frame did verify when it was looked at first.
    pub(super) fn frame(&mut self, number: u64, payload: &[u8]) -> bool {
        let mut offset = crate::layout::FRAME_HEADER_BYTES as u32;
        for record in Records::new(payload) {
            let Ok(record) = record else { return false };
            let bytes = record.encoded_bytes as u32;
            let first_possible = u64::from(record.kind.is_entry());
            if !(first_possible..=NUMBER_MAX).contains(&record.index.0) {
                return false;
            }
            if record.kind.is_entry() {
                let location = RecordLocation {
                    frame: number,
                    offset,
                    bytes,
                };
                let replayed = known(&mut self.groups, self.damaged, record.group);
                replayed.entry(&record, location, &mut self.frames);
            } else if !self.state_record(&record) {
                return false;
            }
            offset += bytes;
        }
        true
    }

    fn state_record(&mut self, record: &Record<'_>) -> bool {
        match record.kind {
            RecordKind::HardState => {
                if record.payload.len() != 16 {
                    return false;
                }
                let voted = u64_at(record.payload, 8) & 1 != 0;
                let replayed = known(&mut self.groups, self.damaged, record.group);
                let state = &mut replayed.group.state;
                state.current_term = record.term;
                state.voted_for = voted.then(|| NodeId(u64_at(record.payload, 0)));
            }
            RecordKind::GroupState => {
                let decoded = GroupState::decode(record.term, record.payload);
                let Some(state) = decoded.filter(is_plausible) else {
                    return false;
                };
                self.next_incarnation = self.next_incarnation.max(state.incarnation + 1);
                let replayed = known(&mut self.groups, self.damaged, record.group);
                replayed.apply_state(state, &mut self.frames);
            }
            RecordKind::Truncate => {
                let replayed = known(&mut self.groups, self.damaged, record.group);
                replayed.truncate_suffix(record.entry(), &mut self.frames);
            }
            RecordKind::CompactedTo => {
                let replayed = known(&mut self.groups, self.damaged, record.group);
                replayed.compact(record.entry(), &mut self.frames);
            }
            RecordKind::GroupDropped => {
                if let Some(mut replayed) = self.groups.remove(&record.group) {
                    replayed.group.truncate(LogIndex(0), &mut self.frames);
                }
            }
            RecordKind::SnapshotMark | RecordKind::EpochBegun => {}
            RecordKind::Command | RecordKind::Noop | RecordKind::Membership => return false,
        }
        true
    }

    /// Cuts off what follows a gap and says which groups are tainted.
    pub(super) fn finish(&mut self) {
        for replayed in self.groups.values_mut() {
            replayed.finish(&mut self.frames);
        }
    }
}

/// The group, which was not known before if no record of it has been replayed.
fn known(groups: &mut BTreeMap<GroupId, Replayed>, damaged: bool, group: GroupId) -> &mut Replayed {
    groups
        .entry(group)
        .or_insert_with(|| Replayed::new(damaged))
}

/// Whether a log could have written this state.
fn is_plausible(state: &GroupState) -> bool {
    let (compacted, last) = (state.compacted.index.0, state.last.index.0);
    compacted <= last && last <= NUMBER_MAX && state.incarnation <= NUMBER_MAX
}

#[cfg(test)]
mod tests {
    use pontoon_types::{EntryId, Term};

    use super::*;
    use crate::record::{encoded_bytes, header};

    /// Found by fuzzing (`segment_open`): recovery ended the process by an overflow.
    #[test]
    fn records_that_no_log_writes_are_nonsense_however_sound_their_checksum() {
        let state = |compacted, last, incarnation| {
            let state = GroupState {
                incarnation,
                compacted: EntryId::new(LogIndex(compacted), Term(1)),
                last: EntryId::new(LogIndex(last), Term(1)),
                ..GroupState::default()
            };
            state.encode().to_vec()
        };
        let cases = [
            (RecordKind::Command, 0, Vec::new()),
            (RecordKind::Command, u64::MAX, Vec::new()),
            (RecordKind::Truncate, u64::MAX, Vec::new()),
            (RecordKind::CompactedTo, u64::MAX, Vec::new()),
            (RecordKind::GroupState, 0, state(5, 4, 1)),
            (RecordKind::GroupState, 0, state(4, u64::MAX, 1)),
            (RecordKind::GroupState, 0, state(4, 5, u64::MAX)),
        ];
        for (kind, index, payload) in cases {
            let entry = EntryId::new(LogIndex(index), Term(1));
            let mut bytes = header(GroupId(1), entry, kind, &payload).to_vec();
            bytes.extend(&payload);
            bytes.resize(encoded_bytes(payload.len()), 0);
            let mut replay = Replay::new(1);
            replay.frames.push(1);
            assert!(!replay.frame(1, &bytes), "{kind:?} {index}");
        }
    }
}
