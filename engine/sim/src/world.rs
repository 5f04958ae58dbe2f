//! The world of one run: places, network, clients and chance, moved on event by event.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use pontoon::port::{Completion, Operation, SocketId};
use pontoon::raft::{Raft, Time};
use pontoon::simulation::Mutant;
use pontoon::{CloseReason, FrameError, GroupId, NodeId};

use crate::agenda::Agenda;
use crate::calls::Asked;
use crate::check::Checks;
use crate::client::{Client, Outstanding};
use crate::clock::{self, Clock};
use crate::costs::Costs;
use crate::coverage::{Coverage, RareEvent};
use crate::edn::HistoryEvent;
use crate::faults::{Fault, Faults};
use crate::forgetting::Plot;
use crate::history::Call;
use crate::hostile::Hostile;
use crate::impairment::Impairment;
use crate::links::Links;
use crate::machine::{Oracle, SharedOracle, lock};
use crate::network::Network;
use crate::random::Random;
use crate::recording::Recorder;
use crate::resends::Resends;
use crate::settings::MILLISECOND;
use crate::sim_core::SimCore;
use crate::steady::Steady;
use crate::swarm::Swarm;
use crate::trace::{Trace, TraceKind};

/// Of a steady run, for each one of a run that is not.
const STEADY_EVENTS: u64 = 12;

/// How to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// Events of the phase with faults.
    pub events: u64,
    /// A rule to break.
    pub mutant: Option<Mutant>,
    /// Keep the trace as text.
    pub keep_trace: bool,
    /// Keep what the clients saw, in order.
    pub keep_history: bool,
}

impl Options {
    /// 2,000 events without a mutant.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            events: 2_000,
            mutant: None,
            keep_trace: false,
            keep_history: false,
        }
    }
}

/// A run in which everything held.
#[derive(Clone, Debug)]
pub struct Report {
    /// Events, healing included.
    pub events: u64,
    /// Simulated time, in nanoseconds.
    pub simulated: u64,
    /// Hash of the trace.
    pub trace_hash: u64,
    /// The trace, if it was kept.
    pub trace: Vec<String>,
    /// Operations acknowledged.
    pub acknowledged: usize,
    /// What rare events were met.
    pub coverage: Coverage,
    /// What was done to the cluster.
    pub faults: Faults,
    /// What the clients saw, if it was kept.
    pub history: Vec<HistoryEvent>,
}

/// A run in which something did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Replays it.
    pub seed: u64,
    /// The event at which it was noticed.
    pub event: u64,
    /// What did not hold.
    pub message: String,
    /// The trace up to there, if it was kept.
    pub trace: Vec<String>,
    /// What the clients saw up to there, if it was kept.
    pub history: Vec<HistoryEvent>,
}

/// What is to happen at a time.
pub(crate) enum Event {
    Turn {
        place: usize,
        generation: u64,
    },
    Complete {
        place: usize,
        generation: u64,
        completion: Completion,
    },
    WriteDone {
        place: usize,
        generation: u64,
        id: u64,
    },
    Arrive {
        socket: SocketId,
        bytes: Vec<u8>,
    },
    Ended {
        socket: SocketId,
    },
    Dialled {
        place: usize,
        generation: u64,
        peer: NodeId,
    },
    /// A piece has passed the link towards this end.
    Transmitted {
        socket: SocketId,
    },
    /// A stranger connects in the name of a place's node, and says nothing.
    Stranger {
        place: usize,
        acceptor: usize,
    },
    /// A stranger that talks goes on.
    Talk {
        place: usize,
        socket: SocketId,
    },
    Client(usize),
    Restart(usize),
    Crash(usize),
    Isolate(usize),
    Rejoin(usize),
    /// What a disk that is about to forget had promised is known elsewhere: the next step.
    Plot,
    Chaos,
    /// There is space on a node's disks again.
    Space(usize),
    /// A node's disks stood still, or its segments did not come: until now, perhaps.
    Release(usize),
    /// Whoever asks little asks again.
    LightLoad,
    /// A steady run is looked at.
    Look,
}

pub(crate) struct World {
    pub(crate) swarm: Swarm,
    pub(crate) random: Random,
    /// Decides what came later: what the seeds before meant stays as it is.
    pub(crate) later: Random,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) now: u64,
    agenda: Agenda,
    pub(crate) events: u64,
    pub(crate) places: Vec<SimCore>,
    pub(crate) network: Network,
    pub(crate) paused_until: Vec<u64>,
    /// The clock of each node.
    pub(crate) clocks: Vec<Clock>,
    pub(crate) clients: Vec<Client>,
    pub(crate) operations: u64,
    /// Memory for what a turn asks for.
    asked_for: Vec<Operation>,
    pub(crate) histories: BTreeMap<(u64, u64), Vec<Call>>,
    /// Group, index, operation.
    pub(crate) acknowledged: Vec<(u64, u64, u64)>,
    pub(crate) oracle: SharedOracle,
    pub(crate) checks: Checks,
    pub(crate) hostile: Hostile,
    pub(crate) costs: Costs,
    pub(crate) resends: Resends,
    /// Calls beside proposals that were not answered yet.
    pub(crate) calls: Vec<Asked>,
    pub(crate) steady: Steady,
    pub(crate) plot: Option<Plot>,
    /// What the lone group was asked in this window and has not answered.
    pub(crate) lone: Vec<Outstanding>,
    pub(crate) coverage: Coverage,
    faults: Faults,
    pub(crate) trace: Trace,
    /// What the clients saw, if it is kept.
    pub(crate) history: Option<Vec<HistoryEvent>>,
    /// The second phase has begun: nothing goes wrong any more.
    pub(crate) healed: bool,
    /// Strangers that talk go on all the same.
    pub(crate) strangers_stay: bool,
    pub(crate) failure: Option<String>,
    /// Keeps what fuzz targets can use.
    pub(crate) recorder: Option<Recorder>,
}

/// Runs one history.
///
/// # Errors
/// What did not hold, with the seed that replays it.
pub fn run(options: &Options) -> Result<Report, Failure> {
    let mut world = World::new(options);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.live(options.events)));
    let message = match outcome {
        Ok(()) => world.failure.take(),
        Err(panic) => Some(panic_message(panic.as_ref())),
    };
    let event = world.events;
    match message {
        Some(message) => Err(Failure {
            seed: options.seed,
            event,
            message,
            trace: world.trace.lines(),
            history: world.history.unwrap_or_default(),
        }),
        None => Ok(Report {
            events: event,
            simulated: world.now,
            trace_hash: world.trace.hash(),
            acknowledged: world.acknowledged.len(),
            coverage: world.coverage,
            faults: world.faults,
            trace: world.trace.lines(),
            history: world.history.unwrap_or_default(),
        }),
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("an assertion failed: {}", text.unwrap_or("?"))
}

impl World {
    pub(crate) fn new(options: &Options) -> Self {
        let swarm = Swarm::draw(options.seed);
        let mut random = Random::new(options.seed);
        let mut places = Vec::new();
        for node in 0..swarm.nodes {
            for core in 0..swarm.cores {
                places.push(SimCore::new(node, core));
            }
        }
        let mut clocks = vec![Clock::default(); swarm.nodes];
        for clock in &mut clocks {
            clock.set_rate(0, clock::within_bound(&mut random));
        }
        let links = match swarm.slowest_link {
            0 => Links::default(),
            slowest => Links::draw(&mut Random::new(!options.seed), swarm.nodes, slowest),
        };
        Self {
            clocks,
            random,
            later: Random::new(!options.seed ^ 0x4b49_4e44_5300_0000),
            mutant: options.mutant,
            now: MILLISECOND,
            agenda: Agenda::default(),
            events: 0,
            places,
            network: Network::new(links),
            paused_until: vec![0; swarm.nodes],
            clients: (0..swarm.clients)
                .map(|number| Client::new(number, &swarm))
                .collect(),
            operations: 0,
            asked_for: Vec::new(),
            histories: BTreeMap::new(),
            acknowledged: Vec::new(),
            oracle: Arc::new(Mutex::new(Oracle::default())),
            checks: Checks::new(swarm.checks_promises),
            hostile: Hostile::default(),
            costs: Costs::default(),
            resends: Resends::default(),
            calls: Vec::new(),
            steady: Steady::new(swarm.groups),
            plot: None,
            lone: Vec::new(),
            coverage: Coverage::default(),
            faults: Faults::default(),
            trace: Trace::new(options.keep_trace),
            history: options.keep_history.then(Vec::new),
            healed: false,
            strangers_stay: false,
            failure: None,
            recorder: None,
            swarm,
        }
    }

    /// Notes that something was done to the cluster.
    pub(crate) fn injected(&mut self, fault: Fault) {
        self.faults.add(fault);
    }

    pub(crate) fn fail(&mut self, message: String) {
        self.failure.get_or_insert(message);
    }

    pub(crate) fn place(&self, node: usize, core: u16) -> usize {
        node * usize::from(self.swarm.cores) + usize::from(core)
    }

    pub(crate) fn runs(&self, node: usize) -> bool {
        self.places[self.place(node, 0)].shard.is_some()
    }

    pub(crate) fn schedule(&mut self, after: u64, event: Event) {
        self.agenda.schedule(self.now + after, event);
    }

    /// The core hears of an operation's end after so many nanoseconds, unless it ends before.
    pub(crate) fn schedule_completion(&mut self, after: u64, place: usize, completion: Completion) {
        let generation = self.places[place].generation;
        let completed = Event::Complete {
            place,
            generation,
            completion,
        };
        self.schedule(after, completed);
    }

    pub(crate) fn schedule_client(&mut self, number: usize, after: u64) {
        self.schedule(after, Event::Client(number));
    }

    pub(crate) fn schedule_restart(&mut self, node: usize, after: u64) {
        self.schedule(after, Event::Restart(node));
    }

    /// The place has something to do: its next turn comes after a moment.
    pub(crate) fn wake_soon(&mut self, place: usize) {
        let after = self.random.between(500, 20_000);
        self.wake(place, self.now + after);
    }

    pub(crate) fn wake(&mut self, place: usize, at: u64) {
        let this = &mut self.places[place];
        if this.shard.is_some() && this.wake_at.is_none_or(|wake_at| at < wake_at) {
            this.wake_at = Some(at);
            let generation = this.generation;
            self.schedule(at - self.now, Event::Turn { place, generation });
        }
    }

    /// Both phases.
    pub(crate) fn live(&mut self, events: u64) {
        let absent = self.plot_from_the_start();
        for node in (0..self.swarm.nodes).filter(|node| Some(*node) != absent) {
            self.start(node);
        }
        self.settle();
        if self.swarm.way > 0 {
            self.injected(Fault::LongWay);
        }
        for client in 0..self.clients.len() {
            self.schedule_client(client, 100 * MILLISECOND);
        }
        self.schedule(crate::chaos::CHAOS_INTERVAL, Event::Chaos);
        if self.swarm.light_load > 0 {
            self.schedule(100 * MILLISECOND, Event::LightLoad);
        }
        let mut events = events;
        if self.swarm.steady {
            events *= STEADY_EVENTS;
            self.schedule(300 * MILLISECOND, Event::Look);
        }
        // A window that was opened is judged, if the logs don't run full meanwhile.
        let to_the_end = self.swarm.steady && self.swarm.releases();
        while self.failure.is_none()
            && (self.events < events
                || to_the_end && self.steady.is_in_window() && self.events < 2 * events)
        {
            self.step();
        }
        if self.failure.is_none() {
            self.heal();
        }
        if self.failure.is_none() && self.swarm.steady {
            self.idle();
        }
        if self.failure.is_none() {
            self.check_histories();
        }
        for place in 0..self.places.len() {
            self.note_statistics(place);
        }
    }

    fn settle(&mut self) {
        // The groups are there before anything goes wrong.
        let until = self.now + 60 * MILLISECOND;
        while self.agenda.next_time().is_some_and(|time| time < until) {
            self.step();
        }
    }

    pub(crate) fn step(&mut self) {
        let Some((time, event)) = self.agenda.pop() else {
            self.fail("nothing is left to happen".to_owned());
            return;
        };
        self.now = time;
        self.events += 1;
        self.note_event(&event);
        match event {
            Event::Turn { place, generation } => self.turn(place, generation),
            Event::Complete {
                place,
                generation,
                completion,
            } => self.complete(place, generation, completion),
            Event::WriteDone {
                place,
                generation,
                id,
            } => self.write_done(place, generation, id),
            Event::Arrive { socket, bytes } => self.arrive(socket, &bytes),
            Event::Ended { socket } => {
                self.network.finish(socket);
                self.deliver(socket);
            }
            Event::Dialled {
                place,
                generation,
                peer,
            } => self.dialled(place, generation, peer),
            Event::Transmitted { socket } => self.transmitted(socket),
            Event::Talk { place, socket } => self.talk(place, socket),
            Event::Stranger { place, acceptor } => self.stranger_comes(place, acceptor),
            Event::Client(number) => self.client_acts(number),
            Event::Restart(node) if self.stays_down(node) => {}
            Event::Restart(node) => self.start(node),
            Event::Crash(node) if !self.may_fail() || !self.runs(node) => {}
            Event::Crash(node) => self.crash(node),
            Event::Isolate(node) => self.isolate(node),
            Event::Rejoin(node) => self.rejoin(node),
            Event::Plot => self.go_on_with_plot(),
            Event::Chaos if self.healed => {}
            Event::Space(node) => self.give_space(node),
            Event::Release(node) => self.release_due(node),
            Event::LightLoad if self.healed => {}
            Event::LightLoad => self.ask_little(),
            Event::Look if self.healed => {}
            Event::Look => self.look(),
            Event::Chaos => {
                if self.may_fail() {
                    self.chaos();
                }
                self.schedule(crate::chaos::CHAOS_INTERVAL, Event::Chaos);
            }
        }
        if let Some(violation) = lock(&self.oracle).violation.take() {
            self.failure.get_or_insert(violation);
        }
    }

    pub(crate) fn local_time(&self, node: usize) -> u64 {
        self.clocks[node].read(self.now)
    }

    fn turn(&mut self, position: usize, generation: u64) {
        let place = &mut self.places[position];
        if place.generation != generation || place.wake_at != Some(self.now) {
            return;
        }
        place.wake_at = None;
        let node = place.node;
        if self.paused_until[node] > self.now {
            let until = self.paused_until[node];
            return self.wake(position, until);
        }
        if self.pause_in_turn(position) {
            return;
        }
        let local = self.local_time(node);
        self.prepare_machines(position);
        self.count_machines();
        let place = &mut self.places[position];
        let Some(shard) = &mut place.shard else {
            return;
        };
        place.usage.turns += 1;
        let mut operations = std::mem::take(&mut self.asked_for);
        // It goes on with the clock and the completions that it had when it was stopped.
        let interrupted = place.interrupted.take();
        let clock = interrupted.as_ref().map_or(local, |(clock, _)| *clock);
        let turn = match interrupted {
            Some((_, mut completions)) => {
                shard.turn(Time(clock), &mut completions, &mut operations)
            }
            None => shard.turn(Time(clock), &mut place.completions, &mut operations),
        };
        self.trace.event(
            self.now,
            TraceKind::Turn,
            &[position as u64, operations.len() as u64],
            format_args!("place {position}: turn, {} operations", operations.len()),
        );
        self.check_place(position);
        self.note_room(position);
        self.check_machines(position, local);
        self.check_factories(position);
        self.check_successors(position, clock);
        self.check_gauges(position, operations.len());
        self.check_spinning(position, operations.is_empty(), turn);
        self.check_calls(position);
        if self.maybe_fail_driver(position) {
            return;
        }
        if self.is_impaired(node, Impairment::SlowTurns) && !operations.is_empty() {
            let lasts = self.random.between(2, 15) * MILLISECOND;
            self.paused_until[node] = self.now + lasts;
        }
        for operation in operations.drain(..) {
            self.carry_out(position, operation);
        }
        self.asked_for = operations;
        self.clients_look(position);
        self.look_at_stop(position, clock);
        if turn.more {
            self.wake(position, self.now + 1_000);
        } else if turn.deadline.0 != u64::MAX {
            let after = turn.deadline.0.saturating_sub(local).max(1_000);
            let after = self.clocks[node].true_time(after);
            self.wake(position, self.now.saturating_add(after));
        }
        if !self.places[position].completions.is_empty() {
            self.wake_soon(position);
        }
    }

    pub(crate) fn complete(&mut self, position: usize, generation: u64, completion: Completion) {
        let place = &mut self.places[position];
        if place.generation == generation && place.shard.is_some() {
            place.completions.push(completion);
            self.wake_soon(position);
        }
    }

    pub(crate) fn note_statistics(&mut self, position: usize) {
        let Some(shard) = &self.places[position].shard else {
            return;
        };
        let statistics = shard.statistics();
        let log = &statistics.log;
        self.coverage
            .add(RareEvent::SegmentFreed, log.segments_freed);
        self.coverage
            .add(RareEvent::DamageFoundWhileRunning, log.reads_lost);
        // Unless bits are flipped, correct nodes never send malformed frames. A liar may say that
        // it is in a life that its victim knows to be over.
        for reason in statistics.connections_closed.keys() {
            let lied = self.swarm.lie > 0 && *reason == FrameError::NotIntroduced.into();
            if self.swarm.bit_flip == 0 && matches!(reason, CloseReason::Frame(_)) && !lied {
                self.fail(format!(
                    "place {position} was sent a malformed frame: {reason}"
                ));
            }
        }
        let dropped = statistics.messages_dropped.values().sum();
        self.coverage.add(RareEvent::MessageDropped, dropped);
        let stuck = statistics.connections_closed.get(&CloseReason::SendTimeout);
        let stuck = stuck.copied().unwrap_or(0);
        self.coverage.add(RareEvent::StuckConnection, stuck);
    }

    pub(crate) fn checks(&mut self) -> &mut Checks {
        &mut self.checks
    }
}

pub(crate) fn raft_of(place: &SimCore, group: GroupId) -> Option<&Raft> {
    let mut replicas = place.shard.as_ref()?.replicas();
    replicas.find(|(id, _)| *id == group).map(|(_, raft)| raft)
}
