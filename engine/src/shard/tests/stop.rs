//! A node that stops hands over what it leads, and ends within a bound.

use pontoon_raft::{GroupId, NodeId, RoleName};

use super::cluster::{Cluster, GROUP, poll, shard_config};
use crate::outcome::{ProposeError, Rejection, Unknown};
use crate::request::RequestError;

fn stopped(cluster: &Cluster, node: usize) -> bool {
    cluster.nodes[node].shard.as_ref().unwrap().stopped()
}

#[test]
fn a_leader_that_stops_hands_over_first() {
    let mut cluster = Cluster::led_by_first(3);
    let proposal = cluster.group(0).propose(b"x".to_vec());
    cluster.wait(proposal).unwrap();
    cluster.core(0).stop();
    cluster.until("node 0 has stopped", |cluster| stopped(cluster, 0));
    cluster.power_off(0);
    let term = |cluster: &Cluster| {
        let terms = [1, 2].map(|node| cluster.status(node).unwrap().current_term);
        terms.into_iter().max()
    };
    let before = term(&cluster);
    cluster.until("another leads", |cluster| {
        [1, 2].iter().any(|node| cluster.status(*node).unwrap().role == RoleName::Leader)
    });
    assert_eq!(term(&cluster), before, "it had campaigned before node 0 was gone");
}

/// Before, it was answered once its shard was dropped, which waits for the disk.
#[test]
fn who_waits_for_a_leader_is_answered_when_the_core_stops() {
    let mut cluster = Cluster::new(3);
    cluster.create(GROUP);
    let mut waiting = cluster.group(0).leader();
    cluster.run(1);
    assert_eq!(poll(&mut waiting), None, "nobody leads yet");
    cluster.core(0).stop();
    cluster.until("node 0 has stopped", |cluster| stopped(cluster, 0));
    assert_eq!(poll(&mut waiting), Some(Err(RequestError::Stopped)));
}

#[test]
fn a_stop_waits_for_nobody_longer_than_an_election_timeout() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.run(5);
    cluster.wire.cut = vec![(0, 1), (0, 2)];
    let mut proposal = cluster.group(0).propose(b"x".to_vec());
    let mut leader = cluster.group(1).leader();
    cluster.run(1);
    cluster.core(0).stop();
    let begun = cluster.now;
    cluster.until("node 0 has stopped", |cluster| stopped(cluster, 0));
    let took = cluster.now.since(begun);
    assert!(took <= 2 * shard_config(0, 3).election_timeout, "{took} ns");
    let unknown = Some(Err(ProposeError::Unknown(Unknown::Stopped)));
    let lost = Some(Err(ProposeError::Unknown(Unknown::LeadershipLost)));
    let outcome = poll(&mut proposal);
    assert!(outcome == unknown || outcome == lost, "{outcome:?}");
    let mut status = cluster.group(0).status();
    assert_eq!(poll(&mut status), Some(Err(RequestError::Stopped)));
    assert!(poll(&mut leader).is_some_and(|leader| leader.is_ok()));
}

/// At the end of a disk that hangs they were answered, ten seconds later.
#[test]
fn who_waits_for_a_group_or_a_leader_is_answered_when_the_core_stops_and_not_after_its_disk() {
    let mut cluster = Cluster::led_by_first(3);
    let alone = GroupId(8);
    cluster.create_on(alone, &[NodeId(1)]);
    cluster.create(GroupId(9));
    cluster.run(5);
    cluster.wire.cut = vec![(0, 1), (0, 2)];
    let mut leader = cluster.other_group(0, GroupId(9)).leader();
    cluster.nodes[0].disk_is_held = true;
    let mut proposal = cluster.other_group(0, alone).propose(b"x".to_vec());
    let members = [NodeId(1)];
    let mut created = cluster.core(0).create_group(GroupId(10), "recorder", &members);
    cluster.run(5);
    assert_eq!((poll(&mut leader), poll(&mut created)), (None, None));
    cluster.core(0).stop();
    cluster.until("node 0 has stopped", |cluster| stopped(cluster, 0));
    let told = RequestError::Stopped;
    assert_eq!(poll(&mut leader), Some(Err(told)));
    assert_eq!(poll(&mut created), Some(Err(told.into())));
    let unknown = Err(ProposeError::Unknown(Unknown::Stopped));
    assert_eq!(poll(&mut proposal), Some(unknown));
}

/// The core is in the middle of a turn: it may hang there, in a state machine, for ever.
#[test]
fn who_waits_for_a_core_that_is_left_behind_is_answered_and_should_it_come_back_it_ends() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.create(GroupId(9));
    cluster.wire.cut = vec![(0, 1), (0, 2)];
    cluster.nodes[0].disk_is_held = true;
    let group = cluster.group(0);
    let mut taken: Vec<_> = (0..3).map(|_| group.propose(b"taken".to_vec())).collect();
    let mut leader = cluster.other_group(0, GroupId(9)).leader();
    let create = |id| cluster.core(0).create_group(GroupId(id), "recorder", &[NodeId(1)]);
    let mut created = create(10);
    cluster.turn(0);
    let mut waits = group.propose(b"waits".to_vec());
    let mut status = group.status();
    let core = cluster.core(0);
    core.stop();
    core.leave_behind();
    let (told, unknown) = (RequestError::Stopped, Err(Unknown::Stopped.into()));
    for proposal in &mut taken {
        assert_eq!(poll(proposal), Some(unknown.clone()));
    }
    let rejected = Some(Err(Rejection::Stopped.into()));
    assert_eq!(poll(&mut waits), rejected);
    assert_eq!(waits.into_rejected(), Some(b"waits".to_vec()));
    assert_eq!(poll(&mut status), Some(Err(told)));
    assert_eq!(poll(&mut leader), Some(Err(told)));
    assert_eq!(poll(&mut created), Some(Err(told.into())));
    assert_eq!(poll(&mut group.propose(b"late".to_vec())), rejected);
    assert_eq!(poll(&mut group.status()), Some(Err(told)));

    cluster.nodes[0].disk_is_held = false;
    cluster.release(0);
    cluster.wire.cut.clear();
    cluster.until("it has stopped", |cluster| stopped(cluster, 0));
    cluster.power_off(0);
    cluster.until("another leads", |cluster| {
        [1, 2].iter().any(|node| cluster.status(*node).unwrap().role == RoleName::Leader)
    });
}
