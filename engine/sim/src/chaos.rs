//! What goes wrong in the world: crashes, pauses, partitions, cuts, full and failing disks.

use pontoon::GroupId;
use pontoon::port::SocketId;

use crate::swarm::MILLISECOND;
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
            self.coverage.mark("node paused");
            self.trace.event(
                self.now,
                &[6, node as u64],
                format_args!("node {node} pauses"),
            );
        }
        self.partition();
        if self.swarm.disk_full && self.random.happens(50_000) {
            let place = self.random.below(self.places.len());
            let full = self.random.happens(500_000);
            self.places[place].disk.set_full(full);
            if full {
                self.coverage.mark("disk was full");
            }
        }
        if self.random.happens(self.swarm.transfer) {
            self.transfer();
        }
        for socket in self.network.all() {
            if self.random.happens(self.swarm.cut) {
                self.coverage.mark("connection cut");
                self.cut(socket);
            }
        }
    }

    fn partition(&mut self) {
        if self.network.blocked.is_empty() {
            if self.swarm.nodes > 1 && self.random.happens(self.swarm.partition) {
                self.coverage.mark("network partitioned");
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
                    &[7, self.network.blocked.len() as u64],
                    format_args!("blocked: {:?}", self.network.blocked),
                );
            }
        } else if self.random.happens(60_000) {
            self.network.blocked.clear();
            self.trace
                .event(self.now, &[8], format_args!("nothing is blocked any more"));
        }
    }

    /// A new leader is cut off soon after its election, with entries that nobody else has, and
    /// comes back when others may have gone on without it.
    pub(crate) fn depose(&mut self, node: usize) {
        if !self.healed && self.swarm.nodes > 1 && self.random.happens(self.swarm.depose) {
            let after = self.random.between(0, 80) * MILLISECOND;
            self.schedule(after, Event::Isolate(node));
        }
    }

    pub(crate) fn isolate(&mut self, node: usize) {
        if self.healed {
            return;
        }
        self.coverage.mark("leader isolated");
        for other in (0..self.swarm.nodes).filter(|other| *other != node) {
            self.network.blocked.push((node, other));
            if !self.swarm.one_way {
                self.network.blocked.push((other, node));
            }
        }
        self.trace.event(
            self.now,
            &[10, node as u64],
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
            &[11, node as u64],
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
            drop(shard.group(group).transfer_leadership(to));
            self.coverage.mark("leadership transferred");
            self.wake_soon(place);
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
        self.coverage.mark("node crashed");
        self.trace.event(
            self.now,
            &[9, node as u64],
            format_args!("node {node} crashes"),
        );
        for core in 0..self.swarm.cores {
            let position = self.place(node, core);
            let torn = self.swarm.torn_writes;
            self.note_statistics(position);
            let place = &mut self.places[position];
            if place.disk.power_loss(&mut self.random, torn) {
                self.coverage.mark("power loss tore a frame");
            }
        }
        self.end(node);
        if self.may_rot(node) && self.random.happens(self.swarm.bit_rot) {
            let core = self.random.below(usize::from(self.swarm.cores));
            let position = self.place(node, u16::try_from(core).expect("few cores"));
            if self.places[position].disk.rot(&mut self.random) {
                self.coverage.mark("durable sector rotted");
            }
        }
        let after = self.random.between(5, 800) * MILLISECOND;
        self.schedule_restart(node, after);
    }

    /// The fault atlas: disks of a fixed minority may lose durable data, so that a majority keeps
    /// a clean copy of everything.
    fn may_rot(&self, node: usize) -> bool {
        node < (self.swarm.nodes - 1) / 2
    }
}
