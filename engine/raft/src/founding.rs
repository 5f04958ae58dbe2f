//! The founding of a group: no member promises anything before it has met every other one.
//!
//! A replica that was just made is as one whose disk lost something: it neither campaigns, votes
//! nor counts. It asks the other members until it has heard from all of them that they hold the
//! same definition, each over a connection whose ends had made durable before whom they met. So
//! whoever promises something has been met by everybody who can promise: should its disk forget,
//! any of these tells it. Without that, one that forgot and one that was always away would found
//! the group anew.
//!
//! One that lost nothing since it was made is founded then. One that may have been a member before,
//! and forgot it, is founded only if no member says that it is founded: then no majority ever
//! promised anything that is still known to a majority. Otherwise a leader repairs it.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::message::{Founding, Message};
use crate::mutant::Mutant;
use crate::output::Output;
use crate::raft::Raft;
use pontoon_types::{NodeId, Term, Time};

/// The wait before a member is asked once more doubles up to so many election timeouts.
const WAIT_MAX: u64 = 32;

/// How a replica that is not founded came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfounded {
    /// The log has lost nothing that it knows of, so that it was no member before.
    pub lost_nothing: bool,
}

/// What a replica that is not founded has heard of the others.
#[derive(Clone, Debug)]
pub(crate) struct Meeting {
    lost_nothing: bool,
    heard: BTreeMap<NodeId, Heard>,
    /// When those who have not answered are asked again, and the wait after that.
    ask_at: Time,
    wait: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Unfounded,
    Founded,
    /// It holds another definition.
    Differs,
}

impl Meeting {
    pub(crate) fn new(unfounded: Unfounded, now: Time) -> Self {
        Self {
            lost_nothing: unfounded.lost_nothing,
            heard: BTreeMap::new(),
            ask_at: now,
            wait: 1,
        }
    }

    pub(crate) fn ask_at(&self) -> Time {
        self.ask_at
    }

    fn agrees(&self, node: NodeId) -> bool {
        let heard = self.heard.get(&node);
        heard.is_some_and(|heard| *heard != Heard::Differs)
    }
}

impl Raft {
    /// Whether the group waits for members that this replica has not met.
    #[must_use]
    pub fn is_founded(&self) -> bool {
        self.meeting.is_none()
    }

    /// A connection to a member was made: it is asked, unless the replica is founded.
    pub fn meet(&mut self, now: Time, member: NodeId, output: &mut Output) {
        self.now = now;
        if !self.is_founded() {
            self.tell_founding(member, true, output);
        }
    }

    /// Asks those who have not answered.
    pub(crate) fn ask_again(&mut self, output: &mut Output) {
        let (now, timeout) = (self.now, self.config.election_timeout);
        let others = self.others();
        let Some(meeting) = &mut self.meeting else {
            return;
        };
        meeting.ask_at = now.after(meeting.wait * timeout);
        meeting.wait = (2 * meeting.wait).min(WAIT_MAX);
        let silent = others
            .into_iter()
            .filter(|node| !meeting.heard.contains_key(node));
        for member in silent.collect::<Vec<_>>() {
            self.tell_founding(member, true, output);
        }
    }

    /// Once this replica's definition is durable, and what it says of it.
    fn tell_founding(&self, to: NodeId, asks: bool, output: &mut Output) {
        let founding = Founding {
            definition: self.definition,
            founded: self.is_founded(),
            asks,
        };
        output.send_after_persist(to, Message::new(Term(0), founding));
    }

    pub(crate) fn handle_founding(&mut self, from: NodeId, said: Founding, output: &mut Output) {
        if said.asks {
            self.tell_founding(from, false, output);
        }
        let differs = said.definition != self.definition;
        if differs {
            output.differs = Some(from);
        }
        if let Some(meeting) = &mut self.meeting {
            let heard = match (differs, said.founded) {
                (true, _) => Heard::Differs,
                (false, true) => Heard::Founded,
                (false, false) => Heard::Unfounded,
            };
            meeting.heard.insert(from, heard);
            self.maybe_found(output);
        }
    }

    fn maybe_found(&mut self, output: &mut Output) {
        let others = self.others();
        let Some(meeting) = &self.meeting else {
            return;
        };
        let met = others.iter().filter(|node| meeting.agrees(**node)).count();
        let enough = match self.is(Mutant::FoundedByMajority) {
            true => met + 1 > others.len().div_ceil(2),
            false => met == others.len(),
        };
        let nobody_is_founded = meeting
            .heard
            .values()
            .all(|heard| *heard == Heard::Unfounded);
        let founds = meeting.lost_nothing || nobody_is_founded;
        if enough && founds && !others.is_empty() {
            self.promise_again(output);
        }
    }

    /// Its disk forgot: perhaps that it was founded.
    pub(crate) fn forget_meeting(&mut self) {
        if let Some(meeting) = &mut self.meeting {
            meeting.lost_nothing = false;
            meeting.heard.clear();
        }
    }

    fn others(&self) -> Vec<NodeId> {
        let members = self.membership.members();
        members
            .into_iter()
            .filter(|node| *node != self.config.id)
            .collect()
    }

    /// Members that this replica waits for before it promises anything, and those of them that hold
    /// another definition of the group.
    #[must_use]
    pub(crate) fn awaited_members(&self) -> (Vec<NodeId>, Vec<NodeId>) {
        let Some(meeting) = &self.meeting else {
            return (Vec::new(), Vec::new());
        };
        let awaited = self
            .others()
            .into_iter()
            .filter(|node| !meeting.agrees(*node));
        awaited.partition(|node| !meeting.heard.contains_key(node))
    }
}
