//! Nothing is sent before what it promises is durable: every message that leaves a node is checked
//! against what its disk would hold if the power failed at that moment (FAULTS 4.3, I7 and I8).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pontoon_raft::{
    AppendEntries, AppendOutcome, AppendResponse, Body, LogIndex, Message, NodeId, Term, VoteKind,
    VoteResponse,
};
use pontoon_storage::RecoveredGroup;
use pontoon_transport::{Connection, FrameLimits, Head};

use super::cluster::{Cluster, GROUP, poll};
use crate::outcome::Proposal;
use crate::port::SocketId;
use crate::shard::Mutant;
use crate::wire;

/// Reads what passes over the sockets, as their receivers would.
#[derive(Default)]
struct Sniffer {
    connections: BTreeMap<SocketId, Connection<Vec<u8>>>,
}

impl Sniffer {
    fn heads(&mut self, socket: SocketId, mut bytes: &[u8]) -> Vec<Head> {
        let limits = FrameLimits {
            frame_bytes_max: 32 << 10,
            receive_ahead_bytes: 16 << 10,
        };
        let connection = self
            .connections
            .entry(socket)
            .or_insert_with(|| Connection::new(limits));
        let mut heads = Vec::new();
        while !bytes.is_empty() {
            let mut buffer = connection.receive().unwrap();
            let count = buffer.free().len().min(bytes.len());
            buffer.free()[..count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            connection.on_received(buffer, Ok(count)).unwrap();
            while let Some(frame) = connection.next_frame().unwrap() {
                heads.extend(frame.heads());
            }
        }
        heads
    }
}

/// What each node's disk holds for good, looked up again only when it has changed.
#[derive(Default)]
struct Images {
    known: RefCell<BTreeMap<usize, (u64, Option<RecoveredGroup>)>>,
}

impl Images {
    fn of(&self, cluster: &Cluster, node: usize) -> Option<RecoveredGroup> {
        let version = cluster.nodes[node].image_version;
        let mut known = self.known.borrow_mut();
        if known.get(&node).is_none_or(|(at, _)| *at != version) {
            let recovery = cluster.nodes[node].durable_image(node);
            let group = recovery
                .groups
                .into_iter()
                .find(|found| found.group == GROUP);
            known.insert(node, (version, group));
        }
        known[&node].1.clone()
    }

    fn holds(&self, cluster: &Cluster, node: usize, index: LogIndex, term: Term) -> bool {
        let Some(image) = self.of(cluster, node) else {
            return index == LogIndex(0);
        };
        let run = image.terms.iter().rev().find(|run| run.index <= index);
        index <= image.compacted.index
            || (index <= image.last_index && run.is_some_and(|run| run.term == term))
    }
}

/// Panics if a message promises what its sender's disk does not hold.
fn check(cluster: &Cluster, images: &Images, node: usize, to: usize, message: &Message) {
    let shard = cluster.nodes[node].shard.as_ref().unwrap();
    let raft = &shard.groups.replica(GROUP).unwrap().raft;
    let image = images.of(cluster, node);
    let hard = image.map_or((Term(0), None), |image| {
        (image.current_term, image.voted_for)
    });
    let term = message.term;
    match message.body {
        Body::VoteResponse(VoteResponse {
            granted: true,
            kind: VoteKind::Vote | VoteKind::Transfer,
        }) => {
            let candidate = Some(NodeId(to as u64 + 1));
            let kept = hard.0 > term || hard == (term, candidate);
            assert!(
                kept,
                "node {node} votes for {to} in {term} and holds {hard:?}"
            );
        }
        Body::AppendResponse(AppendResponse { outcome, .. }) => {
            assert!(
                hard.0 >= term,
                "node {node} answers in a term it may forget"
            );
            if let AppendOutcome::Accepted { match_index } = outcome
                && raft.current_term() == term
                && let Some(entry_term) = raft.term_at(match_index)
            {
                let held = images.holds(cluster, node, match_index, entry_term);
                assert!(
                    held,
                    "node {node} promises {match_index}, which may be lost"
                );
            }
        }
        Body::AppendEntries(AppendEntries { leader_commit, .. }) => {
            let Some(term) = raft.term_at(leader_commit) else {
                return;
            };
            let nodes = cluster.nodes.len();
            let holding = (0..nodes)
                .filter(|&node| images.holds(cluster, node, leader_commit, term))
                .count();
            assert!(
                holding > nodes / 2,
                "node {node} says {leader_commit} is committed, {holding} disks hold it"
            );
        }
        _ => {}
    }
}

fn watched(mutant: Option<Mutant>) -> Cluster {
    let mut cluster = Cluster::new(3);
    if let Some(mutant) = mutant {
        for node in &mut cluster.nodes {
            node.shard.as_mut().unwrap().set_mutant(mutant);
        }
    }
    let (mut sniffer, images) = (Sniffer::default(), Images::default());
    cluster.watch = Some(Box::new(move |cluster, node, socket, bytes| {
        let to = cluster.wire.peer_of(socket);
        for head in sniffer.heads(socket, bytes) {
            if head.group == GROUP.0 {
                let message = wire::message(&head).unwrap();
                check(cluster, &images, node, to, &message);
            }
        }
    }));
    cluster
}

/// A script of `rounds` rounds: slow disks, proposals in every round, two changes of leader.
/// Gives the commands that were acknowledged.
fn script(cluster: &mut Cluster, rounds: usize) -> Vec<Vec<u8>> {
    cluster.create(GROUP);
    cluster.elect(0);
    let mut waiting: Vec<(Vec<u8>, Proposal)> = Vec::new();
    let mut acknowledged = Vec::new();
    for round in 0..rounds {
        // Two disks of three are slow at a time, in turns, for four rounds of six.
        let slow = [round / 6 % 3, (round / 6 + round / 18 + 1) % 3];
        for node in 0..3 {
            cluster.nodes[node].disk_is_held = round % 6 < 4 && slow.contains(&node);
            if !cluster.nodes[node].disk_is_held {
                cluster.release(node);
            }
        }
        if round == 20 || round == 40 {
            let next = NodeId(1 + (round as u64 / 20));
            let leader = (0..3).find(|&node| is_leader(cluster, node)).unwrap_or(0);
            drop(cluster.group(leader).transfer_leadership(next));
        }
        let leader = (0..3).find(|&node| is_leader(cluster, node)).unwrap_or(0);
        let command = format!("command of round {round}").into_bytes();
        let proposal = cluster.group(leader).propose(command.clone());
        waiting.push((command, proposal));
        cluster.run(1);
        waiting.retain_mut(|(command, proposal)| match poll(proposal) {
            None => true,
            Some(outcome) => {
                if outcome.is_ok() {
                    acknowledged.push(command.clone());
                }
                false
            }
        });
    }
    acknowledged
}

fn is_leader(cluster: &Cluster, node: usize) -> bool {
    let status = cluster.status(node);
    status.is_some_and(|status| status.leader == Some(status.id))
}

const ROUNDS: usize = 70;

#[test]
fn every_message_that_leaves_promises_only_what_is_durable() {
    let mut cluster = watched(None);
    let acknowledged = script(&mut cluster, ROUNDS);
    assert!(acknowledged.len() > ROUNDS / 3, "{}", acknowledged.len());
}

#[test]
fn when_all_nodes_lose_power_at_any_point_nothing_acknowledged_is_lost() {
    for rounds in 0..ROUNDS {
        let mut cluster = Cluster::new(3);
        let acknowledged = script(&mut cluster, rounds);
        for node in 0..3 {
            cluster.power_off(node);
        }
        for node in 0..3 {
            cluster.power_on(node);
        }
        cluster.until("one of them leads", |cluster| {
            (0..3).any(|node| is_leader(cluster, node))
        });
        let leader = (0..3).find(|&node| is_leader(&cluster, node)).unwrap();
        let last = cluster.group(leader).propose(b"the last".to_vec());
        cluster.wait(last).unwrap();
        let mut applied = cluster.applied(leader).into_iter();
        for command in &acknowledged {
            let name = String::from_utf8_lossy(command);
            let found = applied.any(|applied| applied == *command);
            assert!(
                found,
                "power lost after round {rounds}: {name} is lost or misplaced"
            );
        }
    }
}

fn is_caught(mutant: Mutant) {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        script(&mut watched(Some(mutant)), ROUNDS);
    }));
    assert!(outcome.is_err(), "{mutant:?} was not noticed");
}

#[test]
fn an_answer_before_the_frame_is_durable_is_caught() {
    is_caught(Mutant::AnswersBeforeDurable);
}

#[test]
fn a_leader_that_counts_its_own_frame_early_is_caught() {
    is_caught(Mutant::LeaderCountsOwnUndurable);
}
