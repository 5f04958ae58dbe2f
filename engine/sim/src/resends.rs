//! Entries that are sent twice over one connection although nothing asked for them again.

use std::collections::{BTreeMap, BTreeSet};

use pontoon::port::SocketId;
use pontoon::raft::{AppendOutcome, Body, LogIndex, LogRoom, Message, Term};
use pontoon::{GroupId, NodeId};

use crate::settings::MILLISECOND;
use crate::world::World;

/// What a leader sends to one follower of a group, in one term and over one connection.
#[derive(Debug)]
struct Sent {
    term: Term,
    socket: SocketId,
    /// The first entry of each message since the follower asked for any again, and of those that
    /// left before its leader had heard of that.
    firsts: BTreeSet<LogIndex>,
    before: BTreeSet<LogIndex>,
    /// Until when that may be so.
    asked_until: u64,
}

impl Sent {
    fn new(term: Term, socket: SocketId) -> Self {
        Self {
            term,
            socket,
            firsts: BTreeSet::new(),
            before: BTreeSet::new(),
            asked_until: 0,
        }
    }
}

/// By the leader's place, the follower and the group.
#[derive(Debug, Default)]
pub(crate) struct Resends {
    sent: BTreeMap<(usize, NodeId, GroupId), Sent>,
    /// Places whose reads fail, and until when what they send is not looked at.
    excused: BTreeMap<usize, u64>,
}

/// After a failed read: what waits for connections leaves first, and what was lost after it.
const EXCUSED: u64 = 1_000 * MILLISECOND;

impl World {
    /// A message leaves. Entries leave twice only if their follower said that it lacks them or what
    /// comes before, had no room, or has lost something.
    pub(crate) fn check_resent(
        &mut self,
        position: usize,
        (to, socket): (NodeId, SocketId),
        (group, message): (GroupId, &Message),
    ) {
        match message.body {
            Body::AppendEntries(request) if request.count > 0 => {
                if self
                    .resends
                    .excused
                    .get(&position)
                    .is_some_and(|until| self.now < *until)
                {
                    self.resends.sent.remove(&(position, to, group));
                    return;
                }
                let sent = self.resends.sent.entry((position, to, group));
                let new = || Sent::new(message.term, socket);
                let sent = sent.or_insert_with(new);
                if (sent.term, sent.socket) != (message.term, socket) {
                    // What it asks for over a new connection it may have asked before the first
                    // entries left over that.
                    let asked_until = sent.asked_until;
                    *sent = Sent {
                        asked_until,
                        ..new()
                    };
                }
                let first = request.prev_log.index.next();
                let heard = self.now >= sent.asked_until || !sent.before.insert(first);
                if heard && !sent.firsts.insert(first) {
                    self.fail(format!(
                        "place {position} sends entry {first} of group {group} to node {to} again, \
                         which did not ask for it"
                    ));
                }
            }
            Body::AppendResponse(response) => {
                let lacks = matches!(response.outcome, AppendOutcome::Rejected { .. });
                if lacks || response.room != LogRoom::Enough || response.tainted {
                    let from = NodeId(self.places[position].node as u64 + 1);
                    let leader = self.place(to.0 as usize - 1, self.places[position].core);
                    // It may ask before it was sent anything: what is on its way then is not heard
                    // of yet either.
                    let sent = self.resends.sent.entry((leader, from, group));
                    let sent = sent.or_insert_with(|| Sent::new(message.term, socket));
                    sent.firsts.clear();
                    sent.before.clear();
                    sent.asked_until = self.now + EXCUSED;
                }
            }
            _ => {}
        }
    }

    /// A read of a core fails, after so many nanoseconds: it sends again from where its followers
    /// are.
    pub(crate) fn excuse_resends(&mut self, position: usize, after: u64) {
        let until = self.now + after + EXCUSED;
        let excused = self.resends.excused.entry(position).or_default();
        *excused = until.max(*excused);
    }
}
