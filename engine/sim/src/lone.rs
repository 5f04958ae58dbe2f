//! A group with one member, beside one whose other members are stuck: it does not pay for them.
//!
//! The disks of all nodes but one stand still. What that one leads with members everywhere commits
//! nothing, and takes no more than one group may hold; what it has for itself goes on.

use std::task::Poll;

use pontoon::{GroupId, NodeId, ProposeError, Rejection};

use crate::impairment::Impairment;
use crate::machine::Command;
use crate::settings::{ELECTION_TIMEOUT, MILLISECOND};
use crate::world::World;

/// What the lone group is asked has an outcome within this.
const ANSWERED_WITHIN: u64 = 2 * ELECTION_TIMEOUT;

/// Most bytes of one group that are not committed: half of what the proposals of a core may have
/// (`InboxLimits::bytes_max`), so that as much is left for others, and a few commands.
const UNCOMMITTED_MAX: u64 = (32 << 10) + (8 << 10);

/// Of the commands that a stuck group is given: they would fill a log soon.
const PADDING: usize = 3500;

impl World {
    /// The group that only this node is a member of, on the core of the first group.
    fn lone_group(&self, node: usize) -> GroupId {
        let core = |group| pontoon::simulation::core_of(group, self.swarm.cores);
        let groups = (500..).map(|half| GroupId(2 * half));
        let mut beside = groups.filter(|group| core(*group) == core(GroupId(1)));
        beside.nth(node).expect("groups are spread over cores")
    }

    fn lone_place(&self, node: usize) -> usize {
        let core = pontoon::simulation::core_of(GroupId(1), self.swarm.cores);
        self.place(node, core)
    }

    /// Makes it at every start of its node, as the others. What a drive loses of it nobody has.
    pub(crate) fn make_lone_group(&mut self, node: usize) {
        if self.swarm.lone && !self.may_lose(node) {
            let group = self.lone_group(node);
            let members = [NodeId(node as u64 + 1)];
            if let Some(shard) = &self.places[self.lone_place(node)].shard {
                drop(shard.create_group(group, "registers", &members));
            }
        }
    }

    /// The node beside which all others are stuck, if it has a group of its own.
    fn lone_node(&self) -> Option<usize> {
        let (node, kind) = self.steady.impaired?;
        let stuck = kind == Impairment::OthersStill && self.swarm.lone && self.has_room_for_both();
        let shard = self.places[self.lone_place(node)].shard.as_ref();
        let made = shard.is_some_and(|shard| {
            let group = self.lone_group(node);
            shard.replicas().any(|(id, _)| id == group)
        });
        (stuck && made && !self.may_lose(node)).then_some(node)
    }

    /// Whether a log holds what a stuck group may keep in it until its members are left behind,
    /// which takes ten election timeouts, and what others write meanwhile.
    fn has_room_for_both(&self) -> bool {
        self.swarm.segments_max > 8
    }

    /// How much beside the command itself is given to whom little is asked of.
    pub(crate) fn light_load_padding(&self) -> usize {
        match self.lone_node() {
            Some(_) => PADDING,
            None => 0,
        }
    }

    /// Within a window in which all others are stuck: the lone group is asked, and answers.
    pub(crate) fn look_at_lone_group(&mut self) {
        let Some(node) = self.lone_node() else {
            return;
        };
        if !self.runs(node) || self.steady.disturbed.contains(&node) {
            return;
        }
        let place = self.lone_place(node);
        let now = self.now;
        let mut broken = None;
        self.lone.retain_mut(|asked| match asked.poll() {
            // Whoever is told that the next segment is on its way tries again.
            Poll::Ready(Ok(_) | Err(ProposeError::Rejected(Rejection::Preparing))) => false,
            Poll::Ready(Err(error)) => {
                broken = Some(format!("{error}"));
                false
            }
            Poll::Pending if now - asked.invoked > ANSWERED_WITHIN => {
                let ago = (now - asked.invoked) / MILLISECOND;
                broken = Some(format!("nothing for {ago} ms"));
                false
            }
            Poll::Pending => true,
        });
        if let Some(what) = broken {
            let state = self.describe();
            return self.fail(format!(
                "a group of its own on place {place}, beside one whose members are stuck, was \
                 told: {what}: {state}"
            ));
        }
        self.check_stuck_group(place);
        self.operations += 1;
        let command = Command {
            operation: self.operations,
            key: 0,
            write: None,
        };
        let asked = self.propose((place, self.lone_group(node)), command, 0);
        self.lone.extend(asked);
        self.wake_soon(place);
    }

    /// The group that commits nothing takes no more than one group may hold.
    fn check_stuck_group(&mut self, place: usize) {
        if self.steady.offices.is_empty() {
            return;
        }
        let shard = self.places[place].shard.as_ref();
        let bytes = shard.map_or(0, |shard| shard.uncommitted_bytes(GroupId(1)));
        if bytes > UNCOMMITTED_MAX {
            self.fail(format!(
                "place {place} holds {bytes} bytes of a group that commits nothing"
            ));
        }
    }
}
