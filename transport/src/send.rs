//! Frames on their way out, and the batch of them that one sendmsg(2) takes.

use std::collections::VecDeque;

/// Most pieces one sendmsg(2) is given; below UIO_MAXIOV of writev(2).
const IOVECS_MAX: usize = 256;

/// A sealed frame: its header and heads, and the pieces of records behind them.
#[derive(Debug)]
pub(crate) struct OutgoingFrame<P> {
    pub(crate) head_bytes: Vec<u8>,
    pub(crate) pieces: Vec<P>,
    pub(crate) bytes: usize,
}

impl<P> Default for OutgoingFrame<P> {
    fn default() -> Self {
        Self {
            head_bytes: Vec::new(),
            pieces: Vec::new(),
            bytes: 0,
        }
    }
}

/// Frames that are being sent.
///
/// Moves into the send operation and comes back with its completion: it keeps what the kernel
/// reads alive. `!Send`, like the connection it belongs to.
#[derive(Debug)]
pub struct SendBatch<P> {
    frames: VecDeque<OutgoingFrame<P>>,
    /// Bytes of the first frame that are sent already.
    sent: usize,
    iovecs: Vec<libc::iovec>,
    header: Box<libc::msghdr>,
}

impl<P> SendBatch<P> {
    pub(crate) fn new() -> Self {
        let header = libc::msghdr {
            msg_name: std::ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: std::ptr::null_mut(),
            msg_iovlen: 0,
            msg_control: std::ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        };
        let iovecs = Vec::with_capacity(IOVECS_MAX);
        Self {
            frames: VecDeque::new(),
            sent: 0,
            iovecs,
            header: Box::new(header),
        }
    }

    pub(crate) fn push(&mut self, frame: OutgoingFrame<P>) {
        self.frames.push_back(frame);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Bytes still to be sent.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.frames.iter().map(|frame| frame.bytes).sum::<usize>() - self.sent
    }

    /// `count` bytes more are sent. Frames that are done go back into the pool.
    pub(crate) fn advance(&mut self, count: usize, pool: &mut Vec<OutgoingFrame<P>>) {
        assert!(
            count <= self.bytes(),
            "the kernel sent more than it was given"
        );
        self.sent += count;
        while self
            .frames
            .front()
            .is_some_and(|frame| frame.bytes <= self.sent)
        {
            if let Some(mut frame) = self.frames.pop_front() {
                self.sent -= frame.bytes;
                frame.head_bytes.clear();
                frame.pieces.clear();
                pool.push(frame);
            }
        }
    }
}

impl<P: AsRef<[u8]>> SendBatch<P> {
    /// What is still to be sent, in order, piece by piece.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let mut skip = self.sent;
        let slices = self.frames.iter().flat_map(|frame| {
            let pieces = frame.pieces.iter().map(AsRef::as_ref);
            std::iter::once(&frame.head_bytes[..]).chain(pieces)
        });
        slices.filter_map(move |slice| {
            let skipped = skip.min(slice.len());
            skip -= skipped;
            (skipped < slice.len()).then(|| &slice[skipped..])
        })
    }

    /// The header of a sendmsg(2) of at most 256 pieces of what is still to be sent. Valid while
    /// the batch lives and is not changed.
    #[must_use]
    pub fn message_header(&mut self) -> *const libc::msghdr {
        let mut iovecs = std::mem::take(&mut self.iovecs);
        iovecs.clear();
        iovecs.extend(self.slices().take(IOVECS_MAX).map(|slice| libc::iovec {
            iov_base: slice.as_ptr().cast_mut().cast(),
            iov_len: slice.len(),
        }));
        self.iovecs = iovecs;
        self.header.msg_iov = self.iovecs.as_mut_ptr();
        self.header.msg_iovlen = self.iovecs.len();
        &raw const *self.header
    }
}
