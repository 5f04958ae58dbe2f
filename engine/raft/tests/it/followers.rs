//! What a leader owes its followers: heartbeats, entries once, and as many as they take.

use pontoon_raft::{
    AppendEntries, AppendOutcome, AppendResponse, Body, Boot, EntryId, EntryRun, Forgot, HardState,
    LogIndex, LogRoom, Membership, Message, NodeId, Outgoing, Output, Raft, RaftConfig, Term, Time,
    VoteKind, VoteResponse,
};

use crate::rules::{
    ONE, THREE, TWO, acknowledge, append, append_response, entries, leader, replica, step,
};

/// AppendEntries with entries to one follower.
fn appends_to(output: &Output, to: NodeId) -> impl Iterator<Item = AppendEntries> {
    let messages = output
        .messages
        .iter()
        .filter(move |outgoing| outgoing.to == to);
    messages.filter_map(|outgoing| match outgoing.message.body {
        Body::AppendEntries(request) if request.count > 0 => Some(request),
        _ => None,
    })
}

/// Makes a replica leader, with the votes of the others.
fn elect(raft: &mut Raft) {
    let mut output = Output::default();
    raft.campaign(Time(0), &mut output);
    for kind in [VoteKind::PreVote, VoteKind::Vote] {
        let granted = true;
        let term = match kind {
            VoteKind::PreVote => raft.current_term().next(),
            _ => raft.current_term(),
        };
        let vote = Message::new(term, VoteResponse { granted, kind });
        step(raft, TWO, vote, &[]);
        raft.on_persisted(Time(1), raft.write_sequence(), &mut output);
    }
    assert!(raft.is_leader());
}

/// A follower whose disk stands still answers heartbeats, with what is durable: no election comes
/// of it, for no other leader could commit more.
#[test]
fn the_answer_to_a_heartbeat_waits_for_no_disk() {
    let mut raft = replica(1, &[1]);
    let output = step(&mut raft, TWO, append(1, (1, 1), 2, 0), &entries(&[1, 1]));
    let [answer] = &output.messages[..] else {
        panic!("one answer: {output:?}");
    };
    assert!(
        answer.after_persist,
        "it names entries that are not durable"
    );
    let output = step(&mut raft, TWO, append(1, (3, 1), 0, 1), &[]);
    let [answer] = &output.messages[..] else {
        panic!("one answer: {output:?}");
    };
    assert!(!answer.after_persist);
    let Body::AppendResponse(response) = answer.message.body else {
        panic!("{answer:?}");
    };
    let match_index = LogIndex(1);
    assert_eq!(response.outcome, AppendOutcome::Accepted { match_index });
}

/// Its term, though, is a promise.
#[test]
fn the_answer_to_the_first_heartbeat_of_a_term_waits_for_the_term() {
    let mut raft = replica(1, &[1]);
    let output = step(&mut raft, TWO, append(2, (1, 1), 0, 0), &[]);
    let waits = |outgoing: &Outgoing| outgoing.after_persist;
    assert!(output.messages.iter().all(waits), "{output:?}");
}

/// A follower that can be sent no entries still hears from its leader: its heartbeat deadline is
/// its own, however many entries leave for the others. (A killed leader that came back stayed out
/// for as long as load went on: each proposal put off the only deadline there was.)
#[test]
fn a_follower_without_entries_hears_from_its_leader_under_load() {
    let mut raft = leader(&[]);
    acknowledge(&mut raft, TWO, 2, 1);
    let mut heartbeats = 0;
    for now in (10..1_000).step_by(10) {
        let mut output = Output::default();
        let now = Time(now);
        raft.propose(now, &entries(&[2]), &mut output)
            .expect("it leads");
        // What leaves for TWO is sent, what leaves for THREE is dropped.
        raft.on_sent(now, TWO);
        raft.report_unreachable(THREE);
        raft.step(
            now,
            TWO,
            append_response(raft.last_index().0),
            &[],
            &mut output,
        );
        raft.tick(now, &mut output);
        let is_heartbeat = |outgoing: &&Outgoing| {
            outgoing.to == THREE
                && matches!(outgoing.message.body, Body::AppendEntries(each) if each.count == 0)
        };
        heartbeats += output.messages.iter().filter(is_heartbeat).count();
    }
    assert!(
        heartbeats >= 9,
        "one in every interval of 100, not {heartbeats}"
    );
}

/// A heartbeat that is answered while a probe with entries is under way says where the logs agree;
/// the probe's entries are not sent a second time.
#[test]
fn a_probe_confirmed_by_a_heartbeat_is_not_sent_again() {
    let mut raft = leader(&[1]);
    raft.report_unreachable(TWO);
    let mut output = Output::default();
    raft.propose(Time(20), &entries(&[2]), &mut output)
        .expect("it leads");
    let sent = output.messages.iter().filter(|outgoing| outgoing.to == TWO);
    assert_eq!(sent.count(), 1, "the probe, with everything after entry 0");
    let output = acknowledge(&mut raft, TWO, 2, 0);
    let again = output.messages.iter().any(|outgoing| outgoing.to == TWO);
    assert!(!again, "its entries are under way: {output:?}");
}

/// What is compacted can't be sent, so a follower of which nothing is known is probed behind it.
#[test]
fn a_follower_lost_sight_of_after_compaction_is_sent_what_is_left_of_the_log() {
    let mut raft = leader(&[]);
    let mut output = Output::default();
    raft.propose(Time(20), &entries(&[2, 2]), &mut output)
        .expect("it leads");
    raft.on_persisted(Time(20), raft.write_sequence(), &mut output);
    acknowledge(&mut raft, TWO, 2, 3);
    raft.on_applied(LogIndex(2));
    raft.compact(LogIndex(2));
    raft.report_unreachable(THREE);
    let mut output = Output::default();
    raft.propose(Time(30), &entries(&[2]), &mut output)
        .expect("it leads");
    let probe = output.messages.iter().find(|outgoing| outgoing.to == THREE);
    let Some(Body::AppendEntries(request)) = probe.map(|outgoing| outgoing.message.body) else {
        panic!("a probe behind the compacted entries: {output:?}");
    };
    assert_eq!(request.range(), Some((LogIndex(3), LogIndex(4))));
}

/// After a restart a leader knows how large its entries are: messages are full of small ones, and
/// large ones do not go beyond the window's bytes.
#[test]
fn messages_to_a_follower_that_lags_hold_as_many_bytes_as_they_may() {
    for (bytes, expected) in [(100, 4096), (256 << 10, 2)] {
        let boot = Boot {
            hard_state: HardState {
                current_term: Term(1),
                voted_for: None,
            },
            membership: Membership::of_voters(&[ONE, TWO, THREE]),
            terms: vec![EntryId::new(LogIndex(1), Term(1))],
            last_index: LogIndex(100_000),
            sizes: vec![EntryRun {
                last: LogIndex(100_000),
                bytes: 100_000 * bytes,
            }],
            ..Boot::default()
        };
        let mut raft = Raft::new(RaftConfig::new(ONE), boot, Time(0));
        elect(&mut raft);
        let rejected = AppendResponse {
            round: 0,
            outcome: AppendOutcome::Rejected {
                prev_log_index: LogIndex(100_000),
                hint: EntryId::default(),
            },
            log_epoch: 0,
            tainted: false,
            room: LogRoom::Enough,
            renounced: false,
        };
        let mut output = Output::default();
        let term = raft.current_term();
        raft.step(
            Time(20),
            TWO,
            Message::new(term, rejected),
            &[],
            &mut output,
        );
        let counts: Vec<u32> = appends_to(&output, TWO)
            .map(|request| request.count)
            .collect();
        assert_eq!(counts, [expected], "entries of {bytes} bytes");
    }
}

/// A follower that rejects at a place that it had acknowledged is sent it again, and its leader
/// says so: its disk forgot, or somebody spoke in its name.
#[test]
fn a_follower_that_lacks_what_it_had_is_told_of_and_sent_it_again() {
    let mut raft = leader(&[]);
    let mut output = Output::default();
    raft.propose(Time(12), &entries(&[2, 2]), &mut output)
        .expect("it leads");
    acknowledge(&mut raft, TWO, 2, 3);
    raft.report_disconnected(TWO);
    let rejects_at = |raft: &mut Raft, index| {
        let mut response = append_response(0);
        if let Body::AppendResponse(response) = &mut response.body {
            response.outcome = AppendOutcome::Rejected {
                prev_log_index: LogIndex(index),
                hint: EntryId::default(),
            };
        }
        let mut output = Output::default();
        raft.step(Time(20), TWO, response, &[], &mut output);
        output
    };
    assert!(
        rejects_at(&mut raft, 2).forgot.is_empty(),
        "an answer of earlier"
    );
    let output = rejects_at(&mut raft, 3);
    let (peer, held) = (TWO, LogIndex(3));
    assert_eq!(output.forgot, [Forgot { peer, held }]);
    let sent: Vec<_> = appends_to(&output, TWO)
        .map(|request| request.prev_log.index)
        .collect();
    assert_eq!(sent, [LogIndex(0)]);
    assert!(
        rejects_at(&mut raft, 3).forgot.is_empty(),
        "it is told once"
    );
}

/// TWO answers, and says what room it has. Gives how many messages with entries it is sent then.
fn respond(raft: &mut Raft, now: u64, room: LogRoom, round: u64) -> usize {
    let mut response = append_response(1);
    if let Body::AppendResponse(response) = &mut response.body {
        (response.room, response.round) = (room, round);
    }
    let mut output = Output::default();
    raft.step(Time(now), TWO, response, &[], &mut output);
    appends_to(&output, TWO).count()
}

/// A follower without room hears heartbeats and is sent nothing until a later round finds room. One
/// whose log was full is then sent a little at first; one whose memory was short, what it lacks.
#[test]
fn a_follower_without_room_is_sent_no_entries() {
    for (room, messages) in [(LogRoom::Full, 1), (LogRoom::Short, 2)] {
        let mut raft = leader(&[]);
        acknowledge(&mut raft, TWO, 2, 1);
        assert_eq!(respond(&mut raft, 20, room, 0), 0);
        let mut output = Output::default();
        for now in 21..30 {
            raft.propose(Time(now), &entries(&[2]), &mut output)
                .expect("it leads");
        }
        assert_eq!(appends_to(&output, TWO).count(), 0);
        assert_eq!(
            respond(&mut raft, 30, LogRoom::Enough, 0),
            0,
            "the same round"
        );
        let is_full = room == LogRoom::Full;
        assert_eq!(raft.member_full_since().is_some(), is_full);
        assert_eq!(raft.status().peers[0].log_full, is_full);
        assert!(!raft.lacks_room_elsewhere(), "THREE may have room");
        assert_eq!(
            respond(&mut raft, 130, LogRoom::Enough, 1),
            messages,
            "{room:?}"
        );
    }
}

/// Its log takes heartbeats and no entries, so that each round of them finds room and the entries
/// that follow do not: with thousands of groups that would be a load of its own.
#[test]
fn a_follower_that_stays_full_is_tried_less_and_less_often() {
    let mut raft = leader(&[]);
    acknowledge(&mut raft, TWO, 2, 1);
    raft.propose(Time(20), &entries(&[2]), &mut Output::default())
        .expect("it leads");
    respond(&mut raft, 30, LogRoom::Full, 0);
    raft.report_unreachable(TWO);
    let mut tries = Vec::new();
    for now in (130..10_130).step_by(100) {
        if respond(&mut raft, now, LogRoom::Enough, 1) > 0 {
            tries.push(now);
            respond(&mut raft, now + 10, LogRoom::Full, 1);
            // As when the next heartbeat finds out what it left out.
            raft.report_unreachable(TWO);
        }
    }
    assert!((10..30).contains(&tries.len()), "{tries:?}");
    let longest = tries.windows(2).map(|pair| pair[1] - pair[0]).max();
    assert!(
        longest <= Some(1_100),
        "an election timeout and a heartbeat at most: {tries:?}"
    );
}
