//! An established connection: frames go out in batches and come in from one buffer.

use std::collections::VecDeque;

use crate::error::ConnectionError;
use crate::frame::{self, FIRST_SEQUENCE, FRAME_HEADER_BYTES, Frame, FrameHeader, FrameKind};
use crate::head::{HEAD_BYTES, Head};
use crate::receive::ReceiveBuffer;
use crate::send::{OutgoingFrame, SendBatch};

/// Sizes agreed on in the hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// Largest frame, header included, in bytes.
    pub frame_bytes_max: u32,
    /// Bytes received beyond a partial frame at once.
    pub receive_ahead_bytes: u32,
}

/// Most bytes of one send, a last frame excepted.
pub const SEND_BYTES_MAX: usize = 1 << 20;

/// Most emptied frames that keep their memory for the next ones.
const POOLED_FRAMES_MAX: usize = 16;

/// One connection to a peer's core. Owned by the shard; never touches a socket.
///
/// At most one send and one receive are under way; the operations own their memory meanwhile.
/// After an error the connection is to be dropped and the socket closed.
#[derive(Debug)]
pub struct Connection<P> {
    limits: FrameLimits,
    open: OutgoingFrame<P>,
    queue: VecDeque<OutgoingFrame<P>>,
    /// Of everything pushed and not sent, a send under way included.
    unsent_bytes: usize,
    /// The part of them that are heads, counted until their whole frame is sent.
    unsent_head_bytes: usize,
    /// All bytes sent so far.
    sent_bytes: u64,
    pool: Vec<OutgoingFrame<P>>,
    /// `None` while a send is under way.
    batch: Option<SendBatch<P>>,
    next_sequence: u64,
    /// `None` while a receive is under way.
    buffer: Option<ReceiveBuffer>,
    /// Bytes of the frame given out last.
    taken: usize,
    expected_sequence: u64,
    /// Frames of unknown kinds so far.
    skipped_frames: u64,
    /// Stamp of the ping that is to be answered.
    pong: Option<u64>,
    /// Stamp of the latest answer to a ping of ours.
    echo: Option<u64>,
}

impl<P: AsRef<[u8]> + Clone> Connection<P> {
    /// A connection after its hellos.
    #[must_use]
    pub fn new(limits: FrameLimits) -> Self {
        let capacity = u64::from(limits.frame_bytes_max) + u64::from(limits.receive_ahead_bytes);
        let capacity = usize::try_from(capacity).expect("a 64-bit machine");
        Self {
            limits,
            open: OutgoingFrame::default(),
            queue: VecDeque::new(),
            unsent_bytes: 0,
            unsent_head_bytes: 0,
            sent_bytes: 0,
            pool: Vec::new(),
            batch: Some(SendBatch::new()),
            next_sequence: FIRST_SEQUENCE,
            buffer: Some(ReceiveBuffer::new(capacity)),
            taken: 0,
            expected_sequence: FIRST_SEQUENCE,
            skipped_frames: 0,
            pong: None,
            echo: None,
        }
    }

    /// Adds a head to the open frame. Its records follow by [`push_piece`](Self::push_piece).
    pub fn push_head(&mut self, head: &Head) {
        if self.open.head_bytes.is_empty() {
            self.open.head_bytes.resize(FRAME_HEADER_BYTES, 0);
            self.open.bytes = FRAME_HEADER_BYTES;
            self.unsent_bytes += FRAME_HEADER_BYTES;
            self.unsent_head_bytes += FRAME_HEADER_BYTES;
        }
        head.encode(&mut self.open.head_bytes);
        self.open.bytes += HEAD_BYTES;
        self.unsent_bytes += HEAD_BYTES;
        self.unsent_head_bytes += HEAD_BYTES;
    }

    /// Adds records, in the order of the heads.
    pub fn push_piece(&mut self, piece: P) {
        self.open.bytes += piece.as_ref().len();
        self.unsent_bytes += piece.as_ref().len();
        self.open.pieces.push(piece);
    }

    /// Bytes of the open frame so far. The caller keeps them within the limits: no head and no
    /// piece is added that would go over `frame_bytes_max` or 65,535 heads.
    #[must_use]
    pub fn open_frame_bytes(&self) -> usize {
        self.open.bytes
    }

    /// Heads of the open frame so far.
    #[must_use]
    pub fn open_frame_heads(&self) -> usize {
        self.open
            .head_bytes
            .len()
            .saturating_sub(FRAME_HEADER_BYTES)
            / HEAD_BYTES
    }

    /// Bytes that were pushed and are not sent, those of a send under way included.
    #[must_use]
    pub fn unsent_bytes(&self) -> usize {
        self.unsent_bytes
    }

    /// The part of [`unsent_bytes`](Self::unsent_bytes) that are heads.
    #[must_use]
    pub fn unsent_head_bytes(&self) -> usize {
        self.unsent_head_bytes
    }

    /// All bytes sent so far.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// Calls `change` with every piece of records that waits, those that the kernel reads for a
    /// send under way excepted. Their bytes must stay the same.
    pub fn for_each_waiting_piece(&mut self, change: impl FnMut(&mut P)) {
        let batch = self.batch.iter_mut().flat_map(SendBatch::pieces_mut);
        let queue = self.queue.iter_mut().flat_map(|frame| &mut frame.pieces);
        batch
            .chain(queue)
            .chain(&mut self.open.pieces)
            .for_each(change);
    }

    /// Seals the open frame, if it says anything.
    ///
    /// # Panics
    /// If the frame is over the limits: the caller's mistake.
    pub fn finish_frame(&mut self) {
        if self.open.head_bytes.is_empty() {
            return;
        }
        let mut frame = std::mem::replace(&mut self.open, self.pool.pop().unwrap_or_default());
        self.open.bytes = 0;
        assert!(
            frame.bytes <= self.limits.frame_bytes_max as usize,
            "the frame is too large"
        );
        let head_count = (frame.head_bytes.len() - FRAME_HEADER_BYTES) / HEAD_BYTES;
        let records_bytes = frame.bytes - frame.head_bytes.len();
        let header = FrameHeader {
            kind: FrameKind::Heads,
            head_count: u16::try_from(head_count).expect("no more heads than a frame can hold"),
            records_bytes: u32::try_from(records_bytes).expect("below frame_bytes_max"),
            sequence: self.next_sequence,
            stamp: 0,
        };
        header.seal(&mut frame.head_bytes);
        self.next_sequence += 1;
        self.queue.push_back(frame);
    }

    /// Asks the other end to send `stamp` back at once: it is there, and so far away.
    pub fn ping(&mut self, stamp: u64) {
        self.push_bare(FrameKind::Ping, stamp);
    }

    /// Queues a frame that is a header alone.
    fn push_bare(&mut self, kind: FrameKind, stamp: u64) {
        let mut frame = self.pool.pop().unwrap_or_default();
        frame.head_bytes.resize(FRAME_HEADER_BYTES, 0);
        frame.bytes = FRAME_HEADER_BYTES;
        self.unsent_bytes += FRAME_HEADER_BYTES;
        self.unsent_head_bytes += FRAME_HEADER_BYTES;
        let header = FrameHeader {
            kind,
            head_count: 0,
            records_bytes: 0,
            sequence: self.next_sequence,
            stamp,
        };
        header.seal(&mut frame.head_bytes);
        self.next_sequence += 1;
        self.queue.push_back(frame);
    }

    /// What is to be sent now, unless a send is under way or there is nothing: at least one frame,
    /// and few bytes more than [`SEND_BYTES_MAX`], because their memory is not at hand until the
    /// peer takes them.
    pub fn send(&mut self) -> Option<SendBatch<P>> {
        if self.batch.is_some()
            && let Some(stamp) = self.pong.take()
        {
            self.push_bare(FrameKind::Pong, stamp);
        }
        let batch = self.batch.as_mut()?;
        let mut bytes = batch.bytes();
        while bytes < SEND_BYTES_MAX
            && let Some(frame) = self.queue.pop_front()
        {
            bytes += frame.bytes;
            batch.push(frame);
        }
        if batch.is_empty() {
            None
        } else {
            self.batch.take()
        }
    }

    /// The send is over: so many bytes, or an error number.
    ///
    /// # Errors
    /// If the connection broke.
    pub fn on_sent(
        &mut self,
        mut batch: SendBatch<P>,
        result: Result<usize, i32>,
    ) -> Result<(), ConnectionError> {
        let count = result.map_err(|errno| ConnectionError::Socket { errno })?;
        self.unsent_bytes -= count;
        self.sent_bytes += count as u64;
        for mut frame in batch.advance(count) {
            self.unsent_head_bytes -= frame.head_bytes.len();
            if self.pool.len() < POOLED_FRAMES_MAX && frame.is_small() {
                frame.clear();
                self.pool.push(frame);
            }
        }
        self.batch = Some(batch);
        Ok(())
    }

    /// The buffer to receive into, unless a receive is under way. Take all frames first.
    pub fn receive(&mut self) -> Option<ReceiveBuffer> {
        self.release_taken();
        let mut buffer = self.buffer.take()?;
        // A partial frame is shorter than a frame, so that this much is always free at the front.
        buffer.make_room(self.limits.receive_ahead_bytes as usize);
        Some(buffer)
    }

    /// The receive is over: so many bytes, or an error number.
    ///
    /// # Errors
    /// If the peer closed the connection, or it broke.
    pub fn on_received(
        &mut self,
        mut buffer: ReceiveBuffer,
        result: Result<usize, i32>,
    ) -> Result<(), ConnectionError> {
        let count = result.map_err(|errno| ConnectionError::Socket { errno })?;
        if count == 0 {
            return Err(ConnectionError::Closed);
        }
        buffer.fill(count);
        self.buffer = Some(buffer);
        Ok(())
    }

    /// The next whole frame with heads, in place. It is gone with the next call. Frames of kinds
    /// that this version does not know are skipped.
    ///
    /// # Errors
    /// If the bytes received are not a frame: the connection must be closed.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, ConnectionError> {
        let header = loop {
            self.release_taken();
            let Some(header) = self.check_next()? else {
                return Ok(None);
            };
            self.taken = header.whole_bytes();
            self.expected_sequence += 1;
            match header.kind {
                FrameKind::Heads => break header,
                // Only the latest is answered: nobody fills our queue with pings.
                FrameKind::Ping => self.pong = Some(header.stamp),
                FrameKind::Pong => self.echo = Some(header.stamp),
                FrameKind::Unknown(kind) => self.skip(kind),
            }
        };
        let Some(buffer) = &self.buffer else {
            return Ok(None);
        };
        let whole = &buffer.pending()[..self.taken];
        let (head_bytes, records) = whole.split_at(header.heads_end());
        let heads = &head_bytes[FRAME_HEADER_BYTES..];
        Ok(Some(Frame { heads, records }))
    }

    /// Whether a whole and sound frame waits to be taken, whatever its kind.
    ///
    /// # Errors
    /// If the bytes received are not a frame: the connection must be closed.
    pub fn has_frame(&self) -> Result<bool, ConnectionError> {
        self.check_next().map(|header| header.is_some())
    }

    /// Frames taken so far, of any kind.
    #[must_use]
    pub fn taken_frames(&self) -> u64 {
        self.expected_sequence
    }

    /// The stamp of the latest pong that was taken, once.
    pub fn take_echo(&mut self) -> Option<u64> {
        self.echo.take()
    }

    /// Frames of unknown kinds that were skipped so far.
    #[must_use]
    pub fn skipped_frames(&self) -> u64 {
        self.skipped_frames
    }

    /// Checks the next frame: its header, checksum and heads. `None` until it is there as a whole.
    fn check_next(&self) -> Result<Option<FrameHeader>, ConnectionError> {
        let Some(buffer) = &self.buffer else {
            return Ok(None);
        };
        let pending = buffer.pending();
        let Some(header) = pending.first_chunk::<FRAME_HEADER_BYTES>() else {
            return Ok(None);
        };
        let sequence = self.expected_sequence;
        let header = FrameHeader::parse(header, sequence, self.limits.frame_bytes_max)?;
        let Some(whole) = pending.get(..header.whole_bytes()) else {
            return Ok(None);
        };
        let head_bytes = &whole[..header.heads_end()];
        if !frame::verify(head_bytes) {
            return Err(ConnectionError::Checksum { sequence });
        }
        let mut heads = head_bytes[FRAME_HEADER_BYTES..].chunks_exact(HEAD_BYTES);
        if header.kind == FrameKind::Heads && heads.any(|head| Head::decode(head).is_none()) {
            let field = "head";
            return Err(ConnectionError::BadHeader { field, sequence });
        }
        Ok(Some(header))
    }

    /// Passes over the frame that was checked last. Only the first of a connection is logged.
    #[cold]
    fn skip(&mut self, kind: u8) {
        if self.skipped_frames == 0 {
            tracing::debug!(
                kind,
                "skipping frames of a kind that only newer versions know"
            );
        }
        self.skipped_frames += 1;
    }

    fn release_taken(&mut self) {
        if let Some(buffer) = &mut self.buffer {
            buffer.consume(std::mem::take(&mut self.taken));
        }
    }
}
