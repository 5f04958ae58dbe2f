//! Groups that are made one after the other, beside the work of others.

use pontoon_raft::{GroupId, NodeId};

use super::cluster::{Cluster, poll};
use crate::request::{CreateError, RequestError};

const OTHER: GroupId = GroupId(8);

/// A factory may open a store: many that are asked for together must not hold up the leaders here.
#[test]
fn one_turn_makes_one_group() {
    let mut cluster = Cluster::led_by_first(1);
    let groups = |cluster: &Cluster| cluster.nodes[0].shard.as_ref().unwrap().groups.replicas.len();
    let core = cluster.core(0);
    let make = |number: u64| core.create_group(GroupId(100 + number), "recorder", &[NodeId(1)]);
    let mut made: Vec<_> = (0..10).map(make).collect();
    let mut proposal = cluster.group(0).propose(b"meanwhile".to_vec());
    for turns in 1..=10 {
        cluster.run(1);
        assert_eq!(groups(&cluster), 1 + turns);
    }
    assert!(matches!(poll(&mut proposal), Some(Ok(_))));
    cluster.run(5);
    for answer in &mut made {
        assert_eq!(poll(answer), Some(Ok(())));
    }
}

/// Somebody asks again and again for a group while the disk hangs, and gives up each time.
#[test]
fn creations_that_wait_for_the_disk_are_bounded() {
    let mut cluster = Cluster::led_by_first(1);
    cluster.run(300);
    cluster.nodes[0].disk_is_held = true;
    let ask = |cluster: &mut Cluster| {
        let core = cluster.core(0);
        let asked: Vec<_> =
            (0..1_000).map(|_| core.create_group(OTHER, "recorder", &[NodeId(1)])).collect();
        cluster.run(1);
        asked
    };
    for _ in 0..5 {
        drop(ask(&mut cluster));
    }
    let shard = cluster.nodes[0].shard.as_ref().unwrap();
    let kept = shard.groups.durability.created_waiting();
    assert!(kept <= 1_024, "{kept} answers that nobody waits for");
    let mut waiting: Vec<_> = (0..2).flat_map(|_| ask(&mut cluster)).collect();
    let overloaded = Err(CreateError::Request(RequestError::Overloaded));
    let refused = waiting.iter_mut().filter_map(poll).filter(|answer| *answer == overloaded);
    assert_eq!(refused.count(), 2_000 - 1_024);
    cluster.nodes[0].disk_is_held = false;
    cluster.release(0);
    cluster.run(5);
    assert_eq!(waiting.iter_mut().take(1_000).filter_map(poll).count(), 1_000);
}
