//! The walk over all frames, which decides which of them count: it tells torn tails from damage.
//!
//! A frame says which frames were durable when it was sealed, and a later epoch says where an
//! earlier one ended. A frame that is missing below such a mark was durable: that is damage. One
//! that is missing above every mark was never acknowledged.

use std::collections::BTreeMap;

use super::scan::{Found, ScannedFrame, Segment};
use super::verdict::{Facts, Verdict, verdict};
use super::{Damage, RecoveryReport};
use crate::config::{LogConfig, SLOT_MAX};
use crate::layout::{BLOCK_BYTES_MIN, EpochEnd};
use crate::mutant::Mutant;
use crate::witness::Witness;

/// The frames that count.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// By ascending number.
    pub(super) frames: Vec<ScannedFrame>,
    /// Missing frames that were durable.
    pub(super) damage: Vec<Damage>,
    /// Where each epoch that has frames ended.
    pub(super) ends: Vec<EpochEnd>,
    /// Last frame that counts, and its checksum (0 when it is damaged).
    pub(super) last: (u64, u32),
    /// Segments below this are not needed.
    pub(super) oldest_live: u64,
    /// It ends before what the witness saw of it.
    pub(super) cut_short: bool,
}

/// Walks the epochs in order. `all` are the segments that may be live, by ascending sequence, and
/// `found` is what each holds. `seen` is what the witness saw in it.
pub(super) fn walk(
    all: &[Segment],
    found: &[Found],
    oldest_live: u64,
    (config, seen): (&LogConfig, Option<Witness>),
    report: &mut RecoveryReport,
) -> Chain {
    let mut ends = BTreeMap::new();
    for (segment, found) in all.iter().zip(found) {
        let listed = segment.header.ends.iter().chain(&found.ends);
        ends.extend(listed.map(|end| (end.epoch, *end)));
    }
    let mut chain = Chain {
        oldest_live,
        ..Chain::default()
    };
    if let Some(first) = all.first() {
        chain.last.0 = first.header.first_frame - 1;
        if first.header.sequence != oldest_live && !first.rebuilt {
            chain.lost_front(first);
        }
    }
    let epochs = epochs(all, found, report);
    for (position, epoch) in epochs.iter().enumerate() {
        let next = epochs.get(position + 1);
        let next = next.filter(|_| !config.is(Mutant::IgnoresAcceptedEnds));
        let accepted_end = next.map(|next| accepted_end(&ends, epoch.number, next));
        let seen = seen.filter(|_| accepted_end.is_none());
        chain.walk_epoch(epoch, (accepted_end, seen), config, report);
    }
    if let Some(seen) = seen {
        chain.compare(&seen, (epochs.last(), all.last()));
    }
    chain.oldest_live = chain
        .frames
        .iter()
        .map(|frame| frame.header.oldest_live)
        .fold(oldest_live, u64::max);
    chain.forget_freed(all);
    if let Some(first) = all.first().filter(|first| first.rebuilt) {
        // Its own frames have said only now which segment is the oldest that is needed.
        if first.header.sequence > chain.oldest_live {
            chain.lost_front(first);
        }
    }
    chain
}

/// Tells the epochs apart, by ascending number. One that did not begin in a segment of its own
/// begins behind the last frame that counts in an earlier one's: what lies behind it and is of
/// that one was dropped when it began.
fn epochs<'a>(all: &'a [Segment], found: &[Found], report: &mut RecoveryReport) -> Vec<Epoch<'a>> {
    let mut epochs = BTreeMap::<u64, Epoch<'a>>::new();
    let mut enter = |number, segment: &'a Segment, frame: Option<ScannedFrame>| {
        let epoch = epochs.entry(number).or_insert_with(|| Epoch {
            number,
            segments: Vec::new(),
            frames: Vec::new(),
        });
        if epoch
            .segments
            .last()
            .is_none_or(|last| last.slot != segment.slot)
        {
            epoch.segments.push(segment);
        }
        epoch.frames.extend(frame);
    };
    for (segment, found) in all.iter().zip(found) {
        let mut current = segment.header.epoch;
        enter(current, segment, None);
        for frame in &found.frames {
            if frame.header.epoch < current {
                report.frames_dropped += 1;
                continue;
            }
            current = frame.header.epoch;
            enter(current, segment, Some(*frame));
        }
    }
    epochs.into_values().collect()
}

/// Where an epoch that another one follows ended, given what the headers and the beginnings of
/// epochs say.
fn accepted_end(ends: &BTreeMap<u64, EpochEnd>, epoch: u64, next: &Epoch<'_>) -> EpochEnd {
    // When the list was lost, the next epoch's first frame still says where this one ended.
    let by_next = EpochEnd {
        epoch,
        sequence: 0,
        frame: next.first_frame().saturating_sub(1),
        checksum: 0,
    };
    ends.get(&epoch).copied().unwrap_or(by_next)
}

/// No log holds more frames than this, so that no more can be missing from it.
fn frames_max(config: &LogConfig) -> u64 {
    (u64::from(SLOT_MAX) + 1) * (config.segment_bytes / BLOCK_BYTES_MIN as u64)
}

/// One epoch, as it was found.
struct Epoch<'a> {
    number: u64,
    /// At least one, by ascending sequence; in the first, an earlier epoch may have frames too.
    segments: Vec<&'a Segment>,
    /// By ascending offset of ascending segments. At least one, unless it began in a segment of
    /// its own.
    frames: Vec<ScannedFrame>,
}

impl Epoch<'_> {
    /// Number of the first frame, or the highest that it can have had if it is lost.
    fn first_frame(&self) -> u64 {
        let first = &self.segments[0].header;
        if first.epoch == self.number {
            return first.first_frame;
        }
        let frame = &self.frames[0];
        frame.header.number - u64::from(!frame.begins_epoch)
    }

    /// Highest frame known to have been durable: the accepted end, or, in the last epoch, what
    /// any of its headers says.
    fn durable_frame(&self, accepted_end: Option<EpochEnd>, config: &LogConfig) -> u64 {
        if config.is(Mutant::EveryDamageIsTorn) {
            return 0;
        }
        if let Some(end) = accepted_end {
            return end.frame;
        }
        let segments = self.segments.iter();
        let segments = segments.map(|segment| segment.header.durable_frame);
        let frames = self.frames.iter();
        let frames = frames.map(|frame| frame.header.durable_frame);
        segments.chain(frames).max().unwrap_or(0)
    }
}

impl Chain {
    /// The oldest segment that is needed is not there.
    fn lost_front(&mut self, first: &Segment) {
        let lost = Damage {
            slot: first.slot,
            offset: 0,
            first_frame: 0,
            last_frame: first.header.first_frame - 1,
        };
        self.damage.insert(0, lost);
    }

    /// Walks the frames of one epoch, by ascending offset of ascending segments.
    fn walk_epoch(
        &mut self,
        epoch: &Epoch<'_>,
        (accepted_end, seen): (Option<EpochEnd>, Option<Witness>),
        config: &LogConfig,
        report: &mut RecoveryReport,
    ) {
        let told = epoch.durable_frame(accepted_end, config);
        let durable = told.max(seen.map_or(0, |seen| seen.frame));
        let durable = durable.min(self.last.0.saturating_add(frames_max(config)));
        let before = self.last.0;
        // Where the next frame should be, were it missing.
        let slot = epoch.segments[0].slot;
        let before_it = self.frames.last().filter(|frame| frame.slot == slot);
        let mut place = (slot, before_it.map_or(0, ScannedFrame::end));
        for frame in &epoch.frames {
            match verdict(self.facts(frame, accepted_end, durable)) {
                Verdict::AfterEnd
                | Verdict::Old
                | Verdict::WrongEnd
                | Verdict::NotChained
                | Verdict::GapInFlight => {
                    report.frames_dropped += 1;
                    continue;
                }
                Verdict::Counts => {}
                Verdict::GapOfDurable => self.missing(place, frame.header.number - 1),
            }
            self.last = (frame.header.number, frame.checksum);
            self.frames.push(*frame);
            place = (frame.slot, frame.end());
        }
        if self.last.0 < durable {
            self.missing(place, durable);
            self.last = (durable, 0);
            self.cut_short = durable > told;
        }
        if self.last.0 > before {
            self.ends.push(self.end_of(epoch));
        }
    }

    /// Compares it with what the witness saw, given the last epoch and the last segment.
    fn compare(
        &mut self,
        seen: &Witness,
        (epoch, segment): (Option<&Epoch<'_>>, Option<&Segment>),
    ) {
        let newest_epoch = epoch.map_or(0, |epoch| epoch.number);
        let newest_sequence = segment.map_or(0, |segment| segment.header.sequence);
        if !seen.outlasts(newest_epoch, newest_sequence, self.last.0) {
            return;
        }
        self.cut_short = true;
        // Perhaps no frame was in what is gone: nobody can tell.
        let lost = seen.frame.max(self.last.0 + 1);
        self.missing((segment.map_or(0, |segment| segment.slot), 0), lost);
        self.last = (lost, 0);
        if let Some(epoch) = epoch {
            self.ends.retain(|end| end.epoch != epoch.number);
            self.ends.push(self.end_of(epoch));
        }
    }

    /// What is known of a frame. `durable` is the highest frame known to have been durable.
    fn facts(&self, frame: &ScannedFrame, accepted_end: Option<EpochEnd>, durable: u64) -> Facts {
        let number = frame.header.number;
        let (last, last_checksum) = self.last;
        Facts {
            after_end: accepted_end.is_some_and(|end| number > end.frame),
            order: number.cmp(&(last + 1)),
            wrong_end: accepted_end.is_some_and(|end| {
                number == end.frame && end.checksum != 0 && end.checksum != frame.checksum
            }),
            chained: last_checksum == 0 || frame.header.previous == last_checksum,
            previous_durable: number - 1 <= durable,
        }
    }

    /// Where an epoch ended that the walk has just gone through.
    fn end_of(&self, epoch: &Epoch<'_>) -> EpochEnd {
        let (frame, checksum) = self.last;
        let within = |segment: &&&Segment| segment.header.first_frame <= frame;
        let last = epoch.segments.iter().rev().find(within);
        EpochEnd {
            epoch: epoch.number,
            sequence: last.unwrap_or(&epoch.segments[0]).header.sequence,
            frame,
            checksum,
        }
    }

    fn missing(&mut self, (slot, offset): (u32, u64), last_frame: u64) {
        let first_frame = self.last.0 + 1;
        self.damage.push(Damage {
            slot,
            offset,
            first_frame,
            last_frame,
        });
    }

    /// Leaves out what a durable frame has declared free: it may be overwritten in part.
    fn forget_freed(&mut self, segments: &[Segment]) {
        let oldest = self.oldest_live;
        let front = segments
            .iter()
            .find(|segment| segment.header.sequence >= oldest);
        if let Some(front) = front.filter(|front| front.header.sequence == oldest) {
            let first_frame = front.header.first_frame;
            self.damage
                .retain(|damage| damage.last_frame >= first_frame);
        }
        self.frames.retain(|frame| frame.header.sequence >= oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::LogIdentity;
    use crate::layout::{FrameHeader, FrameKind, SegmentHeader};

    const IDENTITY: LogIdentity = LogIdentity {
        cluster: 1,
        node: 1,
        core: 0,
        cores: 1,
    };

    fn config() -> LogConfig {
        LogConfig::new(IDENTITY)
    }

    fn segment(sequence: u64, epoch: u64, first_frame: u64, ends: Vec<EpochEnd>) -> Segment {
        let header = SegmentHeader {
            identity: IDENTITY,
            block_bytes: 4096,
            segment_bytes: 1 << 20,
            sequence,
            epoch,
            first_frame,
            durable_frame: first_frame - 1,
            oldest_live: 1,
            ends,
        };
        Segment {
            slot: sequence as u32,
            header,
            rebuilt: false,
        }
    }

    /// Frames of one segment, as (number, durable frame).
    fn frames(sequence: u64, epoch: u64, numbers: &[(u64, u64)]) -> Found {
        let found = |(number, durable_frame): &(u64, u64)| {
            let header = FrameHeader {
                kind: FrameKind::Records,
                sequence,
                number: *number,
                durable_frame: *durable_frame,
                payload_bytes: 0,
                records: 0,
                previous: 100 + *number as u32 - 1,
                payload_checksum: 0,
                epoch,
                oldest_live: 1,
            };
            let checksum = 100 + *number as u32;
            ScannedFrame {
                slot: sequence as u32,
                offset: number * 4096,
                header,
                checksum,
                begins_epoch: false,
            }
        };
        Found {
            frames: numbers.iter().map(found).collect(),
            ends: Vec::new(),
        }
    }

    /// What counts of one segment's frames: their numbers, the last one, and what is damaged.
    fn check(numbers: &[(u64, u64)]) -> (Vec<u64>, u64, Vec<(u64, u64)>) {
        let segments = [segment(1, 1, 1, Vec::new())];
        let mut report = RecoveryReport::default();
        let chain = walk(
            &segments,
            &[frames(1, 1, numbers)],
            1,
            (&config(), None),
            &mut report,
        );
        let damage = chain
            .damage
            .iter()
            .map(|damage| (damage.first_frame, damage.last_frame));
        let damage = damage.collect();
        (
            chain
                .frames
                .iter()
                .map(|frame| frame.header.number)
                .collect(),
            chain.last.0,
            damage,
        )
    }

    #[test]
    fn nothing_behind_the_last_frame_is_a_torn_tail() {
        assert_eq!(check(&[(1, 0), (2, 1), (3, 2)]), (vec![1, 2, 3], 3, vec![]));
        assert_eq!(check(&[]), (vec![], 0, vec![]));
    }

    #[test]
    fn a_missing_frame_that_a_later_one_knew_to_be_durable_is_damage() {
        assert_eq!(
            check(&[(1, 0), (3, 2), (4, 3)]),
            (vec![1, 3, 4], 4, vec![(2, 2)])
        );
        assert_eq!(check(&[(3, 2)]), (vec![3], 3, vec![(1, 2)]));
    }

    #[test]
    fn a_gap_among_writes_in_flight_drops_what_follows() {
        assert_eq!(
            check(&[(1, 0), (2, 1), (4, 2), (5, 2)]),
            (vec![1, 2], 2, vec![])
        );
        // Frame 3 was known to be durable; 5 never was, so 6 does not count.
        let expected = (vec![1, 2, 4], 4, vec![(3, 3)]);
        assert_eq!(check(&[(1, 0), (2, 1), (4, 3), (6, 3)]), expected);
    }

    #[test]
    fn a_frame_that_does_not_follow_its_predecessor_does_not_count() {
        let segments = [segment(1, 1, 1, Vec::new())];
        let mut found = frames(1, 1, &[(1, 0), (2, 1), (3, 2)]);
        found.frames[1].header.previous = 7;
        let chain = walk(
            &segments,
            &[found],
            1,
            (&config(), None),
            &mut RecoveryReport::default(),
        );
        assert_eq!(chain.damage.len(), 1);
        assert_eq!(chain.damage[0].first_frame, 2);
    }

    #[test]
    fn an_epoch_ends_where_a_later_one_says_even_when_only_its_first_frame_tells() {
        let end = EpochEnd {
            epoch: 1,
            sequence: 1,
            frame: 2,
            checksum: 102,
        };
        for ends in [vec![end], vec![]] {
            let segments = [segment(1, 1, 1, Vec::new()), segment(2, 2, 3, ends)];
            let old = frames(1, 1, &[(1, 0), (2, 1), (3, 2), (4, 3)]);
            let new = frames(2, 2, &[(3, 2)]);
            let mut report = RecoveryReport::default();
            let chain = walk(&segments, &[old, new], 1, (&config(), None), &mut report);
            let counted = chain
                .frames
                .iter()
                .map(|f| (f.header.epoch, f.header.number));
            assert_eq!(counted.collect::<Vec<_>>(), [(1, 1), (1, 2), (2, 3)]);
            assert_eq!((chain.damage.len(), report.frames_dropped), (0, 2));
        }
    }

    #[test]
    fn another_frame_in_the_place_of_an_accepted_end_is_damage() {
        let end = EpochEnd {
            epoch: 1,
            sequence: 1,
            frame: 2,
            checksum: 999,
        };
        let segments = [segment(1, 1, 1, Vec::new()), segment(2, 2, 3, vec![end])];
        let found = [frames(1, 1, &[(1, 0), (2, 1)]), frames(2, 2, &[(3, 2)])];
        let chain = walk(
            &segments,
            &found,
            1,
            (&config(), None),
            &mut RecoveryReport::default(),
        );
        assert_eq!(
            (chain.damage[0].first_frame, chain.damage[0].last_frame),
            (2, 2)
        );
    }
}
