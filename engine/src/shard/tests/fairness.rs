//! What one turn does at most, so that nobody waits for thousands of others.

use pontoon_raft::{GroupId, NodeId};

use super::cluster::{Cluster, poll};

/// Six hundred groups whose leader is gone campaign at once: in turns of a bounded number, between
/// which what arrives for others is taken.
#[test]
fn a_turn_ticks_a_bounded_number_of_groups_and_the_next_ones_the_rest() {
    let mut cluster = Cluster::new(2);
    cluster.power_off(1);
    let shard = cluster.nodes[0].shard.as_mut().expect("it runs");
    shard.groups.config.groups_max = 600;
    let members = [1, 2].map(NodeId);
    for group in 1..=600 {
        let core = cluster.core(0);
        let mut made = core.create_group(GroupId(group), "recorder", &members);
        cluster.until("the group is made", |_| poll(&mut made).is_some());
    }
    cluster.now = cluster.now.after(10_000_000_000);
    let mut overdue = 600;
    for turn in 1.. {
        cluster.turn(0);
        let now = cluster.now;
        let shard = cluster.nodes[0].shard.as_ref().expect("it runs");
        let is_overdue = |group: &u64| {
            let replica = shard.groups.replica(GroupId(*group)).expect("it was made");
            replica.raft.next_deadline() <= now
        };
        let left = (1..=600).filter(is_overdue).count();
        assert!((1..=256).contains(&(overdue - left)), "turn {turn}: {left} of {overdue} left");
        overdue = left;
        if overdue == 0 {
            break;
        }
    }
}
