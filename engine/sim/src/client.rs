//! Clients: each has one operation outstanding, on a key of a group, at whichever node leads.

use std::task::{Context, Poll, Waker};

use pontoon::{Group, GroupId, Outcome, Proposal, ProposeError};

use crate::coverage::RareEvent;
use crate::edn::{HistoryEvent, Moment};
use crate::history::Call;
use crate::machine::{Command, lock};
use crate::settings::MILLISECOND;
use crate::swarm::Swarm;
use crate::trace::TraceKind;
use crate::world::World;

/// A client gives up on an answer after this.
const PATIENCE: u64 = 3_000 * MILLISECOND;

/// In a steady run it asks somebody else after this; the answer is owed all the same.
const STEADY_PATIENCE: u64 = 400 * MILLISECOND;

/// Sizes of padding: most commands are small, some fill a good part of a frame.
const PADDING: [usize; 6] = [0, 0, 16, 100, 700, 3500];

/// What a client waits for.
pub(crate) struct Outstanding {
    proposal: Proposal,
    /// Applications keep their handles: what waits in a queue is not dropped with its core.
    _handle: Group,
    pub(crate) place: usize,
    /// The start of its node that it was asked of.
    pub(crate) generation: u64,
    pub(crate) group: u64,
    command: Command,
    pub(crate) invoked: u64,
}

impl Outstanding {
    pub(crate) fn poll(&mut self) -> Poll<Outcome> {
        let mut context = Context::from_waker(Waker::noop());
        std::pin::Pin::new(&mut self.proposal).poll(&mut context)
    }

    pub(crate) fn is_answered(&mut self) -> bool {
        self.poll().is_ready()
    }
}

/// One client.
pub(crate) struct Client {
    outstanding: Option<Outstanding>,
    /// Where a group's leader was last found; in a steady run for each group.
    hints: Vec<usize>,
    /// Its name in a history; another one after each operation of unknown outcome.
    process: u64,
}

impl Client {
    pub(crate) fn new(number: usize, swarm: &Swarm) -> Self {
        let hints = if swarm.steady { swarm.groups } else { 1 };
        Self {
            outstanding: None,
            hints: vec![0; usize::try_from(hints).expect("few groups")],
            process: number as u64,
        }
    }

    pub(crate) fn outstanding(&self) -> Option<&Outstanding> {
        self.outstanding.as_ref()
    }

    fn hint(&mut self, group: u64) -> &mut usize {
        let position = group as usize % self.hints.len();
        &mut self.hints[position]
    }
}

impl World {
    /// The client's time has come: it looks for its answer, or asks anew.
    pub(crate) fn client_acts(&mut self, number: usize) {
        self.client_looks(number);
        let idle = self.clients[number].outstanding.is_none();
        if idle && !self.healed {
            self.client_asks(number);
        }
        if self.healed && self.swarm.steady && self.clients[number].outstanding.is_none() {
            return;
        }
        let after = self.random.delay(self.swarm.think);
        self.schedule_client(number, after);
    }

    /// Looks at the clients that wait for this place.
    pub(crate) fn clients_look(&mut self, place: usize) {
        for number in 0..self.clients.len() {
            let waiting = self.clients[number].outstanding.as_ref();
            if waiting.is_some_and(|waiting| waiting.place == place) {
                self.client_looks(number);
            }
        }
    }

    fn client_asks(&mut self, number: usize) {
        let group = 1 + self.random.number() % self.swarm.groups;
        let core = pontoon::simulation::core_of(GroupId(group), self.swarm.cores);
        let node = if self.random.happens(100_000) {
            self.random.below(self.swarm.nodes)
        } else {
            *self.clients[number].hint(group)
        };
        let place = self.place(node, core);
        self.operations += 1;
        let operation = self.operations;
        let command = Command {
            operation,
            key: self.random.number() % self.swarm.keys,
            write: self.random.happens(600_000).then_some(operation),
        };
        let choice = match self.swarm.large {
            true => PADDING.len() - 1,
            false => self.random.below(PADDING.len()),
        };
        let padding = PADDING[choice];
        let Some(outstanding) = self.propose((place, GroupId(group)), command, padding) else {
            *self.clients[number].hint(group) = self.random.below(self.swarm.nodes);
            return;
        };
        self.tell(number, &outstanding, Moment::Invoke, None);
        self.clients[number].outstanding = Some(outstanding);
        self.wake_soon(place);
    }

    /// Gives a place a command for a group, if its node runs.
    pub(crate) fn propose(
        &mut self,
        (place, group): (usize, GroupId),
        command: Command,
        padding: usize,
    ) -> Option<Outstanding> {
        let shard = self.places[place].shard.as_ref()?;
        let handle = shard.group(group);
        Some(Outstanding {
            proposal: handle.propose(command.encode(padding)),
            _handle: handle,
            place,
            generation: self.places[place].generation,
            group: group.0,
            command,
            invoked: self.now,
        })
    }

    fn client_looks(&mut self, number: usize) {
        let patience = match self.swarm.steady {
            true => STEADY_PATIENCE,
            false => PATIENCE,
        };
        let outstanding = &mut self.clients[number].outstanding;
        let Some(polled) = outstanding.as_mut().map(Outstanding::poll) else {
            return;
        };
        let late = |waiting: &mut Outstanding| self.now - waiting.invoked > patience;
        let Some(waiting) = outstanding.take_if(|waiting| polled.is_ready() || late(waiting))
        else {
            return;
        };
        match polled {
            Poll::Ready(outcome) => {
                self.check_refusal(&waiting, &outcome);
                self.client_answered(number, &waiting, outcome);
            }
            Poll::Pending => {
                self.check_answered(&waiting);
                self.record(number, &waiting, None, None);
                *self.clients[number].hint(waiting.group) = self.random.below(self.swarm.nodes);
                if self.swarm.steady {
                    self.steady.owed.push(waiting);
                }
            }
        }
    }

    fn client_answered(&mut self, number: usize, waiting: &Outstanding, outcome: Outcome) {
        match outcome {
            Ok(applied) => {
                let value = applied.reply.first_chunk().copied().map(u64::from_le_bytes);
                self.record(number, waiting, Some(self.now), value);
                let (group, index) = (waiting.group, applied.index.0);
                let operation = waiting.command.operation;
                if !lock(&self.oracle).holds(group, index, operation) {
                    self.fail(format!(
                        "operation {operation} was acknowledged at {index} of group {group}, \
                         where it was never applied"
                    ));
                }
                self.acknowledged.push((group, index, operation));
                self.steady.answered_at[group as usize - 1] = self.now;
                self.trace.event(
                    self.now,
                    TraceKind::Acknowledged,
                    &[group, index, operation],
                    format_args!("operation {operation} is applied at {index} of group {group}"),
                );
            }
            Err(ProposeError::Unknown(_)) => self.record(number, waiting, None, None),
            Err(ProposeError::Rejected(rejection)) => {
                self.tell(number, waiting, Moment::Fail, None);
                self.coverage.mark(RareEvent::ProposalRejected);
                if matches!(
                    rejection,
                    pontoon::Rejection::Overloaded { .. }
                        | pontoon::Rejection::Preparing
                        | pontoon::Rejection::NoSpace
                ) {
                    self.coverage.mark(RareEvent::ProposalOverloaded);
                }
                let leader = match rejection {
                    pontoon::Rejection::NotLeader { leader } => leader,
                    _ => None,
                };
                *self.clients[number].hint(waiting.group) = match leader {
                    Some(leader) => leader.0 as usize - 1,
                    None => self.random.below(self.swarm.nodes),
                };
            }
            Err(_) => self.record(number, waiting, None, None),
        }
    }

    /// Adds a line to the history, if one is kept.
    fn tell(&mut self, number: usize, asked: &Outstanding, moment: Moment, read: Option<u64>) {
        let process = self.clients[number].process;
        let Some(history) = &mut self.history else {
            return;
        };
        history.push(HistoryEvent {
            process,
            moment,
            writes: asked.command.write.is_some(),
            key: (asked.group, asked.command.key),
            value: asked.command.write.or(read),
            time: self.now,
        });
    }

    fn record(
        &mut self,
        number: usize,
        waiting: &Outstanding,
        answered: Option<u64>,
        value: Option<u64>,
    ) {
        if answered.is_some() {
            self.tell(number, waiting, Moment::Ok, value);
        } else {
            self.tell(number, waiting, Moment::Info, None);
            self.clients[number].process += self.clients.len() as u64;
            self.coverage.mark(RareEvent::OutcomeUnknown);
        }
        let call = Call {
            invoked: waiting.invoked,
            answered,
            write: waiting.command.write,
            read: value.filter(|_| waiting.command.write.is_none()),
        };
        let key = (waiting.group, waiting.command.key);
        self.histories.entry(key).or_default().push(call);
    }
}
