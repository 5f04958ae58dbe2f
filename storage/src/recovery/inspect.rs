//! Inspection of a log without changing it: segments, frames, and the outcome of recovery.

use std::collections::BTreeSet;
use std::path::Path;

use super::scan::{Segment, SegmentReader, payload};
use super::{Recovered, Recovery, recover};
use crate::config::LogConfig;
use crate::disk::Volume;
use crate::error::OpenError;
use crate::identity::LogIdentity;
use crate::layout::{FrameHeader, FrameKind};
use crate::read_only::ReadOnlyVolume;
use crate::record::{RecordKind, Records};
use pontoon_types::GroupId;

/// A core's log, as a node would find it at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The owner of the log; `None` when no segment has a sound header.
    pub identity: Option<LogIdentity>,
    /// Bytes of each segment; 0 without segments.
    pub segment_bytes: u64,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// Segments that were written, by ascending sequence.
    pub segments: Vec<InspectedSegment>,
    /// Slots without a frame or header of this log.
    pub unused: Vec<u32>,
    /// Slots with a damaged header in a log without any sound one: without an identity their frames
    /// can't be verified.
    pub unidentified: Vec<u32>,
    /// Last frame that counts; 0 in an empty log.
    pub last_frame: u64,
    /// The groups and the damage that recovery would report. Its epoch is the one that would begin.
    pub recovery: Recovery,
}

/// A segment as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectedSegment {
    /// The number in the file's name.
    pub slot: u32,
    /// Its position in the log.
    pub sequence: u64,
    /// The epoch it was written in.
    pub epoch: u64,
    /// Number of the first frame written into it.
    pub first_frame: u64,
    /// Highest frame known durable when the header was written.
    pub durable_frame: u64,
    /// Sequence of the oldest segment that was needed when the header was written.
    pub oldest_live: u64,
    /// Ends of earlier epochs, as (epoch, last frame).
    pub ends: Vec<(u64, u64)>,
    /// Whether the header does not verify; its fields are then derived from the frames.
    pub header_damaged: bool,
    /// Whether it is still needed; otherwise it is free to be written again.
    pub live: bool,
    /// The frames, by ascending offset.
    pub frames: Vec<InspectedFrame>,
}

/// A frame whose header verifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectedFrame {
    /// Where it begins in the segment.
    pub offset: u64,
    /// Its number.
    pub number: u64,
    /// The epoch it was written in: the segment's, or a later one.
    pub epoch: u64,
    /// Highest frame known durable when it was sealed.
    pub durable_frame: u64,
    /// Sequence of the oldest segment that is needed once the frame is durable.
    pub oldest_live: u64,
    /// Bytes of its records.
    pub payload_bytes: u32,
    /// Number of its records.
    pub records: u32,
    /// Whether it is a mark: without records, written to witness the frames before it.
    pub mark: bool,
    /// Whether its payload verifies, too.
    pub verifies: bool,
    /// The groups that have records in it, ascending; empty when the payload does not verify.
    pub groups: Vec<GroupId>,
    /// The decision of recovery.
    pub verdict: FrameVerdict,
}

/// Decision of recovery on a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameVerdict {
    /// It counts.
    Counts,
    /// It was durable, and its payload does not verify.
    Damaged,
    /// It was being written in the last epoch and never acknowledged: part of the torn tail.
    Torn,
    /// It lies after the accepted end of its epoch, or another frame has its number.
    Dropped,
    /// Its segment is free to be written again.
    Freed,
}

impl Inspection {
    /// The first frame of the torn tail, with its slot.
    pub fn torn_tail(&self) -> Option<(u32, &InspectedFrame)> {
        let frames = self.segments.iter();
        let frames = frames.flat_map(|segment| segment.frames.iter().map(|f| (segment.slot, f)));
        let mut torn = frames.filter(|(_, frame)| frame.verdict == FrameVerdict::Torn);
        torn.next()
    }

    /// Whether no durable frame is missing, the headers of all live segments verify, and no group
    /// is tainted by damage found earlier.
    pub fn is_sound(&self) -> bool {
        let mut live = self.segments.iter().filter(|segment| segment.live);
        self.recovery.report.damage.is_empty()
            && !self.recovery.groups.iter().any(|group| group.tainted)
            && self.unidentified.is_empty()
            && !live.any(|segment| segment.header_damaged)
    }
}

/// Inspects the log in a core's directory. Runs the recovery of a node's start and writes nothing.
/// Blocks while all segments are read, some of them twice.
///
/// # Errors
/// As for [`SegmentLog::open`](crate::SegmentLog::open): [`OpenError::InUse`] while a node runs in
/// the directory, [`OpenError::Foreign`] or [`OpenError::Geometry`] when the segments belong to
/// different logs.
pub fn inspect(directory: &Path) -> Result<Inspection, OpenError> {
    let mut volume = ReadOnlyVolume::open(directory)?;
    let slots = volume.slots();
    let Some(header) = slots.iter().find_map(|slot| volume.header(*slot)) else {
        let (unused, unidentified) = slots.iter().partition(|slot| volume.is_blank(**slot));
        return Ok(Inspection {
            identity: None,
            segment_bytes: volume.segment_bytes(),
            block_bytes: volume.block_bytes(),
            segments: Vec::new(),
            unused,
            unidentified,
            last_frame: 0,
            recovery: Recovery::default(),
        });
    };
    volume.set_block_bytes(header.block_bytes as usize);
    let config = LogConfig {
        segment_bytes: header.segment_bytes,
        ..LogConfig::new(header.identity)
    };
    let recovered = recover(&mut volume, &config)?;
    let block_bytes = volume.block_bytes();
    let mut reader = SegmentReader::new(&mut volume, &config)?;
    let scan = reader.scan(&config)?;
    let mut segments = Vec::new();
    for segment in &scan.segments {
        segments.push(inspect_segment(&mut reader, segment)?);
    }
    let headers = scan.segments.iter().map(|segment| &segment.header);
    let epochs = headers.clone().map(|header| header.epoch);
    let frames = segments.iter().flat_map(|segment| &segment.frames);
    let newest_epoch = epochs.chain(frames.map(|frame| frame.epoch)).max();
    let oldest_live = headers.map(|header| header.oldest_live).max();
    let judge = Judge {
        recovered: &recovered,
        newest_epoch: newest_epoch.unwrap_or(0),
        oldest_live: oldest_live.unwrap_or(0),
    };
    judge.judge(&mut segments);
    Ok(Inspection {
        identity: Some(config.identity),
        segment_bytes: config.segment_bytes,
        block_bytes,
        segments,
        unused: scan.blank,
        unidentified: Vec::new(),
        last_frame: recovered.last_found,
        recovery: recovered.recovery(),
    })
}

/// Lists the frames of a segment, with provisional verdicts.
fn inspect_segment(
    reader: &mut SegmentReader<'_>,
    segment: &Segment,
) -> Result<InspectedSegment, OpenError> {
    let (block, salt) = (reader.block, reader.salt);
    let found = reader.frames(segment)?;
    let verified: BTreeSet<_> = found.frames.iter().map(|frame| frame.offset).collect();
    let header = &segment.header;
    let mut frames = Vec::new();
    let bytes = reader.load(segment.slot)?;
    let mut offset = block;
    while offset < bytes.len() {
        // A recycled segment still holds frames of its earlier use.
        let own = FrameHeader::decode(&bytes[offset..], salt, offset as u64)
            .map(|(frame, _)| frame)
            .filter(|frame| frame.epoch >= header.epoch && frame.sequence == header.sequence);
        let Some(frame) = own else {
            offset += block;
            continue;
        };
        let sound = verified.contains(&(offset as u64));
        let payload = payload(bytes, offset, &frame).filter(|_| sound);
        frames.push(InspectedFrame {
            offset: offset as u64,
            number: frame.number,
            epoch: frame.epoch,
            durable_frame: frame.durable_frame,
            oldest_live: frame.oldest_live,
            payload_bytes: frame.payload_bytes,
            records: frame.records,
            mark: frame.kind == FrameKind::Mark,
            verifies: sound,
            groups: payload.map_or_else(Vec::new, groups_in),
            verdict: FrameVerdict::Dropped,
        });
        offset += frame.frame_bytes(block);
    }
    Ok(InspectedSegment {
        slot: segment.slot,
        sequence: header.sequence,
        epoch: header.epoch,
        first_frame: header.first_frame,
        durable_frame: header.durable_frame,
        oldest_live: header.oldest_live,
        ends: header
            .ends
            .iter()
            .map(|end| (end.epoch, end.frame))
            .collect(),
        header_damaged: segment.rebuilt,
        live: false,
        frames,
    })
}

fn groups_in(payload: &[u8]) -> Vec<GroupId> {
    let records = Records::new(payload).filter_map(Result::ok);
    let records = records.filter(|record| record.kind != RecordKind::EpochBegun);
    let groups: BTreeSet<_> = records.map(|record| record.group).collect();
    groups.into_iter().collect()
}

/// Derives the verdict on each frame from the recovered log.
struct Judge<'a> {
    recovered: &'a Recovered,
    newest_epoch: u64,
    /// Oldest segment needed according to the headers; frames may name a later one.
    oldest_live: u64,
}

impl Judge<'_> {
    fn judge(&self, segments: &mut [InspectedSegment]) {
        let mut oldest_live = self.oldest_live;
        for segment in &*segments {
            let counting = segment.frames.iter().filter(|f| self.counts(segment, f));
            oldest_live = counting.map(|f| f.oldest_live).fold(oldest_live, u64::max);
        }
        let live = &self.recovered.space.live;
        for segment in segments {
            segment.live = live.iter().any(|live| live.sequence == segment.sequence);
            let verdicts: Vec<_> = match segment.sequence < oldest_live {
                true => vec![FrameVerdict::Freed; segment.frames.len()],
                false => {
                    let frames = segment.frames.iter();
                    frames.map(|frame| self.verdict(segment, frame)).collect()
                }
            };
            for (frame, verdict) in segment.frames.iter_mut().zip(verdicts) {
                frame.verdict = verdict;
            }
        }
    }

    /// Whether recovery replayed the frame from this place.
    fn counts(&self, segment: &InspectedSegment, frame: &InspectedFrame) -> bool {
        // Behind the last one is only the frame that would begin the next epoch.
        let place = self.recovered.frames.get(frame.number);
        let found = place.filter(|_| frame.number <= self.recovered.last_found);
        found.is_some_and(|place| {
            (place.slot, place.sequence, place.offset)
                == (segment.slot, segment.sequence, frame.offset)
        })
    }

    fn verdict(&self, segment: &InspectedSegment, frame: &InspectedFrame) -> FrameVerdict {
        let counted = self.recovered.frames.get(frame.number);
        let counted = counted.is_some_and(|place| place.sequence != 0);
        if self.counts(segment, frame) {
            FrameVerdict::Counts
        } else if frame.number > self.recovered.last_found {
            match frame.epoch == self.newest_epoch {
                true => FrameVerdict::Torn,
                false => FrameVerdict::Dropped,
            }
        } else if counted || frame.verifies {
            FrameVerdict::Dropped
        } else {
            FrameVerdict::Damaged
        }
    }
}
