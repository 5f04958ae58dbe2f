//! Looking at segments: whose they are, and which frames in them verify.

use super::Damage;
use super::unreadable::BadPlaces;
use crate::config::{LogConfig, bytes_in_flight_max};
use crate::disk::Volume;
use crate::error::OpenError;
use crate::layout::{
    EpochEnd, FrameHeader, HeaderFault, Salt, SegmentHeader, decode_ends, has_magic,
};
use crate::mutant::Mutant;
use crate::record::{self, RecordKind, Records};
use crate::slab::{ReadBuffer, SlabPool};

/// Longest single read while a segment is loaded.
const READ_BYTES: usize = 1 << 20;

/// A segment with its header, valid or rebuilt.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) slot: u32,
    pub(super) header: SegmentHeader,
    /// The header was damaged; what it says was worked out from the frames behind it.
    pub(super) rebuilt: bool,
}

/// A frame that verifies at its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScannedFrame {
    pub(super) slot: u32,
    pub(super) offset: u64,
    pub(super) header: FrameHeader,
    pub(super) checksum: u32,
    /// An epoch begins with it, in the rest of a segment.
    pub(super) begins_epoch: bool,
}

impl ScannedFrame {
    /// Where its payload ends, about.
    pub(super) fn end(&self) -> u64 {
        self.offset + u64::from(self.header.payload_bytes)
    }
}

/// What a segment holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// Its frames that verify, by offset.
    pub(super) frames: Vec<ScannedFrame>,
    /// What they say of the ends of epochs.
    pub(super) ends: Vec<EpochEnd>,
}

/// What the slots hold.
#[derive(Debug, Default)]
pub(super) struct SegmentScan {
    /// By ascending sequence.
    pub(super) segments: Vec<Segment>,
    /// Slots that hold nothing of the log.
    pub(super) blank: Vec<u32>,
    /// A place of a log of which nothing verifies any more.
    pub(super) lost: Option<Damage>,
}

/// Something in a slot of which nothing verifies.
#[derive(Debug)]
struct Strange {
    slot: u32,
    offset: u64,
    /// It has the marks of a log's headers or frames.
    ours: bool,
}

/// Reads segments whole, one at a time, and remembers the last one.
pub(super) struct SegmentReader<'a> {
    pub(super) volume: &'a mut dyn Volume,
    pub(super) block: usize,
    pub(super) salt: Salt,
    pub(super) segment_bytes: u64,
    /// What can't be read of it.
    pub(super) bad: BadPlaces,
    buffer: ReadBuffer,
    loaded: Option<u32>,
}

impl<'a> SegmentReader<'a> {
    pub(super) fn new(volume: &'a mut dyn Volume, config: &LogConfig) -> Result<Self, OpenError> {
        let block = volume.block_bytes();
        let bytes = usize::try_from(config.segment_bytes).expect("a segment fits the memory");
        let pool = SlabPool::new(bytes, bytes).map_err(OpenError::io("allocating for recovery"))?;
        let buffer = pool.read_buffer(bytes).expect("the pool has one slab");
        Ok(Self {
            volume,
            block,
            salt: Salt::new(&config.identity),
            segment_bytes: config.segment_bytes,
            bad: BadPlaces::default(),
            buffer,
            loaded: None,
        })
    }

    fn read(&mut self, slot: u32, from: usize, to: usize) -> Result<(), OpenError> {
        for start in (from..to).step_by(READ_BYTES) {
            let part = &mut self.buffer.as_mut_slice()[start..to.min(start + READ_BYTES)];
            let place = (slot, start as u64);
            self.bad.read(self.volume, place, part, self.block)?;
        }
        Ok(())
    }

    /// The bytes of a whole segment.
    pub(super) fn load(&mut self, slot: u32) -> Result<&[u8], OpenError> {
        if self.loaded != Some(slot) {
            self.loaded = None;
            self.read(slot, 0, self.segment_bytes as usize)?;
            self.loaded = Some(slot);
        }
        Ok(self.buffer.as_ref())
    }

    /// The first two blocks of a segment.
    fn peek(&mut self, slot: u32) -> Result<&[u8], OpenError> {
        self.loaded = None;
        self.read(slot, 0, 2 * self.block)?;
        Ok(&self.buffer.as_ref()[..2 * self.block])
    }

    /// Looks at all slots.
    pub(super) fn scan(&mut self, config: &LogConfig) -> Result<SegmentScan, OpenError> {
        let mut scan = SegmentScan::default();
        let mut strange = Vec::new();
        for slot in self.volume.slots() {
            let blocks = self.peek(slot)?;
            match SegmentHeader::decode(blocks) {
                Ok(header) => scan.segments.push(self.intact(slot, header, config)?),
                Err(HeaderFault::Version(version)) => {
                    let segment = self.volume.segment_name(slot);
                    return Err(OpenError::Version { segment, version });
                }
                // Also one that seems never to have been used: its first blocks may be lost.
                Err(HeaderFault::Blank | HeaderFault::Damaged) => {
                    if let Some(segment) = self.rebuild(slot, config)? {
                        scan.segments.push(segment);
                        continue;
                    }
                    scan.blank.push(slot);
                    strange.extend(self.something_in(slot, config)?);
                }
            }
        }
        self.bad.refuse_dead_disk()?;
        self.judge_strange(&mut scan, strange)?;
        scan.segments
            .sort_by_key(|segment| (segment.header.sequence, segment.header.epoch));
        Ok(scan)
    }

    /// A segment with a sound header, and its file.
    fn intact(
        &mut self,
        slot: u32,
        header: SegmentHeader,
        config: &LogConfig,
    ) -> Result<Segment, OpenError> {
        let (block, salt) = (self.block, self.salt);
        check_ours(&self.volume.segment_name(slot), &header, config, block)?;
        let blocks = &self.buffer.as_ref()[..2 * block];
        let first = FrameHeader::decode(&blocks[block..], salt, block as u64);
        // A header that was never written leaves an older one before newer frames.
        let newer = first.is_some_and(|(frame, _)| frame.sequence > header.sequence);
        let rebuilt = match newer {
            true => self.rebuild(slot, config)?,
            false => None,
        };
        Ok(rebuilt.unwrap_or(Segment {
            slot,
            header,
            rebuilt: false,
        }))
    }

    /// What lies in a slot behind its header and what may have been under way when that was new.
    /// Power that fails again and again leaves no more of a new log.
    fn something_in(
        &mut self,
        slot: u32,
        config: &LogConfig,
    ) -> Result<Option<Strange>, OpenError> {
        let block = self.block;
        let torn = bytes_in_flight_max(config.frame_bytes_max.into()) as usize;
        let start = block + torn.next_multiple_of(block);
        let bytes = self.load(slot)?;
        let mut behind = bytes.get(start..).unwrap_or_default().chunks(block);
        let found = behind.position(|block| block.iter().any(|byte| *byte != 0));
        Ok(found.map(|number| Strange {
            slot,
            offset: (start + number * block) as u64,
            ours: bytes.chunks(block).any(has_magic),
        }))
    }

    /// Where nothing verifies in any segment, and something is there all the same: what has the
    /// marks of a log was one, and is damaged, all of it; anything else is left alone.
    fn judge_strange(
        &self,
        scan: &mut SegmentScan,
        strange: Vec<Strange>,
    ) -> Result<(), OpenError> {
        let Some(first) = strange.first() else {
            return Ok(());
        };
        let (segment, offset) = (self.volume.segment_name(first.slot), first.offset);
        if !scan.segments.is_empty() {
            tracing::warn!(
                segment,
                offset,
                "nothing in it verifies: it is written anew"
            );
        } else if strange.iter().any(|strange| strange.ours) {
            scan.lost = Some(Damage {
                slot: first.slot,
                offset,
                first_frame: 0,
                last_frame: 0,
            });
        } else {
            return Err(OpenError::Unrecognised { segment, offset });
        }
        Ok(())
    }

    /// Works out from its frames which segment a slot without a valid header holds.
    fn rebuild(&mut self, slot: u32, config: &LogConfig) -> Result<Option<Segment>, OpenError> {
        let (block, salt) = (self.block, self.salt);
        let bytes = self.load(slot)?;
        let frames = (block..bytes.len()).step_by(block).filter_map(|offset| {
            let (header, _) = FrameHeader::decode(&bytes[offset..], salt, offset as u64)?;
            verify_payload(bytes, offset, &header, salt).then_some((offset, header))
        });
        let frames: Vec<_> = frames.collect();
        let Some(sequence) = frames.iter().map(|(_, frame)| frame.sequence).max() else {
            return Ok(None);
        };
        let mut own = frames
            .iter()
            .filter(|(_, frame)| frame.sequence == sequence);
        let (offset, first) = own.next().expect("the newest is among them");
        // Between it and the header at least one frame is missing.
        let missing = u64::from(*offset > block);
        let header = SegmentHeader {
            identity: config.identity,
            block_bytes: block as u32,
            segment_bytes: config.segment_bytes,
            sequence,
            epoch: first.epoch,
            first_frame: first.number.saturating_sub(missing).max(1),
            durable_frame: first.durable_frame,
            oldest_live: 0,
            ends: Vec::new(),
        };
        Ok(Some(Segment {
            slot,
            header,
            rebuilt: true,
        }))
    }

    /// All frames of a segment that verify: of the epoch that began it and of later ones.
    pub(super) fn frames(&mut self, segment: &Segment) -> Result<Found, OpenError> {
        let (block, salt) = (self.block, self.salt);
        let (epoch, sequence) = (segment.header.epoch, segment.header.sequence);
        // Each frame takes a block at least.
        let (first_frame, blocks) = (
            segment.header.first_frame,
            self.segment_bytes / block as u64,
        );
        let bytes = self.load(segment.slot)?;
        let mut found = Found::default();
        let mut offset = block;
        while offset < bytes.len() {
            let decoded = FrameHeader::decode(&bytes[offset..], salt, offset as u64)
                .filter(|(header, _)| header.epoch >= epoch && header.sequence == sequence)
                .filter(|(header, _)| (first_frame..first_frame + blocks).contains(&header.number));
            let Some((header, checksum)) = decoded else {
                // A length can't be trusted here: look at every block.
                offset += block;
                continue;
            };
            if verify_payload(bytes, offset, &header, salt) {
                let begun = epoch_begun(bytes, offset, &header);
                let begins_epoch = begun.is_some();
                found.ends.extend(begun.into_iter().flatten());
                let (slot, offset) = (segment.slot, offset as u64);
                found.frames.push(ScannedFrame {
                    slot,
                    offset,
                    header,
                    checksum,
                    begins_epoch,
                });
            }
            // A sound header says where its frame ends, also when the payload is not sound.
            offset += header.frame_bytes(block);
        }
        Ok(found)
    }
}

/// The payload of a frame, if it lies within the segment.
pub(super) fn payload<'a>(
    bytes: &'a [u8],
    offset: usize,
    header: &FrameHeader,
) -> Option<&'a [u8]> {
    let start = offset + crate::layout::FRAME_HEADER_BYTES;
    bytes.get(start..start.checked_add(header.payload_bytes as usize)?)
}

/// Where epochs ended, if the frame, which verifies, begins the one after them.
fn epoch_begun(bytes: &[u8], offset: usize, header: &FrameHeader) -> Option<Vec<EpochEnd>> {
    let record = record::parse_unchecked(payload(bytes, offset, header)?).ok()?;
    let begun = Some(record).filter(|record| record.kind == RecordKind::EpochBegun)?;
    let mut ends = decode_ends(begun.payload);
    ends.retain(|end| {
        let (earlier, before) = (end.epoch < header.epoch, end.frame < header.number);
        earlier && before && end.sequence <= header.sequence
    });
    Some(ends)
}

/// Whether a payload is what the frame's header says: each record verifies, and the sum over
/// their headers is the frame's.
fn verify_payload(bytes: &[u8], offset: usize, header: &FrameHeader, salt: Salt) -> bool {
    let Some(payload) = payload(bytes, offset, header) else {
        return false;
    };
    let (mut at, mut count, mut checksum) = (0, 0, 0);
    for record in Records::new(payload) {
        let Ok(record) = record else { return false };
        checksum = crc32c::crc32c_append(checksum, &payload[at..at + record::HEADER_BYTES]);
        at += record.encoded_bytes;
        count += 1;
    }
    let place = salt.at(header.epoch, header.sequence, offset as u64);
    count == header.records && Salt::payload(place, checksum) == header.payload_checksum
}

fn check_ours(
    segment: &str,
    header: &SegmentHeader,
    config: &LogConfig,
    block: usize,
) -> Result<(), OpenError> {
    let (theirs, ours) = (&header.identity, &config.identity);
    let parts = [
        ("cluster", theirs.cluster, ours.cluster),
        ("node", theirs.node.into(), ours.node.into()),
        ("core", theirs.core.into(), ours.core.into()),
        ("core count", theirs.cores.into(), ours.cores.into()),
    ];
    let foreign = parts.into_iter().find(|(_, theirs, ours)| theirs != ours);
    if let Some((what, theirs, ours)) = foreign.filter(|_| !config.is(Mutant::OpensForeign)) {
        // A cluster's id is written as in the configuration; the rest are small numbers.
        let named = |value: u128| match what {
            "cluster" => format!("{value:032x}"),
            _ => value.to_string(),
        };
        let (theirs, ours) = (named(theirs), named(ours));
        let segment = segment.to_owned();
        return Err(OpenError::Foreign {
            segment,
            what,
            theirs,
            ours,
        });
    }
    let sizes = [
        ("segment_bytes", header.segment_bytes, config.segment_bytes),
        ("block_bytes", header.block_bytes.into(), block as u64),
    ];
    for (setting, theirs, ours) in sizes {
        if theirs != ours {
            let segment = segment.to_owned();
            return Err(OpenError::Geometry {
                segment,
                setting,
                theirs,
                ours,
            });
        }
    }
    Ok(())
}
