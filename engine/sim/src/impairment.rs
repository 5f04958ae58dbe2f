//! What may be wrong with one node while a quiet window lasts: the others must not notice more.

use pontoon::GroupId;
use pontoon::raft::Raft;

use crate::coverage::RareEvent;
use crate::faults::Fault;
use crate::random::Random;
use crate::settings::MILLISECOND;
use crate::world::{World, raft_of};

/// What is wrong with the one node that is not repaired before a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Impairment {
    /// It is not there.
    Down,
    /// No further segment finds space on its disks.
    Full,
    /// Its disks take hundreds of milliseconds for each operation.
    SlowDisk,
    /// Nothing passes its links.
    Hung,
    /// Nothing passes the links to it.
    Deaf,
    /// A few bytes a second pass the links to it.
    Drips,
    /// Each of its turns takes many milliseconds.
    SlowTurns,
    /// It is told to stop when the window opens.
    Stops,
    /// Its disks stand still.
    Still,
    /// The disks of all others stand still: they answer, and hold nothing more.
    OthersStill,
    /// The segments that its logs ask for do not come.
    Withheld,
}

/// How often each is drawn, against the others: what needs more of a coincidence more often.
const IMPAIRMENTS: [(Impairment, RareEvent, usize); 8] = [
    (Impairment::Down, RareEvent::WindowNodeDown, 5),
    (Impairment::Full, RareEvent::WindowDiskFull, 5),
    (Impairment::SlowDisk, RareEvent::WindowSlowDisk, 2),
    (Impairment::Hung, RareEvent::WindowHung, 8),
    (Impairment::Deaf, RareEvent::WindowDeaf, 4),
    (Impairment::Drips, RareEvent::WindowDrip, 5),
    (Impairment::SlowTurns, RareEvent::WindowSlowTurns, 2),
    (Impairment::Stops, RareEvent::WindowStops, 6),
];

/// By a chance of their own, instead of one of those.
const OF_DISKS: [(Impairment, RareEvent); 3] = [
    (Impairment::Still, RareEvent::WindowStill),
    (Impairment::OthersStill, RareEvent::WindowOthersStill),
    (Impairment::Withheld, RareEvent::WindowWithheld),
];

fn draw_impairment(random: &mut Random) -> (Impairment, RareEvent) {
    let all: usize = IMPAIRMENTS.iter().map(|(.., weight)| weight).sum();
    let mut left = random.below(all);
    let chosen = IMPAIRMENTS.iter().find(|(.., weight)| {
        let is_this = left < *weight;
        left = left.saturating_sub(*weight);
        is_this
    });
    let (kind, mark, _) = chosen.expect("below the sum of the weights");
    (*kind, *mark)
}

impl World {
    /// Something is wrong with one node for as long as the window lasts.
    pub(crate) fn impair(&mut self) {
        let (mut kind, mut mark) = draw_impairment(&mut self.random);
        if self.later.happens(self.swarm.still_window) {
            (kind, mark) = OF_DISKS[self.later.below(OF_DISKS.len())];
        }
        if self.swarm.lone && self.later.happens(600_000) {
            (kind, mark) = (Impairment::OthersStill, RareEvent::WindowOthersStill);
        }
        let group = GroupId(1 + self.random.number() % self.swarm.groups);
        let leads = |place: &_| raft_of(place, group).is_some_and(Raft::is_leader);
        let leader = self.places.iter().find(|place| leads(place));
        let leader = leader.map(|place| place.node);
        let node = match leader.filter(|_| self.random.happens(700_000)) {
            Some(leader) => leader,
            None => self.random.below(self.swarm.nodes),
        };
        let limited = self.swarm.slowest_link > 0;
        let by_link = matches!(
            kind,
            Impairment::Hung | Impairment::Deaf | Impairment::Drips
        );
        if by_link && !limited {
            // Links without limits are not impaired: mostly segments are withheld instead, which
            // shows its faults in few runs.
            if !self.later.happens(600_000) {
                return;
            }
            (kind, mark) = (Impairment::Withheld, RareEvent::WindowWithheld);
        }
        self.coverage.mark(mark);
        self.steady.impaired = Some((node, kind));
        match kind {
            Impairment::Down if self.runs(node) => self.crash(node),
            Impairment::Down | Impairment::SlowDisk | Impairment::SlowTurns | Impairment::Stops => {
            }
            Impairment::Full => self.fill_disks(node),
            Impairment::Still => self.hold_disks(node, u64::MAX),
            Impairment::OthersStill => {
                for other in (0..self.swarm.nodes).filter(|other| *other != node) {
                    self.hold_disks(other, u64::MAX);
                }
            }
            Impairment::Withheld => self.withhold_segments(node, u64::MAX),
            Impairment::Hung => self.hang_node(node, u64::MAX, true),
            Impairment::Deaf => self.hang_node(node, u64::MAX, false),
            Impairment::Drips => self.drip_node(node, u64::MAX),
        }
    }

    fn fill_disks(&mut self, node: usize) {
        self.injected(Fault::DiskFull);
        for core in 0..self.swarm.cores {
            let place = self.place(node, core);
            self.places[place].disk.set_full(true);
        }
    }

    pub(crate) fn is_impaired(&self, node: usize, kind: Impairment) -> bool {
        self.steady.impaired == Some((node, kind))
    }

    /// How much longer each disk operation of a node takes.
    pub(crate) fn disk_is_slow(&mut self, node: usize) -> u64 {
        if self.is_impaired(node, Impairment::SlowDisk) {
            self.random.between(50, 600) * MILLISECOND
        } else {
            0
        }
    }
}
