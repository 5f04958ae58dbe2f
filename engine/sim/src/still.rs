//! Disks that stand still, and segments that never come: what is asked of them ends later, or when
//! all is repaired.
//!
//! A node whose disk stands still answers heartbeats as ever; one that has no room in its last
//! segment takes no commands. Who leads with either hands over; the others go on.

use crate::faults::Fault;
use crate::settings::MILLISECOND;
use crate::world::{Event, World};

/// What a place was asked for and does not get.
#[derive(Default)]
pub(crate) struct Held {
    /// Until then nothing of it ends.
    until: u64,
    /// What ends once it is over.
    pub(crate) events: Vec<Event>,
}

impl Held {
    fn take_due(&mut self, now: u64) -> Vec<Event> {
        match now >= self.until {
            true => std::mem::take(&mut self.events),
            false => Vec::new(),
        }
    }
}

impl World {
    /// Now and then the disks of a node stand still for a while, or its segments do not come.
    pub(crate) fn hold_up_disks(&mut self) {
        if self.later.happens(self.swarm.still) {
            let node = self.later.below(self.swarm.nodes);
            let until = self.now + self.later.between(50, 3_000) * MILLISECOND;
            self.hold_disks(node, until);
        }
        if self.later.happens(self.swarm.withheld) {
            let node = self.later.below(self.swarm.nodes);
            // Many seconds, or never before all is repaired.
            let until = match self.later.below(3) {
                0 => u64::MAX,
                _ => self.now + self.later.between(500, 10_000) * MILLISECOND,
            };
            self.withhold_segments(node, until);
        }
    }

    /// The disks of a node do nothing more until then; what they do already ends in time.
    pub(crate) fn hold_disks(&mut self, node: usize, until: u64) {
        self.injected(Fault::DiskStill);
        for core in 0..self.swarm.cores {
            let place = self.place(node, core);
            self.places[place].still.until = until;
        }
        self.release_at(node, until);
    }

    /// No segment that the logs of a node ask for comes before then.
    pub(crate) fn withhold_segments(&mut self, node: usize, until: u64) {
        for core in 0..self.swarm.cores {
            let place = self.place(node, core);
            self.places[place].withheld.until = until;
        }
        self.release_at(node, until);
    }

    fn release_at(&mut self, node: usize, until: u64) {
        if until != u64::MAX {
            self.schedule(until - self.now, Event::Release(node));
        }
    }

    /// A disk operation ends after so many nanoseconds, if the disk does not stand still.
    pub(crate) fn schedule_disk(&mut self, after: u64, position: usize, event: Event) {
        let still = &mut self.places[position].still;
        if self.now < still.until {
            still.events.push(event);
        } else {
            self.schedule(after, event);
        }
    }

    /// A segment comes after so many nanoseconds, if it is not withheld.
    pub(crate) fn schedule_segment(&mut self, after: u64, position: usize, event: Event) {
        let withheld = &mut self.places[position].withheld;
        if self.now < withheld.until {
            withheld.events.push(event);
            self.injected(Fault::SegmentWithheld);
        } else {
            self.schedule(after, event);
        }
    }

    /// What a node's disks were asked for ends, if it is time.
    pub(crate) fn release_due(&mut self, node: usize) {
        let now = self.now;
        for core in 0..self.swarm.cores {
            let position = self.place(node, core);
            let place = &mut self.places[position];
            let mut due = place.still.take_due(now);
            due.append(&mut place.withheld.take_due(now));
            for event in due {
                let after = self.later.delay(self.swarm.disk_delay);
                self.schedule(after, event);
            }
        }
    }

    /// All is repaired: disks move, and segments come.
    pub(crate) fn release_all(&mut self) {
        for node in 0..self.swarm.nodes {
            for core in 0..self.swarm.cores {
                let position = self.place(node, core);
                let place = &mut self.places[position];
                (place.still.until, place.withheld.until) = (0, 0);
            }
            self.release_due(node);
        }
    }
}
