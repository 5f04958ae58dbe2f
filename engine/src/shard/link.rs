//! One established connection, and how much may wait on it: what the peer takes in a moment.
//!
//! Entries wait as ranges of indexes (`catch_up`), which cost no memory, until they fit the
//! connection's window; bytes that wait behind others would hold up the heartbeats behind them.

use pontoon_raft::Time;
use pontoon_storage::RecordBytes;
use pontoon_transport::{Connection, FrameLimits, Head, SendBatch};

use crate::port::SocketId;
use crate::reason::CloseReason;

/// A peer must take `SEND_PROGRESS_MIN` bytes of what waits, or all of it, in every period of this
/// length, in nanoseconds. Otherwise it is cut off: what it pins in memory is needed elsewhere.
const SEND_TIMEOUT: u64 = 10_000_000_000;
const SEND_PROGRESS_MIN: u64 = 4096;

/// A send that takes this long, in nanoseconds, shows that the peer is slow: pieces that wait for
/// it are copied, so that they hold no slabs that others need.
const SLOW_SEND: u64 = 20_000_000;

/// A send that takes this long is not waited for when others lack the memory that it pins.
const STUCK_SEND: u64 = 1_000_000_000;

/// As many bytes of entries may wait as the peer took in so many nanoseconds: a bound on the delay
/// of what is queued behind them.
const WINDOW_TIME: u64 = 100_000_000;

/// The smallest window, in bytes.
const WINDOW_MIN: usize = 16 << 10;

/// An established connection.
pub(super) struct Link {
    pub(super) socket: SocketId,
    pub(super) connection: Connection<RecordBytes>,
    /// Bytes that may wait for the peer, heads and entries alike.
    queue_bytes_max: usize,
    /// Bytes that wait, above which entries are held back.
    window: usize,
    /// When the send that is under way began.
    sending_since: Option<Time>,
    /// The last send was slow, or the one under way is.
    is_slow: bool,
    /// While something waits: when enough of it must be sent, and how much was sent before.
    progress: Option<(Time, u64)>,
}

impl Link {
    pub(super) fn new(socket: SocketId, limits: FrameLimits, queue_bytes_max: usize) -> Self {
        Self {
            socket,
            connection: Connection::new(limits),
            queue_bytes_max,
            window: records_window_max(queue_bytes_max),
            sending_since: None,
            is_slow: false,
            progress: None,
        }
    }

    /// Bytes of entries that may be pushed now; `None` if entries are to be held back.
    pub(super) fn records_room(&self) -> Option<usize> {
        let room = self.window.checked_sub(self.connection.unsent_bytes())?;
        (room > 0).then_some(room)
    }

    /// Whether heads without entries may be pushed: otherwise they are dropped, as if lost on the
    /// way. Half of the queue is theirs.
    pub(super) fn has_head_room(&self) -> bool {
        self.connection.unsent_head_bytes() < self.queue_bytes_max / 2
    }

    /// Whether more is received from the peer: not while the responses to what it sent before pile
    /// up, because it does not take them.
    fn may_receive(&self) -> bool {
        self.connection.unsent_head_bytes() < self.queue_bytes_max / 4
    }

    pub(super) fn push_head(&mut self, head: &Head) {
        self.connection.push_head(head);
    }

    pub(super) fn push_piece(&mut self, mut piece: RecordBytes) {
        if self.is_slow {
            piece.detach();
        }
        self.connection.push_piece(piece);
    }

    /// Starts a send, if none is under way and something waits.
    pub(super) fn send(&mut self, now: Time) -> Option<SendBatch<RecordBytes>> {
        self.connection.finish_frame();
        if self.connection.unsent_bytes() > 0 && self.progress.is_none() {
            self.restart_progress(now);
        }
        let batch = self.connection.send();
        if batch.is_some() {
            self.sending_since = Some(now);
        } else if self.sends_for(now) >= SLOW_SEND && !self.is_slow {
            self.is_slow = true;
            self.connection.for_each_waiting_piece(RecordBytes::detach);
        }
        batch
    }

    /// The buffer to receive into, unless a receive is under way or the peer is to wait.
    pub(super) fn receive(&mut self) -> Option<pontoon_transport::ReceiveBuffer> {
        self.may_receive().then(|| self.connection.receive())?
    }

    /// A send is over: so many bytes, or an error number.
    ///
    /// # Errors
    /// If the connection broke.
    pub(super) fn on_sent(
        &mut self,
        now: Time,
        batch: SendBatch<RecordBytes>,
        result: Result<usize, i32>,
    ) -> Result<(), CloseReason> {
        let took = self.sends_for(now);
        self.sending_since = None;
        let sent = self.connection.on_sent(batch, result);
        sent.map_err(|error| CloseReason::from(&error))?;
        self.is_slow = took >= SLOW_SEND;
        if self.is_slow {
            self.connection.for_each_waiting_piece(RecordBytes::detach);
        }
        self.window = window_after(result.unwrap_or(0), took, self.queue_bytes_max);
        if self.connection.unsent_bytes() == 0 {
            self.progress = None;
        }
        Ok(())
    }

    /// How long the send under way has taken so far, in nanoseconds.
    fn sends_for(&self, now: Time) -> u64 {
        self.sending_since.map_or(0, |since| now.since(since))
    }

    /// Whether the send under way pins memory for longer than others should wait for it.
    pub(super) fn is_stuck(&self, now: Time) -> bool {
        self.sends_for(now) >= STUCK_SEND
    }

    /// When it is to be looked at whether the peer takes enough.
    pub(super) fn progress_deadline(&self) -> Option<Time> {
        self.progress.map(|(deadline, _)| deadline)
    }

    /// Whether the peer has taken too little of what waits for it for too long.
    pub(super) fn takes_too_little(&mut self, now: Time) -> bool {
        let Some((_, before)) = self.progress.filter(|(deadline, _)| *deadline <= now) else {
            return false;
        };
        let sent = self.connection.sent_bytes() - before;
        self.restart_progress(now);
        sent < SEND_PROGRESS_MIN
    }

    fn restart_progress(&mut self, now: Time) {
        self.progress = Some((now.after(SEND_TIMEOUT), self.connection.sent_bytes()));
    }
}

/// Half of a peer's queue is for heads.
fn records_window_max(queue_bytes_max: usize) -> usize {
    queue_bytes_max / 2
}

/// How many bytes may wait after a send of `bytes` that took so many nanoseconds. Only a slow one
/// shows what the peer takes: others end when the kernel has copied the bytes.
fn window_after(bytes: usize, took: u64, queue_bytes_max: usize) -> usize {
    let max = records_window_max(queue_bytes_max);
    if took < SLOW_SEND {
        return max;
    }
    let in_time = (bytes as u64).saturating_mul(WINDOW_TIME).checked_div(took);
    let in_time = in_time.map_or(max, |bytes| usize::try_from(bytes).unwrap_or(max));
    in_time.clamp(WINDOW_MIN.min(max), max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_what_the_peer_takes_in_a_tenth_of_a_second() {
        let queue = 8 << 20;
        let second = 1_000_000_000;
        assert_eq!(window_after(300_000, second, queue), 30_000);
        assert_eq!(window_after(1_000, second, queue), WINDOW_MIN);
        assert_eq!(window_after(64, 0, queue), 4 << 20);
        assert_eq!(window_after(64, second / 1000, queue), 4 << 20);
    }
}
