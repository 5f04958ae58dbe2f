//! A log that is short of room, or a disk that stands still: what is done so that others go on.
//!
//! Members that do not answer, or lag too far, are no longer waited for. Machines that hold the log
//! get a call in which they can let go of it. A leader whose own log takes nothing hands over.

use pontoon_raft::{GroupId, LogIndex, NodeId, Time};
use pontoon_storage::{AppendError, record};

use super::groups::Groups;
use super::hand_over::Trouble;
use super::mutant::Mutant;
use super::persist::STEP_BYTES;
use super::replicas::ReplicaSlot;
use super::stall::STALLED_TIMEOUTS;

/// How often it is looked after, in nanoseconds.
const INTERVAL: u64 = 50_000_000;

/// What is remembered between two looks.
#[derive(Debug, Default)]
pub(super) struct Room {
    next_look: Time,
    next_look_at_all: Time,
    /// Since when a write has been under way without one being durable.
    writing_since: Option<Time>,
    writes: usize,
    /// Since when the log has had no room for the largest command.
    full_since: Option<Time>,
    /// For how long it was so, less the time since in which it was not: a segment that comes free
    /// now and then, because somebody is slow, is not room. At most what is waited for.
    full_for: u64,
    /// When that was counted.
    full_counted: Time,
    /// Since when it takes no commands at all, or its next segment does not come.
    refusing_since: Option<Time>,
    /// When a command found no room last.
    refused_at: Option<Time>,
}

/// A log that members hold up, the leader's or a member's.
struct FullLog {
    /// For how long it was full, on the whole.
    full_for: u64,
    /// Since when it has been full without a break.
    full_since: Option<Time>,
    /// The last entry in it.
    held: LogIndex,
}

impl Room {
    /// A write has begun.
    pub(super) fn on_write_begun(&mut self, now: Time) {
        self.writes += 1;
        self.writing_since.get_or_insert(now);
    }

    pub(super) fn is_writing(&self) -> bool {
        self.writes > 0
    }

    /// A write has ended.
    pub(super) fn on_write_done(&mut self, now: Time) {
        self.writes -= 1;
        self.writing_since = (self.writes > 0).then_some(now);
    }
}

impl Groups {
    /// Looks, now and then, whether the log has room and the disk moves.
    pub(super) fn look_after_room(&mut self) {
        if self.failed || self.now < self.room.next_look {
            return;
        }
        self.room.next_look = self.now.after(INTERVAL);
        if self.now >= self.room.next_look_at_all {
            self.room.next_look_at_all = self.now.after(self.config.heartbeat_interval);
            self.look_after_stalled();
            self.look_after_full_members();
        }
        if self.log.is_short() {
            let groups = self.log.oldest_segment_groups();
            let share = self.lag_bytes_max(groups.len());
            for group in groups {
                self.let_go_of(group, share);
            }
        }
        self.look_after_refusals();
        if let Some(trouble) = self.trouble() {
            self.hand_over(trouble);
        }
    }

    /// Why this node should not lead, if that has been so for an election timeout.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        let room = &self.room;
        // Small commands may still fill the rest. Without any it would never be full.
        let refused_lately = room.refused_at.filter(|_| !self.lasts(room.refused_at));
        let refuses_large = room.full_since.filter(|_| refused_lately.is_some());
        let full = if room.full_since.is_some() { Trouble::Full } else { Trouble::NotPrepared };
        let troubles = [
            (room.refusing_since, full),
            (refuses_large, Trouble::FullForLarge),
            (self.reads.oldest(), Trouble::SlowRead),
            (room.writing_since, Trouble::SlowWrite),
        ];
        troubles.into_iter().find(|(since, _)| self.lasts(*since)).map(|(_, trouble)| trouble)
    }

    /// A command found no room.
    pub(super) fn on_refused(&mut self) {
        self.room.refused_at = Some(self.now);
    }

    /// Whether the log takes no commands, for want of space.
    pub(super) fn is_full(&self) -> bool {
        self.log.admit(STEP_BYTES).is_err_and(|error| error.is_full())
    }

    /// Whether the largest command waits for the log's next segment.
    pub(super) fn awaits_segment(&self) -> bool {
        matches!(self.admits_largest(), Err(AppendError::Preparing { .. }))
    }

    fn admits_largest(&self) -> Result<(), AppendError> {
        self.log.admit(record::encoded_bytes(self.config.command_bytes_max))
    }

    /// Notes since when the log takes no commands: it is full, or its next segment does not come.
    fn look_after_refusals(&mut self) {
        let waits = self.awaits_segment() && !self.is(Mutant::WaitsForSegments);
        let takes_none = waits || self.is_full();
        // Where large commands find no room, small ones may go on for a while.
        let full = self.admits_largest().is_err_and(|error| error.is_full());
        let now = self.now;
        let since = |since: Option<Time>, is_so: bool| is_so.then_some(since.unwrap_or(now));
        let lately = now.since(std::mem::replace(&mut self.room.full_counted, now));
        let patience = STALLED_TIMEOUTS * self.config.election_timeout;
        self.room.full_for = match self.room.full_since {
            Some(_) => patience.min(self.room.full_for + lately),
            None => self.room.full_for.saturating_sub(lately),
        };
        self.room.full_since = since(self.room.full_since, full);
        self.room.refusing_since = since(self.room.refusing_since, takes_none);
    }

    /// Looks whether members whose logs are full are held up by others. With room everywhere, those
    /// that were left behind are waited for again.
    fn look_after_full_members(&mut self) {
        let roomy = !self.log.is_short();
        let mut beside_full = Vec::new();
        for slot in self.replicas.leading().collect::<Vec<_>>() {
            let full_since = self.replicas[slot].raft.member_full_since();
            if self.lasts(full_since) {
                beside_full.push((slot, full_since));
            } else if roomy {
                self.replicas[slot].raft.wait_for_all();
            }
        }
        // A full member lets go of nothing that this leader does not say all others hold.
        let share = self.lag_bytes_max(beside_full.len());
        for (slot, full_since) in beside_full {
            let peers = self.replicas[slot].raft.status().peers;
            let full = peers.iter().filter(|peer| peer.log_full);
            let held = full.map(|peer| peer.match_index).max();
            let full_for = full_since.map_or(0, |since| self.now.since(since));
            let full = FullLog {
                full_for,
                full_since,
                held: held.unwrap_or_default(),
            };
            self.leave_laggards_behind(slot, share, full);
        }
    }

    /// Whether something has been so for an election timeout.
    pub(super) fn lasts(&self, since: Option<Time>) -> bool {
        since.is_some_and(|since| self.now.since(since) >= self.config.election_timeout)
    }

    /// When that is looked at next.
    pub(super) fn room_deadline(&self) -> Option<Time> {
        let waits = self.log.is_short() || self.room.writing_since.is_some();
        let waits = waits || self.room.refusing_since.is_some() || self.reads.oldest().is_some();
        let waits = waits || self.has_unanswered_proposals();
        waits.then_some(self.room.next_look)
    }

    /// Does what can be done so that a group holds the oldest segment no longer.
    fn let_go_of(&mut self, group: GroupId, lag_bytes_max: u64) {
        let Some(slot) = self.slot(group) else {
            return;
        };
        if self.log.is_nearly_full() {
            let full = FullLog {
                full_for: self.room.full_for,
                full_since: self.room.full_since,
                held: LogIndex(u64::MAX),
            };
            self.leave_laggards_behind(slot, lag_bytes_max, full);
        }
        self.tick_machine(slot);
    }

    /// What each of so many groups may keep for a member that lags: together a quarter of the log.
    fn lag_bytes_max(&self, groups: usize) -> u64 {
        let share = self.log.bytes_max() / 4 / groups.max(1) as u64;
        self.config.lag_bytes_max.min(share)
    }

    /// Members that do not answer, or for which too much is kept, are no longer waited for, if they
    /// lack entries that the log which is short holds.
    fn leave_laggards_behind(&mut self, slot: ReplicaSlot, lag_bytes_max: u64, full: FullLog) {
        let replica = &self.replicas[slot];
        if !replica.raft.is_leader() || self.is(Mutant::WaitsForDead) {
            return;
        }
        let (group, timeout) = (replica.id, self.config.election_timeout);
        // What the machine, or a majority, still needs is not held for a member.
        let held = full.held.min(replica.machine_releases(true)).min(replica.raft.commit_index());
        // What is short elsewhere may soon be different.
        let patience = if self.log.is_used_up() {
            timeout
        } else {
            STALLED_TIMEOUTS * timeout
        };
        // A new leader does not know yet what others hold.
        let is_new = self.now.since(replica.stall.since) < timeout;
        let in_vain = full.full_for >= STALLED_TIMEOUTS * timeout && !is_new;
        let without_end = full.full_since.map_or(0, |since| self.now.since(since));
        let hopeless = without_end >= 2 * STALLED_TIMEOUTS * timeout && !is_new;
        let mut laggards: Vec<NodeId> = Vec::new();
        for peer in replica.raft.status().peers {
            // What counts is what it is known to hold durably: of one that is repaired, nothing.
            let has = if peer.tainted { LogIndex(0) } else { peer.match_index };
            if peer.left_behind || has >= held {
                continue;
            }
            let silent = self.now.since(peer.responded_at) >= patience;
            // Who answers slows the load down: only where that was in vain for long is it given up,
            // whatever it says, and after as long again however little it lacks.
            let lacks = self.log.bytes_from(group, has.next());
            let lags = in_vain && lacks > lag_bytes_max;
            if silent || lags || hopeless {
                laggards.push(peer.id);
            }
        }
        for peer in laggards {
            let node = self.config.node;
            tracing::warn!(%node, %peer, %group, "left behind: the log is short of room");
            self.replicas[slot].raft.leave_behind(peer);
        }
    }

    /// An empty batch for a machine that holds the log, which may save what it has applied in it:
    /// without room nothing else is applied that would give it the occasion.
    fn tick_machine(&mut self, slot: ReplicaSlot) {
        let replica = &mut self.replicas[slot];
        if replica.machine_releases(true) >= replica.applied {
            return;
        }
        if let Err(error) = replica.give_batch(&[], replica.applied, &mut self.replies) {
            self.on_machine_failed(slot, &error);
        }
    }
}
