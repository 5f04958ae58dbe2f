//! One established connection, and how much may wait on it: what the peer takes in a moment.
//!
//! Entries wait as ranges of indexes (`catch_up`), which cost no memory, until they fit the
//! connection's window; bytes that wait behind others would hold up the heartbeats behind them.

use std::collections::VecDeque;

use pontoon_raft::Time;
use pontoon_storage::RecordBytes;
use pontoon_transport::{Connection, FrameLimits, Head, ReceiveBuffer, SendBatch};

use super::greeting::Acquaintance;
use super::patience::Patience;
use crate::port::{Operation, SocketId};
use crate::reason::CloseReason;
use crate::wire::{self, Greeting};

/// A peer must take so many bytes of what waits, or all of it, in every period of `Patience::send`.
/// Otherwise it is cut off: what it pins in memory is needed elsewhere.
const SEND_PROGRESS_MIN: u64 = 4096;

/// What a peer takes is measured over so many nanoseconds. Pieces that wait for a slow one are
/// copied, so that they hold no slabs that others need.
const MEASURE_TIME: u64 = 20_000_000;

/// Pings that may be unanswered and are still measured by; a way on which more are is too long.
const PINGS_MAX: usize = 16;

/// The window of a new connection, in bytes.
const WINDOW_FIRST: usize = 16 << 10;

/// The smallest window, in bytes.
const WINDOW_MIN: usize = 4 << 10;

/// What frames that came had in them: each of these is more than those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Said {
    /// That the other end is there.
    There,
    /// Messages of groups.
    OfGroups,
    /// Answers to requests of Raft among them.
    Answers,
}

/// An established connection.
pub(super) struct Link {
    pub(super) socket: SocketId,
    pub(super) connection: Connection<RecordBytes>,
    /// How far both ends know each other.
    pub(super) acquaintance: Acquaintance,
    /// Bytes that may wait for the peer, heads and entries alike.
    queue_bytes_max: usize,
    /// Bytes that wait, above which entries are held back.
    window: usize,
    /// When the send that is under way began.
    sending_since: Option<Time>,
    /// Since when something has been waiting without a break, or since the last measure of what
    /// the peer takes; and the bytes sent before.
    backlog: Option<(Time, u64)>,
    /// What waits takes long to be sent.
    is_slow: bool,
    /// Since when the peer has owed an answer and said nothing.
    owes_since: Option<Time>,
    /// Since when a request of Raft has been unanswered, and nothing of a group came.
    owes_groups_since: Option<Time>,
    /// Something of a group came, ever.
    has_served: bool,
    /// While something waits: when enough of it must be sent, and how much was sent before.
    progress: Option<(Time, u64)>,
    patience: Patience,
    /// When the connection was made.
    began: Time,
    /// When a whole frame came last, of any kind.
    heard: Option<Time>,
    ping_at: Time,
    /// When the pings that are not answered were sent, in order.
    pings: VecDeque<Time>,
}

impl Link {
    pub(super) fn new(
        now: Time,
        socket: SocketId,
        (limits, patience): (FrameLimits, Patience),
        queue_bytes_max: usize,
    ) -> Self {
        Self {
            socket,
            connection: Connection::new(limits),
            acquaintance: Acquaintance::default(),
            queue_bytes_max,
            window: WINDOW_FIRST.min(records_window_max(queue_bytes_max)),
            sending_since: None,
            backlog: None,
            is_slow: false,
            owes_since: None,
            owes_groups_since: None,
            has_served: false,
            progress: None,
            patience,
            began: now,
            heard: None,
            // At once: the other end waits for a first word.
            ping_at: now,
            pings: VecDeque::new(),
        }
    }

    /// Whether a whole frame came, ever.
    pub(super) fn has_spoken(&self) -> bool {
        self.heard.is_some()
    }

    /// Whole frames came.
    pub(super) fn on_heard(&mut self, now: Time, said: Said) {
        self.heard = Some(now);
        if said >= Said::OfGroups {
            self.owes_groups_since = None;
            self.has_served = true;
        }
        if said == Said::Answers {
            self.owes_since = None;
        }
    }

    /// Whether it has said nothing, or answered nothing, for so long that another connection may
    /// take its place.
    pub(super) fn gives_way(&self, now: Time) -> bool {
        self.gives_way_at() <= now
    }

    /// Whether it was made long ago, and has said nothing at all or not who it is.
    pub(super) fn is_mute(&self, now: Time) -> bool {
        !self.acquaintance.is_introduced() && self.trial_deadline() <= now
    }

    /// Until when it must have said something, and then who it is, and have found a place.
    pub(super) fn trial_deadline(&self) -> Time {
        let first_words = self.began.after(self.patience.first_words);
        match self.heard {
            Some(_) => first_words.after(self.patience.gives_way),
            None => first_words,
        }
    }

    /// When it is to be looked at although nothing happens on it.
    pub(super) fn deadline(&self) -> Time {
        let progress = self.progress.map_or(self.ping_at, |(deadline, _)| deadline);
        let quiet = progress.min(self.ping_at);
        if self.acquaintance.is_introduced() {
            quiet
        } else {
            quiet.min(self.trial_deadline())
        }
    }

    /// When another connection that has said something could take its place. One that has been of
    /// use keeps it while it talks: an answer may wait for a disk. Whoever has only ever said that
    /// it is there, or answered that, may be a stranger.
    pub(super) fn gives_way_at(&self) -> Time {
        let Some(heard) = self.heard else {
            return self.began;
        };
        let owes = self.owes_since.into_iter().chain(self.owes_groups_since);
        let owes = owes.filter(|_| !self.has_served);
        owes.fold(heard, Time::min).after(self.patience.gives_way)
    }

    /// Whether it says that it is there, takes what it is sent, and has never been of use.
    pub(super) fn only_talks(&self) -> bool {
        self.has_spoken() && !self.has_served && self.connection.unsent_bytes() == 0
    }

    /// Asks whether the other end is there, if it is time.
    fn maybe_ping(&mut self, now: Time) {
        if now < self.ping_at {
            return;
        }
        self.ping_at = now.after(self.patience.ping_interval);
        if self.has_head_room() {
            self.connection.ping(now.0);
            if self.pings.len() == PINGS_MAX {
                self.pings.pop_front();
            }
            self.pings.push_back(now);
            self.owes_since.get_or_insert(now);
        }
    }

    /// A pong came, if one did: how long it took.
    pub(super) fn take_round_trip(&mut self, now: Time) -> Option<u64> {
        let stamp = Time(self.connection.take_echo()?);
        // Others are no answers to anything: forged.
        let position = self.pings.iter().position(|ping| *ping == stamp)?;
        self.pings.drain(..=position);
        self.owes_since = None;
        Some(now.since(stamp))
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

    /// Sends a greeting, in a frame of its own.
    pub(super) fn push_greeting(&mut self, greeting: Greeting) {
        self.connection.finish_frame();
        self.connection.push_head(&wire::greeting_head(greeting));
        self.connection.finish_frame();
    }

    pub(super) fn push_piece(&mut self, mut piece: RecordBytes) {
        if self.is_slow {
            piece.detach();
        }
        self.connection.push_piece(piece);
    }

    /// Starts a send, if none is under way and something waits.
    pub(super) fn send(&mut self, now: Time) -> Option<SendBatch<RecordBytes>> {
        self.maybe_ping(now);
        self.connection.finish_frame();
        if self.connection.unsent_bytes() > 0 && self.progress.is_none() {
            self.restart_progress(now);
            self.backlog = Some((now, self.connection.sent_bytes()));
        }
        let batch = self.connection.send();
        if batch.is_some() {
            self.sending_since = Some(now);
        } else if !self.is_slow {
            self.measure(now);
        }
        batch
    }

    /// The buffer to receive into, unless a receive is under way or the peer is to wait. Where the
    /// own sends stand still too it is read all the same: both ends may wait for each other.
    pub(super) fn receive(&mut self, now: Time, without_limit: bool) -> Option<ReceiveBuffer> {
        let stands_still = self.sends_for(now) >= self.patience.queueing;
        let reads = without_limit || stands_still || self.may_receive();
        reads.then(|| self.connection.receive())?
    }

    /// Starts its send and receive of this turn; no receive if it is to wait.
    pub(super) fn drive(
        &mut self,
        now: Time,
        (waits, without_limit): (bool, bool),
        operations: &mut Vec<Operation>,
    ) {
        let socket = self.socket;
        if let Some(batch) = self.send(now) {
            operations.push(Operation::Send { socket, batch });
        }
        if !waits && let Some(buffer) = self.receive(now, without_limit) {
            operations.push(Operation::Receive { socket, buffer });
        }
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
        self.sending_since = None;
        let sent = self.connection.on_sent(batch, result);
        sent.map_err(|error| CloseReason::from(&error))?;
        if self.connection.unsent_bytes() == 0 {
            (self.progress, self.backlog) = (None, None);
            // It grows as long as all of it is taken, so that a way that is slow or breaks often is
            // not given more than it carries.
            self.window = (2 * self.window).min(records_window_max(self.queue_bytes_max));
            self.is_slow = false;
        } else {
            self.measure(now);
        }
        Ok(())
    }

    /// Sets the window by what the peer takes while something waits all the time: single sends end
    /// as soon as the kernel has copied a part of them.
    fn measure(&mut self, now: Time) {
        let Some((since, before)) = self.backlog else {
            return;
        };
        let took = now.since(since);
        if took < MEASURE_TIME {
            return;
        }
        let sent = self.connection.sent_bytes();
        self.backlog = Some((now, sent));
        let in_time = bytes_in(self.patience.queueing, sent - before, took);
        self.window = window_of(in_time, self.queue_bytes_max);
        self.is_slow = self.window < records_window_max(self.queue_bytes_max);
        if self.is_slow {
            self.connection.for_each_waiting_piece(RecordBytes::detach);
        }
    }

    /// A request of Raft left that the peer answers at once, if it is there.
    pub(super) fn on_asked(&mut self, now: Time) {
        self.owes_since.get_or_insert(now);
        self.owes_groups_since.get_or_insert(now);
    }

    /// Whether the peer has taken everything and owed an answer for long: the connection leads
    /// nowhere, whoever acknowledges its bytes.
    pub(super) fn is_silent(&self, now: Time) -> bool {
        let owes = self.owes_since.filter(|_| self.connection.unsent_bytes() == 0);
        owes.is_some_and(|since| now.since(since) >= self.patience.silence)
    }

    /// How long the send under way has taken so far, in nanoseconds.
    fn sends_for(&self, now: Time) -> u64 {
        self.sending_since.map_or(0, |since| now.since(since))
    }

    /// Whether the send under way pins memory for longer than others should wait for it.
    pub(super) fn is_stuck(&self, now: Time) -> bool {
        self.sends_for(now) >= self.patience.stuck_send
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
        self.progress = Some((now.after(self.patience.send), self.connection.sent_bytes()));
    }
}

/// Half of a peer's queue is for heads.
fn records_window_max(queue_bytes_max: usize) -> usize {
    queue_bytes_max / 2
}

/// How many bytes a peer takes in `time` that took `bytes` in `took` nanoseconds.
fn bytes_in(time: u64, bytes: u64, took: u64) -> usize {
    let in_time = bytes.saturating_mul(time).checked_div(took);
    in_time.map_or(usize::MAX, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// How many bytes may wait for a peer that takes so many in `Patience::queueing`.
fn window_of(in_time: usize, queue_bytes_max: usize) -> usize {
    let max = records_window_max(queue_bytes_max);
    in_time.clamp(WINDOW_MIN.min(max), max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_what_the_peer_takes_in_a_tenth_of_an_election_timeout() {
        let queue = 8 << 20;
        let second = 1_000_000_000;
        let queueing = Patience::with(second).queueing;
        let window = |bytes, took| window_of(bytes_in(queueing, bytes, took), queue);
        assert_eq!(window(300_000, second), 30_000);
        assert_eq!(window(1_000, second), WINDOW_MIN);
        assert_eq!(window(1 << 20, second / 100), 4 << 20);
    }
}
