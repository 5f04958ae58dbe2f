//! What goes wrong in the world: crashes, pauses, partitions, cuts, full and failing disks.

use pontoon::GroupId;
use pontoon::port::SocketId;
use pontoon::simulation::SimulatedCore;

use crate::clock;
use crate::coverage::RareEvent;
use crate::faults::Fault;
use crate::impairment::Impairment;
use crate::settings::MILLISECOND;
use crate::steady::PREPARED_AGAIN;
use crate::trace::TraceKind;
use crate::world::{Event, World};

/// Between two moments at which something may go wrong.
pub(crate) const CHAOS_INTERVAL: u64 = 40 * MILLISECOND;

impl World {
    /// Draws what goes wrong now.
    pub(crate) fn chaos(&mut self) {
        if self.random.happens(self.swarm.crash) {
            let node = self.random.below(self.swarm.nodes);
            if self.runs(node) {
                self.crash(node);
            }
        }
        if self.random.happens(self.swarm.pause) {
            let node = self.random.below(self.swarm.nodes);
            let pause = self.random.between(10, 1500) * MILLISECOND;
            self.paused_until[node] = self.now + pause;
            self.injected(Fault::Pause);
            self.trace.event(
                self.now,
                TraceKind::Pause,
                &[node as u64],
                format_args!("node {node} pauses"),
            );
        }
        if self.random.happens(self.swarm.stop) {
            let node = self.random.below(self.swarm.nodes);
            if self.runs(node) {
                self.begin_stop(node);
            }
        }
        if self.random.happens(self.swarm.calls) {
            self.ask();
        }
        self.partition();
        if self.swarm.disk_full && self.random.happens(50_000) {
            let place = self.random.below(self.places.len());
            let full = self.random.happens(500_000);
            self.places[place].disk.set_full(full);
            if full {
                self.injected(Fault::DiskFull);
            }
        }
        self.hold_up_disks();
        self.hand_over_beside_renounced();
        self.disturb_links();
        self.plot();
        self.drift_clocks();
        self.rot_while_running();
        self.spoil_while_running();
        if self.random.happens(self.swarm.transfer) {
            self.transfer();
        }
        if !self.swarm.steady {
            self.nag();
            if self.random.happens(self.swarm.lie) {
                self.lie();
            }
        }
        for socket in self.network.all() {
            self.disturb(socket);
        }
    }

    fn disturb(&mut self, socket: SocketId) {
        let Some(other) = self.network.end(socket).map(|end| end.other) else {
            return;
        };
        if self.random.happens(self.swarm.cut) {
            self.injected(Fault::Cut);
            return self.cut(socket);
        }
        let now = self.now;
        let under_way = self.network.end(other);
        let under_way = under_way.is_some_and(|end| end.last_arrival > now);
        if under_way && self.random.happens(self.swarm.duplication) {
            // The sender hears that the connection has ended. What is on its way still arrives,
            // and is sent once more when there is a connection again.
            self.injected(Fault::Duplication);
            self.network.finish(socket);
            return self.deliver(socket);
        }
        if self.random.happens(self.swarm.clog) {
            self.injected(Fault::Clog);
            // Now and then longer than a sender puts up with.
            let long = self.random.happens(200_000);
            let clog = if long {
                12_000
            } else {
                self.random.between(10, 3_000)
            };
            if let Some(end) = self.network.end_mut(socket) {
                end.clogged_until = now + clog * MILLISECOND;
            }
        }
    }

    /// A link carries nothing for a while, or a few bytes now and then; or a node takes nothing of
    /// what is sent to it, while it sends as ever.
    fn disturb_links(&mut self) {
        if self.swarm.slowest_link == 0 {
            return;
        }
        let long = self.random.happens(100_000);
        let lasts = if long {
            12_000
        } else {
            self.random.between(50, 3_000)
        };
        let until = self.now + lasts * MILLISECOND;
        let [from, to] = [(); 2].map(|()| self.random.below(self.swarm.nodes));
        if self.random.happens(self.swarm.hang)
            && let Some(link) = self.network.links.between(from, to)
        {
            link.hang(until);
            self.injected(Fault::Hang);
        }
        if self.random.happens(self.swarm.drip) {
            let rate = self.random.between(100, 2_000);
            if let Some(link) = self.network.links.between(from, to) {
                link.drip(until, rate);
                self.injected(Fault::Drip);
            }
        }
        if self.random.happens(self.swarm.deaf) {
            self.injected(Fault::Deaf);
            self.hang_node(to, until, false);
        }
    }

    /// Nothing passes the links to a node, and with `both` those from it.
    pub(crate) fn hang_node(&mut self, node: usize, until: u64, both: bool) {
        for other in 0..self.swarm.nodes {
            if let Some(link) = self.network.links.between(other, node) {
                link.hang(until);
            }
            if let Some(link) = self.network.links.between(node, other).filter(|_| both) {
                link.hang(until);
            }
        }
    }

    /// A few bytes a second pass the links to a node.
    pub(crate) fn drip_node(&mut self, node: usize, until: u64) {
        for other in 0..self.swarm.nodes {
            let rate = self.random.between(100, 2_000);
            if let Some(link) = self.network.links.between(other, node) {
                link.drip(until, rate);
            }
        }
    }

    /// No further segment finds space on a node's disks, for a while.
    pub(crate) fn fill_for_a_while(&mut self, node: usize, rate: u64) -> bool {
        if !self.may_fail() || !self.random.happens(rate) {
            return false;
        }
        for core in 0..self.swarm.cores {
            let place = self.place(node, core);
            self.places[place].disk.set_full(true);
        }
        let after = self.random.between(50, 1_500) * MILLISECOND;
        self.schedule(after, Event::Space(node));
        true
    }

    /// There is space on a node's disks again.
    pub(crate) fn give_space(&mut self, node: usize) {
        if !self.is_impaired(node, Impairment::Full) {
            for core in 0..self.swarm.cores {
                self.give_space_to(self.place(node, core));
            }
        }
    }

    /// There is space on a disk again. Its core tries that a while later.
    pub(crate) fn give_space_to(&mut self, position: usize) {
        let disk = &mut self.places[position].disk;
        if disk.is_full() {
            disk.set_full(false);
            self.steady.lasts_until(self.now + PREPARED_AGAIN);
        }
    }

    /// Clocks take other rates, sound and unsound ones. Nothing that must never happen may depend
    /// on that: there are no leases, so that a wrong clock costs elections, and no more.
    fn drift_clocks(&mut self) {
        let node = self.random.below(self.swarm.nodes);
        let (fault, rate) = if self.random.happens(self.swarm.clock_beyond_bound) {
            (
                Fault::ClockBeyondBound,
                clock::beyond_bound(&mut self.random),
            )
        } else if self.random.happens(self.swarm.clock_drift) {
            (Fault::ClockDrift, clock::within_bound(&mut self.random))
        } else {
            return;
        };
        self.injected(fault);
        self.clocks[node].set_rate(self.now, rate);
        self.trace.event(
            self.now,
            TraceKind::ClockRate,
            &[node as u64],
            format_args!("node {node}: its clock is {rate} parts per million fast"),
        );
    }

    /// The node stops within a turn: it has read the clock and taken what had completed, and goes
    /// on with both much later. True if it does.
    pub(crate) fn pause_in_turn(&mut self, position: usize) -> bool {
        let fresh = self.places[position].interrupted.is_none();
        if !self.may_fail() || !fresh || !self.random.happens(self.swarm.pause_in_turn) {
            return false;
        }
        self.injected(Fault::PauseInTurn);
        let until = self.now + self.random.between(10, 1500) * MILLISECOND;
        let place = &mut self.places[position];
        let node = place.node;
        let clock = self.clocks[node].read(self.now);
        place.interrupted = Some((clock, std::mem::take(&mut place.completions)));
        self.paused_until[node] = until;
        self.wake(position, until);
        true
    }

    fn rot_while_running(&mut self) {
        let place = self.random.below(self.places.len());
        let node = self.places[place].node;
        let rots = self.may_lose(node) && self.random.happens(self.swarm.bit_rot / 100);
        if rots && self.places[place].disk.rot(&mut self.random) {
            self.injected(Fault::BitRot);
        }
    }

    /// A sector goes bad for good: of something durable, or of a segment that is written next.
    fn spoil_while_running(&mut self) {
        let rate = self.swarm.bad_sector;
        if rate == 0 || !self.later.happens(rate / 50) {
            return;
        }
        let place = self.later.below(self.places.len());
        let loses = self.may_lose(self.places[place].node) && self.later.happens(500_000);
        let shard = self.places[place].shard.as_ref();
        let free = shard.and_then(SimulatedCore::free_slot);
        let disk = &mut self.places[place].disk;
        if loses && disk.spoil(&mut self.later) {
            self.injected(Fault::BadSector);
        } else if let Some(slot) = free.filter(|_| !self.swarm.steady) {
            disk.spoil_free(&mut self.later, slot);
            self.injected(Fault::BadFreeSector);
        }
    }

    /// A sector of something durable went bad while a node was down.
    fn spoil_at_rest(&mut self, node: usize) {
        let may = self.may_fail() && self.may_lose(node);
        let rate = self.swarm.bad_sector;
        if !may || rate == 0 || !self.later.happens(rate) {
            return;
        }
        let core = self.later.below(usize::from(self.swarm.cores));
        let position = self.place(node, u16::try_from(core).expect("few cores"));
        if self.places[position].disk.spoil(&mut self.later) {
            self.injected(Fault::BadSector);
        }
    }

    fn partition(&mut self) {
        if self.network.blocked.is_empty() {
            if self.swarm.nodes > 1 && self.random.happens(self.swarm.partition) {
                self.injected(match self.swarm.one_way {
                    true => Fault::OneWayPartition,
                    false => Fault::Partition,
                });
                for from in 0..self.swarm.nodes {
                    for to in 0..self.swarm.nodes {
                        let blocked = from != to && self.random.happens(300_000);
                        if blocked {
                            self.network.blocked.push((from, to));
                            if !self.swarm.one_way {
                                self.network.blocked.push((to, from));
                            }
                        }
                    }
                }
                self.trace.event(
                    self.now,
                    TraceKind::Partition,
                    &[self.network.blocked.len() as u64],
                    format_args!("blocked: {:?}", self.network.blocked),
                );
            }
        } else if self.random.happens(60_000) {
            self.network.blocked.clear();
            self.trace.event(
                self.now,
                TraceKind::PartitionEnd,
                &[],
                format_args!("nothing is blocked any more"),
            );
        }
    }

    /// A new leader is cut off soon after its election, with entries that nobody else has, and
    /// comes back when others may have gone on without it.
    pub(crate) fn isolate_new_leader(&mut self, node: usize) {
        if self.may_fail()
            && self.swarm.nodes > 1
            && self.random.happens(self.swarm.isolate_new_leader)
        {
            let after = self.random.between(0, 80) * MILLISECOND;
            self.schedule(after, Event::Isolate(node));
        }
    }

    pub(crate) fn isolate(&mut self, node: usize) {
        if !self.may_fail() {
            return;
        }
        self.injected(Fault::LeaderIsolated);
        for other in (0..self.swarm.nodes).filter(|other| *other != node) {
            self.network.blocked.push((node, other));
            if !self.swarm.one_way {
                self.network.blocked.push((other, node));
            }
        }
        self.trace.event(
            self.now,
            TraceKind::Isolate,
            &[node as u64],
            format_args!("node {node} is isolated"),
        );
        let after = self.random.between(50, 500) * MILLISECOND;
        self.schedule(after, Event::Rejoin(node));
        if self.random.happens(self.swarm.crash) && self.runs(node) {
            self.crash(node);
        }
    }

    pub(crate) fn rejoin(&mut self, node: usize) {
        let of_node = |pair: &(usize, usize)| pair.0 == node || pair.1 == node;
        self.network.blocked.retain(|pair| !of_node(pair));
        self.trace.event(
            self.now,
            TraceKind::Rejoin,
            &[node as u64],
            format_args!("node {node} is back"),
        );
    }

    fn transfer(&mut self) {
        let group = GroupId(1 + self.random.number() % self.swarm.groups);
        let to = pontoon::NodeId(1 + self.random.number() % self.swarm.nodes as u64);
        let core = pontoon::simulation::core_of(group, self.swarm.cores);
        let node = self.random.below(self.swarm.nodes);
        let place = self.place(node, core);
        if let Some(shard) = &self.places[place].shard {
            let answer = shard.group(group).transfer_leadership(to);
            self.coverage.mark(RareEvent::LeadershipTransferred);
            self.hostile.elections += 1;
            self.asked(place, ("transfer", true), answer);
        }
    }

    /// Both ends of a connection see it end; what is on its way is lost.
    pub(crate) fn cut(&mut self, socket: SocketId) {
        let other = self.network.end(socket).map(|end| end.other);
        for socket in [Some(socket), other].into_iter().flatten() {
            self.network.finish(socket);
            self.deliver(socket);
        }
    }

    /// The node's process ends, mostly with the power.
    pub(crate) fn crash(&mut self, node: usize) {
        self.injected(Fault::Crash);
        self.trace.event(
            self.now,
            TraceKind::Crash,
            &[node as u64],
            format_args!("node {node} crashes"),
        );
        for core in 0..self.swarm.cores {
            let position = self.place(node, core);
            let torn = self.swarm.torn_writes;
            self.note_statistics(position);
            let place = &mut self.places[position];
            if place.disk.power_loss(&mut self.random, torn) {
                self.injected(Fault::TornWrite);
            }
        }
        self.end(node);
        let may_rot = self.may_fail() && self.may_lose(node);
        if may_rot && self.random.happens(self.swarm.bit_rot) {
            let core = self.random.below(usize::from(self.swarm.cores));
            let position = self.place(node, u16::try_from(core).expect("few cores"));
            if self.places[position].disk.rot(&mut self.random) {
                self.injected(Fault::BitRot);
            }
        }
        self.spoil_at_rest(node);
        let after = self.random.between(5, 800) * MILLISECOND;
        self.schedule_restart(node, after);
    }

    /// The fault atlas: disks of a fixed minority may lose durable data, so that a majority keeps
    /// a clean copy of everything.
    pub(crate) fn may_lose(&self, node: usize) -> bool {
        node < (self.swarm.nodes - 1) / 2
    }
}
