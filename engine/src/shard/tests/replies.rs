//! What machines reply is bounded, and whoever does not get it is told that the command is applied.

use super::cluster::{Cluster, GROUP, Settings, poll};
use crate::outcome::{Outcome, Proposal, ProposeError, Rejection};

fn reply_with(cluster: &Cluster, bytes: usize) {
    cluster.nodes[0].journal.borrow_mut().reply_bytes = Some(bytes);
}

/// Proposes as much as is taken without a turn, which is at most `most`.
fn propose(cluster: &mut Cluster, most: usize) -> Vec<Proposal> {
    let group = cluster.group(0);
    (0..most).map(|_| group.propose(vec![5; 10])).collect()
}

/// The limit that dropped a reply.
fn dropped_at(outcome: &Outcome) -> Option<&'static str> {
    match outcome {
        Err(ProposeError::ReplyDropped { limit, .. }) => Some(limit),
        _ => None,
    }
}

#[test]
fn a_reply_that_is_too_large_is_dropped_and_its_command_said_to_be_applied() {
    let mut cluster = Cluster::led_by_first(3);
    reply_with(&cluster, 8 << 10);
    let proposal = cluster.group(0).propose(b"fits".to_vec());
    assert_eq!(cluster.wait(proposal).unwrap().reply.len(), 8 << 10);
    reply_with(&cluster, (8 << 10) + 1);
    let proposal = cluster.group(0).propose(b"large".to_vec());
    let told = cluster.wait(proposal).unwrap_err();
    let index = cluster.status(0).unwrap().last_applied;
    let dropped = ProposeError::ReplyDropped {
        index,
        bytes: (8 << 10) + 1,
        limit: "limits.reply_bytes_max",
    };
    assert_eq!(told, dropped);
    assert!(told.to_string().starts_with("applied at"), "{told}");
    assert_eq!(cluster.applied(0), [b"fits".to_vec(), b"large".to_vec()]);
    cluster.run(200);
    assert_eq!(cluster.applied(1), cluster.applied(0));
}

/// Sixty-four commands of a few bytes, answered in one turn with 6,000 bytes each: more than there
/// is room for. Every one of them is applied, and has an outcome that says so.
#[test]
fn replies_that_nobody_takes_are_bounded_together() {
    let mut settings = Settings::USUAL;
    // One group may have half of the places.
    settings.inbox.proposals_max = 128;
    let mut cluster = Cluster::led_by_first_with(1, settings);
    reply_with(&cluster, 6_000);
    let mut proposals = propose(&mut cluster, 64);
    cluster.until("all are applied", |cluster| cluster.applied(0).len() == 64);
    // Replies that wait keep proposals out, without hanging anybody.
    let refused = cluster.group(0).propose(b"more".to_vec());
    let limit = "limits.proposals_pending_bytes_max";
    assert_eq!(cluster.wait(refused), Err(Rejection::Overloaded { limit }.into()));
    let outcomes = proposals.iter_mut().map(|proposal| poll(proposal).expect("answered"));
    let outcomes: Vec<Outcome> = outcomes.collect();
    let given: usize = outcomes.iter().flatten().map(|applied| applied.reply.len()).sum();
    // 64 KiB and 16 KiB are the limits.
    assert!((72_000..=80 << 10).contains(&given), "{given} bytes");
    let limit = Some("limits.replies_pending_bytes_max");
    let dropped = outcomes.iter().filter(|outcome| dropped_at(outcome) == limit).count();
    assert_eq!(dropped + given / 6_000, 64);
    // What was taken makes room again.
    let proposal = cluster.group(0).propose(b"more".to_vec());
    assert_eq!(cluster.wait(proposal).unwrap().reply.len(), 6_000);
}

/// Who gives up on a reply gives back its room, whether the reply is there or still to come.
#[test]
fn replies_of_proposals_that_were_dropped_hold_nothing() {
    let mut cluster = Cluster::led_by_first(1);
    reply_with(&cluster, 6_000);
    for _ in 0..50 {
        drop(propose(&mut cluster, 5));
        let late = propose(&mut cluster, 5);
        cluster.run(3);
        drop(late);
    }
    cluster.until("all are applied", |cluster| cluster.applied(0).len() == 500);
    let status = cluster.status_of(0, GROUP).unwrap();
    let proposal = cluster.group(0).propose(b"more".to_vec());
    let applied = cluster.wait(proposal).unwrap();
    assert_eq!((applied.index, applied.reply.len()), (status.last_index.next(), 6_000));
}
