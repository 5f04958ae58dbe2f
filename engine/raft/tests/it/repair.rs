//! The way back of a replica whose disk lost something durable: "A tainted replica neither
//! campaigns, votes nor counts in a quorum until an entry proposed after its damage report
//! has been committed by a quorum without it and is durable on it."

use pontoon_raft::{
    AppendOutcome, AppendResponse, Appended, Body, Boot, EntryId, HardState, LogIndex, LogRoom,
    Membership, Message, Output, Raft, Repaired, Term, Time, VoteKind,
};

use crate::cluster::config;
use crate::rules::{ONE, THREE, TWO, append, entries, granted, leader, request_vote, step};

/// An answer of replica 3 to the leader of term 2, from a start of its log.
fn response(raft: &mut Raft, match_index: u64, log_epoch: u64, tainted: bool) -> Output {
    step(raft, THREE, accepted(match_index, log_epoch, tainted), &[])
}

fn accepted(match_index: u64, log_epoch: u64, tainted: bool) -> Message {
    let match_index = LogIndex(match_index);
    let response = AppendResponse {
        round: 0,
        outcome: AppendOutcome::Accepted { match_index },
        log_epoch,
        tainted,
        room: LogRoom::Enough,
        renounced: false,
    };
    Message::new(Term(2), response)
}

fn untainted_response(raft: &mut Raft, match_index: u64) {
    step(raft, TWO, accepted(match_index, 1, false), &[]);
}

fn persist(raft: &mut Raft) {
    raft.on_persisted(Time(20), raft.write_sequence(), &mut Output::default());
}

fn propose(raft: &mut Raft) {
    let mut output = Output::default();
    let proposed = raft.propose(Time(20), &entries(&[2]), &mut output);
    proposed.expect("it leads");
    persist(raft);
}

fn sends_repaired(output: &Output) -> bool {
    let told = |outgoing: &pontoon_raft::Outgoing| {
        outgoing.to == THREE && matches!(outgoing.message.body, Body::Repaired(_))
    };
    output.messages.iter().any(told)
}

/// A leader of term 2 whose entry 1 is committed, and which has had the damage report of replica 3.
fn leader_with_a_report() -> Raft {
    let mut raft = leader(&[]);
    persist(&mut raft);
    untainted_response(&mut raft, 1);
    let output = response(&mut raft, 1, 5, true);
    let noop = EntryId::new(LogIndex(2), Term(2));
    assert_eq!(output.appended, [Appended::Noop(noop)]);
    persist(&mut raft);
    raft
}

#[test]
fn a_damaged_replica_counts_again_after_a_later_entry_is_committed_without_it() {
    let mut raft = leader_with_a_report();
    assert!(!sends_repaired(&response(&mut raft, 2, 5, true)));
    assert_eq!(raft.commit_index(), LogIndex(1), "it counts in no quorum");
    untainted_response(&mut raft, 2);
    assert_eq!(raft.commit_index(), LogIndex(2));
    assert!(sends_repaired(&response(&mut raft, 2, 5, true)));
    propose(&mut raft);
    response(&mut raft, 3, 5, true);
    assert_eq!(raft.commit_index(), LogIndex(2), "not before it says so");
    response(&mut raft, 3, 5, false);
    assert_eq!(raft.commit_index(), LogIndex(3));
}

#[test]
fn it_is_not_repaired_before_that_entry_is_durable_on_it() {
    let mut raft = leader_with_a_report();
    untainted_response(&mut raft, 2);
    assert!(!sends_repaired(&response(&mut raft, 1, 5, true)));
}

#[test]
fn responses_from_before_the_damage_do_not_count_and_late_reports_change_nothing() {
    let mut raft = leader_with_a_report();
    response(&mut raft, 2, 4, false);
    assert_eq!(raft.commit_index(), LogIndex(1), "an earlier start");
    untainted_response(&mut raft, 2);
    response(&mut raft, 2, 5, false);
    propose(&mut raft);
    let late = response(&mut raft, 2, 5, true);
    assert!(late.appended.is_empty(), "no second repair");
    response(&mut raft, 3, 5, false);
    assert_eq!(raft.commit_index(), LogIndex(3));
}

#[test]
fn damage_found_at_a_later_start_is_repaired_anew() {
    let mut raft = leader_with_a_report();
    untainted_response(&mut raft, 2);
    assert!(
        response(&mut raft, 2, 6, true).appended.is_empty(),
        "an entry of late"
    );
    assert!(
        !sends_repaired(&response(&mut raft, 2, 6, true)),
        "and not for this report"
    );
    // An election timeout after the entry for the report before.
    let mut output = Output::default();
    raft.step(Time(1_010), THREE, accepted(2, 6, true), &[], &mut output);
    let noop = EntryId::new(LogIndex(3), Term(2));
    assert_eq!(output.appended, [Appended::Noop(noop)]);
}

#[test]
fn damage_found_at_a_later_start_is_repaired_with_whatever_is_proposed_next() {
    let mut raft = leader_with_a_report();
    untainted_response(&mut raft, 2);
    response(&mut raft, 2, 6, true);
    propose(&mut raft);
    untainted_response(&mut raft, 3);
    let output = response(&mut raft, 3, 6, true);
    assert!(sends_repaired(&output) && output.appended.is_empty());
}

/// Each report of a later start is taken for news, and any peer can forge them.
#[test]
fn forged_reports_make_the_log_grow_by_one_entry_in_an_election_timeout() {
    let mut raft = leader_with_a_report();
    let mut output = Output::default();
    let before = raft.status().last_index;
    for epoch in 6..1_000 {
        let now = Time(10 + epoch);
        raft.step(now, THREE, accepted(0, epoch, true), &[], &mut output);
        raft.step(now, TWO, accepted(2, 1, false), &[], &mut output);
    }
    assert_eq!(raft.status().last_index, before);
    for epoch in 1_000..6_000 {
        let now = Time(10 + epoch);
        raft.step(now, THREE, accepted(0, epoch, true), &[], &mut output);
        raft.step(now, TWO, accepted(2, 1, false), &[], &mut output);
    }
    assert_eq!(raft.status().last_index, before.plus(5));
}

#[test]
fn a_leader_does_not_live_on_the_responses_of_damaged_replicas() {
    let mut raft = leader_with_a_report();
    let mut output = Output::default();
    for now in (100..5_000).step_by(100) {
        raft.tick(Time(now), &mut output);
        raft.step(Time(now), THREE, accepted(2, 5, true), &[], &mut output);
    }
    assert!(!raft.is_leader(), "thesis 6.2: no quorum answers");
}

/// Replica 1 with this log, damaged at start 5.
fn damaged(terms: &[(u64, u64)], last_index: u64) -> Raft {
    let terms = terms
        .iter()
        .map(|&(index, term)| EntryId::new(LogIndex(index), Term(term)));
    let boot = Boot {
        hard_state: HardState::default(),
        membership: Membership::of_voters(&[ONE, TWO, THREE]),
        commit_index: LogIndex(last_index),
        terms: terms.collect(),
        last_index: LogIndex(last_index),
        log_epoch: 5,
        tainted: true,
        ..Boot::default()
    };
    Raft::new(config(ONE, 7), boot, Time(0))
}

/// Entry 1 was replaced and the replacement lost, entry 2 follows the replacement: Log Matching
/// does not hold in a damaged log.
#[test]
fn a_damaged_log_is_compared_from_where_it_is_known() {
    let mut raft = damaged(&[(1, 1), (2, 2)], 2);
    assert_eq!(raft.commit_index(), LogIndex(0));
    let output = step(&mut raft, TWO, append(2, (2, 2), 0, 2), &[]);
    let Body::AppendResponse(AppendResponse {
        outcome, tainted, ..
    }) = output.messages[0].message.body
    else {
        panic!("an answer: {output:?}");
    };
    assert!(tainted);
    let rejected = AppendOutcome::Rejected {
        prev_log_index: LogIndex(2),
        hint: EntryId::default(),
    };
    assert_eq!(outcome, rejected);
    step(&mut raft, TWO, append(2, (0, 0), 2, 2), &entries(&[2, 2]));
    assert_eq!(raft.term_at(LogIndex(1)), Some(Term(2)));
    assert_eq!(raft.commit_index(), LogIndex(2));
}

#[test]
fn it_promises_again_when_its_leader_says_so_and_that_is_durable() {
    let mut raft = damaged(&[], 0);
    step(&mut raft, TWO, append(2, (0, 0), 1, 0), &entries(&[2]));
    let repaired = |log_epoch| Message::new(Term(2), Repaired { log_epoch });
    for (from, log_epoch) in [(THREE, 5), (TWO, 4)] {
        assert!(!step(&mut raft, from, repaired(log_epoch), &[]).repaired);
    }
    let before = raft.write_sequence();
    let output = step(&mut raft, TWO, repaired(5), &[]);
    assert!(output.repaired && raft.write_sequence() > before);
    assert!(!raft.status().tainted);
    let vote = step(
        &mut raft,
        THREE,
        request_vote(3, (1, 2), VoteKind::Transfer),
        &[],
    );
    assert!(granted(&vote) && vote.messages.iter().all(|each| each.after_persist));
}
