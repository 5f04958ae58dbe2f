//! The protocol at the level of the public API: the seed's two questions, and the usual life.

use pontoon_raft::{GroupId, LogIndex, NodeId, RoleName};

use super::cluster::{Cluster, GROUP, poll};
use crate::machine::Event;
use crate::outcome::{ProposeError, Rejection, Unknown};

#[test]
fn a_proposal_is_applied_on_every_node_and_answered_with_the_machines_reply() {
    let mut cluster = Cluster::led_by_first(3);
    let proposal = cluster.group(0).propose(b"abc".to_vec());
    let applied = cluster.wait(proposal).unwrap();
    assert_eq!(applied.reply, b"cba");
    assert_eq!(
        applied.index,
        LogIndex(2),
        "behind the leader's empty entry"
    );
    cluster.until("all have applied it", |cluster| {
        (0..3).all(|node| cluster.applied(node) == [b"abc"])
    });
}

/// The seed's first question: does a new entry wait for the next heartbeat? It leaves in the turn
/// that accepted it, while the leader's own disk still works on it.
#[test]
fn an_entry_leaves_in_the_turn_that_accepted_it() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.run(250);
    for node in 0..3 {
        cluster.nodes[node].disk_is_held = true;
    }
    let last = cluster.status(0).unwrap().last_index;
    let proposal = cluster.group(0).propose(b"now".to_vec());
    // No time passes, so no heartbeat is due.
    cluster.turn(0);
    assert_eq!(cluster.status(0).unwrap().last_index, last.next());
    assert!(cluster.status(0).unwrap().durable_index <= last);
    for follower in [1, 2] {
        cluster.turn(follower);
        let status = cluster.status(follower).unwrap();
        assert_eq!(status.last_index, last.next(), "in the same turn");
        assert!(status.durable_index <= last, "its disk is held");
    }
    // Both followers' disks make a majority, without the leader's own.
    for follower in [1, 2] {
        cluster.release(follower);
        cluster.turn(follower);
    }
    let mut proposal = proposal;
    assert_eq!(poll(&mut proposal), None);
    cluster.turn(0);
    assert!(poll(&mut proposal).unwrap().is_ok());
    assert!(cluster.status(0).unwrap().durable_index <= last);
}

/// The seed's second question: is an entry of an earlier term ever applied? Only once an entry of
/// the leader's own term is committed above it (thesis 3.6.2, figure 3.7).
#[test]
fn an_entry_of_an_earlier_term_is_applied_only_under_one_of_its_own() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.run(250);
    let before = cluster.status(0).unwrap();
    // The leader gives entries to node 1 alone, and is gone before it hears of their fate. They
    // are too large for one message.
    cluster.wire.cut = vec![(0, 2)];
    cluster.nodes[0].disk_is_held = true;
    let group = cluster.group(0);
    let mut proposals: Vec<_> = (0..6).map(|_| group.propose(vec![8; 4000])).collect();
    cluster.turn(0);
    cluster.turn(1);
    cluster.power_off(0);
    cluster.run(2);
    let (first_old, last_old) = (before.last_index.next(), before.last_index.plus(6));
    assert_eq!(cluster.status(1).unwrap().last_index, last_old);
    assert!(proposals.iter_mut().all(|p| poll(p).unwrap().is_err()));
    // Node 1 leads in a later term, and replicates them a message at a time.
    drop(cluster.group(1).campaign());
    let own = last_old.next();
    let mut counted = false;
    cluster.until("node 1 has committed an entry of its own", |cluster| {
        let leader = cluster.status(1).unwrap();
        let matched = leader.peers.iter().find(|peer| peer.id == NodeId(3));
        let matched = matched.map_or(LogIndex(0), |peer| peer.match_index);
        if leader.commit_index < own {
            // Some are on a majority's disks, and still not committed, let alone applied.
            counted |= matched >= first_old && matched < own;
            assert_eq!(leader.commit_index, before.commit_index);
            assert!(cluster.applied(1).is_empty() && cluster.applied(2).is_empty());
        }
        leader.commit_index >= own
    });
    assert!(counted, "a majority held entries of the earlier term alone");
    cluster.run(150);
    assert_eq!(cluster.applied(1), vec![vec![8; 4000]; 6]);
    assert_eq!(cluster.applied(2), cluster.applied(1));
}

#[test]
fn a_follower_rejects_proposals_and_names_the_leader() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.run(5);
    let proposal = cluster.group(1).propose(b"x".to_vec());
    let leader = Some(NodeId(1));
    assert_eq!(
        cluster.wait(proposal),
        Err(Rejection::NotLeader { leader }.into())
    );
}

#[test]
fn an_unknown_group_and_a_large_command_are_rejected() {
    let mut cluster = Cluster::led_by_first(1);
    let stranger = cluster.other_group(0, GroupId(99)).propose(vec![]);
    assert_eq!(cluster.wait(stranger), Err(Rejection::UnknownGroup.into()));
    let large = cluster.group(0).propose(vec![0; 5 << 10]);
    assert_eq!(
        cluster.wait(large),
        Err(Rejection::TooLarge {
            bytes: 5 << 10,
            limit: 4 << 10
        }
        .into())
    );
}

#[test]
fn a_full_inbox_and_too_many_pending_bytes_are_overload_at_once() {
    let mut cluster = Cluster::led_by_first(1);
    let group = cluster.group(0);
    let mut proposals: Vec<_> = (0..65).map(|_| group.propose(vec![1])).collect();
    let limit = "limits.requests_waiting_max";
    assert_eq!(
        poll(proposals.last_mut().unwrap()),
        Some(Err(Rejection::Overloaded { limit }.into()))
    );
    cluster.run(3);
    cluster.nodes[0].disk_is_held = true;
    let mut proposals: Vec<_> = (0..40).map(|_| group.propose(vec![0; 4 << 10])).collect();
    cluster.turn(0);
    let outcomes: Vec<_> = proposals.iter_mut().filter_map(poll).collect();
    let limit = "limits.proposals_pending_bytes_max";
    let overloaded = Err(ProposeError::Rejected(Rejection::Overloaded { limit }));
    assert!(outcomes.iter().all(|outcome| *outcome == overloaded));
    assert_eq!(
        outcomes.len(),
        32,
        "15 commands of 4 KiB are less than 64 KiB, and one group may hold half"
    );
}

/// While a batch is on its way the next one gathers; a disk that is slow holds it up no longer than
/// until a quorum of others has the batch.
#[test]
fn requests_gather_while_a_batch_is_on_its_way_and_go_when_it_is_committed() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.run(5);
    cluster.nodes[0].disk_is_held = true;
    let mut first = cluster.group(0).propose(b"first".to_vec());
    cluster.turn(0);
    let last = cluster.status(0).unwrap().last_index;
    let mut second = cluster.group(0).propose(b"second".to_vec());
    cluster.turn(0);
    assert_eq!(cluster.status(0).unwrap().last_index, last, "it waits");
    cluster.until("both are committed by the others", |_| {
        poll(&mut first).is_some() || poll(&mut second).is_some()
    });
    cluster.run(5);
    assert_eq!(cluster.applied(0).len(), 2);
    assert!(cluster.status(0).unwrap().durable_index < last);
}

#[test]
fn leadership_that_is_lost_leaves_proposals_unknown_and_the_machine_is_told() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.run(5);
    cluster.wire.cut = vec![(0, 1), (0, 2)];
    let proposal = cluster.group(0).propose(b"lost?".to_vec());
    assert_eq!(cluster.wait(proposal), Err(Unknown::LeadershipLost.into()));
    let journal = cluster.nodes[0].journal.borrow();
    let stopped = |(_, event): &(u64, Event)| matches!(event, Event::StoppedLeading { .. });
    assert!(journal.events.iter().any(stopped));
}

#[test]
fn a_cut_off_leader_is_replaced_and_the_cluster_agrees_afterwards() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.run(5);
    cluster.wire.cut = vec![(0, 1), (0, 2)];
    let lost = cluster.group(0).propose(b"minority".to_vec());
    cluster.until("another leads", |cluster| {
        [1, 2].iter().any(|&node| {
            let status = cluster.status(node).unwrap();
            status.role == RoleName::Leader
        })
    });
    let leader = [1, 2]
        .into_iter()
        .find(|&node| cluster.status(node).unwrap().role == RoleName::Leader)
        .unwrap();
    let proposal = cluster.group(leader).propose(b"majority".to_vec());
    cluster.wait(proposal).unwrap();
    cluster.wire.cut.clear();
    cluster.until("all agree", |cluster| {
        (0..3).all(|node| cluster.applied(node) == [b"majority"])
    });
    assert!(cluster.wait(lost).is_err());
}

#[test]
fn many_groups_share_one_log_and_one_connection() {
    let mut cluster = Cluster::led_by_first(3);
    for group in 100..110 {
        cluster.create(GroupId(group));
        drop(cluster.other_group(0, GroupId(group)).campaign());
    }
    cluster.run(10);
    let proposals: Vec<_> = (100..110)
        .map(|group| {
            let command = format!("to {group}").into_bytes();
            cluster.other_group(0, GroupId(group)).propose(command)
        })
        .collect();
    for proposal in proposals {
        cluster.wait(proposal).unwrap();
    }
    cluster.run(150);
    for group in 100..110 {
        for node in 0..3 {
            let expected = format!("to {group}").into_bytes();
            assert_eq!(cluster.applied_of(node, GroupId(group)), [expected]);
        }
    }
}

#[test]
fn frames_that_arrive_in_pieces_are_put_together() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.send_bytes_max = 7;
    let proposal = cluster.group(0).propose(vec![9; 600]);
    cluster.wait(proposal).unwrap();
    assert_eq!(cluster.applied(0), [vec![9; 600]]);
    let status = cluster.status(0).unwrap();
    assert_eq!(status.current_term.0, 1, "{GROUP} kept its leader");
}

#[test]
fn a_follower_that_lags_is_served_from_the_disk() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.run(5);
    cluster.power_off(2);
    let group = cluster.group(0);
    let expected: Vec<Vec<u8>> = (0..200_u32)
        .map(|number| number.to_le_bytes().repeat(100))
        .collect();
    for command in &expected {
        let proposal = group.propose(command.clone());
        cluster.wait(proposal).unwrap();
    }
    cluster.power_on(2);
    cluster.until("it has caught up", |cluster| {
        cluster.applied(2).len() == expected.len()
    });
    assert_eq!(cluster.applied(2), expected);
    let reads = cluster.nodes[0]
        .shard
        .as_ref()
        .unwrap()
        .statistics()
        .log
        .reads;
    assert!(reads > 0, "80 KiB do not fit a cache of 32 KiB");
}

#[test]
fn leadership_is_handed_over_on_request() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.run(5);
    let mut answer = cluster.group(0).transfer_leadership(NodeId(3));
    cluster.until("node 3 leads", |cluster| {
        cluster.status(2).unwrap().role == RoleName::Leader
    });
    assert_eq!(poll(&mut answer), Some(Ok(())));
}
