//! The second phase: everything is repaired, and the cluster must agree within a bound.

use pontoon::raft::Raft;
use pontoon::simulation::SimulatedCore;
use pontoon::{GroupId, LogIndex, NodeId};

use crate::history::is_linearizable;
use crate::machine::lock;
use crate::settings::MILLISECOND;
use crate::sim_core::SimCore;
use crate::world::{World, raft_of};

/// Simulated time that a healed majority is given to agree.
const HEALING: u64 = 60_000 * MILLISECOND;
/// Events of the healing, above which it is given up once as much time has passed as the longest
/// clog lasts, and a sender's patience with it; large clusters have many events in a second.
const HEALING_EVENTS: u64 = 400_000;
const HEALING_TIME_MIN: u64 = 15_000 * MILLISECOND;
/// Events above which it is given up in any case.
const HEALING_EVENTS_MAX: u64 = 10 * HEALING_EVENTS;

/// Between two times at which a replica is asked to lead.
const ASK_INTERVAL: u64 = 300 * MILLISECOND;

impl World {
    /// Everything is repaired, and a majority must make progress within a bound.
    pub(crate) fn heal(&mut self) {
        self.healed = true;
        self.steady.impaired = None;
        self.plot = None;
        self.repair();
        self.network.links.widen();
        self.return_among_strangers();
        self.swarm.way = 0;
        let (until, long) = (self.now + HEALING, self.now + HEALING_TIME_MIN);
        let (mut asked_at, mut made_at) = (0, 0);
        let (many, last) = (
            self.events + HEALING_EVENTS,
            self.events + HEALING_EVENTS_MAX,
        );
        let mut probes = vec![None; usize::try_from(self.swarm.groups).expect("few groups")];
        while self.failure.is_none() {
            self.restart_failed();
            self.make_missing(&mut made_at);
            if self.agreed(&mut probes) && self.votes_again(&mut asked_at) {
                return;
            }
            let late = self.now > until || self.now > long && self.events > many;
            if late || self.events > last {
                let lagging = self.describe();
                return self.fail(format!("a healed majority makes no progress: {lagging}"));
            }
            for _ in 0..50 {
                if self.failure.is_none() {
                    self.step();
                }
            }
        }
    }

    /// Groups that a start could not make, for want of a machine or of room, are asked for again.
    fn make_missing(&mut self, made_at: &mut u64) {
        if self.now < *made_at + ASK_INTERVAL {
            return;
        }
        *made_at = self.now;
        for node in 0..self.swarm.nodes {
            let places = (0..self.swarm.cores).map(|core| &self.places[self.place(node, core)]);
            let cores = places.filter_map(|place| place.shard.as_ref());
            let groups = cores
                .map(|shard| shard.replicas().count() as u64)
                .sum::<u64>();
            if groups < self.swarm.groups {
                self.make_groups(node);
                for core in 0..self.swarm.cores {
                    self.wake_soon(self.place(node, core));
                }
            }
        }
    }

    /// Whether every group has a leader that committed something in this phase, and every sound
    /// replica has applied all of it.
    fn agreed(&self, probes: &mut [Option<u64>]) -> bool {
        let mut all = true;
        for (position, probe) in probes.iter_mut().enumerate() {
            let group = GroupId(position as u64 + 1);
            let core = pontoon::simulation::core_of(group, self.swarm.cores);
            let places: Vec<usize> = (0..self.swarm.nodes).map(|n| self.place(n, core)).collect();
            let found = places.iter().filter_map(|&place| {
                let raft = raft_of(&self.places[place], group)?;
                Some((place, raft))
            });
            let (places, rafts): (Vec<usize>, Vec<&Raft>) = found.unzip();
            let Some(leader) = rafts.iter().find(|raft| raft.is_leader()) else {
                // A group with one member that was not made yet is not made on a damaged log.
                all &= rafts.is_empty() && self.swarm.nodes == 1;
                continue;
            };
            let compacted = leader.compacted().index;
            let counts = |raft: &&Raft| !raft.is_tainted() && raft.last_index() >= compacted;
            if rafts.iter().copied().filter(counts).count() <= self.swarm.nodes / 2 {
                // The others were left behind, or are repaired: until there are snapshots, it waits
                // for what no disk of a majority holds.
                continue;
            }
            // The empty entry of its term is committed, so that everything before it is.
            let committed = leader.commit_index();
            let in_term = leader.term_at(committed) == Some(leader.current_term());
            // Where nothing is ever released, what a leader took last may find no room elsewhere.
            let leaders_own = !self.swarm.releases() && self.majority_is_full(&places);
            if !in_term || committed != leader.last_index() && !leaders_own {
                all = false;
                continue;
            }
            let target = *probe.get_or_insert(committed.0);
            let mut replicas = places.iter().zip(&rafts);
            all =
                all && replicas.all(|(place, raft)| self.is_level(*place, raft, compacted, target));
        }
        all
    }

    /// Whether so many of these logs are full that nothing more can be committed.
    fn majority_is_full(&self, places: &[usize]) -> bool {
        let full = places.iter().filter(|place| self.has_full_log(**place));
        full.count() > self.swarm.nodes / 2
    }

    /// Whether a replica has applied everything up to the target, or can't. Its leader has
    /// compacted so far.
    fn is_level(&self, place: usize, raft: &Raft, compacted: LogIndex, target: u64) -> bool {
        if raft.last_index() < compacted && !raft.is_tainted() {
            // It was left behind: until there are snapshots, it stays out.
            return true;
        }
        // A log that nothing is released from may be full a few entries earlier than its leader's,
        // and one that takes again what it lost is full sooner.
        if self.has_full_log(place) {
            return true;
        }
        let status = raft.status();
        if !status.tainted {
            return status.last_applied.0 >= target;
        }
        // A machine with its own state may need entries that all others have compacted: until there
        // are snapshots, its replica then stays out.
        let repairable = !self.swarm.durable_machines && !status.membership.voters.is_empty();
        !repairable || raft.compacted().index < compacted
    }

    /// Whether entries find room for at most one more segment on a core.
    pub(crate) fn has_full_log(&self, place: usize) -> bool {
        let shard = self.places[place].shard.as_ref();
        shard.is_some_and(SimulatedCore::is_nearly_full)
    }

    /// Whether every replica that had lost a vote with damage, and counts again, has voted since.
    /// It is asked to lead until it does: its first vote is its own.
    fn votes_again(&mut self, asked_at: &mut u64) -> bool {
        let mut all = true;
        let asks = self.now >= *asked_at + ASK_INTERVAL;
        for position in 0..self.places.len() {
            let id = NodeId(self.places[position].node as u64 + 1);
            for group in self.places[position].votes_lost.clone() {
                let raft = raft_of(&self.places[position], group);
                if raft.is_none_or(Raft::is_tainted) {
                    continue;
                }
                all = false;
                let leads = |place: &SimCore| raft_of(place, group).is_some_and(Raft::is_leader);
                if let Some(leader) = self.places.iter().position(leads).filter(|_| asks) {
                    *asked_at = self.now;
                    let shard = self.places[leader].shard.as_ref().expect("it leads");
                    let answer = shard.group(group).transfer_leadership(id);
                    self.hostile.elections += 1;
                    self.asked(leader, ("transfer", true), answer);
                }
            }
        }
        all
    }

    pub(crate) fn describe(&self) -> String {
        let mut lines = Vec::new();
        for place in &self.places {
            let Some(shard) = &place.shard else {
                lines.push(format!("node {} is down", place.node));
                continue;
            };
            for (group, raft) in shard.replicas() {
                let s = raft.status();
                let peers = s.peers.iter().map(|peer| {
                    let flow = if peer.pipelined { "pipeline" } else { "probe" };
                    format!(
                        " ({}: {flow} {}..{})",
                        peer.id, peer.match_index, peer.next_index
                    )
                });
                lines.push(format!(
                    "node {} group {group}: {:?} term {} commit {} applied {} last {} tainted {}{}",
                    place.node,
                    s.role,
                    s.current_term,
                    s.commit_index,
                    s.last_applied,
                    s.last_index,
                    s.tainted,
                    peers.collect::<String>(),
                ));
            }
        }
        lines.join("; ")
    }

    pub(crate) fn check_histories(&mut self) {
        let acknowledged = std::mem::take(&mut self.acknowledged);
        for (group, index, operation) in &acknowledged {
            if !lock(&self.oracle).holds(*group, *index, *operation) {
                self.fail(format!("operation {operation} of group {group} is lost"));
            }
        }
        self.acknowledged = acknowledged;
        for ((group, key), calls) in &self.histories {
            if !is_linearizable(calls) {
                let message = format!("group {group} key {key} is not linearizable: {calls:?}");
                self.failure.get_or_insert(message);
            }
        }
    }
}
