//! The one contiguous buffer a connection receives into.

/// Received bytes, and room for more.
///
/// Moves into the receive operation and comes back with its completion, so that nobody looks at
/// it while the kernel writes.
#[derive(Debug)]
pub struct ReceiveBuffer {
    bytes: Box<[u8]>,
    /// Invariant: `consumed <= filled <= bytes.len()`.
    consumed: usize,
    filled: usize,
}

impl ReceiveBuffer {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            bytes: vec![0; capacity].into_boxed_slice(),
            consumed: 0,
            filled: 0,
        }
    }

    /// The part that the kernel, or a simulated network, may fill. Never empty when a connection
    /// hands out the buffer.
    pub fn free(&mut self) -> &mut [u8] {
        &mut self.bytes[self.filled..]
    }

    pub(crate) fn pending(&self) -> &[u8] {
        &self.bytes[self.consumed..self.filled]
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.consumed += count;
        assert!(
            self.consumed <= self.filled,
            "consumed more than was received"
        );
    }

    pub(crate) fn fill(&mut self, count: usize) {
        self.filled += count;
        assert!(
            self.filled <= self.bytes.len(),
            "received more than there was room for"
        );
    }

    /// Makes room for another `wanted` bytes by moving the partial frame to the front; mostly
    /// there is none to move.
    pub(crate) fn make_room(&mut self, wanted: usize) {
        if self.consumed == self.filled {
            (self.consumed, self.filled) = (0, 0);
        } else if self.bytes.len() - self.filled < wanted {
            self.bytes.copy_within(self.consumed..self.filled, 0);
            (self.consumed, self.filled) = (0, self.filled - self.consumed);
        }
    }
}
