//! A log that is short of room, or a disk that stands still: what is done so that others go on.
//!
//! Members that do not answer, or lag too far, are no longer waited for. Machines that hold the log
//! get a call in which they can let go of it. A leader whose own log takes nothing hands over.

use pontoon_raft::{GroupId, NodeId, Time};
use pontoon_storage::AppendError;

use super::groups::Groups;
use super::mutant::Mutant;
use super::persist::STEP_BYTES;
use super::replicas::ReplicaSlot;
use crate::outcome::Unknown;

/// How often it is looked after, in nanoseconds.
const INTERVAL: u64 = 50_000_000;

/// So many election timeouts without a commit, and nothing more is hoped for soon.
const STALLED_TIMEOUTS: u64 = 10;

/// What is remembered between two looks.
#[derive(Debug, Default)]
pub(super) struct Room {
    next_look: Time,
    next_look_at_all: Time,
    /// Since when a write has been under way without one being durable.
    writing_since: Option<Time>,
    writes: usize,
    /// Since when the log takes no commands.
    full_since: Option<Time>,
    /// Until then leadership was given away, or nobody could take it.
    handed_over_until: Time,
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
        }
        if self.log.is_short() {
            let groups = self.log.oldest_segment_groups();
            let share = self.lag_bytes_max(groups.len());
            for group in groups {
                self.let_go_of(group, share);
            }
        }
        let since = self.room.full_since.unwrap_or(self.now);
        self.room.full_since = self.is_full().then_some(since);
        let reading = self.lasts(self.reads.oldest());
        if self.lasts(self.room.full_since) || self.lasts(self.room.writing_since) || reading {
            self.hand_over();
        }
    }

    /// Whether the log takes no commands, for want of space.
    pub(super) fn is_full(&self) -> bool {
        matches!(self.log.admit(STEP_BYTES), Err(AppendError::NoSpace { .. }))
    }

    /// Gives the proposals of groups that commit nothing for long the outcome that can be told, and
    /// refuses more where those that have no room are a majority.
    fn look_after_stalled(&mut self) {
        let patience = STALLED_TIMEOUTS * self.config.election_timeout;
        let (now, timeout) = (self.now, self.config.election_timeout);
        let lasts = |since: Option<Time>| since.is_some_and(|since| now.since(since) >= timeout);
        let roomy = !self.log.is_short();
        let mut beside_full = Vec::new();
        for slot in self.replicas.leading().collect::<Vec<_>>() {
            let replica = &mut self.replicas[slot];
            let since = |since: Option<Time>, is_so: bool| {
                let since = since.unwrap_or(self.now);
                is_so.then_some(since)
            };
            replica.member_full_since =
                since(replica.member_full_since, replica.raft.has_full_member());
            replica.majority_full_since = since(
                replica.majority_full_since,
                replica.raft.lacks_room_elsewhere(),
            );
            if lasts(replica.member_full_since) {
                beside_full.push(slot);
            } else if roomy {
                replica.raft.wait_for_all();
            }
            let applied = replica.applied;
            let waits = replica.proposals.unanswered.bytes() > 0;
            if applied != replica.applied_seen.0 || !waits {
                replica.applied_seen = (applied, self.now);
            } else if self.now.since(replica.applied_seen.1) >= patience {
                replica.proposals.give_up(Unknown::Stalled);
            }
        }
        // A full member lets go of nothing that this leader does not say all others hold.
        let share = self.lag_bytes_max(beside_full.len());
        for slot in beside_full {
            self.leave_laggards_behind(slot, share);
        }
    }

    /// Whether something has been so for an election timeout.
    pub(super) fn lasts(&self, since: Option<Time>) -> bool {
        since.is_some_and(|since| self.now.since(since) >= self.config.election_timeout)
    }

    /// When that is looked at next.
    pub(super) fn room_deadline(&self) -> Option<Time> {
        let waits = self.log.is_short() || self.room.writing_since.is_some();
        let waits = waits || self.room.full_since.is_some() || self.reads.oldest().is_some();
        let waits = waits || self.has_unanswered_proposals();
        waits.then_some(self.room.next_look)
    }

    /// Does what can be done so that a group holds the oldest segment no longer.
    fn let_go_of(&mut self, group: GroupId, lag_bytes_max: u64) {
        let Some(slot) = self.slot(group) else {
            return;
        };
        if self.log.is_nearly_full() {
            self.leave_laggards_behind(slot, lag_bytes_max);
        }
        self.tick_machine(slot);
    }

    /// What each of so many groups may keep for a member that lags: together a quarter of the log.
    fn lag_bytes_max(&self, groups: usize) -> u64 {
        let share = self.log.bytes_max() / 4 / groups.max(1) as u64;
        self.config.lag_bytes_max.min(share)
    }

    /// Members that do not answer, or for which too much is kept, are no longer waited for.
    fn leave_laggards_behind(&mut self, slot: ReplicaSlot, lag_bytes_max: u64) {
        let replica = &self.replicas[slot];
        if !replica.raft.is_leader() || self.is(Mutant::WaitsForDead) {
            return;
        }
        let (group, timeout) = (replica.id, self.config.election_timeout);
        let held = replica.machine_releases(true);
        // What is short elsewhere may soon be different.
        let patience = if self.log.is_used_up() {
            timeout
        } else {
            STALLED_TIMEOUTS * timeout
        };
        let full_for = self.room.full_since.map_or(0, |since| self.now.since(since));
        let in_vain = full_for >= STALLED_TIMEOUTS * timeout;
        let mut laggards: Vec<NodeId> = Vec::new();
        for peer in replica.raft.status().peers {
            // What the machine, or a majority, still needs is not held for this member.
            if peer.left_behind || peer.match_index >= held.min(replica.raft.commit_index()) {
                continue;
            }
            let silent = self.now.since(peer.responded_at) >= patience;
            // Who answers slows the load down: only where that was in vain for long is it given up.
            let lags = in_vain
                && peer.match_index.0 > 0
                && self.log.bytes_from(group, peer.match_index.next()) > lag_bytes_max;
            if silent || lags {
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

    /// Gives every group that this node leads to the member that is best placed for it.
    fn hand_over(&mut self) {
        if self.now < self.room.handed_over_until || self.is(Mutant::StaysWithoutRoom) {
            return;
        }
        let pause = 2 * self.config.election_timeout;
        self.room.handed_over_until = self.now.after(pause);
        let leads: Vec<ReplicaSlot> = self.replicas.leading().collect();
        for slot in leads {
            let replica = &mut self.replicas[slot];
            let Some(to) = replica.raft.best_successor() else {
                continue;
            };
            let (node, group) = (self.config.node, replica.id);
            let full = self.room.full_since.is_some();
            let reason = if full { "the log is full" } else { "the disk stands still" };
            tracing::info!(%node, %group, %to, reason, "hands over leadership");
            // Refused if hand-overs were asked for just before: the next look tries again.
            if let Err(error) = self.transfer(group, to) {
                tracing::info!(%node, %group, %to, %error, "does not hand over");
            }
        }
    }
}
