//! Replaying records: what the groups are after the frames that count.

use std::collections::BTreeMap;

use crate::layout::NUMBER_MAX;
use crate::log::group::{Group, GroupState, Run};
use crate::log::space::Frames;
use crate::record::{Record, RecordKind, Records, u64_at};

/// A group while it is being replayed.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    pub(super) group: Group,
    /// First index of each run of equal term, ascending.
    pub(super) terms: Vec<(u64, u64)>,
    /// Missing entries: from the first up to but without the second.
    gaps: Vec<(u64, u64)>,
    /// A frame that was durable is missing, and nothing since has said what the group is.
    unsure: bool,
    /// A state record has said what the group is.
    defined: bool,
    /// Its last entry is from before a damage: what follows may belong to another one.
    open_link: bool,
    /// Entries below this one may have been overridden by what is missing.
    doubtful_below: u64,
}

/// The groups while they are being replayed.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub(super) groups: BTreeMap<u64, Replayed>,
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
            replayed.unsure = true;
            replayed.open_link = true;
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
            if !(first_possible..=NUMBER_MAX).contains(&record.index) {
                return false;
            }
            if record.kind.is_entry() {
                self.entry(&record, number, offset);
            } else if !self.state_record(&record) {
                return false;
            }
            offset += bytes;
        }
        true
    }

    fn known(&mut self, group: u64) -> &mut Replayed {
        let unsure = self.damaged;
        self.groups.entry(group).or_insert_with(|| Replayed {
            unsure,
            ..Replayed::default()
        })
    }

    fn entry(&mut self, record: &Record<'_>, frame: u64, offset: u32) {
        self.known(record.group);
        let replayed = self.groups.get_mut(&record.group).expect("just made known");
        let frames = &mut self.frames;
        let index = record.index;
        replayed.lower_floor(index);
        replayed.close_link(index, record.term);
        let last = replayed.group.state.last.0;
        if index <= last {
            replayed.truncate(index, frames);
        } else if index > last + 1 {
            replayed.gaps.push((last + 1, index));
        }
        if replayed
            .terms
            .last()
            .is_none_or(|(_, term)| *term != record.term)
            || index > last + 1
        {
            replayed.terms.push((index, record.term));
        }
        replayed.group.state.last = (index, record.term);
        let bytes = record.encoded_bytes as u32;
        match replayed.group.runs.back_mut() {
            Some(run) if run.frame == frame && !run.clipped && run.end() == index => {
                run.count += 1;
                run.bytes = offset + bytes - run.offset;
            }
            _ => {
                frames.hold(frame);
                let run = Run {
                    first: index,
                    count: 1,
                    frame,
                    offset,
                    bytes,
                    clipped: false,
                };
                replayed.group.runs.push_back(run);
            }
        }
    }

    fn state_record(&mut self, record: &Record<'_>) -> bool {
        match record.kind {
            RecordKind::HardState => {
                if record.payload.len() != 16 {
                    return false;
                }
                let voted = u64_at(record.payload, 8) & 1 != 0;
                let state = &mut self.known(record.group).group.state;
                state.current_term = record.term;
                state.voted_for = voted.then(|| u64_at(record.payload, 0));
            }
            RecordKind::GroupState => {
                let decoded = GroupState::decode(record.term, record.payload);
                let Some(state) = decoded.filter(is_plausible) else {
                    return false;
                };
                self.next_incarnation = self.next_incarnation.max(state.incarnation + 1);
                self.known(record.group);
                let replayed = self.groups.get_mut(&record.group).expect("just made known");
                replayed.restate(state, &mut self.frames);
            }
            RecordKind::Truncate => {
                self.known(record.group);
                let replayed = self.groups.get_mut(&record.group).expect("just made known");
                replayed.lower_floor(record.index + 1);
                if record.index < replayed.group.state.last.0 {
                    replayed.truncate(record.index + 1, &mut self.frames);
                    replayed.group.state.last = (record.index, record.term);
                }
            }
            RecordKind::CompactedTo => {
                self.known(record.group);
                let replayed = self.groups.get_mut(&record.group).expect("just made known");
                replayed.compact((record.index, record.term), &mut self.frames);
            }
            RecordKind::GroupDropped => {
                if let Some(mut replayed) = self.groups.remove(&record.group) {
                    replayed
                        .group
                        .truncate(0, |frame| self.frames.release(frame));
                }
            }
            RecordKind::SnapshotMark => {}
            RecordKind::Command | RecordKind::Noop | RecordKind::Membership => return false,
        }
        true
    }

    /// Cuts what is not whole and says which groups are tainted.
    pub(super) fn finish(&mut self) {
        for replayed in self.groups.values_mut() {
            replayed.finish(&mut self.frames);
        }
    }
}

/// Whether a log could have written this state.
fn is_plausible(state: &GroupState) -> bool {
    let (compacted, last) = (state.compacted.0, state.last.0);
    compacted <= last && last <= NUMBER_MAX && state.incarnation <= NUMBER_MAX
}

impl Replayed {
    /// An entry comes at `index`, and what came before the oldest segment is not known: as long as
    /// no state record has said more, all below it is taken for compacted.
    fn lower_floor(&mut self, index: u64) {
        let state = &mut self.group.state;
        let unknown = self.group.runs.is_empty() && index > state.last.0;
        if !self.defined && (unknown || index <= state.compacted.0) {
            state.compacted = (index - 1, 0);
            state.last.0 = state.last.0.max(index - 1);
        }
    }

    /// After damage, an entry is known to follow the one before it only if both are of one term:
    /// its leader's log held only one entry there. Otherwise that one, and others before it, may be
    /// what a missing frame replaced.
    fn close_link(&mut self, index: u64, term: u64) {
        if std::mem::take(&mut self.open_link) {
            let before = index - 1;
            let kept = before > self.group.state.compacted.0;
            if kept && self.term_at(before) != term {
                self.doubtful_below = index;
            }
        }
    }

    fn truncate(&mut self, index: u64, frames: &mut Frames) {
        self.group.truncate(index, |frame| frames.release(frame));
        self.doubtful_below = self.doubtful_below.min(index);
        while self.terms.last().is_some_and(|(first, _)| *first >= index) {
            self.terms.pop();
        }
        self.gaps.retain(|(from, _)| *from < index);
        if let Some((_, to)) = self.gaps.last_mut() {
            *to = index.min(*to);
        }
    }

    fn compact(&mut self, compacted: (u64, u64), frames: &mut Frames) {
        let state = &mut self.group.state;
        if compacted.0 < state.compacted.0 {
            return;
        }
        state.compacted = compacted;
        if compacted.0 > state.last.0 {
            state.last = compacted;
        }
        self.group
            .forget(compacted.0, |frame| frames.release(frame));
        self.gaps.retain(|(_, to)| *to > compacted.0 + 1);
        if let Some((from, _)) = self.gaps.first_mut() {
            *from = (compacted.0 + 1).max(*from);
        }
    }

    /// A frame repeats what the group is.
    fn restate(&mut self, state: GroupState, frames: &mut Frames) {
        if self.defined && state.incarnation != self.group.state.incarnation {
            // What dropped the group and made it again is missing: its life before is over.
            self.group.truncate(0, |frame| frames.release(frame));
            *self = Self {
                unsure: true,
                ..Self::default()
            };
        }
        let first_kept = self.group.state.compacted.0 + 1;
        if self.group.runs.is_empty() && self.gaps.is_empty() && self.group.state.last.0 == 0 {
            // Nothing is known of any entry, so there must be none above the compacted ones.
            self.group.state.last = state.compacted;
            self.group.state.compacted = state.compacted;
        } else if state.compacted.0 + 1 < first_kept {
            self.gaps.insert(0, (state.compacted.0 + 1, first_kept));
            self.group.state.compacted = state.compacted;
        } else {
            self.compact(state.compacted, frames);
        }
        // What is missing may be overridden further on, and its segment freed for that reason.
        let missing = self.group.state.last.0 < state.last.0;
        if missing {
            self.gaps
                .push((self.group.state.last.0 + 1, state.last.0 + 1));
        }
        let agrees = self.group.state.last == state.last && self.gaps.is_empty();
        self.open_link &= !agrees;
        let last = if missing {
            state.last
        } else {
            self.group.state.last
        };
        self.unsure = !agrees && (self.unsure || !missing && self.gaps.is_empty());
        self.defined = true;
        let compacted = self.group.state.compacted;
        self.group.state = GroupState {
            last,
            compacted,
            ..state
        };
    }

    fn term_at(&self, index: u64) -> u64 {
        let position = self.terms.partition_point(|(first, _)| *first <= index);
        position
            .checked_sub(1)
            .map_or(0, |position| self.terms[position].1)
    }

    fn finish(&mut self, frames: &mut Frames) {
        if let Some((from, _)) = self.gaps.first().copied() {
            self.unsure = true;
            let compacted = self.group.state.compacted;
            self.truncate(from, frames);
            let kept = (from - 1, self.term_at(from - 1));
            self.group.state.last = if from - 1 <= compacted.0 {
                compacted
            } else {
                kept
            };
        }
        let doubtful = self.doubtful_below > self.group.state.compacted.0 + 1;
        self.group.state.tainted |= self.unsure || doubtful || !self.defined;
        let (first, last) = (self.group.state.compacted.0 + 1, self.group.state.last.0);
        let position = self.terms.partition_point(|(start, _)| *start <= first);
        self.terms.drain(..position.saturating_sub(1));
        if let Some(run) = self.terms.first_mut() {
            run.0 = run.0.max(first);
        }
        if last < first {
            self.terms.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{encoded_bytes, header};

    /// Found by fuzzing (`segment_open`): recovery ended the process by an overflow.
    #[test]
    fn records_that_no_log_writes_are_nonsense_however_sound_their_checksum() {
        let state = |compacted, last, incarnation| {
            let state = GroupState {
                incarnation,
                compacted: (compacted, 1),
                last: (last, 1),
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
            let mut bytes = header(1, index, 1, kind, &payload).to_vec();
            bytes.extend(&payload);
            bytes.resize(encoded_bytes(payload.len()), 0);
            let mut replay = Replay::new(1);
            replay.frames.push(1);
            assert!(!replay.frame(1, &bytes), "{kind:?} {index}");
        }
    }
}
