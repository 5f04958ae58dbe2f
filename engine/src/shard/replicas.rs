//! The table of a core's replicas. A slot names one of them for as long as it lives.

use std::collections::BTreeMap;
use std::ops::{Index, IndexMut};

use pontoon_raft::GroupId;

use super::replica::Replica;

/// Names a replica. Once that is removed its slot finds nothing, although the position is used
/// again: whoever kept the slot (a timer, a frame that is not durable yet, a read) does no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ReplicaSlot {
    position: u32,
    generation: u32,
}

impl ReplicaSlot {
    #[cfg(test)]
    pub(super) fn first_at(position: u32) -> Self {
        let generation = 0;
        Self {
            position,
            generation,
        }
    }

    /// For tables beside this one; of all living replicas no other has the same.
    pub(super) fn position(self) -> usize {
        self.position as usize
    }
}

/// One position of the table.
#[derive(Default)]
struct Entry {
    /// How many replicas were here before.
    generation: u32,
    replica: Option<Replica>,
}

/// All replicas of a core.
#[derive(Default)]
pub(super) struct Replicas {
    entries: Vec<Entry>,
    /// Positions without a replica.
    free: Vec<u32>,
    by_id: BTreeMap<GroupId, ReplicaSlot>,
}

impl Replicas {
    pub(super) fn insert(&mut self, replica: Replica) -> ReplicaSlot {
        let position = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry::default());
            u32::try_from(self.entries.len() - 1).expect("groups_max is smaller")
        });
        let entry = &mut self.entries[position as usize];
        let generation = entry.generation;
        let slot = ReplicaSlot {
            position,
            generation,
        };
        self.by_id.insert(replica.id, slot);
        entry.replica = Some(replica);
        slot
    }

    /// Removes a replica; its slot finds nothing from now on.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "no request removes a group yet")
    )]
    pub(super) fn remove(&mut self, slot: ReplicaSlot) -> Option<Replica> {
        self.get(slot)?;
        let entry = &mut self.entries[slot.position()];
        let replica = entry.replica.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(slot.position);
        self.by_id.remove(&replica.id);
        Some(replica)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn slot(&self, group: GroupId) -> Option<ReplicaSlot> {
        self.by_id.get(&group).copied()
    }

    /// `None` if the replica was removed.
    pub(super) fn get(&self, slot: ReplicaSlot) -> Option<&Replica> {
        let entry = self.entries.get(slot.position())?;
        let replica = entry.replica.as_ref()?;
        (entry.generation == slot.generation).then_some(replica)
    }

    /// `None` if the replica was removed.
    pub(super) fn get_mut(&mut self, slot: ReplicaSlot) -> Option<&mut Replica> {
        let entry = self.entries.get_mut(slot.position())?;
        let replica = entry.replica.as_mut()?;
        (entry.generation == slot.generation).then_some(replica)
    }

    /// The slots in use, in the order of their positions.
    pub(super) fn slots(&self) -> Vec<ReplicaSlot> {
        let mut slots: Vec<_> = self.by_id.values().copied().collect();
        slots.sort_unstable();
        slots
    }

    #[cfg(feature = "simulation")]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Replica> {
        self.entries
            .iter()
            .filter_map(|entry| entry.replica.as_ref())
    }

    /// The slots of replicas that lead.
    pub(super) fn leading(&self) -> impl Iterator<Item = ReplicaSlot> {
        let leads = |slot: &ReplicaSlot| self[*slot].raft.is_leader();
        self.by_id.values().copied().filter(leads)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Replica> {
        let entries = self.entries.iter_mut();
        entries.filter_map(|entry| entry.replica.as_mut())
    }
}

/// For a slot that was found in the same call.
impl Index<ReplicaSlot> for Replicas {
    type Output = Replica;

    fn index(&self, slot: ReplicaSlot) -> &Replica {
        self.get(slot).expect("the replica is not removed")
    }
}

impl IndexMut<ReplicaSlot> for Replicas {
    fn index_mut(&mut self, slot: ReplicaSlot) -> &mut Replica {
        self.get_mut(slot).expect("the replica is not removed")
    }
}

#[cfg(test)]
mod tests {
    use pontoon_raft::{Boot, LogIndex, NodeId, Raft, RaftConfig, Time};

    use super::*;
    use crate::awaited::Awaited;
    use crate::definition::Definition;

    fn replica(group: u64) -> Replica {
        let raft = Raft::new(RaftConfig::new(NodeId(1)), Boot::default(), Time(0));
        let definition = Definition::lost();
        Replica::new(GroupId(group), definition, raft, None, LogIndex(0), 0, Awaited::default())
    }

    #[test]
    fn the_slot_of_a_removed_group_is_used_again_and_the_old_one_finds_nothing() {
        let mut replicas = Replicas::default();
        let other = replicas.insert(replica(1));
        let old = replicas.insert(replica(2));
        assert_eq!(replicas.remove(old).unwrap().id, GroupId(2));
        assert!(replicas.get(old).is_none());
        let new = replicas.insert(replica(3));
        assert_eq!(new.position(), old.position());
        assert!(replicas.get(old).is_none() && replicas.get_mut(old).is_none());
        assert!(replicas.remove(old).is_none(), "removed once");
        assert_eq!(replicas[new].id, GroupId(3));
        assert_eq!(replicas[other].id, GroupId(1));
        assert_eq!(replicas.slot(GroupId(2)), None);
        assert_eq!(replicas.slots(), [other, new]);
        assert_eq!(replicas.len(), 2);
    }
}
