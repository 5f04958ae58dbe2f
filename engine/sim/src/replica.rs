//! What must hold of each replica from turn to turn: what one look
//! at all replicas can tell.

use pontoon::raft::{LogIndex, Raft, Term};
use pontoon::{GroupId, NodeId};

use crate::coverage::RareEvent;
use crate::faults::Fault;
use crate::trace::TraceKind;
use crate::world::{World, raft_of};

/// A replica as it was after its place's last turn.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    group: GroupId,
    term: Term,
    voted_for: Option<NodeId>,
    leads: bool,
    tainted: bool,
    founded: bool,
    commit: (LogIndex, Option<Term>),
    durable: (LogIndex, Option<Term>),
    last: (LogIndex, Option<Term>),
    stale_acknowledgements: u64,
    /// It is known what the group is: until then nothing is done for it.
    defined: bool,
    /// Entries were replaced, and what replaced them was not durable when it was last looked at.
    replaced: bool,
}

impl Seen {
    fn of(group: GroupId, raft: &Raft) -> Self {
        let place = |index| (index, raft.term_at(index));
        Self {
            group,
            term: raft.current_term(),
            voted_for: raft.voted_for(),
            leads: raft.is_leader(),
            tainted: raft.is_tainted(),
            founded: raft.is_founded(),
            commit: place(raft.commit_index()),
            durable: place(raft.durable_index()),
            last: place(raft.last_index()),
            stale_acknowledgements: raft.stale_acknowledgements(),
            defined: raft.is_defined(),
            replaced: false,
        }
    }

    /// Whether an entry that the replica held, as it was seen before, gave way to another.
    fn replaced_since(before: &Self, raft: &Raft) -> bool {
        let (index, term) = before.last;
        let replaced = index > raft.compacted().index && raft.term_at(index) != term;
        let undurable = before.replaced && before.durable.0 < before.last.0;
        replaced || undurable
    }

    /// Whether it held the same to be committed, and was believed.
    fn is_committed_as(&self, now: &Self) -> bool {
        !self.tainted && self.commit == now.commit
    }

    /// Whether it led in the same term.
    fn leads_as(&self, now: &Self) -> bool {
        self.leads && self.term == now.term
    }
}

impl World {
    /// After a turn.
    pub(crate) fn check_place(&mut self, position: usize) {
        let place = &mut self.places[position];
        let before = std::mem::take(&mut place.seen);
        let mut seen = std::mem::take(&mut place.seen_before);
        seen.clear();
        let mut votes = std::mem::take(&mut self.places[position].votes);
        let place = &mut self.places[position];
        if let Some(shard) = &place.shard {
            for (group, raft) in shard.replicas() {
                raft.check_invariants();
                let mut now = Seen::of(group, raft);
                let known = before.iter().find(|before| before.group == group);
                now.replaced = known.is_some_and(|before| Seen::replaced_since(before, raft));
                seen.push(now);
            }
            for now in seen.iter().filter(|now| now.voted_for.is_some()) {
                if shard.is_settled(now.group) && !now.tainted {
                    if let Some(known) = votes.iter().position(|(of, _)| *of == now.group) {
                        votes.remove(known);
                    }
                    votes.push((now.group, now.term));
                }
            }
        }
        self.places[position].votes = votes;
        for now in &seen {
            let before = before.iter().find(|before| before.group == now.group);
            // What is left of a group may be let go of when it is given its definition again.
            if let Some(before) = before.filter(|before| before.defined) {
                self.check_steps(position, before, now);
            }
            // What is known of an entry or a term stays: it was looked at when this was new.
            if before.is_none_or(|before| !before.is_committed_as(now)) {
                self.check_committed(position, now);
            }
            if before.is_none_or(|before| !before.leads_as(now)) {
                self.check_leader(position, now);
            }
            self.check_durable(position, now);
        }
        let place = &mut self.places[position];
        (place.seen, place.seen_before) = (seen, before);
        self.note_believed(position);
        self.check_bounds(position);
    }

    /// Nothing goes back, and a vote is given once in a term (thesis 3.3, figure 3.1).
    fn check_steps(&mut self, position: usize, before: &Seen, now: &Seen) {
        let group = now.group;
        let mut broken = |rule: &str| self.fail(format!("place {position} group {group}: {rule}"));
        if now.term < before.term {
            broken("the term went back");
        }
        if now.commit.0 < before.commit.0 {
            broken("the commit index went back");
        }
        let same_term = now.term == before.term;
        if same_term && before.voted_for.is_some() && now.voted_for != before.voted_for {
            broken("the vote changed within a term");
        }
        let leads_on = before.leads && now.leads && same_term;
        let counted = leads_on && now.commit.0 > before.commit.0;
        if counted && now.commit.1 != Some(now.term) {
            broken("an entry of an earlier term was committed by counting");
        }
        let stale = now.stale_acknowledgements - before.stale_acknowledgements;
        self.coverage.add(RareEvent::StaleAcknowledgement, stale);
        self.note_vote(position, before, now);
        if before.tainted && !now.tainted {
            let reported = self.places[position].reported.iter();
            let reported = reported.filter(|(of, _)| *of == group).map(|(_, at)| *at);
            let reported = reported.max();
            if reported.is_some() {
                self.coverage.mark(RareEvent::DamageRefetched);
            }
            let reported = reported.unwrap_or_default();
            if before.founded && self.committed_index(group) <= reported {
                self.fail(format!(
                    "place {position} counts again in group {group}, and nothing was committed \
                     since it reported its damage"
                ));
            }
        }
    }

    /// A replica that had lost a vote of its own, and counts again, votes.
    fn note_vote(&mut self, position: usize, before: &Seen, now: &Seen) {
        let votes_lost = &mut self.places[position].votes_lost;
        let votes =
            now.voted_for.is_some() && (before.term, before.voted_for) != (now.term, now.voted_for);
        if votes && !now.tainted && votes_lost.contains(&now.group) {
            votes_lost.retain(|group| *group != now.group);
            self.coverage.mark(RareEvent::VoteRegained);
        }
    }

    /// Highest entry that any replica of the group ever held to be committed.
    pub(crate) fn committed_index(&mut self, group: GroupId) -> LogIndex {
        let of_group = (group.0, LogIndex(0))..=(group.0, LogIndex(u64::MAX));
        let last = self.checks().committed.range(of_group).next_back();
        last.map_or(LogIndex(0), |((_, index), _)| *index)
    }

    /// Leader Completeness and State Machine Safety, for the terms of entries: of what is newly
    /// held to be committed.
    fn check_committed(&mut self, position: usize, now: &Seen) {
        let (index, Some(term)) = now.commit else {
            return;
        };
        if now.tainted {
            return;
        }
        let group = now.group;
        let known = self.checks().committed.entry((group.0, index));
        let known = *known.or_insert(term);
        if known != term {
            self.fail(format!(
                "place {position} holds entry {index} of group {group} to be committed in term \
                 {term}, elsewhere it is of term {known}"
            ));
        }
    }

    /// Election Safety, over all time: of a replica that did not lead in its term before.
    fn check_leader(&mut self, position: usize, now: &Seen) {
        if !now.leads {
            return;
        }
        let (group, term) = (now.group, now.term);
        let node = NodeId(self.places[position].node as u64 + 1);
        let known = *self.checks().leaders.entry((group.0, term)).or_insert(node);
        if known != node {
            self.fail(format!(
                "nodes {known} and {node} both led {group} in term {term}"
            ));
        }
        self.on_new_leader(position, group, term);
    }

    fn on_new_leader(&mut self, position: usize, group: GroupId, term: Term) {
        self.coverage.mark(RareEvent::LeaderChanged);
        self.isolate_new_leader(self.places[position].node);
        if self.fill_for_a_while(self.places[position].node, self.swarm.full_leader) {
            self.injected(Fault::DiskFullLeader);
        }
        let others = self.places.iter().filter(|place| {
            raft_of(place, group)
                .is_some_and(|raft| raft.is_leader() && raft.current_term() != term)
        });
        if others.count() > 0 {
            self.coverage.mark(RareEvent::TwoLeaders);
        }
        let text = format_args!("place {position} leads group {group} in term {term}");
        self.trace.event(
            self.now,
            TraceKind::Leader,
            &[position as u64, group.0, term.0],
            text,
        );
    }

    /// What the rules take to be durable is on the disk for good. Slow: in some runs always, in the
    /// others while what replaced other entries becomes durable, for there a late acknowledgement
    /// speaks of what is gone.
    fn check_durable(&mut self, position: usize, now: &Seen) {
        let (index, Some(term)) = now.durable else {
            return;
        };
        let lied = self.places[position].disk.unnoticed;
        let looked_at = now.replaced || self.checks().promises();
        let checked = looked_at && !now.tainted && !lied;
        let place = (position, now.group);
        if !checked || self.checks().on_disk.get(&place) == Some(&(index, term)) {
            return;
        }
        if self.holds(position, now.group, index, term) {
            self.checks().on_disk.insert(place, (index, term));
        } else {
            self.fail(format!(
                "place {position} takes entry {index} of group {} for durable, its disk does not \
                 hold it",
                now.group
            ));
        }
    }
}
