//! When each group next has something to do.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use pontoon_raft::Time;

use super::Shard;

/// A heap that is corrected late: a group whose deadline moves back, as a leader's does with every
/// entry it sends, keeps its place and is looked at again when its old time comes.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Time, usize)>>,
    /// The time each slot stands in the heap with; `Time(u64::MAX)` if it does not.
    armed: Vec<Time>,
}

const NEVER: Time = Time(u64::MAX);

impl Timers {
    /// The earliest time at which a group may have something to do.
    pub(super) fn next(&self) -> Time {
        self.heap.peek().map_or(NEVER, |Reverse((time, _))| *time)
    }

    /// Looks at the slot at `deadline` at the latest.
    pub(super) fn arm(&mut self, slot: usize, deadline: Time) {
        if self.armed.len() <= slot {
            self.armed.resize(slot + 1, NEVER);
        }
        if deadline < self.armed[slot] {
            self.armed[slot] = deadline;
            self.heap.push(Reverse((deadline, slot)));
        }
    }

    /// The next slot to be looked at.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<usize> {
        while self.next() <= now {
            let Reverse((time, slot)) = self.heap.pop()?;
            if self.armed[slot] == time {
                self.armed[slot] = NEVER;
                return Some(slot);
            }
        }
        None
    }
}

impl Shard {
    /// Sees to it that the group is looked at when it has something to do.
    pub(super) fn arm(&mut self, slot: usize) {
        let replica = &self.replicas[slot];
        if replica.machine.is_none() || self.failed {
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
        let mut timers = Timers::default();
        timers.arm(1, Time(50));
        timers.arm(0, Time(30));
        timers.arm(0, Time(40));
        timers.arm(1, Time(20));
        assert_eq!(timers.next(), Time(20));
        assert_eq!(timers.pop_due(Time(10)), None);
        let due: Vec<_> = std::iter::from_fn(|| timers.pop_due(Time(60))).collect();
        assert_eq!(due, [1, 0]);
    }
}
