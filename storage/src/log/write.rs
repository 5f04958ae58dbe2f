//! Group commit: frames are sealed when a place in flight is free, and count once they and all
//! before them are durable.

use std::collections::VecDeque;
use std::rc::Rc;

use super::SegmentLog;
use super::segments::LiveSegment;
use super::staging::ClosedFrame;
use crate::config::bytes_in_flight_max;
use crate::disk::DiskOp;
use crate::error::{Poisoned, WriteFailure};
use crate::layout::{FRAME_HEADER_BYTES, FrameHeader, FrameKind, Salt};
use crate::mutant::Mutant;
use crate::slab::{RecordBytes, Slab};

/// So many writes in a row that the system does not carry out are as good as a failure.
const AGAIN_MAX: u32 = 1000;

/// A write that is under way, or that waits for an older one to be durable.
#[derive(Debug)]
struct InFlight {
    id: u64,
    slot: u32,
    offset: u64,
    bytes: RecordBytes,
    purpose: Purpose,
    progress: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    UnderWay,
    /// The system did not carry it out and did not fail either: it is to be written again.
    Again,
    Complete,
}

#[derive(Debug)]
enum Purpose {
    /// The header of a segment that is to be written from now on.
    Segment(LiveSegment),
    /// A frame, and the oldest segment it says is needed.
    Frame { number: u64, oldest_live: u64 },
}

/// The end of the log.
#[derive(Debug)]
pub(super) struct Writer {
    /// Oldest first. A segment's header is in flight alone, so that whatever is found behind it
    /// was begun when all frames before it were durable.
    in_flight: VecDeque<InFlight>,
    /// How many writes may be in flight.
    writes_in_flight_max: usize,
    pub(super) durable_frame: u64,
    /// Header checksum of the last frame sealed.
    previous: u32,
    /// No later frame says that the last one is durable.
    unwitnessed: bool,
    pub(super) poisoned: Option<Poisoned>,
    /// Memory for segment headers.
    headers: Option<Rc<Slab>>,
    /// Writes that had to be made again since one was durable.
    written_again: u32,
}

impl Writer {
    /// The last frame of the log, which is durable, and its checksum.
    pub(super) fn new((durable_frame, previous): (u64, u32)) -> Self {
        Self {
            in_flight: VecDeque::new(),
            writes_in_flight_max: 1,
            durable_frame,
            previous,
            unwitnessed: false,
            poisoned: None,
            headers: None,
            written_again: 0,
        }
    }
}

impl SegmentLog {
    /// Seals the oldest staged frame, if there is one and fewer writes are in flight than may be:
    /// the write to carry out.
    ///
    /// Before it does, pending compactions are staged, a part of a checkpoint is added to the open
    /// frame, and segments that are not needed are freed. Where the frame does not fit the segment,
    /// the write is the next segment's header instead; the frame follows when that is complete.
    pub fn seal(&mut self) -> Option<DiskOp> {
        if self.writer.poisoned.is_some() {
            return None;
        }
        let again = self.write_again();
        if again.is_some() || !self.can_seal() {
            return again;
        }
        self.stage_compactions();
        if self.staging.closed.is_empty() && self.staging.open.is_some() {
            self.write_checkpoint(0);
            self.close_frame();
        }
        self.free_segments();
        if self.space.roll_early && !self.write_in_flight() {
            self.space.roll_early = false;
            // Without another segment, this one is filled to its end.
            if let Some(header) = self.roll() {
                return Some(header);
            }
        }
        let bytes = self.staging.closed.front()?.bytes;
        if self.space.offset + bytes as u64 > self.config.segment_bytes {
            return if self.write_in_flight() {
                None
            } else {
                self.roll()
            };
        }
        let frame = self.staging.closed.pop_front().expect("looked at");
        self.staging.closed_bytes -= frame.bytes;
        self.writer.unwitnessed = true;
        Some(self.write_frame(frame))
    }

    /// Writes a mark frame when the log is idle and no frame says yet that the last one is durable.
    ///
    /// Damage to the last frame looks like a torn write until a later frame records that it was
    /// durable. Gives the next segment's header instead when the mark does not fit: call again
    /// after.
    pub fn idle(&mut self) -> Option<DiskOp> {
        let busy = self.staged() || self.write_in_flight();
        if busy || !self.writer.unwitnessed || self.writer.poisoned.is_some() {
            return None;
        }
        self.free_segments();
        if self.space.offset + self.block as u64 > self.config.segment_bytes {
            return self.roll();
        }
        let slab = self.frame_memory()?;
        let start = slab.frontier();
        let reservation = slab.reserve(FRAME_HEADER_BYTES);
        slab.pad_to(self.block);
        let number = self.staging.next_number;
        self.staging.next_number += 1;
        self.frames.push(number);
        self.writer.unwitnessed = false;
        self.statistics.marks += 1;
        let (records, payload_bytes, checksum, bytes) = (0, 0, 0, self.block);
        let frame = ClosedFrame {
            kind: FrameKind::Mark,
            number,
            slab,
            start,
            reservation,
            records,
            payload_bytes,
            state_bytes: 0,
            checksum,
            bytes,
        };
        Some(self.write_frame(frame))
    }

    /// Room for one block beside the open frame, which must stay in one piece.
    pub(super) fn frame_memory(&mut self) -> Option<Rc<Slab>> {
        let block = self.block;
        let kept = self
            .writer
            .headers
            .take()
            .filter(|slab| slab.remaining() >= block);
        let slab = match kept {
            Some(slab) => slab,
            None => Rc::new(self.pool.take()?),
        };
        self.writer.headers = Some(Rc::clone(&slab));
        Some(slab)
    }

    fn write_frame(&mut self, frame: ClosedFrame) -> DiskOp {
        let oldest_live = self.space.announce(frame.number);
        let (epoch, offset) = (self.space.epoch, self.space.offset);
        let current = self.space.current();
        let (slot, sequence) = (current.slot, current.sequence);
        current.last_frame = frame.number;
        let place = self.salt.at(epoch, sequence, offset);
        let header = FrameHeader {
            kind: frame.kind,
            sequence,
            number: frame.number,
            durable_frame: self.writer.durable_frame,
            payload_bytes: frame.payload_bytes as u32,
            records: frame.records,
            previous: self.writer.previous,
            payload_checksum: Salt::payload(place, frame.checksum),
            epoch,
            oldest_live,
        };
        let (header, checksum) = header.encode(place);
        frame.slab.fill(frame.reservation, &header);
        self.writer.previous = checksum;
        self.space.offset += frame.bytes as u64;
        self.frames
            .set_location(frame.number, slot, sequence, offset);
        if frame.kind == FrameKind::Records {
            self.relocation.written_bytes += (frame.bytes - frame.state_bytes) as u64;
        }
        self.statistics.frames += 1;
        self.statistics.bytes += frame.bytes as u64;
        let bytes = frame.slab.view(frame.start..frame.start + frame.bytes);
        let purpose = Purpose::Frame {
            number: frame.number,
            oldest_live,
        };
        self.submit(slot, offset, bytes, purpose)
    }

    /// Puts a write in flight.
    fn submit(&mut self, slot: u32, offset: u64, bytes: RecordBytes, purpose: Purpose) -> DiskOp {
        let id = self.id();
        self.writer.in_flight.push_back(InFlight {
            id,
            slot,
            offset,
            bytes: bytes.clone(),
            purpose,
            progress: Progress::UnderWay,
        });
        DiskOp::Write {
            id,
            slot,
            offset,
            bytes,
        }
    }

    /// A write that the system has to be asked for once more.
    fn write_again(&mut self) -> Option<DiskOp> {
        let mut in_flight = self.writer.in_flight.iter_mut();
        let write = in_flight.find(|write| write.progress == Progress::Again)?;
        write.progress = Progress::UnderWay;
        Some(DiskOp::Write {
            id: write.id,
            slot: write.slot,
            offset: write.offset,
            bytes: write.bytes.clone(),
        })
    }

    /// Begins the next segment: its header must be durable before a frame in it counts.
    fn roll(&mut self) -> Option<DiskOp> {
        let memory = self.frame_memory()?;
        let slot = self.space.take_free()?;
        let closed = self.staging.closed.front();
        let first_frame = closed.map_or(self.staging.next_number, |frame| frame.number);
        let header = self.next_header(first_frame);
        let mut block = vec![0; self.block];
        header.encode(&mut block);
        let start = memory.frontier();
        memory.append(&block);
        let bytes = memory.view(start..start + self.block);
        let segment = LiveSegment {
            sequence: header.sequence,
            slot,
            last_frame: first_frame - 1,
        };
        Some(self.submit(slot, 0, bytes, Purpose::Segment(segment)))
    }

    /// Lets so many writes be under way at once; one, unless this is called. More pay where the
    /// drive rewards them: see [`measure_drive`](crate::measure_drive).
    ///
    /// # Panics
    /// If it is none.
    pub fn set_writes_in_flight(&mut self, writes_in_flight_max: usize) {
        assert!(
            writes_in_flight_max > 0,
            "a log without writes acknowledges nothing"
        );
        self.writer.writes_in_flight_max = writes_in_flight_max;
    }

    /// Whether a write is under way.
    #[must_use]
    pub fn write_in_flight(&self) -> bool {
        !self.writer.in_flight.is_empty()
    }

    /// Whether one more write may be in flight, so that a frame could be sealed now.
    #[must_use]
    pub fn can_seal(&self) -> bool {
        let in_flight = &self.writer.in_flight;
        let rolls = |write: &InFlight| matches!(write.purpose, Purpose::Segment(_));
        let few = in_flight.len() < self.writer.writes_in_flight_max;
        // The next epoch keeps clear of where writes of this one may still land.
        let bytes: usize = in_flight.iter().map(|write| write.bytes.len()).sum();
        let longest = u64::from(self.config.frame_bytes_max);
        let fits = bytes as u64 + longest <= bytes_in_flight_max(longest);
        few && fits && !in_flight.back().is_some_and(rolls)
    }

    /// Takes the completion of a write: its bytes are durable, or it has failed (`result` is the
    /// count of bytes, or the system's error number). EAGAIN and EINTR are no failure: what was
    /// not carried out is written again, which [`seal`](Self::seal) gives. After a failure the log
    /// is closed for good: the kernel may show the lost bytes until it forgets them, so trying
    /// again proves nothing.
    ///
    /// Writes may complete in any order; a frame counts once all before it are durable as well.
    ///
    /// # Errors
    /// [`Poisoned`] if the write failed or was short, and for every write after that.
    ///
    /// # Panics
    /// If `id` is not that of a write in flight, or the write was completed before.
    pub fn on_complete(&mut self, id: u64, result: Result<usize, i32>) -> Result<(), Poisoned> {
        if let Some(poisoned) = &self.writer.poisoned {
            return Err(poisoned.clone());
        }
        if let Some(outcome) = self.on_witness_written(id, result) {
            return outcome;
        }
        let in_flight = &mut self.writer.in_flight;
        let write = in_flight.iter_mut().find(|write| write.id == id);
        let write = write.expect("a completion answers a write");
        let under_way = write.progress == Progress::UnderWay;
        assert!(under_way, "a write completes once");
        let again = matches!(result, Err(libc::EAGAIN | libc::EINTR));
        if again && self.writer.written_again < AGAIN_MAX {
            write.progress = Progress::Again;
            self.writer.written_again += 1;
            return Ok(());
        }
        write.progress = Progress::Complete;
        if let Some(failure) = failure(write, result) {
            let (slot, offset) = (write.slot, write.offset);
            return Err(self.poison(slot, offset, failure));
        }
        while let Some(position) = self.next_durable() {
            let write = self.writer.in_flight.remove(position).expect("just found");
            self.on_durable(write.purpose);
        }
        Ok(())
    }

    /// Closes the log for good.
    pub(super) fn poison(&mut self, slot: u32, offset: u64, failure: WriteFailure) -> Poisoned {
        let poisoned = Poisoned {
            segment: self.segment_name(slot),
            offset,
            failure,
        };
        tracing::error!(%poisoned, "the log is closed");
        self.writer.poisoned = Some(poisoned.clone());
        poisoned
    }

    /// The oldest write, if it is complete: what is behind it counts only after it.
    fn next_durable(&self) -> Option<usize> {
        let position = self
            .writer
            .in_flight
            .iter()
            .position(|write| write.progress == Progress::Complete);
        position.filter(|position| *position == 0 || self.config.is(Mutant::CountsOutOfOrder))
    }

    fn on_durable(&mut self, purpose: Purpose) {
        match purpose {
            Purpose::Segment(segment) => {
                self.space.rolled(segment, self.block);
                self.checkpoint.begin();
                self.statistics.segments += 1;
            }
            Purpose::Frame {
                number,
                oldest_live,
            } => {
                self.writer.durable_frame = number;
                self.writer.written_again = 0;
                self.finish_moves(number);
                self.space.oldest_is_durable(oldest_live);
                self.evict();
            }
        }
    }
}

fn failure(write: &InFlight, result: Result<usize, i32>) -> Option<WriteFailure> {
    match result {
        Ok(written) if written == write.bytes.len() => None,
        Ok(written) => Some(WriteFailure::Short {
            written,
            expected: write.bytes.len(),
        }),
        Err(errno) => Some(WriteFailure::Errno(errno)),
    }
}
