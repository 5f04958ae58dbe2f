//! The rules of Raft alone: three replicas and whatever a network, disks and power can do to them,
//! or one among peers that say anything.

use std::collections::{BTreeMap, VecDeque};

use pontoon::NodeId;
use pontoon::raft::{
    AppendOutcome, AppendResponse, Appended, Body, Boot, EntryKind, EntryMeta, HardState, LogIndex,
    Message, Outgoing, Output, Raft, Term, Time, VoteKind, VoteResponse, WriteSequence,
};

use super::bytes::Bytes;
use super::forged_messages;
use super::lone_raft::{NODES, meta, raft, term_runs};
use super::replica_invariants::ReplicaInvariants;

/// Longer scripts show nothing that shorter ones don't.
const STEPS_MAX: usize = 2_000;
/// The one whose disk may lose what was durable.
const DAMAGED: NodeId = NodeId(3);
/// An even first byte: the rest are steps of three replicas, two bytes each (`Cluster::step`).
/// An odd one: steps of one among liars (`forged_messages::run`).
pub fn raft_step(input: &[u8]) {
    let mut input = Bytes::new(input);
    if input.byte() % 2 == 1 {
        return forged_messages::run(input);
    }
    let mut cluster = Cluster::new();
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            return;
        }
        let (what, how) = (input.byte(), input.byte());
        cluster.step(what, usize::from(how));
    }
}

/// An entry: its term, and a number that stands for its bytes. 0 is a leader's empty entry.
type Entry = (Term, u64);

/// What a disk holds of one replica.
#[derive(Clone, Default)]
struct Image {
    hard_state: HardState,
    log: Vec<Entry>,
    tainted: bool,
}

#[derive(Clone)]
struct Packet {
    message: Message,
    entries: Vec<Entry>,
}

struct Replica {
    raft: Raft,
    watch: ReplicaInvariants,
    starts: u64,
    current: Image,
    durable: Image,
    /// The newest write.
    written: WriteSequence,
    /// Writes under way: what the disk holds once each is durable.
    writes: VecDeque<(WriteSequence, Image)>,
    /// Messages that wait for a write.
    held: Vec<(WriteSequence, NodeId, Packet)>,
}

struct Cluster {
    now: Time,
    replicas: BTreeMap<NodeId, Replica>,
    links: BTreeMap<(NodeId, NodeId), Vec<Packet>>,
    next_command: u64,
    leaders: BTreeMap<Term, NodeId>,
    committed: Vec<Entry>,
}

impl Replica {
    fn start(id: NodeId, start: u64, now: Time, durable: Image) -> Self {
        let boot = Boot {
            hard_state: durable.hard_state,
            terms: term_runs(durable.log.iter().map(|entry| entry.0)),
            last_index: LogIndex(durable.log.len() as u64),
            tainted: durable.tainted,
            ..Boot::default()
        };
        Self {
            raft: raft(id, start, now, boot),
            watch: ReplicaInvariants::default(),
            starts: start,
            current: durable.clone(),
            durable,
            written: WriteSequence(0),
            writes: VecDeque::new(),
            held: Vec::new(),
        }
    }

    /// Takes what a call wants to have persisted.
    fn stage(&mut self, output: &Output, received: &[Entry]) {
        if let Some(hard_state) = output.hard_state {
            self.current.hard_state = hard_state;
        }
        if output.repaired {
            self.current.tainted = false;
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
            self.current.log.truncate(first.0 as usize - 1);
            self.current.log.extend(entries);
        }
        let sequence = self.raft.write_sequence();
        if sequence > self.written {
            self.written = sequence;
            self.writes.push_back((sequence, self.current.clone()));
        }
    }

    /// Nothing is promised before it is durable.
    fn check_promise(&self, to: NodeId, message: &Message) {
        let term = message.term;
        match message.body {
            Body::VoteResponse(VoteResponse {
                granted: true,
                kind: VoteKind::Vote | VoteKind::Transfer,
            }) => {
                let promised = HardState {
                    current_term: term,
                    voted_for: Some(to),
                };
                assert_eq!(self.durable.hard_state, promised, "a vote not durable");
            }
            Body::AppendResponse(AppendResponse {
                outcome: AppendOutcome::Accepted { match_index },
                tainted: false,
                ..
            }) if term == self.raft.current_term() => {
                let end = match_index.0 as usize;
                let promised = self.current.log.get(..end);
                assert_eq!(self.durable.log.get(..end), promised, "not durable");
            }
            _ => {}
        }
    }
}

impl Cluster {
    fn new() -> Self {
        let ids = (1..=NODES).map(NodeId);
        let start = |id| (id, Replica::start(id, 1, Time(0), Image::default()));
        Self {
            now: Time(0),
            replicas: ids.map(start).collect(),
            links: BTreeMap::new(),
            next_command: 1,
            leaders: BTreeMap::new(),
            committed: Vec::new(),
        }
    }

    /// `what` is the kind of step, `how` chooses among replicas, links and amounts.
    fn step(&mut self, what: u8, how: usize) {
        let id = NodeId(1 + how as u64 % NODES);
        let amount = how / NODES as usize;
        let other = NodeId(1 + (id.0 + amount as u64 % 2) % NODES);
        match what % 16 {
            0..=3 => self.deliver(id, other, 0, true),
            4 => self.deliver(id, other, amount / 2, true),
            5 => self.deliver(id, other, amount / 2, false),
            6 => self.lose(id, other, amount / 2),
            7 => {
                let pace = [5, 30, 100, 400, 1_100, 2_500];
                self.now = Time(self.now.0 + pace[amount % pace.len()]);
                self.call(id, &[], |raft, now, output| raft.tick(now, output));
            }
            8 | 9 => self.persist(id),
            10 => self.propose(id, 1 + amount as u64 % 4),
            11 => self.restart(id, 0),
            12 => self.call(id, &[], |raft, now, output| raft.campaign(now, output)),
            13 => self.call(id, &[], |raft, now, output| {
                // Refused unless this one leads.
                let _ = raft.transfer_leadership(now, other, output);
            }),
            14 => self.disconnect(id, other),
            _ if amount % 4 == 3 => self.restart(DAMAGED, 1 + amount / 4),
            _ => self.compact(id),
        }
    }

    /// One call into a replica, and what it asks for.
    fn call(
        &mut self,
        id: NodeId,
        received: &[Entry],
        call: impl FnOnce(&mut Raft, Time, &mut Output),
    ) {
        let mut output = Output::default();
        let now = self.now;
        let replica = self.replica(id);
        call(&mut replica.raft, now, &mut output);
        replica.stage(&output, received);
        replica.watch.look(&replica.raft);
        for outgoing in output.messages {
            self.route(id, outgoing);
        }
        self.check(id);
    }

    fn replica(&mut self, id: NodeId) -> &mut Replica {
        self.replicas.get_mut(&id).expect("one of the three")
    }

    fn route(&mut self, from: NodeId, outgoing: Outgoing) {
        let replica = self.replica(from);
        let entries = match outgoing.message.body {
            Body::AppendEntries(request) => {
                let first = request.prev_log.index.0 as usize;
                replica.current.log[first..first + request.count as usize].to_vec()
            }
            _ => Vec::new(),
        };
        let packet = Packet {
            message: outgoing.message,
            entries,
        };
        if outgoing.after_persist && !replica.writes.is_empty() {
            let sequence = replica.raft.write_sequence();
            replica.held.push((sequence, outgoing.to, packet));
        } else {
            self.send(from, outgoing.to, packet);
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, packet: Packet) {
        self.replicas[&from].check_promise(to, &packet.message);
        self.links.entry((from, to)).or_default().push(packet);
    }

    /// A message arrives, or a copy of it.
    fn deliver(&mut self, from: NodeId, to: NodeId, place: usize, once: bool) {
        let link = self.links.entry((from, to)).or_default();
        if link.is_empty() {
            return;
        }
        let place = place % link.len();
        let packet = if once {
            link.remove(place)
        } else {
            link[place].clone()
        };
        let kind = |command| match command {
            0 => EntryKind::Noop,
            _ => EntryKind::Command,
        };
        let entries = packet.entries.iter();
        let metas: Vec<EntryMeta> = entries.map(|it| meta(it.0, kind(it.1))).collect();
        self.call(to, &packet.entries, |raft, now, output| {
            raft.step(now, from, packet.message, &metas, output);
        });
    }

    fn lose(&mut self, from: NodeId, to: NodeId, place: usize) {
        let link = self.links.entry((from, to)).or_default();
        if !link.is_empty() {
            link.remove(place % link.len());
        }
    }

    /// What is under way between two replicas is lost, and both know.
    fn disconnect(&mut self, one: NodeId, other: NodeId) {
        for (from, to) in [(one, other), (other, one)] {
            self.links.remove(&(from, to));
            self.replica(from).raft.report_unreachable(to);
        }
    }

    /// The oldest write is durable, and what waited for it is sent.
    fn persist(&mut self, id: NodeId) {
        let replica = self.replica(id);
        let Some((sequence, image)) = replica.writes.pop_front() else {
            return;
        };
        replica.durable = image;
        let held = std::mem::take(&mut replica.held);
        let (ready, held) = held.into_iter().partition(|it| it.0 <= sequence);
        replica.held = held;
        for (_, to, packet) in ready {
            self.send(id, to, packet);
        }
        self.call(id, &[], |raft, now, output| {
            raft.on_persisted(now, sequence, output);
        });
    }

    fn propose(&mut self, id: NodeId, count: u64) {
        let first = self.next_command;
        self.next_command += count;
        let entries = vec![meta(Term(0), EntryKind::Command); count as usize];
        let replica = self.replica(id);
        let term = replica.raft.current_term();
        let commands: Vec<Entry> = (first..first + count).map(|each| (term, each)).collect();
        self.call(id, &commands, |raft, now, output| {
            // Refused unless this one leads.
            let _ = raft.propose(now, &entries, output);
        });
    }

    /// The power fails: what is not durable is lost, and on one of the three so many durable
    /// entries as well.
    fn restart(&mut self, id: NodeId, lost: usize) {
        let now = self.now;
        let replica = self.replica(id);
        let mut image = replica.durable.clone();
        if lost > 0 {
            let kept = image.log.len().saturating_sub(lost);
            image.log.truncate(kept);
            image.tainted = true;
        }
        *replica = Replica::start(id, replica.starts + 1, now, image);
        for other in (1..=NODES).map(NodeId).filter(|other| *other != id) {
            self.disconnect(id, other);
        }
        self.check(id);
    }

    /// What is committed is applied, and what everybody has is forgotten.
    fn compact(&mut self, id: NodeId) {
        let raft = &mut self.replica(id).raft;
        raft.on_applied(raft.commit_index());
        raft.compact(raft.replicated_everywhere());
        self.check(id);
    }

    /// Election Safety, State Machine Safety and Leader Completeness (figure 3.2), and that a
    /// majority's disks hold what is committed.
    fn check(&mut self, id: NodeId) {
        let Self {
            replicas,
            leaders,
            committed,
            ..
        } = self;
        let replica = &replicas[&id];
        let (raft, log) = (&replica.raft, &replica.current.log);
        raft.check_invariants();
        let commit = raft.commit_index().0 as usize;
        for (position, entry) in log[..commit].iter().enumerate() {
            if position < committed.len() {
                assert_eq!(*entry, committed[position], "two entries at {position}");
                continue;
            }
            let holds = |it: &&Replica| it.durable.log.get(position) == Some(entry);
            let copies = replicas.values().filter(holds).count();
            // What one disk acknowledged and lost is safe as long as that one is tainted.
            let lost = usize::from(replicas[&DAMAGED].durable.tainted);
            assert!(
                copies + lost >= 2,
                "committed on {copies} disks at {position}"
            );
            committed.push(*entry);
        }
        if raft.is_leader() {
            let term = raft.current_term();
            assert_eq!(*leaders.entry(term).or_insert(id), id, "two leaders");
            if leaders.keys().next_back() == Some(&term) {
                assert!(
                    log.starts_with(committed),
                    "a leader lacks what is committed"
                );
            }
        }
    }
}
