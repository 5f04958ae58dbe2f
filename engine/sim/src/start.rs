//! How a node starts on what its disks hold, and what it may find there; and how it ends.

use pontoon::raft::Time;
use pontoon::simulation::Mutant;
use pontoon::storage::{OpenError, Recovery, SegmentLog};
use pontoon::{GroupId, NodeId};

use crate::coverage::RareEvent;
use crate::faults::Fault;
use crate::flaky::Mishap;
use crate::settings::{MILLISECOND, SEGMENT_BYTES};
use crate::sim_core::StartError;
use crate::strangers::Strangers;
use crate::trace::TraceKind;
use crate::world::World;

/// A log that is opened makes at least a few reads, and mostly not many more.
const READS: usize = 24;

impl World {
    /// Starts a node on what its disks hold.
    pub(crate) fn start(&mut self, node: usize) {
        if self.runs(node) {
            return;
        }
        let left = |core| self.places[self.place(node, core)].shard.is_some();
        if (0..self.swarm.cores).any(left) {
            // Some of its cores are still stopping.
            return self.crash(node);
        }
        let now = Time(self.local_time(node));
        self.trace.event(
            self.now,
            TraceKind::Start,
            &[node as u64],
            format_args!("node {node} starts"),
        );
        let again = self.now > 10 * MILLISECOND;
        if again && self.fill_for_a_while(node, self.swarm.full_at_start) {
            self.injected(Fault::DiskFullAtStart);
        }
        self.maybe_forget(node);
        for core in 0..self.swarm.cores {
            let position = self.place(node, core);
            if self.refuses_foreign_disk(position) {
                // Its own disk is found, and put in again.
                self.end(node);
                let after = self.random.between(5, 800) * MILLISECOND;
                return self.schedule_restart(node, after);
            }
            if let Err(error) = self.start_place(position, now) {
                return self.start_again(node, position, &error);
            }
            self.wake_soon(position);
        }
        self.hostile.elections += 1;
        self.take_time_for_machines(node);
        self.make_groups(node);
    }

    /// Makes the groups, as an application does at every start: mostly they are there already.
    pub(crate) fn make_groups(&mut self, node: usize) {
        let members: Vec<NodeId> = (1..=self.swarm.nodes as u64).map(NodeId).collect();
        for group in 1..=self.swarm.groups {
            let group = GroupId(group);
            let core = pontoon::simulation::core_of(group, self.swarm.cores);
            let place = self.place(node, core);
            if let Some(shard) = &self.places[place].shard {
                drop(shard.create_group(group, "registers", &members));
            }
        }
        self.make_lone_group(node);
    }

    /// A node that does not start for a reason that passes is started again.
    fn start_again(&mut self, node: usize, position: usize, error: &StartError) {
        match error {
            StartError::Log {
                error: OpenError::Io { .. },
                failed: true,
            } => {
                // Where the header of the new epoch was being written, the power is gone as well.
                let torn = self.swarm.torn_writes;
                let disk = &mut self.places[position].disk;
                disk.power_loss(&mut self.random, torn);
            }
            // Its reserve went into an earlier start: it comes back when there is space.
            StartError::Log {
                error: OpenError::Io { .. },
                ..
            } if self.places[position].disk.is_full() => {
                self.coverage.mark(RareEvent::StartRefusedByFullDisk);
            }
            // Nothing of the walk's outcome has left yet.
            StartError::Driver => self.injected(Fault::DriverFailed),
            _ => return self.fail(format!("node {node} does not start: {error}")),
        }
        self.end(node);
        self.schedule_restart(node, 200 * MILLISECOND);
    }

    fn start_place(&mut self, position: usize, now: Time) -> Result<(), StartError> {
        let mishap = self.draw_mishap(position);
        let place = &mut self.places[position];
        place.generation += 1;
        let started = place.start(&self.swarm, &self.oracle, self.mutant, now, mishap);
        let went_wrong = match &started {
            Ok((_, failed)) | Err(StartError::Log { failed, .. }) => *failed,
            Err(StartError::Shard(_) | StartError::Driver) => false,
        };
        if let Some(mishap) = mishap.filter(|_| went_wrong) {
            self.injected(match mishap {
                Mishap::Sync => Fault::CrashInRecovery,
                Mishap::Read(_) => Fault::ReadErrorInRecovery,
                Mishap::WrongSecondRead(_) => Fault::WrongReadInRecovery,
            });
        }
        let (recovery, _) = started?;
        if self.places[position].disk.land_late_write() {
            self.injected(Fault::LateWrite);
        }
        if recovery.report.frames_dropped > 0 {
            self.coverage.mark(RareEvent::FramesDropped);
        }
        if !recovery.report.damage.is_empty() {
            self.coverage.mark(RareEvent::DamageFoundAtStart);
        }
        self.check_forgetting(position, &recovery);
        self.note_votes(position, &recovery);
        let tainted = recovery.groups.iter().filter(|group| group.tainted);
        let tainted: Vec<GroupId> = tainted.map(|group| group.group).collect();
        self.coverage
            .add(RareEvent::TaintedReplica, tainted.len() as u64);
        let reported = tainted
            .iter()
            .map(|group| (*group, self.committed_index(*group)));
        let reported = reported.collect();
        let fails_after = self.draw_driver_failure();
        let place = &mut self.places[position];
        (place.reported, place.driver_fails_after) = (reported, fails_after);
        match fails_after {
            Some(0) => Err(StartError::Driver),
            _ => Ok(()),
        }
    }

    fn draw_mishap(&mut self, position: usize) -> Option<Mishap> {
        if !self.may_fail() {
            return None;
        }
        if self.random.happens(self.swarm.read_error_in_recovery) {
            return Some(Mishap::Read(self.random.below(READS)));
        }
        // What recovery does not find again is lost, for as long as the node runs: the atlas.
        let may_lose = self.may_lose(self.places[position].node);
        if may_lose && self.random.happens(self.swarm.wrong_read_in_recovery) {
            let bytes = usize::try_from(SEGMENT_BYTES).expect("a small segment");
            return Some(Mishap::WrongSecondRead(self.random.below(bytes / 4)));
        }
        let crash = self.swarm.crash_in_recovery;
        self.random.happens(crash).then_some(Mishap::Sync)
    }

    /// A log that lost nothing is not taken for one that did.
    fn check_forgetting(&mut self, position: usize, recovery: &Recovery) {
        let Some(forgetting) = recovery.report.forgetting else {
            return;
        };
        self.coverage.mark(RareEvent::ForgettingFoundAlone);
        if !self.places[position].disk.decayed {
            self.fail(format!(
                "place {position} has lost nothing, and finds: {forgetting}"
            ));
        }
    }

    /// Votes that were durable and that recovery has not found again.
    fn note_votes(&mut self, position: usize, recovery: &Recovery) {
        let place = &mut self.places[position];
        for (group, term) in std::mem::take(&mut place.votes) {
            let found = recovery.groups.iter().find(|found| found.group == group);
            let lost = found.is_none_or(|found| {
                found.current_term < term
                    || (found.current_term == term && found.voted_for.is_none())
            });
            if lost && !place.votes_lost.contains(&group) {
                place.votes_lost.push(group);
            }
        }
    }

    /// The disk of another node, or of another core, is in the place of this one's: it must be
    /// refused by name and left as it is. True if that was tried.
    fn refuses_foreign_disk(&mut self, position: usize) -> bool {
        if !self.may_fail() || !self.random.happens(self.swarm.foreign_disk) {
            return false;
        }
        let other = self.random.below(self.places.len());
        let theirs = &self.places[other];
        // A disk that was never written to is nobody's, and of one that lost its headers nothing
        // says whose it was.
        if other == position || !theirs.disk.used || theirs.disk.decayed {
            return false;
        }
        let mut volume = theirs.disk.after_power_loss();
        let as_it_was = volume.clone();
        let mut config = self.places[position].log_config(self.swarm.cores);
        if let Some(Mutant::Storage(mutant)) = self.mutant {
            config.mutant = Some(mutant);
        }
        match SegmentLog::open(&mut volume, config) {
            Err(OpenError::Foreign { .. }) if volume == as_it_was => {}
            opened => {
                let opened = opened.map(|(_, recovery)| recovery.report);
                self.fail(format!(
                    "place {position} was given the disk of place {other}: {opened:?}"
                ));
            }
        }
        self.injected(Fault::ForeignDisk);
        true
    }

    /// The node's process is gone; its disks stay.
    pub(crate) fn end(&mut self, node: usize) {
        for core in 0..self.swarm.cores {
            self.end_place(self.place(node, core));
        }
    }

    /// A core of a node is gone, with its connections.
    pub(crate) fn end_place(&mut self, position: usize) {
        let place = &mut self.places[position];
        place.shard = None;
        place.seen.clear();
        place.completions.clear();
        place.interrupted = None;
        place.roomless_since = None;
        place.renounced.clear();
        place.still.events.clear();
        place.withheld.events.clear();
        place.leads_without.clear();
        place.strangers = Strangers::default();
        place.stopping = None;
        place.driver_fails_after = None;
        place.wake_at = None;
        place.generation += 1;
        for socket in self.network.of_place(position) {
            if let Some(other) = self.network.close(socket) {
                self.network.finish(other);
                self.deliver(other);
            }
        }
    }
}
