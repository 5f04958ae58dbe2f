//! Disks that forget: they are empty at a start, or an old copy of them is back.
//!
//! The atlas: only disks of the fixed minority that may lose what they acknowledged, in groups
//! whose machines are built from the log, and only while every other node has met the node in a
//! life that its disk would not remember: whoever is there then tells it. What nobody who is there
//! can know, is known only by those who are not.

use pontoon::NodeId;
use pontoon::storage::Life;

use crate::disk::Disk;
use crate::faults::Fault;
use crate::world::World;

impl World {
    /// A node is about to start: its disks may be copied, or forget.
    pub(crate) fn maybe_forget(&mut self, node: usize) {
        // Where two nodes may lose something, one may have lost that it met the other.
        let may = self.swarm.nodes <= 4 && self.may_lose(node) && !self.swarm.durable_machines;
        if !may || self.swarm.forgetting == 0 || !self.may_fail() {
            return;
        }
        let (forgets, empties) = (
            self.random.happens(self.swarm.forgetting),
            self.random.happens(500_000),
        );
        let positions = (0..self.swarm.cores).map(|core| self.place(node, core));
        for position in positions.collect::<Vec<_>>() {
            if !forgets {
                let place = &mut self.places[position];
                place.copy = Some((place.disk.clone(), place.life));
            } else if empties {
                self.empty_disk(position);
            } else {
                self.restore_disk(position);
            }
        }
    }

    fn empty_disk(&mut self, position: usize) {
        let version = self.places[position].disk.version + 1;
        if self.all_would_tell(position, None) {
            self.replace_disk(position, Disk::new(), version);
            self.injected(Fault::DiskEmptied);
        }
    }

    fn restore_disk(&mut self, position: usize) {
        let version = self.places[position].disk.version + 1;
        let Some((disk, life)) = self.places[position].copy.clone() else {
            return;
        };
        if life != self.places[position].life && self.all_would_tell(position, Some(life)) {
            self.replace_disk(position, disk, version);
            self.injected(Fault::DiskRestored);
        }
    }

    /// Whether every other node has met this one in a life that a disk which stands in another, or
    /// in none, would not remember.
    fn all_would_tell(&self, position: usize, life: Option<Life>) -> bool {
        let (node, core) = (self.places[position].node, self.places[position].core);
        let id = NodeId(node as u64 + 1);
        let mut others = (0..self.swarm.nodes).filter(|other| *other != node);
        others.all(|other| {
            let met = self.places[self.place(other, core)].believed.get(&id);
            met.is_some_and(|met| life.is_none_or(|life| *met > life))
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
