//! Logs without room: who says so, and what becomes of a leader whose log takes nothing.

use pontoon::GroupId;
use pontoon::raft::Raft;

use crate::impairment::Impairment;
use crate::machine::lock;
use crate::settings::{ELECTION_TIMEOUT, MILLISECOND};
use crate::world::{World, raft_of};

/// A log could not grow so long ago at most when its core says that it is full: what it says may
/// wait for its disk, and for a pause.
const SAID_AFTER: u64 = 4_000 * MILLISECOND;

/// So long may a leader have no room in a quiet window while another could lead that has some, or
/// while only a dead member holds the log.
const ROOMLESS_MAX: u64 = 5 * ELECTION_TIMEOUT;

impl World {
    /// After a turn: whether the log takes anything.
    pub(crate) fn note_room(&mut self, position: usize) {
        let now = self.now;
        let place = &mut self.places[position];
        let Some(shard) = &place.shard else {
            return;
        };
        if shard.is_short_of_room() {
            place.short_at = Some(now);
        }
        if !shard.can_grow() {
            place.whole_at = Some(now);
        }
        let since = place.roomless_since.unwrap_or(now);
        place.roomless_since = shard.takes_no_commands().then_some(since);
    }

    /// A core says that its log is full: not for want of memory, which comes back by itself.
    pub(crate) fn check_called_full(&mut self, position: usize, group: GroupId) {
        let place = &self.places[position];
        let failed = lock(&self.oracle)
            .failed
            .contains_key(&(place.node, group.0));
        let recently = |at: u64| self.now - at <= SAID_AFTER;
        if !failed && !place.whole_at.is_some_and(recently) {
            self.fail(format!(
                "place {position} says that its log is full to group {group}, and it can grow"
            ));
        }
    }

    /// At the end of a quiet window: a leader has room, unless nobody has.
    pub(crate) fn judge_room(&mut self, group: GroupId, sound: &[usize]) {
        let core = pontoon::simulation::core_of(group, self.swarm.cores);
        let leads = |node: &usize| {
            let raft = raft_of(&self.places[self.place(*node, core)], group);
            raft.is_some_and(Raft::is_leader)
        };
        let Some(leader) = (0..self.swarm.nodes).find(leads) else {
            return;
        };
        let roomless = |node: usize| {
            let since = self.places[self.place(node, core)].roomless_since;
            since.is_some_and(|since| self.now - since.max(self.steady.since()) > ROOMLESS_MAX)
        };
        if !roomless(leader) {
            return;
        }
        let last = |node: usize| {
            let raft = raft_of(&self.places[self.place(node, core)], group);
            raft.map(Raft::last_index)
        };
        let committed = raft_of(&self.places[self.place(leader, core)], group);
        let committed = committed.map(Raft::commit_index);
        // Over a slow link it takes longer than a window until another has what it lacks.
        let is_level = |node: usize| self.swarm.slowest_link == 0 || last(node) >= committed;
        let has_room = |node: usize| {
            let place = &self.places[self.place(node, core)];
            let short = |at: u64| self.now - at < ROOMLESS_MAX;
            node != leader && !place.short_at.is_some_and(short)
        };
        let stays = sound.iter().any(|node| has_room(*node) && is_level(*node));
        let impairment = self.steady.impaired.map(|(_, impairment)| impairment);
        let dead = impairment == Some(Impairment::Down) && self.swarm.releases();
        if stays || dead {
            let state = self.describe();
            self.fail(format!(
                "node {leader} leads group {group} without room, impaired {:?}: {state}",
                self.steady.impaired
            ));
        }
    }
}
