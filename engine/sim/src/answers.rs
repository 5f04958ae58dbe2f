//! In quiet windows: whoever is there answers its leader, whatever its disk does.
//!
//! A member whose disk stands still, or whose log is full, answers heartbeats with what it holds
//! (`AppendEntries` without entries promise nothing new), so that no election comes of it: no other
//! leader could commit more. That a leader is asked for little must not hide the answers.

use pontoon::GroupId;
use pontoon::raft::{PeerStatus, Raft, Status, Term};

use crate::impairment::Impairment;
use crate::settings::{ELECTION_TIMEOUT, MILLISECOND};
use crate::world::{World, raft_of};

/// A member answers within this, by its leader's clock: some heartbeats, and a slow message.
const ANSWERS_WITHIN: u64 = 2 * ELECTION_TIMEOUT;

impl World {
    /// Whether nothing but disks is in the way between sound nodes.
    fn only_disks_are_impaired(&self) -> bool {
        let of_disk = match self.steady.impaired {
            None => true,
            Some((_, kind)) => matches!(
                kind,
                Impairment::Full
                    | Impairment::SlowDisk
                    | Impairment::Still
                    | Impairment::OthersStill
                    | Impairment::Withheld
            ),
        };
        of_disk && self.swarm.slowest_link == 0
    }

    /// Whether a node was there since the window began, whatever its disk does.
    fn is_there(&self, node: usize) -> bool {
        self.runs(node) && !self.steady.disturbed.contains(&node)
    }

    /// Whether a member is of this term, and not of a later one that its disk has not taken yet.
    fn follows(&self, node: usize, group: GroupId, term: Term) -> bool {
        let core = pontoon::simulation::core_of(group, self.swarm.cores);
        let raft = raft_of(&self.places[self.place(node, core)], group);
        raft.is_some_and(|raft| raft.current_term() == term)
    }

    /// The leader of a group, and what it knows.
    fn office(&self, group: GroupId) -> Option<(usize, Status)> {
        let core = pontoon::simulation::core_of(group, self.swarm.cores);
        let mut nodes = (0..self.swarm.nodes).filter(|node| self.is_there(*node));
        nodes.find_map(|node| {
            let raft = raft_of(&self.places[self.place(node, core)], group);
            let raft = raft.filter(|raft| raft.is_leader())?;
            Some((node, raft.status()))
        })
    }

    /// Within a window: every member that has answered in this term answers.
    pub(crate) fn check_answers(&mut self) {
        let passed = self.now - self.steady.since();
        if passed < ANSWERS_WITHIN + ELECTION_TIMEOUT || !self.only_disks_are_impaired() {
            return;
        }
        for group in 1..=self.swarm.groups {
            let Some((leader, status)) = self.office(GroupId(group)) else {
                continue;
            };
            // Who led before the window has been heard by everybody.
            if status.current_term != self.steady.terms[group as usize - 1] {
                continue;
            }
            let clock = self.local_time(leader);
            let is_late = |peer: &&PeerStatus| {
                let silence = clock.saturating_sub(peer.responded_at.0);
                let node = peer.id.0 as usize - 1;
                peer.pipelined
                    && silence > ANSWERS_WITHIN
                    && self.is_there(node)
                    && self.follows(node, GroupId(group), status.current_term)
            };
            if let Some(late) = status.peers.iter().find(is_late) {
                let silence = clock.saturating_sub(late.responded_at.0) / MILLISECOND;
                let state = self.describe();
                self.fail(format!(
                    "node {} has not answered node {leader}, which leads group {group}, for \
                     {silence} ms of a quiet window, impaired {:?}: {state}",
                    late.id.0 - 1,
                    self.steady.impaired
                ));
            }
        }
    }

    /// A window begins: where all other disks stand still, who leads with one that moves is to
    /// lead until it is over.
    pub(crate) fn note_offices(&mut self) {
        self.steady.offices.clear();
        let Some((node, Impairment::OthersStill)) = self.steady.impaired else {
            return;
        };
        if !self.only_disks_are_impaired() {
            return;
        }
        for group in (1..=self.swarm.groups).map(GroupId) {
            let Some((leader, status)) = self.office(group).filter(|(leader, _)| *leader == node)
            else {
                continue;
            };
            let clock = self.local_time(leader);
            let answers = |peer: &PeerStatus| {
                let silence = clock.saturating_sub(peer.responded_at.0);
                peer.pipelined && silence < ELECTION_TIMEOUT / 2
            };
            let heard = status.peers.iter().filter(|peer| answers(peer)).count();
            let heard_by_majority = heard + 1 > self.swarm.nodes / 2;
            let latest = self.steady.terms[group.0 as usize - 1] == status.current_term;
            if latest && status.transfer.is_none() && heard_by_majority {
                let office = (group, leader, status.current_term);
                self.steady.offices.push(office);
            }
        }
    }

    /// A window is over: nobody lost an office in it that nobody else could have filled.
    pub(crate) fn judge_offices(&mut self) {
        for (group, node, term) in std::mem::take(&mut self.steady.offices) {
            let core = pontoon::simulation::core_of(group, self.swarm.cores);
            let raft = raft_of(&self.places[self.place(node, core)], group);
            let leads = |raft: &Raft| raft.is_leader() && raft.current_term() == term;
            if self.is_there(node) && !raft.is_some_and(leads) {
                let state = self.describe();
                self.fail(format!(
                    "node {node} led group {group} in term {term}, and lost that while the disks \
                     of all others stood still: {state}"
                ));
            }
        }
    }
}
