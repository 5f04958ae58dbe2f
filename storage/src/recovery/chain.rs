//! Deciding which frames count: torn tails, holes and damage told apart.
//!
//! A frame says which frames were durable when it was sealed, and a later epoch says where an
//! earlier one ended. A frame that is missing below such a mark was durable: that is damage. One
//! that is missing above every mark was never acknowledged.

use std::collections::BTreeMap;

use super::scan::{Found, Segment};
use super::{Damage, RecoveryReport};
use crate::layout::EpochEnd;

/// The frames that count.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// By ascending number.
    pub(super) frames: Vec<Found>,
    /// Missing frames that were durable.
    pub(super) damage: Vec<Damage>,
    /// Where each epoch that has frames ended.
    pub(super) ends: Vec<EpochEnd>,
    /// Last frame that counts, and its checksum (0 when it is damaged).
    pub(super) last: (u64, u32),
    /// Segments below this are not needed.
    pub(super) oldest_live: u64,
}

/// Walks the epochs in order. `segments` are those that may be live, by ascending sequence, and
/// `frames` their frames.
pub(super) fn walk(
    segments: &[Segment],
    frames: &[Vec<Found>],
    oldest_live: u64,
    report: &mut RecoveryReport,
) -> Chain {
    let mut ends = BTreeMap::new();
    for segment in segments {
        ends.extend(segment.header.ends.iter().map(|end| (end.epoch, *end)));
    }
    let mut chain = Chain {
        oldest_live,
        ..Chain::default()
    };
    if let Some(first) = segments.first() {
        if first.header.sequence == oldest_live || first.rebuilt {
            chain.last.0 = first.header.first_frame - 1;
        } else {
            chain.lost_front(first);
        }
    }
    let mut start = 0;
    while start < segments.len() {
        let epoch = segments[start].header.epoch;
        let same = segments[start..]
            .iter()
            .take_while(|segment| segment.header.epoch == epoch);
        let end = start + same.count();
        let accepted_end = match (ends.get(&epoch), segments.get(end)) {
            (_, None) => None,
            (Some(end), _) => Some(*end),
            // The list was lost: the next epoch's first frame still says where this one ended.
            (None, Some(next)) => {
                let frame = next.header.first_frame - 1;
                Some(EpochEnd {
                    epoch,
                    sequence: 0,
                    frame,
                    checksum: 0,
                })
            }
        };
        chain.walk_epoch(
            &segments[start..end],
            &frames[start..end],
            accepted_end,
            report,
        );
        start = end;
    }
    chain.oldest_live = chain
        .frames
        .iter()
        .map(|frame| frame.header.oldest_live)
        .fold(oldest_live, u64::max);
    chain.forget_freed(segments);
    chain
}

impl Chain {
    /// The oldest segment that is needed is not there.
    fn lost_front(&mut self, first: &Segment) {
        self.last.0 = first.header.first_frame - 1;
        self.damage.push(Damage {
            slot: first.slot,
            offset: 0,
            first_frame: 0,
            last_frame: self.last.0,
        });
    }

    fn walk_epoch(
        &mut self,
        segments: &[Segment],
        frames: &[Vec<Found>],
        accepted_end: Option<EpochEnd>,
        report: &mut RecoveryReport,
    ) {
        let epoch = segments[0].header.epoch;
        let found = || frames.iter().flatten();
        let durable = match accepted_end {
            Some(end) => end.frame,
            None => {
                let headers = segments.iter().map(|segment| segment.header.durable_frame);
                let witnessed = found().map(|frame| frame.header.durable_frame);
                headers.chain(witnessed).max().unwrap_or(0)
            }
        };
        let before = self.last.0;
        let mut place = (segments[0].slot, 0);
        for frame in found() {
            let (number, expected) = (frame.header.number, self.last.0 + 1);
            let ignored = accepted_end.is_some_and(|end| number > end.frame);
            let chained = self.last.1 == 0 || frame.header.previous == self.last.1;
            let broken = number == expected && !chained;
            let wrong_end = accepted_end.is_some_and(|end| {
                number == end.frame && end.checksum != 0 && end.checksum != frame.checksum
            });
            if ignored || broken || wrong_end || number < expected {
                report.frames_dropped += 1;
                continue;
            }
            if number > expected {
                if number - 1 > durable {
                    // A hole among writes that were in flight: nothing behind it counts.
                    report.frames_dropped += 1;
                    continue;
                }
                self.missing(place, number - 1);
            }
            self.last = (number, frame.checksum);
            self.frames.push(*frame);
            place = (
                frame.slot,
                frame.offset + u64::from(frame.header.payload_bytes),
            );
        }
        if self.last.0 < durable {
            self.missing(place, durable);
            self.last = (durable, 0);
        }
        if self.last.0 > before {
            let within = |segment: &&Segment| segment.header.first_frame <= self.last.0;
            let last = segments.iter().rev().find(within).unwrap_or(&segments[0]);
            let sequence = last.header.sequence;
            let (frame, checksum) = self.last;
            self.ends.push(EpochEnd {
                epoch,
                sequence,
                frame,
                checksum,
            });
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
