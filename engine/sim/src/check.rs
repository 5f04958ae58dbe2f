//! What must hold before every message: nothing is promised that the disk may lose.

use std::collections::BTreeMap;

use pontoon::port::SocketId;
use pontoon::raft::{
    AppendEntries, AppendOutcome, AppendResponse, Body, LogIndex, Message, Term, VoteKind,
    VoteResponse,
};
use pontoon::storage::{RecoveredGroup, record};
use pontoon::transport::{Connection, Frame, Head};
use pontoon::{GroupId, NodeId};

use crate::settings::LIMITS;
use crate::world::{World, raft_of};

/// What the checks remember.
pub(crate) struct Checks {
    promises: bool,
    /// Who led a group in a term, over all time.
    pub(crate) leaders: BTreeMap<(u64, Term), NodeId>,
    /// Reads what passes over each socket, as its receiver would.
    sniffers: BTreeMap<SocketId, Connection<Vec<u8>>>,
    /// The term of each entry that any replica ever held to be committed, by group and index.
    pub(crate) committed: BTreeMap<(u64, LogIndex), Term>,
    /// Committed entries that were found on the disks of a majority, by group.
    on_majority: BTreeMap<GroupId, LogIndex>,
    /// The last durable entry that was found on a place's disk, by place and group.
    pub(crate) on_disk: BTreeMap<(usize, GroupId), (LogIndex, Term)>,
    /// What each place's disk holds for good, by the version of its image.
    images: BTreeMap<usize, (u64, Vec<RecoveredGroup>)>,
}

impl Checks {
    pub(crate) fn new(promises: bool) -> Self {
        Self {
            promises,
            leaders: BTreeMap::new(),
            committed: BTreeMap::new(),
            sniffers: BTreeMap::new(),
            on_majority: BTreeMap::new(),
            on_disk: BTreeMap::new(),
            images: BTreeMap::new(),
        }
    }

    pub(crate) fn promises(&self) -> bool {
        self.promises
    }
}

/// A message on the wire, and its entries with their bytes.
pub(crate) struct Sniffed {
    pub(crate) head: Head,
    pub(crate) entries: Vec<(LogIndex, u64)>,
}

impl World {
    /// Before bytes leave: each message promises only what the sender's disk holds for good
    /// (thesis 3.8), and says only that to be committed which a majority's disks hold. What it
    /// costs is counted.
    pub(crate) fn note_sent(&mut self, position: usize, socket: SocketId, bytes: &[u8]) {
        if !self.checks.promises() && !self.swarm.steady {
            return;
        }
        let Some(end) = self.network.end(socket) else {
            return;
        };
        let Some(other) = self.network.end(end.other) else {
            return;
        };
        let to = NodeId(self.places[other.place].node as u64 + 1);
        let sniffed = self.sniff(socket, bytes);
        for message in &sniffed {
            self.count_message(position, (to, socket), message);
        }
        // A drive that has lost durable data told its node otherwise: until the node finds that
        // out, it promises what was true when the drive said so. The others hold it (the atlas).
        if !self.checks.promises() || self.places[position].disk.unnoticed {
            return;
        }
        for Sniffed { head, .. } in sniffed {
            if let Some(message) = pontoon::simulation::message(&head) {
                self.check_message(position, to, GroupId(head.group), &message);
            }
        }
    }

    fn sniff(&mut self, socket: SocketId, mut bytes: &[u8]) -> Vec<Sniffed> {
        let sniffers = &mut self.checks().sniffers;
        let connection = sniffers
            .entry(socket)
            .or_insert_with(|| Connection::new(LIMITS));
        let mut sniffed = Vec::new();
        while !bytes.is_empty() {
            let Some(mut buffer) = connection.receive() else {
                break;
            };
            let count = buffer.free().len().min(bytes.len());
            buffer.free()[..count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if connection.on_received(buffer, Ok(count)).is_err() {
                break;
            }
            while let Ok(Some(frame)) = connection.next_frame() {
                sniffed.extend(messages(&frame));
            }
        }
        sniffed
    }

    fn image(&mut self, position: usize, group: GroupId) -> Option<RecoveredGroup> {
        let version = self.places[position].disk.version;
        let known = self.checks().images.get(&position).map(|(at, _)| *at);
        if known != Some(version) {
            let cores = self.swarm.cores;
            let recovery = self.places[position].durable_image(cores);
            let groups = recovery.map(|recovery| recovery.groups).unwrap_or_default();
            self.checks().images.insert(position, (version, groups));
        }
        let (_, groups) = &self.checks().images[&position];
        groups.iter().find(|found| found.group == group).cloned()
    }

    pub(crate) fn holds(
        &mut self,
        position: usize,
        group: GroupId,
        index: LogIndex,
        term: Term,
    ) -> bool {
        let Some(image) = self.image(position, group) else {
            return index == LogIndex(0);
        };
        let run = image.terms.iter().rev().find(|run| run.index <= index);
        index <= image.compacted.index
            || (index <= image.last_index && run.is_some_and(|run| run.term == term))
    }

    fn check_message(&mut self, position: usize, to: NodeId, group: GroupId, message: &Message) {
        if let Body::AppendEntries(request) = message.body {
            let found = self.checks().on_majority.get(&group);
            if found.is_some_and(|found| request.leader_commit <= *found) {
                return;
            }
        }
        let image = self.image(position, group);
        // A log says its last entry's term as well: where the record of a term is lost with damage,
        // the entries that a leader of that term gave remain, and a start goes on from them.
        let entries = image.as_ref().and_then(|image| image.terms.last());
        let entries_term = entries.map_or(Term(0), |run| run.term);
        let hard = image.map_or((Term(0), None), |image| {
            (image.current_term, image.voted_for)
        });
        let durable_term = hard.0.max(entries_term);
        let raft = raft_of(&self.places[position], group);
        let known = raft.map(|raft| {
            let index = match message.body {
                Body::AppendResponse(AppendResponse {
                    outcome: AppendOutcome::Accepted { match_index },
                    ..
                }) => match_index,
                Body::AppendEntries(AppendEntries { leader_commit, .. }) => leader_commit,
                _ => LogIndex(0),
            };
            (raft.current_term(), index, raft.term_at(index))
        });
        let Some((current_term, index, index_term)) = known else {
            return;
        };
        let term = message.term;
        match message.body {
            Body::VoteResponse(VoteResponse {
                granted: true,
                kind: VoteKind::Vote | VoteKind::Transfer,
            }) if hard.0 <= term && hard != (term, Some(to)) => {
                self.fail(format!(
                    "place {position} votes for {to} in term {term}, its disk holds {hard:?}"
                ));
            }
            Body::AppendResponse(AppendResponse { outcome, .. }) => {
                let accepted = matches!(outcome, AppendOutcome::Accepted { .. });
                if durable_term < term {
                    self.fail(format!(
                        "place {position} answers in term {term} and may forget it"
                    ));
                } else if accepted
                    && current_term == term
                    && let Some(index_term) = index_term
                    && !self.holds(position, group, index, index_term)
                {
                    self.fail(format!(
                        "place {position} promises entry {index} of group {group}, which its disk \
                         does not hold"
                    ));
                }
            }
            Body::AppendEntries(_) => {
                if let Some(index_term) = index_term {
                    self.check_commit(position, group, index, index_term);
                }
            }
            _ => {}
        }
    }

    /// What a leader says to be committed is on the disks of a majority.
    fn check_commit(&mut self, position: usize, group: GroupId, index: LogIndex, index_term: Term) {
        let core = self.places[position].core;
        // A disk that has lost something may have held it.
        let holding = (0..self.swarm.nodes)
            .filter(|&node| {
                let place = self.place(node, core);
                let decayed = self.places[place].disk.decayed;
                decayed || self.holds(place, group, index, index_term)
            })
            .count();
        if holding <= self.swarm.nodes / 2 {
            return self.fail(format!(
                "place {position} says that entry {index} of group {group} is committed, \
                 {holding} disks hold it"
            ));
        }
        // Entries before it are there as well, and what is durable stays.
        self.checks().on_majority.insert(group, index);
    }
}

/// The messages of a frame, each with its entries.
fn messages<'a>(frame: &'a Frame<'a>) -> impl Iterator<Item = Sniffed> + 'a {
    let mut records = frame.records();
    frame.heads().map(move |head| {
        let mut entries = Vec::new();
        let request = pontoon::simulation::message(&head).and_then(|message| match message.body {
            Body::AppendEntries(request) => Some(request.count),
            _ => None,
        });
        for _ in 0..request.unwrap_or(0) {
            let Ok(record) = record::parse_unchecked(records) else {
                break;
            };
            entries.push((record.index, record.encoded_bytes as u64));
            records = &records[record.encoded_bytes..];
        }
        Sniffed { head, entries }
    })
}
