//! The replay of all records of the frames that count, in order.

use std::collections::BTreeMap;

use pontoon_types::{GroupId, LogIndex, NodeId};

use super::replayed::Replayed;
use crate::layout::{FRAME_HEADER_BYTES, FrameHeader, FrameKind, NUMBER_MAX};
use crate::life::Lives;
use crate::log::extents::{Extent, RecordLocation};
use crate::log::frames::Frames;
use crate::log::group::GroupState;
use crate::record::{Record, RecordKind, Records, u64_at};

/// The groups while they are being replayed.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub(super) groups: BTreeMap<GroupId, Replayed>,
    pub(super) lives: Lives,
    pub(super) frames: Frames,
    pub(super) next_incarnation: u64,
    /// How many times frames that were durable were found to be missing.
    damages: u64,
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
        // Each group hears of it when its next record comes.
        self.damages += 1;
    }

    /// Replays a frame. False when its records don't verify, or say what no log writes, though the
    /// frame did verify when it was looked at first.
    pub(super) fn frame(&mut self, header: &FrameHeader, payload: &[u8]) -> bool {
        let mut run = None;
        let replayed = self.records(header, payload, &mut run);
        self.end_run(run);
        replayed
    }

    /// Replays the records of a frame; `run` takes relocated entries that follow one another.
    fn records(&mut self, header: &FrameHeader, payload: &[u8], run: &mut Option<Run>) -> bool {
        let (number, relocated) = (header.number, header.kind == FrameKind::Relocated);
        let mut offset = FRAME_HEADER_BYTES as u32;
        for record in Records::new(payload) {
            let Ok(record) = record else { return false };
            let bytes = record.encoded_bytes as u32;
            let first_possible = u64::from(record.kind.is_entry());
            if !(first_possible..=NUMBER_MAX).contains(&record.index.0) {
                return false;
            }
            if record.kind.is_entry() && relocated {
                let replayed = known(&mut self.groups, self.damages, record.group);
                if replayed.relocated(record.entry()) {
                    let next = Run::begin(number, &record, offset);
                    let same = run.as_mut().filter(|run| run.group == record.group);
                    let begun = same.is_some_and(|run| run.extent.take_in(&next.extent));
                    if !begun {
                        let ended = run.replace(next);
                        self.end_run(ended);
                    }
                }
            } else if record.kind.is_entry() {
                let location = RecordLocation {
                    frame: number,
                    offset,
                    bytes,
                };
                let replayed = known(&mut self.groups, self.damages, record.group);
                replayed.entry(&record, location, &mut self.frames);
            } else if !self.other_record(&record, run) {
                return false;
            }
            offset += bytes;
        }
        true
    }

    /// Enters relocated entries into their group's index.
    fn end_run(&mut self, run: Option<Run>) {
        if let Some(Run { group, extent }) = run
            && let Some(replayed) = self.groups.get_mut(&group)
        {
            let extents = &mut replayed.group.extents;
            extents.relocate(group, extent, &mut self.frames);
            replayed.group.forget_compacted(&mut self.frames);
        }
    }

    /// Replays a record that is not an entry, after the entries before it.
    fn other_record(&mut self, record: &Record<'_>, run: &mut Option<Run>) -> bool {
        self.end_run(run.take());
        self.state_record(record)
    }

    fn state_record(&mut self, record: &Record<'_>) -> bool {
        match record.kind {
            RecordKind::HardState => {
                if record.payload.len() != 16 {
                    return false;
                }
                let voted = u64_at(record.payload, 8) & 1 != 0;
                let replayed = known(&mut self.groups, self.damages, record.group);
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
                let replayed = known(&mut self.groups, self.damages, record.group);
                replayed.apply_state(state, &mut self.frames);
            }
            RecordKind::Truncate => {
                let replayed = known(&mut self.groups, self.damages, record.group);
                replayed.truncate_suffix(record.entry(), &mut self.frames);
            }
            RecordKind::CompactedTo => {
                let replayed = known(&mut self.groups, self.damages, record.group);
                replayed.compact(record.entry(), &mut self.frames);
            }
            RecordKind::GroupDropped => {
                if let Some(mut replayed) = self.groups.remove(&record.group) {
                    replayed.group.truncate(LogIndex(0), &mut self.frames);
                }
            }
            RecordKind::Lives => {
                let Some(lives) = Lives::decode(record.payload) else {
                    return false;
                };
                self.lives = lives;
            }
            RecordKind::SnapshotMark | RecordKind::EpochBegun => {}
            RecordKind::Command | RecordKind::Noop | RecordKind::Membership => return false,
        }
        true
    }

    /// Cuts off what follows a gap and says which groups are tainted.
    pub(super) fn finish(&mut self) {
        for replayed in self.groups.values_mut() {
            replayed.notice_damage(self.damages);
            replayed.finish(&mut self.frames);
        }
    }
}

/// Relocated entries of a group that follow one another in a frame.
#[derive(Debug)]
struct Run {
    group: GroupId,
    extent: Extent,
}

impl Run {
    fn begin(frame: u64, record: &Record<'_>, offset: u32) -> Self {
        let bytes = record.encoded_bytes as u32;
        let extent = Extent {
            first: record.index,
            count: 1,
            frame,
            offset,
            bytes,
            own_bytes: bytes,
            clipped: true,
        };
        Self {
            group: record.group,
            extent,
        }
    }
}

/// The group, which was not known before if no record of it has been replayed.
fn known(groups: &mut BTreeMap<GroupId, Replayed>, damages: u64, group: GroupId) -> &mut Replayed {
    let replayed = groups.entry(group);
    let replayed = replayed.or_insert_with(|| Replayed::new(damages));
    replayed.notice_damage(damages);
    replayed
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
            [&state.encode()[..], &state.generation()].concat()
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
            let header = FrameHeader {
                kind: FrameKind::Records,
                sequence: 1,
                number: 1,
                durable_frame: 0,
                payload_bytes: bytes.len() as u32,
                records: 1,
                previous: 0,
                payload_checksum: 0,
                epoch: 1,
                oldest_live: 1,
            };
            let mut replay = Replay::new(1);
            replay.frames.push(1);
            assert!(!replay.frame(&header, &bytes), "{kind:?} {index}");
        }
    }
}
