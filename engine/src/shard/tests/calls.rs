//! What a core answers to whoever asks.

use pontoon_raft::{GroupId, NodeId};

use super::cluster::{Cluster, GROUP, poll};
use crate::request::{CampaignError, RequestError};

#[test]
fn a_leader_is_told_to_whoever_waits_once_it_is_known() {
    let mut cluster = Cluster::new(3);
    cluster.create(GROUP);
    let mut waiting = [0, 1, 2].map(|node| cluster.group(node).leader());
    let mut given_up = cluster.group(0).leader();
    cluster.run(1);
    assert!(waiting.iter_mut().all(|leader| poll(leader).is_none()), "nobody leads yet");
    assert_eq!(poll(&mut given_up), None);
    drop(given_up);
    cluster.elect(1);
    cluster.run(200);
    for leader in &mut waiting {
        assert_eq!(poll(leader), Some(Ok(NodeId(2))));
    }
    let mut at_once = cluster.group(2).leader();
    cluster.run(1);
    assert_eq!(poll(&mut at_once), Some(Ok(NodeId(2))));
}

#[test]
fn a_group_that_is_not_here_is_named_so() {
    let mut cluster = Cluster::led_by_first(1);
    let nowhere = cluster.other_group(0, GroupId(99));
    let mut status = nowhere.status();
    let mut leader = nowhere.leader();
    let mut campaign = nowhere.campaign();
    cluster.run(1);
    assert_eq!(poll(&mut status), Some(Err(RequestError::UnknownGroup)));
    assert_eq!(poll(&mut leader), Some(Err(RequestError::UnknownGroup)));
    let unknown = CampaignError::Request(RequestError::UnknownGroup);
    assert_eq!(poll(&mut campaign), Some(Err(unknown)));
}

#[test]
fn a_campaign_says_that_it_has_begun() {
    let mut cluster = Cluster::led_by_first(3);
    let mut of_leader = cluster.group(0).campaign();
    let mut of_follower = cluster.group(1).campaign();
    cluster.run(1);
    assert_eq!(poll(&mut of_leader), Some(Ok(())), "it leads");
    assert_eq!(poll(&mut of_follower), Some(Ok(())), "it campaigns");
}

#[test]
#[should_panic(expected = "polled after")]
fn a_proposal_gives_its_outcome_once() {
    let cluster = Cluster::led_by_first(1);
    let mut proposal = cluster.group(0).propose(vec![1; 8 << 10]);
    assert!(poll(&mut proposal).is_some_and(|outcome| outcome.is_err()), "it is too large");
    let _ = poll(&mut proposal);
}

#[test]
fn a_rejected_command_comes_back() {
    let mut cluster = Cluster::led_by_first(3);
    let mut elsewhere = cluster.group(1).propose(vec![5; 100]);
    cluster.run(2);
    assert!(poll(&mut elsewhere).is_some_and(|outcome| outcome.is_err()));
    assert_eq!(elsewhere.into_rejected(), Some(vec![5; 100]));
    let mut applied = cluster.group(0).propose(vec![6; 100]);
    cluster.until("it is applied", |_| poll(&mut applied).is_some());
    assert_eq!(applied.into_rejected(), None);
}
