//! Frames on their way out, and the batch of them that one sendmsg(2) takes.

use std::collections::VecDeque;

/// Most pieces one sendmsg(2) is given; below UIO_MAXIOV of writev(2).
const IOVECS_MAX: usize = 256;

/// Most memory that an emptied frame keeps: bytes of heads, and pieces.
const POOLED_HEAD_BYTES_MAX: usize = 64 << 10;
const POOLED_PIECES_MAX: usize = 1024;

/// A sealed frame: its header and heads, and the pieces of records behind them.
#[derive(Debug)]
pub(crate) struct OutgoingFrame<P> {
    pub(crate) head_bytes: Vec<u8>,
    pub(crate) pieces: Vec<P>,
    pub(crate) bytes: usize,
}

impl<P> OutgoingFrame<P> {
    /// Forgets what it says and keeps its memory.
    pub(crate) fn clear(&mut self) {
        self.head_bytes.clear();
        self.pieces.clear();
        self.bytes = 0;
    }

    /// Whether its memory is worth keeping: a burst's is given back.
    pub(crate) fn is_small(&self) -> bool {
        self.head_bytes.capacity() <= POOLED_HEAD_BYTES_MAX
            && self.pieces.capacity() <= POOLED_PIECES_MAX
    }
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

    /// `count` bytes more are sent: takes out the frames that are done.
    pub(crate) fn advance(&mut self, count: usize) -> impl Iterator<Item = OutgoingFrame<P>> {
        assert!(
            count <= self.bytes(),
            "the kernel sent more than it was given"
        );
        self.sent += count;
        std::iter::from_fn(|| {
            let first = self.frames.front()?.bytes;
            self.sent = self.sent.checked_sub(first)?;
            self.frames.pop_front()
        })
    }

    /// The pieces of records of all its frames. Not to be changed while the kernel reads them.
    pub(crate) fn pieces_mut(&mut self) -> impl Iterator<Item = &mut P> {
        self.frames.iter_mut().flat_map(|frame| &mut frame.pieces)
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
