//! Leadership transfer (thesis 3.10) that is asked for again and again, called off, or in vain.
//!
//! The election timeout of these replicas is 1,000.

use pontoon_raft::{
    Body, NodeId, Output, ProposeRejection, Raft, RoleName, Time, TransferRejection, VoteKind,
};

use crate::rules::{
    ONE, THREE, TWO, acknowledge, append, append_response, entries, leader, replica, step,
};

/// Asks for a transfer at a time; gives the outcome and what is sent to the target.
fn ask(raft: &mut Raft, now: u64, to: NodeId) -> (Result<(), TransferRejection>, Vec<Body>) {
    let mut output = Output::default();
    let asked = raft.transfer_leadership(Time(now), to, &mut output);
    let sent = output.messages.iter();
    let sent = sent.filter(|outgoing| outgoing.to == to);
    (asked, sent.map(|outgoing| outgoing.message.body).collect())
}

fn refuses(raft: &mut Raft, now: u64) -> bool {
    let proposed = raft.propose(Time(now), &entries(&[2]), &mut Output::default());
    matches!(proposed, Err(ProposeRejection::Transferring { .. }))
}

/// A follower that answers at this time.
fn answers(raft: &mut Raft, now: u64, from: NodeId) {
    raft.step(
        Time(now),
        from,
        append_response(1),
        &[],
        &mut Output::default(),
    );
}

/// Asked for every tenth of an election timeout; gives for how many of these proposals are refused.
fn refused_tenths(raft: &mut Raft, targets: &[NodeId], answering: &[NodeId], tenths: u64) -> u64 {
    let mut refused = 0;
    for tenth in 1..=tenths {
        let now = tenth * 100;
        for &from in answering {
            answers(raft, now, from);
        }
        raft.tick(Time(now), &mut Output::default());
        let _ = ask(raft, now, targets[tenth as usize % targets.len()]);
        refused += u64::from(refuses(raft, now));
    }
    refused
}

#[test]
fn asking_again_for_a_silent_target_refuses_proposals_for_one_election_timeout_in_all() {
    let mut raft = leader(&[]);
    let refused = refused_tenths(&mut raft, &[THREE], &[TWO], 100);
    assert!((1..=10).contains(&refused), "{refused} tenths");
    assert!(raft.is_leader() && raft.transfer().is_none());
    let (asked, _) = ask(&mut raft, 10_100, THREE);
    assert_eq!(asked, Err(TransferRejection::Unavailable { to: THREE }));
}

/// Both answer, and neither ever has the whole log.
#[test]
fn changing_the_target_does_not_prolong_it_and_what_was_in_vain_pauses() {
    for targets in [&[TWO, THREE][..], &[TWO], &[TWO, ONE], &[TWO, ONE, THREE]] {
        let mut raft = leader(&[]);
        let refused = refused_tenths(&mut raft, targets, &[TWO, THREE], 100);
        assert!((1..=50).contains(&refused), "{targets:?}: {refused} tenths");
    }
    let mut raft = leader(&[]);
    assert_eq!(ask(&mut raft, 100, TWO).0, Ok(()));
    answers(&mut raft, 900, THREE);
    assert_eq!(ask(&mut raft, 900, THREE).0, Ok(()));
    assert!(refuses(&mut raft, 1_099) && !refuses(&mut raft, 1_100));
    answers(&mut raft, 1_200, TWO);
    assert_eq!(
        ask(&mut raft, 1_200, TWO).0,
        Err(TransferRejection::TooSoon)
    );
    answers(&mut raft, 2_100, TWO);
    assert_eq!(ask(&mut raft, 2_100, TWO).0, Ok(()));
}

#[test]
fn to_itself_calls_it_off() {
    let mut raft = leader(&[]);
    assert_eq!(ask(&mut raft, 20, ONE).0, Ok(()), "nothing to call off");
    assert_eq!(ask(&mut raft, 20, THREE).0, Ok(()));
    assert!(refuses(&mut raft, 30));
    assert_eq!(ask(&mut raft, 40, ONE).0, Ok(()));
    assert!(!refuses(&mut raft, 50) && raft.transfer().is_none());
    let output = acknowledge(&mut raft, THREE, 2, 1);
    let told = |outgoing: &pontoon_raft::Outgoing| outgoing.message.body == Body::TimeoutNow;
    assert!(!output.messages.iter().any(told), "nobody is to take over");
    assert_eq!(ask(&mut raft, 60, TWO).0, Ok(()), "another one at once");
}

#[test]
fn the_target_is_probed_at_once_and_only_once() {
    let mut raft = leader(&[]);
    let (_, sent) = ask(&mut raft, 20, THREE);
    let is_heartbeat = |body: &Body| matches!(body, Body::AppendEntries(each) if each.count == 0);
    assert!(sent.iter().any(is_heartbeat), "{sent:?}");
    let (asked, sent) = ask(&mut raft, 30, THREE);
    assert_eq!((asked, sent), (Ok(()), Vec::new()));
}

#[test]
fn status_tells_to_whom_and_since_when() {
    let mut raft = leader(&[]);
    assert_eq!(raft.status().transfer, None);
    for now in [20, 30] {
        ask(&mut raft, now, THREE).0.expect("a voter that answers");
    }
    let transfer = raft.status().transfer.expect("it is under way");
    assert_eq!((transfer.to, transfer.since), (THREE, Time(20)));
}

/// The connection broke after the target was told: it is told again.
#[test]
fn what_was_lost_is_said_again() {
    let mut raft = leader(&[]);
    acknowledge(&mut raft, THREE, 2, 1);
    let (_, sent) = ask(&mut raft, 20, THREE);
    assert!(sent.contains(&Body::TimeoutNow));
    raft.report_disconnected(THREE);
    let output = acknowledge(&mut raft, THREE, 2, 1);
    let told = |outgoing: &pontoon_raft::Outgoing| outgoing.message.body == Body::TimeoutNow;
    assert!(output.messages.iter().any(told));
}

/// It lost patience with its leader just when it was to take over.
#[test]
fn a_pre_candidate_obeys_its_leader_and_nobody_else() {
    let message = pontoon_raft::Message::new(pontoon_raft::Term(2), Body::TimeoutNow);
    for (from, obeys) in [(TWO, true), (THREE, false)] {
        let mut raft = replica(2, &[1, 2]);
        step(&mut raft, TWO, append(2, (2, 2), 0, 0), &[]);
        for now in [5_000, 5_001] {
            raft.campaign(Time(now), &mut Output::default());
        }
        assert_eq!(raft.status().role, RoleName::PreCandidate);
        let output = step(&mut raft, from, message, &[]);
        let campaigns = output.messages.iter().any(|outgoing| {
            let body = outgoing.message.body;
            matches!(body, Body::RequestVote(vote) if vote.kind == VoteKind::Transfer)
        });
        assert_eq!(campaigns, obeys, "asked by {from}");
    }
}

/// Both followers answer and have the whole log. Whatever keeps one of them from taking over, the
/// other is asked next, and then it again.
#[test]
fn who_was_asked_in_vain_is_asked_again_after_the_others() {
    let mut raft = leader(&[]);
    let answer = |raft: &mut Raft, now| {
        acknowledge(raft, TWO, 2, 1);
        acknowledge(raft, THREE, 2, 1);
        for from in [TWO, THREE] {
            answers(raft, now, from);
        }
    };
    answer(&mut raft, 50);
    let mut asked = Vec::new();
    for round in 0..4 {
        let now = 100 + 2_500 * round;
        answer(&mut raft, now);
        let to = raft.best_successor().expect("one of them");
        assert_eq!(ask(&mut raft, now, to).0, Ok(()));
        answer(&mut raft, now + 900);
        raft.tick(Time(now + 1_100), &mut Output::default());
        assert_eq!(raft.transfer(), None, "in vain");
        asked.push(to);
        for later in [1_500, 2_000] {
            answer(&mut raft, now + later);
        }
    }
    assert_eq!(asked, [THREE, TWO, THREE, TWO]);
}

/// It says in its answers that it never campaigns.
#[test]
fn who_renounced_is_no_successor() {
    let mut raft = leader(&[]);
    for (from, renounced) in [(TWO, false), (THREE, true)] {
        let mut response = append_response(1);
        if let Body::AppendResponse(response) = &mut response.body {
            response.renounced = renounced;
        }
        raft.step(Time(50), from, response, &[], &mut Output::default());
    }
    assert_eq!(raft.best_successor(), Some(TWO));
    let unavailable = TransferRejection::Unavailable { to: THREE };
    assert_eq!(ask(&mut raft, 60, THREE).0, Err(unavailable));
}

/// Its state machine fails just after a transfer that was in vain. That one was asked for; this one
/// must be.
#[test]
fn a_leader_that_renounces_soon_after_a_transfer_in_vain_hands_over() {
    let mut raft = leader(&[]);
    assert_eq!(ask(&mut raft, 100, TWO).0, Ok(()));
    answers(&mut raft, 900, THREE);
    raft.tick(Time(1_100), &mut Output::default());
    acknowledge(&mut raft, THREE, 2, 1);
    answers(&mut raft, 1_150, THREE);
    assert_eq!(raft.best_successor(), Some(THREE));
    let asked = ask(&mut raft, 1_200, THREE).0;
    assert_eq!(asked, Err(TransferRejection::TooSoon));
    raft.renounce(Time(1_200), &mut Output::default());
    assert_eq!(raft.transfer().map(|transfer| transfer.to), Some(THREE));
}

/// Seed 43618 of the simulator: when it was told to stop, only a member answered that lacked much,
/// and was filled slowly; the other one, which lacked nothing, came back just afterwards.
#[test]
fn a_hand_over_does_not_wait_for_one_that_is_filled_when_another_could_lead() {
    let mut raft = leader(&[]);
    acknowledge(&mut raft, TWO, 2, 0);
    assert_eq!(raft.hand_over(Time(100), &mut Output::default()), Some(TWO));
    acknowledge(&mut raft, THREE, 2, 1);
    let mut output = Output::default();
    assert_eq!(raft.hand_over(Time(200), &mut output), Some(THREE));
    let told = output.messages.iter();
    let told = told.filter(|outgoing| outgoing.message.body == Body::TimeoutNow);
    assert_eq!(told.map(|told| told.to).collect::<Vec<_>>(), [THREE]);
}
