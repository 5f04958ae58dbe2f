//! A peer that lies, and an administrator who asks for a hand-over again and again.
//!
//! The liar connects as another member, says one thing that no correct peer would, and is gone. It
//! forges neither entries nor votes nor acknowledgements. What it costs is bounded: a term grows by
//! a bounded number a message, and what it said is forgotten when its connection ends.

use std::collections::BTreeMap;

use pontoon::port::{Completion, SocketId};
use pontoon::raft::{
    AppendEntries, AppendOutcome, AppendResponse, Body, EntryId, LogIndex, LogRoom, Message, Raft,
    RequestVote, Term, VoteKind, VoteResponse,
};
use pontoon::transport::Connection;
use pontoon::{GroupId, NodeId};

use crate::coverage::RareEvent;
use crate::faults::Fault;
use crate::settings::{ELECTION_TIMEOUT, LIMITS};
use crate::world::{World, raft_of};

/// By how many terms one message may move a replica.
const TERMS_MAX: u64 = 1 << 20;

/// Most elections that a node begins in an election timeout, by a clock twice as fast as time: a
/// campaign of its own and a hand-over each.
const ELECTIONS_MAX: u64 = 4;

/// What no log's epoch ever comes to.
const FORGED_EPOCH: u64 = u64::MAX;

/// What is remembered of both.
#[derive(Default)]
pub(crate) struct Hostile {
    lies: u64,
    /// The connections of liars that were not closed yet, by the place they are of and in whose
    /// name they are.
    liars: Vec<(usize, NodeId, SocketId)>,
    nag: Option<Nag>,
    /// Hand-overs that were asked for, and starts of nodes: each may be an election.
    pub(crate) elections: u64,
    /// Since when a leader refuses proposals for a hand-over, and when that was seen last, by its
    /// own clock.
    refusing: BTreeMap<(usize, GroupId, Term), (u64, u64)>,
}

/// A hand-over that is asked for at every moment at which something may go wrong.
struct Nag {
    place: usize,
    group: GroupId,
    to: NodeId,
    until: u64,
}

impl World {
    /// Somebody lies to a core, in the name of another member.
    pub(crate) fn lie(&mut self) {
        let place = self.random.below(self.places.len());
        let node = self.places[place].node;
        let other = self.random.below(self.swarm.nodes);
        let group = GroupId(1 + self.random.number() % self.swarm.groups);
        let dice = self.random.number();
        let Some(raft) = raft_of(&self.places[place], group) else {
            return;
        };
        if other == node || !raft.status().membership.contains(NodeId(other as u64 + 1)) {
            return;
        }
        let message = forged(dice, raft.current_term());
        let far = self.place(other, self.places[place].core);
        let life = self.places[far].life;
        let mut liar = Connection::<Vec<u8>>::new(LIMITS);
        for head in pontoon::simulation::greetings(life) {
            liar.push_head(&head);
            liar.finish_frame();
        }
        liar.push_head(&pontoon::simulation::head(group, &message));
        liar.finish_frame();
        let sent = liar.send().expect("a frame");
        let bytes: Vec<u8> = sent.slices().flatten().copied().collect();
        let generation = self.places[place].generation;
        // A liar is heard once the member itself is not.
        for socket in self.network.of_place(place) {
            let end = self.network.end(socket).expect("one of its own");
            let to = self.network.end(end.other).map(|end| end.place);
            if to == Some(far) {
                self.cut(socket);
            }
        }
        let nobody = (far, u64::MAX);
        let [socket, far] = self.network.connect([(place, generation), nobody]);
        self.network.arrive(socket, &bytes, true);
        self.network.finish(socket);
        self.network.finish(far);
        self.hostile.lies += 1;
        self.injected(Fault::Lie);
        let peer = NodeId(other as u64 + 1);
        self.hostile.liars.push((place, peer, socket));
        self.complete(place, generation, Completion::Connected { peer, socket });
    }

    /// Somebody begins to ask a core for a hand-over, or goes on, or calls it off.
    pub(crate) fn nag(&mut self) {
        if self.hostile.nag.is_none() && self.random.happens(self.swarm.nag) {
            let down = (0..self.swarm.nodes).find(|node| !self.runs(*node));
            let any = self.random.below(self.swarm.nodes);
            let group = GroupId(1 + self.random.number() % self.swarm.groups);
            let leads = |place: &usize| {
                raft_of(&self.places[*place], group).is_some_and(pontoon::raft::Raft::is_leader)
            };
            let leader = (0..self.places.len()).find(leads);
            self.hostile.nag = leader.map(|place| Nag {
                place,
                group,
                to: NodeId(down.unwrap_or(any) as u64 + 1),
                until: self.now + 8 * ELECTION_TIMEOUT,
            });
        }
        let ends = |nag: &Nag| self.now >= nag.until;
        let Some(nag) = self.hostile.nag.take_if(|nag| !ends(nag)) else {
            self.hostile.nag = None;
            return;
        };
        if let Some(shard) = &self.places[nag.place].shard {
            let own = NodeId(self.places[nag.place].node as u64 + 1);
            let to = if self.random.happens(100_000) {
                own
            } else {
                nag.to
            };
            let answer = shard.group(nag.group).transfer_leadership(to);
            self.coverage.mark(RareEvent::HandOverAskedAgain);
            self.hostile.elections += 1;
            self.asked(nag.place, ("transfer", true), answer);
        }
        self.hostile.nag = Some(nag);
    }

    /// After a turn of a place: terms are as many as elections and lies explain, and no hand-over
    /// refuses proposals for long.
    pub(crate) fn check_bounds(&mut self, position: usize) {
        let Some(shard) = &self.places[position].shard else {
            return;
        };
        let clock = self.clocks[self.places[position].node].read(self.now);
        let timeouts = self.now / ELECTION_TIMEOUT + 1;
        let elections = ELECTIONS_MAX * timeouts * self.swarm.nodes as u64;
        let terms = self.hostile.lies * TERMS_MAX + self.hostile.elections + elections;
        let mut broken = None;
        let refusing = &mut self.hostile.refusing;
        for (group, raft) in shard.replicas() {
            let term = raft.current_term();
            if term.0 > terms {
                broken = Some(format!(
                    "group {group} is in term {term}, of {terms} at most"
                ));
            }
            let key = (position, group, term);
            if raft.transfer().is_none() {
                refusing.remove(&key);
                continue;
            }
            let (since, seen) = refusing.entry(key).or_insert((clock, clock));
            if clock - *seen > ELECTION_TIMEOUT / 2 {
                // It stood still: one hand-over may have ended in this turn, and another begun.
                *since = clock;
            }
            *seen = clock;
            if clock - *since > 2 * ELECTION_TIMEOUT {
                broken = Some(format!("a hand-over of group {group} does not end"));
            }
        }
        if let Some(what) = broken {
            self.fail(format!("place {position}: {what}"));
        }
        self.check_forgotten(position);
    }

    /// After a turn of a place: what a liar said of a log is forgotten once its connection is gone.
    fn check_forgotten(&mut self, position: usize) {
        if self.hostile.lies == 0 {
            return;
        }
        let network = &self.network;
        self.hostile
            .liars
            .retain(|(.., socket)| network.end(*socket).is_some());
        let Some(shard) = &self.places[position].shard else {
            return;
        };
        let lies = |peer: NodeId| {
            let mut liars = self.hostile.liars.iter();
            liars.any(|(place, name, _)| (*place, *name) == (position, peer))
        };
        let members = (1..=self.swarm.nodes as u64).map(NodeId);
        let honest: Vec<NodeId> = members.filter(|peer| !lies(*peer)).collect();
        let believes = |raft: &Raft| {
            let mut honest = honest.iter().copied();
            honest.find(|peer| raft.named_epoch(*peer) == FORGED_EPOCH)
        };
        let mut replicas = shard.replicas();
        let broken = replicas.find_map(|(group, raft)| Some((group, believes(raft)?)));
        drop(replicas);
        if let Some((group, peer)) = broken {
            self.fail(format!(
                "place {position} believes what a liar said of the log of node {peer}, group \
                 {group}, and that one is gone"
            ));
        }
    }
}

/// What a liar says to a replica in this term.
fn forged(dice: u64, term: Term) -> Message {
    let last = u64::MAX / 2;
    let ahead = [last, last - 1, 1 << 40, term.0 + 1][dice as usize % 4];
    let zero = EntryId::new(LogIndex(0), Term(0));
    match dice / 4 % 8 {
        0 => {
            let request = AppendEntries {
                prev_log: zero,
                count: 0,
                leader_commit: LogIndex(0),
                round: u64::MAX,
                replicated_everywhere: LogIndex(0),
            };
            Message::new(Term(ahead), request)
        }
        1 => {
            let last_log = EntryId::new(LogIndex(last), Term(last));
            let kind = VoteKind::Transfer;
            Message::new(Term(ahead), RequestVote { last_log, kind })
        }
        2 => {
            let (granted, kind) = (false, VoteKind::PreVote);
            Message::new(Term(ahead), VoteResponse { granted, kind })
        }
        3 => Message::new(term, Body::TimeoutNow),
        _ => {
            let outcome = AppendOutcome::Rejected {
                prev_log_index: LogIndex(last),
                hint: zero,
            };
            let response = AppendResponse {
                round: u64::MAX,
                outcome,
                log_epoch: FORGED_EPOCH,
                tainted: (dice / 64).is_multiple_of(2),
                room: if (dice / 32).is_multiple_of(2) {
                    LogRoom::Full
                } else {
                    LogRoom::Enough
                },
                renounced: dice.is_multiple_of(3),
            };
            Message::new(term, response)
        }
    }
}
