//! What is asked of cores beside proposals: every call has an outcome.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};

use pontoon::{GroupId, Pending};

use crate::coverage::RareEvent;
use crate::world::World;

/// A call that was not answered yet.
pub(crate) struct Asked {
    place: usize,
    /// The life of its node that it was asked of.
    generation: u64,
    name: &'static str,
    /// It is answered in the next turn, whatever is the matter.
    at_once: bool,
    answer: Box<dyn Answer>,
}

/// An answer that may be there.
trait Answer {
    fn is_there(&mut self) -> bool;
}

impl<T> Answer for Pending<T> {
    fn is_there(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(self).poll(&mut context).is_ready()
    }
}

impl World {
    /// A call is on its way. `at_once`: to be answered in the next turn of its core.
    pub(crate) fn asked<T: 'static>(
        &mut self,
        place: usize,
        (name, at_once): (&'static str, bool),
        answer: Pending<T>,
    ) {
        let generation = self.places[place].generation;
        self.calls.push(Asked {
            place,
            generation,
            name,
            at_once,
            answer: Box::new(answer),
        });
        self.coverage.mark(RareEvent::CallAsked);
        self.wake_soon(place);
    }

    /// Somebody asks a core something.
    pub(crate) fn ask(&mut self) {
        let place = self.random.below(self.places.len());
        let group = GroupId(1 + self.random.number() % (self.swarm.groups + 1));
        let choice = self.random.below(2);
        let Some(shard) = &self.places[place].shard else {
            return;
        };
        let group = shard.group(group);
        match choice {
            0 => self.asked(place, ("status", true), group.status()),
            _ => self.asked(place, ("leader", false), group.leader()),
        }
    }

    /// After a turn of a place: what was asked before it is answered.
    pub(crate) fn check_calls(&mut self, position: usize) {
        let generation = self.places[position].generation;
        let mut late = None;
        self.calls.retain_mut(|call| {
            if call.place != position {
                return true;
            }
            if call.generation != generation {
                return false;
            }
            let waits = !call.answer.is_there();
            if waits && call.at_once {
                late = Some(call.name);
            }
            waits
        });
        if let Some(name) = late {
            self.fail(format!(
                "place {position} took a turn and did not answer a call: {name}"
            ));
        }
    }

    /// A core has ended by itself: everybody who asked it something has an answer.
    pub(crate) fn check_answered_at_end(&mut self, position: usize, why: &str) {
        let generation = self.places[position].generation;
        self.clients_look(position);
        let mut silent = None;
        self.calls.retain_mut(|call| {
            let of_place = (call.place, call.generation) == (position, generation);
            if of_place && !call.answer.is_there() {
                silent = Some(call.name);
            }
            !of_place
        });
        let of_clients = self
            .clients
            .iter()
            .filter_map(|client| client.outstanding());
        let of_place = |asked: &crate::client::Outstanding| {
            (asked.place, asked.generation) == (position, generation)
        };
        if of_clients.into_iter().any(of_place) {
            silent = Some("a proposal");
        }
        let owed = &mut self.steady.owed;
        if owed
            .iter_mut()
            .any(|owed| of_place(owed) && !owed.is_answered())
        {
            silent = Some("a proposal that its client gave up");
        }
        owed.retain(|owed| !of_place(owed));
        if let Some(what) = silent {
            self.fail(format!(
                "place {position}: {why}, and {what} is never answered"
            ));
        }
    }
}
