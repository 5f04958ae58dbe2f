//! Numbers that no correct peer sends: what they may do at worst, and for how long.

use pontoon_raft::{
    AppendOutcome, AppendResponse, Body, EntryId, LogIndex, LogRoom, Message, Output, Term, Time,
    VoteKind, VoteResponse,
};

use crate::rules::{
    TWO, acknowledge, append, append_response, leader, replica, request_vote, step,
};

/// One forged head of the last terms there are left no term to campaign in, for ever.
#[test]
fn a_message_moves_the_term_by_a_bounded_number() {
    let last = u64::MAX / 2;
    for term in [last, last - 1, 1 << 62, (1 << 48) + 3, 1 << 48, 1 << 21] {
        let granted = true;
        let kind = VoteKind::Vote;
        for message in [
            append(term, (1, 1), 0, 0),
            request_vote(term, (9, 9), VoteKind::Transfer),
            Message::new(Term(term), VoteResponse { granted, kind }),
            Message::new(Term(term), Body::TimeoutNow),
            Message {
                term: Term(term),
                ..append_response(1)
            },
        ] {
            let mut raft = replica(2, &[1]);
            let output = step(&mut raft, TWO, message, &[]);
            assert!(raft.current_term() <= Term(2 + (1 << 20)), "{message:?}");
            assert_eq!(output.messages, [], "{message:?}: not in its term yet");
        }
    }
}

/// Whoever was cut off for years follows the leader in the end, however far ahead that is.
#[test]
fn a_leader_far_ahead_is_followed_after_a_few_messages() {
    let mut raft = replica(2, &[1]);
    let term = 300_000_000;
    let heartbeats = (1..).find(|_| {
        step(&mut raft, TWO, append(term, (1, 1), 0, 0), &[]);
        raft.leader() == Some(TWO)
    });
    assert_eq!((heartbeats, raft.current_term()), (Some(287), Term(term)));
}

/// A forged answer of the last epoch there is made its leader deaf to the real follower for the
/// rest of the term.
#[test]
fn a_forged_epoch_does_not_outlive_its_connection() {
    let answer = |log_epoch, tainted, match_index| {
        let match_index = LogIndex(match_index);
        let response = AppendResponse {
            round: u64::MAX,
            outcome: AppendOutcome::Accepted { match_index },
            log_epoch,
            tainted,
            room: LogRoom::Enough,
            renounced: false,
        };
        Message::new(Term(2), response)
    };
    for tainted in [false, true] {
        let mut raft = leader(&[]);
        raft.on_persisted(Time(2), raft.write_sequence(), &mut Output::default());
        step(&mut raft, TWO, answer(u64::MAX, tainted, 0), &[]);
        raft.on_persisted(Time(2), raft.write_sequence(), &mut Output::default());
        raft.report_disconnected(TWO);
        let last = raft.last_index();
        step(&mut raft, TWO, answer(7, false, last.0), &[]);
        assert_eq!(raft.commit_index(), last, "the real one counts");
        // It starts again, with damage: that is recognised as well.
        raft.report_disconnected(TWO);
        step(&mut raft, TWO, answer(8, true, 0), &[]);
        assert!(raft.status().peers[0].tainted);
        step(&mut raft, TWO, answer(7, false, last.0), &[]);
        assert!(raft.status().peers[0].tainted, "an answer from before");
    }
}

/// A forged acknowledgement is taken back by the first answer of the real follower.
#[test]
fn a_follower_that_lacks_what_it_had_acknowledged_is_sent_it() {
    let mut raft = leader(&[1, 1, 1]);
    acknowledge(&mut raft, TWO, 2, 4);
    raft.report_disconnected(TWO);
    let hint = EntryId::new(LogIndex(1), Term(1));
    let outcome = AppendOutcome::Rejected {
        prev_log_index: LogIndex(4),
        hint,
    };
    let Body::AppendResponse(response) = append_response(0).body else {
        panic!("an answer");
    };
    let rejection = Message::new(
        Term(2),
        AppendResponse {
            outcome,
            ..response
        },
    );
    let output = step(&mut raft, TWO, rejection, &[]);
    let Some(Body::AppendEntries(request)) = output.messages.first().map(|sent| sent.message.body)
    else {
        panic!("what it lacks: {output:?}");
    };
    assert_eq!(request.prev_log, hint);
    assert_eq!(raft.status().peers[0].match_index, LogIndex(0));
}
