//! Disks that forget: they are empty at a start, or end earlier, or an old copy of them is back.
//!
//! The atlas: only disks of the fixed minority that may lose what they acknowledged, in groups
//! whose machines are built from the log. A log that its witness has seen longer, and a copy that
//! was made file by file, find it out alone; on an empty disk groups are made anew, which nobody
//! leads before all members have met. One that was taken back whole must be told: that is only done
//! while every other node has met the node in a life that its disk would not remember. What nobody
//! who is there can know, is known only by those who are not.

use pontoon::NodeId;
use pontoon::storage::Life;

use crate::coverage::RareEvent;
use crate::disk::Disk;
use crate::faults::Fault;
use crate::settings::MILLISECOND;
use crate::world::{Event, World};

/// Of all moments at which something may go wrong, and of all runs: that this begins.
const PLOTS: u64 = 200_000;
const PLOTS_AT_START: u64 = 400_000;

/// Of three nodes one is away while the others promise something; then one of these is away, and
/// the disk of the other, of node 0, forgets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plot {
    away: usize,
    /// Who knows what was promised.
    knows: usize,
    /// Node 0 has forgotten, or is about to.
    forgets: bool,
}

impl Plot {
    pub(crate) fn is_away(&self, node: usize) -> bool {
        node == if self.forgets { self.knows } else { self.away }
    }
}

impl World {
    /// Perhaps a node is away when the groups are made. Gives which.
    pub(crate) fn plot_from_the_start(&mut self) -> Option<usize> {
        let begins = self.may_plot() && self.later.happens(PLOTS_AT_START);
        begins.then(|| self.begin_plot())
    }

    /// Perhaps a node goes away, to come back when nobody is there who knows what was promised.
    pub(crate) fn plot(&mut self) {
        let all_run = (0..self.swarm.nodes).all(|node| self.runs(node));
        let may = self.may_plot() && self.plot.is_none() && all_run;
        if may && self.later.happens(PLOTS) {
            let away = self.begin_plot();
            self.crash(away);
        }
    }

    fn may_plot(&self) -> bool {
        let forgets = self.swarm.forgetting > 0 && !self.swarm.durable_machines;
        forgets && self.swarm.nodes == 3 && !self.swarm.steady
    }

    fn begin_plot(&mut self) -> usize {
        let away = 1 + self.later.below(2);
        self.plot = Some(Plot {
            away,
            knows: 3 - away,
            forgets: false,
        });
        let after = self.later.between(500, 2_500) * MILLISECOND;
        self.schedule(after, Event::Plot);
        away
    }

    pub(crate) fn go_on_with_plot(&mut self) {
        let Some(plot) = &mut self.plot else {
            return;
        };
        let Plot { away, knows, .. } = *plot;
        if std::mem::replace(&mut plot.forgets, true) {
            self.plot = None;
            return self.start(knows);
        }
        for node in [knows, 0] {
            if self.runs(node) {
                self.crash(node);
            }
        }
        self.coverage.mark(RareEvent::PromiseForgotten);
        self.start(away);
        self.schedule(3_000 * MILLISECOND, Event::Plot);
    }

    /// A node is about to start: its disks may be copied, or forget.
    pub(crate) fn maybe_forget(&mut self, node: usize) {
        // Where two nodes may lose something, one may have lost that it met the other.
        let may = self.swarm.nodes <= 4 && self.may_lose(node) && !self.swarm.durable_machines;
        if !may || self.swarm.forgetting == 0 || !self.may_fail() {
            return;
        }
        let plotted = node == 0 && self.plot.is_some_and(|plot| plot.forgets);
        let (forgets, how) = (
            plotted || self.random.happens(self.swarm.forgetting),
            [0, 1, 1, 1, 2, 3][self.random.below(6)],
        );
        let positions = (0..self.swarm.cores).map(|core| self.place(node, core));
        for position in positions.collect::<Vec<_>>() {
            if !forgets {
                let place = &mut self.places[position];
                place.copy = Some((place.disk.clone(), place.life));
                continue;
            }
            // Of what only its witness knows most may be lost unnoticed.
            match if plotted && how > 0 { 3 } else { how } {
                0 => self.empty_disk(position),
                1 => self.restore_disk(position),
                2 => self.copy_back(position),
                _ => self.cut_short(position),
            }
        }
    }

    /// What was written last is gone, as far as the witness has seen it.
    fn cut_short(&mut self, position: usize) {
        let disk = &mut self.places[position].disk;
        if disk.cut_short(&mut self.random) {
            disk.decayed = true;
            self.injected(Fault::DiskCutShort);
        }
    }

    /// An old copy of the files is back: the disk is older, and its files were made anew.
    fn copy_back(&mut self, position: usize) {
        let version = self.places[position].disk.version + 1;
        let Some((mut disk, _)) = self.places[position].copy.clone() else {
            return;
        };
        // Not before there was a witness.
        if disk.used {
            disk.volume.copied();
            self.replace_disk(position, disk, version);
            self.injected(Fault::DiskCopied);
        }
    }

    fn empty_disk(&mut self, position: usize) {
        let version = self.places[position].disk.version + 1;
        self.replace_disk(position, Disk::new(), version);
        self.injected(Fault::DiskEmptied);
    }

    fn restore_disk(&mut self, position: usize) {
        let version = self.places[position].disk.version + 1;
        let Some((disk, life)) = self.places[position].copy.clone() else {
            return;
        };
        if life != self.places[position].life && self.all_would_tell(position, life) {
            self.replace_disk(position, disk, version);
            self.injected(Fault::DiskRestored);
        }
    }

    /// Whether every other node has met this one in a life that a disk which stands in another
    /// would not remember.
    fn all_would_tell(&self, position: usize, life: Life) -> bool {
        let (node, core) = (self.places[position].node, self.places[position].core);
        let id = NodeId(node as u64 + 1);
        let mut others = (0..self.swarm.nodes).filter(|other| *other != node);
        others.all(|other| {
            let met = self.places[self.place(other, core)].believed.get(&id);
            met.is_some_and(|met| *met > life)
        })
    }

    fn replace_disk(&mut self, position: usize, disk: Disk, version: u64) {
        let disk_before = &mut self.places[position].disk;
        *disk_before = disk;
        disk_before.version = version;
        disk_before.decayed = true;
    }

    /// After a turn of a place: whom it believes from now on, in all its lives.
    pub(crate) fn note_believed(&mut self, position: usize) {
        let place = &mut self.places[position];
        if self.swarm.forgetting > 0
            && let Some(shard) = &place.shard
        {
            place.life = shard.life().unwrap_or(place.life);
            place.believed.extend(shard.believed());
        }
    }
}
