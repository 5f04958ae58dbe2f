//! The beginning of a new epoch: in the rest of the last segment, or in one of its own.
//!
//! In the rest of the last segment it begins with a frame behind the last one that counts, clear of
//! where writes of the earlier epoch may land: one that was under way when the process ended or the
//! power failed may do so after the start, and would take a frame with it that counts. So a start
//! takes a small part of a segment. Where there is room for no more than a block, it takes that,
//! right behind the last frame: it needs no space on the disk. What the log remembers of its lives
//! is in that frame, too, where it has room.

use std::collections::{BTreeSet, VecDeque};

use pontoon_types::{EntryId, GroupId};

use super::chain::Chain;
use super::scan::{ScannedFrame, Segment, SegmentReader, SegmentScan};
use super::unreadable::is_of_the_medium;
use crate::config::{LogConfig, SLOT_MAX, bytes_in_flight_max};
use crate::disk::Volume;
use crate::error::OpenError;
use crate::layout::{
    ENDS_MAX, EpochEnd, FRAME_HEADER_BYTES, FrameHeader, FrameKind, Salt, SegmentHeader,
    encode_ends,
};
use crate::life::Lives;
use crate::log::lives::lives_record;
use crate::log::segments::{LiveSegment, Space};
use crate::record::{self, HEADER_BYTES, RecordKind};
use crate::slab::SlabPool;
use crate::witness::{Testimony, Witness};

/// A new epoch begins in the rest of a segment that has at least this part of it left; with less
/// it takes a free segment, if there is one.
const REST_DIVISOR: u64 = 8;

/// So many places are tried for it, where the disk fails to write one.
const ATTEMPTS_MAX: u64 = 4;

/// An epoch that has begun, durably.
pub(super) struct Begun {
    pub(super) space: Space,
    /// The frame that begins it, if it has no segment of its own.
    pub(super) frame: Option<ScannedFrame>,
    /// That frame holds what the log remembers of its lives.
    pub(super) with_lives: bool,
}

/// Begins the epoch after all others, and with it a life; `newest_frame` is the highest epoch of
/// any frame, and the witness may have seen a higher one.
pub(super) fn begin(
    reader: &mut SegmentReader<'_>,
    config: &LogConfig,
    (scan, chain): (&SegmentScan, &Chain),
    (newest_frame, witness): (u64, &mut Option<Testimony>),
    lives: &mut Lives,
) -> Result<Begun, OpenError> {
    let headers = scan.segments.iter().map(|segment| &segment.header);
    let newest = headers.clone().map(|header| header.epoch).max();
    let seen = witness.as_ref().and_then(Testimony::seen);
    let (seen_epoch, seen_sequence) = seen.map_or((0, 0), |seen| (seen.epoch, seen.sequence));
    let epoch = newest.unwrap_or(0).max(newest_frame).max(seen_epoch) + 1;
    let newest = headers.map(|header| header.sequence).max();
    let sequence = newest.unwrap_or(0).max(seen_sequence) + 1;
    let before = lives.clone();
    let mut attempt = 0;
    loop {
        *lives = before.clone();
        lives.begin(epoch + attempt, config.nonce);
        let unwritable = reader.bad.unwritable();
        let numbers = (epoch + attempt, sequence + attempt);
        let begun = attempt_to_begin(reader, config, (scan, chain), (numbers, witness), lives);
        // What may have landed in that place ends before it begins, as the next epoch says.
        attempt += 1;
        if begun.is_ok() || attempt == ATTEMPTS_MAX || reader.bad.unwritable() == unwritable {
            return begun;
        }
    }
}

fn attempt_to_begin(
    reader: &mut SegmentReader<'_>,
    config: &LogConfig,
    (scan, chain): (&SegmentScan, &Chain),
    ((epoch, sequence), witness): ((u64, u64), &mut Option<Testimony>),
    lives: &Lives,
) -> Result<Begun, OpenError> {
    let (live, mut free) = classify(scan, chain);
    let unsound = unsound(reader);
    free.retain(|slot| !unsound.contains(slot));
    let behind = rest(reader, scan, chain, &live);
    let longest = longest_frame(reader, config, chain);
    let clear = behind.map(|behind| behind + bytes_in_flight_max(longest));
    let left = |offset: &u64| config.segment_bytes.saturating_sub(*offset);
    let plenty = |offset: &u64| left(offset) >= config.segment_bytes / REST_DIVISOR;
    let fits = |offset: &u64| left(offset) >= reader.block as u64;
    let beginning = Beginning {
        config,
        chain,
        epoch,
        lives,
    };
    let clear = clear.filter(|offset| plenty(offset) || (free.is_empty() && fits(offset)));
    if let Some(offset) = clear {
        return beginning.in_the_rest(reader, offset, live, free);
    }
    let slot = match (free.pop_front(), behind) {
        (Some(slot), _) => slot,
        (None, None) => prepare(reader.volume, &unsound)?,
        (None, Some(offset)) => {
            let may_grow = live.len() as u64 <= u64::from(config.segments_max);
            match may_grow.then(|| prepare(reader.volume, &unsound)) {
                Some(Ok(slot)) => slot,
                _ => return beginning.in_the_rest(reader, offset, live, free),
            }
        }
    };
    let begun_in_vain = scan.segments.iter().any(|segment| segment.slot == slot);
    if let Some(witness) = witness
        .as_mut()
        .filter(|_| begun_in_vain && !chain.cut_short)
        && let Some(seen) = witness.seen()
    {
        let lowered = lowered(&seen, (scan, chain), &live);
        witness.rewrite(reader.volume, config, lowered)?;
    }
    beginning.in_a_segment(reader, (sequence, slot), live, free)
}

/// The witness, of what is kept: a segment that is about to be begun anew, and that an epoch before
/// was begun in and left empty, is nothing that is lost when this does not come to its end.
fn lowered(
    seen: &Witness,
    (scan, chain): (&SegmentScan, &Chain),
    live: &VecDeque<LiveSegment>,
) -> Witness {
    let is_kept = |segment: &&Segment| live.iter().any(|kept| kept.slot == segment.slot);
    let segments = scan.segments.iter().filter(is_kept);
    let of_segments = segments.map(|segment| segment.header.epoch);
    let of_frames = chain.frames.iter().map(|frame| frame.header.epoch);
    let epoch = of_segments.chain(of_frames).max().unwrap_or(0);
    let sequence = live.back().map_or(0, |segment| segment.sequence);
    Witness {
        epoch: seen.epoch.min(epoch),
        sequence: seen.sequence.min(sequence),
        frame: seen.frame.min(chain.last.0),
        ..*seen
    }
}

/// The slots that are not to be used again.
pub(super) fn unsound(reader: &SegmentReader<'_>) -> BTreeSet<u32> {
    let mut unsound = reader.bad.slots();
    unsound.extend(reader.volume.unsound());
    unsound
}

/// Bytes of the longest frame that may have been under way: the limit may have been another one.
fn longest_frame(reader: &SegmentReader<'_>, config: &LogConfig, chain: &Chain) -> u64 {
    let found = chain.frames.iter();
    let found = found.map(|frame| frame.header.frame_bytes(reader.block) as u64);
    found.fold(u64::from(config.frame_bytes_max), u64::max)
}

/// Tells the segments that hold something that counts, or should, from the free ones.
fn classify(scan: &SegmentScan, chain: &Chain) -> (VecDeque<LiveSegment>, VecDeque<u32>) {
    let mut live = VecDeque::new();
    let mut free: VecDeque<_> = scan.blank.iter().copied().collect();
    // Both are by ascending sequence.
    let mut frames = chain.frames.iter().peekable();
    for segment in &scan.segments {
        let (sequence, first_frame) = (segment.header.sequence, segment.header.first_frame);
        let mut last = None;
        while let Some(frame) = frames.next_if(|frame| frame.header.sequence <= sequence) {
            last = Some(frame.header.number).filter(|_| frame.header.sequence == sequence);
        }
        // All of its frames may be missing: that is damage, which must be found again.
        let mut ends = chain.ends.iter();
        let end = ends.find(|end| end.epoch == segment.header.epoch);
        let holds = last.is_some() || end.is_some_and(|end| first_frame <= end.frame);
        if sequence < chain.oldest_live || !holds {
            free.push_back(segment.slot);
            continue;
        }
        live.push_back(LiveSegment {
            sequence,
            slot: segment.slot,
            last_frame: last.unwrap_or(first_frame - 1),
        });
    }
    (live, free)
}

/// Where the log can go on in its last segment, if that has room for a block. It must be the
/// newest of all: there is no frame behind it then, not even one that does not count. And it must
/// have come to its end: numbers of frames that are lost are not used again, and no segment has
/// room for them as well.
fn rest(
    reader: &SegmentReader<'_>,
    scan: &SegmentScan,
    chain: &Chain,
    live: &VecDeque<LiveSegment>,
) -> Option<u64> {
    let newest = scan.segments.last().filter(|_| !chain.cut_short)?;
    let sound = |newest: &&Segment| !newest.rebuilt;
    let is_last = |last: &LiveSegment| last.sequence == newest.header.sequence;
    Some(newest)
        .filter(sound)
        .filter(|_| live.back().is_some_and(is_last))?;
    let block = reader.block as u64;
    let last = chain.frames.last();
    let last = last.filter(|last| last.header.sequence == newest.header.sequence)?;
    let offset = last.offset + last.header.frame_bytes(reader.block) as u64;
    let sound = !reader.bad.are_behind(newest.slot, offset);
    (sound && offset + block <= reader.segment_bytes).then_some(offset)
}

/// An epoch that is about to begin.
struct Beginning<'a> {
    config: &'a LogConfig,
    chain: &'a Chain,
    epoch: u64,
    lives: &'a Lives,
}

impl Beginning<'_> {
    /// Begins it with a frame behind the last one.
    fn in_the_rest(
        self,
        reader: &mut SegmentReader<'_>,
        offset: u64,
        mut live: VecDeque<LiveSegment>,
        free: VecDeque<u32>,
    ) -> Result<Begun, OpenError> {
        let oldest_live = self.oldest_live(&live);
        let ends = self.ends(oldest_live);
        let current = live.back_mut().expect("the log goes on in it");
        let (slot, sequence) = (current.slot, current.sequence);
        let (payload, records, checksum) = self.payload(&ends, reader, offset);
        let place = Salt::new(&self.config.identity).at(self.epoch, sequence, offset);
        let (last_frame, previous) = self.chain.last;
        let header = FrameHeader {
            kind: FrameKind::Records,
            sequence,
            number: last_frame + 1,
            durable_frame: last_frame,
            payload_bytes: payload.len() as u32,
            records,
            previous,
            payload_checksum: Salt::payload(place, checksum),
            epoch: self.epoch,
            oldest_live,
        };
        let (bytes, checksum) = header.encode(place);
        let frame_bytes = header.frame_bytes(reader.block);
        write_blocks(reader, slot, (offset, frame_bytes), |frame| {
            frame[..FRAME_HEADER_BYTES].copy_from_slice(&bytes);
            frame[FRAME_HEADER_BYTES..][..payload.len()].copy_from_slice(&payload);
        })?;
        current.last_frame = header.number;
        let end = offset + frame_bytes as u64;
        let segments_max = self.config.segments_max;
        Ok(Begun {
            space: Space::new(
                live,
                free,
                segments_max,
                (self.epoch, oldest_live, ends),
                end,
            ),
            frame: Some(ScannedFrame {
                slot,
                offset,
                header,
                checksum,
                begins_epoch: true,
            }),
            with_lives: records > 1,
        })
    }

    /// The records of the frame that begins it at an offset, how many they are, and the checksum
    /// over their headers.
    fn payload(
        &self,
        ends: &[EpochEnd],
        reader: &SegmentReader<'_>,
        offset: u64,
    ) -> (Vec<u8>, u32, u32) {
        let (group, entry) = (GroupId(0), EntryId::default());
        let kind = RecordKind::EpochBegun;
        let mut payload = record::encode(group, entry, kind, &[&encode_ends(ends)]);
        let checksum = crc32c::crc32c(&payload[..HEADER_BYTES]);
        let lives = lives_record(self.lives);
        let bytes = (FRAME_HEADER_BYTES + payload.len() + lives.len()) as u64;
        if offset + bytes.next_multiple_of(reader.block as u64) > reader.segment_bytes {
            return (payload, 1, checksum);
        }
        payload.extend_from_slice(&lives);
        (
            payload,
            2,
            crc32c::crc32c_append(checksum, &lives[..HEADER_BYTES]),
        )
    }

    /// Begins it with the header of a segment.
    fn in_a_segment(
        self,
        reader: &mut SegmentReader<'_>,
        (sequence, slot): (u64, u32),
        mut live: VecDeque<LiveSegment>,
        free: VecDeque<u32>,
    ) -> Result<Begun, OpenError> {
        let last_frame = self.chain.last.0;
        live.push_back(LiveSegment {
            sequence,
            slot,
            last_frame,
        });
        let oldest_live = self.oldest_live(&live);
        let ends = self.ends(oldest_live);
        let header = SegmentHeader {
            identity: self.config.identity,
            block_bytes: reader.block as u32,
            segment_bytes: self.config.segment_bytes,
            sequence,
            epoch: self.epoch,
            first_frame: last_frame + 1,
            durable_frame: last_frame,
            oldest_live,
            ends: ends.clone(),
        };
        write_blocks(reader, slot, (0, reader.block), |block| {
            header.encode(block)
        })?;
        let end = reader.block as u64;
        let segments_max = self.config.segments_max;
        Ok(Begun {
            space: Space::new(
                live,
                free,
                segments_max,
                (self.epoch, oldest_live, ends),
                end,
            ),
            frame: None,
            with_lives: false,
        })
    }

    /// The oldest segment that is needed.
    fn oldest_live(&self, live: &VecDeque<LiveSegment>) -> u64 {
        // A lost front stays lost: the next recovery must find that out again, until the state of
        // all groups is repeated and lets go of it.
        if self.chain.damage.is_empty() {
            live[0].sequence
        } else {
            self.chain.oldest_live
        }
    }

    fn ends(&self, oldest: u64) -> Vec<EpochEnd> {
        let mut ends = self.chain.ends.clone();
        ends.retain(|end| end.sequence >= oldest);
        ends.drain(..ends.len().saturating_sub(ENDS_MAX));
        ends
    }
}

/// Makes a slot when all that exist are in use, if need be one more than the budget: a log that
/// does not open can't compact either.
fn prepare(volume: &mut dyn Volume, unsound: &BTreeSet<u32>) -> Result<u32, OpenError> {
    let slots = volume.slots();
    let slot = (0..=SLOT_MAX).find(|slot| !slots.contains(slot) && !unsound.contains(slot));
    let slot = slot.ok_or(OpenError::NoSegment {
        segments: SLOT_MAX + 1,
    })?;
    volume.prepare(slot).map_err(OpenError::io(format!(
        "preparing {}",
        volume.segment_name(slot)
    )))?;
    Ok(slot)
}

/// Writes whole blocks, durably; `fill` is given them zeroed.
fn write_blocks(
    reader: &mut SegmentReader<'_>,
    slot: u32,
    (offset, bytes): (u64, usize),
    fill: impl FnOnce(&mut [u8]),
) -> Result<(), OpenError> {
    let segment = reader.volume.segment_name(slot);
    let what = || OpenError::io(format!("beginning an epoch in {segment} at {offset}"));
    let pool = SlabPool::new(bytes, bytes).map_err(what())?;
    let mut buffer = pool.read_buffer(bytes);
    let buffer = buffer.as_mut().expect("the pool has one slab");
    fill(buffer.as_mut_slice());
    let volume = &mut *reader.volume;
    let written = volume.write_at(slot, offset, buffer.as_ref());
    let written = written.and_then(|()| volume.sync(slot));
    if let Err(error) = &written
        && is_of_the_medium(error)
    {
        tracing::error!(slot, offset, %error, "an epoch can't begin here");
        reader.bad.note_unwritable(slot);
    }
    written.map_err(what())
}
