//! What a core answers to whoever asks.

use pontoon_raft::{GroupId, NodeId};

use super::cluster::{Cluster, GROUP, poll};
use super::lines::warnings;
use crate::outcome::{ProposeError, Rejection, Unknown};
use crate::reason::DropReason;
use crate::request::{CampaignError, CreateError, RequestError};

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

/// A mistyped id counted for the majority of a group that could never be led, nor removed.
#[test]
fn a_member_that_nobody_knows_is_refused_by_name() {
    let mut cluster = Cluster::new(3);
    let core = cluster.core(0);
    let mut mistyped = core.create_group(GROUP, "recorder", &[1, 2, 33].map(NodeId));
    let mut right = core.create_group(GROUP, "recorder", &[1, 2, 3].map(NodeId));
    cluster.run(1);
    let refused = poll(&mut mistyped).expect("it is answered").expect_err("nobody is node 33");
    let member = NodeId(33);
    assert_eq!(refused, CreateError::UnknownMember { group: GROUP, member });
    assert!(refused.to_string().contains("node 33") && refused.to_string().contains("peers"));
    cluster.until("it is made", |_| poll(&mut right) == Some(Ok(())));
}

/// Node 1 made the group for itself alone, and leads it; so does one of the others for all three.
#[test]
fn members_that_differ_between_nodes_are_told_on_the_node_that_knows_fewer() {
    let mut cluster = Cluster::new(3);
    let members = [&[1][..], &[1, 2, 3], &[1, 2, 3]];
    let lines = warnings(|| {
        for (node, members) in members.into_iter().enumerate() {
            let members: Vec<_> = members.iter().copied().map(NodeId).collect();
            let mut made = cluster.core(node).create_group(GROUP, "recorder", &members);
            cluster.until("it is made", |_| poll(&mut made) == Some(Ok(())));
        }
        cluster.run(5_000);
    });
    let told: Vec<_> = lines.iter().filter(|line| line.contains("no member of a group")).collect();
    assert!(!told.is_empty(), "{lines:?}");
    for word in ["node=1", "peer=2", "group=7", "members=[NodeId(1)]"] {
        assert!(told[0].contains(word), "{word}: {told:?}");
    }
    let mut status = cluster.group(0).status();
    cluster.run(1);
    let status = poll(&mut status).expect("it is answered").expect("it is there");
    assert_eq!(status.strangers, [NodeId(2), NodeId(3)]);
    // It leads a group of its own, and the others never met all members of theirs.
    for node in [1, 2] {
        let waits = cluster.status(node).unwrap();
        assert_eq!((waits.leader, waits.awaits), (None, vec![NodeId(1)]));
    }
    let dropped = cluster.dropped(0, DropReason::NotAMember);
    assert!(dropped > 1, "{dropped} messages");
}

/// A creation under way was told that the node had stopped, a hand-over that it did not lead, and
/// the status was given as if nothing had happened.
#[test]
fn a_core_whose_log_failed_says_so_to_whoever_waits_and_whoever_asks() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.create(GroupId(9));
    cluster.run(5);
    cluster.nodes[0].disk_is_held = true;
    let (group, core) = (cluster.group(0), cluster.core(0));
    let members = cluster.members();
    let mut created = core.create_group(GroupId(8), "recorder", &members);
    let mut unled = cluster.other_group(0, GroupId(9)).leader();
    let mut proposal = group.propose(vec![1]);
    cluster.turn(0);
    assert_eq!((poll(&mut created), poll(&mut unled)), (None, None));
    cluster.fail_writes(0, libc::EIO);
    let mut status = group.status();
    let mut late = group.propose(vec![2]);
    cluster.turn(0);
    let failed = RequestError::Failed;
    assert_eq!(poll(&mut created), Some(Err(failed.into())));
    assert_eq!(poll(&mut unled), Some(Err(failed)));
    let unknown = Err(ProposeError::Unknown(Unknown::Failed));
    assert_eq!(poll(&mut proposal), Some(unknown));
    assert_eq!(poll(&mut status), Some(Err(failed)));
    let rejected = Err(ProposeError::Rejected(Rejection::Failed));
    assert_eq!(poll(&mut late), Some(rejected.clone()));

    let mut again = core.create_group(GroupId(8), "recorder", &members);
    let mut transferred = group.transfer_leadership(NodeId(2));
    let mut campaign = group.campaign();
    assert_eq!(poll(&mut again), Some(Err(failed.into())));
    assert_eq!(poll(&mut group.status()), Some(Err(failed)));
    assert_eq!(poll(&mut group.leader()), Some(Err(failed)));
    assert_eq!(poll(&mut transferred), Some(Err(failed.into())));
    assert_eq!(poll(&mut campaign), Some(Err(failed.into())));
    assert_eq!(poll(&mut group.propose(vec![3])), Some(rejected));
    core.stop();
    cluster.turn(0);
    assert!(cluster.nodes[0].shard.as_ref().unwrap().stopped(), "it is told all the same");
}
