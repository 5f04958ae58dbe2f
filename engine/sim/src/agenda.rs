//! What is to happen, in the order of its time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::world::Event;

/// Events by their time; at one time in the order in which they were scheduled.
///
/// An event stays where it was put until it happens, and the heap holds numbers only: events are
/// long, and an ordered map of them moves many with each that is put in or taken out.
#[derive(Default)]
pub(crate) struct Agenda {
    /// From the highest bits down: time, the event's number, its place in `events`. One number is
    /// compared without a branch.
    order: BinaryHeap<Reverse<u128>>,
    events: Vec<Option<Event>>,
    free: Vec<u32>,
    scheduled: u32,
}

impl Agenda {
    pub(crate) fn schedule(&mut self, time: u64, event: Event) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            u32::try_from(self.events.len() - 1).expect("a run of some minutes")
        });
        self.events[place as usize] = Some(event);
        self.scheduled = self
            .scheduled
            .checked_add(1)
            .expect("a run of some minutes");
        let (number, place) = (u128::from(self.scheduled), u128::from(place));
        self.order
            .push(Reverse(u128::from(time) << 64 | number << 32 | place));
    }

    /// When the next event happens.
    pub(crate) fn next_time(&self) -> Option<u64> {
        self.order.peek().map(|Reverse(next)| (next >> 64) as u64)
    }

    /// Takes the next event.
    pub(crate) fn pop(&mut self) -> Option<(u64, Event)> {
        let Reverse(next) = self.order.pop()?;
        let (time, place) = ((next >> 64) as u64, next as u32);
        self.free.push(place);
        let event = self.events[place as usize]
            .take()
            .expect("it was scheduled");
        Some((time, event))
    }
}
