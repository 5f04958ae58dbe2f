//! What a leader knows of one follower, and how much it may send: probe, then pipeline.

use alloc::collections::VecDeque;

use crate::log::Log;
use crate::message::{AppendOutcome, AppendResponse, LogRoom};
use pontoon_types::{LogIndex, Time};

/// How entries are sent to a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Where the logs agree is not known: one message at a time.
    Probe {
        /// That one message: its last entry, and its bytes.
        sent: Option<(LogIndex, u64)>,
    },
    /// The logs agree: messages follow each other without waiting for answers.
    Pipeline,
}

/// One follower, as its leader sees it. Invariant: `match_index < next_index`.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    /// Highest entry known to be durable on this follower.
    pub(crate) match_index: LogIndex,
    /// Next entry to send.
    pub(crate) next_index: LogIndex,
    pub(crate) flow: Flow,
    /// Last index and bytes of each unanswered message with entries, in order.
    in_flight: VecDeque<(LogIndex, u64)>,
    bytes_in_flight: u64,
    /// When it last answered.
    pub(crate) responded_at: Time,
    /// When it is owed a heartbeat. Moved only by what really left for it: a follower whose entries
    /// wait or were dropped hears from its leader all the same.
    pub(crate) heartbeat_deadline: Time,
    /// The latest epoch of its log that it named on this connection; 0 before it did.
    pub(crate) log_epoch: u64,
    /// Its damage is being repaired: it counts in no quorum.
    pub(crate) repair: Option<Repair>,
    /// Whether its log takes entries: it is sent none until it does.
    pub(crate) room: Room,
    /// Since when its log has been full. A moment with room for a heartbeat and for no entry does
    /// not end that: only entries that it takes do, or that it lacks none.
    pub(crate) full_since: Option<Time>,
    /// While its log is full it is sent nothing before, whatever it says of heartbeats.
    full_until: Time,
    /// It says that it has renounced: it can't lead.
    pub(crate) renounced: bool,
    /// So many transfers of leadership to it came to nothing in this term.
    pub(crate) asked_in_vain: u32,
    /// Most messages under way: few after its log was full, then more with every answer.
    messages_max: u32,
    /// The log no longer waits for it: what it lacks may be compacted.
    pub(crate) left_behind: bool,
}

/// Bytes of the first message after a follower's log was full; twice as many after each answer.
const FIRST_MESSAGE_BYTES: u64 = 16 << 10;

/// What is known of the room in a follower's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Nothing in this term.
    Unknown,
    /// It takes entries.
    Enough,
    /// It had no memory for what came in this round of heartbeats.
    Short(u64),
    /// Its log took none in this round of heartbeats.
    Full(u64),
}

/// What a result of AppendEntries told its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Learned {
    /// Nothing: it speaks of what is no longer asked, or of what nobody has.
    Nothing,
    /// That the follower lives, or where to probe next.
    Alive,
    /// That it lacks what it is known to have, up to this entry.
    Forgot(LogIndex),
    /// That it holds more than was known: something may be committed.
    HoldsMore,
}

/// What must be so before a damaged follower counts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Repair {
    /// An entry proposed after the damage was reported. To be committed by others and durable on
    /// the follower.
    pub(crate) barrier: LogIndex,
    /// The epoch of the log in which the damage was found.
    pub(crate) log_epoch: u64,
}

impl Progress {
    pub(crate) fn new(next_index: LogIndex, now: Time, heartbeat_deadline: Time) -> Self {
        Self {
            match_index: LogIndex(0),
            next_index,
            flow: Flow::Probe { sent: None },
            in_flight: VecDeque::new(),
            bytes_in_flight: 0,
            responded_at: now,
            heartbeat_deadline,
            log_epoch: 0,
            repair: None,
            room: Room::Unknown,
            full_since: None,
            full_until: Time(0),
            renounced: false,
            asked_in_vain: 0,
            messages_max: u32::MAX,
            left_behind: false,
        }
    }

    /// What it counts for in a quorum.
    pub(crate) fn counted_index(&self) -> LogIndex {
        match self.repair {
            Some(_) => LogIndex(0),
            None => self.match_index,
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub(crate) fn may_send(&self, messages_max: u32, bytes_max: u64) -> bool {
        match self.flow {
            _ if self.refused_in_round().is_some() => false,
            Flow::Probe { sent } => sent.is_none(),
            Flow::Pipeline => {
                let messages_max = messages_max.min(self.messages_max);
                self.in_flight.len() < messages_max as usize && self.bytes_in_flight < bytes_max
            }
        }
    }

    /// A message with entries up to `last`, `bytes` in all, is on its way.
    pub(crate) fn on_sent(&mut self, last: LogIndex, bytes: u64) {
        match &mut self.flow {
            Flow::Probe { sent } => *sent = Some((last, bytes)),
            Flow::Pipeline => {
                self.next_index = last.next();
                self.in_flight.push_back((last, bytes));
                self.bytes_in_flight += bytes;
            }
        }
    }

    /// Whether an unanswered message ends with this entry.
    pub(crate) fn awaits(&self, last: LogIndex) -> bool {
        match self.flow {
            Flow::Probe { sent } => sent.is_some_and(|(sent, _)| sent == last),
            Flow::Pipeline => {
                let sent = self
                    .in_flight
                    .binary_search_by_key(&last, |(sent, _)| *sent);
                sent.is_ok()
            }
        }
    }

    /// Takes the outcome of an AppendEntries.
    pub(crate) fn on_outcome(&mut self, outcome: AppendOutcome, log: &Log) -> Learned {
        match outcome {
            // Nobody can agree to what we do not have.
            AppendOutcome::Accepted { match_index } if match_index > log.last_index() => {
                Learned::Nothing
            }
            AppendOutcome::Accepted { match_index } if self.on_accepted(match_index) => {
                Learned::HoldsMore
            }
            AppendOutcome::Accepted { .. } => Learned::Alive,
            AppendOutcome::Rejected {
                prev_log_index,
                hint,
            } => {
                // A response to a probe no longer under way, or to what has been accepted since.
                let expected = match self.flow {
                    Flow::Probe { .. } => prev_log_index == self.next_index.previous(),
                    Flow::Pipeline => prev_log_index > self.match_index,
                };
                if !expected {
                    return Learned::Nothing;
                }
                let forgot = self.forget_match(prev_log_index);
                // Section 3.5: one rejection per term in conflict, not one per entry.
                let agreed = log.find_conflict_by_term(hint.index, hint.term).index;
                // It lacks what is compacted: only a snapshot could bring it up to date.
                let lacks_all = self.match_index.max(hint.index) < log.compacted().index;
                self.left_behind |= lacks_all;
                self.become_probe(agreed.min(prev_log_index.previous()).next());
                forgot.map_or(Learned::Alive, Learned::Forgot)
            }
        }
    }

    /// The follower rejects at `prev_log_index`. Gives what it is known to have, if it lacks that:
    /// its disk forgot what it had acknowledged, or somebody else spoke in its name before, or does
    /// now. Whatever it was, the log goes on from what it has now.
    ///
    /// Invariant: nothing else takes back what a follower of the same epoch acknowledged.
    fn forget_match(&mut self, prev_log_index: LogIndex) -> Option<LogIndex> {
        if prev_log_index > self.match_index {
            return None;
        }
        Some(core::mem::take(&mut self.match_index)).filter(|held| *held > LogIndex(0))
    }

    /// The follower agrees up to `match_index`. True if that is news.
    fn on_accepted(&mut self, match_index: LogIndex) -> bool {
        let news = match_index > self.match_index;
        if news {
            self.messages_max = self.messages_max.saturating_mul(2);
            self.full_since = None;
            self.full_until = Time(0);
        }
        self.match_index = self.match_index.max(match_index);
        // Agreed at the place of the probe: its entries are under way, and not to be sent again.
        // Should they be lost, the next heartbeat finds that out.
        if let Flow::Probe { sent } = self.flow {
            self.flow = Flow::Pipeline;
            if let Some((last, bytes)) = sent.filter(|(last, _)| *last > self.match_index) {
                self.on_sent(last, bytes);
            }
        }
        self.next_index = self.next_index.max(self.match_index.next());
        while self
            .in_flight
            .front()
            .is_some_and(|&(last, _)| last <= self.match_index)
        {
            if let Some((_, bytes)) = self.in_flight.pop_front() {
                self.bytes_in_flight -= bytes;
            }
        }
        news
    }

    /// Whether it is known to have room.
    pub(crate) fn has_room(&self) -> bool {
        self.room == Room::Enough && !self.is_full()
    }

    /// It left out entries that came with a request, or has room for them again: the next heartbeat
    /// finds out from where on they are to be sent again. After its log was full it is sent little
    /// at first, and less and less often while it stays so: a heartbeat may find room where entries
    /// find none. A moment without memory costs it nothing but that wait.
    ///
    /// What it says of other messages of the same round is no news: it can be short of room for one
    /// and not for the next.
    pub(crate) fn set_room(
        &mut self,
        response: AppendResponse,
        round: u64,
        (last_index, now): (LogIndex, Time),
        patience: u64,
    ) {
        let (room, response_round) = (response.room, response.round);
        let refused = self.refused_in_round();
        let is_news = refused.is_none_or(|refused| response_round > refused);
        match room {
            LogRoom::Full => {
                self.messages_max = 1;
                let since = *self.full_since.get_or_insert(now);
                self.full_until = now.after((now.since(since) / 4).min(patience));
                self.room = Room::Full(round);
            }
            LogRoom::Short if is_news => self.room = Room::Short(round),
            LogRoom::Enough if is_news && now >= self.full_until => {
                self.room = Room::Enough;
                if self.match_index >= last_index {
                    self.full_since = None;
                }
            }
            LogRoom::Short | LogRoom::Enough => {}
        }
    }

    /// Whether its log is full, as far as is known.
    pub(crate) fn is_full(&self) -> bool {
        self.full_since.is_some()
    }

    /// The round in which it took no entries, if it takes none as far as is known.
    fn refused_in_round(&self) -> Option<u64> {
        match self.room {
            Room::Short(round) | Room::Full(round) => Some(round),
            Room::Unknown | Room::Enough => None,
        }
    }

    /// Most bytes of one message: few after its log was full, which may be so again.
    pub(crate) fn message_bytes_max(&self, most: u64) -> u64 {
        let few = u64::from(self.messages_max).saturating_mul(FIRST_MESSAGE_BYTES);
        few.min(most)
    }

    /// Back to one message at a time, from `next_index` on.
    pub(crate) fn become_probe(&mut self, next_index: LogIndex) {
        self.next_index = next_index.max(self.match_index.next());
        self.in_flight.clear();
        self.bytes_in_flight = 0;
        self.flow = Flow::Probe { sent: None };
    }
}
