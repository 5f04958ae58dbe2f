//! One test per rule of figure 3.1 and the sections around it; each cites its sentence.
//!
//! The method: replica 1 of three is put into a state by [`replica`] or [`leader`]; one message,
//! tick or acknowledgement goes in; what comes out is compared with what the sentence says. The
//! name of a test is the rule, so that a failure reads as the rule that is broken.

use pontoon_raft::{
    AppendEntries, AppendOutcome, AppendResponse, Body, Boot, EntryId, EntryKind, EntryMeta,
    HardState, LogIndex, LogRoom, Membership, Message, NodeId, Output, ProposeRejection, Raft,
    RequestVote, Term, Time, VoteKind, VoteResponse,
};

use crate::cluster::{Cluster, config};

pub(crate) const ONE: NodeId = NodeId(1);
pub(crate) const TWO: NodeId = NodeId(2);
pub(crate) const THREE: NodeId = NodeId(3);

/// Replica 1 of three, with a durable log of these terms.
pub(crate) fn replica(current_term: u64, log: &[u64]) -> Raft {
    let mut terms: Vec<EntryId> = Vec::new();
    for (position, &term) in log.iter().enumerate() {
        if terms.last().is_none_or(|run| run.term.0 != term) {
            terms.push(EntryId::new(LogIndex(position as u64 + 1), Term(term)));
        }
    }
    let boot = Boot {
        hard_state: HardState {
            current_term: Term(current_term),
            voted_for: None,
        },
        membership: Membership::of_voters(&[ONE, TWO, THREE]),
        terms,
        last_index: LogIndex(log.len() as u64),
        ..Boot::default()
    };
    Raft::new(config(ONE, 7), boot, Time(0))
}

pub(crate) fn step(
    raft: &mut Raft,
    from: NodeId,
    message: Message,
    entries: &[EntryMeta],
) -> Output {
    let mut output = Output::default();
    raft.step(Time(10), from, message, entries, &mut output);
    raft.check_invariants();
    output
}

pub(crate) fn entries(terms: &[u64]) -> Vec<EntryMeta> {
    let meta = |&term| EntryMeta {
        term: Term(term),
        bytes: 48,
        kind: EntryKind::Command,
    };
    terms.iter().map(meta).collect()
}

pub(crate) fn append(term: u64, prev: (u64, u64), count: u32, commit: u64) -> Message {
    let request = AppendEntries {
        prev_log: EntryId::new(LogIndex(prev.0), Term(prev.1)),
        count,
        leader_commit: LogIndex(commit),
        round: 0,
        replicated_everywhere: LogIndex(0),
    };
    Message::new(Term(term), request)
}

pub(crate) fn request_vote(term: u64, last: (u64, u64), kind: VoteKind) -> Message {
    let last_log = EntryId::new(LogIndex(last.0), Term(last.1));
    Message::new(Term(term), RequestVote { last_log, kind })
}

pub(crate) fn granted(output: &Output) -> bool {
    output.messages.iter().any(|outgoing| {
        matches!(
            outgoing.message.body,
            Body::VoteResponse(VoteResponse { granted: true, .. })
        )
    })
}

fn accepted(output: &Output) -> Option<u64> {
    output
        .messages
        .iter()
        .find_map(|outgoing| match outgoing.message.body {
            Body::AppendResponse(AppendResponse {
                outcome: AppendOutcome::Accepted { match_index },
                ..
            }) => {
                assert!(
                    outgoing.after_persist,
                    "an acknowledgement waits for the disk"
                );
                Some(match_index.0)
            }
            _ => None,
        })
}

/// Replica 1 as leader of term 2 after a log of these terms; its no-op follows them.
pub(crate) fn leader(log: &[u64]) -> Raft {
    let mut raft = replica(1, log);
    let mut output = Output::default();
    raft.campaign(Time(0), &mut output);
    let granted = true;
    let yes = |kind| Message::new(Term(2), VoteResponse { granted, kind });
    step(&mut raft, TWO, yes(VoteKind::PreVote), &[]);
    raft.on_persisted(Time(1), raft.write_sequence(), &mut output);
    step(&mut raft, TWO, yes(VoteKind::Vote), &[]);
    assert!(raft.is_leader());
    raft
}

pub(crate) fn append_response(match_index: u64) -> Message {
    let response = AppendResponse {
        round: 0,
        outcome: AppendOutcome::Accepted {
            match_index: LogIndex(match_index),
        },
        log_epoch: 0,
        tainted: false,
        room: LogRoom::Enough,
        renounced: false,
    };
    Message::new(Term(2), response)
}

pub(crate) fn acknowledge(raft: &mut Raft, from: NodeId, term: u64, match_index: u64) -> Output {
    let outcome = AppendOutcome::Accepted {
        match_index: LogIndex(match_index),
    };
    let response = AppendResponse {
        round: 0,
        outcome,
        log_epoch: 0,
        tainted: false,
        room: LogRoom::Enough,
        renounced: false,
    };
    step(raft, from, Message::new(Term(term), response), &[])
}

/// "AppendEntries 1: reply false if term < currentTerm."
#[test]
fn an_append_of_an_earlier_term_is_refused_with_the_current_one() {
    let mut raft = replica(5, &[1]);
    let output = step(&mut raft, TWO, append(4, (1, 1), 1, 0), &entries(&[4]));
    assert!(output.appended.is_empty());
    assert_eq!(output.messages[0].message.term, Term(5));
    assert_eq!(accepted(&output), None);
}

/// "AppendEntries 2: reply false if log doesn't contain an entry at prevLogIndex whose term
/// matches prevLogTerm." The answer skips whole terms (section 3.5).
#[test]
fn an_append_after_a_missing_entry_is_refused_with_a_hint_that_skips_terms() {
    let mut raft = replica(5, &[1, 1, 4, 4, 4]);
    let output = step(&mut raft, TWO, append(5, (5, 3), 0, 0), &[]);
    let expected = AppendOutcome::Rejected {
        prev_log_index: LogIndex(5),
        hint: EntryId::new(LogIndex(2), Term(1)),
    };
    let Body::AppendResponse(AppendResponse { outcome, .. }) = output.messages[0].message.body
    else {
        panic!("an answer to the append, not {:?}", output.messages[0])
    };
    assert_eq!(outcome, expected);
}

/// "AppendEntries 3: if an existing entry conflicts with a new one, delete the existing entry and
/// all that follow it."
#[test]
fn a_conflicting_suffix_is_replaced() {
    let mut raft = replica(2, &[1, 2, 2, 2]);
    let output = step(&mut raft, TWO, append(3, (1, 1), 2, 0), &entries(&[3, 3]));
    assert_eq!(accepted(&output), Some(3));
    assert_eq!(
        (raft.last_index(), raft.term_at(LogIndex(2))),
        (LogIndex(3), Some(Term(3)))
    );
}

/// "AppendEntries 4: append any new entries not already in the log." A late message with fewer
/// entries than the log has must not shorten it.
#[test]
fn consistent_entries_are_never_truncated() {
    let mut raft = replica(2, &[1, 2, 2, 2]);
    let output = step(&mut raft, TWO, append(2, (1, 1), 1, 0), &entries(&[2]));
    assert!(output.appended.is_empty());
    assert_eq!(raft.last_index(), LogIndex(4));
}

/// "AppendEntries 5: set commitIndex = min(leaderCommit, index of last new entry)."
#[test]
fn a_follower_commits_no_further_than_the_entries_it_was_sent() {
    let mut raft = replica(2, &[1, 1, 1]);
    step(&mut raft, TWO, append(2, (1, 1), 0, 3), &[]);
    assert_eq!(raft.commit_index(), LogIndex(1));
}

/// "RequestVote 2: if votedFor is null or candidateId, … grant vote" - and once in a term only.
#[test]
fn one_vote_is_given_in_a_term_and_survives_stepping_down() {
    let mut raft = replica(1, &[1]);
    assert!(granted(&step(
        &mut raft,
        TWO,
        request_vote(2, (1, 1), VoteKind::Vote),
        &[]
    )));
    assert!(granted(&step(
        &mut raft,
        TWO,
        request_vote(2, (1, 1), VoteKind::Vote),
        &[]
    )));
    assert!(!granted(&step(
        &mut raft,
        THREE,
        request_vote(2, (9, 1), VoteKind::Vote),
        &[]
    )));
    let mut output = Output::default();
    raft.step_down(Time(20), &mut output);
    assert!(!granted(&step(
        &mut raft,
        THREE,
        request_vote(2, (9, 1), VoteKind::Vote),
        &[]
    )));
    assert_eq!(raft.status().voted_for, Some(TWO));
}

/// "RequestVote 2: … and candidate's log is at least as up-to-date as receiver's log" (3.6.1:
/// the later last term, then the longer log).
#[test]
fn a_vote_goes_only_to_a_log_at_least_as_up_to_date() {
    for (last, expected) in [
        ((9, 1), false),
        ((1, 3), false),
        ((2, 3), true),
        ((1, 4), true),
    ] {
        let mut raft = replica(3, &[1, 3]);
        let output = step(&mut raft, TWO, request_vote(5, last, VoteKind::Vote), &[]);
        assert_eq!(
            granted(&output),
            expected,
            "a candidate whose log ends at {last:?}"
        );
    }
}

/// Section 10.2.1 for votes: the candidate's own vote counts when it is durable, not before.
#[test]
fn a_candidate_counts_its_own_vote_only_once_it_is_durable() {
    let mut raft = replica(1, &[1]);
    let mut output = Output::default();
    raft.campaign(Time(0), &mut output);
    let granted = true;
    let yes = |kind| Message::new(Term(2), VoteResponse { granted, kind });
    step(&mut raft, TWO, yes(VoteKind::PreVote), &[]);
    step(&mut raft, TWO, yes(VoteKind::Vote), &[]);
    assert!(!raft.is_leader(), "one durable vote of three is no quorum");
    raft.on_persisted(Time(11), raft.write_sequence(), &mut output);
    assert!(raft.is_leader());
}

/// Section 9.6: a pre-vote changes neither term nor vote of the one who is asked.
#[test]
fn a_pre_vote_promises_nothing() {
    let mut raft = replica(1, &[1]);
    let output = step(
        &mut raft,
        TWO,
        request_vote(2, (1, 1), VoteKind::PreVote),
        &[],
    );
    assert!(granted(&output) && output.hard_state.is_none());
    assert_eq!(
        (raft.current_term(), raft.status().voted_for),
        (Term(1), None)
    );
}

/// Section 4.2.3: "if a server receives a RequestVote request within the minimum election timeout
/// of hearing from a current leader, it does not update its term or grant its vote."
#[test]
fn who_hears_a_leader_neither_votes_nor_raises_its_term_but_for_a_transfer() {
    let mut raft = replica(2, &[1]);
    step(&mut raft, TWO, append(2, (1, 1), 0, 0), &[]);
    for kind in [VoteKind::PreVote, VoteKind::Vote] {
        let output = step(&mut raft, THREE, request_vote(3, (9, 2), kind), &[]);
        assert!(
            !granted(&output) && raft.current_term() == Term(2),
            "{kind:?}"
        );
    }
    assert!(granted(&step(
        &mut raft,
        THREE,
        request_vote(3, (9, 2), VoteKind::Transfer),
        &[]
    )));
}

/// Section 3.6.2, figure 3.7 (figure 8 of the paper): "Raft never commits log entries from
/// previous terms by counting replicas."
#[test]
fn an_entry_of_an_earlier_term_is_committed_only_under_one_of_the_leaders_own() {
    let mut raft = leader(&[1, 1]);
    acknowledge(&mut raft, TWO, 2, 2);
    assert_eq!(
        raft.commit_index(),
        LogIndex(0),
        "two of three hold both, and that is not enough"
    );
    acknowledge(&mut raft, TWO, 2, 3);
    assert_eq!(
        raft.commit_index(),
        LogIndex(0),
        "its own entry is not durable on the leader"
    );
    raft.on_persisted(Time(20), raft.write_sequence(), &mut Output::default());
    assert_eq!(raft.commit_index(), LogIndex(3));
}

/// Section 10.2.1: the leader may write to its disk in parallel with replicating, and may commit
/// before its own copy is durable if a majority of others hold it.
#[test]
fn followers_alone_can_commit_while_the_leaders_disk_is_slow() {
    let mut raft = leader(&[1]);
    acknowledge(&mut raft, TWO, 2, 2);
    acknowledge(&mut raft, THREE, 2, 2);
    assert_eq!(raft.commit_index(), LogIndex(2));
    assert_eq!(raft.durable_index(), LogIndex(1));
}

/// The ABA of late acknowledgements: written, replaced, and written again, the same term and
/// index are durable only when the last write is.
#[test]
fn a_late_acknowledgement_does_not_speak_for_a_later_write_of_the_same_entry() {
    let mut raft = replica(1, &[1]);
    step(&mut raft, TWO, append(2, (1, 1), 1, 0), &entries(&[2]));
    let first_write = raft.write_sequence();
    step(&mut raft, THREE, append(3, (1, 1), 1, 0), &entries(&[3]));
    step(&mut raft, TWO, append(4, (1, 1), 1, 0), &entries(&[2]));
    assert_eq!(raft.term_at(LogIndex(2)), Some(Term(2)));
    raft.on_persisted(Time(20), first_write, &mut Output::default());
    assert_eq!(raft.durable_index(), LogIndex(1));
    raft.on_persisted(Time(21), raft.write_sequence(), &mut Output::default());
    assert_eq!(raft.durable_index(), LogIndex(2));
}

/// Thesis 10.2.1: entries leave in the call that accepted them, no heartbeat involved
/// and before the leader's own write is durable.
#[test]
fn entries_leave_in_the_call_that_proposed_them() {
    let mut raft = leader(&[]);
    acknowledge(&mut raft, TWO, 2, 1);
    acknowledge(&mut raft, THREE, 2, 1);
    let mut output = Output::default();
    let proposed = raft
        .propose(Time(20), &entries(&[0, 0]), &mut output)
        .expect("the leader");
    assert_eq!(
        (proposed.first_index, proposed.term),
        (LogIndex(2), Term(2))
    );
    let to: Vec<NodeId> = output.messages.iter().map(|outgoing| outgoing.to).collect();
    assert_eq!(to, [TWO, THREE]);
    assert!(
        output
            .messages
            .iter()
            .all(|outgoing| !outgoing.after_persist)
    );
}

/// Windows: messages in flight are bounded, and answers open the window again.
#[test]
fn a_full_window_holds_entries_back_until_an_answer_comes() {
    let mut raft = leader(&[]);
    acknowledge(&mut raft, TWO, 2, 1);
    let mut output = Output::default();
    raft.propose(Time(20), &entries(&[0; 20]), &mut output)
        .expect("the leader");
    let to_two = |output: &Output| output.messages.iter().filter(|it| it.to == TWO).count();
    assert_eq!(to_two(&output), 2, "two messages of three entries");
    assert_eq!(to_two(&acknowledge(&mut raft, TWO, 2, 4)), 1);
}

/// Section 6.2: a leader that hears from no quorum for an election timeout steps down.
#[test]
fn a_leader_cut_off_from_a_quorum_steps_down_and_refuses_proposals() {
    let mut raft = leader(&[]);
    let mut output = Output::default();
    raft.tick(Time(5_000), &mut output);
    assert!(!raft.is_leader());
    let refused = raft.propose(Time(5_001), &entries(&[0]), &mut output);
    assert_eq!(refused, Err(ProposeRejection::NotLeader { leader: None }));
}

/// Section 3.10: the target is brought up to date, told to campaign, and wins at once.
#[test]
fn leadership_is_transferred_without_waiting_for_a_timeout() {
    let mut cluster = Cluster::new(3, 1);
    cluster.call(ONE, &[], |raft, now, output| raft.campaign(now, output));
    cluster.settle();
    cluster.propose(ONE, 5);
    cluster.call(ONE, &[], |raft, now, output| {
        raft.transfer_leadership(now, THREE, output)
            .expect("a voter");
    });
    cluster.settle();
    assert!(cluster.raft(3).is_leader() && !cluster.raft(1).is_leader());
    assert_eq!(cluster.raft(3).commit_index(), LogIndex(7));
}

/// A replica whose disk lost something durable follows, and promises nothing.
#[test]
fn a_tainted_replica_neither_votes_nor_campaigns() {
    let membership = Membership::of_voters(&[ONE, TWO, THREE]);
    let boot = Boot {
        membership,
        tainted: true,
        ..Boot::default()
    };
    let mut raft = Raft::new(config(ONE, 7), boot, Time(0));
    assert!(!granted(&step(
        &mut raft,
        TWO,
        request_vote(1, (0, 0), VoteKind::PreVote),
        &[]
    )));
    assert!(!granted(&step(
        &mut raft,
        TWO,
        request_vote(1, (0, 0), VoteKind::Vote),
        &[]
    )));
    let mut output = Output::default();
    raft.campaign(Time(9_000), &mut output);
    assert_eq!(output, Output::default());
    assert_eq!(raft.next_deadline(), Time(u64::MAX));
}

/// Compaction forgets entries and keeps the place they ended.
#[test]
fn a_compacted_log_goes_on_from_where_it_was_cut() {
    let mut raft = replica(2, &[1, 1, 2, 2]);
    step(&mut raft, TWO, append(2, (4, 2), 0, 4), &[]);
    raft.on_applied(LogIndex(3));
    raft.compact(LogIndex(4));
    raft.check_invariants();
    assert_eq!(raft.compacted(), EntryId::new(LogIndex(3), Term(2)));
    assert_eq!(
        (raft.term_at(LogIndex(2)), raft.term_at(LogIndex(4))),
        (None, Some(Term(2)))
    );
    let output = step(
        &mut raft,
        TWO,
        append(2, (1, 1), 4, 4),
        &entries(&[1, 2, 2, 2]),
    );
    assert_eq!(accepted(&output), Some(5));
}

/// Whatever a peer sends, a replica neither panics nor promises.
#[test]
fn malformed_messages_are_ignored() {
    let huge = u64::MAX;
    let mut raft = leader(&[1]);
    assert!(acknowledge(&mut raft, TWO, 2, huge).messages.is_empty());
    assert!(acknowledge(&mut raft, NodeId(99), 2, 1).messages.is_empty());
    step(&mut raft, THREE, append(2, (1, 1), 0, huge), &[]);
    assert!(raft.is_leader(), "nobody else leads in our own term");
    let mut raft = replica(2, &[1]);
    step(
        &mut raft,
        TWO,
        append(2, (huge, 2), 1, huge),
        &entries(&[2]),
    );
    step(&mut raft, TWO, append(2, (1, 1), 7, huge), &entries(&[2]));
    step(
        &mut raft,
        TWO,
        append(2, (1, 1), 2, huge),
        &entries(&[2, 1]),
    );
    step(&mut raft, TWO, append(2, (1, 1), 1, huge), &entries(&[9]));
    assert_eq!(raft.last_index(), LogIndex(1));
}

/// Found by fuzzing (`raft_step`): the last term there is was adopted from a liar; the next
/// campaign stayed in it, and there voted a second time.
#[test]
fn a_term_that_no_election_reaches_is_ignored() {
    let mut raft = replica(2, &[1]);
    for term in [u64::MAX, u64::MAX / 2 + 1] {
        let output = step(&mut raft, TWO, append(term, (1, 1), 0, 0), &[]);
        assert_eq!(output, Output::default());
        let ask = request_vote(term, (9, 9), VoteKind::Vote);
        assert_eq!(step(&mut raft, TWO, ask, &[]), Output::default());
    }
    assert_eq!(raft.current_term(), Term(2));
}

/// Found by fuzzing (`raft_step`): what is committed is not compared, so that a liar could name
/// other terms there, and let entries of an earlier term follow: an assertion ended the process.
#[test]
fn entries_of_an_earlier_term_than_what_is_committed_are_ignored() {
    let mut raft = replica(5, &[1, 5]);
    step(&mut raft, TWO, append(5, (2, 5), 0, 2), &[]);
    assert_eq!(raft.commit_index(), LogIndex(2));
    for (prev, terms) in [((1, 1), &[1, 1][..]), ((1, 0), &[0, 3]), ((2, 0), &[4])] {
        let count = terms.len() as u32;
        let output = step(&mut raft, TWO, append(5, prev, count, 3), &entries(terms));
        assert_eq!(output, Output::default());
    }
    assert_eq!(raft.last_index(), LogIndex(2));
    step(&mut raft, TWO, append(5, (1, 1), 2, 3), &entries(&[5, 5]));
    assert_eq!(raft.commit_index(), LogIndex(3));
}

/// Found by the simulator (seed 798): a leader that told others to compact what its own slow disk
/// did not hold yet could not get it back from anybody after a crash.
#[test]
fn a_leader_counts_its_own_disk_before_it_says_that_everybody_holds_an_entry() {
    let mut raft = leader(&[]);
    acknowledge(&mut raft, TWO, 2, 1);
    acknowledge(&mut raft, THREE, 2, 1);
    assert_eq!(raft.commit_index(), LogIndex(1));
    assert_eq!(raft.replicated_everywhere(), LogIndex(0));
    let sequence = raft.write_sequence();
    raft.on_persisted(Time(20), sequence, &mut Output::default());
    assert_eq!(raft.replicated_everywhere(), LogIndex(1));
}
