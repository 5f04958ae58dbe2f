//! Nodes that are told to stop, at any moment and with everything under way; drivers that fail.

use pontoon::GroupId;
use pontoon::raft::{PeerStatus, Raft};

use crate::coverage::RareEvent;
use crate::faults::Fault;
use crate::impairment::Impairment;
use crate::settings::{ELECTION_TIMEOUT, MILLISECOND};
use crate::trace::TraceKind;
use crate::world::{World, raft_of};

/// A stop takes an election timeout at most, and a turn.
const STOP_MAX: u64 = 2 * ELECTION_TIMEOUT;

/// The end of a core that was told to stop.
#[derive(Clone, Debug)]
pub(crate) struct Stopping {
    /// When its first turn after that was, by its own clock.
    began: Option<u64>,
    /// What it led then.
    led: Vec<GroupId>,
}

impl World {
    /// A node is told to stop.
    pub(crate) fn begin_stop(&mut self, node: usize) {
        self.injected(Fault::Stop);
        self.trace.event(
            self.now,
            TraceKind::Stop,
            &[node as u64],
            format_args!("node {node} is told to stop"),
        );
        for core in 0..self.swarm.cores {
            let position = self.place(node, core);
            let place = &mut self.places[position];
            let Some(shard) = place.shard.as_ref().filter(|_| place.stopping.is_none()) else {
                continue;
            };
            shard.stop();
            let leads = shard.replicas().filter(|(_, raft)| raft.is_leader());
            let led = leads.map(|(group, _)| group).collect();
            place.stopping = Some(Stopping { began: None, led });
            self.wake_soon(position);
        }
    }

    /// After a turn of a place, which was at this time by its clock.
    pub(crate) fn look_at_stop(&mut self, position: usize, clock: u64) {
        let place = &mut self.places[position];
        let (Some(shard), Some(stopping)) = (&place.shard, &mut place.stopping) else {
            return;
        };
        let began = *stopping.began.get_or_insert(clock);
        if shard.stopped() {
            self.check_answered_at_end(position, "it has stopped");
            self.check_handed_over(position, clock);
            self.end_core(position);
        } else if clock > began + STOP_MAX {
            self.fail(format!(
                "place {position} has not stopped {} ms after it was told to",
                (clock - began) / MILLISECOND
            ));
        }
    }

    /// Where nothing is in the way, and somebody answers who could lead, a core leads nothing when
    /// it ends.
    fn check_handed_over(&mut self, position: usize, clock: u64) {
        let place = &self.places[position];
        let in_the_way = !self.stays_down(place.node)
            || !self.is_impaired(place.node, Impairment::Stops)
            || self.swarm.slowest_link > 0
            || place
                .shard
                .as_ref()
                .is_none_or(|shard| shard.failure().is_some());
        let Some(stopping) = place.stopping.as_ref().filter(|_| !in_the_way) else {
            return;
        };
        let answers = |peer: &PeerStatus| clock < peer.responded_at.0 + ELECTION_TIMEOUT / 2;
        let leads = |group: &&GroupId| {
            let raft = raft_of(place, **group).filter(|raft| raft.is_leader());
            raft.is_some_and(|raft| raft.status().peers.iter().any(answers))
        };
        // Who has not heard yet of a leader of a later term has nothing to hand over.
        let outdated = |group: &&GroupId| {
            let own = raft_of(place, **group).map(Raft::current_term);
            let others = self
                .places
                .iter()
                .filter_map(|other| raft_of(other, **group));
            let mut leaders = others.filter(|raft| raft.is_leader());
            leaders.any(|raft| Some(raft.current_term()) > own)
        };
        let led = stopping.led.iter().filter(leads);
        let kept = led.copied().find(|group| !outdated(&group));
        if let Some(group) = kept.filter(|group| self.has_sound_majority(*group)) {
            let state = self.describe();
            self.fail(format!(
                "place {position} stopped and did not hand over group {group}: {state}"
            ));
        }
    }

    /// The core's thread is over: what was under way on its disk was waited for.
    fn end_core(&mut self, position: usize) {
        self.coverage.mark(RareEvent::CoreStopped);
        self.note_statistics(position);
        self.places[position].disk.finish_all();
        self.end_place(position);
        let node = self.places[position].node;
        let ended = |core| self.places[self.place(node, core)].shard.is_none();
        if (0..self.swarm.cores).all(ended) {
            let after = self.random.between(5, 800) * MILLISECOND;
            self.schedule_restart(node, after);
        }
    }

    /// A node that is stopping is ended at once, as by a supervisor that has no patience.
    pub(crate) fn end_stopping(&mut self) {
        for node in 0..self.swarm.nodes {
            let stops = |core| self.places[self.place(node, core)].stopping.is_some();
            if (0..self.swarm.cores).any(stops) {
                self.crash(node);
            }
        }
    }

    /// In what life of its node, and after how many turns, the driver of a core fails; 0: when it
    /// is made.
    pub(crate) fn draw_driver_failure(&mut self) -> Option<u64> {
        if !self.may_fail() || !self.random.happens(self.swarm.driver_failure) {
            return None;
        }
        let later = self.random.between(2, 300);
        Some([0, 1, later][self.random.below(3)])
    }

    /// After a turn of a place: its driver fails now, if it is to.
    pub(crate) fn maybe_fail_driver(&mut self, position: usize) -> bool {
        let place = &mut self.places[position];
        let turns = place
            .driver_fails_after
            .map(|turns| turns.saturating_sub(1));
        place.driver_fails_after = turns;
        let Some(shard) = place.shard.as_mut().filter(|_| turns == Some(0)) else {
            return false;
        };
        shard.fail_driver();
        self.injected(Fault::DriverFailed);
        self.check_answered_at_end(position, "its driver failed");
        let node = self.places[position].node;
        self.crash(node);
        true
    }
}
