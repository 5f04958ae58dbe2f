//! When each group next has something to do.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use pontoon_raft::Time;

use super::groups::Groups;
use super::persist::{STEP_BYTES, Source};
use super::replicas::ReplicaSlot;

const NEVER: Time = Time(u64::MAX);

/// Most groups that are looked at in one turn because their time has come: what arrives meanwhile
/// for others is not kept waiting by thousands that are due at once.
const PER_TURN_MAX: usize = 256;

/// A min-heap of deadlines with lazy updates: a deadline that moves later, as a leader's does
/// with every entry it sends, is looked at again when the old one expires.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Time, ReplicaSlot)>>,
    /// By position: the slot that was armed last, and its earliest time in the heap or `NEVER`.
    armed: Vec<Option<(ReplicaSlot, Time)>>,
}

impl Timers {
    /// The earliest time at which a group may have something to do.
    pub(super) fn next(&self) -> Time {
        self.heap.peek().map_or(NEVER, |Reverse((time, _))| *time)
    }

    /// Deadlines in the heap.
    #[cfg(feature = "simulation")]
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    /// Looks at the slot at `deadline` at the latest.
    pub(super) fn arm(&mut self, slot: ReplicaSlot, deadline: Time) {
        if self.armed.len() <= slot.position() {
            self.armed.resize(slot.position() + 1, None);
        }
        let armed = &mut self.armed[slot.position()];
        let earliest = armed.filter(|armed| armed.0 == slot);
        if deadline < earliest.map_or(NEVER, |armed| armed.1) {
            *armed = Some((slot, deadline));
            self.heap.push(Reverse((deadline, slot)));
        }
    }

    /// The next slot to be looked at.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<ReplicaSlot> {
        while self.next() <= now {
            let Reverse((time, slot)) = self.heap.pop()?;
            let armed = &mut self.armed[slot.position()];
            if *armed == Some((slot, time)) {
                *armed = None;
                return Some(slot);
            }
        }
        None
    }
}

impl Groups {
    /// Ticks the groups whose time has come, those that wait longest first. True if more are due.
    pub(super) fn fire_timers(&mut self) -> bool {
        for _ in 0..PER_TURN_MAX {
            let Some(slot) = self.timers.pop_due(self.now) else {
                return false;
            };
            if self.replicas.get(slot).is_none() {
                continue;
            }
            if self.is_due(slot) {
                let raft = &mut self.replicas[slot].raft;
                raft.tick(self.now, &mut self.output);
                self.process_output(slot, Source::None);
            } else {
                self.arm(slot);
            }
        }
        self.timers.next() <= self.now
    }

    /// Whether a replica has something to do that can be done now.
    fn is_due(&self, slot: ReplicaSlot) -> bool {
        let replica = &self.replicas[slot];
        let deadline = replica.raft.next_deadline();
        let may_campaign =
            || self.log.admit_reserved(STEP_BYTES).is_ok() && !self.defers_campaign(deadline);
        let has_come = replica.takes_part() && deadline <= self.now;
        has_come && (replica.raft.is_leader() || may_campaign())
    }

    /// Sees to it that the group is looked at when it has something to do.
    pub(super) fn arm(&mut self, slot: ReplicaSlot) {
        let replica = &self.replicas[slot];
        if !replica.takes_part() || self.failed {
            return;
        }
        // What is overdue could not be done now (the log is full): a little later, then.
        let deadline = replica.raft.next_deadline();
        let soonest = self.now.after(self.config.heartbeat_interval / 4);
        let overdue = deadline <= self.now;
        self.timers
            .arm(slot, if overdue { soonest } else { deadline });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_due_at_the_earliest_time_it_was_armed_with_and_only_once() {
        let [first, second] = [0, 1].map(ReplicaSlot::first_at);
        let mut timers = Timers::default();
        timers.arm(second, Time(50));
        timers.arm(first, Time(30));
        timers.arm(first, Time(40));
        timers.arm(second, Time(20));
        assert_eq!(timers.next(), Time(20));
        assert_eq!(timers.pop_due(Time(10)), None);
        let due: Vec<_> = std::iter::from_fn(|| timers.pop_due(Time(60))).collect();
        assert_eq!(due, [second, first]);
    }
}
