//! A group that commits nothing, and a member that holds nothing: what they cost the others.

use std::collections::VecDeque;
use std::iter;

use pontoon_raft::{GroupId, LogIndex, NodeId, Time};

use super::cluster::{Cluster, GROUP, poll};
use super::room::{LARGE_LOG, leader, numbered};
use crate::budget::Budget;
use crate::outcome::{Outcome, Proposal, ProposeError, Rejection, Unknown};
use crate::awaited::Awaited;
use crate::proposals::{AnsweredProposal, Proposals, TakenPermit, Unanswered};
use crate::request::RequestError;

const OTHER: GroupId = GroupId(8);

const TEN_ELECTION_TIMEOUTS: u64 = 10_000_000_000;

/// Proposals under way, each with when it was made, and outcomes, each with how long it took.
#[derive(Default)]
struct Client {
    waiting: VecDeque<(u64, Proposal)>,
    outcomes: Vec<(u64, Outcome)>,
}

impl Client {
    fn propose(&mut self, cluster: &Cluster, node: usize, command: Vec<u8>) {
        let proposal = cluster.group(node).propose(command);
        self.waiting.push_back((cluster.now.0, proposal));
    }

    fn look(&mut self, cluster: &Cluster) {
        let outcomes = &mut self.outcomes;
        self.waiting.retain_mut(|(at, proposal)| {
            let outcome = poll(proposal);
            let age = cluster.now.0 - *at;
            outcomes.extend(outcome.clone().map(|outcome| (age, outcome)));
            outcome.is_none()
        });
    }

    fn count(&self, is_so: impl Fn(&Outcome) -> bool) -> usize {
        self.outcomes.iter().filter(|(_, outcome)| is_so(outcome)).count()
    }
}

/// The disks of two members hang while their kernels answer. Clients go on: what they were told is
/// stalled is in the log still, and more of it than one group may hold is not taken.
#[test]
fn a_group_that_commits_nothing_does_not_fill_the_log_of_others() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.create_on(OTHER, &[NodeId(1)]);
    for node in 0..3 {
        cluster.nodes[node].journal.borrow_mut().releases = true;
    }
    cluster.run(300);
    for node in [1, 2] {
        cluster.nodes[node].disk_is_held = true;
    }
    let mut client = Client::default();
    for number in 0..3_000 {
        client.propose(&cluster, 0, numbered(number));
        let mut other = cluster.other_group(0, OTHER).propose(b"alone".to_vec());
        cluster.run(10);
        client.look(&cluster);
        assert!(matches!(poll(&mut other), Some(Ok(_))), "it needs nobody: {number}");
    }
    let status = cluster.status(0).unwrap();
    let held = status.last_index.0 - status.commit_index.0;
    assert!(held <= 16, "{held} commands of 4 kB; one group may hold 32 KiB");
    let no_room = Err(Rejection::NoRoomElsewhere.into());
    assert!(client.count(|outcome| *outcome == no_room) > 1_000, "{:?}", client.outcomes.last());
    for node in [1, 2] {
        cluster.nodes[node].disk_is_held = false;
        cluster.release(node);
    }
    cluster.run(1_000);
    let proposal = cluster.group(0).propose(numbered(1));
    cluster.wait(proposal).expect("what was held up has come through");
}

/// A client that proposes little, now and then: only what is old is told that nothing comes of it.
#[test]
fn what_was_proposed_just_now_is_not_stalled() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.run(300);
    for node in [1, 2] {
        cluster.nodes[node].disk_is_held = true;
    }
    let term = cluster.status(0).unwrap().current_term;
    let mut client = Client::default();
    for _ in 0..600 {
        client.propose(&cluster, 0, b"little".to_vec());
        cluster.run(50);
        client.look(&cluster);
    }
    let stalled: Outcome = Err(ProposeError::Unknown(Unknown::Stalled));
    let ages = client.outcomes.iter().filter(|(_, outcome)| *outcome == stalled);
    let ages: Vec<u64> = ages.map(|(age, _)| *age).collect();
    assert!(ages.len() > 100, "{}", ages.len());
    assert!(ages.iter().all(|age| *age >= TEN_ELECTION_TIMEOUTS), "{ages:?}");
    assert!(client.waiting.is_empty(), "everything has an outcome");
    assert_eq!(cluster.status(0).unwrap().current_term, term, "nobody could do better");
}

/// Its disk hangs before it held anything, while its kernel answers heartbeats. Both others have
/// what it lacks in their logs until they are full, and then for ten election timeouts at most.
#[test]
fn a_member_that_answers_and_holds_nothing_is_given_up() {
    let mut cluster = Cluster::new(3);
    cluster.create(GROUP);
    for node in 0..3 {
        cluster.nodes[node].journal.borrow_mut().releases = true;
    }
    cluster.nodes[2].disk_is_held = true;
    cluster.elect(0);
    let (mut answered, mut longest) = (cluster.now, 0);
    for number in 0..6_000 {
        let mut proposal = cluster.group(0).propose(numbered(number));
        cluster.run(10);
        if matches!(poll(&mut proposal), Some(Ok(_))) {
            longest = longest.max(cluster.now.since(answered));
            answered = cluster.now;
        }
    }
    let peers = cluster.status(0).unwrap().peers;
    assert!(peers[1].left_behind && !peers[0].left_behind, "{peers:?}");
    assert!(longest < 13 * TEN_ELECTION_TIMEOUTS / 10, "{longest} ns without a commit");
    assert!(cluster.now.since(answered) < 1_000_000_000, "it goes on");
}

/// The segments that a leader's log asked for never come, and others' do.
#[test]
fn a_leader_whose_next_segment_does_not_come_hands_over() {
    let mut cluster = Cluster::led_by_first_with(3, LARGE_LOG);
    cluster.run(300);
    cluster.nodes[0].prepares_are_held = true;
    let mut told = Vec::new();
    for number in 0..1_000 {
        let leads = leader(&cluster).unwrap_or(0);
        let mut proposal = cluster.group(leads).propose(numbered(number));
        cluster.run(10);
        told.extend(poll(&mut proposal));
    }
    assert!(told.contains(&Err(Rejection::Preparing.into())), "the first is told why");
    assert_eq!(cluster.nodes[0].held_prepares, 2, "once, and once more in haste");
    assert_ne!(leader(&cluster), Some(0), "it takes no commands");
    let taken = told.iter().filter(|outcome| outcome.is_ok()).count();
    assert!(taken > 700, "{taken}");
}

#[test]
fn who_waits_for_a_leader_of_one_group_leaves_places_for_others() {
    let mut cluster = Cluster::new(3);
    cluster.create(GROUP);
    cluster.create(OTHER);
    for node in [1, 2] {
        cluster.power_off(node);
    }
    let mut waiting: Vec<_> = (0..1_024)
        .map(|number| {
            if number % 100 == 0 {
                cluster.run(1);
            }
            cluster.group(0).leader()
        })
        .collect();
    cluster.run(5);
    let refused = waiting.iter_mut().filter_map(poll);
    let overloaded = Err(RequestError::Overloaded);
    assert_eq!(refused.filter(|answer| *answer == overloaded).count(), 512);
    let mut other = cluster.other_group(0, OTHER).leader();
    cluster.run(5);
    assert_eq!(poll(&mut other), None, "it waits");
}

/// Its way is slow, so that a segment of its leader's log comes free now and then, for a moment.
#[test]
fn a_slow_member_does_not_stop_the_log_again_and_again() {
    let mut cluster = Cluster::led_by_first(3);
    for node in 0..3 {
        cluster.nodes[node].journal.borrow_mut().releases = true;
    }
    cluster.bandwidth.insert((0, 2), 60);
    let mut taken = Vec::new();
    for number in 0..6_000 {
        let leads = leader(&cluster).unwrap_or(0);
        let mut proposal = cluster.group(leads).propose(numbered(number));
        cluster.run(10);
        taken.push(matches!(poll(&mut proposal), Some(Ok(_))));
    }
    let lately = taken[4_000..].iter().filter(|taken| **taken).count();
    assert!(lately > 1_800, "{lately} of 2,000 in the last 20 s");
}

/// Few of its commands are under way later: the memory of a burst is given back.
#[test]
fn a_group_does_not_keep_the_memory_of_its_largest_burst() {
    let awaited = Awaited::default();
    let mut proposals = Proposals::new(awaited.clone());
    let budget = Budget::new(0);
    let none = [Unanswered::default(), Unanswered::default()];
    for index in 1..=100_000 {
        let (sender, _) = oneshot::async_channel();
        let permit = TakenPermit::new(budget.take(0).unwrap(), &none[0], &none[1]);
        awaited.enter(|table| {
            let ticket = table.enter(sender);
            let answered = AnsweredProposal { ticket, permit };
            proposals.push((LogIndex(index), Time(0)), answered);
        });
    }
    for index in 1..=100_000 {
        let answered = proposals.applied(LogIndex(index)).expect("it was proposed");
        awaited.leave(iter::once(answered.ticket), &mut Vec::new());
    }
    assert!(proposals.capacity() < 10_000 && awaited.capacity() < 10_000);
}
