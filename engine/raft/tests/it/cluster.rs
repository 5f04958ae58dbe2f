//! Several replicas with a network of ordered links and disks that acknowledge when told to.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use pontoon_raft::{
    AppendOutcome, Appended, Body, Boot, EntryId, EntryKind, EntryMeta, HardState, LogIndex,
    Membership, Message, NodeId, Outgoing, Output, Raft, RaftConfig, Term, Time, VoteKind,
    VoteResponse, WriteSequence,
};

/// An entry: its term, and a number that stands for its bytes. 0 is a leader's empty entry.
pub(crate) type Entry = (Term, u64);

/// What a disk holds of one replica.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) hard_state: HardState,
    pub(crate) log: Vec<Entry>,
}

pub(crate) struct Packet {
    pub(crate) message: Message,
    entries: Vec<Entry>,
}

pub(crate) struct Replica {
    pub(crate) raft: Raft,
    pub(crate) current: Image,
    pub(crate) durable: Image,
    /// Writes under way: what the disk will hold once each is durable.
    pub(crate) writes: VecDeque<(WriteSequence, Image)>,
    held: Vec<(WriteSequence, NodeId, Packet)>,
}

pub(crate) struct Cluster {
    pub(crate) now: Time,
    pub(crate) replicas: BTreeMap<NodeId, Replica>,
    pub(crate) links: BTreeMap<(NodeId, NodeId), VecDeque<Packet>>,
    membership: Membership,
    restarts: u64,
    next_command: u64,
    leaders: BTreeMap<Term, NodeId>,
    pub(crate) committed: BTreeMap<u64, Entry>,
    pub(crate) transcript: String,
}

pub(crate) fn config(id: NodeId, seed: u64) -> RaftConfig {
    RaftConfig {
        election_timeout: 1_000,
        heartbeat_interval: 100,
        seed,
        entries_per_message_max: 3,
        messages_in_flight_max: 2,
        ..RaftConfig::new(id)
    }
}

impl Cluster {
    pub(crate) fn new(size: u64, seed: u64) -> Self {
        let ids: Vec<NodeId> = (1..=size).map(NodeId).collect();
        let membership = Membership::of_voters(&ids);
        let replicas = ids.iter().map(|&id| {
            let boot = Boot {
                membership: membership.clone(),
                ..Boot::default()
            };
            let raft = Raft::new(config(id, seed ^ id.0), boot, Time(0));
            let (current, durable) = (Image::default(), Image::default());
            (
                id,
                Replica {
                    raft,
                    current,
                    durable,
                    writes: VecDeque::new(),
                    held: Vec::new(),
                },
            )
        });
        Self {
            now: Time(0),
            replicas: replicas.collect(),
            links: BTreeMap::new(),
            membership,
            restarts: 0,
            next_command: 1,
            leaders: BTreeMap::new(),
            committed: BTreeMap::new(),
            transcript: String::new(),
        }
    }

    pub(crate) fn raft(&self, id: u64) -> &Raft {
        &self.replicas[&NodeId(id)].raft
    }

    /// Runs one call into a replica and carries out what it asks for.
    pub(crate) fn call(
        &mut self,
        id: NodeId,
        received: &[Entry],
        call: impl FnOnce(&mut Raft, Time, &mut Output),
    ) {
        let mut output = Output::default();
        let replica = self
            .replicas
            .get_mut(&id)
            .expect("a replica of the cluster");
        let sequence_before = replica.raft.write_sequence();
        call(&mut replica.raft, self.now, &mut output);
        replica.stage(&output, received);
        if replica.raft.write_sequence() > sequence_before {
            let image = replica.current.clone();
            replica
                .writes
                .push_back((replica.raft.write_sequence(), image));
        }
        for outgoing in output.messages {
            self.route(id, outgoing);
        }
        self.check(id);
    }

    pub(crate) fn propose(&mut self, id: NodeId, count: u64) {
        let first = self.next_command;
        self.next_command += count;
        let meta = EntryMeta {
            term: Term(0),
            bytes: 48,
            kind: EntryKind::Command,
        };
        let entries = vec![meta; usize::try_from(count).expect("few")];
        let replica = self
            .replicas
            .get_mut(&id)
            .expect("a replica of the cluster");
        let term = replica.raft.current_term();
        let commands: Vec<Entry> = (first..first + count).map(|each| (term, each)).collect();
        self.call(id, &commands, |raft, now, output| {
            // Who does not lead refuses.
            let _ = raft.propose(now, &entries, output);
        });
    }

    fn route(&mut self, from: NodeId, outgoing: Outgoing) {
        let replica = self
            .replicas
            .get_mut(&from)
            .expect("a replica of the cluster");
        let entries = match outgoing.message.body {
            Body::AppendEntries(request) => {
                let first = usize::try_from(request.prev_log.index.0).expect("short logs");
                replica.current.log[first..first + request.count as usize].to_vec()
            }
            _ => Vec::new(),
        };
        let packet = Packet {
            message: outgoing.message,
            entries,
        };
        let sequence = replica.raft.write_sequence();
        if outgoing.after_persist && replica.writes.back().is_some() {
            replica.held.push((sequence, outgoing.to, packet));
        } else {
            self.send(from, outgoing.to, packet);
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, packet: Packet) {
        self.replicas[&from].assert_durable(to, &packet.message);
        let _ = writeln!(self.transcript, "  {from} -> {to} {}", packet.message);
        self.links.entry((from, to)).or_default().push_back(packet);
    }

    /// The oldest write of this replica becomes durable; what waited for it is sent.
    pub(crate) fn persist_one(&mut self, id: NodeId) {
        let replica = self
            .replicas
            .get_mut(&id)
            .expect("a replica of the cluster");
        let Some((sequence, image)) = replica.writes.pop_front() else {
            return;
        };
        replica.durable = image;
        let (ready, waiting) = replica
            .held
            .drain(..)
            .partition(|&(needed, ..)| needed <= sequence);
        replica.held = waiting;
        let _ = writeln!(self.transcript, "  {id} persisted write {sequence}");
        for (_, to, packet) in ready {
            self.send(id, to, packet);
        }
        self.call(id, &[], |raft, now, output| {
            raft.on_persisted(now, sequence, output)
        });
    }

    pub(crate) fn deliver_one(&mut self, from: NodeId, to: NodeId) {
        let Some(packet) = self
            .links
            .get_mut(&(from, to))
            .and_then(VecDeque::pop_front)
        else {
            return;
        };
        let meta = packet.entries.iter().map(|&(term, command)| {
            let kind = if command == 0 {
                EntryKind::Noop
            } else {
                EntryKind::Command
            };
            EntryMeta {
                term,
                bytes: 48,
                kind,
            }
        });
        let meta: Vec<EntryMeta> = meta.collect();
        self.call(to, &packet.entries, |raft, now, output| {
            raft.step(now, from, packet.message, &meta, output);
        });
    }

    /// Loses what is under way between two nodes and tells both, as a broken connection does.
    pub(crate) fn disconnect(&mut self, one: NodeId, other: NodeId) {
        for (from, to) in [(one, other), (other, one)] {
            self.links.remove(&(from, to));
            self.replicas
                .get_mut(&from)
                .expect("a replica")
                .raft
                .report_disconnected(to);
        }
    }

    /// Loses everything that is not durable and starts again.
    pub(crate) fn restart(&mut self, id: NodeId) {
        self.restarts += 1;
        let seed = id.0 ^ (self.restarts << 8);
        let replica = self
            .replicas
            .get_mut(&id)
            .expect("a replica of the cluster");
        replica.current = replica.durable.clone();
        replica.writes.clear();
        replica.held.clear();
        let boot = boot(&replica.durable, &self.membership);
        replica.raft = Raft::new(config(id, seed), boot, self.now);
        let others: Vec<NodeId> = self
            .replicas
            .keys()
            .copied()
            .filter(|&it| it != id)
            .collect();
        for other in others {
            self.disconnect(id, other);
        }
    }

    /// Delivers and persists until nothing is under way.
    pub(crate) fn settle(&mut self) {
        loop {
            let busy: Vec<_> = self
                .links
                .iter()
                .filter(|(_, link)| !link.is_empty())
                .collect();
            if let Some(&(&(from, to), _)) = busy.first() {
                self.deliver_one(from, to);
                continue;
            }
            let writer = self
                .replicas
                .iter()
                .find(|(_, replica)| !replica.writes.is_empty());
            let Some((&id, _)) = writer else { return };
            self.persist_one(id);
        }
    }

    fn check(&mut self, id: NodeId) {
        let raft = &self.replicas[&id].raft;
        raft.check_invariants();
        if raft.is_leader() {
            // Election Safety (figure 3.2): at most one leader in a term.
            let leader = *self.leaders.entry(raft.current_term()).or_insert(id);
            assert_eq!(leader, id, "two leaders in term {}", raft.current_term());
        }
        self.check_committed(id);
        self.check_leader_completeness(id);
    }

    /// State Machine Safety (figure 3.2), and that a quorum holds durably what is committed.
    fn check_committed(&mut self, id: NodeId) {
        let replica = &self.replicas[&id];
        let commit_index = replica.raft.commit_index().0;
        let known = self.committed.keys().next_back().copied().unwrap_or(0);
        for index in 1..=commit_index {
            let position = usize::try_from(index).expect("short logs") - 1;
            let entry = replica.current.log[position];
            let first = *self.committed.entry(index).or_insert(entry);
            assert_eq!(first, entry, "two entries committed at {index}");
            if index > known {
                let holds = |it: &&Replica| it.durable.log.get(position) == Some(&entry);
                let copies = self.replicas.values().filter(holds).count();
                assert!(
                    copies * 2 > self.replicas.len(),
                    "{index} committed on {copies} disks"
                );
            }
        }
    }

    /// Leader Completeness (figure 3.2): a leader holds everything committed in earlier terms.
    fn check_leader_completeness(&self, id: NodeId) {
        let replica = &self.replicas[&id];
        let newest = self.leaders.keys().next_back();
        if !replica.raft.is_leader() || newest != Some(&replica.raft.current_term()) {
            return;
        }
        for (&index, entry) in &self.committed {
            let position = usize::try_from(index).expect("short logs") - 1;
            assert_eq!(
                replica.current.log.get(position),
                Some(entry),
                "the leader lacks {index}"
            );
        }
    }
}

impl Replica {
    fn stage(&mut self, output: &Output, received: &[Entry]) {
        if let Some(hard_state) = output.hard_state {
            self.current.hard_state = hard_state;
        }
        for appended in &output.appended {
            let (first, entries) = match *appended {
                Appended::Noop(entry) => (entry.index, vec![(entry.term, 0)]),
                Appended::Proposed { first_index, .. } => (first_index, received.to_vec()),
                Appended::Received {
                    first_index,
                    skip,
                    count,
                } => {
                    let (skip, count) = (skip as usize, count as usize);
                    (first_index, received[skip..skip + count].to_vec())
                }
            };
            self.current
                .log
                .truncate(usize::try_from(first.0).expect("short logs") - 1);
            self.current.log.extend(entries);
        }
    }

    /// Persist before reply: the durable image holds whatever a message asserts.
    fn assert_durable(&self, to: NodeId, message: &Message) {
        let term = message.term;
        match message.body {
            Body::VoteResponse(VoteResponse {
                granted: true,
                kind,
            }) if kind != VoteKind::PreVote => {
                let promised = HardState {
                    current_term: term,
                    voted_for: Some(to),
                };
                assert_eq!(self.durable.hard_state, promised, "a vote not durable");
            }
            Body::RequestVote(request) if request.kind != VoteKind::PreVote => {
                assert_eq!(
                    self.durable.hard_state.current_term, term,
                    "a candidacy not durable"
                );
            }
            Body::AppendResponse(response) => {
                let AppendOutcome::Accepted { match_index } = response.outcome else {
                    return;
                };
                let end = usize::try_from(match_index.0).expect("short logs");
                assert!(
                    self.durable.log.len() >= end,
                    "{match_index} is not durable"
                );
                // An answer held for the disk may be older than a truncation in a later term.
                if term == self.raft.current_term() {
                    let agrees = self.durable.log[..end] == self.current.log[..end];
                    assert!(agrees, "another entry is durable below {match_index}");
                }
            }
            _ => {}
        }
    }
}

/// What a replica is made of after a restart.
pub(crate) fn boot(image: &Image, membership: &Membership) -> Boot {
    let mut terms: Vec<EntryId> = Vec::new();
    for (position, &(term, _)) in image.log.iter().enumerate() {
        if terms.last().is_none_or(|run| run.term != term) {
            terms.push(EntryId::new(LogIndex(position as u64 + 1), term));
        }
    }
    Boot {
        hard_state: image.hard_state,
        membership: membership.clone(),
        terms,
        last_index: LogIndex(image.log.len() as u64),
        ..Boot::default()
    }
}
