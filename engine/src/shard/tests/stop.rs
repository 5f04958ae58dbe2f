//! A node that stops hands over what it leads, and ends within a bound.

use pontoon_raft::RoleName;

use super::cluster::{Cluster, GROUP, poll, shard_config};
use crate::outcome::{ProposeError, Unknown};
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
